"""Calendar caps and birthdays beside another reading of them, which looks at the clock on the wall minute by minute.

The other reading knows no windows: it writes down the day that every minute shows in each zone, and two minutes are of
one day, week or month if nothing else is shown between them.
"""

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest

from engine.claims.requirements import zone_to_mark
from engine.customer import CustomerIds, Profile, Trait
from engine.decision.decision import Availability, DecideOptions, DecideRequest, decide
from tests.catalog.folder import plan
from tests.decision.test_wall_clocks import NIGHTS

MINUTE = 60
AROUND = 34 * 1440
"""Minutes that are written down before and after a change of the clocks: a month and more."""
SHOP_ZONE = "Africa/Cairo"  # its clocks change at midnight
PERIODS: dict[str, Callable[[date], object]] = {
    "1d": lambda day: day,
    "7d": lambda day: day.isocalendar()[:2],
    "30d": lambda day: (day.year, day.month),
}
CAPS = [(per, zone, count) for per, count in (("1d", 1), ("7d", 2), ("30d", 3)) for zone in ("customer", SHOP_ZONE)]


def offer(key: str, **more: object) -> dict[str, object]:
    return {"key": key, "renderings": {"app": {}}} | more


def cap(per: str, zone: str, count: int) -> dict[str, object]:
    return {"count": count, "per": per, "window": "calendar", "zone": zone}


PLAN = plan(
    channels={
        "channels": [{"key": "app"}],
        "placements": [{"key": f"place_{n}", "channels": ["app"]} for n in range(len(CAPS))],
    },
    **{
        f"place_{n}": {
            "key": f"place_{n}",
            "placement": f"place_{n}",
            "offers": [f"offer_{n}"],
            "policy": {"kind": "uniform"},
            "reward": {"metric": "click"},
            "fallback": "plain",
        }
        for n in range(len(CAPS))
    },
    **{f"offers/offer_{n}": offer(f"offer_{n}", caps=[cap(*one)]) for n, one in enumerate(CAPS)},
    **{"offers/plain": offer("plain")},
)


@cache
def starts(zone: str, night: str) -> tuple[int, dict[str, list[int]]]:
    """The first minute that is written down, and for each minute from it the one in which its period began."""
    first = int(datetime.fromisoformat(night).replace(tzinfo=UTC).timestamp()) // MINUTE - 2 * AROUND
    place = ZoneInfo(zone)
    days = [datetime.fromtimestamp(minute * MINUTE, place).date() for minute in range(first, first + 3 * AROUND)]
    found: dict[str, list[int]] = {}
    for per, period_of in PERIODS.items():
        begun, shown, of_day = [], None, cache(period_of)
        for minute, day in enumerate(days, first):
            if of_day(day) != shown:
                begin, shown = minute, of_day(day)
            begun.append(begin)
        found[per] = begun
    return first, found


def is_used_up(per: str, count: int, seen: list[float], zones: list[str], now: float, night: str) -> bool:
    """Whether as many were seen in the period that is open now: in the zone of now, or one that it was seen in."""
    begins = []
    for zone in zones:
        first, found = starts(zone, night)
        begins.append(found[per][int(now // MINUTE) - first] * MINUTE)
    return sum(at >= min(begins) for at in seen) >= count


@pytest.mark.parametrize("zone", sorted(NIGHTS))
def test_a_calendar_cap_is_used_up_exactly_while_its_minutes_say_so(zone: str) -> None:
    dice = random.Random(zone)
    for night in NIGHTS[zone]:
        other = dice.choice([name for name in NIGHTS if name != zone])
        counts: dict[str, list[float]] = {}
        seen: list[list[float]] = [[] for _ in CAPS]
        marked: dict[str, float] = {}
        middle = datetime.fromisoformat(night).replace(tzinfo=UTC).timestamp()
        dense = [middle + dice.uniform(-1.6, 1.6) * 86_400 for _ in range(110)]
        sparse = [middle + dice.uniform(-33, 33) * 86_400 for _ in range(90)]
        for number, now in enumerate(sorted([*dense, *sparse])):
            current = other if number // 9 % 3 == 2 else zone
            profile = Profile(id="u", unit="u", traits={"timezone": Trait(current, 0.0)})
            places = [f"place_{n}" for n in range(len(CAPS))]
            request = DecideRequest(customer=CustomerIds(user_id="u"), channel="app", placements=places)
            options = DecideOptions(availability=Availability(counts=counts))
            decision = decide(PLAN, {}, profile, request, now, decision_id=f"d{number}", options=options)
            before = dict(marked)
            for n, (per, of, count) in enumerate(CAPS):
                shown = decision.answer.offers[f"place_{n}"].offer == f"offer_{n}"
                zones = [of]
                if of == "customer":
                    in_period = [name for name, at in before.items() if is_used_up(per, 1, [at], [name], now, night)]
                    zones = [current, *in_period]
                assert shown is not is_used_up(per, count, seen[n], zones, now, night), (per, of, current, now)
                if shown and dice.random() < 0.7:
                    seen[n].append(now)
                    counters = PLAN.offers[f"offer_{n}"].limits.exposed["app"]
                    for counter in counters:
                        counts[counter] = [*counts.get(counter, []), now]
                    if mark := zone_to_mark(PLAN, counters, current):
                        marked[mark] = now
                        counts[f"zone|{mark}"] = [now]


BIRTHDAYS = {leap_day: {"date": "birthday", "leap_day": leap_day} for leap_day in ("28 February", "1 March")}
PARTY = {
    leap_day: plan(
        channels={"channels": [{"key": "app"}], "placements": [{"key": "board", "channels": ["app"]}]},
        moments={"moments": [{"key": "m", "trigger": trigger, "placements": ["board"], "offers": ["gift"]}]},
        board={
            "key": "board",
            "placement": "board",
            "offers": ["plain"],
            "policy": {"kind": "uniform"},
            "reward": {"metric": "click"},
            "fallback": "plain",
        },
        **{f"offers/{key}": offer(key) for key in ("gift", "plain")},
    )
    for leap_day, trigger in BIRTHDAYS.items()
}


@pytest.mark.parametrize("leap_day", PARTY)
def test_who_is_born_on_29_february_has_one_birthday_in_every_year(leap_day: str) -> None:
    dice = random.Random(leap_day)
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="app", placements=["board"])
    for _ in range(1_500):
        zone, year = dice.choice(sorted(NIGHTS)), dice.choice([1999, 2000, 2023, 2024, 2025, 2026, 2028, 2100])
        now = datetime(year, 2, 27, tzinfo=UTC).timestamp() + dice.uniform(0, 4) * 86_400
        traits = {"birthday": dice.choice(["1992-02-29", "02-29", "2000-02-29T10:00:00Z"]), "timezone": zone}
        profile = Profile(id="u", unit="u", traits={name: Trait(value, 0.0) for name, value in traits.items()})
        shown = decide(PARTY[leap_day], {}, profile, request, now, decision_id="d").answer.offers["board"].offer
        today = datetime.fromtimestamp(now, ZoneInfo(zone)).date()
        tomorrow, yesterday = today + timedelta(1), today - timedelta(1)
        names = [f"{day:%m-%d}" for day in (yesterday, today, tomorrow)]
        is_birthday = names[1] == "02-29"
        is_birthday |= names[1:] == ["02-28", "03-01"] and leap_day == "28 February"
        is_birthday |= names[:2] == ["02-28", "03-01"] and leap_day == "1 March"
        assert (shown == "gift") is is_birthday, (traits, now)
