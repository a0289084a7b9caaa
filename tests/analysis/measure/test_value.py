"""Customer value: known answers of papers and of CDNOW's orders, recovered parameters, no number from nothing."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.sources import EventSource
from engine.analysis.measure.value.bg_nbd import OrderHistory, chance_alive, expected_orders, fit_bg_nbd
from engine.analysis.measure.value.clv import ClvOptions, measure_clv
from engine.analysis.measure.value.gamma_gamma import expected_order_worth, fit_gamma_gamma
from engine.analysis.measure.value.rfm import measure_rfm
from engine.analysis.measure.value.sbg import ContractRetention, fit_contracts
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput, CatalogError
from tests.catalog.folder import plan
from tests.verbs import run_verb

CDNOW = Path(__file__).parents[3] / ".cache/cdnow/lifetimes/datasets"
needs_cdnow = pytest.mark.skipif(not CDNOW.is_dir(), reason="`make cdnow` fetches the orders")


def write_csv(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])
    return str(file)


@needs_cdnow
def test_models_of_cdnow_have_the_published_parameters() -> None:
    """Fader, Hardie and Lee 2005, table 2; Fader and Hardie 2013."""
    source = EventSource(files=(str(CDNOW / "cdnow_customers_summary_with_transactions.csv"),))
    report, traits = measure_clv(source, ClvOptions(horizon=39 * 7.0))
    model, worth = report.orders_model, report.worth_model
    assert not isinstance(model, NotEstimable)
    assert not isinstance(worth, NotEstimable)
    assert [model.r, model.alpha, model.a, model.b] == pytest.approx([0.24259, 4.41353, 0.79289, 2.42575], abs=1e-4)
    assert model.log_likelihood == pytest.approx(-9582.426, abs=1e-3)
    assert [worth.p, worth.q, worth.v] == pytest.approx([6.2488, 3.7446, 15.4477], abs=1e-3)
    first = next(iter(traits.values()))
    assert first["expected_orders"] == pytest.approx(1.2259, abs=1e-3)
    assert first["p_alive"] == pytest.approx(0.7266, abs=1e-3)


def test_orders_of_cdnow_have_the_published_expected_worth() -> None:
    """The documentation of lifetimes: the first two customers with orders, and all those without."""
    theta = np.log([6.2488, 3.7446, 15.4477])
    found = expected_order_worth(theta, np.array([2.0, 1.0, 0.0]), np.array([22.35, 11.77, 0.0]))
    assert found == pytest.approx([24.6586, 18.9115, 35.1710], abs=2e-3)


@needs_cdnow
def test_orders_are_summarized_as_cdnows_authors_did() -> None:
    source = EventSource(files=(str(CDNOW / "CDNOW_master.txt"),))
    whole = source.rows("SELECT count(*), count(DISTINCT customer), sum(revenue) FROM {events}")[0]
    assert whole == (69_659, 23_570, pytest.approx(2_500_315.63))


def test_contracts_have_the_published_parameters() -> None:
    """Fader and Hardie 2007, 'How to Project Customer Retention': high end and regular customers, seven years."""
    known = {(869, 743, 653, 593, 551, 517, 491): (0.668, 3.806), (631, 468, 382, 326, 289, 262, 241): (0.704, 1.182)}
    for left_over, (alpha, beta) in known.items():
        staying = np.zeros(7)
        staying[-1] = left_over[-1]
        fit = fit_contracts(-np.diff([1000.0, *left_over]), staying)
        assert isinstance(fit, ContractRetention)
        assert (fit.alpha, fit.beta) == pytest.approx((alpha, beta), abs=1e-3)
        assert fit.retention == sorted(fit.retention)
        assert fit.low < fit.lifetime < fit.high
        survival = np.cumprod((fit.beta + np.arange(20_000)) / (fit.alpha + fit.beta + np.arange(20_000)))
        for discount in (0.1, 0.008):
            valued = fit_contracts(-np.diff([1000.0, *left_over]), staying, discount=discount)
            assert isinstance(valued, ContractRetention)
            expected = 1 + float(survival @ (1 + discount) ** -np.arange(1.0, 20_001.0))
            assert valued.lifetime == pytest.approx(expected, rel=1e-6)


def test_expectations_are_those_of_the_models_integrals() -> None:
    """Fader, Hardie and Lee 2005, equation 10, and Fader and Hardie 2013, equation 5, against their definitions.

    A customer's rate, chance to leave and worth are drawn from their prior, weighted by the likelihood of the history.
    """
    rng, draws = np.random.default_rng(11), 400_000
    r, alpha, a, b, p, q, v = 0.6, 4.0, 1.5, 3.0, 6.0, 4.0, 15.0
    rate, leaves = rng.gamma(r, 1 / alpha, draws), rng.beta(a, b, draws)
    for x, t, observed, ahead in ((0, 0.0, 20.0, 10.0), (3, 12.0, 30.0, 25.0), (9, 38.0, 40.0, 52.0)):
        one, last, age, many = (np.array([float(of)]) for of in (x, t, observed, 1))
        history = OrderHistory(x=one, t=last, observed=age, weight=many)
        alive = np.where(x > 0, (1 - leaves) ** x, 1.0) * rate**x * np.exp(-rate * observed)
        left = np.where(x > 0, leaves * (1 - leaves) ** max(x - 1, 0) * rate**x * np.exp(-rate * t), 0.0)
        each = (1 - np.exp(-leaves * rate * ahead)) / leaves  # orders of one who is alive
        theta = np.log([r, alpha, a, b])
        assert chance_alive(theta, history)[0] == pytest.approx(alive.sum() / (alive + left).sum(), rel=0.02)
        expected = (alive * each).sum() / (alive + left).sum()
        assert expected_orders(theta, history, ahead)[0] == pytest.approx(expected, rel=0.02)
    scale = rng.gamma(q, 1 / v, draws)
    for x, mean in ((1, 10.0), (4, 60.0)):
        weight = scale ** (p * x) * np.exp(-scale * mean * x)
        found = expected_order_worth(np.log([p, q, v]), np.array([float(x)]), np.array([mean]))[0]
        assert found == pytest.approx((weight * p / scale).sum() / weight.sum(), rel=0.02)


def simulate(rng: np.random.Generator, size: int) -> OrderHistory:
    """Customers of the model with r 0.6, alpha 3, a 1.2, b 3, observed for 40 to 60 weeks."""
    rate, leaves = rng.gamma(0.6, 1 / 3, size), rng.beta(1.2, 3.0, size)
    observed = rng.uniform(40, 60, size)
    x, t = np.zeros(size), np.zeros(size)
    for n in range(size):
        at = 0.0
        while (at := at + rng.exponential(1 / rate[n])) < observed[n]:
            x[n], t[n] = x[n] + 1, at
            if rng.random() < leaves[n]:
                break
    return OrderHistory(x=x, t=t, observed=observed, weight=np.ones(size))


def test_the_intervals_of_parameters_cover_the_truth() -> None:
    rng, truth, covered, runs = np.random.default_rng(3), np.log([0.6, 3.0, 1.2, 3.0]), 0, 8
    for _ in range(runs):
        fit = fit_bg_nbd(simulate(rng, 700))
        assert not isinstance(fit, NotEstimable)
        se = np.sqrt(np.diag(fit[1].covariance))
        covered += int((np.abs(fit[1].theta - truth) < 1.96 * se).sum())
    assert covered >= 4 * runs * 0.95 - 3 * (4 * runs * 0.95 * 0.05) ** 0.5 - 2


def test_a_model_does_not_depend_on_the_order_or_the_unit_of_time() -> None:
    rng = np.random.default_rng(4)
    weeks = simulate(rng, 500)
    at = rng.permutation(500)
    days = OrderHistory(x=weeks.x[at], t=7 * weeks.t[at], observed=7 * weeks.observed[at], weight=weeks.weight[at])
    one, other = fit_bg_nbd(weeks), fit_bg_nbd(days)
    assert not isinstance(one, NotEstimable)
    assert not isinstance(other, NotEstimable)
    assert (one[0].r, 7 * one[0].alpha) == pytest.approx((other[0].r, other[0].alpha), rel=1e-4)
    ahead = expected_orders(one[1].theta, weeks, 10.0)[at]
    assert ahead == pytest.approx(expected_orders(other[1].theta, days, 70.0), rel=1e-3)
    alive = chance_alive(one[1].theta, weeks)
    assert np.all((alive > 0) & (alive <= 1))
    assert np.all(expected_orders(one[1].theta, weeks, 20.0) >= expected_orders(one[1].theta, weeks, 10.0))


def test_a_fit_and_its_refusal_do_not_depend_on_the_order_of_rows() -> None:
    answers: set[bool] = set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        past = simulate(rng, 40 + 40 * seed)
        worth = np.where(past.x > 0, rng.gamma(6, 1, past.x.size) / rng.gamma(4, 1 / 15, past.x.size), 0.0)
        found = []
        for _ in range(3):
            at = rng.permutation(past.x.size)
            order = OrderHistory(x=past.x[at], t=past.t[at], observed=past.observed[at], weight=past.weight[at])
            orders, spending = fit_bg_nbd(order), fit_gamma_gamma(past.x[at], worth[at], past.weight[at])
            found.append([one if isinstance(one, NotEstimable) else one[0] for one in (orders, spending)])
        assert found[0] == found[1] == found[2]
        answers.update(isinstance(one, NotEstimable) for one in found[0])
    assert answers == {True, False}


def test_a_value_report_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    past = simulate(rng, 5000)
    numbers = np.column_stack([past.x, past.t, past.observed, np.where(past.x > 0, rng.gamma(6, 3, 5000), 0.0)])
    rows = [[f"c{n}", "web" if n % 3 else "store", *row] for n, row in enumerate(numbers.tolist())]
    header = ["id", "channel", "frequency", "recency", "age", "monetary"]
    found = []
    for name in ("one.csv", "other.csv"):
        found.append(measure_clv(EventSource(files=(write_csv(tmp_path / name, header, rows),))))
        rng.shuffle(rows)
    assert found[0] == found[1]


def test_nothing_is_invented_from_a_tiny_table(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "orders.csv", ["customer", "time", "revenue"], [["a", "2026-01-01", 5.0]])
    report, traits = measure_clv(EventSource(files=(file,)))
    assert isinstance(report.money, NotEstimable)
    assert isinstance(report.alive, NotEstimable)
    assert (traits, report.deciles, report.groups) == ({}, [], [])
    scores, segments = measure_rfm(EventSource(files=(file,)))
    assert isinstance(scores.money, NotEstimable)
    assert (scores.segments, segments) == ([], {})


def test_a_shop_names_its_own_rfm_segments(tmp_path: Path) -> None:
    rfm = [
        {"name": "fans", "recency": [3, 5], "monetary": [4, 5]},
        {"name": "gone", "recency": [1, 2], "slipping": True},
        {"name": "others"},
    ]
    own = plan(segments={"rfm": rfm}).rfm
    rows = [[f"c{number}", f"2026-01-{number + 1:02}", 10.0 + number] for number in range(10)]
    file = write_csv(tmp_path / "orders.csv", ["customer", "time", "revenue"], rows)
    report, traits = measure_rfm(EventSource(files=(file,), rfm=own))
    assert {segment.name for segment in report.segments} == {"fans", "gone", "others"}
    assert (traits["c9"], traits["c0"]) == ({"rfm": "fans"}, {"rfm": "gone"})
    assert report.money.estimate == sum(10.0 + number for number in range(10) if traits[f"c{number}"]["rfm"] == "gone")
    with pytest.raises(CatalogError, match="end the list with a segment without scores"):
        plan(segments={"rfm": rfm[:2]})


def test_a_refund_lowers_what_an_order_is_worth(tmp_path: Path) -> None:
    header = ["customer", "time", "event", "order_id", "amount"]
    rows = [[f"c{n}", f"2026-01-{n + 1:02}", "purchase", n, 10.0 + n] for n in range(10)]
    rows += [["c9", "2026-02-01", "refund", 9, 4.0], ["c8", "2026-02-01", "refund", 8, 18.0]]
    source = EventSource(files=(write_csv(tmp_path / "orders.csv", header, rows),))
    report, _ = measure_rfm(source)
    assert report.customers == 9
    assert sum(segment.revenue for segment in report.segments) == pytest.approx(sum(range(10, 18)) + 15)


def test_an_order_has_the_date_and_channel_of_its_first_message(tmp_path: Path) -> None:
    header = ["customer", "time", "event", "order_id", "amount", "channel"]
    placed = [[f"c{n}", f"2026-01-{n + 1:02}", "order_placed", n, 10.0 + n, "web"] for n in range(20)]
    done = [[f"c{n}", f"2026-02-{20 - n:02}", "order_completed", n, 10.0 + n, "store"] for n in range(20)]
    last = [["c0", "2026-03-01", "order_placed", "end", 1.0, "web"]]
    found = []
    for name, rows in (("placed.csv", placed + last), ("both.csv", done + last + placed)):
        source = EventSource(files=(write_csv(tmp_path / name, header, rows),))
        orders = source.rows("SELECT customer, time, channel, revenue FROM {orders} ORDER BY ALL")
        found.append((measure_rfm(source)[1], orders))
    assert found[0] == found[1]


def test_scores_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    rows = [[f"c{rng.integers(60)}", f"2026-{1 + n % 12:02}-01", float(rng.integers(1, 9))] for n in range(300)]
    found = []
    for name in ("one.csv", "other.csv"):
        rng.shuffle(rows)
        found.append(measure_rfm(EventSource(files=(write_csv(tmp_path / name, ["id", "date", "value"], rows),)))[1])
    assert found[0] == found[1]


def test_columns_are_found_by_name_or_asked_for(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "orders.csv", ["who", "date", "value"], [["a", 20260101, 5.0]])
    with pytest.raises(BadInput, match="needs --customer COL"):
        measure_rfm(EventSource(files=(file,)))
    with pytest.raises(BadInput, match="has no such column"):
        measure_rfm(EventSource(files=(file,), names={"customer": "whose"}))
    assert measure_rfm(EventSource(files=(file,), names={"customer": "who"}))[0].customers == 1


def test_the_page_has_the_sentence_the_picture_and_what_it_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    rows = [[f"c{rng.integers(90)}", f"2026-{1 + n % 9:02}-{1 + n % 28:02}", 5.0 + n % 7] for n in range(400)]
    file = write_csv(tmp_path / "orders.csv", ["customer", "time", "revenue"], rows)
    page = tmp_path / "page.html"
    done = run_verb("measure", "rfm", "--table", file, "--json", "--html", str(page), check=True)
    report = json.loads(done.stdout)
    text = page.read_text()
    assert report["sentence"].replace("'", "&#x27;") in text
    assert "What this is not" in text
    assert "vegaEmbed('#chart0'" in text
    assert "https://" not in text.partition("<script>")[0]
