"""Builds the question of an experiment's or a holdout's report from the compiled plan."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from engine.analysis.design.methods import SCEPTICAL, Inference
from engine.analysis.design.question import (
    ExperimentDescription,
    ExperimentQuestion,
    MeasuredExposures,
    MeasuredMetric,
    MeasuredStep,
    MeasuredTable,
)
from engine.analysis.stats.bayes import Prior
from engine.catalog.check.decode import suggest_name
from engine.catalog.plan.plan import Experiment, Holdout, Plan
from engine.catalog.plan.switchback import Switchback
from engine.catalog.spec.experiment import AnalysisSpec, ExperimentSpec
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.metrics import MetricSpec as CatalogMetric
from engine.catalog.spec.sources import ExposuresSpec, TableSpec
from engine.catalog.spec.units import SwitchbackSpec
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS
from engine.vocabulary import HELD_OUT, LET_IN


def build_question(plan: Plan, key: str) -> tuple[ExperimentQuestion, list[MeasuredMetric]]:
    """The question of experiment or holdout `key`, and every metric of the shop.

    The control of an experiment is its first variant; of a holdout it is those who are held out.

    Raises:
        BadInput: if the plan has no such experiment or holdout, or no metric for it.
    """
    experiment = plan.find_reported(key)
    metrics = [measured_metric(metric, plan) for metric in plan.metrics.values()]
    if experiment is None and key in plan.holdouts:
        return _build_holdout_question(plan, plan.holdouts[key]), metrics
    if experiment is None:
        known = [*plan.experiments, *plan.holdouts]
        raise BadInput(f"{key!r} is not a running or ended experiment, nor a holdout; {suggest_name(key, known)}")
    spec = experiment.spec
    if spec.metrics is None:
        raise BadInput(f"{key!r} names no metrics; add 'metrics: {{primary: …}}' to its file")
    question = ExperimentQuestion(
        key=key,
        control=spec.variants[0].key,
        weights=dict(zip((variant.key for variant in spec.variants), experiment.shares, strict=True)),
        primary=spec.metrics.primary,
        secondary=tuple(spec.metrics.secondary),
        guardrails=tuple(spec.metrics.guardrails),
        inference=_build_inference(spec.analysis, plan.trait_of(spec.unit) if experiment.switchback else None),
        description=_describe(plan, experiment),
        unit=spec.unit,
        unit_trait=plan.trait_of(spec.unit),
        switchback=experiment.switchback,
        has_period_strata=experiment.switchback is not None and spec.analysis.stratum is None,
        placeholders=frozenset(plan.rules.placeholders),
        start=experiment.start or None,
        zone=plan.zone,
        segments=plan.segments,
        coverage=experiment.coverage(experiment.steps[-1][0]),
        ramp=tuple((at, experiment.coverage(at)) for at, _ in experiment.steps) if len(experiment.steps) > 1 else (),
        held_steps=tuple(share for share, _ in experiment.held_steps),
        min_days=float(spec.analysis.min_days),
        exposures=None if spec.exposures is None else _measured_exposures(spec.exposures, plan),
        is_shipped=spec.status == "shipped",
        decided=_end_of_day(spec.decided.on, plan.zone) if spec.decided else None,
    )
    if experiment.switchback:  # before a period lies another one, whose variant is no covariate
        metrics = [replace(metric, covariate_window=None) for metric in metrics]
    return question, metrics


def _end_of_day(day: date, zone: str) -> float:
    """The end of a day in the shop's time zone, in seconds since 1970."""
    return datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone)).timestamp()


def _build_holdout_question(plan: Plan, holdout: Holdout) -> ExperimentQuestion:
    """The question about the total effect of all experiments that exclude a holdout."""
    spec = holdout.spec
    covered = [
        one
        for experiment in plan.experiments.values()
        for one in (experiment, *(rule.experiment for rule in experiment.rules))
        if holdout.kept is not None or holdout.key in {each.key for each in one.holdouts}
    ]
    primary, *secondary = _holdout_metrics(plan, holdout, covered)
    return ExperimentQuestion(
        key=holdout.key,
        control=HELD_OUT,
        weights={HELD_OUT: holdout.share, LET_IN: 1.0 - holdout.share},
        primary=primary,
        secondary=tuple(secondary),
        guardrails=tuple(spec.metrics.guardrails) if spec.metrics else (),
        description=ExperimentDescription(
            title=spec.title or spec.key,
            channels=sorted(plan.channels),
            currency=plan.currency,
        ),
        unit=holdout.unit,
        unit_trait=plan.trait_of(holdout.unit),
        placeholders=frozenset(plan.rules.placeholders),
        zone=plan.zone,
        segments=plan.segments,
        covers=tuple(one.key for one in covered),
        side_key=holdout.key if holdout.kept is not None else None,
    )


def _holdout_metrics(plan: Plan, holdout: Holdout, covered: Sequence[Experiment]) -> list[str]:
    """The metrics of a holdout's report, the primary one first.

    Raises:
        BadInput: if it names none, and there is none in money and none of an experiment.
    """
    if holdout.spec.metrics is not None:
        return [holdout.spec.metrics.primary, *holdout.spec.metrics.secondary]
    in_money = [key for key, metric in plan.metrics.items() if measured_metric(metric, plan).money is not None]
    judged = [one.spec.metrics.primary for one in covered if one.spec.metrics is not None]
    names = list(dict.fromkeys((*in_money, *judged)))
    if not names:
        raise BadInput(f"{holdout.key!r} has no metric; add 'metrics: {{primary: …}}' to the holdout in layers.yaml")
    return names


def _describe(plan: Plan, experiment: Experiment) -> ExperimentDescription:
    """The facts of the experiment's file, for the head of its report."""
    spec = experiment.spec
    return ExperimentDescription(
        title=spec.title or spec.key,
        hypothesis=spec.hypothesis or "",
        owner=spec.owner or "",
        start=spec.start.isoformat() if spec.start else None,
        end=spec.end.isoformat() if spec.end else None,
        channels=sorted(plan.channels) if spec.channels is None else list(spec.channels),
        audience=dict(spec.audience),
        currency=plan.currency,
        conclusion=_describe_conclusion(spec),
        design=_describe_design(experiment.switchback, spec.switchback) if experiment.switchback else "",
    )


def _describe_conclusion(spec: ExperimentSpec) -> str:
    """Describes the decision on an experiment, and what was learnt."""
    if spec.decided is None:
        return ""
    what = f"{spec.ship} was shipped" if spec.status == "shipped" else "it was stopped"
    who = f" by {spec.decided.by}" if spec.decided.by else ""
    lines = [f"{what} on {spec.decided.on.isoformat()}{who}" + (f": {spec.decided.why}" if spec.decided.why else "")]
    if (changed := spec.decided.question) is not None:
        lines.append(
            f"It was decided after its question changed ({', '.join(changed.changes)}): by that of the start the "
            f"verdict was {changed.began.upper()}, by the later one {changed.now.upper()}"
        )
    if spec.decided.unverified is not None:
        lines.append(
            "Whether its question changed after the first exposure could not be verified when it was decided: "
            f"{spec.decided.unverified}"
        )
    return ". ".join(lines)


def _describe_design(design: Switchback, spec: SwitchbackSpec | None) -> str:
    """Describes a switchback's design, and the basis of its effects."""
    if spec is None:
        return ""
    washout = f"what was decided in the first {spec.washout} of each is left out" if spec.washout else "no washout"
    series = "time of day" if design.series > 1 else "consecutive periods"
    balance = f"balanced over {series} within {len(design.block)} cycles" if design.block else "drawn independently"
    return (
        f"a switchback: each {spec.by} in periods of {spec.every}, {balance}; {washout}. A unit is a {spec.by} in a "
        "period. An effect that outlasts the washout carries over into the next period and draws the estimate towards "
        "zero."
    )


def _build_inference(spec: AnalysisSpec, stratum: str | None) -> Inference:
    """The statistical options of an experiment's `analysis`; `stratum` is the default stratum."""
    return Inference(
        method=spec.method,
        alpha=spec.alpha,
        relative=spec.relative,
        prior=Prior(*spec.prior) if spec.prior else _default_prior(spec),
        planned=spec.planned,
        looks=spec.looks,
        spending=spec.spending,
        tau=spec.tau,
        rope=spec.rope,
        tolerance=spec.tolerance,
        adjust=spec.adjust,
        stratum=spec.stratum or stratum,
    )


def _default_prior(spec: AnalysisSpec) -> Prior:
    """A sceptical prior if the prior decides; a flat one if the posterior only accompanies another interval."""
    return SCEPTICAL if spec.method == "bayesian" else Prior()


def _measured_exposures(given: ExposuresSpec, plan: Plan) -> MeasuredExposures:
    return MeasuredExposures(
        connection=plan.sources[given.at],
        table=given.table,
        customer=given.customer,
        time=given.time,
        variant=given.variant,
        experiment=given.experiment,
        key=given.key,
        identifier=given.identifier,
    )


def _measured_table(table: TableSpec, plan: Plan) -> MeasuredTable:
    return MeasuredTable(
        connection=plan.sources[table.at],
        table=table.table,
        customer=table.customer,
        time=table.time,
        value=table.value,
        denominator=table.denominator,
        currency=table.currency,
        event=table.event,
        identifier=table.identifier,
        rates={plan.currency: 1.0, **plan.rules.rates} if table.currency else {},
    )


def measured_metric(metric: CatalogMetric, plan: Plan) -> MeasuredMetric:
    """A plan's metric as the analysis computes it: defaults resolved, durations in seconds."""
    kind = METRIC_KINDS[metric.kind]
    return MeasuredMetric(
        name=metric.key,
        kind=kind.measured_as or kind.name,
        event=metric.event or "",
        steps=tuple(MeasuredStep(step.event, step.filter) for step in metric.ordered_steps) if metric.steps else (),
        within=seconds(metric.within) if metric.within else None,
        at_least=metric.at_least,
        source=None if metric.source is None else _measured_table(metric.source, plan),
        zone=plan.zone if kind.event_adds == "days" else "UTC",
        value=None if metric.source else metric.value or kind.default_value,
        denominator=metric.denominator,
        denominator_value=metric.denominator_value,
        denominator_filter=metric.denominator_filter,
        filter=metric.filter,
        delay=seconds(metric.delay) if metric.delay else 0.0,
        window=seconds(metric.window) if metric.window else None,
        ripe=metric.ripe,
        covariate_window=seconds(metric.covariate_window) if metric.covariate_window else None,
        quantile=metric.quantile,
        winsorize=metric.winsorize,
        direction="increase" if metric.direction == "up" else "decrease",
        margin=metric.margin or 0.0,
        money=kind.default_money if metric.money is None else metric.money,
    )
