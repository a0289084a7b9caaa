"""`measure REPORT`: the value of customers, journeys and offers in money, from the log or from other tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter

from engine.cli.app import REPORT, AsJson, Data, Folder, LogFolder, app, out, print_error, print_json
from engine.cli.report_options import TraitValues, ValueOptions, write_values
from engine.errors import BadInput, require_extras
from engine.settings import from_environment

if TYPE_CHECKING:
    from engine.analysis.measure.model import MeasureReport
    from engine.analysis.measure.sources import EventSource

measure = cyclopts.App(
    name="measure",
    help="Report what customers, journeys and offers come to in money, from the log or from your tables.",
    group=REPORT,
)
app.command(measure)
Html = Annotated[Path | None, Parameter(help="Write the report as one page with its picture.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """The options of every report: its source, and its output."""

    log: LogFolder = None
    table: Annotated[
        list[str] | None, Parameter(help="Parquet or CSV files of your own instead of the log.", consume_multiple=True)
    ] = None
    customer: Annotated[str | None, Parameter(help="The tables' column of the customer.")] = None
    time: Annotated[str | None, Parameter(help="The tables' column of the time: dates, timestamps or epochs.")] = None
    revenue: Annotated[str | None, Parameter(help="The tables' column of an order's revenue.")] = None
    event: Annotated[str | None, Parameter(help="The tables' column of the event; without one every row orders.")] = (
        None
    )
    channel: Annotated[str | None, Parameter(help="The tables' column of the channel.")] = None
    offer: Annotated[str | None, Parameter(help="The tables' column of the offer.")] = None
    order: Annotated[str | None, Parameter(help="The tables' column of the order's id; its rows are one order.")] = None
    as_of: Annotated[datetime | None, Parameter(help="Count only what happened until then (UTC).")] = None
    experiments: Folder = None
    data: Data = None
    html: Html = None
    json: AsJson = False


DEFAULTS, NO_TRAITS = MeasureOptions(), ValueOptions()
_ROLES = ("customer", "time", "revenue", "event", "channel", "offer", "order")


def open_source(options: MeasureOptions, **columns: str | None) -> "EventSource":
    """The events that the options name; `columns` are further table columns that a report reads."""
    require_extras("counterpoint measure", "analysis")
    from engine.analysis.measure.sources import EventSource

    named = {role: getattr(options, role) for role in _ROLES} | columns
    given = {role: name for role, name in named.items() if name is not None}
    if options.table and options.log is not None:
        raise BadInput("measure: both --log and --table are given; a report reads one of them")
    if given and not options.table:
        raise BadInput(f"--{next(iter(given))}: names a column of a --table; leave it out, or name a table")
    until = None
    if options.as_of is not None:
        moment = options.as_of.replace(tzinfo=options.as_of.tzinfo or UTC)
        until = int(moment.timestamp() * 1_000_000)
    settings = from_environment(experiments=options.experiments, data=options.data)
    log = None if options.table else options.log or settings.log
    source = EventSource(log_dir=log, files=tuple(options.table or ()), names=given, until=until)
    if options.table or not (settings.experiments / "metrics.yaml").is_file():
        return source
    from dataclasses import replace

    from engine.catalog import load_plan

    plan = load_plan(settings.experiments, settings.plans)
    return replace(source, currency=plan.currency, stages=plan.rules.computed.stages, rfm=plan.rfm)


def run_report(
    options: MeasureOptions, build: "Callable[[EventSource], MeasureReport]", **columns: str | None
) -> "MeasureReport":
    """Build and print one report, while the log is locked against removals."""
    from contextlib import nullcontext

    source = open_source(options, **columns)
    from engine.analysis.sources.log_read_lock import lock_log_for_reading

    with nullcontext() if source.log_dir is None else lock_log_for_reading(source.log_dir):
        report = build(source)
    print_measure(report, options.html, json=options.json)
    return report


def print_measures(reports: "Mapping[str, MeasureReport]", html: Path | None, *, json: bool) -> None:
    """Print reports as JSON or as tables, or write their page."""
    if html is not None:
        from engine.analysis.render.measure_page import measure_html

        try:
            html.write_text(measure_html(*reports.values()), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--html {html}: cannot be written ({error.strerror}); name a file in a folder") from error
        print_error(f"Wrote {html}.")
    if json:
        print_json(reports)
    elif html is None:
        from engine.analysis.render.measure_text import render_measure

        for report in reports.values():
            out.print(render_measure(report))


def print_measure(report: "MeasureReport", html: Path | None, *, json: bool) -> None:
    """Print one report as JSON or as tables, or write its page."""
    if html is not None or not json:
        print_measures({report.report: report}, html, json=False)
    if json:
        print_json(report)


@measure.command
def clv(
    *,
    options: MeasureOptions = DEFAULTS,
    frequency: Annotated[str | None, Parameter(help="Column of a summary: repeat orders of a customer.")] = None,
    recency: Annotated[
        str | None, Parameter(help="Column of a summary: time of the last order since the first.")
    ] = None,
    age: Annotated[str | None, Parameter(help="Column of a summary: time since the first order.")] = None,
    monetary: Annotated[str | None, Parameter(help="Column of a summary: mean worth of a repeat order.")] = None,
    tenure: Annotated[str | None, Parameter(help="Column of contracts: the period of the renewal reached.")] = None,
    ended: Annotated[str | None, Parameter(help="Column of contracts: whether the contract ended then.")] = None,
    cost: Annotated[str | None, Parameter(help="The tables' column of what serving a row's customer cost.")] = None,
    experiment: Annotated[str | None, Parameter(help="Compare the variants of this experiment of the log.")] = None,
    horizon: Annotated[float, Parameter(help="Days ahead.")] = 365.0,
    discount: Annotated[float, Parameter(help="Discount per year.")] = 0.1,
    unit: Annotated[str, Parameter(help="The unit of the model's times: day or week.")] = "week",
    written: ValueOptions = NO_TRAITS,
) -> int:
    """Customer lifetime value: who is still a customer, their expected orders and worth (BG/NBD, Gamma-Gamma)."""
    from engine.analysis.measure.value.clv import ClvOptions, measure_clv

    if experiment is not None and options.table:
        raise BadInput(f"--experiment {experiment}: is of the log; a table has no experiment")
    control = _control_of(options, experiment)
    asked = ClvOptions(horizon=horizon, discount=discount, unit=unit, experiment=experiment, control=control)
    traits: TraitValues = {}

    def build(source: "EventSource") -> "MeasureReport":
        report, found = measure_clv(source, asked)
        traits.update(found)
        return report

    summary = {"frequency": frequency, "recency": recency, "age": age, "monetary": monetary}
    run_report(options, build, **summary, tenure=tenure, ended=ended, cost=cost)
    write_values(traits, written)
    return 0


@measure.command
def rfm(*, options: MeasureOptions = DEFAULTS, written: ValueOptions = NO_TRAITS) -> int:
    """Recency, frequency, money: customers scored 1 to 5, in named segments."""
    from engine.analysis.measure.value.rfm import measure_rfm

    traits: TraitValues = {}

    def build(source: "EventSource") -> "MeasureReport":
        report, found = measure_rfm(source)
        traits.update(found)
        return report

    run_report(options, build)
    write_values(traits, written)
    return 0


@measure.command
def cohorts(
    *,
    options: MeasureOptions = DEFAULTS,
    by: Annotated[Literal["month", "channel", "offer"], Parameter(help="What of the first order.")] = "month",
    period: Annotated[Literal["month", "week"], Parameter(help="The length of a period.")] = "month",
) -> int:
    """Cohorts: how many customers order again, by the month, channel or offer of their first order."""
    from engine.analysis.measure.value.cohorts import measure_cohorts

    run_report(options, lambda source: measure_cohorts(source, by=by, period=period))
    return 0


@measure.command
def satisfaction(
    *,
    options: MeasureOptions = DEFAULTS,
    question: Annotated[Literal["nps", "csat", "ces"], Parameter(help="The question of a table's --score.")] = "nps",
    score: Annotated[str | None, Parameter(help="The tables' column of the answer.")] = None,
    asked: Annotated[str | None, Parameter(help="The tables' column of who was asked; of a log, the event.")] = None,
    by: Annotated[list[str] | None, Parameter(name="--by", help="Also by this column or property; repeatable.")] = None,
    experiment: Annotated[str | None, Parameter(help="Also by the variant of this experiment of the log.")] = None,
) -> int:
    """Satisfaction: NPS, CSAT and CES with intervals, the response rate, and whether those who answer differ."""
    from engine.analysis.measure.satisfaction import SatisfactionOptions, measure_satisfaction

    is_table = bool(options.table)
    columns = {"score": score, "asked": asked} if is_table else {}
    if not is_table and score is not None:
        raise BadInput(f"--score {score}: names a column of a --table; the log's answers are found by their events")
    if is_table and experiment is not None:
        raise BadInput(f"--experiment {experiment}: reads the log; with --table, give the variant's column as --by COL")
    asked_for = SatisfactionOptions(
        question=question, asked=None if is_table else asked, by=tuple(by or ()), experiment=experiment
    )
    run_report(options, lambda source: measure_satisfaction(source, asked_for), **columns)
    return 0


@measure.command
def attribution(
    *,
    options: MeasureOptions = DEFAULTS,
    by: Annotated[Literal["channel", "offer", "both"], Parameter(help="What gets the credit.")] = "channel",
    window: Annotated[float, Parameter(help="Days before an order in which a touch counts.")] = 30.0,
    half_life: Annotated[float, Parameter(help="Days in which a touch loses half its credit (decay).")] = 7.0,
    outcome_window: Annotated[float, Parameter(help="Days after a showing whose orders it may have caused.")] = 7.0,
    against: Annotated[str | None, Parameter(help="The offer that causal credit compares with, not silence.")] = None,
    path: Annotated[str | None, Parameter(help="The tables' column of paths, 'web > email > store'.")] = None,
    conversions: Annotated[str | None, Parameter(help="Their column of conversions; 1 by default.")] = None,
    total: Annotated[str | None, Parameter(help="Their column of journeys, with those that did not convert.")] = None,
    nulls: Annotated[str | None, Parameter(help="Or their column of journeys that did not convert.")] = None,
) -> int:
    """Attribution by first, last, linear, position, decay, Shapley and Markov, beside causal credit."""
    from engine.analysis.measure.journeys.attribution import AttributionOptions, measure_attribution

    asked = AttributionOptions(
        by=by, window=window, half_life=half_life, outcome_window=outcome_window, against=against
    )
    paths = {"path": path, "conversions": conversions, "total": total, "nulls": nulls}
    run_report(options, lambda source: measure_attribution(source, asked), **paths)
    return 0


@measure.command
def funnel(
    *,
    options: MeasureOptions = DEFAULTS,
    step: Annotated[list[str], Parameter(name="--step", help="An event; repeat it for each step, in their order.")],
    window: Annotated[float, Parameter(help="Days within which all steps are taken.")] = 7.0,
    order_of: Annotated[
        Literal["ordered", "strict"], Parameter(name="--mode", help="Whether other events may lie between the steps.")
    ] = "ordered",
) -> int:
    """Funnel: how many customers go from step to step, in what time, by channel."""
    from engine.analysis.measure.journeys.funnel import measure_funnel

    run_report(options, lambda source: measure_funnel(source, step, window_days=window, order=order_of))
    return 0


@measure.command
def journeys(
    *,
    options: MeasureOptions = DEFAULTS,
    gap: Annotated[float, Parameter(help="Days without an event that end a journey.")] = 7.0,
    zone: Annotated[str, Parameter(help="The time zone of peak times.")] = "UTC",
) -> int:
    """Journeys: moves between channels, where they stop without an order, and when demand peaks."""
    from engine.analysis.measure.journeys.journeys import measure_journeys

    run_report(options, lambda source: measure_journeys(source, gap_days=gap, zone=zone))
    return 0


@measure.command
def channels(*, options: MeasureOptions = DEFAULTS) -> int:
    """Channels: customers, motives and revenue of each; customers of several channels, beside the holdout's answer."""
    from engine.analysis.measure.channels import measure_channels

    run_report(options, measure_channels)
    return 0


@measure.command
def kpis(*, options: MeasureOptions = DEFAULTS) -> int:
    """KPI tree: which metric drives which by past experiments, their leads carried to the lag; figures of each tier."""
    from engine.analysis.measure.kpis.report import measure_kpis
    from engine.catalog import load_plan
    from engine.catalog.archive import Archive

    settings = from_environment(experiments=options.experiments, data=options.data)
    plan = None if options.table else load_plan(settings.experiments, settings.plans)
    archive = Archive(settings.plans)
    run_report(options, lambda source: measure_kpis(source, plan, archive=archive))
    return 0


@measure.command
def ledger(*, options: MeasureOptions = DEFAULTS) -> int:
    """Ledger: what offers with a budget promised, and how much of it was redeemed, refunded, released, expired."""
    from engine.analysis.measure.value.ledger import archived_offers, measure_ledger
    from engine.catalog import load_plan
    from engine.catalog.archive import Archive

    settings = from_environment(experiments=options.experiments, data=options.data)
    plan = load_plan(settings.experiments, settings.plans)
    offers_of = archived_offers(Archive(settings.plans), plan)
    run_report(options, lambda source: measure_ledger(source, offers_of, plan.version))
    return 0


@measure.command
def opportunity(
    *,
    options: MeasureOptions = DEFAULTS,
    window: Annotated[float, Parameter(help="Days after a decision whose revenue counts.")] = 7.0,
    margin: Annotated[float, Parameter(help="The share of revenue that is margin.")] = 1.0,
    by: Annotated[str | None, Parameter(name="--by", help="Segments by this trait of decisions' context.")] = None,
) -> int:
    """Opportunity: what the best offers would add by segment, placement and channel; holes; groups of customers."""
    from engine.analysis.measure.opportunity.report import OpportunityOptions, measure_opportunity

    asked = OpportunityOptions(window=window, margin=margin, by=by)
    run_report(options, lambda source: measure_opportunity(source, asked))
    return 0


@measure.command
def programme(
    *,
    options: MeasureOptions = DEFAULTS,
    window: Annotated[float, Parameter(help="Days after a first exposure whose revenue counts.")] = 14.0,
) -> int:
    """Programme: every experiment of the log, deleted files too, and what all come to, beside the holdout."""
    from engine.analysis.measure.programme import measure_programme, plan_files
    from engine.catalog import load_plan
    from engine.catalog.archive import Archive

    settings = from_environment(experiments=options.experiments, data=options.data)
    files: dict[str, tuple[str, str]] = {}
    whys: dict[str, str] = {}
    if settings.experiments.is_dir():
        files, whys = plan_files(load_plan(settings.experiments, settings.plans))
    archive = Archive(settings.plans)
    run_report(options, lambda source: measure_programme(source, files, archive=archive, whys=whys, window_days=window))
    return 0


@measure.command(name="all")
def measure_everything(
    *,
    options: MeasureOptions = DEFAULTS,
    step: Annotated[
        list[str] | None, Parameter(name="--step", help="A step of the funnel; click, then purchase by default.")
    ] = None,
) -> int:
    """All reports of the log from one reading of it."""
    from engine.analysis.measure.all_reports import measure_all
    from engine.analysis.sources.log_read_lock import lock_log_for_reading
    from engine.catalog import load_plan
    from engine.catalog.archive import Archive

    source = open_source(options)
    if source.log_dir is None:
        raise BadInput("measure all: reads the log only; ask for one report of a --table")
    settings = from_environment(experiments=options.experiments, data=options.data)
    plan = load_plan(settings.experiments, settings.plans)
    with lock_log_for_reading(source.log_dir):
        reports = measure_all(source, plan, archive=Archive(settings.plans), steps=step)
    print_measures(reports, options.html, json=options.json)
    return 0


def _control_of(options: MeasureOptions, experiment: str | None) -> str | None:
    """The first variant of an experiment's file; None if it has no variants."""
    settings = from_environment(experiments=options.experiments, data=options.data)
    if experiment is None or not settings.experiments.is_dir():
        return None
    from engine.catalog import load_plan

    found = load_plan(settings.experiments, settings.plans).find_reported(experiment)
    return found.spec.variants[0].key if found is not None and found.spec.variants else None
