"""A/A tests of a placement's log: halves of its customers, who return and learn a policy together, do not differ."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.analysis import aa_placement
from engine.analysis.checks.random_splits import Rate
from engine.analysis.stats.estimate import NotEstimable
from engine.cli.report_options import SplitOptions
from engine.cli.reports import aa
from engine.errors import BadInput
from tests.statistical.bandit_worlds import WORLDS, simulate

Write = Callable[..., Path]
SHOP = Path("experiments")


def logged(world: str, seed: int, key: str = "hero") -> dict[str, list[dict[str, object]]]:
    """The tables of one simulated log; decisions are a second apart, and rewards come at once."""
    logs = simulate(WORLDS[world], 1, np.random.default_rng(seed))
    tables: dict[str, list[dict[str, object]]] = {"decisions": [], "exposures": [], "rewards": []}
    names = [f"offer{at}" for at in range(len(WORLDS[world].base))]
    for at in range(logs.arm.shape[1]):
        base = {"decision_id": f"d{at}", "time": float(at), "key": key}
        who = {"customer": f"c{logs.customer[0, at]}"}
        chosen = {"variant": names[logs.arm[0, at]], "propensity": float(logs.propensity[0, at]), "candidates": names}
        policy = ("hero@1", "other@1", "uniform")[logs.policy[0, at]]
        tables["decisions"].append({**base, **who, **chosen, "policy": policy, "kind": "offer", "reason": "policy"})
        tables["exposures"].append({**base, **who})
        tables["rewards"].append({**base, "reward": float(logs.reward[0, at])})
    return tables


@pytest.mark.parametrize("world", ["strong tastes", "uniform slice of 20 %", "two policies interleaved"])
def test_halves_of_the_customers_of_an_adaptive_log_do_not_differ(write_log: Write, world: str) -> None:
    checks = aa_placement(write_log(**logged(world, 31)), "hero", runs=200)
    assert [check.metric for check in checks] == ["offer0", "offer1", "offer2"]
    for check in checks:
        assert check.units == 150
        assert isinstance(check.false_positives, Rate)
        assert check.false_positives.share <= 0.05 + 4 * (0.05 * 0.95 / 200) ** 0.5


def test_the_command_splits_a_placement_and_refuses_what_it_has_not(
    write_log: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(**logged("strong tastes", 32, "home_hero"))
    aa("home_hero", log=log, experiments=SHOP, runs=20, json=True)
    found = msgspec.json.decode(capsys.readouterr().out)
    assert {check["metric"] for check in found["checks"]} == {"offer0", "offer1", "offer2"}
    with pytest.raises(BadInput, match="--looks: only reports of experiments take this, and home_hero is a placement"):
        aa("home_hero", log=log, experiments=SHOP, splits=SplitOptions(looks=3))
    few = {
        name: [row for row in rows if str(row["decision_id"]) < "d2"]
        for name, rows in logged("late rewards", 3).items()
    }
    (check, *_) = aa_placement(write_log(**few), "hero", runs=5)
    assert isinstance(check.false_positives, NotEstimable | Rate)
