"""Whole decisions: propensities as served, one person one variant, holdouts that survive a login."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.catalog import load_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import CustomerIds, Decayed, Profile, Trait
from engine.customers.model.identity import resolve_identity
from engine.customers.redis import keys
from engine.customers.redis.stored_entry import Entry
from engine.decision.decision import DecideOptions, DecideRequest, decide
from engine.decision.offers import Snapshot
from tests.catalog.folder import experiment, plan

NOW = 1_790_000_000.0
SHOP = load_plan(Path(__file__).parents[2] / "experiments")
UNTESTED = replace(SHOP, by_placement={})
RULES = ProfileRules()
HASH = keys.key_hasher(b"test")
IDS = st.text(min_size=1, max_size=12)


def customer(number: int) -> Profile:
    traits = {"loyalty.tier": Trait(number % 4, 0.0)}
    affinities = {"coffee": Decayed(number % 7 / 7, NOW)}
    return Profile(f"u-{number}", f"u-{number}", traits=traits, affinities=affinities)


def learnt(of: Plan, key: str, seed: int) -> Snapshot:
    """What `key` has learnt of 5,000 clicks, of which the arms get unequal shares."""
    selection = of.policies[key]
    rng = np.random.default_rng(seed)
    n, arms = 5_000, len(selection.arms)
    contexts = [{s.trait: None for s in selection.features.specs} | {"loyalty.tier": k % 4} for k in range(n)]
    x = np.array([selection.features.vector(context) for context in contexts])
    arm = rng.integers(arms, size=n)
    reward = (rng.random(n) < 0.05 + 0.02 * arm).astype(float)
    return Snapshot(selection.prior.update(x, arm, reward, np.full(n, 1 / arms)), 17)


@pytest.mark.parametrize("placement", ["home_hero", "till_prompt"])
def test_what_is_logged_is_what_is_served(placement: str) -> None:
    """Over 20,000 decisions the counts less their propensities are a sum of independent multinomials about zero."""
    channel = "web" if placement == "home_hero" else "store"
    snapshots = {placement: learnt(SHOP, placement, seed=3)}
    arms = SHOP.policies[placement].arms
    at = {arm: index for index, arm in enumerate(arms)}
    counts, expected, spread = np.zeros(len(arms)), np.zeros(len(arms)), np.zeros((len(arms), len(arms)))
    for number in range(20_000):
        profile = customer(number % 28)
        request = DecideRequest(customer=CustomerIds(user_id=profile.id), channel=channel, placements=[placement])
        got = decide(UNTESTED, snapshots, profile, request, NOW, decision_id=f"d-{number}")
        choice = got.choices[placement]
        p = np.zeros(len(arms))
        p[[at[arm] for arm in choice.candidates]] = choice.probabilities
        drawn = at[choice.offer.key]
        assert choice.policy == f"{placement}@17"
        assert got.answer.offers[placement].propensity == choice.propensity == p[drawn]
        counts[drawn] += 1
        expected += p
        spread += np.diag(p) - np.outer(p, p)
    off = counts - expected
    statistic = off @ np.linalg.pinv(spread) @ off
    assert stats.chi2.sf(statistic, np.linalg.matrix_rank(spread)) > 0.001


@settings(max_examples=150, deadline=None, derandomize=True)
@given(visitor=IDS, user=IDS, seed=st.integers(0, 50))
def test_a_visitor_who_logs_in_keeps_every_variant(visitor: str, user: str, seed: int) -> None:
    of = plan(
        experiment("x", seed=f"x{seed}"),
        experiment("y", seed=f"y{seed}", layer="l", coverage=0.5),
        layers={"layers": [{"key": "l"}], "holdouts": [{"key": "all", "share": 0.2}]},
    )
    before = view(CustomerIds(anonymous_id=visitor), {})
    decided = msgspec.structs.replace(before, undecided=False)
    stored = {ident.key: decided for ident in keys.keyed_ids(CustomerIds(anonymous_id=visitor), HASH)}
    for channel in ("web", "app"):
        after = view(CustomerIds(user_id=user, anonymous_id=visitor), stored)
        assert variants(of, after, channel) == variants(of, before, "web")


def test_a_known_customer_keeps_theirs_when_a_visitor_joins_and_the_other_is_a_crossover() -> None:
    of = plan(experiment("x"))
    known = Profile("u-1", "u-1", ids={"user_id": ["u-1"]})
    crossed = 0
    for number in range(40):
        visitor = Profile(f"a-{number}", f"a-{number}", ids={"anonymous_id": [f"a-{number}"]})
        ids = CustomerIds(user_id="u-1", anonymous_id=f"a-{number}")
        stored = {ident.key: who for ident, who in zip(keys.keyed_ids(ids, HASH), (known, visitor), strict=True)}
        both = view(ids, stored)
        assert variants(of, both, "web") == variants(of, known, "web")
        request = DecideRequest(customer=ids, channel="web", experiments=["x"])
        crossover = decide(of, {}, both, request, NOW).assigned["x"].crossover
        assert crossover is (variants(of, visitor, "web") != variants(of, known, "web"))
        crossed += crossover
    assert 5 < crossed < 35


def test_an_experiment_that_began_after_the_login_has_no_crossover() -> None:
    begun = datetime.fromtimestamp(NOW, UTC)
    of = plan(experiment("x", start=begun.isoformat()))
    for joined, crosses in ((NOW - 1, False), (NOW + 1, True)):
        request = DecideRequest(customer=CustomerIds(user_id="u-1"), channel="web", experiments=["x"])
        profiles = [Profile("u-1", "u-1", ids={"user_id": ["u-1"]}, units={f"a-{n}": joined}) for n in range(40)]
        found = [decide(of, {}, who, request, NOW + 2).assigned["x"].crossover for who in profiles]
        assert any(found) is crosses


@pytest.mark.parametrize(
    ("timezone", "moment", "hour", "weekday"),
    [
        (None, "2026-07-05T22:30:00+00:00", 0.5, 0),  # the shop's: Berlin, where it is Monday
        ("Asia/Kolkata", "2026-07-05T22:30:00+00:00", 4.0, 0),
        ("Nowhere/Land", "2026-12-06T22:30:00+00:00", 23.5, 6),
        ("America/New_York", "2026-07-05T22:30:00+00:00", 18.5, 6),
    ],
)
def test_the_hour_is_the_customers(timezone: str | None, moment: str, hour: float, weekday: int) -> None:
    audience = {"hour": {"$gte": hour - 0.01, "$lt": hour + 0.01}, "weekday": weekday}
    shop = replace(plan(experiment("local", audience=audience)), zone="Europe/Berlin")
    profile = Profile("u", "u", traits={"timezone": Trait(timezone, 0.0)} if timezone else {})
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", experiments=["local"])
    now = datetime.fromisoformat(moment).timestamp()
    assert decide(shop, {}, profile, request, now).answer.experiments["local"].reason == "assigned"
    assert decide(shop, {}, profile, request, now + 3600).answer.experiments["local"].reason == "audience"


def test_an_experiment_of_another_channel_says_so() -> None:
    of = plan(experiment("x", channels=["web"]))
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="app", experiments=["x"])
    assert decide(of, {}, Profile("u", "u"), request, NOW).answer.experiments["x"].reason == "channel"


def view(ids: CustomerIds, stored: dict[str, Profile]) -> Profile:
    idents = keys.keyed_ids(ids, HASH)
    entries: dict[str, Entry] = {ident.key: stored.get(ident.key) for ident in idents}
    return resolve_identity(idents, entries, RULES, NOW).profile


def variants(of: Plan, profile: Profile, channel: str) -> dict[str, tuple[str | None, str]]:
    request = DecideRequest(customer=CustomerIds(user_id=profile.id), channel=channel, experiments=list(of.experiments))
    answers = decide(of, {}, profile, request, NOW).answer.experiments
    return {key: (answer.variant, answer.reason) for key, answer in answers.items()}


def test_a_snapshot_of_another_plan_does_not_choose() -> None:
    selection = UNTESTED.policies["home_hero"]
    other = selection.prior.update(*(np.ones((4, selection.features.dim)), np.zeros(4, int), np.ones(4), np.ones(4)))
    request = DecideRequest(customer=CustomerIds(user_id="u-1"), channel="web", placements=["home_hero"])
    for fits, version in ((selection.arms, 3), (selection.arms[:-1], 0), (None, 3)):
        snapshots = {"home_hero": Snapshot(other, 3, fits)}
        got = decide(
            UNTESTED,
            snapshots,
            Profile("u-1", "u-1"),
            request,
            NOW,
            decision_id="d-1",
            options=DecideOptions(trace=True),
        )
        assert got.choices["home_hero"].policy == f"home_hero@{version}"
