"""A PostgreSQL server for tests: Debian's, in a folder of its own, on a socket and a port of its own."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _find(program: str) -> str | None:
    """A program of PostgreSQL; Debian has them outside of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(found[-1]) if found else shutil.which(program)


@contextmanager
def start_postgres() -> Iterator[str]:
    """The address of a server that ends with the block."""
    initdb, postgres = _find("initdb"), _find("postgres")
    if initdb is None or postgres is None:
        if os.environ.get("TOOLS_REQUIRED"):
            pytest.fail("postgresql is not installed, and TOOLS_REQUIRED is set: apt-get install postgresql")
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="pg") as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        root = os.geteuid() == 0
        user = "postgres" if root else pwd.getpwuid(os.geteuid()).pw_name
        if root:  # the server refuses to run as root
            shutil.chown(folder, user)
        as_user = {"user": user, "extra_groups": []} if root else {}
        data = f"{folder}/data"
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run([initdb, "-D", data, *options], check=True, capture_output=True, cwd=folder, **as_user)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [postgres, "-D", data, *given]
        with (
            Path(folder, "log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **as_user) as server,
        ):
            try:
                address = f"postgresql://postgres@127.0.0.1:{port}/postgres"
                _wait(address, server)
                yield address
            finally:
                server.terminate()
                server.wait(60)


def _wait(address: str, server: "subprocess.Popen[bytes]") -> None:
    psycopg = pytest.importorskip("psycopg")
    for _ in range(600):
        assert server.poll() is None, "PostgreSQL did not start"
        try:
            psycopg.connect(address, connect_timeout=5).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("PostgreSQL did not answer within a minute")
