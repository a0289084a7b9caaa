"""Schemathesis over the OpenAPI document of a server that runs on the repository's shop, with every check.

    python -m loadtests.openapi_fuzz [--minutes M] [--seed N] [--command FILE] [--keys]

It starts `counterpoint up` on a real store, without keys or with one, and sends random requests, right and wrong, to
every operation but the stream of notices, which does not end. Exits with 1 if an answer is not as the document says.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.processes import counterpoint_command
from loadtests.servers import wait_until_ready

ROOT = Path(__file__).resolve().parents[1]
STREAM = "/ofrep/v1/stream"
KEY = "ak-of-the-fuzzer"
NO_LIMIT = "1000000000"


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> int:
    """Run it; the exit code is that of schemathesis."""
    parser = argparse.ArgumentParser(description="schemathesis over the OpenAPI document of a running server")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--command", default="schemathesis")
    parser.add_argument("--keys", action="store_true", help="ask with a key, and check that others are refused")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        base = f"http://127.0.0.1:{port}"
        words = ("up", "--experiments", str(ROOT / "experiments"), "--data", folder, "--port", str(port))
        # A machine that is busy with the fuzzer itself must not make the store seem away.
        environment = {**os.environ, "COUNTERPOINT_STORE_TIMEOUT": "5", "COUNTERPOINT_EVENT_TIMEOUT": "20"}
        if arguments.keys:
            # The fuzzer guesses a key per operation, from one address: a 429 would hide what a wrong key is answered.
            keys = Path(folder) / "keys.yaml"
            keys.write_text(f"keys: [{{name: fuzzer, role: admin, key: {KEY}}}]")
            environment |= {"COUNTERPOINT_API_KEYS": str(keys), "COUNTERPOINT_KEY_GUESSES": NO_LIMIT}
        with (Path(folder) / "server.log").open("wb") as log:
            server = subprocess.Popen(counterpoint_command(*words), env=environment, stdout=log, stderr=log)
        try:
            wait_until_ready(base)
            run = [arguments.command, "run", f"{base}/docs/openapi.json", "--checks", "all", "--continue-on-failure"]
            run += ["--max-time", f"{60 * arguments.minutes:.0f}", "--exclude-path", STREAM, "--no-color"]
            run += ["--generation-database", "none", "--suppress-health-check", "too_slow", "--request-timeout", "60"]
            run += ["--seed", str(arguments.seed)] if arguments.seed is not None else []
            run += ["--header", f"Authorization: Bearer {KEY}"] if arguments.keys else []
            return subprocess.run(run, check=False).returncode
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
