"""Campaigns of `campaigns.yaml`: mistakes are named with their place, value, rule and remedy."""

from pathlib import Path
from typing import Any

import pytest

from engine.catalog import load_plan
from engine.errors import CatalogError
from tests.stories.conftest import write_shop

CAMPAIGN = {
    "key": "weekly",
    "schedule": {"days": ["monday"], "at": ["09:00"]},
    "channels": [{"channel": "web", "placement": "letter"}],
    "policy": {"kind": "uniform"},
    "reward": {"metric": "click"},
}


@pytest.mark.parametrize(
    ("channels", "remedy"),
    [({}, "no channel has it yet"), ({"email": {"outbound": True}}, "or use one of email")],
)
def test_a_campaign_needs_a_channel_that_writes_to_customers(tmp_path: Path, channels: Any, remedy: str) -> None:
    shop = {"offers": {"coffee": {}}, "placements": {"letter": {"offers": ["coffee"]}}, "campaigns": [CAMPAIGN]}
    with pytest.raises(CatalogError) as caught:
        load_plan(write_shop(tmp_path / "shop", shop | {"channels": channels}))
    (problem,) = caught.value.problems
    assert str(problem) == (
        "shop/campaigns.yaml campaigns[0].channels[0].channel: 'web' does not write to customers; "
        f"give it 'outbound: true' in channels.yaml, {remedy}"
    )
