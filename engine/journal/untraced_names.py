"""Finds traits that the log's traces lack: a plan that reads them decides as if those customers had none.

A trace has the traits that its plan read, and of the others those that are short, of customers with few. What no trace
has may be long, a list, computed by `traits.yaml` since, or sent by nobody yet: of such a trait the log says nothing.
"""

from collections.abc import Iterable, Mapping

from engine.catalog.plan.plan import Plan
from engine.decision.attributes import overlay_context
from engine.journal.traces import Trace
from engine.traits.attributes import derive_attributes
from engine.traits.stages import STAGE_RULES
from engine.vocabulary import RESERVED_CONTEXT

_KEPT = RESERVED_CONTEXT | {"frequency", "monetary", "channels", "complaint_open", "stage", "recency_days", "visits"}
"""Names that a decision has of every trace, or whose absence means something."""
_KEPT_WHOLE = frozenset(("orders", "consent", "satisfaction"))
_KEPT_PARTS = frozenset(("loyalty.points", "loyalty.tier"))


def find_untraced(names: Iterable[str], traces: Iterable[Trace]) -> list[str]:
    """The names (dotted paths) that no trace has, sorted."""
    missing = {name for name in names if not _is_always_traced(name)}
    for trace in traces if missing else ():
        missing -= traced_among(missing, trace)
        if not missing:
            break
    return sorted(missing)


def traced_among(names: Iterable[str], trace: Trace) -> set[str]:
    """The names (dotted paths) that a trace's profile or request has."""
    attributes = derive_attributes(trace.profile, trace.now)
    overlay_context(attributes, trace.request.context)
    return {name for name in names if _is_always_traced(name) or _has(attributes, name)}


def redefined_traits(before: Plan, after: Plan) -> frozenset[str]:
    """The traits that `traits.yaml` computes differently, and the stage if the shop's rules for it change.

    The traces of the plan before have their old values.
    """
    old, new = (plan.rules.computed for plan in (before, after))
    known = {rule.name: (rule.digest, rule.series) for rule in old.rules}
    changed = {rule.name for rule in new.rules if rule.name and known.get(rule.name) != (rule.digest, rule.series)}
    if old.stages not in (STAGE_RULES, new.stages):
        changed.add("stage")
    return frozenset(changed)


def _is_always_traced(name: str) -> bool:
    return name.startswith("$") or name in _KEPT | _KEPT_PARTS or name.partition(".")[0] in _KEPT_WHOLE


def _has(attributes: Mapping[str, object], name: str) -> bool:
    """Whether the path leads to a value; a path into a list does."""
    if name in attributes:
        return True
    tree: object = attributes
    for step in name.split("."):
        if not isinstance(tree, Mapping):
            return isinstance(tree, list)
        if step not in tree:
            return False
        tree = tree[step]
    return True
