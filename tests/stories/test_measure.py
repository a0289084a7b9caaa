"""From events over HTTP to the reports of `measure`, and back to the profile."""

import json
from typing import Any

import pytest

from tests.verbs import run_verb

SHOP = {"offers": {"a": {}, "b": {}}, "placements": {"hero": {"offers": ["a", "b"]}}}


def measure(shop: Any, *words: str) -> Any:
    folders = ("--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments))
    return json.loads(run_verb("measure", *words, "--json", *folders, check=True).stdout)


def test_what_customers_did_is_what_the_reports_say(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    for n in range(30):
        shop.decide("web", "hero", user_id=f"u{n}")
        if n % 3 == 0:
            order = {"order_id": f"o{n}", "revenue": 10.0}
            shop.tell("purchase", channel="store", user_id=f"u{n}", properties=order)
        if n % 6 == 0:
            shop.tell("refund", user_id=f"u{n}", properties={"order_id": f"o{n}", "amount": 4.0})
        if n % 2 == 0:
            shop.tell("nps", user_id=f"u{n}", properties={"score": 10 if n % 4 else 3})
    shop.collect()
    credit = measure(shop, "attribution", "--by", "offer")
    assert (credit["conversions"], credit["attributed"], credit["currency"]) == (10, 10, "EUR")
    assert sum(row["value"]["markov"] for row in credit["credits"]) == pytest.approx(5 * 10 + 5 * 6)
    answers = measure(shop, "satisfaction")
    assert answers["scores"][0]["raw"] == pytest.approx(100 * (7 - 8) / 15)
    assert answers["response"]["n"] == 20  # those who did anything
    server = ["--write-traits", "--server", shop.bases[0]]
    assert measure(shop, "rfm", *server)["customers"] == 10
    profile = shop.client().get("/v1/profiles/u0").json()
    assert profile["traits"]["rfm"]["value"]
