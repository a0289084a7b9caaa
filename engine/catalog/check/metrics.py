"""Checks metrics: each has exactly the keys of its kind, and the tree of KPIs leads to later tiers only."""

from collections.abc import Iterator

from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.check.sources import table_problems
from engine.catalog.conditions.dates import reads_now
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.metrics import KPI_TIERS, KpiSpec, MetricSpec
from engine.catalog.spec.segments import find_cycle
from engine.errors import Problem
from engine.metric_kinds import METRIC_KINDS


def metric_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield incomplete metrics, keys of other kinds, and conditions that would change from day to day."""
    for index, metric in enumerate(specs.metrics.metrics):
        for key, message in (*_check_kind(metric), *_check_filters(metric), *table_problems(metric, known)):
            yield Problem(f"{specs.folder}/metrics.yaml", f"metrics[{index}].{key}", message)


def reward_problems(metric: MetricSpec) -> Iterator[FieldProblem]:
    """Yield the problem of a metric that no single event can earn, so that no policy can learn from it."""
    if metric.source is not None:
        rule = f"{metric.key!r} is read from a table, and policies learn from events"
        yield "reward.metric", f"{rule}; reward a metric with an event"
    if METRIC_KINDS[metric.kind].needs_history:
        rule = f"{metric.key!r} is of kind {metric.kind}, which no single event decides"
        yield "reward.metric", f"{rule}; reward one of its events by a metric of kind proportion or mean"


def _check_filters(metric: MetricSpec) -> Iterator[FieldProblem]:
    filters = {"filter": metric.filter, "denominator_filter": metric.denominator_filter}
    if metric.steps is not None:
        filters |= {f"steps[{at}].filter": step.filter for at, step in enumerate(metric.ordered_steps)}
    for key, condition in filters.items():
        if reads_now(condition):
            yield key, "compares with now, so the report would change by itself; compare with a fixed time"


def _check_kind(metric: MetricSpec) -> Iterator[FieldProblem]:
    """Yield the keys that the metric's kind requires and lacks, and keys of other kinds."""
    kind = METRIC_KINDS[metric.kind]
    for key in kind.required:
        in_table = metric.source is not None and key in {"value", "denominator"}
        if getattr(metric, key) is None and not in_table:
            yield key, f"is missing; a metric of kind {metric.kind} needs it"
    yield from _check_steps(metric)
    if metric.at_least is not None and not kind.has_least:
        yield "at_least", "belongs to a threshold; leave it out, or write kind: threshold"
    if metric.value is not None and kind.event_adds == "days":
        yield "value", f"{metric.kind} count days, whatever an event carries; leave it out"
    if metric.denominator is not None and not kind.has_denominator:
        yield "denominator", f"a {metric.kind} has none; leave it out, or write kind: ratio"
    if metric.quantile is not None and not kind.has_level:
        yield "quantile", f"a {metric.kind} has none; leave it out, or write kind: quantile"
    if metric.ripe and metric.window is None and "window" not in kind.required:
        yield "window", "is missing; 'ripe: true' counts a customer once the window is over"


def _check_steps(metric: MetricSpec) -> Iterator[FieldProblem]:
    """Yield a missing event, and keys that only funnels, or only other kinds, may have."""
    if not METRIC_KINDS[metric.kind].has_steps:
        if metric.event is None and metric.source is None:
            yield "event", "is missing; name the event that counts, as in 'event: purchase'"
        for key, is_given in (("steps", metric.steps is not None), ("within", metric.within is not None)):
            if is_given:
                yield key, "belongs to a funnel; leave it out, or write kind: funnel"
        return
    given = {"event": metric.event, "value": metric.value, "filter": metric.filter}
    for key, other in given.items():
        if other:
            remedy = "write '{event: …, filter: …}' as a step" if key == "filter" else "a funnel's events are its steps"
            yield key, f"a {metric.kind} has none; {remedy}"


def kpi_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems of the KPI tree."""
    nodes = specs.metrics.kpis
    for path, message in _check_tree(nodes, known):
        yield Problem(f"{specs.folder}/metrics.yaml", path, message)


def _check_tree(nodes: list[KpiSpec], known: DefinedNames) -> Iterator[FieldProblem]:
    keys = [node.metric for node in nodes]
    tiers = {node.metric: KPI_TIERS.index(node.tier) for node in nodes}
    for index, node in enumerate(nodes):
        yield from check_defined(f"kpis[{index}].metric", node.metric, known.metrics, "metrics.yaml")
        if node.metric in keys[:index]:
            yield f"kpis[{index}].metric", f"{node.metric!r} is a node already; give each metric one node"
        for at, driven in enumerate(node.drives):
            path = f"kpis[{index}].drives[{at}]"
            yield from check_defined(path, driven, keys, "the nodes of kpis")
            if driven in tiers and tiers[driven] < tiers[node.metric]:
                yield path, f"{driven!r} is of an earlier tier than {node.metric!r}; reverse the edge"
        for name in node.assumed:
            if name not in node.drives:
                yield f"kpis[{index}].assumed.{name}", f"{name!r} is not driven by it; add it to drives"
    cycle = find_cycle({node.metric: [one for one in node.drives if one in tiers] for node in nodes})
    if cycle:
        yield "kpis", f"{' -> '.join(cycle)} is a cycle; remove one of its edges"
