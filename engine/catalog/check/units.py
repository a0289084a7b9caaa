"""Checks units: every used name is defined, and `units.yaml` redefines no built-in unit."""

from collections.abc import Iterator

from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.spec.experiment import ExperimentSpec, HoldoutSpec
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.units import BUILT_IN, SwitchbackSpec
from engine.errors import Problem
from engine.vocabulary import RESERVED_CONTEXT


def unit_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems of `units.yaml`, and undefined units named anywhere."""
    file = f"{specs.folder}/units.yaml"
    for key, unit in specs.units.units.items():
        if key in BUILT_IN:
            yield Problem(file, key, f"{key!r} is a unit already; give yours another name")
        if unit.trait in RESERVED_CONTEXT:
            message = f"{unit.trait!r} is set by the engine in every decision; name a trait of the customer"
            yield Problem(file, f"{key}.trait", message)
    for file, prefix, spec in specs.all_experiments():
        for path, message in _check_experiment(spec, known):
            yield Problem(file, prefix + path, message)
    for index, holdout in enumerate(specs.layers.holdouts):
        for path, message in check_defined(f"holdouts[{index}].unit", holdout.unit, known.units, "units.yaml"):
            yield Problem(f"{specs.folder}/layers.yaml", path, message)
        for path, message in _check_frozen(specs, holdout):
            yield Problem(f"{specs.folder}/layers.yaml", f"holdouts[{index}].{path}", message)


def _check_frozen(specs: Specs, holdout: HoldoutSpec) -> Iterator[FieldProblem]:
    """Yield keys that a holdout that keeps a plan may not have."""
    if holdout.keeps is None:
        return
    if holdout.tags:
        yield "tags", "has no meaning beside 'keeps': the kept plan decides everything for its units; remove it"
    if holdout.keeps not in specs.kept:
        yield "keeps", f"plan {holdout.keeps!r} could not be read from the archive; name a plan that ran"
    for spec in specs.experiments.values():
        if spec.key == holdout.key:
            yield "key", f"{holdout.key!r} is an experiment too, and the log has rows of both; rename the holdout"
        if holdout.key in spec.holdouts:
            yield "keeps", f"covers {spec.key!r} already, which names it under 'holdouts'; remove it there"


def _check_experiment(spec: ExperimentSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield undefined units of one experiment."""
    yield from check_defined("unit", spec.unit, known.units, "units.yaml")
    if spec.switchback is not None:
        yield from _check_switchback(spec, spec.switchback, known)
    if spec.fallback_unit is not None:
        yield from check_defined("fallback_unit", spec.fallback_unit, known.units, "units.yaml")
    for index, each in enumerate(spec.filters):
        if each.unit is not None:
            yield from check_defined(f"filters[{index}].unit", each.unit, known.units, "units.yaml")


def _check_switchback(spec: ExperimentSpec, design: SwitchbackSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield units that a switchback cannot use, and keys without meaning in one."""
    yield from check_defined("switchback.by", design.by, known.units, "units.yaml")
    if design.by in {"customer", "device"}:
        yield "switchback.by", f"{design.by!r} would see the variants change; name store, or a unit of units.yaml"
    elif spec.unit != design.by:
        yield "unit", f"{spec.unit!r} is not the unit that switches, {design.by!r}; leave it out"
    if design.washout is not None and seconds(design.washout) >= seconds(design.every):
        yield "switchback.washout", f"{design.washout} leaves nothing of {design.every}; give a shorter one"
    for name in ("sticky", "fallback_unit", "rules"):
        if getattr(spec, name):
            yield name, "has no meaning beside a switchback, whose variants change by time; remove it"
    if any(variant.range is not None for variant in spec.variants):
        yield "variants", "a switchback draws the variants of a period by their weights; give weights, no ranges"
