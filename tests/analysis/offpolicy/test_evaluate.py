"""Off-policy evaluation: known answers, a log whose truth is known, and logs that must be refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from engine.analysis.offpolicy.estimators import Estimate
from engine.analysis.offpolicy.evaluate import evaluate
from engine.analysis.offpolicy.learning_curve import replay_learning_curve
from engine.analysis.offpolicy.logged_choices import read_logged_choices
from engine.analysis.offpolicy.policy_value import ValueEstimate, bernstein_interval, choose_switch_threshold
from engine.analysis.offpolicy.target_policies import make_target, read_policy
from engine.analysis.render.evaluation import render_evaluation
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.cli.app import app
from engine.errors import BadInput, CatalogError

Write = Callable[..., Path]
Tables = dict[str, list[dict[str, Any]]]
OBD = Path(__file__).resolve().parents[3] / ".cache/obd/obp/dataset/obd/bts/all/all.csv"

PAYS = {("de", "a"): 0.5, ("de", "b"): 0.1, ("at", "a"): 0.1, ("at", "b"): 0.5}
LEARNS = """
placement: hero
policy: {kind: linear_thompson, features: [{trait: country, one_of: [de, at]}], floor: 0.05}
"""


def logged(n: int, *, seed: int = 5, chance: float = 0.7, customers: int | None = None) -> Tables:
    """`a` is shown with `chance`, else `b`; each pays in one country."""
    rng = np.random.default_rng(seed)
    decisions, exposures, rewards = [], [], []
    for i in range(n):
        country, offer = str(rng.choice(["de", "at"])), "a" if rng.random() < chance else "b"
        base = {"decision_id": f"d{i:06}", "time": float(i), "key": "hero"}
        who = {"customer": f"c{i % (customers or n)}"}
        chosen = {"variant": offer, "propensity": chance if offer == "a" else 1 - chance, "candidates": ["a", "b"]}
        why = {"kind": "offer", "reason": "policy", "policy": "hero@1", "context": json.dumps({"country": country})}
        decisions.append({**base, **who, **chosen, **why})
        exposures.append({**base, **who})
        if rng.random() < PAYS[country, offer]:
            rewards.append({**base, "reward": 1.0})
    return {"decisions": decisions, "exposures": exposures, "rewards": rewards}


def test_a_visitor_who_logged_in_is_no_second_customer(write_log: Write) -> None:
    tables = logged(600)
    for row in tables["decisions"]:
        number = int(row["customer"][1:])
        row["customer"] = f"v{number}" if number < 300 else f"c{number - 300}"
    became = [
        {"message_id": f"m{i}", "time": 300.0, "customer": f"c{i}", "event": "$merge"}
        | {"properties": json.dumps({"from": f"v{i}", "into": f"c{i}"})}
        for i in range(300)
    ]
    assert read_logged_choices(write_log(**tables)).customers == 600
    log = read_logged_choices(write_log(events=became))
    assert (len(log), log.customers) == (600, 300)
    assert log.customer[:300].tolist() == log.customer[300:].tolist()


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str = "kind: uniform", name: str = "uniform") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


def covers(value: ValueEstimate | NotEstimable, truth: float) -> bool:
    assert isinstance(value, ValueEstimate)
    return value.bernstein.low < value.low < truth < value.high < value.bernstein.high


@pytest.mark.skipif(not OBD.is_file(), reason="`make obd` downloads the dataset")
def test_open_bandit_bts_to_uniform_is_the_known_answer(policy: Callable[..., Path]) -> None:
    report = evaluate(OBD, [policy()])
    one = report.policies[0]
    assert isinstance(one.ips, ValueEstimate)
    assert isinstance(one.snips, ValueEstimate)
    assert (report.decisions, report.arms, report.rewarded, report.on_policy.value) == (10_000, 80, 42, 0.0042)
    assert one.ips.value == pytest.approx(0.00235964, abs=5e-9)
    assert one.snips.value == pytest.approx(0.00233371, abs=5e-9)
    assert one.ess == pytest.approx(340.378, abs=5e-4)
    assert one.mean_weight == pytest.approx(1.0111092, abs=5e-8)
    assert one.largest_weight == pytest.approx(277.78, abs=5e-3)
    assert report.is_estimable
    # Uniform logging in the same days earned 0.0038.
    assert covers(one.dr, 0.0038)
    assert any("about 7.3 of them" in warning for warning in one.warnings)


def test_policies_of_known_value_are_evaluated_beside_the_logs_own_mean(
    write_log: Write, policy: Callable[..., Path]
) -> None:
    log = write_log(**logged(4000))
    report = evaluate(log, [policy(), policy(LEARNS, "learns")], curve=True)
    uniform, learns = report.policies
    assert report.is_estimable
    assert report.on_policy.value == pytest.approx(0.3, abs=5 * (0.21 / 4000) ** 0.5)
    for value in (uniform.ips, uniform.snips, uniform.dr, uniform.switch_dr):
        assert covers(value, 0.3)
    # It learns which offer pays in which country and keeps 5% for the other: 0.95 * 0.5 + 0.05 * 0.1.
    for value in (learns.ips, learns.snips, learns.dr, learns.switch_dr):
        assert covers(value, 0.48)
    found = {(one.policy, one.against): one.effect for one in report.differences}
    assert found.keys() == {("uniform", "logged"), ("learns", "logged"), ("uniform", "learns")}
    gain = found["learns", "logged"]
    assert isinstance(gain, Effect)
    assert gain.low < 0.18 < gain.high
    assert gain.low > 0
    assert learns.curve is not None
    assert learns.curve.rate == pytest.approx(0.48, abs=5 * (0.25 / learns.curve.matched) ** 0.5)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_evaluation(report))
    text = capture.get()
    assert "…" not in text
    assert text.count("ESTIMATED") == 4
    assert all(name in text for name in ("IPS", "SNIPS", "DR", "SWITCH-DR", "On-policy mean", "Learning curve"))


def test_no_row_is_evaluated_with_a_policy_trained_on_its_customer(
    write_log: Write, policy: Callable[..., Path]
) -> None:
    """Rewards are pure chance: a policy that knew its own rows would seem to earn more than 0.3."""
    rng = np.random.default_rng(2)
    tables = logged(2000, customers=400)
    tables["rewards"] = [
        {"decision_id": d["decision_id"], "time": d["time"], "key": "hero", "reward": 1.0}
        for d in tables["decisions"]
        if rng.random() < 0.3
    ]
    many = policy("{kind: linear_thompson, floor: 0.01, features: [{trait: country, one_of: [de, at]}]}", "many")
    report = evaluate(write_log(**tables), [many])
    assert report.customers == 400
    assert covers(report.policies[0].dr, 0.3)


def test_propensities_computed_later_fail_the_check(write_log: Write, policy: Callable[..., Path]) -> None:
    """The log's policy moved from 0.5 to 0.95 for `a`; written down is what it came to."""
    rng = np.random.default_rng(3)
    tables = logged(3000)
    for number, decision in enumerate(tables["decisions"]):
        chance = 0.5 + 0.45 * number / 3000
        shown = "a" if rng.random() < chance else "b"
        decision.update(variant=shown, propensity=chance if shown == "a" else 1 - chance)
    good = evaluate(write_log(**tables), [policy()])
    assert good.is_estimable
    for decision in tables["decisions"]:
        decision["propensity"] = 0.95 if decision["variant"] == "a" else 0.05
    log = write_log(decisions=[{**d, "key": "later"} for d in tables["decisions"]])
    write_log(exposures=[{**e, "key": "later"} for e in tables["exposures"]])
    write_log(rewards=[{**e, "key": "later"} for e in tables["rewards"]])
    bad = evaluate(log, [policy()], placement="later")
    # By hand: half of 0.725 / 0.95 and of 0.275 / 0.05 is 3.1.
    assert bad.policies[0].mean_weight == pytest.approx(3.13, abs=0.3)
    assert [check.name for check in bad.policies[0].checks if not check.ok] == ["mean weight"]
    assert "computed later" in bad.policies[0].verdict.why
    assert not bad.is_estimable
    effect = bad.differences[0].effect
    assert effect == NotEstimable("the value of uniform cannot be estimated from this log")


def test_an_offer_that_the_log_never_showed_is_unlogged_mass(write_log: Write, policy: Callable[..., Path]) -> None:
    log = write_log(**logged(2000))
    selection = policy("{placement: hero, offers: [a, b, c], policy: {kind: uniform}}", "three")
    one = evaluate(log, [selection]).policies[0]
    assert one.unlogged_mass == pytest.approx(1 / 3)
    assert one.mean_weight == pytest.approx(2 / 3, abs=0.1)
    assert "never showed" in one.verdict.why
    assert "never a candidate in the log: c" in one.notes
    only = evaluate(log, [policy("{placement: hero, offers: [b], policy: {kind: uniform}}", "only")]).policies[0]
    assert covers(only.ips, 0.3)
    assert only.unlogged_mass == 0


def test_a_small_log_does_not_allow_an_estimate(
    write_log: Write, policy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(**logged(150))
    arguments = ["evaluate", "--log", str(log), "--policy", str(policy()), "--json"]
    code = app(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    answer = json.loads(capsys.readouterr().out)
    assert code == 1
    assert answer["policies"][0]["verdict"]["can_be_judged"] is False
    assert "collect more" in answer["policies"][0]["verdict"]["why"]
    assert {"ips", "snips", "dr", "switch_dr"} <= answer["policies"][0].keys()
    assert answer["on_policy"]["bernstein"].keys() == {"low", "high"}


def test_candidates_context_and_corrected_rewards_are_read(write_log: Write) -> None:
    tables = logged(50)
    tables["rewards"].append({**tables["rewards"][0], "reward": 0.0, "time": 500.0})
    tables["decisions"].append({**tables["decisions"][0], "decision_id": "unseen"})
    tables["decisions"].append({**tables["decisions"][0], "decision_id": "fallback", "policy": None})
    tables["exposures"].append({**tables["exposures"][0], "decision_id": "fallback"})
    tables["exposures"].append(tables["exposures"][0])
    log = read_logged_choices(write_log(**tables))
    assert (len(log), log.arms, log.placement) == (50, ("a", "b"), "hero")
    assert log.reward.sum() == len(tables["rewards"]) - 2
    assert [log.contexts[code]["country"] for code in log.context] == [
        json.loads(d["context"])["country"] for d in tables["decisions"][:50]
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": float("nan")}, r"decision d000003: propensity nan is missing or NaN \(1 of 50\)"),
        ({"propensity": None}, "is missing or NaN"),
        ({"propensity": 0.0}, r"propensity 0 is not in \(0, 1\]"),
        ({"propensity": 1.5}, r"propensity 1.5 is not in \(0, 1\]"),
        ({"candidates": None}, "decision d000003 has no candidates"),
        ({"context": "[1]"}, "is not a JSON object"),
    ],
)
def test_a_decision_that_cannot_be_used_is_one_clear_line(
    write_log: Write, policy: Callable[..., Path], change: dict[str, object], message: str
) -> None:
    tables = logged(50)
    tables["decisions"][3].update(change)
    with pytest.raises(BadInput, match=message) as refused:
        evaluate(write_log(**tables), [policy()])
    assert "\n" not in str(refused.value)


def test_what_a_log_must_hold(write_log: Write, policy: Callable[..., Path], tmp_path: Path) -> None:
    uniform = policy()
    with pytest.raises(BadInput, match="does not exist"):
        evaluate(tmp_path / "nowhere", [uniform])
    tables = logged(50)
    log = write_log(decisions=tables["decisions"], exposures=tables["exposures"])
    with pytest.raises(BadInput, match=r"has no rewards/\*.parquet"):
        evaluate(log, [uniform])
    write_log(rewards=[{**tables["rewards"][0], "key": "other"}])
    with pytest.raises(BadInput, match="rewards/ has no row of placement 'hero'"):
        evaluate(log, [uniform])
    with pytest.raises(BadInput, match="placement 'x' has no exposed decision of a policy; the log has hero"):
        evaluate(log, [uniform], placement="x")
    write_log(decisions=[{**tables["decisions"][0], "key": "other"}])
    with pytest.raises(BadInput, match="has the placements hero, other; name one with --placement"):
        evaluate(log, [uniform])


def test_one_candidate_and_one_customer_are_no_choice(write_log: Write, policy: Callable[..., Path]) -> None:
    tables = logged(50, customers=1)
    for decision in tables["decisions"]:
        decision.update(candidates=[decision["variant"]])
    log = write_log(**tables)
    with pytest.raises(BadInput, match="every decision had one candidate"):
        evaluate(log, [policy()])
    for decision in tables["decisions"]:
        decision.update(candidates=["a", "b"], key="two")
    write_log(decisions=tables["decisions"], exposures=[{**one, "key": "two"} for one in tables["exposures"]])
    write_log(rewards=[{**one, "key": "two"} for one in tables["rewards"]])
    with pytest.raises(BadInput, match="all decisions are of one customer"):
        evaluate(log, [policy()], placement="two")


def test_a_csv_is_read_with_the_items_beside_it(tmp_path: Path, policy: Callable[..., Path]) -> None:
    file = tmp_path / "all.csv"
    file.write_text("timestamp,item_id,position,click,propensity_score,user_feature_0\n2,7,1,1,0.5,x\n1,3,2,0,0.25,y\n")
    (tmp_path / "item_context.csv").write_text("item_id\n3\n7\n11\n")
    log = read_logged_choices(file)
    assert log.arms == ("item_3", "item_7", "item_11")
    assert (log.arm.tolist(), log.reward.tolist(), log.propensity.tolist()) == ([0, 1], [0.0, 1.0], [0.25, 0.5])
    assert log.contexts == ({"position": 2, "user_feature_0": "y"}, {"position": 1, "user_feature_0": "x"})
    one = evaluate(file, [policy()]).policies[0]
    assert isinstance(one.ips, ValueEstimate)
    # By hand: (0 + 1/3 / 0.5) / 2; the weights are 4/3 and 2/3.
    assert one.ips.value == pytest.approx(1 / 3)
    assert (one.ess, one.unlogged_mass) == (pytest.approx(4 / (20 / 9)), pytest.approx(1 / 3))
    file.write_text("timestamp,item_id\n1,3\n")
    with pytest.raises(BadInput, match="no column 'click' and no 'propensity_score'"):
        read_logged_choices(file)
    file.write_text("timestamp,item_id,click,propensity_score\n1,3,0,0.5\n2,3,1,nan\n")
    with pytest.raises(BadInput, match="item 3: propensity nan"):
        read_logged_choices(file)


def test_a_policy_file_that_cannot_be_used(write_log: Write, policy: Callable[..., Path], tmp_path: Path) -> None:
    log = write_log(**logged(50))
    with pytest.raises(BadInput, match="cannot be read"):
        evaluate(log, [tmp_path / "none.yaml"])
    with pytest.raises(CatalogError, match=r"policy\.kind"):
        evaluate(log, [policy("policy: {kind: unifrom}")])
    with pytest.raises(BadInput, match="feature 'tier' was not logged; the log has country"):
        evaluate(log, [policy("{kind: linucb, features: [tier]}")])
    with pytest.raises(BadInput, match="never one of fr in the log"):
        evaluate(log, [policy("{kind: linucb, features: [{trait: country, one_of: [fr]}]}")])
    with pytest.raises(BadInput, match="none of its offers is in the log"):
        evaluate(log, [policy("{offers: [z], policy: {kind: uniform}}")])
    with pytest.raises(BadInput, match="copy the policy of an experiment's variant into a file of its own"):
        evaluate(log, [policy("{key: bold, variants: [{key: calm}, {key: loud, policy: {kind: kl_ucb}}]}")])
    with pytest.raises(BadInput, match="named twice"):
        evaluate(log, [policy(), policy()])


def test_a_feature_that_no_customer_had_is_0_in_all_decisions_as_it_was_when_they_were_made(
    write_log: Write, policy: Callable[..., Path]
) -> None:
    tables = logged(200)
    for row in tables["decisions"]:
        row["context"] = json.dumps({**json.loads(row["context"]), "tier": None})
    file = policy("{kind: linucb, features: [{trait: tier, range: [0, 3]}, {trait: country, one_of: [de, at]}]}")
    one = evaluate(write_log(**tables), [file]).policies[0]
    assert isinstance(one.ips, ValueEstimate)
    assert "feature tier is missing in 100.0% of the decisions and 0 there" in one.notes


def test_replay_of_a_uniform_log_takes_a_round_with_the_policys_probability(
    write_log: Write, policy: Callable[..., Path]
) -> None:
    log = read_logged_choices(write_log(**logged(2000, chance=0.5)))
    curve = replay_learning_curve(make_target(read_policy(policy()), log))
    # 1,000 of 2,000 by a fair coin: five standard deviations are 112.
    assert abs(curve.matched - 1000) < 112
    assert curve.capped == 0
    assert curve.rate == pytest.approx(0.3, abs=5 * (0.21 / 1000) ** 0.5)
    assert [point.matched for point in curve.points][-1] == curve.matched


def test_the_bernstein_interval_is_the_papers() -> None:
    scores = np.array([0.0, 1.0, 1.0, 0.0])
    interval = bernstein_interval(scores, np.arange(4), 0.05)
    # Theorem 4 with n = 4, variance 1/3, ln(2 / 0.025) on each side.
    reach = (2 / 3 * np.log(80) / 4) ** 0.5 + 7 * np.log(80) / 9
    assert (interval.low, interval.high) == (pytest.approx(0.5 - reach), pytest.approx(0.5 + reach))


def test_switch_keeps_every_weight_where_the_model_could_be_far_off() -> None:
    weights = np.array([1.0] * 98 + [5.0, 60.0])
    errors = np.where(np.arange(100) % 2, 0.3, -0.3)
    assert choose_switch_threshold(weights, errors, np.zeros(100), largest=1.0) == 60.0
    assert choose_switch_threshold(weights, errors, np.zeros(100), largest=1e-6) < 60.0


def test_estimates_carry_the_fields_of_an_estimate() -> None:
    assert set(Estimate.__struct_fields__) < set(ValueEstimate.__struct_fields__)


def test_replay_counts_a_round_that_it_would_have_taken_more_often_for_as_many(
    write_log: Write, policy: Callable[..., Path]
) -> None:
    """`b` was shown one time in fifty, and pays 0.3 as `a` does in none of the rounds: uniform choice earns 0.15."""
    rng = np.random.default_rng(8)
    tables = logged(20_000, chance=0.98)
    tables["rewards"] = [
        {"decision_id": d["decision_id"], "time": d["time"], "key": "hero", "reward": 1.0}
        for d in tables["decisions"]
        if d["variant"] == "b" and rng.random() < 0.3
    ]
    curve = replay_learning_curve(make_target(read_policy(policy()), read_logged_choices(write_log(**tables))))
    assert curve.capped > 0.01
    # 400 rounds of `b`, which count for 24.5 each: five standard deviations of their rate are 0.06.
    assert curve.rate == pytest.approx(0.15, abs=0.06)
