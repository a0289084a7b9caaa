"""Schedules outbound messages: the days of campaigns, and the messages that moments send to a customer.

Pure, as all that decides. A *cause* is what sends: a campaign on one day as `KEY/DAY`, a moment on a channel as
`KEY@CHANNEL`. An *occurrence* is one time that it does, the day of a campaign or the start of a moment: each customer
gets at most one message of a cause and an occurrence. Days of a campaign overlap, since zones do, and a lease of one
day may run into the next: so each has its own cause, and a draw replaces no message of another day.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from engine.catalog.plan.plan import Campaign, CampaignArm, Moment, Plan
from engine.customer import Profile
from engine.decision.attributes import build_attributes, usable_profile
from engine.decision.gating.facts import Facts
from engine.decision.gating.gates import Gate
from engine.decision.moments import local_day, midnight, moment_start, next_window
from engine.decision.windows import wall_time
from engine.vocabulary import DAY, HOUR

MOST_AHEAD = 14 * HOUR
"""The zone where a day begins first is so many seconds ahead of UTC."""
MOST_BEHIND = 12 * HOUR
HOLDING = "holding"
"""The occurrence of a moment whose condition holds: it ends once the condition does not."""


class DayCause(NamedTuple):
    """The cause of a campaign's messages of one day."""

    campaign: str
    day: date

    def __str__(self) -> str:
        """The stored form of the cause."""
        return f"{self.campaign}/{self.day}"


class DueMoment(NamedTuple):
    """A message that a moment sends on a channel, due now and up to `end` (s since 1970)."""

    cause: str
    occurrence: str
    channel: str
    placement: str
    end: float


class NextMoments(NamedTuple):
    """A customer's messages of moments due now, the moments that ended, and the time to look again."""

    due: list[DueMoment]
    ended: list[str]
    look_at: float | None


def name_cause(cause: str) -> tuple[str, bool]:
    """The key of a cause's campaign or moment, and whether it is a campaign."""
    campaign, is_day, _ = cause.partition("/")
    return (campaign, True) if is_day else (cause.partition("@")[0], False)


def sending_moments(plan: Plan) -> Iterator[tuple[str, str, Moment]]:
    """Yields each moment that sends by itself, with its first channel and placement."""
    seen: set[tuple[str, str]] = set()
    for (channel, placement), moments in plan.moments.items():
        for moment in moments if channel in plan.outbound else ():
            if (channel, moment.key) not in seen:
                seen.add((channel, moment.key))
                yield channel, placement, moment


def find_next_moments(plan: Plan, profile: Profile, now: float) -> NextMoments:
    """The messages of moments for one customer; a moment that begins later is looked at when it does."""
    profile = usable_profile(plan, profile, now)
    due: list[DueMoment] = []
    ended: list[str] = []
    looks: list[float] = []
    for channel, placement, moment in sending_moments(plan):
        attributes, zone = attributes_of(plan, profile, channel, now)
        facts = Facts(profile=profile, attributes=attributes, channel=channel, now=now, zone=zone)
        one = DueMoment(cause=f"{moment.key}@{channel}", occurrence="", channel=channel, placement=placement, end=now)
        if moment.trigger is not None:
            tomorrow = midnight(local_day(now, zone) + timedelta(days=1), zone)
            looks.append(tomorrow)  # a condition may begin to hold, or end, by the passing of time alone
            if moment_start(moment, facts) is None:
                ended.append(one.cause)
            elif _is_reachable(plan, profile, channel):
                due.append(one._replace(occurrence=HOLDING, end=tomorrow))
            continue
        window = next_window(moment, facts)
        if window is None:
            continue
        if window.start > now:
            looks.append(window.start)
            continue
        looks.append(window.end)
        is_meant = moment.matches is None or moment.matches(attributes)
        if is_meant and _is_reachable(plan, profile, channel):
            due.append(one._replace(occurrence=f"{window.start:.0f}", end=window.end))
    return NextMoments(due, ended, min(looks, default=None))


def open_days(campaign: Campaign, now: float) -> list[date]:
    """The days of a campaign that have begun and not ended in some time zone."""
    today = datetime.fromtimestamp(now, UTC).date()
    found = []
    for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
        begin, end = _span_of_day(campaign, day)
        if day.weekday() in campaign.days and begin <= now < end and campaign.start <= now < campaign.end:
            found.append(day)
    return found


def local_span(plan: Plan, campaign: Campaign, profile: Profile, day: date, now: float) -> tuple[float, float] | None:
    """The start and end of a campaign's day for a customer (s since 1970); None on another local day."""
    zone = campaign_zone(plan, campaign, profile, now)
    begin, end = midnight(day, zone), midnight(day + timedelta(days=1), zone)
    return (begin, end) if begin <= now < end else None


def next_day_begin(plan: Plan, profile: Profile, now: float) -> float | None:
    """The next start of a campaign's day for a customer, among the begun days; None if there is none.

    Days that begin somewhere within an hour count: a look and the sweep of a day may pass each other.
    """
    begins: list[float] = []
    for campaign in plan.campaigns.values():
        if days := open_days(campaign, now + HOUR):
            zone = campaign_zone(plan, campaign, profile, now)
            begins += [begin for day in days if (begin := midnight(day, zone)) > now]
    return min(begins, default=None)


def closed_arms(plan: Plan, campaign: Campaign, profile: Profile, day: date, now: float) -> Mapping[str, Gate]:
    """The campaign arms that are closed for a customer: their hour is over, or the channel has no address."""
    zone = campaign_zone(plan, campaign, profile, now)
    closed: dict[str, Gate] = {}
    for arm in campaign.arms.values():
        if _on_the_wall(day, arm.end, zone) <= now:
            closed[arm.key] = "dates"
        elif not _is_reachable(plan, profile, arm.channel):
            closed[arm.key] = "channel"
    return closed


def time_of_arm(arm: CampaignArm, day: date, zone: str) -> float:
    """The due time (s since 1970) of an arm's message, by the wall clock of a zone."""
    return _on_the_wall(day, arm.begin, zone)


def attributes_of(plan: Plan, profile: Profile, channel: str, now: float) -> tuple[dict[str, object], str]:
    """The attributes of a customer on a channel, without a request, and their time zone."""
    usable = usable_profile(plan, profile, now)
    return build_attributes(usable, channel, {}, now, plan.zone, computed=plan.rules.computed)


def campaign_zone(plan: Plan, campaign: Campaign, profile: Profile, now: float) -> str:
    """The time zone of a campaign's hours: its own, or the customer's."""
    zone = campaign.spec.schedule.zone
    return zone if zone != "customer" else attributes_of(plan, profile, "", now)[1]


def _on_the_wall(day: date, minute: int, zone: str) -> float:
    """The time (s since 1970) at which a zone's clocks show a minute of a day, also on days of 23 and 25 hours."""
    days, minute = divmod(minute, 1440)
    return wall_time(day + timedelta(days=days), time(minute // 60, minute % 60), zone)


def _is_reachable(plan: Plan, profile: Profile, channel: str) -> bool:
    """Whether the customer has the identifier to which the channel sends."""
    kind = plan.addresses.get(channel)
    return kind is None or bool(profile.ids.get(kind))


def _span_of_day(campaign: Campaign, day: date) -> tuple[float, float]:
    """The first and last moment of a day in any zone, or in the campaign's zone (s since 1970)."""
    zone = campaign.spec.schedule.zone
    if zone != "customer":
        return midnight(day, zone), midnight(day + timedelta(days=1), zone)
    begin = midnight(day, "UTC")
    return begin - MOST_AHEAD, begin + DAY + MOST_BEHIND
