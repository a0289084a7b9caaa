"""The growth team's verbs: what the YAML says, what a change of it does, who would get what."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from rich.markup import escape

from engine.cli.app import AsJson, Data, Folder, Redis, app, at_store, complain, count, grid, out, print_json, say
from engine.errors import BadInput, CatalogError, StoreUnavailable
from engine.settings import ADDRESS, Settings, from_environment

if TYPE_CHECKING:
    from engine.catalog import Plan
    from engine.decision.offers import Snapshot

PlanKey = Annotated[str, Parameter(help="An experiment or a placement.")]
Channel = Annotated[
    str | None, Parameter(help="Where customers who name none are met; the web, or else the first by name.")
]
Customers = Annotated[Path, Parameter(help="JSON, JSON Lines or CSV: user_id, traits, context.")]


@app.command
def check(folder: Folder = None, *, json: AsJson = False) -> int:
    """Validate every YAML file and show all problems at once."""
    from engine.catalog.check.load import load_specs
    from engine.catalog.check.warnings import find_warnings
    from engine.catalog.plan.compile import compile_plan

    folder = from_environment(experiments=folder).experiments
    if not folder.is_dir():
        raise BadInput(f"{folder}: is no folder; name the folder that holds channels.yaml")
    try:
        specs = load_specs(folder)
    except CatalogError as error:
        if json:
            print_json({"ok": False, "problems": error.problems, "warnings": []})
        else:
            for problem in error.problems:
                say(str(problem))
            say(f"{count(len(error.problems), 'problem')}. The running plan is unchanged.")
        return 1
    plan = compile_plan(specs)
    regrets = find_warnings(specs, time.time())
    if json:
        print_json({"ok": True, "problems": [], "warnings": regrets, "plan": plan.version})
    else:
        for regret in regrets:
            say(f"warning: {regret}")
        drafts = [spec for spec in specs.experiments.values() if spec.status == "draft"]
        sizes = (
            count(len(of), noun)
            for of, noun in (
                (plan.experiments, "experiment"),
                (drafts, "draft"),
                (plan.offers, "offer"),
                (plan.placements, "placement"),
            )
            if of is not drafts or drafts
        )
        say(f"{folder}: {', '.join(sizes)}. No problems, {count(len(regrets), 'warning')}. Plan {plan.version}.")
    return 0


@app.command
def schema(folder: Annotated[Path, Parameter(help="Where to write them.")]) -> int:
    """Write the JSON Schemas of the YAML into a folder, for editors."""
    from engine.catalog.schema.schema import write_schemas

    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: is no folder; name one for the schemas, it is made if need be")
    for path in write_schemas(folder):
        say(str(path))
    return 0


@app.command
def plan(
    old: Annotated[Path, Parameter(help="The folder of YAML as it runs.")],
    new: Annotated[Path, Parameter(help="The folder as it is to run.")],
    *,
    profiles: Annotated[Path | None, Parameter(help="A sample of customers; 10,000 made-up ids by default.")] = None,
    json: AsJson = False,
) -> int:
    """Tell what a change does: each change safe or unsafe, and who of a sample moves from which variant to which."""
    from engine.catalog.check.load import load_specs
    from engine.catalog.diff.experiments import compare_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.customers import make_customers, read_sample
    from engine.rehearse.variant_moves import count_moves

    before, after = load_specs(old), load_specs(new)
    sample = [one.profile for one in (read_sample(profiles) if profiles else make_customers(10_000))]
    now = time.time()
    found = compare_specs(before, after, now)
    moved = count_moves(compile_plan(before), compile_plan(after), sample, now)
    if json:
        print_json({"changes": found, "moves": moved, "sample": len(sample)})
        return 0
    if not found:
        say("Nothing changes that a customer could feel.")
        return 0
    say(f"{old} → {new}")
    table = grid("", "what", "why")
    for change in sorted(found, key=lambda change: change.verdict != "unsafe"):
        style = "bold red" if change.verdict == "unsafe" else "green"
        what = " ".join((change.key, *filter(None, (change.path,)), *differences(change.old, change.new)))
        table.add_row(f"[{style}]{change.verdict}[/]", escape(what), escape(change.reason))
    out.print(table)
    for move in moved:
        share = move.customers / len(sample)
        say(f"{move.experiment}: {move.customers:,} of {len(sample):,} ({share:.1%}) {move.source} → {move.target}")
    if not moved:
        say(f"None of {count(len(sample), 'customer')} moves.")
    return 0


@app.command
def preview(
    key: PlanKey,
    *,
    customers: Customers,
    channel: Channel = None,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Show who gets what of an experiment (a draft too) or a placement, and why, without side effects.

    The policies are as learnt in the store of the data directory; where none runs, as before they learnt anything.
    """
    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.customers import read_sample, with_channel
    from engine.rehearse.preview import preview as show
    from engine.rehearse.preview import with_draft

    settings = from_environment(experiments=experiments, data=data, redis=redis)
    trial = compile_plan(with_draft(load_specs(settings.experiments), key))
    learnt = learnt_of(settings, trial, named=redis is not None)
    rows = show(trial, key, with_channel(read_sample(customers), channel), time.time(), learnt)
    if json:
        print_json(rows)
        return 0
    among = key not in trial.experiments
    table = grid(
        "customer", "channel", "gets", "reason", "propensity", "policy" if among else "payload", figures=["propensity"]
    )
    for row in rows:
        propensity = "-" if row.propensity is None else f"{row.propensity:.3f}"
        last = (row.policy or "-") if among else row.detail
        table.add_row(row.customer, row.channel, row.gets or "-", row.reason, propensity, escape(last))
    out.print(table)
    for row in rows if among else ():
        say(f"{row.customer} on {row.channel} among {row.detail}")
    return 0


def differences(old: object, new: object) -> Iterator[str]:
    """What became of a value, as YAML in one line; of a mapping only the keys that differ."""
    one, two = msgspec.to_builtins(old), msgspec.to_builtins(new)
    if isinstance(one, dict) and isinstance(two, dict):
        names = [name for name in one | two if one.get(name) != two.get(name)]
        one, two = ({name: side[name] for name in names if name in side} for side in (one, two))
    if old is not None or new is not None:
        yield f"{_yaml(one)} → {_yaml(two)}"


def _yaml(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(one)}" for name, one in value.items() if one is not None) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def learnt_of(settings: Settings, plan: "Plan", *, named: bool) -> "dict[str, Snapshot]":
    """The policies of the plan as they are learnt in the store; reads only."""
    from engine.decision.offers import Snapshot
    from engine.journal import stream
    from engine.snapshots.header import align_policy, meaning_of
    from engine.snapshots.publish import current_snapshot, store_errors
    from policies import load_policy

    if not named and not (settings.data / ADDRESS).is_file():
        return {}
    learnt = {}
    try:
        with stream.connect_stream(settings.redis) as client, store_errors("reading what is learnt"):
            for key, selection in plan.policies.items():
                found = current_snapshot(client, key)
                if found is not None and found.header.meaning == meaning_of(selection):
                    learnt[key] = Snapshot(align_policy(load_policy(found.blob), selection), found.header.version)
    except StoreUnavailable as error:
        if named:
            raise
        complain(f"{error}. The policies are taken as before they learnt anything.")
        return {}
    return learnt


@app.command
def explain(
    decision_id: Annotated[str, Parameter(help="As it was answered.")],
    *,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Make a logged decision again from its record and say why it was so; exit 1 if the answer differs."""
    from engine.catalog.archive import Archive
    from engine.journal import stream
    from engine.rehearse.explain import explain_decision

    with (
        at_store(data, redis) as settings,
        stream.connect_stream(settings.redis) as client,
    ):
        told = explain_decision(settings.log, Archive(settings.data / "plans"), client, decision_id)
    if json:
        print_json(told)
        return 0 if told.same else 1
    same = "the same answer" if told.same else f"another answer: {'; '.join(told.differences)}"
    say(f"{decision_id}, plan {told.plan}: made again, {same}.")
    table = grid("", "key", "got", "reason", "propensity", "policy", figures=["propensity"])
    for row in told.logged:
        table.add_row(row.kind, row.key, row.variant or "-", row.reason, f"{row.propensity:.4f}", row.policy or "")
    out.print(table)
    for version in told.recorded:
        say(f"{version} is not kept any more: its probabilities are those of the record.")
    for name, placement in told.explanation.placements.items():
        say(f"{name}: seen as {_yaml(placement.features) if placement.features else 'anyone'}")
        for one in placement.candidates:
            factors = f"policy {one.policy:.4f}, context {one.context:g}, value {one.value:g}, lever {one.lever:g}"
            factors += f", worth its price of {one.price:g}" if one.price else ""
            say(f"  {one.offer} {one.propensity:.4f} ({factors})")
        for offer, gate in placement.closed.items():
            say(f"  {offer} could not be shown: {gate}")
    return 0 if told.same else 1


@app.command
def coverage(
    *,
    profiles: Annotated[
        Path | None, Parameter(help="A sample of customers; one per stage, who agreed to everything, by default.")
    ] = None,
    full: Annotated[
        bool, Parameter(name="--all", negative="", show_default=False, help="Every row, the covered ones too.")
    ] = False,
    experiments: Folder = None,
    json: AsJson = False,
) -> int:
    """Show where the shop has nothing to say: the holes of segment by stage by channel, or --all of the table.

    A hole is where most customers find nothing of their own. With --json every row is there, the holes first.
    """
    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.coverage import measure_coverage as cover
    from engine.rehearse.coverage import unmet_segments
    from engine.rehearse.customers import make_one_per_stage, read_sample

    specs, now = load_specs(from_environment(experiments=experiments).experiments), time.time()
    purposes = {offer.purpose for offer in specs.offers.values() if offer.purpose is not None}
    cells = cover(
        compile_plan(specs), specs, read_sample(profiles) if profiles else make_one_per_stage(purposes, now), now
    )
    if json:
        print_json(cells)
        return 0
    holes = [cell for cell in cells if cell.hole]
    say(f"{count(len(holes), 'hole')} in {count(len(cells), 'row')} of segment by stage by channel.")
    table = grid("segment", "stage", "where", "customers", "without", "offers", figures=["customers", "without"])
    for cell in cells if full else holes:
        where = f"{cell.placement} on {cell.channel}"
        names = ", ".join(cell.offers) or "none"
        row = (cell.segment, cell.stage, where, f"{cell.customers:,}", f"{cell.without:.0%}", names)
        table.add_row(*row, style="red" if cell.hole else "")
    if table.row_count:
        out.print(table)
    if len(holes) < len(cells) and not full:
        say("--all shows what is covered too.")
    if missing := unmet_segments(specs, cells):
        say(f"Nobody of the sample is in {', '.join(missing)}; name customers who are with --profiles.")
    return 0
