"""Moments of truth: when some offers precede all others, and how often that happened."""

import msgspec

from engine.analysis.measure.activity import ActivityReport
from engine.catalog.spec.offer import MomentSpec, TriggerSpec
from engine.dashboard.board.results import Job
from engine.dashboard.tables import DataTable, columns_of, count_cell, text_cell
from engine.dashboard.web import Page, PageVisit


async def moments(visit: PageVisit) -> Page:
    """All moments, in the order in which they are asked."""
    desk = visit.desk
    activity = desk.results.read(Job("activity", ""))
    shown = activity.value.shown if activity and isinstance(activity.value, ActivityReport) else []
    counts: dict[tuple[str, str], int] = {}
    for one in shown:
        if one.reason == "moment":
            counts[one.placement, one.offer] = counts.get((one.placement, one.offer), 0) + one.decisions
    specs = list(desk.worker.watch.specs.moments.values())
    return Page(
        template="moments.html",
        title="Moments",
        context={"found": [(spec, trigger_text(spec.trigger), _times(spec, counts)) for spec in specs]},
        tables=(_moments_table(specs, counts),),
    )


def trigger_text(trigger: TriggerSpec) -> str:
    """What starts a moment, as a sentence."""
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


def _times(spec: MomentSpec, counts: dict[tuple[str, str], int]) -> int:
    """How often one of the moment's offers preceded the others at its placements."""
    return sum(counts.get((placement, offer), 0) for placement in spec.placements for offer in spec.offers)


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
