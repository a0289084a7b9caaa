"""The editor: one YAML file at a time, with its problems, changes and a preview."""

import asyncio
import time
from dataclasses import replace

from engine.analysis.checks.lights import Tone
from engine.catalog.diff.offers import Change
from engine.dashboard.board.drafts import (
    DraftCheck,
    check_draft,
    digest_of,
    folder_files,
    require_utf8,
    text_of,
    write_draft,
)
from engine.dashboard.tables import DataTable, TableCell, columns_of, count_cell, share_cell, text_cell
from engine.dashboard.web import Download, Page, PageVisit, Redirect, link_to
from engine.errors import BadInput, Problem
from engine.service.endpoints.admin import record_audit
from engine.service.problems import Refusal
from engine.vocabulary import EXPERIMENTS_WRITTEN

NEW = """key: my_experiment
hypothesis: What changes, and why it helps.
owner: growth
status: draft
variants:
  - {key: control, weight: 0.5}
  - {key: new, weight: 0.5, payload: {}}
metrics: {primary: conversion}
"""
"""The text of a new experiment."""
ADMIN_FILE = "notify.yaml"
"""The file that only an admin may read: an address of a webhook lets everyone who knows it post there."""


async def editor(visit: PageVisit) -> Page:
    """The editor on a file: by its name, by a key that it defines, or a new one."""
    desk = visit.desk
    files = await _files_for(visit)
    named = desk.worker.watch.specs.files.get(visit.query.get("key", ""), "").partition("/")[2]
    name = visit.query.get("file", "") or named
    if name not in files and not named:
        name = name or "my_experiment.yaml"
    _require_readable(visit, name)
    data = files.get(name)
    require_utf8(name, data or b"")
    return await _editor_page(visit, name, NEW if data is None else text_of(data), files, digest_of(data))


async def check(visit: PageVisit) -> Page:
    """The problems, changes and preview of a draft, as the part of the page that a script replaces."""
    name, text = visit.form.get("name", ""), _text(visit)
    _require_readable(visit, name)
    checked, problem = await _check(visit, name, text)
    context = {"checked": checked, "problem": problem}
    return Page(template="draft.html", title="Draft", context=context, tables=draft_tables(checked))


async def write(visit: PageVisit) -> Page | Redirect:
    """Write a draft to the experiments folder."""
    name, text, seen = visit.form.get("name", ""), _text(visit), visit.form.get("seen", "")
    accepts = visit.form.get("accept") == "yes"
    try:
        await asyncio.to_thread(write_draft, visit.desk, name, text, seen=seen, accepts_unsafe=accepts)
    except BadInput as error:
        files = await _files_for(visit)
        return await _editor_page(visit, name, text, files, seen, refused=str(error))
    record_audit(visit.desk.worker, EXPERIMENTS_WRITTEN, {"file": name, "by": visit.session.name}, time.time())
    return Redirect(to=link_to("editor", file=name, written="yes"))


async def download(visit: PageVisit) -> Download:
    """The draft as a file."""
    name = visit.form.get("name", "").rpartition("/")[2].removesuffix(".yaml") or "draft"
    return Download(body=_text(visit).encode(), media_type="application/yaml", file=f"{name}.yaml")


def draft_tables(checked: DraftCheck) -> tuple[DataTable, ...]:
    """Shows the changes of a draft, and who would get what."""
    return _changes_table(checked), _moves_table(checked), _preview_table(checked)


async def _editor_page(
    visit: PageVisit, name: str, text: str, files: dict[str, bytes], seen: str, *, refused: str = ""
) -> Page:
    """The page of a text, checked before it is shown, so that it works without scripts too."""
    checked, problem = await _check(visit, name, text)
    return Page(
        template="editor.html",
        title=f"Editor, {name}",
        context={
            "name": name,
            "text": text,
            "seen": seen,
            "files": sorted(files, key=lambda file: (file.startswith("offers/"), file)),
            "is_new": name not in files,
            "refused": refused,
            "written": visit.query.get("written") == "yes",
            "checked": checked,
            "problem": problem,
        },
        tables=draft_tables(checked),
        status=409 if refused else 200,
    )


async def _check(visit: PageVisit, name: str, text: str) -> tuple[DraftCheck, str]:
    """The check of a draft, or the reason for none; only an admin sees problems that quote the secret file."""
    try:
        checked = await asyncio.to_thread(check_draft, visit.desk, name, text)
    except BadInput as error:
        return DraftCheck(), str(error)
    if visit.may("admin"):
        return checked, ""
    secret = f"{visit.desk.settings.experiments.name}/{ADMIN_FILE}"
    masked = Problem(secret, "", "has a problem; only an admin may read it, since the file has secrets")
    shown = [masked if one.file == secret else one for one in checked.problems]
    return replace(checked, problems=list(dict.fromkeys(shown))), ""


async def _files_for(visit: PageVisit) -> dict[str, bytes]:
    """The folder's files that this person may read."""
    files = await asyncio.to_thread(folder_files, visit.desk.settings.experiments)
    return {name: data for name, data in files.items() if name != ADMIN_FILE or visit.may("admin")}


def _require_readable(visit: PageVisit, name: str) -> None:
    """Refuse the secret file to everyone except admins.

    Raises:
        Refusal: 403.
    """
    if name == ADMIN_FILE and not visit.may("admin"):
        reason = "the address of a webhook lets everyone who knows it post there"
        raise Refusal(403, f"{name} needs the role admin, since {reason}; ask an admin to change it")


def _text(visit: PageVisit) -> str:
    """The draft with the file's line ends, since a form sends others."""
    return visit.form.get("text", "").replace("\r\n", "\n")


def _changes_table(checked: DraftCheck) -> DataTable:
    titles = {"safety": "Safety", "key": "Of", "path": "What", "reason": "Effect"}
    rows = [_change_row(change) for change in checked.changes]
    empty = "No change has an effect on a customer."
    return DataTable(name="plan", title="What it changes", columns=columns_of(titles), rows=rows, empty=empty)


def _change_row(change: Change) -> list[TableCell]:
    tone: Tone = "bad" if change.verdict == "unsafe" else "good"
    names = [text_cell(change.key), text_cell(change.path or "whole entry"), text_cell(change.reason)]
    return [text_cell(change.verdict, tone=tone), *names]


def _moves_table(checked: DraftCheck) -> DataTable:
    titles = {"experiment": "Experiment", "from": "From", "to": "To", "customers": "Customers", "share": "Share"}
    rows = [
        [
            *(text_cell(name) for name in (move.experiment, move.source, move.target)),
            count_cell(move.customers),
            share_cell(move.customers / checked.sample if checked.sample else None),
        ]
        for move in checked.moves
    ]
    empty = f"None of {checked.sample:,} customers moves to another variant."
    columns = columns_of(titles, figures=("customers", "share"))
    return DataTable(name="moves", title="Who moves", columns=columns, rows=rows, empty=empty)


def _preview_table(checked: DraftCheck) -> DataTable:
    titles = {"customer": "Customer", "channel": "Channel", "gets": "Gets", "reason": "Reason"}
    titles |= {"propensity": "Probability", "detail": "Detail"}
    rows = [
        [
            *(text_cell(cell) for cell in (row.customer, row.channel, row.gets or "nothing", row.reason)),
            share_cell(row.propensity),
            text_cell(row.detail),
        ]
        for row in checked.preview
    ]
    empty = "This file defines no experiment and no placement: nobody gets anything of it by itself."
    columns = columns_of(titles, figures=("propensity",))
    return DataTable(name="preview", title="Who would get what", columns=columns, rows=rows, empty=empty)
