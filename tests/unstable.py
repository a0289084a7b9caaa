"""Run each of the few tests that failed beside others once more, alone: `python -m tests.unstable`.

Tests start real processes, which a busy machine can stop for seconds. A test that also fails alone fails the run, and
so do more than `MOST` failures. One that passes alone is named as unstable, with its first failure above: mend it.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 5
LAST_FAILED = Path(".cache/pytest/v/cache/lastfailed")


def main() -> int:
    """Run the failed tests alone.

    Returns:
        0 if each of them passes, otherwise 1.
    """
    failed = sorted(json.loads(LAST_FAILED.read_text())) if LAST_FAILED.exists() else []
    if not 0 < len(failed) <= MOST:
        return 1
    for test in failed:
        done = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", test], check=False)
        if done.returncode != 0:
            return 1
        sys.stdout.write(f"UNSTABLE: {test} failed beside other tests and passes alone\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
