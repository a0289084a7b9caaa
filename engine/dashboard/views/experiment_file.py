"""The file of an experiment on its page: text, history, and the traits that can split effects."""

from collections.abc import Sequence

from engine.analysis.checks.lights import Tone
from engine.catalog.diff.offers import Change
from engine.dashboard.board.plan_history import FileChange
from engine.dashboard.board.reported import file_key
from engine.dashboard.tables import DataTable, columns_of, moment_cell, text_cell
from engine.dashboard.web import PageVisit


def changes_table(changes: Sequence[FileChange]) -> DataTable:
    """The changes of a file with their authors, the newest first."""
    titles = {"time": "When", "author": "Who", "plan": "Plan", "safety": "Safety", "path": "What", "reason": "Effect"}
    rows = []
    for one in changes:
        listed: Sequence[Change | None] = one.changes or [None]
        for change in listed:
            tone: Tone = "bad" if change is not None and change.verdict == "unsafe" else ""
            rows.append(
                [
                    moment_cell(one.plan.time),
                    text_cell(one.plan.author),
                    text_cell(one.plan.version),
                    text_cell(change.verdict if change else "", tone=tone),
                    text_cell(
                        (change.path or "whole file") if change else "first seen" if not one.before else "wording"
                    ),
                    text_cell(change.reason if change else ""),
                ]
            )
    return DataTable(name="changes", title="Who changed what", columns=columns_of(titles), rows=rows)


def read_file_changes(visit: PageVisit, key: str) -> list[FileChange]:
    """The changes of an experiment's file; for a rule those of its flag's file."""
    desk, key = visit.desk, file_key(key)
    file = desk.worker.watch.specs.files.get(key, "")
    return desk.history.changes_of(file.partition("/")[2] if "/" in file else file, key)


def list_splits(visit: PageVisit) -> list[str]:
    """The traits by which effects can be split: the channel, the shop's segments and the traits that audiences read."""
    plan = visit.desk.plan
    return ["channel", *sorted(plan.segments), *sorted(plan.audience_names - {"channel"})]
