"""`counterpoint learn`: a learner names what it leaves to others, and two never learn the same partition."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from engine.catalog.archive import Archive
from engine.catalog.watch import PlanWatch
from engine.learn.loop import lock_partitions

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def learner(data: Path, url: str, *words: str, experiments: Path = EXPERIMENTS) -> "subprocess.Popen[str]":
    places = ["--experiments", str(experiments), "--data", str(data), "--redis", url]
    return subprocess.Popen(
        [sys.executable, "-m", "engine", "learn", *words, *places], stderr=subprocess.PIPE, text=True
    )


def first_line(one: "subprocess.Popen[str]") -> str:
    assert one.stderr is not None
    return one.stderr.readline()


def test_a_learner_of_some_partitions_names_the_others_and_what_it_cannot_join(tmp_path: Path, redis_url: str) -> None:
    with learner(tmp_path, redis_url, "--partition", "2", "--partition", "1") as one:
        output = first_line(one)
        one.terminate()
    assert output.startswith("Teaching partition 1, 2 only: 0, 3 need learners of their own")
    assert "The learner of partition 0 moves the shadow prices and tests the guardrails." in output
    assert one.returncode == 0


def test_a_second_learner_of_a_data_folder_waits_and_takes_the_place_of_the_first(
    tmp_path: Path, redis_url: str
) -> None:
    with lock_partitions(tmp_path, [3]) as alone:
        assert alone
        with learner(tmp_path, redis_url) as second:
            assert "another learner uses the data folder; waiting" in first_line(second)
            second.terminate()
        assert second.returncode == 0
        assert not list((tmp_path / "learn").glob("*.sqlite"))
    with learner(tmp_path, redis_url) as first:
        while not list((tmp_path / "learn").glob("*.sqlite")):
            time.sleep(0.05)
        with lock_partitions(tmp_path, [1]) as alone:
            assert not alone
        first.kill()
    with lock_partitions(tmp_path, range(4)) as alone:
        assert alone


def test_a_learner_that_starts_on_a_broken_folder_learns_by_the_plan_that_ran_last(
    tmp_path: Path, redis_url: str
) -> None:
    folder = shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    PlanWatch(folder, Archive(tmp_path / "plans"))
    (folder / "layers.yaml").write_text("layers: [\n")
    for words, warnings in ((), 1), (("--quiet",), 0):
        shutil.rmtree(tmp_path / "learn", ignore_errors=True)
        with learner(tmp_path, redis_url, *words, experiments=folder) as one:
            while one.poll() is None and not list((tmp_path / "learn").glob("*.sqlite")):
                time.sleep(0.05)
            one.terminate()
            assert one.stderr is not None
            output = one.stderr.read()
        assert one.returncode == 0, output
        assert output.count("plan rejected; the running plan is unchanged") == warnings
