"""The compiled modules decide, explain and log what the pure ones do, bit for bit; skipped where none is built.

`make test-fast` builds them and runs this with more decisions.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policies import joint_draws

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("random_decisions.py")
COUNT = int(os.environ.get("DECISIONS", "4000"))
BUILT = [path for package in ("engine", "policies") for path in (ROOT / package).rglob("*.so")]

needs_build = pytest.mark.skipif(
    not BUILT, reason="no module is compiled; `make test-fast` compiles them and runs this"
)


def run(packages: Path) -> tuple[dict[str, int], list[str]]:
    """The script's output with these packages: how many modules were compiled, and the digests."""
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(COUNT)],
        env=environment,
        cwd=packages,
        capture_output=True,
        check=True,
        text=True,
    )
    head, *digests = done.stdout.splitlines()
    return json.loads(head), digests


@needs_build
def test_compiled_modules_decide_bit_for_bit_as_the_pure_ones(tmp_path: Path) -> None:
    for package in ("engine", "policies", "loadtests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    of_pure, pure = run(tmp_path)
    of_compiled, compiled = run(ROOT)
    assert of_pure["compiled"] == 0
    assert of_compiled["compiled"] == of_compiled["of"]
    assert len(pure) > 1
    assert compiled == pure


@needs_build
def test_the_compiled_loop_of_draws_finds_the_winners_of_the_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joint_draws.best_arms is not None
    random = np.random.default_rng(20261129)
    for number in range(400):
        n, columns = int(random.integers(1, 90)), 95
        standard, common = (random.standard_normal((256, width)).astype(np.float32) for width in (columns, 1))
        mean, spread = (np.abs(random.standard_normal(2 * n)).astype(np.float32)[::2] for _ in range(2))
        if number % 3 == 0:  # equal scores: the first wins
            spread[:], mean[:] = 0, random.integers(0, 2, n)
        elif number % 7 == 0:
            mean[random.integers(n)] = np.nan
        loading = random.standard_normal((n, 1)).astype(np.float32)
        arms = joint_draws.Arms(mean, spread, loading, bool(number % 2))
        with monkeypatch.context() as patched:
            patched.setattr(joint_draws, "best_arms", None)
            expected = joint_draws._winners_of_all(arms, standard, common)
        assert np.array_equal(joint_draws._winners_of_all(arms, standard, common), expected)


@pytest.mark.parametrize("change", ["none", "edited", "deleted"])
def test_a_source_that_changed_after_it_was_compiled_is_refused(tmp_path: Path, change: str) -> None:
    package = tmp_path / "engine"
    package.mkdir()
    for name in ("__init__.py", "compiled.py"):
        shutil.copy(ROOT / "engine" / name, package)
    source = package / "hashing.py"
    source.write_text("x = 1\n")
    state = source.stat()
    (package / "compiled.txt").write_text(f"{state.st_size} {state.st_mtime_ns} engine/hashing.py\n")
    if change == "edited":
        source.write_text("x = 22\n")
    elif change == "deleted":
        source.unlink()
    command = [sys.executable, "-c", "import engine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (change == "none"), done.stderr
    if change != "none":
        assert "engine/hashing.py changed after it was compiled; run `make fast` again, or `make pure`" in done.stderr
