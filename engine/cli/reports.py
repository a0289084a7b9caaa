"""What to believe: reports from the log or from any table, as verbs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from engine.cli.app import AsJson, Data, Folder, Log, app, complain, grid, log_to_stderr, out, print_json, say
from engine.errors import BadInput
from engine.settings import from_environment

IntervalMethod = Literal["fixed", "sequential", "group_sequential", "bayesian"]
Metrics = Annotated[
    list[str] | None,
    Parameter(name="--metric", help="mean:COL, proportion:COL, ratio:NUM/DEN or quantile:COL@0.9; may be repeated."),
]
EngineOption = Annotated[
    list[str] | None, Parameter(name="--engine", consume_multiple=True, help="duckdb, spark, or clickhouse URL.")
]


Alpha = Annotated[
    float | None, Parameter(help="One minus the intervals' coverage; what the file says, or 0.05, by default.")
]


@app.command(name=("analyze", "report"))
def analyze(
    key: Annotated[str | None, Parameter(help="An experiment, or a placement whose policies are compared.")] = None,
    *,
    log: Log = None,
    as_of: Annotated[datetime | None, Parameter(help="Count only what happened until then (UTC).")] = None,
    segment: Annotated[str | None, Parameter(help="Also the effect within each value of this trait.")] = None,
    table: Annotated[str | None, Parameter(help="A Parquet or CSV file of anyone's instead of the log.")] = None,
    variant: Annotated[str | None, Parameter(help="The table's column that holds the variant.")] = None,
    control: Annotated[str | None, Parameter(help="The variant to compare with.")] = None,
    unit: Annotated[str | None, Parameter(help="The table's column of the unit of assignment.")] = None,
    metric: Metrics = None,
    covariate: Annotated[list[str] | None, Parameter(name="--covariate", help="A column from before.")] = None,
    method: Annotated[
        IntervalMethod | None, Parameter(help="How intervals are made; what the file says by default.")
    ] = None,
    alpha: Alpha = None,
    relative: Annotated[
        Literal["fieller", "log", "linear"] | None,
        Parameter(help="How the relative interval is made; fieller."),
    ] = None,
    prior: Annotated[
        str | None, Parameter(help="MEAN,SD of the relative effect before the data, or past: as other experiments had.")
    ] = None,
    adjust: Annotated[
        Literal["cuped", "lin"] | None, Parameter(help="One slope of a covariate for all variants, or each its own.")
    ] = None,
    stratum: Annotated[str | None, Parameter(help="A column, or a trait, within which variants are compared.")] = None,
    planned: Annotated[
        int | None, Parameter(help="Units at which sequential intervals are narrowest, or the last look is.")
    ] = None,
    looks: Annotated[int | None, Parameter(help="Evenly spaced looks of a group-sequential experiment.")] = None,
    tau: Annotated[float | None, Parameter(help="The relative effect expected: a mixture SPRT.")] = None,
    weights: Annotated[str | None, Parameter(help="Shares that were asked for, control=0.9,new=0.1.")] = None,
    partials: Annotated[Path | None, Parameter(help="A folder to keep daily partial statistics of a table in.")] = None,
    engine: EngineOption = None,
    html: Annotated[Path | None, Parameter(help="Write the report as one page with its charts.")] = None,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Report one experiment from the log, or compare the variants of any table with --table."""
    if (key is None) == (table is None):
        raise BadInput("analyze: name either an experiment of the log or a --table, not both and not neither")
    if table is None:
        _only_of_tables(
            {
                "--variant": variant,
                "--control": control,
                "--unit": unit,
                "--metric": metric,
                "--covariate": covariate,
                "--weights": weights,
                "--partials": partials,
            }
        )
        if engine is not None:
            raise BadInput(f"--engine {' '.join(engine)}: the log is read by DuckDB; leave it out, or name a --table")
    elif segment is not None or as_of is not None:
        raise BadInput("analyze --table: --segment and --as-of are of the log; leave them out")
    inference: dict[str, object] = {
        "method": method,
        "alpha": alpha,
        "relative": relative,
        "adjust": adjust,
        "stratum": stratum,
        "planned": planned,
        "looks": looks,
        "tau": tau,
    }
    inference = {name: told for name, told in inference.items() if told is not None}
    if table is not None:
        from engine.analysis import analyze_table

        if variant is None or control is None or not metric:
            raise BadInput("analyze --table: needs --variant COL, --control NAME and at least one --metric SPEC")
        report = analyze_table(
            table,
            variant=variant,
            control=control,
            metrics=metric,
            unit=unit,
            covariates=covariate or (),
            prior=_prior(prior),
            weights=_weights(weights),
            partials=str(partials) if partials else None,
            engine=" ".join(engine or ["duckdb"]),
            **inference,
        )
    else:
        from msgspec.structs import replace

        from engine.analysis import analyze_experiment
        from engine.analysis.design.question_from_plan import build_question
        from engine.analysis.report.past_experiments import past_prior
        from engine.analysis.stats.bayes import Prior
        from engine.catalog import load_plan

        settings = from_environment(experiments=experiments, data=data)
        plan, source = load_plan(settings.experiments), log or settings.log
        until = as_of.replace(tzinfo=as_of.tzinfo or UTC) if as_of else None
        if key not in plan.experiments and key in {placement for _, placement in plan.selections}:
            ignored = {**inference, "segment": segment, "prior": prior}
            left_out = [f"--{name.replace('_', '-')}" for name, value in ignored.items() if value is not None]
            return _policies(key or "", source, until, left_out, html=html, json=json)
        question, metrics = build_question(plan, key or "")
        if prior == "past":
            inference["prior"] = past_prior(plan, question, source, as_of=until)
        elif told := _prior(prior):
            inference["prior"] = Prior(*told)
        asked = replace(question, inference=replace(question.inference, **inference))
        report = analyze_experiment(asked, metrics, source, as_of=until, segment=segment)
    if html is not None:
        from engine.analysis.render.html import report_html

        _write(html, report_html(report))
    if json:
        print_json(report)
    elif html is None:
        from engine.analysis.render.terminal import render

        out.print(render(report))
    return 0


def _write(file: Path, page: str) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"--html {file}: cannot be written ({error.strerror}); name a file in a folder there is"
        ) from error
    complain(f"Wrote {file}.")


def _policies(
    placement: str, log: Path, until: datetime | None, ignored: list[str], *, html: Path | None, json: bool
) -> int:
    """A placement is no experiment: its policies learn, and what they earned is compared as that allows."""
    from engine.analysis import policy_report
    from engine.analysis.render.terminal import render_policies

    if ignored:
        raise BadInput(f"{', '.join(ignored)}: {placement} is a placement, and its report has none; leave it out")
    report = policy_report(log, placement, as_of=until)
    if html is not None:
        from engine.analysis.render.html_policies import policies_html

        _write(html, policies_html(report))
    if json:
        print_json(report)
    elif html is None:
        out.print(render_policies(report))
    return 0


@app.command
def aa(
    key: Annotated[str | None, Parameter(help="An experiment of the log.")] = None,
    *,
    table: Annotated[str | None, Parameter(help="A Parquet or CSV file of anyone's instead of the log.")] = None,
    metric: Metrics = None,
    unit: Annotated[str | None, Parameter(help="The table's column of the unit of assignment.")] = None,
    runs: Annotated[int, Parameter(help="How often the units are split anew, at random.")] = 1000,
    alpha: Alpha = None,
    log: Log = None,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Split real data at random and look for effects that cannot be: exit 1 if there are not as many as alpha says."""
    from msgspec.structs import replace

    from engine.analysis import aa_experiment, aa_table
    from engine.analysis.design.question_from_plan import build_question
    from engine.analysis.stats.estimate import NotEstimable
    from engine.catalog import load_plan

    if (key is None) == (table is None):
        raise BadInput("aa: name either an experiment of the log or a --table, not both and not neither")
    if table is not None:
        checks = aa_table(table, metrics=metric or [], unit=unit, alpha=0.05 if alpha is None else alpha, runs=runs)
    else:
        _only_of_tables({"--metric": metric, "--unit": unit})
        settings = from_environment(experiments=experiments, data=data)
        question, metrics = build_question(load_plan(settings.experiments), key or "")
        if alpha is not None:
            question = replace(question, inference=replace(question.inference, alpha=alpha))
        checks = aa_experiment(question, metrics, log or settings.log, runs=runs)
    failed = not all(check.ok for check in checks)
    if json:
        print_json({"ok": not failed, "checks": checks})
        return int(failed)
    shown = grid("metric", "false positives", "coverage", "ok", figures=["false positives", "coverage"])
    for check in checks:
        cells = []
        for part in (check.false_positives, check.coverage):
            if isinstance(part, NotEstimable):
                cells.append(part.not_estimable)
            else:
                cells.append(f"{part.share:.1%} ({part.low:.1%} to {part.high:.1%})")
        shown.add_row(check.metric, *cells, "yes" if check.ok else "no")
    out.print(shown)
    return int(failed)


@app.command
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
    unit: Annotated[str | None, Parameter(help="The table's column of the unit of assignment.")] = None,
    mde: Annotated[float | None, Parameter(help="The least relative effect to find, 0.02 for 2 %.")] = None,
    units: Annotated[int | None, Parameter(help="Units over control and one variant.")] = None,
    power: Annotated[float | None, Parameter(help="The chance to find it; 0.8 where it is not asked for.")] = None,
    share: Annotated[float, Parameter(help="Control's share of these units.")] = 0.5,
    alpha: Annotated[float, Parameter(help="The level of the test.")] = 0.05,
    method: IntervalMethod = "fixed",
    planned: Annotated[int | None, Parameter(help="As in analyze.")] = None,
    looks: Annotated[int | None, Parameter(help="As in analyze.")] = None,
    log: Log = None,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """The sample size, the least effect or the power, whichever of the three is left out."""
    from engine.analysis.design.methods import decode_inference
    from engine.analysis.report.past_experiments import baseline_of_plan, baseline_of_table
    from engine.analysis.stats.power import parse_baseline, solve_design

    if key is not None:
        if table is not None or unit is not None:
            raise BadInput("power: name either an experiment of the log or a --table, not both")
        settings = from_environment(experiments=experiments, data=data)
        baseline = baseline_of_plan(settings.experiments, key, metric, log or settings.log)
    elif metric is None:
        raise BadInput("power: name an experiment of the log, or a baseline as in --metric proportion:0.1")
    else:
        baseline = baseline_of_table(table, metric, unit=unit) if table else parse_baseline(metric)
    inference = decode_inference({"method": method, "alpha": alpha, "planned": planned, "looks": looks})
    result = solve_design(baseline, inference, mde=mde, units=units, power=power, share=share)
    if json:
        print_json(result)
        return 0
    say(f"{result.kind} at {result.baseline:g}, alpha {result.alpha:g}, {result.formula}:")
    say(f"{result.units:,} units over control and one variant find {result.mde:+.2%} with power {result.power:.1%}.")
    return 0


@app.command
def replay(
    dataset: Literal["obd"],
    *,
    source: Annotated[Path, Parameter(help="The dataset's folder, as `make obd` unpacks it.")] = Path(
        ".cache/obd/obp/dataset/obd"
    ),
    campaign: Annotated[Literal["all", "men", "women"], Parameter(help="Which of its campaigns.")] = "all",
    rounds: Annotated[int, Parameter(help="How many of its rounds.")] = 10_000,
    data: Annotated[
        Path | None, Parameter(help="Where spool, store and log are kept; a folder that is removed by default.")
    ] = None,
    port: Annotated[int, Parameter(help="The engine's port; a free one by default.")] = 0,
    json: AsJson = False,
) -> int:
    """Ask a running engine the logged rounds of a public dataset; it learns where it agrees with the log."""
    from tempfile import TemporaryDirectory

    from engine.obd_replay import render_replay, replay_obd
    from engine.up import stop_on_signals

    log_to_stderr()
    with TemporaryDirectory(prefix=f"counterpoint-{dataset}-") as place:
        settings = from_environment(data=data or Path(place) / "data", port=port)
        report = replay_obd(settings, source, stop_on_signals(), campaign=campaign, rounds=rounds)
    if json:
        print_json(report)
    else:
        out.print(render_replay(report))
    return 0


def _only_of_tables(given: dict[str, str | list[str] | Path | None]) -> None:
    """An experiment's file says these; told otherwise on the command line they would be ignored."""
    told = [name for name, value in given.items() if value is not None]
    if told:
        raise BadInput(f"{', '.join(told)}: the experiment's file says it; leave it out, or name a --table")


def _weights(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        return {name: float(share) for name, _, share in (part.partition("=") for part in text.split(","))}
    except ValueError:
        raise BadInput(f"--weights {text}: is not NAME=SHARE,…; write control=0.9,new=0.1") from None


def _prior(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        mean, sd = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--prior {text}: is not MEAN,SD; give two numbers such as 0,0.1") from None
    return mean, sd
