"""Attribution: known credits, conservation, and causal credit that holds where rules go wrong."""

import importlib.util
from collections.abc import Callable, Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.journeys.attribution import AttributionOptions, measure_attribution
from engine.analysis.measure.journeys.causal_credit import causal_credits
from engine.analysis.measure.journeys.credit import RULES
from engine.analysis.measure.opportunity.report import measure_opportunity
from engine.analysis.measure.sources import EventSource
from engine.analysis.measure.value.cohorts import measure_cohorts
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

_spec = importlib.util.spec_from_file_location("worlds", Path(__file__).with_name("worlds.py"))
assert _spec is not None
assert _spec.loader is not None
worlds = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worlds)


ARMS = ["coffee", "cake", "silence"]
DAY = 86_400.0


def measure(file: Path, header: str, rows: list[str], **options: Any) -> Any:
    file.write_text("\n".join([header, *rows]))
    return measure_attribution(EventSource(files=(str(file),)), AttributionOptions(**options))


def credit(report: Any, rule: str) -> dict[str, float]:
    return {row.name: row.conversions[rule] for row in report.credits}


def test_markov_and_shapley_have_their_known_answers(tmp_path: Path) -> None:
    rows = ["C1 > C2 > C3,1,1", "C1,0,1", "C2 > C3,0,1"]
    report = measure(tmp_path / "m.csv", "path,conversions,total", rows)
    assert credit(report, "markov") == pytest.approx({"C1": 0.2, "C2": 0.4, "C3": 0.4})
    assert {row.name: row.removal for row in report.credits} == pytest.approx({"C1": 0.5, "C2": 1.0, "C3": 1.0})
    report = measure(tmp_path / "s.csv", "path,conversions,nulls", ["A > B,2,0", "A,1,1", "B,0,2"])
    assert credit(report, "shapley") == pytest.approx({"A": 2.0, "B": 1.0})


def test_rules_share_one_journey_out(tmp_path: Path) -> None:
    header = "customer,time,event,channel,revenue"
    days = {"web": 1, "email": 8, "app": 15, "store": 22}
    rows = [f"a,2026-01-{day:02},visit,{channel}," for channel, day in days.items()]
    report = measure(tmp_path / "t.csv", header, [*rows, "a,2026-01-22T12:00:00,purchase,store,80"], half_life=7.0)
    assert credit(report, "first") == {"web": 1, "email": 0, "app": 0, "store": 0}
    assert credit(report, "position") == pytest.approx({"web": 0.4, "email": 0.1, "app": 0.1, "store": 0.4})
    weights = np.array([0.125, 0.25, 0.5, 1.0])
    assert credit(report, "decay") == pytest.approx(dict(zip(days, weights / weights.sum(), strict=True)))
    assert sum(row.value["linear"] for row in report.credits) == pytest.approx(80)


def simulate(rng: np.random.Generator) -> list[str]:
    return [
        f"c{rng.integers(40)},{(1_767_225_600 + int(rng.integers(0, 90 * 86_400)))},"
        f"{rng.choice(['visit', 'visit', 'visit', 'purchase'])},{rng.choice(['web', 'app', 'mail', 'store'])},{n % 9}"
        for n in range(500)
    ]


def test_journeys_conserve_conversions_and_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = simulate(rng)
    header = "customer,time,event,channel,revenue"
    one = measure(tmp_path / "one.csv", header, rows)
    rng.shuffle(rows)
    other = measure(tmp_path / "other.csv", header, rows)
    assert 0 < one.attributed <= one.conversions == sum(",purchase," in row for row in rows)
    for rule in RULES:
        assert sum(credit(one, rule).values()) == pytest.approx(one.attributed)
        assert credit(one, rule) == pytest.approx(credit(other, rule))
        assert sum(row.value[rule] for row in one.credits) == pytest.approx(sum(r.value["last"] for r in one.credits))


def removed(paths: list[tuple[list[str], bool]], name: str) -> float:
    """The chance to convert, by walking the chain a thousand steps, where `name` leads nowhere."""
    moves: dict[str, dict[str, float]] = {}
    for names, converts in paths:
        for a, b in pairwise(["^", *names, "+" if converts else "-"]):
            moves.setdefault(a, {})[b] = moves.get(a, {}).get(b, 0.0) + 1
    at = {"^": 1.0}
    for _ in range(300):
        following: dict[str, float] = {}
        for place, mass in at.items():
            ways = {place: 1.0} if place in {"+", "-"} else {"-": 1.0} if place == name else moves[place]
            for to, count in ways.items():
                following[to] = following.get(to, 0.0) + mass * count / sum(ways.values())
        at = following
    return at.get("+", 0.0)


def test_removal_effects_are_those_of_a_walk(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    paths = [(rng.choice(list("ABCDE"), size=rng.integers(1, 6)).tolist(), bool(rng.random() < 0.4)) for _ in range(60)]
    rows = [f"{' > '.join(names)},{int(converts)},1" for names, converts in paths]
    report = measure(tmp_path / "w.csv", "path,conversions,total", rows)
    whole = removed(paths, "")
    for row in report.credits:
        assert row.removal == pytest.approx(1 - removed(paths, row.name) / whole)


def test_shapley_values_are_the_mean_gain_over_all_orders_of_joining(tmp_path: Path) -> None:
    rng, names = np.random.default_rng(8), list("ABCDE")
    paths = [(rng.choice(names, size=rng.integers(1, 6)).tolist(), int(rng.integers(0, 4))) for _ in range(40)]

    def worth(joined: Sequence[str]) -> int:
        return sum(converted for path, converted in paths if set(path) <= set(joined))

    orders = list(permutations(names))
    expected = {
        name: sum(worth(one[: one.index(name) + 1]) - worth(one[: one.index(name)]) for one in orders) / len(orders)
        for name in names
    }
    rows = [f"{'>'.join(path)},{converted},5" for path, converted in paths]
    report = measure(tmp_path / "s.csv", "path,conversions,total", rows)
    assert credit(report, "shapley") == pytest.approx(expected)


def test_causal_credit_covers_the_truth_where_rules_are_wrong(tmp_path: Path) -> None:
    covered, cells, last = 0, 0, 0
    for seed in range(6):
        log = worlds.write_world(tmp_path / str(seed), seed)
        for row in causal_credits(EventSource(log_dir=log), window_days=7.0):
            assert isinstance(row.orders, Effect)
            covered += row.orders.low <= worlds.true_effect(row.offer) <= row.orders.high
            cells += 1
        if seed == 0:
            report = measure_attribution(EventSource(log_dir=log), AttributionOptions(by="offer"))
            last = max(report.credits, key=lambda row: row.conversions["last"]).name
    assert cells == 36
    assert covered >= cells * 0.95 - 3 * (cells * 0.95 * 0.05) ** 0.5
    assert last == "idle"  # it changes nothing, and has the most orders after it


def test_a_hold_out_says_what_an_offer_earns_over_silence(write_log: Callable[..., Path]) -> None:
    """Coffee adds 4 to what a customer spends and cake nothing; keen customers, who spend 20 anyway, get more cake."""
    rng = np.random.default_rng(5)
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}
    for n in range(1500):
        keen = rng.random() < 0.5
        chances = np.array([0.2, 0.6, 0.2] if keen else [0.6, 0.2, 0.2])
        drawn = int(rng.choice(3, p=chances))
        ids = {"decision_id": f"d{n}", "customer": f"c{n}", "key": "hero"}
        choice = {"kind": "offer", "variant": ARMS[drawn], "propensity": chances[drawn], "policy": "hero@1"}
        channel = {"channel": "web" if n % 2 else "app"}
        tables["decisions"].append({**ids, **choice, **channel, "time": 10.0, "candidates": ARMS, "context": "{}"})
        tables["exposures"].append({**ids, "time": 11.0})
        spends = (20.0 if keen else 4.0) + (4.0 if drawn == 0 else 0.0) + rng.uniform(-3, 3)
        order = {"message_id": f"o{n}", "event": "purchase", "customer": f"c{n}", "channel": "web"}
        tables["events"].append({**order, "time": DAY, "revenue": spends})
    tables["events"].append({"message_id": "end", "event": "visit", "customer": "c0", "time": 20 * DAY})
    source = EventSource(log_dir=write_log(**tables))
    found = {(row.offer, row.channel): row for row in causal_credits(source, window_days=7.0)}
    assert set(found) == {(offer, channel) for offer in ("coffee", "cake") for channel in ("web", "app")}
    for (offer, _), row in found.items():
        assert isinstance(row.revenue, Effect)
        assert row.revenue.low < (4.0 if offer == "coffee" else 0.0) < row.revenue.high
    against = {row.offer for row in causal_credits(source, window_days=7.0, against="cake")}
    cells = measure_opportunity(source).cells
    cohorts = measure_cohorts(source, by="offer", period="week").periods
    assert against == {"coffee"}
    assert {one.offer for one in cells} == {"coffee", "cake"}  # silence is no offer
    assert {row.cohort for row in cohorts} == {"coffee", "cake", "unknown"}
    naive = measure_attribution(source, AttributionOptions(by="offer")).credits
    assert {row.name for row in naive} == {"coffee", "cake"}
    by_rule = {row.name: row.value["last"] for row in naive}
    assert by_rule["cake"] > 1.2 * by_rule["coffee"]  # it changes nothing, and the rule credits it with more


def test_nothing_is_invented(tmp_path: Path) -> None:
    report = measure_attribution(EventSource(log_dir=tmp_path))
    assert (report.credits, report.causal, report.picture()) == ([], [], None)
    assert isinstance(report.money, NotEstimable)
    few = worlds.write_world(tmp_path / "few", 1, customers=20)
    assert all(isinstance(row.orders, NotEstimable) for row in causal_credits(EventSource(log_dir=few), window_days=7))
    with pytest.raises(BadInput, match="--event COL"):
        measure(tmp_path / "t.csv", "customer,time,channel", ["a,2026-01-01,web"])
    with pytest.raises(BadInput, match="fewer journeys than conversions"):
        measure(tmp_path / "u.csv", "path,conversions,total", ["A,2,1"])
