"""Money in another currency than the shop's: converted for profile, learner and report alike, or rejected."""

from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from engine.catalog.diff.experiments import compare_specs
from engine.errors import CatalogError
from tests.catalog.folder import specs
from tests.stories.test_orders_agree import SHOP as ORDERS
from tests.stories.test_orders_agree import analyze, run_learner

SHOP: dict[str, Any] = {**ORDERS, "money": {"currency": "EUR", "rates": {"JPY": 0.006, "USD": 0.9}}}
SENT: list[tuple[str, dict[str, Any]]] = [
    ("purchase", {"order_id": "1", "revenue": 12_000, "currency": "JPY"}),
    ("refund", {"order_id": "1", "amount": 2_000, "currency": "jpy"}),
    ("order_completed", {"order_id": "2", "revenue": 100.0, "currency": "USD"}),
    ("purchase", {"order_id": "3", "revenue": 8.0, "currency": "EUR"}),
    ("purchase", {"order_id": "4", "revenue": 5.0}),
    ("refund", {"order_id": "4", "currency": "JPY"}),  # of the whole order
]
NET = 12_000 * 0.006 - 2_000 * 0.006 + 100 * 0.9 + 8
REFUSED: list[dict[str, Any]] = [
    {"revenue": 12_000, "currency": "KRW"},
    {"revenue": 7, "currency": "€"},
    {"revenue": 7, "currency": 978},
    {"revenue": 7, "currency": ""},
]


def item(shop: Any, customer: str, event: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    event_item = {
        "type": "track",
        "event": event,
        "message_id": f"{customer}-{next(shop.numbers)}",
        "user_id": customer,
        "timestamp": datetime.now(UTC).isoformat(),
        "properties": properties,
        **more,
    }
    status: dict[str, Any] = shop.client().post("/v1/events", json={"batch": [event_item]}).json()["statuses"][0]
    return status


def orders(shop: Any, customer: str) -> Any:
    return shop.client().get(f"/v1/profiles/{customer}").json()["attributes"]["orders"]


def test_profile_and_report_agree_on_orders_in_three_currencies(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    customers = ["ada", *(f"c{number}" for number in range(30))]
    variants = {
        customer: shop.decide("web", user_id=customer, experiments=["layout"])["experiments"]["layout"]["variant"]
        for customer in customers
    }
    for customer in customers[1:]:
        item(shop, customer, "purchase", {"revenue": 500, "currency": "JPY"})
    assert [item(shop, "ada", event, sent)["status"] for event, sent in SENT] == ["accepted"] * len(SENT)
    assert orders(shop, "ada")["revenue"] == pytest.approx(NET)
    for sent in REFUSED:
        status = item(shop, "ada", "purchase", sent)
        assert status["status"] == "rejected"
        assert status["reason"].startswith("properties.currency: ")
        assert "send EUR" in status["reason"]
    after = orders(shop, "ada")
    assert (after["revenue"], after["count"]) == (pytest.approx(NET), 3)
    shop.collect()
    report = analyze(shop)
    for variant, units in report["units"].items():
        expected = sum(NET if name == "ada" else 3.0 for name in customers if variants[name] == variant)
        assert report["metrics"][0]["mean"][variant] * units == pytest.approx(expected)


def test_the_learner_is_rewarded_with_what_the_profile_counts(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    run_learner(shop)
    decisions = {
        customer: shop.decide("web", "till", user_id=customer)["decision_id"] for customer in ("ada", "bob", "cyn")
    }
    item(shop, "ada", "purchase", {"order_id": "a", "revenue": 12_000, "currency": "JPY"}, decision_id=decisions["ada"])
    item(shop, "ada", "refund", {"order_id": "a", "amount": 3_000, "currency": "JPY"})
    item(shop, "bob", "purchase", {"order_id": "b", "revenue": 54.0}, decision_id=decisions["bob"])
    item(shop, "cyn", "purchase", {"order_id": "c", "revenue": 12_000, "currency": "KRW"}, decision_id=decisions["cyn"])
    run_learner(shop)
    shop.collect()
    newest = f"SELECT decision_id, arg_max(reward, time) FROM '{shop.settings.log}/rewards/**/*.parquet' GROUP BY ALL"
    rewards = dict(duckdb.sql(newest).fetchall())
    assert rewards[decisions["ada"]] == rewards[decisions["bob"]] == pytest.approx(54.0)
    assert orders(shop, "ada")["revenue"] == orders(shop, "bob")["revenue"] == pytest.approx(54.0)
    assert rewards.get(decisions["cyn"], 0.0) == 0.0


def test_the_log_has_what_was_charged_beside_what_it_is_worth(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    item(shop, "ada", "purchase", {"revenue": 12_000, "currency": "JPY", "sku": "X"})
    item(shop, "ada", "search", {"currency": "KRW", "query": "tea"})  # no money: the currency of a page, say
    shop.collect()
    table = f"'{shop.settings.log}/events/**/*.parquet'"
    (revenue, properties), (_, searched) = duckdb.sql(
        f"SELECT revenue, properties FROM {table} ORDER BY event"
    ).fetchall()
    assert revenue == pytest.approx(72.0)
    assert duckdb.sql(
        f"SELECT json_extract(x, '$.currency') = '\"EUR\"', json_extract(x, '$.\"$charged\".revenue')::INT, "
        f"json_extract_string(x, '$.\"$charged\".currency'), json_extract_string(x, '$.sku') "
        f"FROM (SELECT '{properties}'::JSON AS x)"
    ).fetchall() == [(True, 12_000, "JPY", "X")]
    assert "KRW" in searched


def test_a_change_of_currency_is_unsafe_and_one_of_a_rate_is_named() -> None:
    def changed(**money: Any) -> dict[str, str]:
        metrics = [{"key": "click", "event": "click"}]
        old = specs(metrics={"metrics": metrics, **SHOP["money"]})
        new = specs(metrics={"metrics": metrics, **SHOP["money"], **money})
        return {change.path: change.verdict for change in compare_specs(old, new, 0.0)}

    assert changed(currency="CHF") == {"currency": "unsafe"}
    assert changed(rates={"JPY": 0.0061, "USD": 0.9}) == {"rates.JPY": "safe"}
    assert changed(rates={"JPY": 0.006}) == {"rates.USD": "safe"}


@pytest.mark.parametrize("rates", [{"jpy": 0.006}, {"JPY": 0}, {"JPY": -1}, {"JPY": "0.006"}, {"EUR": 1}])
def test_check_refuses_rates_that_convert_nothing(rates: Any) -> None:
    with pytest.raises(CatalogError, match=r"metrics\.yaml rates\."):
        specs(metrics={"metrics": [{"key": "click", "event": "click"}], "rates": rates})
