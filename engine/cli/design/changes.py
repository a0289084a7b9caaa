"""The verb that shows what a change does, as tables or as Markdown for a pull request."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from rich.markup import escape

from engine.cli.app import (
    DESIGN,
    AsJson,
    Data,
    LogFolder,
    Redis,
    app,
    format_count,
    is_store_named,
    new_table,
    out,
    print_json,
    print_line,
)
from engine.cli.catalog import SAMPLE, differences, read_customers
from engine.errors import BadInput, require_extras
from engine.settings import Settings, from_environment

if TYPE_CHECKING:
    from engine.analysis.checks.change_evidence import ChangeEvidence
    from engine.analysis.planvalue.line_values import PlanValue
    from engine.catalog.diff.offers import Change
    from engine.rehearse.variant_moves import VariantMove


class PlannedChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The effects of a change: its parts, moved customers of the sample, the log's evidence, and ramp steps."""

    changes: "list[Change]"
    moves: "list[VariantMove]"
    sample: int
    evidence: "list[ChangeEvidence] | None" = None
    assumed: list[str] = []
    value: "PlanValue | None" = None


@app.command(group=DESIGN)
def plan(
    old: Annotated[Path, Parameter(help="The folder of YAML that runs.")],
    new: Annotated[Path, Parameter(help="The folder of YAML that is to run.")],
    *,
    profiles: Annotated[Path | None, Parameter(help="A sample of customers; 10,000 generated ones by default.")] = None,
    evidence: Annotated[
        bool, Parameter(negative="", show_default=False, help="Count in the log who drops out, and the days it adds.")
    ] = False,
    value: Annotated[
        bool, Parameter(negative="", show_default=False, help="Value each changed line in money, on the log.")
    ] = False,
    alpha: Annotated[float, Parameter(help="With --value: one minus the coverage of the intervals.")] = 0.05,
    markdown: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print Markdown, for a pull request.")
    ] = False,
    exit_code: Annotated[
        bool, Parameter(negative="", show_default=False, help="Exit with 1 if something unsafe is in the change.")
    ] = False,
    log: LogFolder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Show what a change does: each change safe or unsafe, and who of a sample moves from which variant to which.

    Ramps that hold themselves are at the step that the store of the data directory has; without one, the log.

    With --value the log's decisions are made again under the old plan with each changed line: what it would have
    earned less what it did, with its interval, or why the log cannot tell.
    """
    if json and markdown:
        raise BadInput("plan: --json and --markdown are two forms of one answer; leave one out")
    settings = from_environment(data=data, redis=redis)
    is_named, log_dir = is_store_named(redis), log or settings.log
    found = _compare(old, new, profiles, settings, log_dir, is_named=is_named, has_evidence=evidence)
    if value:
        found = msgspec.structs.replace(found, value=_value(old, new, log_dir, settings, alpha))
    if json:
        print_json(found)
    elif markdown:
        print_line(as_markdown(found, str(old), str(new)))
    else:
        _print_plan(found, f"{old} → {new}")
    return 1 if exit_code and any(change.verdict == "unsafe" for change in found.changes) else 0


def _compare(
    old: Path,
    new: Path,
    profiles: Path | None,
    settings: Settings,
    log_dir: Path,
    *,
    is_named: bool,
    has_evidence: bool,
) -> PlannedChange:
    """Computes the effects of the change from one folder to another."""
    from engine.catalog.check.load import load_specs
    from engine.catalog.diff.experiments import compare_specs
    from engine.catalog.plan.audience_names import experiment_names
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.generated_customers import make_customers
    from engine.rehearse.variant_moves import count_moves
    from engine.supervise.running_state import assumed_steps, read_running_state

    before, after = load_specs(old, settings.plans), load_specs(new, settings.plans)
    now = time.time()
    customers = read_customers(profiles, before, after) if profiles else make_customers(SAMPLE, before, after, now=now)
    sample = [one.profile for one in customers]
    changes = sorted(compare_specs(before, after, now), key=lambda change: change.verdict != "unsafe")
    running = read_running_state(settings, log_dir, is_named=is_named)
    plans = [replace(compile_plan(specs), ramped=running.ramped) for specs in (before, after)]
    found = PlannedChange(
        changes=changes,
        moves=count_moves(plans[0], plans[1], sample, now),
        sample=len(sample),
        assumed=list(dict.fromkeys(line for one in plans for line in assumed_steps(one, running))),
    )
    if not has_evidence:
        return found
    require_extras("counterpoint plan --evidence", "analysis")
    from engine.analysis.checks.change_evidence import measure_change

    keys = list(dict.fromkeys([*(change.key for change in changes), *(move.experiment for move in found.moves)]))
    names = {key: (experiment_names(before, key), experiment_names(after, key)) for key in keys}
    return msgspec.structs.replace(found, evidence=measure_change(plans[0], plans[1], names, log_dir, now))


def _value(old: Path, new: Path, log_dir: Path, settings: Settings, alpha: float) -> "PlanValue":
    """The value of each changed line, from the log."""
    require_extras("counterpoint plan --value", "analysis")
    from engine.analysis.planvalue.line_values import value_plan

    if not 0 < alpha < 1:
        raise BadInput(f"--alpha {alpha}: is not between 0 and 1; 0.05 gives 95% intervals")
    return value_plan(old, new, log_dir, plans=settings.plans, alpha=alpha)


def _print_plan(found: PlannedChange, title: str) -> None:
    if found.changes:
        print_line(title)
        table = new_table("", "what", "why")
        for change in found.changes:
            style = "bold red" if change.verdict == "unsafe" else "green"
            table.add_row(f"[{style}]{change.verdict}[/]", escape(_describe(change)), escape(change.reason))
        out.print(table)
        for line in (*_move_lines(found), *_evidence_lines(found), *found.assumed):
            print_line(line)
    else:
        print_line("No change has an effect on a customer.")
    if found.value is not None:
        from engine.analysis.render.plan_value import render_plan_value

        print_line("")
        out.print(render_plan_value(found.value))


def _describe(change: "Change") -> str:
    return " ".join((change.key, *filter(None, (change.path,)), *differences(change.old, change.new)))


def _move_lines(found: PlannedChange) -> Iterator[str]:
    for move in found.moves:
        moved = f"{move.customers:,} of {found.sample:,} ({move.customers / found.sample:.1%})"
        yield f"{move.experiment}: {moved} {move.source} → {move.target}"
    if not found.moves:
        yield f"None of {format_count(found.sample, 'customer')} moves."


def _evidence_lines(found: PlannedChange) -> Iterator[str]:
    for one in found.evidence or []:
        yield f"{one.key}: {one.text}."
    if found.evidence == []:
        yield "The log has nobody who was exposed to what changes."


def _value_lines(found: PlannedChange) -> Iterator[str]:
    from engine.analysis.render.plan_value import summarize_line

    if found.value is not None:
        for one in found.value.lines:
            yield summarize_line(one, found.value.currency)
        if found.value.together is not None:
            yield f"all together: {summarize_line(found.value.together, found.value.currency, named=False)}"


def as_markdown(found: PlannedChange, old: str, new: str) -> str:
    """Renders the effects of a change as a comment of a pull request: a verdict, a table of changes, and lists."""
    unsafe = sum(change.verdict == "unsafe" for change in found.changes)
    if not found.changes:
        return f"### Counterpoint: `{old}` → `{new}`\n\nNo change has an effect on a customer."
    verdict = f"**{format_count(unsafe, 'unsafe change')}**" if unsafe else "Every change is safe"
    lines = [
        f"### Counterpoint: `{old}` → `{new}`",
        "",
        f"{verdict}, of {format_count(len(found.changes), 'change')}.",
        "",
        "| | what | why |",
        "|---|---|---|",
    ]
    for change in found.changes:
        word = "**unsafe**" if change.verdict == "unsafe" else "safe"
        lines.append(f"| {word} | {_code(_describe(change))} | {_cell(change.reason)} |")
    for title, part in (
        ("Who moves", _move_lines(found)),
        ("What the log says", _evidence_lines(found)),
        ("What it is worth on the log", _value_lines(found)),
        ("Assumed", found.assumed),
    ):
        items = [f"- {_cell(line)}" for line in part]
        lines += ["", f"**{title}**", "", *items] if items else []
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A text escaped for Markdown and HTML, also inside a table."""
    for mark in ("\\", "`", "*", "_", "|", "<", "[", "]"):
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def _code(text: str) -> str:
    """A text as code in a table."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text.replace('|', chr(92) + '|')}{fence}".replace("\n", " ")
