"""Story: what the shop writes, to whom, by which channel and when: campaigns, moments, leases and confirmations."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import time_machine
import yaml
from msgspec.structs import replace

from engine import keyspace
from engine.catalog.spec.offer import WEEKDAYS
from engine.due.index import SHARDS
from engine.due.sends import Send
from engine.journal.records import AnyRecord, DecisionRecord, ExposureRecord, decode
from engine.journal.spool import spool
from tests.store import open_store

MONDAY = datetime(2026, 11, 30, 9, 30, tzinfo=UTC)
PEOPLE = [f"u-{n:02}" for n in range(40)]
WEEKLY = {
    "key": "weekly",
    "schedule": {"days": ["monday"], "at": ["09:00", "18:00"]},
    "channels": [{"channel": "email", "placement": "letter"}, {"channel": "app", "placement": "letter"}],
    "purpose": "marketing",
    "audience": {"country": "DE"},
    "policy": {"kind": "uniform"},
    "reward": {"metric": "click", "window": "7d"},
}
SHOP = {
    "offers": {"coffee": {"purpose": "marketing"}, "cake": {"stock": {"sku": "CAKE", "hold": "1h"}}},
    "placements": {"letter": {"offers": ["coffee", "cake"]}},
    "channels": {
        "email": {"outbound": True, "caps": [{"count": 1, "per": "1d", "scope": "channel"}]},
        "app": {"outbound": True, "capacity": "5/h", "address": "user_id"},
    },
    "campaigns": [WEEKLY],
}
BIRTHDAY = {
    "key": "birthday",
    "trigger": {"date": "birthday"},
    "window": "1d",
    "placements": ["letter"],
    "channels": ["email"],
    "offers": ["cake"],
    "once": {"per": "year"},
}
CART = {
    "key": "cart",
    "trigger": {"event": "cart_updated", "after": "30m", "unless": ["purchase"]},
    "window": "2d",
    "placements": ["letter"],
    "channels": ["app"],
    "offers": ["coffee"],
    "once": {"per": "occurrence"},
}


def due(shop: Any, channel: str, limit: int = 100, **more: Any) -> list[dict[str, Any]]:
    """All messages that are due, asked for until there are no more."""
    items: list[dict[str, Any]] = []
    while True:
        answer = shop.client().get("/v1/due", params={"channel": channel, "limit": limit} | more)
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        if not answer.json()["more"]:
            return items


def confirm(shop: Any, **outcomes: list[str]) -> Counter[str]:
    answer = shop.client().post("/v1/due/confirm", json=outcomes)
    assert answer.status_code == 200, answer.text
    return Counter(answer.json()["results"].values())


def records(shop: Any) -> list[AnyRecord]:
    """All that was ever answered: nothing collects here."""
    found: list[AnyRecord] = []
    for path in spool.list_spools(shop.settings.spool):
        cursor = spool.START
        while (page := spool.read_frames(path, cursor))[0]:
            cursor = page[1]
            found += [decode(frame.payload) for frame in page[0]]
    return found


def people(shop: Any) -> None:
    batch = [one for user in PEOPLE for one in statements(user)]
    answer = shop.client().post("/v1/events", json={"batch": batch})
    assert {one["status"] for one in answer.json()["statuses"]} == {"accepted"}


def statements(user: str, country: str = "DE") -> list[dict[str, Any]]:
    """Who they are, and that they may be written to."""
    consent = {"event": "consent", "properties": {"purpose": "marketing", "granted": True}}
    return [
        {"type": "identify", "message_id": f"i-{user}", "user_id": user, "traits": {"country": country}},
        {"type": "track", "message_id": f"c-{user}", "user_id": user} | consent,
    ]


def test_each_person_hears_once_on_the_channel_and_at_the_hour_that_were_drawn(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with time_machine.travel(MONDAY - timedelta(days=1), tick=True):
        people(shop)
        shop.identify({"country": "FR"}, user_id="u-paris")
        shop.identify({"country": "DE"}, user_id="u-without-consent")
        assert due(shop, "email") == []
    sent: dict[str, list[Any]] = {"email": [], "app": []}
    for hours in range(14):
        with time_machine.travel(MONDAY + timedelta(hours=hours), tick=True):
            app = due(shop, "app")
            assert len(app) <= 5  # the capacity of an hour
            for channel, items in (("email", due(shop, "email")), ("app", app)):
                sent[channel] += [(item["customer"], hours) for item in items]
                assert all(item["lease_until"] and item["cause"] == "weekly" for item in items)
                if items:
                    assert confirm(shop, sent=[item["decision_id"] for item in items]) == {"sent": len(items)}
    log = records(shop)
    decisions = [one for one in log if isinstance(one, DecisionRecord)]
    drawn = {one.customer: one.rows[0] for one in decisions if one.rows[0].key == "weekly"}
    assert set(drawn) == {*PEOPLE, "u-without-consent"}
    without = drawn.pop("u-without-consent")
    assert (without.variant, without.propensity) == ("silence", 1.0)  # without consent nothing else can be drawn
    arms = ["email@09:00", "email@18:00", "app@09:00", "app@18:00", "silence"]
    assert all(row.propensity == pytest.approx(0.2) and row.candidates == arms for row in drawn.values())
    for channel, items in sent.items():
        hour = {one: str(row.variant)[-5:] for one, row in drawn.items() if str(row.variant).startswith(channel)}
        assert sorted(one for one, _ in items) == sorted(hour)
        assert all((hours > 8) == (hour[one] == "18:00") for one, hours in items)
    exposed = [one.decision_id for one in log if isinstance(one, ExposureRecord)]
    assert len(set(exposed)) == len(exposed) == len(drawn) + 1 + sum(map(len, sent.values()))


def test_an_unconfirmed_lease_returns_and_a_confirmed_one_does_not(open_shop: Any) -> None:
    shop = open_shop(SHOP | {"campaigns": [WEEKLY | {"channels": WEEKLY["channels"][:1]}]})
    with time_machine.travel(MONDAY - timedelta(days=1), tick=True):
        people(shop)
        shop.stock("CAKE", 100)
    with time_machine.travel(MONDAY, tick=True):
        first = due(shop, "email", lease=60)
        assert len(first) > 5
        assert due(shop, "email") == []  # handed out once
        sent, released, dropped = (first[n]["decision_id"] for n in range(3))
        assert confirm(shop, sent=[sent, "nobody"], released=[released], dropped=[dropped]) == {
            "sent": 1,
            "unknown": 1,
            "released": 1,
            "dropped": 1,
        }
        assert confirm(shop, sent=[sent]) == {"sent": 1}  # again, and nothing changes
        assert confirm(shop, released=[released]) == {"released": 1}
        assert [item["message_id"] for item in due(shop, "email", lease=60)] == [first[1]["message_id"]]
    with time_machine.travel(MONDAY + timedelta(minutes=2), tick=True):
        again = due(shop, "email")
        assert {item["message_id"] for item in again} == {item["message_id"] for item in [first[1], *first[3:]]}
        assert confirm(shop, sent=[first[3]["decision_id"]]) == {"expired": 1}
        assert confirm(shop, sent=[item["decision_id"] for item in again]) == {"sent": len(again)}
        left = shop.client().get("/v1/stock/CAKE").json()["left"]
        cakes = sum(item["offer"] == "cake" for item in [first[0], *again])
        assert left == 100 - cakes  # no lease that ended holds a cake


def test_moments_are_due_when_they_begin(open_shop: Any) -> None:
    shop = open_shop(SHOP | {"campaigns": [], "moments": [BIRTHDAY, CART]})
    with time_machine.travel(MONDAY - timedelta(days=1), tick=True):
        shop.stock("CAKE", 5)
        shop.identify({"birthday": "1990-11-30", "timezone": "Europe/Berlin"}, user_id="u-born")
        shop.identify({"birthday": "1990-12-24"}, user_id="u-later")
        assert due(shop, "email") == []
    with time_machine.travel(MONDAY, tick=True):
        assert [(item["customer"], item["offer"], item["reason"]) for item in due(shop, "email")] == [
            ("u-born", "cake", "moment")
        ]
        shop.consent("marketing", user_id="u-cart")
        shop.tell("cart_updated", user_id="u-cart", properties={"cart": {"items": 1}})
        shop.consent("marketing", user_id="u-bought")
        shop.tell("cart_updated", user_id="u-bought", properties={"cart": {"items": 1}})
        assert due(shop, "app") == []
        shop.tell("purchase", user_id="u-bought", properties={"revenue": 3})
    with time_machine.travel(MONDAY + timedelta(minutes=31), tick=True):
        (item,) = due(shop, "app")
        assert (item["customer"], item["offer"], item["cause"]) == ("u-cart", "coffee", "cart")
        confirm(shop, sent=[item["decision_id"]])
    with time_machine.travel(MONDAY + timedelta(hours=20), tick=True):
        assert due(shop, "app") == []


def test_one_who_turns_out_to_be_two_gets_one_message(open_shop: Any) -> None:
    shop = open_shop(SHOP | {"campaigns": [WEEKLY | {"channels": WEEKLY["channels"][:1]}]})
    with time_machine.travel(MONDAY - timedelta(days=1), tick=True):
        for n in range(12):
            for ids in ({"anonymous_id": f"a-{n}"}, {"user_id": f"u-{n}"}):
                shop.identify({"country": "DE"}, **ids)
                shop.consent("marketing", **ids)
    with time_machine.travel(MONDAY, tick=True):
        (first,) = shop.client().get("/v1/due", params={"channel": "email", "limit": 1}).json()["items"]
        for n in range(12):
            shop.send({"type": "alias", "message_id": f"x-{n}", "user_id": f"u-{n}", "anonymous_id": f"a-{n}"})
        items = [first, *due(shop, "email")]
        assert confirm(shop, sent=[item["decision_id"] for item in items]) == {"sent": len(items)}
        names = {item["customer"].replace("a-", "u-") for item in items}
        assert len(names) == len(items)
    with time_machine.travel(MONDAY + timedelta(hours=9), tick=True):
        assert not {item["customer"] for item in due(shop, "email")} & names


def test_quiet_hours_move_a_message_and_consent_withdrawn_stops_it(open_shop: Any) -> None:
    quiet = SHOP["channels"] | {"email": {"outbound": True, "quiet": {"from": "08:00", "to": "11:00"}}}  # type: ignore[operator]
    shop = open_shop(SHOP | {"channels": quiet, "campaigns": [WEEKLY | {"channels": WEEKLY["channels"][:1]}]})
    with time_machine.travel(MONDAY - timedelta(days=1), tick=True):
        people(shop)
    with time_machine.travel(MONDAY, tick=True):
        assert due(shop, "email") == []
        shop.tell("consent_withdrawn", user_id="u-00", properties={"purpose": "marketing"})
    with time_machine.travel(MONDAY + timedelta(hours=2), tick=True):
        morning = {item["customer"] for item in due(shop, "email")}
        assert 4 <= len(morning) <= 25  # of 40 the morning's third
        assert "u-00" not in morning


def test_a_running_lease_stands_and_one_that_was_lost_uses_up_no_cap(open_shop: Any) -> None:
    """What races and crashes leave behind: a message moved forward in the index, claims that were not released."""
    campaign = WEEKLY | {"channels": WEEKLY["channels"][:1], "schedule": {"days": ["monday"], "at": ["00:00"]}}
    caps = [{"count": 1, "per": "1d"}]
    shop = open_shop(
        {
            "offers": {"coffee": {"caps": caps}},
            "placements": {"letter": {"offers": ["coffee"]}},
            "channels": {"email": {"outbound": True}},
            "campaigns": [campaign],
        }
    )
    store = open_store(shop.settings.redis)

    def bring_forward() -> None:
        members = store.zrange(keyspace.due("email"), 0, -1)
        store.zadd(keyspace.due("email"), dict.fromkeys(members, 0.0), xx=True)

    with time_machine.travel(MONDAY, tick=True):
        people(shop)
        first = due(shop, "email", lease=60)
        assert len(first) > 5
        bring_forward()
        assert due(shop, "email") == []  # the others have their leases
        released = [item["decision_id"] for item in first[:3]]
        assert confirm(shop, released=released) == {"released": 3}
        assert confirm(shop, released=released) == {"released": 3}
        again = due(shop, "email", lease=60)
        assert {item["customer"] for item in again} == {item["customer"] for item in first[:3]}
        assert confirm(shop, released=released) == {"expired": 3}
    # A process wins a lease and dies before it releases what the lease before claimed.
    for key in store.scan_iter(keyspace.due_message("*", "weekly/*")):
        send = msgspec.msgpack.decode(store.get(key) or b"", type=Send)
        if send.state == "leased":
            lost = replace(send, owed=[send.decision_id], decision_id="d-lost", offers=[], exposes=[])
            store.set(key, msgspec.msgpack.encode(lost))
    with time_machine.travel(MONDAY + timedelta(minutes=2), tick=True):
        last = due(shop, "email")
        assert {(item["customer"], item["offer"]) for item in last} == {(one["customer"], "coffee") for one in first}
        assert confirm(shop, sent=[item["decision_id"] for item in last]) == {"sent": len(first)}


def test_customers_are_listed_only_for_a_plan_that_sends_and_then_all(open_shop: Any) -> None:
    daily = WEEKLY | {"channels": WEEKLY["channels"][:1], "schedule": {"days": list(WEEKDAYS), "at": ["00:00"]}}
    shop = open_shop(SHOP | {"channels": {"email": {"outbound": True}}, "campaigns": [daily]}, workers=1)
    store = open_store(shop.settings.redis)
    file = shop.settings.experiments / "campaigns.yaml"

    def wait_for_plan(campaigns: list[Any]) -> None:
        before = shop.client().get("/readyz").json()["plan"]
        file.write_text(yaml.safe_dump({"campaigns": campaigns}))
        deadline = time.monotonic() + 60
        while shop.client().get("/readyz").json()["plan"] == before and time.monotonic() < deadline:
            time.sleep(0.02)

    def meet(user: str) -> None:
        for statement in statements(user):
            assert shop.send(statement) == "accepted"

    def listed() -> int:
        return sum(int(store.zcard(keyspace.roster(shard))) for shard in range(SHARDS))

    with time_machine.travel(MONDAY, tick=True):
        met = [f"v-{n}" for n in range(12)]
        meet(met[0])
        due(shop, "email")
        assert listed() == 1
        wait_for_plan([])
        for user in met[1:]:
            meet(user)
        due(shop, "email")
        assert listed() == 1
        wait_for_plan([daily])
        due(shop, "email")
        assert listed() == len(met)
    drawn = [one.customer for one in records(shop) if isinstance(one, DecisionRecord) and one.rows[0].key == "weekly"]
    assert sorted(drawn) == sorted(met)


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ({"channel": "web"}, "writes to customers"),
        ({"channel": "email", "limit": "0"}, "from 1 to 1000"),
        ({"channel": "email", "lease": "x"}, "whole number"),
        ({"channel": "email", "hour": "9"}, "not a parameter"),
    ],
)
def test_a_parameter_that_breaks_its_rule_is_refused(open_shop: Any, query: Any, rule: str) -> None:
    answer = open_shop(SHOP, workers=1).client().get("/v1/due", params=query)
    assert answer.status_code == 400
    assert rule in answer.json()["detail"]


def test_a_campaign_on_consecutive_days_loses_no_evening(open_shop: Any) -> None:
    """A day begins somewhere while the day before has its evening still to come."""
    daily = WEEKLY | {"schedule": {"days": list(WEEKDAYS), "at": ["23:00"]}, "channels": WEEKLY["channels"][:1]}
    shop = open_shop(SHOP | {"campaigns": [daily], "channels": {"email": {"outbound": True}}})
    midnight = datetime(2026, 11, 30, 0, 30, tzinfo=UTC)
    with time_machine.travel(midnight, tick=True):
        people(shop)
        shop.identify({"timezone": "Asia/Tokyo"}, user_id="u-00")
    sent: list[tuple[str, str, int]] = []
    leased: list[str] = []
    for hour in (0, 11, 14, 23, 24, 35, 38, 47, 48):
        with time_machine.travel(midnight + timedelta(hours=hour), tick=True):
            shop.identify({"city": f"C-{hour}"}, user_id="u-01")  # an event draws nothing again
            items = due(shop, "email", lease=3600 * 10)
            sent += [(item["customer"], item["occurrence"], hour % 24) for item in items]
            assert confirm(shop, sent=leased)["expired"] == 0  # leased late on the day before
            leased = [item["decision_id"] for item in items]
    draws = [one for one in records(shop) if isinstance(one, DecisionRecord) and one.rows[0].key == "weekly"]
    zones = {"u-00": ZoneInfo("Asia/Tokyo")}
    arms = {
        (one.customer, str(datetime.fromtimestamp(one.time, zones.get(one.customer, UTC)).date())): one.rows[0].variant
        for one in draws
    }
    assert len(arms) == len(draws) == 3 * len(PEOPLE)  # each of them once on each day
    days = {"2026-11-30", "2026-12-01"}
    assert sorted((who, day) for who, day, _ in sent) == sorted(
        (who, day) for (who, day), arm in arms.items() if day in days and arm != "silence"
    )
    assert all(hour == (14 if who == "u-00" else 23) for who, _, hour in sent)


def test_a_message_names_its_creative_whose_joint_probability_is_logged(open_shop: Any) -> None:
    subjects = [{"key": "plain", "subject": "Coffee"}, {"key": "bold", "subject": "COFFEE"}]
    coffee = SHOP["offers"]["coffee"] | {"renderings": {"email": subjects, "app": {"text": "Coffee"}}}  # type: ignore[index]
    shop = open_shop(SHOP | {"offers": {"coffee": coffee}, "placements": {"letter": {"offers": ["coffee"]}}})
    with time_machine.travel(MONDAY - timedelta(days=1), tick=True):
        people(shop)
    with time_machine.travel(MONDAY, tick=True):
        mails, pushes = due(shop, "email"), due(shop, "app")
    assert {(item["creative"], item["rendering"]["subject"]) for item in mails} == {
        ("plain", "Coffee"),
        ("bold", "COFFEE"),
    }
    assert {item["propensity"] for item in mails} == {0.5}
    assert all("creative" not in item for item in pushes)
    logged = {
        record.decision_id: row
        for record in records(shop)
        if isinstance(record, DecisionRecord)
        for row in record.rows
        if row.key == "letter"
    }
    for item in mails:
        row = logged[item["decision_id"]]
        assert row.creative is not None
        assert (row.creative.key, row.propensity, row.offer_propensity) == (item["creative"], 0.5, 1.0)
