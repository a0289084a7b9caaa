"""Reports as verbs: an experiment or placement from the log, or a table; checks and sample sizes."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from engine.cli.app import (
    DESIGN,
    REPORT,
    AsJson,
    Data,
    Folder,
    LogFolder,
    app,
    out,
    print_error,
    print_json,
    print_line,
)
from engine.cli.report_options import (
    EVEN_SPLITS,
    Alpha,
    DaysOfDraft,
    IntervalMethod,
    Metrics,
    SplitOptions,
    TableFile,
    UnitColumn,
    parse_prior,
    refuse_for_placement,
)
from engine.cli.split_checks import print_checks, split_log, split_table
from engine.errors import BadInput
from engine.settings import from_environment

if TYPE_CHECKING:
    from engine.analysis.report.model import Report
    from engine.analysis.sources.traced_traits import ReportSplit
    from engine.analysis.stats.power import Design
    from engine.catalog import Plan
    from engine.catalog.archive import Archive


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """The options of `analyze` that apply only with --table."""

    variant: Annotated[str | None, Parameter(help="The table's column that holds the variant.")] = None
    control: Annotated[str | None, Parameter(help="The variant to compare with.")] = None
    unit: UnitColumn = None
    metric: Metrics = None
    covariate: Annotated[
        list[str] | None, Parameter(name="--covariate", help="A column measured before the exposure.")
    ] = None
    weights: Annotated[str | None, Parameter(help="The planned shares of the variants, control=0.9,new=0.1.")] = None
    partials: Annotated[Path | None, Parameter(help="A folder to store daily partial statistics of a table in.")] = None
    engine: Annotated[
        list[str] | None, Parameter(name="--engine", consume_multiple=True, help="duckdb, spark, or clickhouse URL.")
    ] = None

    def given(self) -> list[str]:
        """The names of the given options, except --engine."""
        return [f"--{name}" for name, value in vars(self).items() if value is not None and name != "engine"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """The options of `analyze` for estimating effects."""

    method: Annotated[IntervalMethod | None, Parameter(help="The method of the intervals; the file's by default.")] = (
        None
    )
    alpha: Alpha = None
    relative: Annotated[
        Literal["fieller", "log", "linear"] | None,
        Parameter(help="The method of the relative interval; fieller by default."),
    ] = None
    adjust: Annotated[
        Literal["cuped", "lin"] | None, Parameter(help="One slope of a covariate for all variants, or one for each.")
    ] = None
    stratum: Annotated[str | None, Parameter(help="A column, or a trait, within which variants are compared.")] = None
    planned: Annotated[
        int | None, Parameter(help="Units at which sequential intervals are narrowest, or the last look is.")
    ] = None
    looks: Annotated[int | None, Parameter(help="Evenly spaced looks of a group-sequential experiment.")] = None
    tau: Annotated[float | None, Parameter(help="The relative effect expected: a mixture SPRT.")] = None

    def given(self) -> dict[str, object]:
        """The given options, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


NO_TABLE, DEFAULT_INFERENCE = TableOptions(), InferenceOptions()


@app.command(name=("analyze", "report"), group=REPORT)
def analyze(
    key: Annotated[str | None, Parameter(help="An experiment, or a placement whose policies are compared.")] = None,
    *,
    log: LogFolder = None,
    as_of: Annotated[datetime | None, Parameter(help="Count only what happened until then (UTC).")] = None,
    segment: Annotated[
        str | None,
        Parameter(
            help="Also the effect within each value of this trait, or of this column of a --table; of a placement, the "
            "creatives."
        ),
    ] = None,
    table: TableFile = None,
    columns: TableOptions = NO_TABLE,
    inference: InferenceOptions = DEFAULT_INFERENCE,
    prior: Annotated[
        str | None,
        Parameter(help="MEAN,SD of the relative effect before the data, or past: that of other experiments."),
    ] = None,
    ripe: Annotated[
        bool,
        Parameter(help="Of a placement: leave out exposures whose reward may still arrive; --no-ripe counts them."),
    ] = True,
    html: Annotated[Path | None, Parameter(help="Write the report as one page with its charts.")] = None,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Report one experiment from the log, or compare the variants of any table with --table."""
    if (key is None) == (table is None):
        raise BadInput("analyze: name either an experiment of the log or a --table")
    if table is not None:
        _refuse_unripe(ripe=ripe)
        if as_of is not None:
            raise BadInput("analyze --table: --as-of applies to the log only; leave it out, or filter the table")
        _print_report(_analyze_table(table, columns, inference, prior, segment), html, json=json)
        return 0
    _refuse_table_options(columns)
    from engine.catalog import load_plan
    from engine.catalog.archive import Archive

    settings = from_environment(experiments=experiments, data=data)
    plan, source = load_plan(settings.experiments, settings.plans), log or settings.log
    until = as_of.replace(tzinfo=as_of.tzinfo or UTC) if as_of else None
    name = key or ""
    if name not in plan.experiments and name in {placement for _, placement in plan.selections}:
        refuse_for_placement(name, {**inference.given(), "prior": prior})
        chosen = [one.reward.window for (_, placement), one in plan.selections.items() if placement == name]
        split = _split_of(plan, segment)
        _print_policy_report(name, source, until, html, window=max(chosen), ripe=ripe, split=split, json=json)
        return 0
    _refuse_unripe(ripe=ripe)
    question = _Question(key=name, until=until, segment=segment, prior=prior)
    _print_report(_analyze_log(plan, source, Archive(settings.plans), question, inference), html, json=json)
    return 0


@dataclass(frozen=True, kw_only=True)
class _Question:
    """The options of `analyze KEY`."""

    key: str
    until: datetime | None
    segment: str | None
    prior: str | None


def _analyze_table(
    table: str, columns: TableOptions, inference: InferenceOptions, prior: str | None, segment: str | None
) -> "Report":
    from engine.analysis import analyze_table

    if columns.variant is None or columns.control is None or not columns.metric:
        raise BadInput("analyze --table: needs --variant COL, --control NAME and at least one --metric SPEC")
    return analyze_table(
        table,
        variant=columns.variant,
        control=columns.control,
        metrics=columns.metric,
        unit=columns.unit,
        covariates=columns.covariate or (),
        segment=segment,
        prior=parse_prior(prior),
        weights=_parse_weights(columns.weights),
        partials=str(columns.partials) if columns.partials else None,
        engine=" ".join(columns.engine or ["duckdb"]),
        **inference.given(),
    )


def _analyze_log(
    plan: "Plan", log: Path, archive: "Archive", asked: _Question, inference: InferenceOptions
) -> "Report":
    """The report of an experiment, in which command-line options replace those of its file."""
    from msgspec.structs import replace

    from engine.analysis import analyze_experiment
    from engine.analysis.checks.changed_question import add_first_verdict
    from engine.analysis.design.question_from_plan import build_question
    from engine.analysis.report.past_experiments import past_prior
    from engine.analysis.stats.bayes import Prior

    question, metrics = build_question(plan, asked.key)
    options = inference.given()
    if asked.prior == "past":
        options["prior"] = past_prior(plan, question, log, as_of=asked.until)
    elif (prior := parse_prior(asked.prior)) is not None:
        options["prior"] = Prior(*prior)
    asked_now = replace(question, inference=replace(question.inference, **options))
    report = analyze_experiment(asked_now, metrics, log, as_of=asked.until, segment=asked.segment)
    # Options of the command line are a question of this reader, not a change of the experiment's.
    return add_first_verdict(report, log, archive, question, metrics, as_of=asked.until)


def _refuse_table_options(columns: TableOptions) -> None:
    """Refuse options that an experiment's file defines, since they would be ignored."""
    if given := columns.given():
        raise BadInput(f"{', '.join(given)}: the experiment's file defines it; leave it out, or name a --table")
    if columns.engine is not None:
        engine = " ".join(columns.engine)
        raise BadInput(f"--engine {engine}: the log is read by DuckDB; leave it out, or name a --table")


def _refuse_unripe(*, ripe: bool) -> None:
    """Refuse --no-ripe where it would be ignored."""
    if not ripe:
        raise BadInput(
            "--no-ripe: is for a placement; of an experiment, metrics.yaml has `ripe` by metric; leave it out"
        )


def _print_report(report: "Report", html: Path | None, *, json: bool) -> None:
    if html is not None:
        from engine.analysis.render.html import report_html

        _write_page(html, report_html(report))
    if json:
        print_json(report)
    elif html is None:
        from engine.analysis.render.terminal import render

        out.print(render(report))


def _split_of(plan: "Plan", segment: str | None) -> "ReportSplit | None":
    """The trait by which the creatives of a placement are split."""
    from engine.analysis.sources.traced_traits import ReportSplit, parse_segment

    return None if segment is None else ReportSplit(parse_segment(segment, plan.segments), plan.zone)


def _print_policy_report(
    placement: str,
    log: Path,
    until: datetime | None,
    html: Path | None,
    *,
    window: float,
    ripe: bool,
    split: "ReportSplit | None",
    json: bool,
) -> None:
    """Print a comparison of the placement's policies, as far as learning policies can be compared."""
    from engine.analysis import policy_report
    from engine.analysis.render.terminal import render_policies

    report = policy_report(log, placement, as_of=until, window=window, ripe=ripe, split=split)
    if split is not None and not report.creatives:
        raise BadInput(f"--segment: splits the creatives of a placement, and {placement} showed none; leave it out")
    if html is not None:
        from engine.analysis.render.html_policies import policies_html

        _write_page(html, policies_html(report))
    if json:
        print_json(report)
    elif html is None:
        out.print(render_policies(report))


def _write_page(file: Path, page: str) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"--html {file}: cannot be written ({error.strerror}); name a file in an existing folder"
        ) from error
    print_error(f"Wrote {file}.")


@app.command(group=REPORT)
def aa(
    key: Annotated[str | None, Parameter(help="An experiment of the log, or a placement.")] = None,
    *,
    table: TableFile = None,
    metric: Metrics = None,
    unit: UnitColumn = None,
    runs: Annotated[int, Parameter(help="How often the units are split at random.")] = 1000,
    alpha: Alpha = None,
    splits: SplitOptions = EVEN_SPLITS,
    log: LogFolder = None,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Split real data at random and count the effects found, which cannot exist; exit 1 if alpha is not kept."""
    if (key is None) == (table is None):
        raise BadInput("aa: name either an experiment or a placement of the log, or a --table")
    if table is not None:
        checks = split_table(table, metric or [], unit, splits, runs=runs, alpha=alpha)
    else:
        _refuse_table_options(TableOptions(metric=metric, unit=unit))
        settings = from_environment(experiments=experiments, data=data)
        checks = split_log(key or "", settings, log or settings.log, splits, runs=runs, alpha=alpha)
    failed = not all(check.ok for check in checks)
    if json:
        print_json({"ok": not failed, "checks": checks})
    else:
        print_checks(checks)
    return int(failed)


@app.command(group=DESIGN)
def power(
    key: Annotated[str | None, Parameter(help="A past experiment whose control in the log is the baseline.")] = None,
    *,
    metric: Annotated[
        str | None,
        Parameter(
            help="The baseline, proportion:0.1 or mean:16.2,25.1 (mean, sd); of a --table as in analyze; of an "
            "experiment a metric's name, its primary one by default."
        ),
    ] = None,
    table: Annotated[str | None, Parameter(help="A Parquet or CSV file that the baseline is taken from.")] = None,
    unit: UnitColumn = None,
    mde: Annotated[float | None, Parameter(help="The least relative effect to find, 0.02 for 2 %.")] = None,
    units: Annotated[int | None, Parameter(help="Units over control and one variant.")] = None,
    power: Annotated[float | None, Parameter(help="The chance to find it; 0.8 where it is not asked for.")] = None,
    share: Annotated[float | None, Parameter(help="Control's share; the experiment's by default, else 0.5.")] = None,
    alpha: Annotated[float, Parameter(help="The level of the test.")] = 0.05,
    method: IntervalMethod = "fixed",
    planned: Annotated[int | None, Parameter(help="As in analyze.")] = None,
    looks: Annotated[int | None, Parameter(help="As in analyze.")] = None,
    days: DaysOfDraft = False,
    log: LogFolder = None,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Compute the sample size, the least effect or the power: whichever of the three is left out."""
    from engine.analysis.design.methods import decode_inference
    from engine.analysis.report.past_experiments import baseline_of_plan, baseline_of_table, pair_traffic
    from engine.analysis.stats.power import parse_baseline, solve_design
    from engine.catalog import load_plan

    daily, planned_share = 0.0, 0.5
    settings = from_environment(experiments=experiments, data=data)
    if days:
        from engine.cli.design.power_days import print_days

        given = {"--table": table, "--unit": unit, "--units": units, "--power": power}
        return print_days(settings, log or settings.log, key, given, metric=metric, mde=mde, json=json)
    if key is not None:
        if table is not None or unit is not None:
            raise BadInput("power: name either an experiment of the log or a --table, not both")
        plan = load_plan(settings.experiments, settings.plans)
        baseline = baseline_of_plan(plan, key, metric, log or settings.log)
        daily, planned_share = pair_traffic(plan, key, log or settings.log)
    elif metric is None:
        raise BadInput("power: name an experiment of the log, or a baseline as in --metric proportion:0.1")
    else:
        baseline = baseline_of_table(table, metric, unit=unit) if table else parse_baseline(metric)
    inference = decode_inference({"method": method, "alpha": alpha, "planned": planned, "looks": looks})
    result = solve_design(
        baseline, inference, mde=mde, units=units, power=power, share=planned_share if share is None else share
    )
    if json:
        print_json(result)
        return 0
    _print_power(result, daily)
    return 0


def _print_power(result: "Design", daily: float) -> None:
    """Print a design, and its days at `daily` units per day; 0 means unknown."""
    print_line(f"{result.kind} at {result.baseline:g}, alpha {result.alpha:g}, {result.formula}:")
    found = f"{result.mde:+.2%} with power {result.power:.1%}"
    print_line(f"{result.units:,} units over control and one variant find {found}.")
    if daily:  # of a switchback a unit is a store in a period
        print_line(f"At {daily:,.4g} of these units a day, as in the log, that takes {result.units / daily:,.3g} days.")


def _parse_weights(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        return {name: float(share) for name, _, share in (part.partition("=") for part in text.split(","))}
    except ValueError:
        raise BadInput(f"--weights {text}: is not NAME=SHARE,…; write control=0.9,new=0.1") from None
