"""From YAML and HTTP to the report: every unit, stratum and segment, and the shares that the plan serves."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest
import yaml

from tests.verbs import run_verb

METRIC = {"metrics": {"primary": "click"}}
HALVES = [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}]
PROBE = {"customer": {"user_id": "probe"}, "channel": "web"}
FIXED = {"method": "fixed", "min_days": 1}


def shop_with(**experiment: Any) -> dict[str, Any]:
    return {
        "offers": {"a": {}},
        "placements": {},
        "experiments": {"layout": {"variants": HALVES, "analysis": FIXED, **METRIC, **experiment}},
    }


def analyze(shop: Any, *more: str, fails: bool = False) -> Any:
    folders = ("--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments))
    done = run_verb("analyze", "layout", "--json", *folders, *more)
    assert (done.returncode == 0) is not fails, done.stderr
    return done.stderr if fails else json.loads(done.stdout)


def analyze_text(shop: Any, *more: str) -> str:
    folders = ("--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments))
    return run_verb("analyze", "layout", *more, *folders, check=True).stdout


def segments_of(report: Any) -> dict[str, int]:
    """The units of each segment."""
    return {row["segment"]: sum(row["units"].values()) for row in report["segments"][0]["effects"]}


def visit(shop: Any, count: int) -> None:
    """Customers on 40 devices in 20 shops, every third of whom clicks."""
    for n in range(count):
        context = {"store": f"S{n % 20}", "country": "DE" if n % 4 else "AT"}
        shop.identify({"loyalty.tier": n % 3}, user_id=f"u{n}")
        ids = {"user_id": f"u{n}", "anonymous_id": f"d{n % 40}"}
        shop.decide("web", experiments=["layout"], context=context, **ids)
        if n % 3 == 0:
            shop.tell("click", user_id=f"u{n}")
    shop.collect()


@pytest.mark.parametrize(("unit", "units"), [("customer", 120), ("store", 20), ("device", 40)])
def test_every_unit_has_its_report(open_shop: Any, unit: str, units: int) -> None:
    shop = open_shop(shop_with(unit=unit))
    visit(shop, 120)
    report = analyze(shop, "--segment", "country")
    assert sum(report["units"].values()) == units
    assert sum(segments_of(report).values()) == units
    assert report["metrics"][0]["mean"].keys() == {"x", "y"}


def test_a_store_is_exposed_by_openfeature_without_a_customer(open_shop: Any) -> None:
    shop = open_shop(shop_with(unit="store"))
    for n in range(20):
        context = {"store": f"S{n}"}
        if n % 2:
            answer = shop.client().post("/ofrep/v1/evaluate/flags/layout", json={"context": context})
            assert answer.json()["metadata"]["reason"] == "assigned"
            continue
        answer = shop.client().post("/ofrep/v1/evaluate/flags", json={"context": context}).json()
        seen = {"decision_id": answer["metadata"]["decisionId"], "experiments": ["layout"]}
        assert shop.client().post("/v1/exposures", json=seen).status_code == 202
    shop.collect()
    assert sum(analyze(shop)["units"].values()) == 20


def test_any_segment_can_be_asked_for_afterwards(open_shop: Any) -> None:
    shop = open_shop(shop_with(audience={"loyalty.tier": {"$gte": 0}}))
    visit(shop, 60)
    logged = segments_of(analyze(shop, "--segment", "loyalty.tier"))
    assert logged == {"0": 20, "1": 20, "2": 20}
    assert segments_of(analyze(shop, "--segment", "country")) == {"DE": 45, "AT": 15}
    by_condition = segments_of(analyze(shop, "--segment", "loyalty.tier: {$gte: 1}"))
    assert by_condition == {"true": 40, "false": 20}
    contexts = f"SELECT DISTINCT context FROM '{shop.settings.log}/decisions/**/*.parquet'"
    assert {json.loads(text)["loyalty.tier"] for (text,) in duckdb.sql(contexts).fetchall()} == {0, 1, 2}
    refused = analyze(shop, "--segment", "nonsense", fails=True)
    assert "no decision of layout" in refused
    assert "loyalty.tier" in refused
    refused = analyze(shop, "--segment", "loyalty.tier: {$gt: [1]}", fails=True)
    assert refused.count("\n") <= 2
    assert "--segment" in refused


def test_the_log_of_before_has_its_units_and_segments_in_the_traces(open_shop: Any) -> None:
    """Rows of earlier releases have neither device nor context; their reports are those of rows that have."""
    shop = open_shop(shop_with(unit="device", audience={"loyalty.tier": {"$gte": 0}}))
    visit(shop, 60)
    before = analyze(shop, "--segment", "loyalty.tier")
    for file in (shop.settings.log / "decisions").glob("**/*.parquet"):
        kept = f"SELECT * REPLACE (NULL::VARCHAR AS device, '{{}}' AS context) FROM '{file}'"
        duckdb.sql(f"COPY ({kept}) TO '{file}.new' (FORMAT parquet)")
        (file.parent / f"{file.name}.new").rename(file)
    after = analyze(shop, "--segment", "loyalty.tier")
    for report in (before, after):
        report.pop("as_of")
    assert after["units"] == before["units"]
    assert segments_of(after) == segments_of(before)
    assert after["metrics"][0]["mean"] == pytest.approx(before["metrics"][0]["mean"])


def test_rows_of_an_erased_customer_hold_no_trait(open_shop: Any) -> None:
    shop = open_shop(shop_with(audience={"email": {"$exists": True}}), workers=1)
    ids = {"user_id": "gone", "anonymous_id": "browser"}
    shop.identify({"email": "gone@example.com"}, **ids)
    assert shop.client().delete("/v1/profiles/gone").status_code < 300
    context = {"email": "gone@example.com"}
    shop.decide("web", experiments=["layout"], context=context, user_id="gone")
    shop.collect()
    rows = duckdb.sql(f"SELECT key, customer, context FROM '{shop.settings.log}/decisions/**/*.parquet'").fetchall()
    assert ("layout", "", "{}") in rows
    assert "gone@example.com" not in str(rows)


def test_a_stratum_of_the_file_is_logged_and_used(open_shop: Any) -> None:
    shop = open_shop(shop_with(analysis={**FIXED, "stratum": "country"}))
    visit(shop, 120)
    report = analyze(shop)
    assert not any("trait" in flag for flag in report["quality"]["flags"])
    assert sum(report["units"].values()) == 120


def test_shares_are_those_that_the_plan_serves(open_shop: Any) -> None:
    """Variants given by unequal ranges are no broken split."""
    ranges = [{"key": "x", "range": [0.0, 0.2]}, {"key": "y", "range": [0.2, 1.0]}]
    shop = open_shop(shop_with(variants=ranges))
    visit(shop, 200)
    report = analyze(shop)
    assert report["quality"]["srm"]["p"] > 1e-4  # a chance of one in ten thousand, and the seed is fixed
    assert report["units"]["y"] > 2 * report["units"]["x"]


def test_a_conversion_counts_from_the_decision_that_it_names(open_shop: Any) -> None:
    """A clock an hour behind, and a click that arrives before the exposure of its prefetched decision."""
    behind = datetime.fromtimestamp(time.time() - 3600, UTC).isoformat()
    shop = open_shop(shop_with())
    first = shop.decide("web", experiments=["layout"], user_id="behind")
    shop.tell("click", user_id="behind", decision_id=first["decision_id"], timestamp=behind)
    second = shop.decide("web", experiments=["layout"], user_id="early", expose=False)
    shop.tell("click", user_id="early", decision_id=second["decision_id"])
    exposed = shop.client().post(
        "/v1/exposures", json={"decision_id": second["decision_id"], "experiments": ["layout"]}
    )
    assert exposed.status_code < 300, exposed.text
    shop.tell("click", user_id="never", timestamp=behind)
    shop.decide("web", experiments=["layout"], user_id="never")
    shop.collect()
    report = analyze(shop)
    means = report["metrics"][0]["mean"]
    clicks = sum(means.get(variant, 0.0) * count for variant, count in report["units"].items())
    assert sum(report["units"].values()) == 3
    assert clicks == pytest.approx(2.0)


def test_conversions_that_do_not_count_are_counted_by_reason(open_shop: Any) -> None:
    """A clock that is off, an exposure that is never sent, an id that nobody has, a window that is over."""
    metrics = [{"key": "click", "event": "click"}, {"key": "soon", "kind": "count", "event": "sale", "window": "1s"}]
    asked = {"metrics": {"primary": "click", "secondary": ["soon"]}}
    shop = open_shop(shop_with(**asked) | {"metrics": metrics})

    def at(seconds: float) -> str:
        return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()

    ids = {}
    for who in ("early", "owner", "other", "strange", "late"):
        ids[who] = shop.decide("web", experiments=["layout"], user_id=who)["decision_id"]
    unseen = shop.decide("web", experiments=["layout"], user_id="unseen", expose=False)["decision_id"]
    shop.tell("click", user_id="early", timestamp=at(-3600))
    shop.tell("click", user_id="early", timestamp=at(-3 * 86_400))  # an ordinary visit of before
    shop.tell("click", user_id="unseen", decision_id=unseen)
    shop.tell("click", user_id="other", decision_id=ids["owner"])
    shop.tell("click", user_id="strange", decision_id="d-nobody-knows")
    shop.tell("sale", user_id="late", decision_id=ids["late"], timestamp=at(-3600))  # its own decision: counts
    time.sleep(1.2)
    shop.tell("sale", user_id="late")
    shop.collect()
    none = dict.fromkeys(("before_exposure", "outside_window", "not_exposed", "unknown_decision", "other_decision"), 0)
    expected = {
        "click": none | {"before_exposure": 1, "not_exposed": 1, "unknown_decision": 1, "other_decision": 1},
        "soon": none | {"outside_window": 1},
    }
    assert analyze(shop)["quality"]["uncounted"] == expected
    shown = " ".join(analyze_text(shop).split())
    assert "soon: events that are not counted as they came: 1 outside of its window." in shown
    assert "1 of a decision that the log does not have" in shown


def edit(shop: Any, weights: tuple[float, float]) -> None:
    """Change the weights in the shop's file, and wait until every worker decides by them."""
    file = shop.settings.experiments / "layout.yaml"
    spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    for variant, weight in zip(spec["variants"], weights, strict=True):
        variant["weight"] = weight
    before = [client.post("/v1/decide", json=PROBE).json()["plan"] for client in shop.clients]
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    deadline = time.time() + 30
    while any(shop.clients[at].post("/v1/decide", json=PROBE).json()["plan"] == plan for at, plan in enumerate(before)):
        assert time.time() < deadline, "the plan with the new weights is not served"
        time.sleep(0.2)


def test_a_question_that_changed_after_the_first_exposure_has_both_verdicts(open_shop: Any) -> None:
    shop = open_shop(shop_with(analysis={"method": "sequential", "min_days": 1}))
    visit(shop, 60)
    data = ["--data", str(shop.settings.data)]
    assert analyze(shop, *data)["first_verdict"] is None
    file = shop.settings.experiments / "layout.yaml"
    spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    spec["metrics"] = {"primary": "revenue", "secondary": ["click"]}
    spec["analysis"]["alpha"] = 0.2
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    report = analyze(shop, *data)
    first = report["first_verdict"]
    assert first["changes"] == ["metrics.primary: click → revenue", "analysis.alpha: 0.05 → 0.2"]
    assert "click" in first["decision"]["why"] + first["decision"]["would_change"]
    assert report["metrics"][0]["metric"] == "revenue"
    shown = " ".join(analyze_text(shop, *data).split())
    assert "The question changed after the first exposure: metrics.primary: click → revenue" in shown
    assert "By the question of the start: KEEP RUNNING" in shown


def test_weights_edited_after_the_run_change_no_verdict_on_the_split(open_shop: Any) -> None:
    shop = open_shop(shop_with(analysis={"method": "sequential", "min_days": 1}))
    visit(shop, 120)
    file = shop.settings.experiments / "layout.yaml"
    spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    spec["variants"][0]["weight"], spec["variants"][1]["weight"] = 0.2, 0.8
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    srm = analyze(shop)["quality"]["srm"]
    assert srm["ok"]
    assert srm["expected"] == {"x": 0.5, "y": 0.5}


def test_periods_of_other_weights_are_compared_apart(open_shop: Any) -> None:
    """Everybody clicks after the first edit, else nobody: totals would show an effect of points, which is none."""
    shop = open_shop(shop_with())
    for n in range(150):
        shop.decide("web", experiments=["layout"], user_id=f"before{n}")
    edit(shop, (0.2, 0.8))
    for n in range(150):
        shop.decide("web", experiments=["layout"], user_id=f"after{n}")
        shop.tell("click", user_id=f"after{n}")
    edit(shop, (0.7, 0.3))
    for n in range(150):
        shop.decide("web", experiments=["layout"], user_id=f"last{n}")
    shop.collect()
    report = analyze(shop)
    assert any("0.5/0.5, then 0.2/0.8, then 0.7/0.3" in flag for flag in report["quality"]["flags"])
    assert report["quality"]["srm"]["ok"]
    assert report["metrics"][0]["absolute"]["estimate"] == pytest.approx(0.0, abs=1e-9)
