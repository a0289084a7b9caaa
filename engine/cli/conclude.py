"""The verb that ends an experiment: it shows the report, asks, and writes the decision into the YAML."""

import getpass
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import msgspec
from cyclopts import Parameter

from engine.cli.app import DESIGN, Data, Folder, LogFolder, app, out, print_error, print_line
from engine.errors import BadInput
from engine.settings import from_environment

if TYPE_CHECKING:
    from pathlib import Path

    from engine.analysis.report.model import Report
    from engine.catalog.spec.conclusion import ChangedQuestionSpec


class FrozenReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report on which an experiment was decided, with its plan and the range of the log (RFC 3339)."""

    experiment: str
    plan: str
    since: str | None
    until: str
    decision: str
    report: "Report"


@app.command(group=DESIGN)
def conclude(
    key: Annotated[str, Parameter(help="The experiment.")],
    *,
    ship: Annotated[str | None, Parameter(help="The variant that everyone gets, but the holdouts.")] = None,
    stop: Annotated[bool, Parameter(negative="", show_default=False, help="End it; everyone gets control.")] = False,
    why: Annotated[str, Parameter(help="The reason, or what was learnt.")] = "",
    by: Annotated[str | None, Parameter(help="Who decides; the user by default.")] = None,
    yes: Annotated[bool, Parameter(negative="", show_default=False, help="Do not ask.")] = False,
    log: LogFolder = None,
    experiments: Folder = None,
    data: Data = None,
) -> int:
    """End an experiment: ship a variant or stop it, write that into its YAML, and freeze its report.

    If its metrics or its analysis changed after the first exposure, both verdicts are shown and written.
    """
    from engine.analysis import analyze_experiment
    from engine.analysis.checks.changed_question import add_first_verdict
    from engine.analysis.design.question_from_plan import build_question
    from engine.analysis.render.terminal import render
    from engine.catalog.archive import Archive
    from engine.catalog.check.load import load_specs
    from engine.catalog.conclude import write_conclusion
    from engine.catalog.plan.compile import compile_plan
    from engine.catalog.spec.conclusion import ConclusionSpec

    if (ship is None) != stop:
        raise BadInput("conclude: give either --ship VARIANT or --stop")
    if not why.strip():
        raise BadInput("conclude: --why is missing; give the reason, or what was learnt, in a sentence")
    settings = from_environment(experiments=experiments, data=data)
    specs = load_specs(settings.experiments, settings.plans)
    plan = compile_plan(specs)
    question, metrics = build_question(plan, key)
    folder = log or settings.log
    report = analyze_experiment(question, metrics, folder)
    report = add_first_verdict(report, folder, Archive(settings.plans), question, metrics)
    out.print(render(report))
    changed = _changed_question(report)
    decision = f"ship {ship}" if ship is not None else "stop"
    unverified = report.unverified_question or None
    if not yes and not _agrees(f"{key}: {decision}? Type yes: ", _warning(changed, unverified)):
        print_error("Nothing was changed.")
        return 1
    who = by or getpass.getuser()
    today = datetime.now(ZoneInfo(plan.zone)).date()
    decided = ConclusionSpec(on=today, by=who, why=why.strip(), question=changed, unverified=unverified)
    path = write_conclusion(settings.experiments, specs, key, ship=ship, decided=decided)
    frozen = FrozenReport(
        experiment=key,
        plan=plan.version,
        since=report.first_exposure,
        until=report.as_of,
        decision=decision,
        report=report,
    )
    file = settings.data / "reports" / f"{path.stem}.json"
    _freeze(file, frozen)
    print_line(f"{path}: {decision}. The report is in {file}.")
    return 0


def _changed_question(report: "Report") -> "ChangedQuestionSpec | None":
    """Both verdicts, if the question changed after the first exposure."""
    from engine.catalog.spec.conclusion import ChangedQuestionSpec

    first = report.first_verdict
    if first is None:
        return None
    return ChangedQuestionSpec(
        plan=first.plan, changes=first.changes, began=first.recommendation.verdict, now=report.recommendation.verdict
    )


def _warning(changed: "ChangedQuestionSpec | None", unverified: str | None) -> str:
    """What a person should know of the question before they decide; empty if it is that of the start."""
    if unverified is not None:
        return f"whether the question changed after the first exposure could not be verified: {unverified}"
    return "" if changed is None else changed.describe()


def _agrees(asked: str, warning: str) -> bool:
    """Whether the person at the terminal types yes.

    Raises:
        BadInput: if no one is there.
    """
    if not sys.stdin.isatty():
        which = f"{warning}; " if warning else ""
        raise BadInput(f"conclude: {which}it asks before it writes, and no one is there to answer; add --yes")
    if warning:
        print_error(f"{warning}.")
    return input(asked).strip().lower() == "yes"


def _freeze(file: "Path", frozen: FrozenReport) -> None:
    """Write the report behind the decision; a repeated name gets the next number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while file.exists():
        number += 1
        file = file.with_name(f"{file.stem.partition('~')[0]}~{number}.json")
    file.write_bytes(msgspec.json.encode(frozen))
