"""Quiet hours, calendar windows and moments on nights that repeat or skip an hour, and in zones with odd offsets."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.catalog.plan.plan import CampaignArm
from engine.catalog.spec.offer import QuietSpec
from engine.customer import CustomerIds, Profile, Trait
from engine.decision.attributes import local_clock
from engine.decision.decision import DecideRequest, decide
from engine.decision.schedule import time_of_arm
from engine.decision.windows import quiet_until, window_start
from engine.vocabulary import DAY
from tests.catalog.folder import plan

NIGHTS = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2026-04-04T15:00"),  # by half an hour
    "America/Sao_Paulo": (
        "2018-11-04T03:00",
        "2018-02-18T02:00",
    ),  # midnight itself is skipped, or comes after 23:00 again
    "America/Havana": ("2026-03-08T05:00", "2026-11-01T05:00"),  # midnight comes twice
    "Asia/Kathmandu": ("1985-12-31T18:30", "2026-06-01T00:00"),  # by a quarter, once
    "Pacific/Apia": ("2011-12-30T10:00", "2012-03-31T14:00"),  # a whole day is skipped
    "Pacific/Chatham": ("2026-09-26T14:00", "2026-04-04T14:00"),
    "Africa/Casablanca": ("2026-02-15T02:00", "2026-03-22T02:00"),
    "America/St_Johns": ("2026-03-08T05:30", "2026-11-01T04:30"),
}
zones = st.sampled_from(sorted(NIGHTS))
clocks = st.times().map(lambda at: at.strftime("%H:%M"))


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, float]:
    """A zone, and a time within a day and a half of a change of its clocks."""
    zone = draw(zones)
    at = datetime.fromisoformat(draw(st.sampled_from(NIGHTS[zone]))).replace(tzinfo=UTC).timestamp()
    return zone, at + draw(st.integers(-130_000, 130_000)) + draw(st.sampled_from([0.0, 0.25, 0.999999]))


def is_quiet(quiet: QuietSpec, at: float, zone: str) -> bool:
    """By the definition: what the clock on the wall shows."""
    shown = datetime.fromtimestamp(at, ZoneInfo(zone)).strftime("%H:%M")
    if quiet.start <= quiet.end:
        return quiet.start <= shown < quiet.end
    return shown >= quiet.start or shown < quiet.end


def test_the_nights_are_nights_on_which_clocks_change() -> None:
    for zone, nights in NIGHTS.items():
        changes = [datetime.fromisoformat(night).replace(tzinfo=UTC) for night in nights]
        changed = [
            (at - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).utcoffset()
            != at.astimezone(ZoneInfo(zone)).utcoffset()
            for at in changes
        ]
        assert changed == [True, zone != "Asia/Kathmandu"], zone


@given(moments(), clocks, clocks)
@example(("Europe/Berlin", 1_792_890_600.0), "22:00", "02:30")  # 02:10 for the second time
@example(("Europe/Berlin", 1_774_742_400.0), "22:00", "02:30")  # half past two is skipped
@settings(max_examples=400, deadline=None)
def test_quiet_hours_end_at_the_first_moment_that_is_not_quiet(when: tuple[str, float], start: str, end: str) -> None:
    zone, now = when
    quiet = QuietSpec(start=start, end=end)
    until = quiet_until(quiet, now, zone)
    assert (until is not None) is is_quiet(quiet, now, zone)
    if until is not None:
        assert until > now
        assert not is_quiet(quiet, until, zone)
        assert quiet_until(quiet, until, zone) is None
        minutes = range(int(now // 60) + 1, -int(-until // 60))
        assert all(is_quiet(quiet, minute * 60.0, zone) for minute in minutes)
        assert is_quiet(quiet, until - 0.001, zone)


@given(moments(), st.sampled_from([1, 7, 30, 365]))
@settings(max_examples=400, deadline=None)
def test_a_calendar_window_begins_with_the_first_moment_of_its_first_day(when: tuple[str, float], days: int) -> None:
    zone, now = when
    start = window_start(now, days * DAY, "calendar", zone)
    today = datetime.fromtimestamp(now, ZoneInfo(zone)).date()
    first = {
        1: today,
        7: today - timedelta(today.weekday()),
        30: today.replace(day=1),
        365: today.replace(month=1, day=1),
    }[days]
    local = [datetime.fromtimestamp(at, ZoneInfo(zone)).date() for at in (start - 0.001, start + 0.001)]
    assert start < now
    assert local[0] < first <= local[1]  # later only where the date line takes the first day away


@given(moments(), st.integers(0, 1439))
@example(("Europe/Berlin", 1_774_742_400.0), 150)  # half past two is skipped, so it is past it at three
@settings(max_examples=400, deadline=None)
def test_a_campaigns_hour_begins_when_the_clock_on_the_wall_shows_it_or_is_put_past_it(
    when: tuple[str, float], minute: int
) -> None:
    zone, now = when
    day = datetime.fromtimestamp(now, ZoneInfo(zone)).date()
    due = time_of_arm(CampaignArm("a", "app", "p", minute, minute + 60), day, zone)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
    scan = (datetime.fromtimestamp(noon + 60 * n, ZoneInfo(zone)) for n in range(-60 * 30, 60 * 30))
    first = next(local for local in scan if (local.date(), 60 * local.hour + local.minute) >= (day, minute))
    assert due == first.timestamp()


PLAN = plan(
    channels={"channels": [{"key": "app"}], "placements": [{"key": "board", "channels": ["app"]}]},
    moments={"moments": [{"key": "m", "trigger": {"date": "birthday"}, "placements": ["board"], "offers": ["gift"]}]},
    board={
        "key": "board",
        "placement": "board",
        "offers": ["plain"],
        "policy": {"kind": "uniform"},
        "reward": {"metric": "click"},
        "fallback": "plain",
    },
    **{f"offers/{key}": {"key": key, "renderings": {"app": {}}} for key in ("gift", "plain")},
)


@given(moments(), st.integers(-1, 1), st.integers(1930, 2009))
@example(("Pacific/Apia", 1_325_239_200.0), -1, 1990)  # the first second of 31 December: the 30th was skipped
@settings(max_examples=400, deadline=None)
def test_a_birthday_lasts_exactly_its_local_day(when: tuple[str, float], off: int, year: int) -> None:
    zone, now = when
    today = datetime.fromtimestamp(now, ZoneInfo(zone)).date()
    born = today + timedelta(off)
    traits = {"birthday": f"{year}-{born:%m-%d}", "timezone": zone}
    profile = Profile(id="u", unit="u", traits={name: Trait(value, 0.0) for name, value in traits.items()})
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="app", placements=["board"])
    answer = decide(PLAN, {}, profile, request, now, decision_id="d").answer.offers["board"]
    skipped = (zone, born) == ("Pacific/Apia", date(2011, 12, 30))
    assert (answer.offer == "gift") is (off == 0 or (skipped and off == -1))


@given(moments())
@settings(max_examples=400, deadline=None)
def test_hour_and_weekday_are_those_of_the_clock_on_the_wall(when: tuple[str, float]) -> None:
    zone, now = when
    local = datetime.fromtimestamp(now, ZoneInfo(zone))
    clock = local_clock(now, zone)
    hour = local.hour + local.minute / 60 + (local.second + local.microsecond / 1e6) / 3600
    assert clock["hour"] == pytest.approx(hour, abs=1e-6)
    assert clock["weekday"] == local.weekday()
