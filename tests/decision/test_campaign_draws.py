"""The channel and the hour of a campaign's message are drawn with the logged probability, and drawn again on replay."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import chi2

from engine import decide
from engine.catalog import load_plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideOptions, DecideRequest
from engine.decision.offers import Snapshot
from engine.journal.from_decision import decision_record
from engine.vocabulary import CAMPAIGN_CHANNEL
from policies import BetaThompson
from tests.stories.conftest import write_shop

NOW = 1_781_000_000.0
SHOP = {
    "offers": {"coffee": {}},
    "placements": {"letter": {"offers": ["coffee"]}},
    "channels": {"email": {"outbound": True}, "app": {"outbound": True}},
    "campaigns": [
        {
            "key": "weekly",
            "schedule": {"days": ["monday"], "at": ["09:00", "18:00"]},
            "channels": [{"channel": "email", "placement": "letter"}, {"channel": "app", "placement": "letter"}],
            "policy": {"kind": "beta_thompson", "floor": 0.03},
            "reward": {"metric": "click", "window": "7d"},
        }
    ],
}
ARMS = {"email@09:00", "email@18:00", "app@09:00", "app@18:00", "silence"}


@pytest.mark.parametrize("lost", [{}, {"email@09:00": "dates", "app@09:00": "dates"}])
def test_served_channels_and_hours_follow_their_logged_propensity(tmp_path: Path, lost: Mapping[str, Any]) -> None:
    plan = load_plan(write_shop(tmp_path, SHOP))
    selection = plan.policies["weekly"]
    assert set(selection.arms) == ARMS
    shown = [place for place in range(len(selection.arms)) for _ in range(4)]
    clicks = [float(step <= place) for place in range(len(selection.arms)) for step in range(4)]
    policy = BetaThompson(selection.arms, floor=0.03).update(None, shown, clicks, [0.2] * len(shown))
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel=CAMPAIGN_CHANNEL, placements=["weekly"])
    options = DecideOptions(availability=Availability(lost={"weekly": lost} if lost else {}))
    served: Counter[str | None] = Counter()
    logged: dict[str | None, float] = {}
    runs = 4000
    for number in range(runs):
        decision = decide(
            plan,
            {"weekly": Snapshot(policy, 20)},
            Profile("u", "u"),
            request,
            NOW,
            decision_id=f"d{number}",
            options=options,
        )
        (row,) = decision_record(decision, NOW).rows
        assert logged.setdefault(row.variant, row.propensity) == row.propensity
        served[row.variant] += 1
    assert served.keys() == ARMS - lost.keys()
    assert sum(logged.values()) == pytest.approx(1.0)
    assert max(logged.values()) > 1.5 * min(logged.values())
    statistic = sum((served[arm] - runs * p) ** 2 / (runs * p) for arm, p in logged.items())
    assert chi2.sf(statistic, len(logged) - 1) > 1e-3
