"""Sticky bucketing: a unit keeps its variant when weights, coverage or audience change.

A profile stores its sticky entries as a map from a name to the key of a variant:

| name | bound to |
|---|---|
| `experiment__version` | the customer; as GrowthBook names it |
| `experiment__version@unit` | a device or store: a customer can have several devices |

`version` is the experiment's bucket version. An entry of a version below `min_bucket_version` blocks the unit: it saw
the experiment in a version whose results must not mix with the running one.
"""

from collections.abc import Mapping
from typing import Literal

from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.units import Unit

Units = Mapping[Unit, str | None]


def sticky_variant(spec: ExperimentSpec, units: Units, entries: Mapping[str, str]) -> int | Literal["blocked"] | None:
    """The index of the variant that a customer's sticky entries bind these units to.

    An entry of the experiment's unit takes precedence over one of its fallback unit.

    Returns:
        The index; None where nothing binds them; `blocked` where either unit has an entry of a blocked version.
    """
    if not entries:
        return None
    owners = _owners(spec, units)
    for version in range(spec.min_bucket_version):
        if any(_entry_name(spec, version, *owner) in entries for owner in owners):
            return "blocked"
    for owner in owners:
        key = entries.get(_entry_name(spec, spec.bucket_version, *owner))
        if key is not None:
            return next((index for index, variant in enumerate(spec.variants) if variant.key == key), None)
    return None


def new_sticky_entry(spec: ExperimentSpec, units: Units, entries: Mapping[str, str], variant: str) -> Mapping[str, str]:
    """The entry that binds these units to `variant`; empty if `entries` already has it."""
    name = _entry_name(spec, spec.bucket_version, *_owners(spec, units)[0])
    return {} if entries.get(name) == variant else {name: variant}


def experiment_key(name: str) -> str:
    """The experiment's key in an entry's name."""
    return name.partition("@")[0].rpartition("__")[0]


def _owners(spec: ExperimentSpec, units: Units) -> list[tuple[Unit, str]]:
    """The units to which a variant can be bound, the experiment's own first, limited to those in the request."""
    kinds = (spec.unit,) if spec.fallback_unit is None else (spec.unit, spec.fallback_unit)
    return [(kind, unit) for kind in kinds if (unit := units[kind])]


def _entry_name(spec: ExperimentSpec, version: int, kind: Unit, unit: str) -> str:
    """The name of a sticky entry, as in the module's table."""
    name = f"{spec.key}__{version}"
    return name if kind == "customer" else f"{name}@{unit}"
