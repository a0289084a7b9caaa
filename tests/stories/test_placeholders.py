"""A value that stands for nobody joins nobody, wherever it is sent; a real one joins no more than its limit."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from engine.customer import KINDS

SHOP = {
    "offers": {"deal": {}},
    "placements": {"hero": {"offers": ["deal"]}},
    "experiments": {"layout": {"variants": [{"key": "a"}, {"key": "b"}], "metrics": {"primary": "revenue"}}},
    "identities": {"placeholders": ["guest"]},
}
PLACEHOLDERS = [
    *("undefined", "NULL", "NaN", "[object Object]", "0", "00000000-0000-0000-0000-000000000000", "-", "n/a"),
    *("+", "000000", "", "  ", "Guest"),
]


def wide(text: str) -> str:
    """The text in characters of full width."""
    return "".join(chr(ord(c) + 0xFEE0) for c in text)


IN_OTHER_SCRIPTS = [
    *(wide("NULL"), wide("undefined"), wide("000"), "u\u200bndefined", "\u200b", "\ufeff", "\u00a0", "\u3000"),
    *("\u2026", "\u0660" * 3, "\U0001d7ce" * 2, "\u17e0", "%20", "%00", "%5Bobject%20Object%5D", "&nbsp;", "&#48;"),
    *("&quot;null&quot;", '"undefined"', "null\x00", "{{user_id}}", "${userId}", "{userId}", "%s", "%{id}"),
    *("<%= user.id %>", "[[id]]", "@{id}", "#{id}", "[object Undefined]", "[object HTMLElement]"),
    *("undefined undefined", "null-null", "null,null", "(not set)", "Not Available", "N.A."),
    *("#N/A", "<nil>", "-Infinity", "false", "true", "-1", "0.0", "Anonymous", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
    *("0e0", "0.0E+00", "0x0", "0b0", "-0.0e3"),
    *("+49", "+1", "+358", "<id>", "<USER_ID>", "<your card>"),
    *("+49 ", "'+49'", " -1", " 0e0", "<user_id> ", " {{x}}", "%s ", "null/null", "n / a", "not_set", "not-found"),
    *("\\N", "Invalid Date"),
]
REAL = [
    *(
        "u-1",
        "42",
        "0x1f",
        "Nan Goldin",
        "nils",
        "Guesthouse-7",
        "a%20b",
        "rock&roll",
        "u-0",
        "-10",
        "100%",
        "x{1}",
        "f00",
        "1e0",
        "0x01",
    ),
    *(
        "日本",
        "Владимир",
        "山田",
        "null1",
        "unknown-42",
        "object-7",
        "O'Neil",
        "anonymous-8f3",
        "/",
        "falsework",
        "١٢٣",
    ),
]


@pytest.fixture
def shop(open_shop: Any) -> Any:
    return open_shop(SHOP)


def purchase(message: str, **more: Any) -> dict[str, Any]:
    properties = {"revenue": 10, "order_id": message} | more.pop("properties", {})
    return {"type": "track", "event": "purchase", "message_id": message, "properties": properties, **more}


def send(shop: Any, *items: dict[str, Any]) -> list[dict[str, Any]]:
    answer = shop.client().post("/v1/events", json={"batch": list(items)})
    assert answer.status_code == 200, answer.text
    statuses: list[dict[str, Any]] = answer.json()["statuses"]
    return statuses


def profile(shop: Any, identifier: str) -> dict[str, Any]:
    answer = shop.client().get(f"/v1/profiles/{identifier}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_placeholder_joins_nobody_as_any_identifier(shop: Any) -> None:
    for value in PLACEHOLDERS:
        name = PLACEHOLDERS.index(value)
        for kind in KINDS:
            other = "loyalty_card" if kind != "loyalty_card" else "user_id"
            ones = [f"c{name}-{kind}-{n}" for n in range(3)]
            statuses = send(shop, *(purchase(f"m-{one}", **{other: one, kind: value}) for one in ones))
            assert [status["status"] for status in statuses] == ["accepted"] * 3
            assert all(kind in warning for status in statuses for warning in status["warnings"]), statuses
            for one in ones:
                found = profile(shop, one)
                assert (found["identifiers"], found["orders"][0]["revenue"]) == ({other: [one]}, 10.0)


def test_an_item_that_names_only_a_placeholder_is_rejected_with_it(shop: Any) -> None:
    for value in PLACEHOLDERS:
        name = PLACEHOLDERS.index(value)
        [status] = send(shop, purchase(f"alone-{name}", user_id=value, device_id=value))
        assert status["status"] == "rejected"
        assert "user_id" in status["reason"] or "no identifier" in status["reason"]
        [alias] = send(
            shop, {"type": "alias", "message_id": f"alias-{name}", "user_id": f"u-alias-{name}", "previous_id": value}
        )
        assert alias["status"] == "rejected"
        [login] = send(
            shop,
            {
                "type": "identify",
                "message_id": f"login-{name}",
                "user_id": f"u-login-{name}",
                "traits": {"email": value, "phone": value, "loyalty_card": value},
            },
        )
        assert (login["status"], len(login["warnings"])) == ("accepted", 3)
        assert profile(shop, f"u-login-{name}")["identifiers"] == {"user_id": [f"u-login-{name}"]}


def test_an_event_without_a_message_id_of_its_own_is_rejected(shop: Any) -> None:
    for value in ("undefined", "NULL", "[object Object]", "00000000-0000-0000-0000-000000000000"):
        for _ in range(2):
            [status] = send(shop, purchase(value, user_id="u-message", properties={"order_id": "o-1"}))
            assert (status["status"], "unique id" in status["reason"]) == ("rejected", True)
    assert [send(shop, purchase(number, user_id="u-message"))[0]["status"] for number in ("0", "1")] == ["accepted"] * 2


def test_forty_cards_with_a_plus_as_phone_are_forty_customers(shop: Any) -> None:
    send(shop, *(purchase(f"plus-{n}", loyalty_card=f"plus-{n}", phone="+") for n in range(40)))
    assert shop.client().delete("/v1/profiles/plus-0").json()["ids"] == ["plus-0"]
    assert shop.client().get("/v1/profiles/plus-0").status_code == 404
    assert all(profile(shop, f"plus-{n}")["attributes"]["orders"]["count"] == 1 for n in range(1, 40))


def test_forty_cards_with_one_real_phone_stay_within_its_limit(shop: Any) -> None:
    phone = "+49 30 1234567"
    warned = []
    for n in range(40):
        [status] = send(shop, purchase(f"family-{n}", loyalty_card=f"family-{n}", phone=phone))
        warned += status.get("warnings", [])
    assert [warning.partition(":")[0] for warning in warned] == ["phone"]
    assert all(len(profile(shop, f"family-{n}")["identifiers"]["loyalty_card"]) == 1 for n in range(40))
    assert shop.client().delete("/v1/profiles/family-7").json()["ids"] == ["family-7"]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("shared", ["phone", "user_id"])
def test_cards_that_join_at_two_servers_at_once_stay_within_the_limit(
    open_shop: Any, shared: str, *, known: bool
) -> None:
    """Of 40 cards with one phone number, or of one customer, three join; the others stay customers of their own."""
    limits = {"binds": {"phone": 3, "loyalty_card": 1}, "holds": {"loyalty_card": 3}}
    shop = open_shop(SHOP | {"identities": limits})
    cards, value = [f"card-{n}" for n in range(40)], {"phone": "+49 30 7654321", "user_id": "u-1"}[shared]
    if known:
        send(shop, *(purchase(f"first-{card}", loyalty_card=card) for card in cards))
    with ThreadPoolExecutor(8) as pool:
        bought = [purchase(f"m-{card}", loyalty_card=card, **{shared: value}) for card in cards]
        statuses = [status for answer in pool.map(lambda item: send(shop, item), bought) for status in answer]
    assert {status["status"] for status in statuses} == {"accepted"}
    names = [*cards, *([value] if shared == "user_id" else [])]
    answers = [shop.client().get(f"/v1/profiles/{name}") for name in names]
    found = [answer.json() for answer in answers if answer.status_code == 200]  # a new card may stay apart, unstored
    assert max(len(one["identifiers"].get("loyalty_card", ())) for one in found) <= 3
    totals = {one["customer"]: one["attributes"]["orders"]["count"] for one in found}
    assert sum(totals.values()) == len(cards) * (2 if known else 1)


def test_a_placeholder_as_order_id_makes_two_orders_of_two(shop: Any) -> None:
    for value in ("undefined", "0", 0, " ", "n/a", "guest"):
        user = f"u-order-{value!r}".replace("/", "-").replace(" ", "_")
        bought = [
            purchase(f"{user}-{n}", user_id=user, properties={"order_id": value, "revenue": 5 + n}) for n in range(2)
        ]
        assert all("order_id" in status["warnings"][0] for status in send(shop, *bought))
        assert profile(shop, user)["attributes"]["orders"] | {"last_days": 0} == {
            "count": 2,
            "revenue": 11,
            "last_days": 0,
        }


def test_decisions_and_flags_ignore_a_placeholder(shop: Any) -> None:
    for value in PLACEHOLDERS:
        name = PLACEHOLDERS.index(value)
        decision = shop.decide("web", "hero", user_id=value, anonymous_id=f"a-decide-{name}")
        assert decision["customer"] == f"a-decide-{name}"
        [warning] = decision["warnings"]
        assert warning.startswith("user_id: ")
        assert "warnings" not in shop.decide("web", "hero", anonymous_id=f"a-decide-{name}")
        body = {"customer": {"user_id": value}, "channel": "web", "placements": ["hero"]}
        assert shop.client().post("/v1/decide", json=body).status_code == 400
        sign = {"customer": {}, "channel": "web", "placements": ["hero"], "context": {"store": value}}
        assert shop.client().post("/v1/decide", json=sign).status_code == 400
        flag = shop.client().post("/ofrep/v1/evaluate/flags/layout", json={"context": {"targetingKey": value}})
        assert (flag.status_code, flag.json()["errorCode"]) == (400, "TARGETING_KEY_MISSING")
        known = {"targetingKey": f"u-flag-{name}", "userId": value}
        assert shop.client().post("/ofrep/v1/evaluate/flags/layout", json={"context": known}).status_code == 200
        assert profile(shop, f"u-flag-{name}")["identifiers"] == {"user_id": [f"u-flag-{name}"]}


def test_a_placeholder_is_no_profile_to_read_or_to_erase(shop: Any) -> None:
    for value in ("undefined", "NULL", "0", "-", "+", "guest", "%20", "[object Object]"):
        for answer in (
            shop.client().get(f"/v1/profiles/{value}"),
            shop.client().get(f"/v1/profiles/{value}/export"),
            shop.client().delete(f"/v1/profiles/{value}"),
        ):
            assert answer.status_code == 404, answer.text
            assert "placeholder" in answer.json()["detail"]


def test_placeholders_of_other_scripts_encodings_and_templates_join_nobody(shop: Any) -> None:
    items = [purchase(f"m-{n}", user_id=f"s-{n}", loyalty_card=value) for n, value in enumerate(IN_OTHER_SCRIPTS)]
    for value, status in zip(IN_OTHER_SCRIPTS, send(shop, *items), strict=True):
        assert (status["status"], "loyalty_card" in str(status.get("warnings"))) == ("accepted", True), value
    orders = [purchase(f"o-{n}", user_id="orders", properties={"order_id": v}) for n, v in enumerate(IN_OTHER_SCRIPTS)]
    send(shop, *orders)
    assert profile(shop, "orders")["attributes"]["orders"]["count"] == len(orders)
    items = [purchase(f"r-{n}", loyalty_card=value) for n, value in enumerate(REAL)]
    for value, status in zip(REAL, send(shop, *items), strict=True):
        assert (status["status"], status.get("warnings", [])) == ("accepted", []), value


def test_a_phone_is_the_same_in_every_script(shop: Any) -> None:
    spellings = ["+49 30 1234567", "+\u0664\u0669301234567", wide("+49(30)1234567"), "+\u096a\u096f-30-1234567"]
    send(shop, *(purchase(f"p-{n}", phone=phone) for n, phone in enumerate(spellings)))
    assert profile(shop, "+49301234567")["attributes"]["orders"]["count"] == len(spellings)
    send(shop, purchase("q-1", phone="\u0664\u06693\u0660\u0661"), purchase("q-2", phone="\u0664\u06693\u0660\u0662"))
    assert profile(shop, "49301")["attributes"]["orders"]["count"] == 1


def test_a_placeholder_is_no_store(shop: Any) -> None:
    test = {"unit": "store", "variants": [{"key": "a"}, {"key": "b"}], "metrics": {"primary": "click"}}
    (shop.settings.experiments / "shelf.yaml").write_text(yaml.safe_dump({"key": "shelf", "hypothesis": "x"} | test))
    body = {"customer": {"user_id": "u"}, "channel": "web", "experiments": ["shelf"]}
    for client in shop.clients:
        deadline = time.monotonic() + 30
        while client.post("/v1/decide", json=body).json()["experiments"]["shelf"]["reason"] == "unknown":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for value, reason in (("undefined", "unit"), ("0", "unit"), ("S12", "assigned")):
            answer = client.post("/v1/decide", json=body | {"context": {"store": value}}).json()
            assert answer["experiments"]["shelf"]["reason"] == reason
