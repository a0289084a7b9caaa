"""What the plan says of an experiment, as the question that its report answers."""

from engine.analysis.design.methods import Inference
from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
from engine.analysis.stats.bayes import Prior
from engine.catalog.check.decode import suggest_name
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.experiment import AnalysisSpec
from engine.catalog.spec.experiment import MetricSpec as CatalogMetric
from engine.catalog.spec.fields import seconds
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS


def build_question(plan: Plan, key: str) -> tuple[ExperimentQuestion, list[MeasuredMetric]]:
    """The question of experiment `key`, its first variant being the control, and every metric of the shop.

    Raises:
        BadInput: if the plan has no such experiment, or it names no metrics.
    """
    experiment = plan.experiments.get(key)
    if experiment is None:
        raise BadInput(f"{key!r} is no running or ended experiment; {suggest_name(key, list(plan.experiments))}")
    spec = experiment.spec
    if spec.metrics is None:
        raise BadInput(f"{key!r} names no metrics; add 'metrics: {{primary: …}}' to its file")
    equal = 1 / len(spec.variants)
    question = ExperimentQuestion(
        key=key,
        control=spec.variants[0].key,
        weights={v.key: equal if v.weight is None else v.weight for v in spec.variants},
        primary=spec.metrics.primary,
        secondary=tuple(spec.metrics.secondary),
        guardrails=tuple(spec.metrics.guardrails),
        inference=_build_inference(spec.analysis),
        unit=spec.unit,
        start=experiment.start or None,
        coverage=max(sum(high - low for low, high in ranges) for _, ranges in experiment.steps),
        min_days=float(spec.analysis.min_days),
    )
    return question, [_metric(metric) for metric in plan.metrics.values()]


def _build_inference(spec: AnalysisSpec) -> Inference:
    return Inference(
        method=spec.method,
        alpha=spec.alpha,
        relative=spec.relative,
        prior=Prior(*spec.prior) if spec.prior else Prior(),
        planned=spec.planned,
        looks=spec.looks,
        spending=spec.spending,
        tau=spec.tau,
        rope=spec.rope,
        tolerance=spec.tolerance,
        adjust=spec.adjust,
        stratum=spec.stratum,
    )


def _metric(metric: CatalogMetric) -> MeasuredMetric:
    kind = METRIC_KINDS[metric.kind]
    return MeasuredMetric(
        name=metric.key,
        kind=kind.measured_as or kind.name,
        event=metric.event,
        value=metric.value or kind.default_value,
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
