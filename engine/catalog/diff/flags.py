"""Classifies changes of a flag's rules; a rule takes customers away from all later rules.

Nobody is removed from a rule, or moved to another, by a change that is `safe`. Those with the default may be admitted.
"""

from collections.abc import Callable, Iterator

from engine.catalog.diff.offers import FieldChange, Safety
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.flags import rule_experiments, rule_names, value_of

Comparison = Callable[[ExperimentSpec, ExperimentSpec], Iterator[FieldChange]]

ADMITS_NOBODY = frozenset(("title", "hypothesis", "owner", "metrics", "analysis", "channels", "tags"))
"""The keys of a rule whose safe changes leave its customers as they are."""


def compare_flags(before: ExperimentSpec, after: ExperimentSpec, compare_rule: Comparison) -> Iterator[FieldChange]:
    """Yield the changes of rules, values and default of a flag that had or has rules.

    Args:
        before: the flag that runs.
        after: the flag that would replace it.
        compare_rule: yields the changes of one rule, given its experiment before and after.
    """
    yield from _compare_values(before, after)
    if before.default != after.default:
        yield "default", "unsafe", "customers that no rule matches get another value"
    if bool(before.rules) != bool(after.rules):
        yield "rules", "unsafe", "rules decide in place of the flag's own variants, or the other way round"
        return
    was = dict(zip(rule_names(before.rules), rule_experiments(before), strict=True))
    now = dict(zip(rule_names(after.rules), rule_experiments(after), strict=True))
    for name in was.keys() - now.keys():
        yield f"rules.{name}", "unsafe", "its customers get what a later rule or the default gives"
    stays = [name for name in now if name in was]
    if stays != [name for name in was if name in now]:
        yield "rules", "unsafe", "rules change places, so that another rule decides for some customers"
    for place, name in enumerate(now):
        precedes = any(other in was for other in list(now)[place + 1 :])
        if name not in was:
            yield f"rules.{name}", *_added(precedes=precedes)
        else:
            for path, verdict, reason in compare_rule(was[name], now[name]):
                if verdict == "safe" and precedes and path not in ADMITS_NOBODY:
                    yield f"rules.{name}.{path}", "unsafe", f"{reason}, and later rules decide some of these today"
                else:
                    yield f"rules.{name}.{path}", verdict, reason


def _added(*, precedes: bool) -> tuple[Safety, str]:
    """The class of an added rule."""
    if precedes:
        return "unsafe", "it takes customers from the rules after it"
    return "safe", "it decides for customers who had the default"


def _compare_values(before: ExperimentSpec, after: ExperimentSpec) -> Iterator[FieldChange]:
    """Yield variants with a changed value, and a change of type."""
    if before.type != after.type:
        yield "type", "unsafe", "storefronts read the value as another type"
    values = {variant.key: value_of(variant, after.type) for variant in after.variants}
    for variant in before.variants:
        if variant.key in values and values[variant.key] != value_of(variant, before.type):
            reason = "customers keep the variant but get another value, so a report mixes two treatments"
            yield f"variants.{variant.key}", "unsafe", reason
