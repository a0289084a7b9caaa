"""The cost of starting: CPU seconds of `counterpoint --help`, and of `counterpoint up` until it is ready.

    python -m loadtests.startup [--rounds N] [--experiments DIR]

Each round starts fresh processes that run from compiled files. For `up` it adds up the CPU of every process of its tree
twice: when `/readyz` has answered, and when all of them have come to rest. Between the rounds a bare `python -c pass`
with `import litestar` runs, so that figures of unlike machines can be compared. Exits with 1 if a budget is missed.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELP_BUDGET, UP_BUDGET = 0.25, 3.0
"""CPU seconds."""
_TICK = os.sysconf("SC_CLK_TCK")
_REST = 1.0
"""Seconds in which no process uses more than a few ticks, when all have started."""


def command_cpu(*words: str) -> float:
    """CPU seconds of one command that ends by itself."""
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(), cwd=ROOT
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed")
    return usage.ru_utime + usage.ru_stime


def up_cpu(experiments: Path) -> tuple[dict[str, float], dict[str, float], float]:
    """CPU seconds by process when ready and at rest, and the wall seconds until ready."""
    with tempfile.TemporaryDirectory() as data:
        begun = time.perf_counter()
        words = ["-m", "engine", "up", "--port", "0", "--data", data, "--experiments", str(experiments)]
        process = subprocess.Popen(
            [sys.executable, *words], stderr=subprocess.PIPE, text=True, env=_environment(), cwd=ROOT
        )
        try:
            for line in process.stderr or ():
                if "answers at" in line:
                    break
            else:
                sys.exit("up ended before it was ready")
            wall, ready = time.perf_counter() - begun, _tree_cpu(process.pid)
            rest = ready
            while True:
                time.sleep(_REST)
                now = _tree_cpu(process.pid)
                if sum(now.values()) - sum(rest.values()) < 0.1 * _REST * len(now):
                    return ready, now, wall
                rest = now
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def _environment() -> dict[str, str]:
    """An environment in which Python compiles its imports once."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _tree_cpu(root: int) -> dict[str, float]:
    """CPU seconds of a process and all its descendants, by command."""
    used: dict[str, float] = {}
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += parents.get(pid, [])
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        name = next((word for word in words[2:] if word in {"up", "serve", "learn", "collect"}), Path(words[0]).name)
        used[name] = used.get(name, 0.0) + sum(map(int, fields[11:15])) / _TICK  # user, system, and of ended children
    return used


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experiments", type=Path, default=ROOT / "experiments")
    asked = parser.parse_args()
    shown, imports, ready, rest, walls = [], [], [], [], []
    for number in range(asked.rounds + 1):
        one = command_cpu("-m", "engine", "--help"), command_cpu("-c", "import litestar"), up_cpu(asked.experiments)
        if number:  # the first round compiles
            shown.append(one[0])
            imports.append(one[1])
            ready.append(one[2][0])
            rest.append(one[2][1])
            walls.append(one[2][2])
    print(f"import litestar      {statistics.median(imports):6.2f} s of CPU, least {min(imports):.2f}")
    print(f"--help               {statistics.median(shown):6.2f} s of CPU, least {min(shown):.2f}")
    for label, rounds in (("up, ready", ready), ("up, at rest", rest)):
        sums = [sum(one.values()) for one in rounds]
        parts = ", ".join(f"{name} {statistics.median(one.get(name, 0.0) for one in rounds):.2f}" for name in rounds[0])
        print(f"{label:20} {statistics.median(sums):6.2f} s of CPU, least {min(sums):.2f} ({parts})")
    print(f"up, ready            {statistics.median(walls):6.2f} s")
    met = statistics.median(shown) <= HELP_BUDGET and statistics.median(sum(one.values()) for one in ready) <= UP_BUDGET
    print(f"{'meets' if met else 'MISSES'} the budgets: {HELP_BUDGET} s, {UP_BUDGET} s")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
