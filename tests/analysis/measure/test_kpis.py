"""The KPI tree: past experiments confirm an edge, or a correlation over customers is all there is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.kpis.edge_fit import CarriedEffect, EdgeSlope
from engine.analysis.measure.kpis.report import measure_kpis
from engine.analysis.measure.kpis.variant_effects import measure_effects
from engine.analysis.measure.sources import EventSource
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput, CatalogError
from tests.catalog.folder import experiment, plan, specs

NODES = [
    {"metric": "click", "tier": "implementation", "drives": ["revenue"], "assumed": {"revenue": 20.0}},
    {"metric": "revenue", "tier": "business"},
]
METRICS = [
    {"key": "click", "kind": "proportion", "event": "click"},
    {"key": "revenue", "kind": "revenue", "event": "purchase"},
]
SHOP = {"metrics": METRICS, "kpis": NODES}
HEADER = "experiment,lead,lag,lead_effect,lead_se,lag_effect,lag_se,covariance"


def write_effects(folder: Path, rows: list[str]) -> EventSource:
    file = folder / "effects.csv"
    file.write_text("\n".join([HEADER, *rows]))
    return EventSource(files=(str(file),))


def past_rows(slope: float, seed: int, count: int = 15) -> list[str]:
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        true, first, second = rng.normal(0, 0.02), *rng.normal(size=2)
        lead, lag = true + 0.005 * first, slope * true + 0.1 * (0.6 * first + 0.8 * second)
        rows.append(f"e{n},click,revenue,{lead},0.005,{lag},0.1,0.0003")
    return rows


def test_a_lead_without_its_lag_is_carried_with_the_edges_uncertainty(tmp_path: Path) -> None:
    report = measure_kpis(write_effects(tmp_path, [*past_rows(20.0, 1), "new,click,revenue,0.03,0.005,,,0"]))
    (edge,) = report.edges
    assert (edge.state, edge.fails) == ("validated", False)
    assert isinstance(edge.slope, EdgeSlope)
    assert edge.slope.experiments == 15
    assert edge.slope.low < 20 < edge.slope.high
    first = report.carried[0]
    assert (first.experiment, first.measured) == ("new", None)
    assert isinstance(first.carried, CarriedEffect)
    assert first.carried.estimate == pytest.approx(edge.slope.slope * 0.03)
    assert first.carried.low < 0.6 < first.carried.high
    assert first.carried.high - first.carried.low > 2 * 1.96 * 20 * 0.005
    assert report.picture() is not None


def test_a_surrogate_that_fails_says_so(tmp_path: Path) -> None:
    report = measure_kpis(write_effects(tmp_path, past_rows(0.0, 2)))
    (edge,) = report.edges
    assert (edge.state, edge.fails) == ("assumed", True)
    assert "fails as a surrogate" in edge.why
    assert "fails as a surrogate" in report.sentence
    assert all(isinstance(row.carried, NotEstimable) for row in report.carried)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_experiments_give_no_slope(tmp_path: Path, count: int) -> None:
    report = measure_kpis(write_effects(tmp_path, past_rows(20.0, 3, count)))
    assert all(isinstance(edge.slope, NotEstimable) and edge.state == "assumed" for edge in report.edges)
    assert report.carried == []
    assert isinstance(report.money, NotEstimable)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("e,a,b,0.1,0,0.1,0.1,0", "standard error that is not above 0"),
        ("e,a,b,0.1,0.1,0.1,0.1,0.5", "not a correlation"),
        ("e,a,b,much,0.1,0.1,0.1,0", "no finite number"),
    ],
)
def test_effects_that_cannot_be_are_refused(tmp_path: Path, row: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        measure_kpis(write_effects(tmp_path, [row]))


def shop_log(write_log: Callable[..., Path], *, follows: float) -> Path:
    """Eight experiments; a click is worth `follows`, and keen customers click and buy in every variant."""
    rng = np.random.default_rng(4)
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}
    for number in range(8):
        gain = [0.3, -0.2, 0.0, 0.25, -0.15, 0.35, 0.1, -0.1][number]
        for n in range(160):
            ids = {"decision_id": f"{number}-{n}", "customer": f"{number}-c{n}", "key": f"e{number}"}
            variant, keen = ("control", "new")[n % 2], rng.random() < 0.5
            tables["decisions"].append({**ids, "time": 5.0, "variant": variant})
            tables["exposures"].append({**ids, "time": 6.0})
            clicks = rng.random() < 0.35 + 0.25 * keen + (gain if variant == "new" else 0.0)
            event = {"customer": ids["customer"], "time": 60.0}
            if clicks:
                tables["events"].append({**event, "message_id": f"k{number}-{n}", "event": "click"})
            spends = 10 + 4 * keen + follows * clicks + rng.normal()
            tables["events"].append({**event, "message_id": f"p{number}-{n}", "event": "purchase", "revenue": spends})
    return write_log(**tables)


@pytest.mark.parametrize(("follows", "state"), [(6.0, "validated"), (0.0, "correlational")])
def test_the_experiments_of_a_log_decide_not_its_customers(
    write_log: Callable[..., Path], follows: float, state: str
) -> None:
    """Only two of the experiments have a file; customers who click spend more either way."""
    shop = plan(*(experiment(f"e{n}", variants=[{"key": "control"}, {"key": "new"}]) for n in range(2)), metrics=SHOP)
    report = measure_kpis(EventSource(log_dir=shop_log(write_log, follows=follows)), shop)
    (edge,) = report.edges
    assert (report.experiments, edge.state, edge.assumed) == (8, state, 20.0)
    assert edge.correlation is not None
    assert edge.correlation > 0.1
    assert isinstance(edge.slope, EdgeSlope)
    assert edge.slope.low < follows < edge.slope.high
    assert edge.fails == (follows == 0)
    levels = {one.name: one.level for one in report.levels}
    assert isinstance(levels["revenue per customer"], Effect)
    assert isinstance(levels["NPS"], NotEstimable)
    assert {one.tier for one in report.levels} == {"implementation", "strategy", "business"}


def test_experiments_that_share_customers_and_decisions_are_kept_apart(write_log: Callable[..., Path]) -> None:
    """An order that names a decision from before the exposure counts for the experiments of that decision alone.

    Of `drawn_again` the latest version counts, and who saw both variants of `both` counts for none.
    """
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}

    def decide(key: str, n: int, variant: str, **more: Any) -> None:
        ids = {"decision_id": f"{key}{more.get('version', '')}-{n}", "customer": f"c{n}", "key": key}
        tables["decisions"].append({**ids, "time": 5.0, "variant": variant, **more})
        tables["exposures"].append({**ids, "time": more.get("time", 5.0) + 1000.0})

    for n in range(120):
        variant, other = ("control", "new") if n % 2 else ("new", "control")
        for key in ("named", "silent", "both"):
            decide(key, n, variant)
        if n < 20:
            decide("both", n, other, decision_id=f"second-{n}")
            tables["exposures"][-1]["decision_id"] = f"second-{n}"
        decide("drawn_again", n, other, version="1")
        decide("drawn_again", n, variant, version="2", time=9.0)
        spends = 10.0 + n // 2 % 2
        if variant == "new":
            spends += 5.0 if n >= 20 else 65.0
        ids = {"message_id": f"p{n}", "customer": f"c{n}", "event": "purchase"}
        tables["events"].append({**ids, "time": 20.0, "decision_id": f"named-{n}", "revenue": spends})
        tables["events"].append({**ids, "message_id": f"l{n}", "time": 2000.0, "revenue": spends - 8})
    shop = plan(metrics=SHOP)
    tree = measure_effects(EventSource(log_dir=write_log(**tables)), shop, ["revenue"])
    found = {one.experiment: float(one.estimates[0]) for one in tree.effects}
    assert found == pytest.approx({"named": 30.0, "silent": 15.0, "both": 5.0, "drawn_again": 15.0})
    assert len(tree.effects) == 4


def test_nothing_is_invented(tmp_path: Path) -> None:
    report = measure_kpis(EventSource(log_dir=tmp_path), plan(metrics=SHOP))
    assert [edge.state for edge in report.edges] == ["assumed"]
    assert isinstance(report.money, NotEstimable)
    assert all(isinstance(one.level, NotEstimable) for one in report.levels)
    bare = measure_kpis(EventSource(log_dir=tmp_path), plan())
    assert (bare.nodes, bare.picture()) == ([], None)
    assert "no `kpis`" in bare.sentence


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([{"metric": "clik", "tier": "business"}], "'clik' is not in metrics.yaml"),
        ([NODES[0]], "'revenue' is not in the nodes of kpis"),
        ([*NODES, NODES[1]], "is a node already"),
        (
            [{"metric": "revenue", "tier": "business", "drives": ["click"]}, {**NODES[0], "drives": [], "assumed": {}}],
            "an earlier tier",
        ),
        ([{**NODES[0], "drives": ["click"], "assumed": {}}], "click -> click is a cycle"),
        ([{**NODES[0], "drives": []}, NODES[1]], "'revenue' is not driven by it"),
    ],
)
def test_a_tree_that_cannot_be_is_a_problem_of_the_file(nodes: list[Any], problem: str) -> None:
    with pytest.raises(CatalogError) as caught:
        specs(metrics={"metrics": METRICS, "kpis": nodes})
    assert any(problem in str(one) for one in caught.value.problems)
