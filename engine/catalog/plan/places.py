"""The shop's places, and which of them hands an item over to a customer, by great-circle distance.

Distances are those of the haversine formula on a sphere of the Earth's mean radius (6,371.0088 km, IUGG 2015), within
0.6 % of those on the ellipsoid.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from engine.catalog.spec.limits.stock import HandOver, PlaceSpec, StockSpec
from policies.batches import Floats

EARTH_KM = 6_371.0088
WITHIN_KM = 25.0
"""The distance that a customer travels to collect an item, unless the offer states one."""
PLACE_NAMES = ("place", "latitude", "longitude")
"""The attributes that say where a request is."""


class NearPlace(NamedTuple):
    """A place and its distance in kilometres from the request; None if the request has no position."""

    place: PlaceSpec
    km: float | None


@dataclass(frozen=True, slots=True)
class HandOverRule:
    """The places that hand an item over: by which way, within which distance, from which list; None is no limit."""

    by: HandOver
    within: float | None
    places: frozenset[str] | None

    @property
    def name(self) -> str:
        """The name of this rule in an offer index."""
        return f"{self.by} {self.within} {sorted(self.places) if self.places is not None else ''}"

    def may_hand_over(self, place: PlaceSpec) -> bool:
        """Whether a place hands the item over to any customer."""
        is_able = place.collects if self.by == "pick_up" else place.ships
        return is_able and (self.places is None or place.key in self.places)

    def why_not(self, near: NearPlace) -> str | None:
        """The reason why a place does not hand the item over; None if it does."""
        place, km = near
        if self.places is not None and place.key not in self.places:
            return "not one of the offer's places"
        if not self.may_hand_over(place):
            return "nothing is collected there" if self.by == "pick_up" else "it does not ship"
        if self.within is not None and km is None:
            return "where the customer is, is not known"
        return "too far away" if self.within is not None and km is not None and km > self.within else None


@dataclass(frozen=True, slots=True)
class Vicinity:
    """All places, the nearest first."""

    places: tuple[NearPlace, ...]
    _reached: dict[HandOverRule, tuple[NearPlace, ...]] = field(default_factory=dict)

    def reached(self, rule: HandOverRule) -> tuple[NearPlace, ...]:
        """The places that hand an item over by this rule, the nearest first."""
        found = self._reached.get(rule)
        if found is None:
            found = self._reached[rule] = tuple(near for near in self.places if rule.why_not(near) is None)
        return found


NOWHERE = Vicinity(())


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """The places of a shop in file order; `latitudes` and `longitudes` are float64 (places,), in radians."""

    by_key: Mapping[str, PlaceSpec]
    latitudes: Floats
    longitudes: Floats

    def around(self, attributes: Mapping[str, object]) -> Vicinity:
        """The places by distance from the request; in file order if the request has no position."""
        position = self._position(attributes)
        places = self.by_key.values()
        if position is None:
            return Vicinity(tuple(NearPlace(place, None) for place in places))
        km = great_circle_km(*position, self.latitudes, self.longitudes).tolist()
        return Vicinity(
            tuple(NearPlace(place, away) for away, place in sorted(zip(km, places, strict=True), key=_away))
        )

    def has_position(self, attributes: Mapping[str, object]) -> bool:
        """Whether the attributes contain a position."""
        return self._position(attributes) is not None

    def _position(self, attributes: Mapping[str, object]) -> tuple[float, float] | None:
        """A request's latitude and longitude in degrees: those of the place that it names, or its own."""
        named = attributes.get("place")
        place = self.by_key.get(named) if isinstance(named, str) else None
        if place is not None:
            return place.latitude, place.longitude
        latitude, longitude = _degrees(attributes.get("latitude"), 90), _degrees(attributes.get("longitude"), 180)
        return None if latitude is None or longitude is None else (latitude, longitude)


def compile_places(places: Iterable[PlaceSpec]) -> Places | None:
    """The places of a shop; None if it has no places."""
    by_key = {place.key: place for place in places}
    if not by_key:
        return None
    latitudes = np.radians([place.latitude for place in by_key.values()])
    longitudes = np.radians([place.longitude for place in by_key.values()])
    return Places(by_key, latitudes, longitudes)


def hand_over_rule(stock: StockSpec) -> HandOverRule | None:
    """The rule of a stock by place; None for a stock of the whole shop."""
    if stock.by is None:
        return None
    usual = WITHIN_KM if stock.by == "pick_up" else None
    within = usual if stock.within is None else stock.within
    return HandOverRule(stock.by, within, None if stock.places is None else frozenset(stock.places))


def shelf_name(place: str, sku: str) -> str:
    """The name of a place's stock of a SKU."""
    return f"{place}/{sku}"


def great_circle_km(latitude: float, longitude: float, latitudes: Floats, longitudes: Floats) -> Floats:
    """Kilometres from a point in degrees to points in radians, float64 (points,); the haversine formula."""
    phi, theta = math.radians(latitude), math.radians(longitude)
    chord = np.sin((latitudes - phi) / 2) ** 2
    chord += math.cos(phi) * np.cos(latitudes) * np.sin((longitudes - theta) / 2) ** 2
    km: Floats = 2 * EARTH_KM * np.arcsin(np.sqrt(np.minimum(chord, 1.0)))
    return km


def _away(placed: tuple[float, PlaceSpec]) -> float:
    return placed[0]


def _degrees(value: object, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= most else None
