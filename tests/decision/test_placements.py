"""Several placements in one answer: whatever happens, no offer stands in it twice."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from engine import decide
from engine.catalog import Plan, load_plan
from engine.customer import CustomerIds, Profile, Trait
from engine.decision.decision import Availability, DecideOptions, DecideRequest
from engine.decision.staff_view import build_agent_view
from engine.journal.from_decision import decision_record, exposable_keys
from loadtests.growth import learn, write_shop

NOW = 1_790_000_000.0
PLACEMENTS = ("hero", "side", "foot", "bar")
FALLBACKS = {"hero": "z", "side": "z", "foot": "a", "bar": "y"}
GATES = st.sampled_from(["cap", "stock", "budget"])


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("placements") / "shop"
    (folder / "offers").mkdir(parents=True)
    audiences = {"a": {}, "b": {"tier": {"$gte": 1}}, "c": {"tier": {"$gte": 2}}, "y": {}, "z": {}}
    for key, audience in audiences.items():
        offer = {"key": key, "audience": audience, "renderings": {"web": {}}}
        (folder / "offers" / f"{key}.yaml").write_text(yaml.safe_dump(offer))
    files: dict[str, Any] = {
        "channels": {
            "channels": [{"key": "web"}],
            "placements": [{"key": key, "channels": ["web"]} for key in PLACEMENTS],
        },
        "metrics": {"metrics": [{"key": "click", "event": "click"}]},
        "moments": {
            "moments": [
                {"key": "now", "trigger": {"when": {"leaving": True}}, "placements": ["side", "bar"], "offers": ["y"]}
            ]
        },
    }
    for key in PLACEMENTS:
        files[key] = {
            "key": key,
            "placement": key,
            "offers": ["y", "b"] if key == "bar" else ["a", "b", "c"],
            "policy": {"kind": "uniform"},
            "reward": {"metric": "click"},
            "fallback": FALLBACKS[key],
        }
    for name, value in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(value))
    return load_plan(folder)


def ask(placements: tuple[str, ...] | list[str], context: dict[str, object] | None = None) -> DecideRequest:
    ids = CustomerIds(user_id="u")
    return DecideRequest(customer=ids, channel="web", placements=list(placements), context=context or {})


@given(
    placements=st.permutations(PLACEMENTS),
    tier=st.integers(0, 2),
    leaving=st.booleans(),
    degraded=st.booleans(),
    tripped=st.sets(st.sampled_from(PLACEMENTS)),
    lost=st.dictionaries(st.sampled_from(PLACEMENTS), st.dictionaries(st.sampled_from("abcy"), GATES)),
    number=st.integers(0, 10**6),
)
def test_no_offer_stands_twice_in_an_answer(
    plan: Plan,
    placements: list[str],
    tier: int,
    *,
    leaving: bool,
    degraded: bool,
    tripped: set[str],
    lost: dict[str, Any],
    number: int,
) -> None:
    decision = decide(
        plan,
        {},
        Profile("u", "u", traits={"tier": Trait(tier, NOW)}),
        ask(placements, {"leaving": leaving}),
        NOW,
        decision_id=f"d-{number}",
        options=DecideOptions(degraded=degraded, tripped=tripped, availability=Availability(lost=lost), trace=True),
    )
    answers = decision.answer.offers
    shown = [answer.offer for answer in answers.values() if answer.offer is not None]
    assert len(shown) == len(set(shown))
    for placement, answer in answers.items():
        assert (answer.offer is None) == (answer.reason == "shown")
        if answer.reason == "shown":  # only where nothing but its fallback was left, and that stands before it
            before = placements[: placements.index(placement)]
            assert FALLBACKS[placement] in {answers[other].offer for other in before}


def test_the_second_of_two_with_one_fallback_stays_empty_and_says_why(plan: Plan) -> None:
    decision = decide(
        plan, {}, Profile("u", "u"), ask(("hero", "side", "bar")), NOW, options=DecideOptions(degraded=True)
    )
    answers = {key: (answer.offer, answer.reason, answer.rendering) for key, answer in decision.answer.offers.items()}
    assert answers == {"hero": ("z", "fallback", {}), "side": (None, "shown", {}), "bar": ("y", "fallback", {})}
    staff = build_agent_view(plan, decision, Profile("u", "u"), NOW).suggestions["side"]
    assert (staff.offer, staff.title, staff.why) == (None, "", "all that may be offered is on this screen already")


def test_an_empty_placement_is_not_exposed_in_the_log(plan: Plan) -> None:
    decision = decide(plan, {}, Profile("u", "u"), ask(("hero", "side")), NOW, options=DecideOptions(degraded=True))
    assert exposable_keys(decision) == ["hero"]
    rows = {row.key: (row.variant, row.reason) for row in decision_record(decision, NOW).rows}
    assert rows == {"hero": ("z", "fallback"), "side": (None, "shown")}


def test_choices_of_several_placements_follow_their_logged_propensities(tmp_path: Path) -> None:
    """Chi-square over 4,000 decisions, also where an offer of an earlier placement left a subset of the candidates."""
    plan = write_shop(tmp_path / "shop", 6, placements=3)
    snapshots = learn(plan)
    request = DecideRequest(
        customer=CustomerIds(user_id="u"), channel="web", placements=[f"place_{n}" for n in range(3)]
    )
    shown: Counter[tuple[str, str]] = Counter()
    expected: defaultdict[tuple[str, str], float] = defaultdict(float)
    variance: defaultdict[tuple[str, str], float] = defaultdict(float)
    for number in range(4000):
        profile = Profile("u", "u", traits={"spent": Trait(number % 40 * 100.0, NOW)})
        decision = decide(plan, snapshots, profile, request, NOW, decision_id=f"d-{number}")
        for placement, choice in decision.choices.items():
            assert sum(choice.probabilities) == pytest.approx(1.0)
            assert choice.propensity == choice.probabilities[choice.candidates.index(choice.offer.key)]
            shown[placement, choice.offer.key] += 1
            for name, p in zip(choice.candidates, choice.probabilities, strict=True):
                expected[placement, name] += p
                variance[placement, name] += p * (1 - p)
    for cell, mean in expected.items():
        assert abs(shown[cell] - mean) < 4.5 * variance[cell] ** 0.5 + 1e-9, cell
    squares = sum((shown[cell] - mean) ** 2 / mean for cell, mean in expected.items())
    assert squares < stats.chi2.ppf(1 - 1e-6, len(expected))
