"""The audit log: changes of how the engine works and of files, with their authors."""

import asyncio

import msgspec

from engine.analysis.measure.activity import ActivityReport, AuditRecord
from engine.dashboard.board.plan_history import PlanVersion
from engine.dashboard.board.results import Job
from engine.dashboard.tables import DataTable, TableCell, columns_of, moment_cell, text_cell
from engine.dashboard.web import Page, PageVisit


async def audit(visit: PageVisit) -> Page:
    """Both lists, newest first."""
    desk = visit.desk
    result = desk.results.read(Job("activity", ""))
    records = result.value.audit if result and isinstance(result.value, ActivityReport) else []
    plans = await asyncio.to_thread(desk.history.all_changes)
    return Page(
        template="audit.html",
        title="Audit log",
        context={"computed": result.at if result else None},
        tables=(_records_table(records), _plans_table(plans)),
    )


def _records_table(records: list[AuditRecord]) -> DataTable:
    titles = {"time": "When", "who": "Who", "what": "What", "of": "Of", "detail": "Detail"}
    empty = "Nobody used the kill switch, set a stock, rolled back, exported, erased or logged in yet."
    return DataTable(
        name="actions",
        title="What people did",
        columns=columns_of(titles),
        rows=[_record_row(record) for record in records],
        empty=empty,
    )


def _record_row(record: AuditRecord) -> list[TableCell]:
    try:
        details = msgspec.json.decode(record.properties, type=dict[str, object])
    except msgspec.MsgspecError:
        details = {}
    who = details.pop("by", "")
    of = next((details.pop(name) for name in ("experiment", "selection", "sku", "file") if name in details), "")
    rest = ", ".join(f"{name} {value}" for name, value in details.items() if value not in ("", None))
    what = record.event.replace("_", " ")
    return [moment_cell(record.time), text_cell(who), text_cell(what), text_cell(of), text_cell(rest)]


def _plans_table(plans: list[tuple[PlanVersion, list[str]]]) -> DataTable:
    titles = {"time": "First run", "author": "Who", "plan": "Plan", "files": "Changed files"}
    rows = [
        [moment_cell(plan.time), text_cell(plan.author), text_cell(plan.version), text_cell(_names(files))]
        for plan, files in plans
    ]
    return DataTable(name="plans", title="Plans that ran", columns=columns_of(titles), rows=rows)


def _names(files: list[str]) -> str:
    return ", ".join(files) if len(files) <= 8 else f"{', '.join(files[:8])} and {len(files) - 8} more"
