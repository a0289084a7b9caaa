"""A stock that must last goes to the customers who value it most: `decide` with a shadow price against greed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine import decide
from engine.catalog import Plan, load_plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideOptions, DecideRequest, Decision
from engine.decision.explanation import build_explanation
from engine.decision.offers import Snapshot
from policies import Bandit, Pacing

NOW = 1_790_000_000.0
STOCK, CUSTOMERS = 150, 1500
OFFERS: dict[str, Any] = {
    "scarce": {"value": 3.0, "end": "2026-12-01T00:00:00Z", "stock": {"sku": "BAG", "pace": True}},
    "usual": {"value": 1.0},
    "z": {},
}


def shop(root: Path, *, value: bool = True, pace: bool = True) -> Plan:
    (root / "offers").mkdir()
    stock = {"stock": {"sku": "BAG", "pace": pace}}
    for key, offer in (OFFERS | {"scarce": OFFERS["scarce"] | stock}).items():
        (root / "offers" / f"{key}.yaml").write_text(yaml.safe_dump({"key": key, "renderings": {"web": {}}} | offer))
    hero = {
        "key": "hero",
        "placement": "hero",
        "offers": ["scarce", "usual"],
        "policy": {"kind": "linear_thompson", "features": [{"trait": "taste", "range": [0, 1]}], "floor": 0.01},
        "reward": {"metric": "click"},
        "arbitration": {"value": value},
        "fallback": "z",
    }
    files: dict[str, Any] = {
        "hero": hero,
        "channels": {"channels": [{"key": "web"}], "placements": [{"key": "hero", "channels": ["web"]}]},
        "metrics": {"metrics": [{"key": "click", "event": "click"}]},
    }
    for name, content in files.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return load_plan(root)


def chance(taste: float) -> float:
    """That the scarce offer is clicked; the usual one is by 3 in 10, whoever sees it."""
    return 0.1 + 0.8 * taste


def learnt(plan: Plan) -> dict[str, Snapshot]:
    selection = plan.policies["hero"]
    assert isinstance(selection.prior, Bandit)
    random = np.random.default_rng(1)
    taste, arm = random.random(4000), random.integers(0, 2, 4000)
    clicked = random.random(4000) < np.where(arm == 0, chance(taste), 0.3)
    x = np.array([selection.features.vector({"taste": t}) for t in taste.tolist()])
    return {"hero": Snapshot(selection.prior.update(x, arm, clicked.astype(float), np.full(4000, 0.5)), 1)}


def ask(plan: Plan, snapshots: Any, i: int, taste: float, limits: Availability, *, trace: bool = False) -> Decision:
    request = DecideRequest(
        customer=CustomerIds(user_id=f"u{i}"), channel="web", placements=["hero"], context={"taste": taste}
    )
    profile = Profile(f"u{i}", f"u{i}")
    options = DecideOptions(availability=limits, trace=trace)
    return decide(plan, snapshots, profile, request, NOW, decision_id=f"d{i}", options=options)


def earned(plan: Plan, snapshots: Any, seed: int, step: float) -> tuple[float, int]:
    """What the shop earns of all customers, whose taste is drawn, and how many units are left at the end."""
    random = np.random.default_rng(seed)
    tastes = random.random(CUSTOMERS).tolist()
    pacing, total = Pacing(STOCK, CUSTOMERS, step=step), 0.0
    for i, taste in enumerate(tastes):
        prices = {"scarce": pacing.price} if pacing.price else {}
        pools = {"stock:BAG": pacing.left}
        made = ask(plan, snapshots, i, taste, Availability(pools=pools, prices=prices))
        used = made.answer.offers["hero"].offer == "scarce"
        worth = 3.0 * chance(taste)
        total += worth if used else 0.3
        pacing = pacing.after(i + 1, float(used), worth * used)
    return total, int(pacing.left)


@pytest.mark.parametrize("seed", range(3))
def test_a_paced_stock_earns_more_than_greed_and_lasts(tmp_path: Path, seed: int) -> None:
    plan = shop(tmp_path)
    snapshots = learnt(plan)
    paced, left = earned(plan, snapshots, seed, 0.05)
    greedy, gone = earned(plan, snapshots, seed, 1e-12)
    random = np.random.default_rng(seed)
    gains = np.sort(3.0 * chance(random.random(CUSTOMERS)) - 0.3)[::-1]
    nobody = 0.3 * CUSTOMERS
    hindsight = nobody + gains[:STOCK].sum()
    assert gone == 0
    assert 0 <= left <= 0.1 * STOCK
    assert (paced - nobody) > 0.85 * (hindsight - nobody)
    assert (greedy - nobody) < 0.7 * (hindsight - nobody)


def test_the_propensity_is_exact_among_those_that_are_worth_their_price(tmp_path: Path) -> None:
    plan = shop(tmp_path)
    snapshots = learnt(plan)
    dear = Availability(prices={"scarce": 1.4})
    for taste, candidates in ((0.2, ["usual"]), (0.9, ["scarce", "usual"])):
        chosen = [ask(plan, snapshots, i, taste, dear).choices["hero"] for i in range(600)]
        first = chosen[0]
        assert first.candidates == candidates
        assert sum(first.probabilities) == pytest.approx(1.0)
        free = ask(plan, snapshots, 0, taste, Availability()).choices["hero"]
        if len(candidates) == 2:
            assert list(first.probabilities) == pytest.approx(list(free.probabilities))
        share = np.mean([one.offer.key == "scarce" for one in chosen])
        p = dict(zip(first.candidates, first.probabilities, strict=True)).get("scarce", 0.0)
        assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / 600)
        for one in chosen:
            assert one.propensity == dict(zip(one.candidates, one.probabilities, strict=True))[one.offer.key]


def test_explain_shows_the_price_and_names_it_as_the_gate(tmp_path: Path) -> None:
    plan = shop(tmp_path)
    snapshots = learnt(plan)
    dear = Availability(prices={"scarce": 1.4})
    (seen,) = build_explanation(ask(plan, snapshots, 1, 0.9, dear, trace=True)).placements.values()
    assert {one.offer: one.price for one in seen.candidates} == {"scarce": 1.4, "usual": 0.0}
    (closed_off,) = build_explanation(ask(plan, snapshots, 1, 0.1, dear, trace=True)).placements.values()
    assert closed_off.closed == {"scarce": "price"}
    assert [one.offer for one in closed_off.candidates] == ["usual"]


def test_alone_at_its_price_it_gives_way_to_the_fallback(tmp_path: Path) -> None:
    plan = shop(tmp_path)
    (chosen,) = ask(
        plan, learnt(plan), 1, 0.1, Availability(pools={"stock:BAG": 5}, prices={"scarce": 9.0, "usual": 9.0})
    ).choices.values()
    assert (chosen.offer.key, chosen.reason, chosen.propensity) == ("z", "fallback", 1.0)


def test_worth_is_what_the_placement_weighs_by(tmp_path: Path) -> None:
    """Without the value in arbitration a click on the scarce offer is worth one click."""
    plan = shop(tmp_path, value=False)
    snapshots = learnt(plan)
    price = Availability(prices={"scarce": 0.4})
    assert ask(plan, snapshots, 1, 0.9, price).choices["hero"].candidates == ["scarce", "usual"]
    assert ask(plan, snapshots, 1, 0.5, price).choices["hero"].candidates == ["usual"]
