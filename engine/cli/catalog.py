"""The growth team's verbs: check the YAML, show what a change does, and preview what customers would get."""

import time
from collections.abc import Iterator, Sequence
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
    Folder,
    Redis,
    app,
    format_count,
    is_store_named,
    new_table,
    out,
    print_error,
    print_json,
    print_line,
)
from engine.errors import BadInput, CatalogError, Problem, StoreUnavailable
from engine.settings import STORE_ADDRESS_FILE, Settings, from_environment

if TYPE_CHECKING:
    from engine.catalog import Plan
    from engine.catalog.spec.folder import Specs
    from engine.decision.offers import Snapshot
    from engine.rehearse.coverage import CoverageCell
    from engine.rehearse.customers import SampledCustomer
    from engine.rehearse.preview import PreviewRow

PlanKey = Annotated[str, Parameter(help="The key of an experiment or a placement.")]
Channel = Annotated[
    str | None,
    Parameter(help="The channel of customers who name none; web by default, or the first by name if there is no web."),
]
Customers = Annotated[
    Path | None,
    Parameter(help="JSON, JSON Lines or CSV: user_id, traits, context, channel; 20 generated ones by default."),
]
At = Annotated[
    str | None, Parameter(help="The time of the decisions, in RFC 3339: 2026-11-27T18:00:00+01:00. Now by default.")
]
SAMPLE = 10_000
"""Customers that are generated where no file is given."""
PREVIEWED = 20
"""Customers that are generated for a preview."""


@app.command(group=DESIGN)
def check(
    folder: Folder = None,
    *,
    log: Annotated[Path | None, Parameter(help="The Parquet log, to also warn of flags that are stale by it.")] = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Validate every YAML file and show all problems at once; exit 1 if there are any."""
    from engine.catalog.check.load import load_specs
    from engine.catalog.check.warnings import find_warnings
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.assertion_files import read_assertions

    settings = from_environment(experiments=folder, data=data)
    folder = settings.experiments
    if not folder.is_dir():
        raise BadInput(f"{folder}: is not a folder; name the folder that has channels.yaml")
    try:
        specs = load_specs(folder, settings.plans)
        read_assertions(folder, specs)
    except CatalogError as error:
        if json:
            print_json({"ok": False, "problems": error.problems, "warnings": []})
        else:
            for problem in error.problems:
                print_line(str(problem))
            print_line(f"{format_count(len(error.problems), 'problem')}. The running plan is unchanged.")
        return 1
    plan = compile_plan(specs)
    warnings = find_warnings(specs, time.time())
    if log is not None:
        warnings = sorted([*warnings, *_find_stale(specs, log)])
    if json:
        print_json({"ok": True, "problems": [], "warnings": warnings, "plan": plan.version})
        return 0
    for warning in warnings:
        print_line(f"warning: {warning}")
    found = f"No problems, {format_count(len(warnings), 'warning')}"
    print_line(f"{folder}: {_sizes(specs, plan)}. {found}. Plan {plan.version}.")
    return 0


def _find_stale(specs: "Specs", log: Path) -> "Iterator[Problem]":
    """Yield a warning for each flag that is stale by the log."""
    from engine.analysis.checks.stale_flags import find_stale_flags

    for one in find_stale_flags(specs.experiments, log, time.time()):
        yield Problem(specs.files[one.key], "", one.text)


def _sizes(specs: "Specs", plan: "Plan") -> str:
    """`2 experiments, 1 draft, 10 offers, 3 placements`; no drafts are left out."""
    drafts = sum(spec.status == "draft" for spec in specs.experiments.values())
    sizes = [
        format_count(len(plan.experiments), "experiment"),
        *([format_count(drafts, "draft")] if drafts else []),
        format_count(len(plan.offers), "offer"),
        format_count(len(plan.placements), "placement"),
    ]
    return ", ".join(sizes)


@app.command(group=DESIGN)
def schema(folder: Annotated[Path, Parameter(help="The folder to write the schemas to.")]) -> int:
    """Write the JSON Schemas of the YAML into a folder, for editors."""
    from engine.catalog.schema.schema import write_schemas

    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is not a folder; name one for the schemas, it is made if necessary")
    for path in write_schemas(folder):
        print_line(str(path))
    return 0


@app.command(group=DESIGN)
def preview(
    key: PlanKey,
    *,
    customers: Customers = None,
    channel: Channel = None,
    at: At = None,
    link: Annotated[
        str | None, Parameter(help="Make a link to this page, whose bearer sees the --variant; nothing is logged.")
    ] = None,
    variant: Annotated[str | None, Parameter(help="With --link: the variant, or the placement's offer.")] = None,
    expires: Annotated[str, Parameter(help="With --link: for how long it works, 30d at most.")] = "24h",
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Show who gets what of an experiment (a draft too) or a placement, and why, without side effects.

    With --at every date, ramp, hour and quiet hour is that of the given time, also of a draft.

    The policies are those in the store of the data directory; if none runs there, as they are before learning.

    With --link it makes a link instead. Its bearer sees the --variant on the shop's own pages; no report counts them.
    """
    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.customers import with_channel
    from engine.rehearse.generated_customers import make_customers
    from engine.rehearse.preview import preview as preview_customers
    from engine.rehearse.preview import with_draft

    now = time.time() if at is None else _parse_time(at)
    settings = from_environment(experiments=experiments, data=data, redis=redis)
    if link is not None:
        from engine.cli.design.preview_link import print_link

        specs = load_specs(settings.experiments, settings.plans)
        return print_link(settings, specs, key, variant, link=link, expires=expires, json=json)
    if variant is not None:
        raise BadInput(f"--variant {variant}: is for --link, which makes a link to it; leave it out, or add --link URL")
    specs = with_draft(load_specs(settings.experiments, settings.plans), key, dated=at is not None)
    found = read_customers(customers, specs) if customers else make_customers(PREVIEWED, specs, now=now, key=key)
    plan, sample = (
        at_current_steps(compile_plan(specs), settings, is_named=is_store_named(redis)),
        with_channel(found, channel),
    )
    snapshots = read_snapshots(settings, plan, is_named=is_store_named(redis))
    rows = preview_customers(plan, key, sample, now, snapshots)
    if json:
        print_json(rows)
    else:
        _print_preview(rows, of_placement=key not in plan.experiments)
    return 0


def _parse_time(text: str) -> float:
    """A time of the command line in seconds since 1970."""
    from engine.catalog.conditions.dates import RFC3339, read_date

    found = read_date(text) if RFC3339.fullmatch(text) else None
    if found is None:
        raise BadInput(f"--at {text}: is not a time with its offset; write it as 2026-11-27T18:00:00+01:00 (RFC 3339)")
    return found


def _print_preview(rows: "Sequence[PreviewRow]", *, of_placement: bool) -> None:
    last = "policy" if of_placement else "payload"
    headers = ("customer", "channel", "gets", "reason", "propensity", last)
    table = new_table(*headers, figures=["propensity"])
    for row in rows:
        propensity = "-" if row.propensity is None else f"{row.propensity:.3f}"
        detail = (row.policy or "-") if of_placement else row.detail
        cells = (row.customer, row.channel, row.gets or "-", row.reason, propensity, escape(detail))
        table.add_row(*cells)
    out.print(table)
    for row in rows if of_placement else ():
        print_line(f"{row.customer} on {row.channel} among {row.detail}")


def differences(old: object, new: object) -> Iterator[str]:
    """A changed value as one line of YAML, `old → new`; for a mapping only the keys that differ."""
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    if isinstance(before, dict) and isinstance(after, dict):
        names = [name for name in before | after if before.get(name) != after.get(name)]
        before, after = ({name: side[name] for name in names if name in side} for side in (before, after))
    if old is not None or new is not None:
        yield f"{as_yaml_line(before)} → {as_yaml_line(after)}"


def as_yaml_line(value: object) -> str:
    """A value as one line of YAML, without keys that have no value."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {as_yaml_line(one)}" for name, one in value.items() if one is not None) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_yaml_line, value))}]"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def read_customers(file: Path, *shops: "Specs") -> "list[SampledCustomer]":
    """The customers of a sample file; reports traits that no shop reads on standard error."""
    from engine.rehearse.customers import read_sample
    from engine.rehearse.trait_names import text_traits, unread_traits

    sample = read_sample(file, text_traits(*shops))
    for line in unread_traits(sample, *shops):
        print_error(f"{file}: {line}")
    return sample


def at_current_steps(plan: "Plan", settings: Settings, *, is_named: bool) -> "Plan":
    """The plan with its ramps at their step in the store or the log; reports assumed steps on standard error."""
    if not any(one.held_steps or one.rules for one in plan.experiments.values()):
        return plan
    from engine.supervise.running_state import assumed_steps, read_running_state

    running = read_running_state(settings, settings.log, is_named=is_named)
    for line in assumed_steps(plan, running):
        print_error(f"{line}.")
    return replace(plan, ramped=running.ramped)


def read_snapshots(settings: Settings, plan: "Plan", *, is_named: bool) -> "dict[str, Snapshot]":
    """The learnt policies of the plan in the store, by selection.

    Empty if no store runs on the data directory. A store that was named and does not answer is an error; otherwise the
    policies are taken as before learning, which is reported.
    """
    from engine.decision.offers import Snapshot
    from engine.journal import stream
    from engine.snapshots.header import align_policy, meaning_of
    from engine.snapshots.publish import current_snapshot, store_errors
    from policies import load_policy

    if not is_named and not (settings.data / STORE_ADDRESS_FILE).is_file():
        return {}
    snapshots = {}
    try:
        with stream.connect_stream(settings.redis) as client, store_errors("reading what is learnt"):
            for key, selection in plan.taught.items():
                stored = current_snapshot(client, key)
                if stored is not None and stored.header.meaning == meaning_of(selection):
                    policy = align_policy(load_policy(stored.blob), selection)
                    snapshots[key] = Snapshot(policy, stored.header.version)
    except StoreUnavailable as error:
        if is_named:
            raise
        print_error(f"{error}. The policies are taken as they are before learning.")
        return {}
    return snapshots


@app.command(group=DESIGN)
def coverage(
    *,
    profiles: Annotated[
        Path | None,
        Parameter(help="A sample of customers; one per stage, who consented to every purpose, by default."),
    ] = None,
    full: Annotated[
        bool, Parameter(name="--all", negative="", show_default=False, help="Every row, the covered ones too.")
    ] = False,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Show which segments have no offer, by stage and channel, or with --all the whole table.

    A hole is where most customers get nothing of their own. With --json every row is there, the holes first. Ramps that
    hold themselves are at the step that the store of the data directory has, or else the log.
    """
    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.coverage import measure_coverage, unmet_segments
    from engine.rehearse.customers import make_one_per_stage

    settings = from_environment(experiments=experiments, data=data, redis=redis)
    specs, now = load_specs(settings.experiments, settings.plans), time.time()
    purposes = {offer.purpose for offer in specs.offers.values() if offer.purpose is not None}
    plan = at_current_steps(compile_plan(specs), settings, is_named=is_store_named(redis))
    stages = plan.rules.computed.stages
    sample = read_customers(profiles, specs) if profiles else make_one_per_stage(purposes, now, stages)
    cells = measure_coverage(plan, specs, sample, now)
    if json:
        print_json(cells)
        return 0
    holes = [cell for cell in cells if cell.hole]
    print_line(
        f"{format_count(len(holes), 'hole')} in {format_count(len(cells), 'row')} of segment by stage by channel."
    )
    _print_cells(cells if full else holes)
    if len(holes) < len(cells) and not full:
        print_line("--all shows the covered rows too.")
    if missing := unmet_segments(specs, cells):
        print_line(f"The sample has nobody in {', '.join(missing)}; name such customers with --profiles.")
    return 0


def _print_cells(cells: "Sequence[CoverageCell]") -> None:
    headers = ("segment", "stage", "where", "customers", "without", "offers")
    table = new_table(*headers, figures=["customers", "without"])
    for cell in cells:
        where = f"{cell.placement} on {cell.channel}"
        names = ", ".join(cell.offers) or "none"
        row = (cell.segment, cell.stage, where, f"{cell.customers:,}", f"{cell.without:.0%}", names)
        table.add_row(*row, style="red" if cell.hole else "")
    if table.row_count:
        out.print(table)
