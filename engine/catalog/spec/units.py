"""The YAML of units: what an experiment assigns variants to, beside customers, devices and stores."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from engine.catalog.spec.fields import Key, PropertyName, Span, Spec, Text

BUILT_IN = ("customer", "device", "store")
"""The units that need no definition; a store is what the request names as `store`."""
STORE_TRAIT = "store"
Unit = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9_-]{1,64}$",
        description="`customer`, `device`, `store`, or a unit of `units.yaml`",
        extra={"remedy": "name customer, device, store, or a unit of units.yaml"},
    ),
]
"""The kind of unit to which an experiment assigns its variants."""


class UnitSpec(Spec, frozen=True, kw_only=True):
    """A unit that customers share, such as the company that they work for: everyone in it has one variant.

    `trait` has its id: a text or a whole number, in the customer's profile or in the request. A customer without the
    trait, or with a placeholder in it, gets no variant, with the reason `unit`.
    """

    trait: PropertyName
    title: Text | None = None


class SwitchbackSpec(Spec, frozen=True, kw_only=True):
    """An experiment whose variant changes by time: each `by`, a store, has one variant `every` so long.

    The unit of the report is a store in a period. What is decided in the first `washout` of a period does not count, as
    customers may still be under the variant of the period before.
    """

    every: Span
    by: Unit = STORE_TRAIT
    washout: Span | None = None


UnitsByKey = dict[Key, UnitSpec]
"""The content of `units.yaml`."""


class UnitsFile(Spec, frozen=True, kw_only=True):
    """`units.yaml`: a line per unit, `company: {trait: company.id}`."""

    units: UnitsByKey = {}

    def trait_of(self, unit: Unit) -> str | None:
        """The trait with a unit's id; None for customers and devices, whose ids are no traits."""
        return STORE_TRAIT if unit == STORE_TRAIT else self.traits.get(unit)

    @property
    def traits(self) -> Mapping[Unit, str]:
        """The trait of each unit of the file."""
        return {key: spec.trait for key, spec in self.units.items()}
