import csv
import random
import threading
from pathlib import Path

import pytest

from engine.catalog import load_plan
from engine.errors import BadInput
from engine.settings import Settings
from engine.traffic.obd_replay import PLACEMENT, matches_needed, read_rounds, replay_obd, write_plan

ROUNDS = 400
ITEMS = 3


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "obd"
    (folder / "random" / "all").mkdir(parents=True)
    chance = random.Random(3)
    with (folder / "random" / "all" / "all.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        features = [f"user_feature_{n}" for n in range(4)]
        lines.writerow(["", "timestamp", "item_id", "position", "click", "propensity_score", *features])
        for number in range(ROUNDS):
            item = chance.randrange(ITEMS)
            time = f"2019-11-24 00:{number // 60:02}:{number % 60:02}+00:00"
            row = [number, time, item, chance.randint(1, 3), int(item == 1), 1 / ITEMS]
            lines.writerow([*row, *(f"f{chance.randrange(2)}" for _ in features)])
    return folder


def test_every_round_is_sent_and_the_matching_ones_are_in_the_engines_report(dataset: Path, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", port=0, store_timeout=5.0)
    report = replay_obd(settings, dataset, threading.Event())
    assert (report.rounds, report.arms, report.degraded) == (ROUNDS, ITEMS, 0)
    rounds = read_rounds(dataset / "random" / "all" / "all.csv")
    assert report.log.value == pytest.approx(sum(one.click for one in rounds) / ROUNDS)
    # Uniform logging: a round matches with probability 1/3, whatever the policy; five standard deviations are 47.
    assert abs(report.matched - ROUNDS / ITEMS) < 47
    assert sum(row.exposures for row in report.policies.policies) == report.matched
    assert sum(row.rewards for row in report.policies.policies) == report.clicks > 0
    assert report.learned_snips.value > report.log.value  # it learnt which item is always clicked


def test_a_data_directory_in_use_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "something").touch()
    with pytest.raises(BadInput, match="give a new directory"):
        replay_obd(Settings(data=tmp_path / "data"), dataset, threading.Event())


def test_without_the_dataset_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="make obd"):
        replay_obd(Settings(data=tmp_path / "data"), tmp_path, threading.Event())


def test_a_file_that_is_no_log_of_the_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("timestamp,item_id,position\n")
    with pytest.raises(BadInput, match="'click'"):
        read_rounds(tmp_path / "all.csv")


def test_the_plan_passes_every_check(dataset: Path, tmp_path: Path) -> None:
    rounds = read_rounds(dataset / "random" / "all" / "all.csv")
    plan = load_plan(write_plan(tmp_path / "plan", ["item_0", "item_1", "item_2"], rounds))
    assert plan.policies.keys() == {PLACEMENT, "choice.uniform"}
    assert plan.policies[PLACEMENT].features.dim == 1 + 3 + 4 * 2


def test_matches_needed() -> None:
    # By hand: 0.1 against 0.2, (1.95996 + 0.84162)^2 (0.09 + 0.16) / 0.01 = 196.2.
    assert matches_needed(0.1) == 196
