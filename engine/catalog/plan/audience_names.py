"""Finds the names that decide a customer's treatment: those that the plan's conditions, dates and caps read."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from engine.catalog.conditions.compile import condition_fields
from engine.catalog.plan.compile_offers import silencing_condition
from engine.catalog.plan.languages import LANGUAGE_TRAITS
from engine.catalog.plan.plan import Experiment, Selection
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import expand_segments

_CONDITIONS = frozenset(("audience", "condition", "when"))


def audience_names(specs: Specs) -> frozenset[str]:
    """The traits that audiences, segments, moments and campaigns read, and those that name units.

    `timezone` is one where a cap or a campaign goes by the customer's clock.
    """
    parts = (specs.experiments, specs.selections, specs.offers, specs.segments, specs.moments, specs.campaigns)
    read = (name for part in parts for spec in part.values() for name in _read(msgspec.to_builtins(spec)))
    silencing = condition_fields(expand_segments(silencing_condition(specs), specs.segments))
    return frozenset((*read, *silencing, *specs.units.traits.values()))


def read_names(
    names: Iterable[str], selections: Iterable[Selection], experiments: Iterable[Experiment]
) -> frozenset[str]:
    """The first parts (`loyalty` of `loyalty.tier`) of all traits that a decision may read.

    Those are `names`, from `audience_names`, the features of policies, the traits that experiments log, and the
    customer's time zone and language.
    """
    # Those of creatives are among the logged ones.
    featurizers = [part for one in selections for part in (one.features, one.logged_features)]
    tested = [part for one in experiments for part in (one, *(rule.experiment for rule in one.rules))]
    featurizers += [one.logged_traits for one in tested if one.logged_traits is not None]
    features = (name for part in featurizers for name in part.traits)
    return frozenset(name.partition(".")[0] for name in (*names, *features, "timezone", *LANGUAGE_TRAITS))


def experiment_names(specs: Specs, key: str) -> frozenset[str]:
    """The traits, as dotted paths, that decide who gets a variant of an experiment or a flag.

    They are those of its conditions and units, of the experiments that it needs, and the units of its holdouts.
    """
    found: set[str] = set()
    asked, left = set[str](), [key]
    while left:
        spec = specs.experiments.get(left.pop())
        if spec is None or spec.key in asked:
            continue
        asked.add(spec.key)
        units = {one.unit for one in specs.layers.holdouts if one.covers(spec) or one.keeps is not None}
        for node in _mappings(msgspec.to_builtins(spec)):
            units |= {node["unit"]} if isinstance(node.get("unit"), str) else set()
            left += [node["experiment"]] if isinstance(node.get("experiment"), str) else []
            for name in _CONDITIONS & node.keys():
                if isinstance(node[name], Mapping):
                    found |= condition_fields(expand_segments(node[name], specs.segments))
        found |= {specs.units.traits[unit] for unit in units if unit in specs.units.traits}
    return frozenset(found)


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the mappings in a specification, at any depth, except payloads and values, which the shop defines."""
    if isinstance(value, Mapping):
        yield value
        for key, part in value.items():
            if key not in {"payload", "value"}:
                yield from _mappings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _mappings(part)


def _read(value: object) -> Iterator[str]:
    """The names that a specification reads, at any depth."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key in _CONDITIONS and isinstance(part, Mapping):
                yield from condition_fields(part)
            elif key == "trigger" and isinstance(part, Mapping) and isinstance(part.get("date"), str):
                yield part["date"]
            elif (key, part) == ("zone", "customer"):
                yield "timezone"
            if key != "payload":
                yield from _read(part)
    elif isinstance(value, list):
        for part in value:
            yield from _read(part)
