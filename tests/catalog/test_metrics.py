"""Metrics: each kind has its keys, and `check` names those that are missing and those of other kinds."""

from typing import Any

import pytest

from engine.errors import CatalogError
from tests.catalog.folder import BASE, specs


def problems(*metrics: dict[str, Any], **files: Any) -> list[str]:
    known = [{"key": "click", "event": "click"}, *metrics]
    try:
        specs(metrics={"metrics": known}, **files)
    except CatalogError as error:
        return [f"{problem.path} {problem.message}" for problem in error.problems]
    return []


FUNNEL = {"key": "f", "kind": "funnel", "steps": ["view", {"event": "cart", "filter": {"size": 2}}], "window": "7d"}
LEAST = {"key": "t", "kind": "threshold", "event": "purchase", "at_least": 3, "window": "30d"}
DAYS = {"key": "d", "kind": "active_days", "event": "view"}


def test_funnels_thresholds_and_active_days_are_metrics() -> None:
    assert problems(FUNNEL | {"within": "1h"}, LEAST | {"value": "revenue"}, DAYS | {"window": "7d"}) == []


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        ({"key": "f", "kind": "funnel", "window": "7d"}, "metrics[1].steps is missing"),
        (FUNNEL | {"window": None}, "metrics[1].window is missing"),
        (FUNNEL | {"event": "view"}, "metrics[1].event a funnel has none; its events are its steps"),
        (FUNNEL | {"filter": {"a": 1}}, "metrics[1].filter a funnel has none; write '{event: …, filter: …}' as a step"),
        (FUNNEL | {"steps": ["view"]}, "metrics[1].steps has 1 entries, at least 2 are needed"),
        (FUNNEL | {"steps": ["view", {"event": "x", "fliter": {}}]}, "metrics[1].steps[1].fliter 'fliter' is not"),
        (FUNNEL | {"steps": ["view", {"event": "x", "filter": {"a": {"$gtt": 1}}}]}, "metrics[1].steps[1].filter.a"),
        (LEAST | {"at_least": None}, "metrics[1].at_least is missing"),
        (LEAST | {"at_least": 0}, "metrics[1].at_least 0 is not above 0"),
        (LEAST | {"steps": ["a", "b"]}, "metrics[1].steps belongs to a funnel; leave it out"),
        (DAYS | {"at_least": 2}, "metrics[1].at_least belongs to a threshold"),
        (DAYS | {"value": "revenue"}, "metrics[1].value active_days count days"),
        ({"key": "p"}, "metrics[1].event is missing; name the event that counts"),
    ],
)
def test_a_key_that_is_missing_or_of_another_kind_is_named(metric: dict[str, Any], wanted: str) -> None:
    found = problems({key: value for key, value in metric.items() if value is not None})
    assert any(one.startswith(wanted) for one in found), found


def test_no_policy_is_rewarded_by_a_metric_of_several_events() -> None:
    channels = {**BASE["channels.yaml"], "placements": [{"key": "hero", "channels": ["web", "app"]}]}
    selection = {"key": "hero", "placement": "hero", "offers": {"tagged": "x"}, "policy": {"kind": "uniform"}}
    selection |= {"reward": {"metric": "t", "window": "1h"}, "fallback": "z"}
    found = problems(LEAST, channels=channels, hero=selection)
    assert any(one.startswith("reward.metric 't' is of kind threshold, which no single event decides") for one in found)
