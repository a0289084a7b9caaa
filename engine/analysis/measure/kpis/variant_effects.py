"""The effects of the log's experiments on metrics of the KPI tree, with the covariance of their errors."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from engine.analysis.design.methods import Inference
from engine.analysis.design.question import ExperimentQuestion
from engine.analysis.design.question_from_plan import measured_metric
from engine.analysis.measure.kpis.joint_units import is_joint, read_joint_units
from engine.analysis.report.experiment_units import read_experiment_units
from engine.analysis.sources.duckdb_expressions import identifier
from engine.analysis.sources.log import loaded_rows
from engine.errors import BadInput, CatalogError
from engine.vocabulary import REFUNDS, names_of_same_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.design.question import MeasuredMetric
    from engine.analysis.measure.sources import EventSource
    from engine.catalog.archive import Archive
    from engine.catalog.plan.plan import Plan
    from engine.catalog.spec.experiment import ExperimentSpec
    from policies.batches import Floats

LEAST_UNITS: Final = 30
_LAST_PLANS = """
SELECT key, arg_max(plan, time), to_json(list_sort(list(DISTINCT variant))) FROM {decisions}
WHERE kind = 'experiment' AND variant IS NOT NULL AND reason IN ('assigned', 'sticky') GROUP BY ALL ORDER BY 1
"""


@dataclass(frozen=True, kw_only=True)
class VariantEffects:
    """A variant's effects on several metrics against control: estimates and the covariance matrix of their errors.

    `estimates` (m,) and `covariance` (m, m) are nan for a metric that has no effect yet.
    """

    experiment: str
    variant: str
    names: tuple[str, ...]
    estimates: Floats
    covariance: Floats

    def pair(self, lead: str, lag: str) -> tuple[float, float, float, float, float] | None:
        """The effects on lead and lag with variances and covariance; None unless both are known."""
        i, j = self.names.index(lead), self.names.index(lag)
        c = self.covariance
        found = (self.estimates[i], self.estimates[j], c[i, i], c[j, j], c[i, j])
        return tuple(map(float, found)) if all(map(np.isfinite, found)) and c[i, i] > 0 and c[j, j] > 0 else None  # type: ignore[return-value]


@dataclass(kw_only=True)
class MeasuredTree:
    """The effects of all experiments, and the metrics' correlation over their controls' customers."""

    effects: list[VariantEffects] = field(default_factory=list)
    controls: dict[tuple[str, str], list[tuple[float, float, float, float]]] = field(default_factory=dict)
    """The weight, both variances and the covariance of each control, for each pair of metrics."""

    def correlation(self, lead: str, lag: str) -> tuple[float, int] | None:
        """The correlation over customers within controls, and their number; None if there are too few."""
        rows = np.array(self.controls.get((lead, lag), [])).reshape(-1, 4)
        if not rows.size or rows[:, 0].sum() < LEAST_UNITS:
            return None
        weight = rows[:, 0]
        first, second, both = (float(weight @ rows[:, at]) for at in (1, 2, 3))
        if not (first > 0 and second > 0):
            return None
        return both / (first * second) ** 0.5, int(weight.sum())


def measure_effects(
    source: EventSource, plan: Plan, names: Sequence[str], *, archive: Archive | None = None
) -> MeasuredTree:
    """The effects of every experiment in the log, including those whose file was deleted.

    Args:
        source: of a log.
        plan: with the metrics.
        names: of the metrics of the tree.
        archive: of the plans that ran, for the variants of deleted experiments.
    """
    metrics = [spec for name in names if (spec := measured_metric(plan.metrics[name], plan)).rules.has_moments]
    tree = MeasuredTree()
    if not metrics or source.log_dir is None:
        return tree
    with _loaded_log(source, metrics) as tables:
        questions = _past_questions(source, plan, metrics, archive)
        joint = [one for one in questions if is_joint(one, metrics)]
        arms: dict[tuple[str, str], _ArmMoments] = {}
        names = tuple(one.name for one in metrics)
        if joint:
            arms = _joint_moments(source, joint, metrics, tables)
        for question in questions:
            if question not in joint:
                with contextlib.suppress(BadInput):  # an experiment that has nothing to say is none of the past ones
                    arms |= _own_moments(source, question, metrics)
        for question in questions:
            _add_experiment(question, names, arms, tree)
    return tree


def _past_questions(
    source: EventSource, plan: Plan, metrics: Sequence[MeasuredMetric], archive: Archive | None
) -> list[ExperimentQuestion]:
    """The question of each experiment of the table `experiment_decisions`."""
    specs, found = _specs_of(archive), []
    for key, version, variants in source.rows(_LAST_PLANS, decisions="experiment_decisions"):
        known = plan.find_reported(str(key))
        design = specs(str(version)).get(str(key)) if known is None else known.spec
        seen = msgspec.json.decode(str(variants), type=list[str])
        question = _with_unit(plan, str(key), _question(str(key), design, seen, metrics))
        if known is not None and known.start:
            question = msgspec.structs.replace(question, start=known.start)
        found.append(question)
    return found


_EVENT_COLUMNS: Final = (
    *("message_id", "time", "customer", "event", "decision_id", "revenue", "properties"),
    *("order_id", "given_back", "row"),
)


@contextlib.contextmanager
def _loaded_log(source: EventSource, metrics: Sequence[MeasuredMetric]) -> Iterator[dict[str, str]]:
    """The names of the events that metrics and decisions need, which are loaded once."""
    if source.log_dir is None:
        return
    named = {name for one in metrics for name in (*one.events, one.denominator) if name is not None}
    names = {other for name in named for other in names_of_same_event(name)} | REFUNDS
    digest = hashlib.sha256(msgspec.json.encode(sorted(names))).hexdigest()[:12]
    events = source.events_with_orders(f"metric_rows_{digest}", names, _EVENT_COLUMNS)
    tables = {name: source.log_rows(name) for name in ("decisions", "exposures")}
    source.create("experiment_decisions", "SELECT * FROM {decisions} WHERE kind = 'experiment'", **tables)
    loaded = {
        "events": identifier(events.get_name()),
        "decisions": "experiment_decisions",
        "exposures": tables["exposures"],
    }
    keys = {loaded_rows(source.log_dir, name): table for name, table in loaded.items()}
    source.engine.made.update(keys)
    try:
        yield loaded
    finally:
        for key in keys:
            del source.engine.made[key]


def _specs_of(archive: Archive | None) -> Callable[[str], Mapping[str, ExperimentSpec]]:
    """A function that reads a plan's experiments, caching each plan."""

    @cache
    def read(version: str) -> Mapping[str, ExperimentSpec]:
        if archive is None:
            return {}
        try:
            return archive.read_specs(version).experiments
        except (BadInput, CatalogError, OSError):  # it ran elsewhere, or by rules of its time
            return {}

    return read


def _with_unit(plan: Plan, key: str, question: ExperimentQuestion) -> ExperimentQuestion:
    """The question with its unit's trait and periods; by customer if the plan no longer has the unit."""
    known, trait = plan.find_reported(key), plan.trait_of(question.unit)
    if question.unit not in {"customer", "device"} and trait is None:
        return msgspec.structs.replace(question, unit="customer")
    return msgspec.structs.replace(question, unit_trait=trait, switchback=known.switchback if known else None)


def _question(
    key: str, spec: ExperimentSpec | None, seen: list[str], metrics: Sequence[MeasuredMetric]
) -> ExperimentQuestion:
    variants = [one.key for one in spec.variants] if spec is not None and spec.variants else seen
    if spec is None and "control" in seen:
        variants = ["control", *(one for one in seen if one != "control")]
    return ExperimentQuestion(
        key=key,
        control=variants[0],
        weights=dict.fromkeys(variants, 1 / len(variants)),
        primary=metrics[0].name,
        secondary=tuple(one.name for one in metrics[1:]),
        inference=Inference(method="fixed"),
        unit="customer" if spec is None else spec.unit,
    )


def _joint_moments(
    source: EventSource,
    questions: Sequence[ExperimentQuestion],
    metrics: Sequence[MeasuredMetric],
    tables: Mapping[str, str],
) -> dict[tuple[str, str], _ArmMoments]:
    """The moments of experiments that are read together, by experiment and variant."""
    if source.log_dir is None:
        return {}
    plain = [msgspec.structs.replace(one, covariate_window=None) for one in metrics]  # effects here are differences
    measures = read_joint_units(
        source.engine,
        source.log_dir,
        questions,
        plain,
        as_of=source.last or 0,
        tables={name: tables[name] for name in ("decisions", "exposures")},
        place="kpi_units",
    )
    return _read_moments(source, measures)


def _own_moments(
    source: EventSource, question: ExperimentQuestion, metrics: Sequence[MeasuredMetric]
) -> dict[tuple[str, str], _ArmMoments]:
    """The moments of an experiment that is read by itself."""
    if source.log_dir is None:
        return {}
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    as_of = datetime.fromtimestamp((source.last or 0) / 1e6, UTC)
    data = read_experiment_units(source.engine, question, metrics, source.log_dir, as_of)
    units = data.units.filter(~data.units["crossed"])
    source.keep("kpi_units", units.mutate(segment=ibis.literal(question.key)))
    return _read_moments(source, data.measures[: len(metrics)])


def _add_experiment(
    question: ExperimentQuestion,
    names: tuple[str, ...],
    found: Mapping[tuple[str, str], _ArmMoments],
    tree: MeasuredTree,
) -> None:
    size = len(names)
    nobody = _ArmMoments(
        mean=np.full(size, np.nan), covariance=np.full((size, size), np.nan), count=np.zeros((size,) * 2)
    )
    arms = {variant: found.get((question.key, variant), nobody) for variant in question.weights}
    control = arms.pop(question.control)
    for i, lead in enumerate(names):
        for j, lag in enumerate(names):
            if i != j and control.count[i, j] >= LEAST_UNITS:
                c = control.covariance
                row = (float(control.count[i, j]), float(c[i, i]), float(c[j, j]), float(c[i, j]))
                tree.controls.setdefault((lead, lag), []).append(row)
    for variant, arm in arms.items():
        if arm.count.max() < LEAST_UNITS:
            continue
        enough = (np.minimum(np.diag(arm.count), np.diag(control.count)) >= LEAST_UNITS).astype(float)
        mask = np.where(enough > 0, 1.0, np.nan)
        tree.effects.append(
            VariantEffects(
                experiment=question.key,
                variant=variant,
                names=names,
                estimates=(arm.mean - control.mean) * mask,
                covariance=(arm.of_means + control.of_means) * mask * mask[:, None],
            )
        )


@dataclass(frozen=True, kw_only=True)
class _ArmMoments:
    mean: Floats
    covariance: Floats
    count: Floats

    @property
    def of_means(self) -> Floats:
        """The covariance of the means, each pair over the units that have both."""
        own = np.maximum(np.diag(self.count), 1.0)
        return np.asarray(self.covariance * self.count / (own[:, None] * own))


def _read_moments(source: EventSource, measures: Sequence[Measure]) -> dict[tuple[str, str], _ArmMoments]:
    """The means (m,), covariances of units (m, m) and counts of pairs (m, m); ratios by the delta method.

    They are of the table `kpi_units`, by its `segment`, which is the experiment, and variant.
    """
    columns = [column for one in measures for column in one.y.columns]
    averages = ", ".join(f"avg({identifier(column)}) AS {identifier(f'{column} mean')}" for column in columns)
    values, centres = [], []
    for one in measures:
        top, mean = identifier(one.y.num), identifier(f"{one.y.num} mean")
        if one.y.den is None:
            values.append(f"CAST({top} AS DOUBLE)")
            centres.append(f"any_value({mean})")
            continue
        below, size = identifier(one.y.den), identifier(f"{one.y.den} mean")
        is_known = f"isfinite({mean} / {size})"
        values.append(f"CASE WHEN {is_known} THEN ({top} - {mean} / {size} * {below}) / {size} END")
        centres.append(f"any_value(CASE WHEN {is_known} THEN {mean} / {size} END)")
    count = len(values)
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    parts = ", ".join([*centres, *(f"covar_samp(v{i}, v{j}), count(v{i} + v{j})" for i, j in pairs)])
    named = ", ".join(f"{value} AS v{at}" for at, value in enumerate(values))
    rows = source.engine.run(
        f"WITH means AS (SELECT segment, variant, {averages} FROM kpi_units GROUP BY ALL) "
        f"SELECT segment, variant, {parts} FROM (SELECT *, {named} FROM kpi_units JOIN means USING (segment, variant)) "
        "GROUP BY segment, variant"  # nosec B608
    )
    found = {}
    for segment, variant, *cells in rows:
        numbers = [np.nan if cell is None else float(str(cell)) for cell in cells]
        centre = np.array([number + one.y.offset for number, one in zip(numbers, measures, strict=False)])
        covariance, of_pairs = np.full((count, count), np.nan), np.zeros((count, count))
        for at, (i, j) in enumerate(pairs):
            covariance[i, j] = covariance[j, i] = numbers[count + 2 * at]
            of_pairs[i, j] = of_pairs[j, i] = numbers[count + 2 * at + 1]
        found[str(segment), str(variant)] = _ArmMoments(mean=centre, covariance=covariance, count=of_pairs)
    return found
