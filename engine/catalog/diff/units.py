"""Classifies changes of `units.yaml`: a unit with another trait hashes another id."""

from collections.abc import Iterator

from engine.catalog.diff.offers import Change
from engine.catalog.spec.folder import Specs


def compare_units(old: Specs, new: Specs) -> Iterator[Change]:
    """Yield the changes of units, by key; a used unit's customers are assigned again."""
    before, after = old.units.traits, new.units.traits
    for key in sorted({*before, *after}):
        one, two = before.get(key), after.get(key)
        if one == two:
            continue
        is_used = one is not None and key in _used_units(old)
        reason = "another id is hashed, so every unit is assigned again" if is_used else "nothing was assigned by it"
        yield Change(key=key, path="units", verdict="unsafe" if is_used else "safe", reason=reason, old=one, new=two)


def _used_units(specs: Specs) -> set[str | None]:
    """The units by which running experiments, their filters and holdouts hash."""
    used: set[str | None] = {holdout.unit for holdout in specs.layers.holdouts}
    for _, _, spec in specs.all_experiments():
        if spec.status in {"running", "paused"}:
            used |= {spec.unit, spec.fallback_unit, *(each.unit for each in spec.filters)}
    return used
