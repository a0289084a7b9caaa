"""`simulate`: a dry run of the shop, or of policies in simulated shops; `balance`: a seed for few units."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

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
from engine.cli.catalog import SAMPLE, Channel, PlanKey, at_current_steps, read_customers, read_snapshots
from engine.errors import BadInput
from engine.settings import from_environment

if TYPE_CHECKING:
    from engine.catalog import Plan
    from engine.catalog.spec.folder import Specs
    from engine.rehearse.dry_run import DryRun, Visit

Name = Literal["bernoulli", "linear", "logistic", "drifting", "delayed", "coming_and_going", "channels", "digits"]
"""The environments of `simulate`, which are `rehearse.environments.ENVIRONMENTS`."""
ROUNDS, RUNS = 3000, 3


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EnvironmentOptions:
    """Options of a simulated shop."""

    environment: Annotated[Name | None, Parameter(help="Play policies in this simulated shop instead of yours.")] = None
    policy: Annotated[list[Path] | None, Parameter(help="A YAML file as in evaluate; one of each kind.")] = None
    rounds: Annotated[int | None, Parameter(help="Decisions in an environment; 3000 by default.")] = None
    runs: Annotated[int | None, Parameter(help="Runs of an environment; 3 by default.")] = None
    seed: Annotated[int | None, Parameter(help="The seed of the first run; 0 by default.")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrafficOptions:
    """Options of the visits that a dry run sends through the shop."""

    customers: Annotated[
        int | None, Parameter(help="How many generated customers to send through; 10000 by default.")
    ] = None
    profiles: Annotated[Path | None, Parameter(help="A file of customers to send through instead.")] = None
    channel: Channel = None
    log: Annotated[Path | None, Parameter(help="A log, DATA/log, whose visits to repeat instead.")] = None
    visits: Annotated[int | None, Parameter(help="How often each customer comes; once by default.")] = None
    days: Annotated[float | None, Parameter(help="Over how many days they come, evenly; 1 by default.")] = None


NO_ENVIRONMENT, DEFAULT_TRAFFIC = EnvironmentOptions(), TrafficOptions()


@app.command(group=DESIGN)
def simulate(
    key: PlanKey | None = None,
    *,
    shop: EnvironmentOptions = NO_ENVIRONMENT,
    traffic: TrafficOptions = DEFAULT_TRAFFIC,
    stock: Annotated[
        list[str] | None, Parameter(name="--stock", help="SKU=LEVEL; may be repeated. Others never run out.")
    ] = None,
    redeem: Annotated[
        float | None, Parameter(help="The share of shown offers that are redeemed; all by default.")
    ] = None,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Dry-run an experiment (a draft too) or a placement: who sees what, and what caps, stock and budgets do to it.

    Writes nothing. The policies are those in the store of the data directory, if one runs there. With --environment
    instead: the regret of each --policy in that simulated shop, beside uniform choice.
    """
    if shop.environment is not None:
        why = f"is for your own shop; leave it out, or leave out --environment {shop.environment}"
        _refuse(why, KEY=key, stock=stock, redeem=redeem, **vars(traffic))
        return _simulate_environment(shop.environment, shop, json=json)
    if key is None:
        raise BadInput("simulate: nothing to simulate; name an experiment, a placement or an --environment")
    _refuse_for_shop(key, shop, traffic)
    redeemed = 1.0 if redeem is None else redeem
    if not 0 <= redeemed <= 1:
        raise BadInput(f"simulate: --redeem {redeemed:g} is not between 0 and 1; give a share such as 0.1")
    settings = from_environment(experiments=experiments, data=data, redis=redis)

    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.dry_run import dry_run
    from engine.rehearse.preview import with_draft

    specs = with_draft(load_specs(settings.experiments, settings.plans), key)
    plan = at_current_steps(compile_plan(specs), settings, is_named=is_store_named(redis))
    visits = _visits(plan, specs, key, traffic)
    snapshots = read_snapshots(settings, plan, is_named=is_store_named(redis))
    result = dry_run(plan, key, visits, stock=_stock_levels(stock or [], plan), redeemed=redeemed, snapshots=snapshots)
    if json:
        print_json(result)
    else:
        _print_dry_run(key, result)
    return 0


def _refuse_for_shop(key: str, shop: EnvironmentOptions, traffic: TrafficOptions) -> None:
    """Refuse options that a dry run of the shop would ignore."""
    if shop.policy:
        raise BadInput(
            f"simulate: --policy {shop.policy[0]} is for an --environment; {key} has the policy of its own YAML"
        )
    why = f"is for an --environment, and {key} is in your own shop; leave it out"
    _refuse(why, rounds=shop.rounds, runs=shop.runs, seed=shop.seed)
    given = {name: value for name, value in vars(traffic).items() if name != "log"}
    if traffic.log:
        _refuse("is for generated visits, and --log has its own; leave one out", **given)
    if traffic.profiles:
        why = "is for generated customers, and --profiles has its own; leave one out"
        _refuse(why, customers=traffic.customers)


def _refuse(why: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"simulate: {name if name.isupper() else '--' + name} {why}")


def _visits(plan: "Plan", specs: "Specs", key: str, traffic: TrafficOptions) -> "Iterator[Visit]":
    """The visits of a log, of a file of customers, or of generated customers."""
    from engine.journal.log.logged_requests import logged_requests
    from engine.rehearse.customers import with_channel
    from engine.rehearse.dry_run import visits_of_log, visits_of_sample
    from engine.rehearse.generated_customers import make_customers

    each = 1 if traffic.visits is None else traffic.visits
    days = 1.0 if traffic.days is None else traffic.days
    customers = SAMPLE if traffic.customers is None else traffic.customers
    for name, value, least in (("customers", customers, 1), ("visits", each, 1), ("days", days, 0)):
        if value < least:
            raise BadInput(f"simulate: --{name} {value:g} is below {least}; raise it or leave it out")
    if traffic.log:
        return visits_of_log(plan, key, ((one.now, one.request, one.profile) for one in logged_requests(traffic.log)))
    now = time.time()
    if traffic.profiles:
        sample = read_customers(traffic.profiles, specs)
    else:
        sample = make_customers(customers, specs, now=now, key=key)
    return visits_of_sample(plan, key, with_channel(sample, traffic.channel), now, each=each, days=days)


def _stock_levels(given: list[str], plan: "Plan") -> dict[str, float]:
    """The levels of `--stock SKU=LEVEL` by SKU, or by `PLACE/SKU`."""
    from engine.claims.requirements import every_share

    shares = [share for offer in plan.offers.values() for share in every_share(plan, offer, 0.0)]
    known = {share.name for share in shares if share.pool != "budget"}
    levels = {}
    for text in given:
        sku, _, level = text.rpartition("=")
        try:
            levels[sku] = float(level)
        except ValueError:
            levels[sku] = math.nan
        if not 0 <= levels[sku] < math.inf:
            raise BadInput(f"--stock {text}: is not SKU=LEVEL with a level from 0 on; write COFFEE-12=40")
        if sku not in known:
            raise BadInput(f"--stock {text}: no offer has this SKU; known are {', '.join(sorted(known)) or 'none'}")
    return levels


def _print_dry_run(key: str, result: "DryRun") -> None:
    print_line(f"{key}: {format_count(result.visits, 'visit')} of {format_count(result.customers, 'customer')}")
    figures = ("visits", "customers", "share", "value each")
    table = new_table("outcome", *figures, figures=figures)
    for row in result.outcomes:
        table.add_row(row.outcome, f"{row.visits:,}", f"{row.customers:,}", f"{row.share:.1%}", f"{row.value:.2f}")
    out.print(table)
    if result.limits:
        print_line("\nWhat is used up")
        table = new_table("stock or budget", "of", "redeemed", "held", "ran out", figures=["of", "redeemed", "held"])
        for limit in result.limits:
            total = "not set" if limit.limit is None else f"{limit.limit:,g}"
            gone = "no" if limit.ran_out is None else f"{datetime.fromtimestamp(limit.ran_out, UTC):%Y-%m-%d %H:%M} UTC"
            table.add_row(f"{limit.pool} {limit.name}", total, f"{limit.spent:,g}", f"{limit.held:,g}", gone)
        out.print(table)
    if result.kept:
        print_line("\nWhy offers were not shown")
        table = new_table("offer", "gate", "visits", figures=["visits"])
        for closed in result.kept:
            table.add_row(closed.offer, closed.gate, f"{closed.visits:,}")
        out.print(table)


def _simulate_environment(environment: str, options: EnvironmentOptions, *, json: bool) -> int:
    """Play the policies of the files, or one of each kind, and print their regrets."""
    from engine.analysis.offpolicy.target_policies import read_policies
    from engine.rehearse.environments import UNIFORM, compare_policies, default_specs

    rounds = ROUNDS if options.rounds is None else options.rounds
    runs = RUNS if options.runs is None else options.runs
    seed = options.seed or 0
    if rounds < 1 or runs < 1:
        raise BadInput(f"--rounds {rounds} --runs {runs}: give at least one of each")
    if seed < 0:
        raise BadInput(f"--seed {seed}: is below 0; give a whole number from 0 on")
    specs = {file.name: file.spec for file in read_policies(options.policy or [], UNIFORM)}
    if not specs:
        print_error("No --policy FILE.yaml: playing one policy of each kind with its default options.")
        specs = default_specs()
    regrets = compare_policies(environment, specs, rounds=rounds, runs=runs, seed=seed)
    if json:
        print_json({"environment": environment, "rounds": rounds, "runs": runs, "seed": seed, "policies": regrets})
        return 0
    sizes = f"{format_count(rounds, 'round')}, {format_count(runs, 'run')} from seed {seed}"
    print_line(f"{environment}: {sizes}. Regret is what always showing")
    print_line("the best offer would have earned beyond the policy's choices, by their true chances.")
    figures = ("regret", "of uniform", "seconds")
    table = new_table("policy", "kind", *figures, figures=figures)
    for one in regrets:
        margin = "" if one.error is None else f" ± {one.error:,.1f}"
        table.add_row(one.policy, one.kind, f"{one.regret:,.1f}{margin}", f"{one.of_uniform:.0%}", f"{one.seconds:.2f}")
    out.print(table)
    return 0


@app.command(group=DESIGN)
def balance(
    key: Annotated[str, Parameter(help="An experiment by stores or another unit; a draft too.")],
    *,
    covariates: Annotated[Path, Parameter(help="A CSV or Parquet file with a row per unit, and what is known of it.")],
    column: Annotated[
        list[str] | None, Parameter(help="A column to balance; every column of numbers by default.")
    ] = None,
    seeds: Annotated[int, Parameter(help="How many seeds to try.")] = 1000,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Propose a seed under which few units, such as stores, fall into variants that are alike; nothing is written."""
    from engine.analysis.design.unit_balance import propose_seed
    from engine.catalog.check.decode import suggest_name
    from engine.catalog.check.load import load_specs
    from engine.catalog.plan.compile import compile_plan
    from engine.rehearse.preview import with_draft

    settings = from_environment(experiments=experiments, data=data)
    specs = load_specs(settings.experiments, settings.plans)
    plan = compile_plan(with_draft(specs, key))
    if key not in plan.experiments:
        raise BadInput(f"{key!r} is not an experiment; {suggest_name(key, list(specs.experiments))}")
    found = propose_seed(plan.experiments[key], str(covariates), covariates=column or (), seeds=seeds)
    if json:
        print_json(found)
        return 0
    counts = ", ".join(f"{name} {count}" for name, count in found.units.items())
    print_line(f"Write 'seed: {found.seed}' into {key}.yaml: the best of {found.tried:,} seeds. Units: {counts}.")
    table = new_table("covariate", *(f"mean of {name}" for name in found.units), "difference", "usual")
    for row in found.covariates:
        means = [f"{row.means[name]:,.4g}" for name in found.units]
        table.add_row(row.covariate, *means, f"{row.difference:.2f}", f"{row.usual:.2f}")
    out.print(table)
    print_line(
        f"Differences are in standard deviations of a {found.unit}; by the present seed the largest is {found.now:.2f}."
    )
    return 0
