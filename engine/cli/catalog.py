"""The growth team's verbs: what the YAML says, what a change of it does, who would get what."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from engine.cli.app import AsJson, Data, Folder, Redis, app, at_store, count, out, print_json, say
from engine.errors import BadInput, CatalogError
from engine.settings import from_environment

Customers = Annotated[Path, Parameter(help="JSON, JSON Lines or CSV: user_id, traits, context.")]


@app.command
def check(folder: Path = Path("experiments"), *, json: AsJson = False) -> int:
    """Validate every YAML file and show all problems at once."""
    from engine.catalog.compile import compile_plan
    from engine.catalog.load import load_specs
    from engine.catalog.warnings import warnings

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
    regrets = warnings(specs, time.time())
    if json:
        print_json({"ok": True, "problems": [], "warnings": regrets, "plan": plan.version})
    else:
        for regret in regrets:
            say(f"warning: {regret}")
        sizes = (
            count(len(of), noun)
            for of, noun in ((plan.experiments, "experiment"), (plan.offers, "offer"), (plan.placements, "placement"))
        )
        say(f"{folder}: {', '.join(sizes)}. No problems, {count(len(regrets), 'warning')}. Plan {plan.version}.")
    return 0


@app.command
def schema(folder: Path) -> int:
    """Write the JSON Schemas of the YAML into a folder, for editors."""
    from engine.catalog.schema import write_schemas

    for path in write_schemas(folder):
        say(str(path))
    return 0


@app.command
def plan(
    old: Path,
    new: Path,
    *,
    profiles: Annotated[Path | None, Parameter(help="A sample of customers; 10,000 made-up ids by default.")] = None,
    json: AsJson = False,
) -> int:
    """Tell what a change does: each change safe or unsafe, and who of a sample moves from which variant to which."""
    from engine.catalog.compile import compile_plan
    from engine.catalog.diff import changes
    from engine.catalog.load import load_specs
    from engine.decide.moves import moves
    from engine.profiles.sample import made_up, read_sample

    before, after = load_specs(old), load_specs(new)
    sample = [one.profile for one in (read_sample(profiles) if profiles else made_up(10_000))]
    now = time.time()
    found = changes(before, after, now)
    moved = moves(compile_plan(before), compile_plan(after), sample, now)
    if json:
        print_json({"changes": found, "moves": moved, "sample": len(sample)})
        return 0
    if not found:
        say("Nothing changes that a customer could feel.")
        return 0
    table = Table("", "what", "why", title=f"{old} → {new}", title_justify="left")
    for change in sorted(found, key=lambda change: change.verdict != "unsafe"):
        style = "bold red" if change.verdict == "unsafe" else "green"
        what = f"{change.key} {change.path}"
        if change.old is not None or change.new is not None:
            what += f": {change.old} → {change.new}"
        table.add_row(f"[{style}]{change.verdict}[/]", what, change.reason)
    out.print(table)
    for move in moved:
        share = move.customers / len(sample)
        say(f"{move.experiment}: {move.customers:,} of {len(sample):,} ({share:.1%}) {move.source} → {move.target}")
    if not moved:
        say(f"None of {count(len(sample), 'customer')} moves.")
    return 0


@app.command
def preview(
    key: str, *, customers: Customers, experiments: Folder = None, data: Data = None, json: AsJson = False
) -> int:
    """Show who gets what of an experiment or a placement, and why, without side effects."""
    from engine.catalog import load_plan
    from engine.profiles.sample import read_sample
    from engine.profiles.trial import preview as show

    settings = from_environment(experiments=experiments, data=data)
    rows = show(load_plan(settings.experiments), key, read_sample(customers), time.time())
    if json:
        print_json(rows)
        return 0
    table = Table("customer", "channel", "gets", "reason", "propensity", "candidates or payload")
    for row in rows:
        table.add_row(row.customer, row.channel, row.gets or "-", row.reason, f"{row.propensity:.3f}", row.detail)
    out.print(table)
    return 0


@app.command
def simulate(
    key: str,
    *,
    customers: Annotated[int, Parameter(help="How many made-up customers to send through.")] = 10_000,
    profiles: Annotated[Path | None, Parameter(help="Customers to send through instead of made-up ones.")] = None,
    experiments: Folder = None,
    json: AsJson = False,
) -> int:
    """Dry-run an experiment (a draft too) or a placement: who would be let in, who would see what. Writes nothing."""
    from engine.catalog.compile import compile_plan
    from engine.catalog.load import load_specs
    from engine.profiles.sample import made_up, read_sample
    from engine.profiles.trial import dry_run, with_drafts

    settings = from_environment(experiments=experiments)
    trial = compile_plan(with_drafts(load_specs(settings.experiments), key))
    sample = read_sample(profiles) if profiles else made_up(customers)
    result = dry_run(trial, key, sample, time.time())
    if json:
        print_json(result)
        return 0
    table = Table("outcome", "customers", "share", "value each", title=f"{key}: {count(result.customers, 'customer')}")
    for row in result.outcomes:
        table.add_row(row.outcome, f"{row.customers:,.1f}", f"{row.share:.1%}", f"{row.value:.2f}")
    out.print(table)
    return 0


@app.command
def explain(decision_id: str, *, data: Data = None, redis: Redis = None, json: AsJson = False) -> int:
    """Make a logged decision again from its record and say why it was so; exit 1 if the answer differs."""
    from engine.catalog.archive import Archive
    from engine.journal import stream
    from engine.journal.replay import explain_decision

    with (
        at_store(data, redis) as settings,
        stream.connect(settings.redis) as client,
    ):
        told = explain_decision(settings.log, Archive(settings.data / "plans"), client, decision_id)
    if json:
        print_json(told)
        return 0 if told.same else 1
    same = "the same answer" if told.same else f"another answer: {'; '.join(told.differences)}"
    say(f"{decision_id}, plan {told.plan}: made again, {same}.")
    table = Table("", "key", "got", "reason", "propensity", "policy")
    for row in told.logged:
        table.add_row(row.kind, row.key, row.variant or "-", row.reason, f"{row.propensity:.4f}", row.policy or "")
    out.print(table)
    for name, placement in told.explanation.placements.items():
        say(f"{name}: seen as {placement.features or 'anyone'}")
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
    profiles: Annotated[Path | None, Parameter(help="A sample of customers; 1,000 made-up ids by default.")] = None,
    experiments: Folder = None,
    json: AsJson = False,
) -> int:
    """Show where the shop has nothing to say: segment by stage by channel, the holes first."""
    from engine.catalog.compile import compile_plan
    from engine.catalog.load import load_specs
    from engine.profiles.coverage import coverage as cover
    from engine.profiles.sample import made_up, read_sample

    specs = load_specs(from_environment(experiments=experiments).experiments)
    cells = cover(compile_plan(specs), specs, read_sample(profiles) if profiles else made_up(1000), time.time())
    if json:
        print_json(cells)
        return 0
    table = Table("segment", "stage", "channel", "placement", "customers", "without", "offers")
    for cell in cells:
        style = "red" if cell.hole else ""
        names = ", ".join(cell.offers) or "none"
        table.add_row(
            cell.segment,
            cell.stage,
            cell.channel,
            cell.placement,
            f"{cell.customers:,}",
            f"{cell.without:.0%}",
            names,
            style=style,
        )
    out.print(table)
    return 0
