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
        (FUNNEL | {"event": "view"}, "metrics[1].event a funnel has none; a funnel's events are its steps"),
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


ROWS = {"table": "orders", "at": "warehouse", "customer": "cid", "time": "at"}
MEAN = {"key": "m", "kind": "mean", "source": ROWS | {"value": "margin"}, "window": "7d"}
SOURCES = {"sources": [{"key": "warehouse", "kind": "postgres", "address": "WAREHOUSE_URL"}]}


def test_a_metric_may_be_read_from_a_table() -> None:
    wanted = {"state": {"$in": ["paid"]}, "n": {"$gte": 2, "$lt": 2.5}}
    assert problems(MEAN | {"filter": wanted}, sources=SOURCES) == []


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [
        (
            MEAN | {"source": ROWS | {"at": "wharehouse"}},
            "metrics[1].source.at 'wharehouse' is not in sources.yaml; did",
        ),
        (MEAN | {"source": ROWS}, "metrics[1].source.value is missing; a mean needs the column that it adds up"),
        (
            MEAN | {"source": {"table": "orders", "at": "warehouse", "time": "at"}},
            "metrics[1].source.customer is missing",
        ),
        (MEAN | {"source": ROWS | {"table": "a\nb"}}, "metrics[1].source.table 'a\\nb' is not the name of a table"),
        (MEAN | {"event": "purchase"}, "metrics[1].event is of events, and this metric is read from a table"),
        (MEAN | {"kind": "csat"}, "metrics[1].kind a csat is not read from tables"),
        (MEAN | {"kind": "quantile", "quantile": 0.9, "source": ROWS}, "metrics[1].source.value is missing"),
        (
            {"key": "m", "kind": "funnel", "steps": ["a", "b"], "window": "7d", "source": ROWS},
            "metrics[1].source.event is missing; a funnel needs the column",
        ),
        (MEAN | {"source": ROWS | {"value": "v", "event": "kind"}}, "metrics[1].source.event a mean has none"),
        (
            {"key": "m", "kind": "funnel", "window": "7d", "source": ROWS | {"event": "kind"}}
            | {"steps": ["a", {"event": "b", "filter": {"x": {"$regex": "y"}}}]},
            "metrics[1].steps[1].filter.x compares a table's column by '$regex'",
        ),
        (MEAN | {"filter": {"$or": [{"a": 1}]}}, "metrics[1].filter.$or does not apply to a table's columns"),
        (MEAN | {"filter": {"a": {"$regex": "x"}}}, "metrics[1].filter.a compares a table's column by '$regex'; use"),
        *(
            (MEAN | {"filter": {"a": wanted}}, "metrics[1].filter.a compares a table's column with ")
            for wanted in (
                {"$in": ["paid", 1]},
                {"$in": [1, "paid"]},
                {"$nin": [True, "paid"]},
                {"$in": [True, 1]},
                {"$in": []},
                {"$ne": "paid", "$gt": 1},
            )
        ),
        (
            MEAN | {"source": ROWS | {"currency": "cur"}, "kind": "count"},
            "metrics[1].source.currency is the",
        ),
    ],
)
def test_check_says_what_is_wrong_with_a_table_without_connecting(metric: dict[str, Any], wanted: str) -> None:
    found = problems(metric, sources=SOURCES)
    assert any(one.startswith(wanted) for one in found), found


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ({"kind": "postgres"}, "sources[0].address is missing; write the name of the environment variable"),
        (
            {"kind": "postgres", "address": "postgresql://me:secret@db/shop"},
            "sources[0].address 'postgresql://me:secret@",
        ),
        ({"kind": "files"}, "sources[0].path is missing; write the path of its folder or file"),
        ({"kind": "spark", "path": "x"}, "sources[0].path is not used by a connection of kind spark; leave it out"),
        ({"kind": "oracle"}, "sources[0].kind 'oracle' is not one of files, sqlite, postgres"),
    ],
)
def test_a_connection_has_what_its_kind_needs(source: dict[str, Any], wanted: str) -> None:
    found = problems(sources={"sources": [{"key": "warehouse"} | source]})
    assert any(one.startswith(wanted) for one in found), found


def test_no_policy_is_rewarded_by_a_metric_of_several_events() -> None:
    channels = {**BASE["channels.yaml"], "placements": [{"key": "hero", "channels": ["web", "app"]}]}
    selection = {"key": "hero", "placement": "hero", "offers": {"tagged": "x"}, "policy": {"kind": "uniform"}}
    selection |= {"reward": {"metric": "t", "window": "1h"}, "fallback": "z"}
    found = problems(LEAST, channels=channels, hero=selection)
    assert any(one.startswith("reward.metric 't' is of kind threshold, which no single event decides") for one in found)
