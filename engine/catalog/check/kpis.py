"""Checks the KPI tree: its metrics are defined, it has no cycle, and no edge leads back to an earlier tier."""

from collections.abc import Iterator

from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.metrics import KPI_TIERS, KpiSpec
from engine.catalog.spec.segments import find_cycle
from engine.errors import Problem


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
