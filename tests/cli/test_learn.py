"""`counterpoint learn`: a learner of some partitions says what it leaves to others."""

import subprocess
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def test_a_learner_of_some_partitions_names_the_others_and_what_it_cannot_join(tmp_path: Path, redis_url: str) -> None:
    two = ["learn", "--partition", "2", "--partition", "1"]
    places = ["--experiments", str(EXPERIMENTS), "--data", str(tmp_path), "--redis", redis_url]
    with subprocess.Popen(
        [sys.executable, "-m", "engine", *two, *places], stderr=subprocess.PIPE, text=True
    ) as learner:
        assert learner.stderr is not None
        said = learner.stderr.readline()
        learner.terminate()
    assert said.startswith("Learns of partition 1, 2 alone: 0, 3 must have learners of their own")
    assert "Shadow prices are moved by the learner of partition 0." in said
    assert learner.returncode == 0
