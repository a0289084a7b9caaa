"""Sticky bucketing: a variant once had is kept with the customer, whatever becomes of weights, coverage or audience.

It is kept under `experiment__version`, as GrowthBook names it; for a device its id stands behind, as one customer may
have several of them.
"""

from collections.abc import Mapping
from typing import Literal

from engine.catalog.spec.experiment import ExperimentSpec, Unit

Units = Mapping[Unit, str | None]


def sticky_variant(spec: ExperimentSpec, units: Units, held: Mapping[str, str]) -> int | Literal["blocked"] | None:
    """The index of the variant that `held` binds these units to, None for none.

    What is held for the unit goes before what is held for its fallback. `blocked`: either was in the experiment in a
    bucket version below `min_bucket_version`, and so is not in it any more.
    """
    if not held:
        return None
    owners = _owners(spec, units)
    for version in range(spec.min_bucket_version):
        if any(_name(spec, version, *owner) in held for owner in owners):
            return "blocked"
    for owner in owners:
        key = held.get(_name(spec, spec.bucket_version, *owner))
        if key is not None:
            return next((index for index, variant in enumerate(spec.variants) if variant.key == key), None)
    return None


def new_sticky_entry(spec: ExperimentSpec, units: Units, held: Mapping[str, str], variant: str) -> Mapping[str, str]:
    """What `held` does not say yet of units that have this variant, by its name; empty where it says so."""
    name = _name(spec, spec.bucket_version, *_owners(spec, units)[0])
    return {} if held.get(name) == variant else {name: variant}


def experiment_key(name: str) -> str:
    """The key of the experiment that something is held for."""
    return name.partition("@")[0].rpartition("__")[0]


def _owners(spec: ExperimentSpec, units: Units) -> list[tuple[Unit, str]]:
    kinds = (spec.unit,) if spec.fallback_unit is None else (spec.unit, spec.fallback_unit)
    return [(kind, unit) for kind in kinds if (unit := units[kind])]


def _name(spec: ExperimentSpec, version: int, kind: Unit, unit: str) -> str:
    name = f"{spec.key}__{version}"
    return name if kind == "customer" else f"{name}@{unit}"
