"""Moments of truth, and messages that campaigns draw, with the number of each."""

import msgspec

from engine.analysis.measure.activity import ActivityReport
from engine.catalog.spec.offer import CampaignSpec, MomentSpec, TriggerSpec
from engine.dashboard.board.results import Job
from engine.dashboard.tables import DataTable, columns_of, count_cell, text_cell
from engine.dashboard.web import Page, PageVisit, link_to


async def moments(visit: PageVisit) -> Page:
    """The page of all moments, in order of precedence."""
    desk = visit.desk
    activity = desk.results.read(Job("activity", ""))
    shown = activity.value.shown if activity and isinstance(activity.value, ActivityReport) else []
    counts: dict[tuple[str, str], int] = {}
    for one in shown:
        if one.reason == "moment":
            counts[one.placement, one.offer] = counts.get((one.placement, one.offer), 0) + one.decisions
    specs = list(desk.worker.watch.specs.moments.values())
    campaigns = list(desk.worker.watch.specs.campaigns.values())
    drawn = {spec.key: {one.offer: one.decisions for one in shown if one.placement == spec.key} for spec in campaigns}
    outbound = [one.key for one in desk.worker.watch.specs.channels.channels if one.outbound]
    return Page(
        template="moments.html",
        title="Moments",
        context={
            "found": [(spec, trigger_text(spec.trigger), _times(spec, counts)) for spec in specs],
            "campaigns": [(spec, link_to("bandits", spec.key), _counts(drawn[spec.key])) for spec in campaigns],
            "outbound": outbound,
        },
        tables=(_moments_table(specs, counts), _campaigns_table(campaigns, drawn)),
    )


def trigger_text(trigger: TriggerSpec) -> str:
    """A sentence about the trigger of a moment."""
    parts = []
    if trigger.event:
        parts.append(f"the event {trigger.event}")
    if trigger.date:
        parts.append(f"the date {trigger.date}{' of every year' if trigger.yearly else ''}")
    text = f"Starts with {' and '.join(parts)}" if parts else "Holds"
    if trigger.when:
        text += f" {'and ' if parts else ''}while {msgspec.json.encode(trigger.when).decode()}"
    if trigger.after:
        text += f", {trigger.after} later"
    if trigger.unless:
        text += f", unless {' or '.join(trigger.unless)} came first"
    return f"{text}."


def _counts(drawn: dict[str, int]) -> list[str]:
    return [f"{arm} {count:,}" for arm, count in sorted(drawn.items())]


def _times(spec: MomentSpec, counts: dict[tuple[str, str], int]) -> int:
    """The number of times that one of the moment's offers took precedence at its placements."""
    return sum(counts.get((placement, offer), 0) for placement in spec.placements for offer in spec.offers)


def _campaigns_table(specs: list[CampaignSpec], drawn: dict[str, dict[str, int]]) -> DataTable:
    titles = {"campaign": "Campaign", "title": "Title", "days": "Days", "hours": "Hours", "channels": "Channels"}
    titles |= {"consent": "Consent to", "arm": "Channel and hour", "drawn": "Drawn, 30 days"}
    rows = []
    for spec in specs:
        named = (spec.key, spec.title or "", ", ".join(spec.schedule.days), ", ".join(spec.schedule.at))
        channels = ", ".join(one.channel for one in spec.channels)
        for arm, count in sorted(drawn[spec.key].items()) or [("", 0)]:
            texts = (*named, channels, spec.purpose or "", arm)
            rows.append([*(text_cell(text) for text in texts), count_cell(count)])
    empty = "No campaign sends messages. Add one to campaigns.yaml in the editor."
    columns = columns_of(titles, figures=("drawn",))
    return DataTable(name="campaigns", title="Messages to send", columns=columns, rows=rows, empty=empty)


def _moments_table(specs: list[MomentSpec], counts: dict[tuple[str, str], int]) -> DataTable:
    titles = {
        "moment": "Moment",
        "title": "Title",
        "trigger": "Trigger",
        "window": "Lasts",
        "placements": "Placements",
        "channels": "Channels",
        "offers": "Offers",
        "once": "Once per",
        "shown": "Shown, 30 days",
    }
    rows = [
        [
            text_cell(spec.key),
            text_cell(spec.title or ""),
            text_cell(trigger_text(spec.trigger)),
            text_cell(spec.window),
            text_cell(", ".join(spec.placements)),
            text_cell(", ".join(spec.channels or [])),
            text_cell(", ".join(spec.offers)),
            text_cell(spec.once.per if spec.once else ""),
            count_cell(_times(spec, counts)),
        ]
        for spec in specs
    ]
    empty = "The shop has no moment of truth. Add one to moments.yaml in the editor."
    columns = columns_of(titles, figures=("shown",))
    return DataTable(name="moments", title="Moments", columns=columns, rows=rows, empty=empty)
