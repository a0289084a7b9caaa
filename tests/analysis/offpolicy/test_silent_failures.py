"""Faults that other libraries pass over are reported: recomputed propensities, wrong ranges, missing features."""

import csv
import fcntl
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from engine.analysis.offpolicy.evaluate import EvaluationReport, evaluate
from engine.analysis.offpolicy.log_checks import check_log
from engine.analysis.offpolicy.policy_value import ValueEstimate
from engine.analysis.render.evaluation import render_evaluation
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput
from tests.analysis.offpolicy.test_evaluate import LEARNS, OBD, Write, logged

Policy = Callable[..., Path]
PRIOR = OBD.parents[4] / "policy/conf/prior_bts.yaml"


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    def write(text: str = "kind: uniform", name: str = "uniform") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


def failed(report: EvaluationReport) -> list[str]:
    return [check.name for check in report.policies[0].checks if not check.ok]


def rendered(report: EvaluationReport, width: int = 100) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render_evaluation(report))
    return capture.get()


@pytest.mark.skipif(not PRIOR.is_file(), reason="`make obd` downloads the dataset")
def test_propensities_of_a_replica_of_zozos_policy_fail_the_check(policy: Policy, tmp_path: Path) -> None:
    """Thompson sampling from the published posteriors, three of 80 items; rare items' probabilities are drawn badly."""
    prior = yaml.safe_load(PRIOR.read_text())["all"]
    rounds = 20_000
    draws = np.random.default_rng(6).beta(prior["alpha"], prior["beta"], (rounds, 80))
    ranked = np.argsort(-draws, axis=1)[:, :3]
    chance = [np.maximum(np.bincount(ranked[:, place], minlength=80), 1) / rounds for place in range(3)]
    with OBD.open() as lines:
        rows = list(csv.DictReader(lines))
    later = tmp_path / "later.csv"
    names = ("timestamp", "item_id", "position", "click", "propensity_score")
    with later.open("w") as lines:
        writer = csv.DictWriter(lines, names, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            p = chance[int(row["position"]) - 1][int(row["item_id"])]
            writer.writerow({**row, "propensity_score": p})
    report = evaluate(later, [policy()])
    one = report.policies[0]
    assert isinstance(one.ips, ValueEstimate)
    assert one.ips.value > 3 * 0.0038  # what uniform logging earned in the same days; 0.0024 by the logged ones
    assert one.mean_weight > 3
    assert "mean weight" in failed(report)
    assert not report.is_estimable
    assert "computed later" in one.verdict.why


def test_rewards_below_zero_teach_as_well_as_others_or_are_refused(write_log: Write, policy: Policy) -> None:
    """A cost given as a reward of -1 to 0: a model of shares would learn nonsense of it and say nothing."""
    tables = logged(2000)
    paid = {reward["decision_id"] for reward in tables["rewards"]}
    log = write_log(**tables)
    above = evaluate(log, [policy(LEARNS, "learns")]).policies[0].dr
    costs = {
        "decisions": [{**row, "key": "cost"} for row in tables["decisions"]],
        "exposures": [{**row, "key": "cost"} for row in tables["exposures"]],
        "rewards": [
            {"decision_id": d["decision_id"], "time": d["time"], "key": "cost", "reward": -1.0}
            for d in tables["decisions"]
            if d["decision_id"] not in paid
        ],
    }
    write_log(**costs)
    below = evaluate(log, [policy(LEARNS, "learns")], placement="cost").policies[0].dr
    assert isinstance(above, ValueEstimate)
    assert isinstance(below, ValueEstimate)
    assert below.value + 1 == pytest.approx(above.value, abs=0.005)
    for kind in ("beta_thompson", "kl_ucb", "logistic_thompson", "top_two_thompson"):
        with pytest.raises(BadInput, match=r"cannot learn the log: reward reaches from -1"):
            evaluate(log, [policy(f"kind: {kind}", kind)], placement="cost")


def test_a_policy_that_still_chooses_evenly_gets_a_warning(write_log: Write, policy: Policy) -> None:
    log = write_log(**logged(2000))
    forgets = policy("{kind: linear_thompson, features: [{trait: country, one_of: [de, at]}], floor: 0.4}", "even")
    report = evaluate(log, [forgets, policy(LEARNS, "learns"), policy()])
    assert [one.warnings for one in report.policies] == [
        ["it has learnt little: its likeliest offer gets 60% of the choices, an even choice 50%"],
        [],
        [],
    ]
    assert "ESTIMATED, WITH WARNINGS" in rendered(report)


def test_other_keys_of_a_placement_get_a_warning(write_log: Write, policy: Policy) -> None:
    weighed = policy("{placement: hero, policy: {kind: uniform}, arbitration: {value: true}}", "weighed")
    report = evaluate(write_log(**logged(600)), [weighed])
    assert report.policies[0].warnings == [
        "arbitration of its file is not evaluated; the placement would choose otherwise"
    ]


def test_a_feature_that_some_decisions_were_logged_without(write_log: Write, policy: Policy) -> None:
    tables = logged(2000)
    for number, decision in enumerate(tables["decisions"]):
        if number % 4 == 0:
            decision["context"] = "{}"
    report = evaluate(write_log(**tables), [policy(LEARNS, "learns"), policy()])
    assert failed(report) == ["unlogged features"]
    why = report.policies[0].verdict.why
    assert why.startswith("25.0% of the decisions were logged without country, which the policy reads")
    assert [one.verdict.is_estimable for one in report.policies] == [False, True]
    assert report.differences[0].effect == NotEstimable("the value of learns cannot be estimated from this log")


def test_a_customer_without_the_trait_is_none_of_that(write_log: Write, policy: Policy) -> None:
    tables = logged(2000)
    for number, decision in enumerate(tables["decisions"]):
        if number % 4 == 0:
            decision["context"] = json.dumps({"country": None})
    report = evaluate(write_log(**tables), [policy(LEARNS, "learns")])
    assert report.is_estimable
    assert any("country is missing in 25.0%" in note for note in report.policies[0].notes)


def test_decisions_whose_reward_may_still_come_are_counted(write_log: Write, policy: Policy) -> None:
    tables = logged(600)
    paid = {reward["decision_id"] for reward in tables["rewards"]}
    zeros = [{**d, "reward": 0.0} for d in tables["exposures"] if d["decision_id"] not in paid][:300]
    tables["rewards"] += [{key: row[key] for key in ("decision_id", "time", "key", "reward")} for row in zeros]
    report = evaluate(write_log(**tables), [policy()])
    assert report.unsettled == 600 - len(paid) - 300
    assert f"! {report.unsettled} decisions count as 0" in rendered(report)


def test_one_weight_that_carries_the_value_and_a_small_effective_size_fail(write_log: Write, policy: Policy) -> None:
    tables = logged(600, chance=0.995)
    report = evaluate(write_log(**tables), [policy("{placement: hero, offers: [b], policy: {kind: uniform}}", "b")])
    assert {"largest weight", "effective sample size"} <= set(failed(report))
    assert "FAILED" in rendered(report)
    assert "NOT ESTIMABLE" in rendered(report)


def test_the_checks_by_hand() -> None:
    weights = np.array([2.0, 0.0] * 300)
    found = {check.name: check for check in check_log(weights, np.arange(600), 0.02, {"tier": 0.5})}
    assert (found["mean weight"].value, found["effective sample size"].value) == (1.0, 300.0)
    assert [name for name, check in found.items() if not check.ok] == ["unlogged mass", "unlogged features"]
    assert found["largest weight"].value == 2.0


def test_few_customers_are_too_few_for_a_policy_that_learns(write_log: Write, policy: Policy) -> None:
    log = write_log(**logged(40, customers=2))
    with pytest.raises(BadInput, match="the log has 2 customers; a policy that learns needs one to train on"):
        evaluate(log, [policy(LEARNS, "learns")])
    assert not evaluate(log, [policy()]).is_estimable


def test_the_log_is_read_while_no_file_of_it_is_replaced(write_log: Write, policy: Policy) -> None:
    """A commit that replaces files holds the lock; the evaluation waits for it."""
    log, uniform = write_log(**logged(600)), policy()
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(evaluate(log, [uniform])), daemon=True)
    with (log / ".reading.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reader.start()
        reader.join(0.5)
        assert reader.is_alive()
    reader.join(60)
    assert found[0].decisions == 600
