"""`simulate`: a dry run of the shop, or of policies in shops that never were."""

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from engine.cli.app import AsJson, Data, Folder, Redis, app, count, grid, out, print_json, say
from engine.cli.catalog import Channel, PlanKey, learnt_of
from engine.errors import BadInput
from engine.settings import from_environment

if TYPE_CHECKING:
    from engine.catalog import Plan
    from engine.rehearse.dry_run import DryRun

Name = Literal["bernoulli", "linear", "logistic", "drifting", "delayed", "coming_and_going", "channels", "digits"]
"""The environments of `simulate`."""


@app.command
def simulate(
    key: PlanKey | None = None,
    *,
    environment: Annotated[Name | None, Parameter(help="Instead of a shop of yours one that never was.")] = None,
    policy: Annotated[list[Path] | None, Parameter(help="A YAML file as in evaluate; one of each kind.")] = None,
    rounds: Annotated[int | None, Parameter(help="Decisions in an environment; 3000 by default.")] = None,
    runs: Annotated[int | None, Parameter(help="How many of an environment; 3 by default.")] = None,
    seed: Annotated[int | None, Parameter(help="What they are drawn from; 0 by default.")] = None,
    customers: Annotated[
        int | None, Parameter(help="How many made-up customers to send through; 10000 by default.")
    ] = None,
    profiles: Annotated[Path | None, Parameter(help="Customers to send through instead of made-up ones.")] = None,
    channel: Channel = None,
    log: Annotated[Path | None, Parameter(help="A log, DATA/log: its visits again instead of made-up ones.")] = None,
    visits: Annotated[int | None, Parameter(help="How often each customer comes; once by default.")] = None,
    days: Annotated[float | None, Parameter(help="Over how many days they come, evenly; 1 by default.")] = None,
    stock: Annotated[
        list[str] | None, Parameter(name="--stock", help="SKU=LEVEL; may be repeated. Others never run out.")
    ] = None,
    redeem: Annotated[
        float | None, Parameter(help="The share of those shown an offer who redeem it; all by default.")
    ] = None,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Dry-run an experiment (a draft too) or a placement: who sees what, and what caps, stock and budgets do to it.

    Writes nothing. The policies are as learnt in the store of the data directory, if one runs. With --environment
    instead: what each --policy loses there against always showing the best offer, beside uniform choice.
    """
    comings: dict[str, object] = {"customers": customers, "visits": visits, "days": days, "channel": channel}
    if environment is not None:
        from engine.cli.environments import simulate_environment

        why = f"is of your shop, --environment {environment} is none; leave one out"
        _refuse(why, KEY=key, profiles=profiles, log=log, stock=stock, redeem=redeem, **comings)
        return simulate_environment(
            environment,
            policy or [],
            rounds=3000 if rounds is None else rounds,
            runs=3 if runs is None else runs,
            seed=seed or 0,
            json=json,
        )
    if key is None:
        raise BadInput("simulate: name an experiment or a placement, or an --environment")
    if policy:
        raise BadInput(f"simulate: --policy {policy[0]} is for an --environment; {key} has the policy of its own YAML")
    _refuse(f"is for an --environment, {key} is of your shop; leave it out", rounds=rounds, runs=runs, seed=seed)
    if log:
        _refuse("is for visits that are made up, --log has its own; leave one out", profiles=profiles, **comings)
    if profiles:
        _refuse("is for made-up customers, --profiles has its own; leave one out", customers=customers)
    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.journal.log.logged_requests import logged_requests
    from engine.rehearse.customers import make_customers, read_sample, with_channel
    from engine.rehearse.dry_run import dry_run, visits_of_log, visits_of_sample
    from engine.rehearse.preview import with_draft

    each, over = 1 if visits is None else visits, 1.0 if days is None else days
    many, redeemed = 10_000 if customers is None else customers, 1.0 if redeem is None else redeem
    if min(many, each) < 1 or over < 0 or not 0 <= redeemed <= 1:
        raise BadInput("simulate: --customers and --visits start at 1, --days at 0, and --redeem is between 0 and 1")
    settings = from_environment(experiments=experiments, data=data, redis=redis)
    trial = compile_plan(with_draft(load_specs(settings.experiments), key))
    if log:
        traffic = visits_of_log(trial, key, ((one.now, one.request, one.profile) for one in logged_requests(log)))
    else:
        sample = with_channel(read_sample(profiles) if profiles else make_customers(many), channel)
        traffic = visits_of_sample(trial, key, sample, time.time(), each=each, days=over)
    learnt = learnt_of(settings, trial, named=redis is not None)
    result = dry_run(trial, key, traffic, stock=_levels(stock or [], trial), redeemed=redeemed, snapshots=learnt)
    if json:
        print_json(result)
    else:
        _print(key, result)
    return 0


def _print(key: str, result: "DryRun") -> None:
    say(f"{key}: {count(result.visits, 'visit')} of {count(result.customers, 'customer')}")
    figures = ("visits", "customers", "share", "value each")
    table = grid("outcome", *figures, figures=figures)
    for row in result.outcomes:
        table.add_row(row.outcome, f"{row.visits:,}", f"{row.customers:,}", f"{row.share:.1%}", f"{row.value:.2f}")
    out.print(table)
    if result.limits:
        say("\nWhat is used up")
        table = grid("stock or budget", "of", "redeemed", "held", "ran out", figures=["of", "redeemed", "held"])
        for limit in result.limits:
            whole = "not told" if limit.limit is None else f"{limit.limit:,g}"
            gone = "no" if limit.ran_out is None else f"{datetime.fromtimestamp(limit.ran_out, UTC):%Y-%m-%d %H:%M} UTC"
            table.add_row(f"{limit.pool} {limit.name}", whole, f"{limit.spent:,g}", f"{limit.held:,g}", gone)
        out.print(table)
    if result.kept:
        say("\nWhat kept offers from being shown")
        table = grid("offer", "gate", "visits", figures=["visits"])
        for kept in result.kept:
            table.add_row(kept.offer, kept.gate, f"{kept.visits:,}")
        out.print(table)


def _refuse(why: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"simulate: {name if name.isupper() else '--' + name} {why}")


def _levels(told: list[str], plan: "Plan") -> dict[str, float]:
    known = {offer.spec.stock.sku for offer in plan.offers.values() if offer.spec.stock}
    levels = {}
    for each in told:
        sku, _, level = each.rpartition("=")
        try:
            levels[sku] = float(level)
        except ValueError:
            levels[sku] = math.nan
        if not 0 <= levels[sku] < math.inf:
            raise BadInput(f"--stock {each}: is not SKU=LEVEL with a level from 0 on; write COFFEE-12=40")
        if sku not in known:
            raise BadInput(f"--stock {each}: no offer has this SKU; known are {', '.join(sorted(known)) or 'none'}")
    return levels
