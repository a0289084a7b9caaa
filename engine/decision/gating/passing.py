"""Asks the gates about the offers of a placement or moment.

A rule that raises an error is an error of the engine, and closes only the offers for which it does: they are asked one
by one then, and each failure is returned with what passes.
"""

from collections.abc import Collection, Sequence
from itertools import product
from typing import NamedTuple

from engine.catalog.plan.indexing.bits import Bits, set_places
from engine.decision.gating.facts import Facts
from engine.decision.gating.gates import GATES, ClosedOffers, Gate, OfferCollection


class GateFailure(NamedTuple):
    """An error that a gate raised for one offer, or a moment's own condition for the moment."""

    gate: Gate
    candidate: str
    error: Exception


class Passing(NamedTuple):
    """The offers that may be shown, as bits of their index, and the gates that failed on other offers."""

    bits: Bits
    failures: Sequence[GateFailure] = ()


def passing_offers(collection: OfferCollection, facts: Facts, shown: Collection[str] = ()) -> Passing:
    """The offers that no gate closes."""
    passing = collection.index.everything
    failures: list[GateFailure] = []
    for gate, closes in _CLOSING[bool(facts.counts), facts.is_silenced, bool(facts.pools), bool(shown)]:
        try:
            # `a ^ (a & b)` is `a & ~b` without the complement, which costs several times as much of 100,000 offers.
            if closed := closes(collection, facts, shown, passing):
                passing ^= passing & closed
        except Exception:  # noqa: BLE001 (it closes the offers that raise it; the caller reports it)
            closed, failed = _close_one_by_one(gate, collection, facts, shown, passing)
            passing &= ~closed
            failures += failed
    return Passing(passing, failures)


def closing_gates(collection: OfferCollection, facts: Facts, shown: Collection[str] = ()) -> dict[str, Gate]:
    """The gate that closed each offer, by the offer's key; for a trace, beside `passing_offers`."""
    index = collection.index
    passing = index.everything
    closed: dict[str, Gate] = {}
    for gate, closes in _CLOSING[bool(facts.counts), facts.is_silenced, bool(facts.pools), bool(shown)]:
        try:
            closing = closes(collection, facts, shown, passing) & passing
            failed: list[GateFailure] = []
        except Exception:  # noqa: BLE001 (`passing_offers` returned it)
            closing, failed = _close_one_by_one(gate, collection, facts, shown, passing)
        closed.update({index.keys[place]: gate for place in set_places(closing)})
        closed.update({failure.candidate: "failed" for failure in failed})
        passing &= ~closing
    return closed


def _asked_gates(*, counts: bool, silenced: bool, pools: bool, shown: bool) -> tuple[tuple[Gate, ClosedOffers], ...]:
    """The gates that may close an offer where the facts have these."""
    facts = {"counts": counts, "silenced": silenced, "pools": pools, "shown": shown}
    given = {None, *(name for name, has in facts.items() if has)}
    return tuple((gate, rule.closes) for gate, rule in GATES.items() if rule.closes and rule.given in given)


_CLOSING = {
    has: _asked_gates(counts=has[0], silenced=has[1], pools=has[2], shown=has[3])
    for has in product((False, True), repeat=4)
}
"""The gates to ask by whether there are counts, a silence, low pools, and offers that are shown elsewhere."""


def _close_one_by_one(
    gate: Gate, collection: OfferCollection, facts: Facts, shown: Collection[str], passing: Bits
) -> tuple[Bits, list[GateFailure]]:
    """The offers that a gate closes when it fails on some: it is run per offer, and a failure closes the offer."""
    closes = GATES[gate].closes
    closed, failures = 0, []
    for place in set_places(passing):
        bit = 1 << place
        try:
            closed |= closes(collection, facts, shown, bit) & bit if closes is not None else 0
        except Exception as error:  # noqa: BLE001 (it closes this offer; the caller reports it)
            closed |= bit
            failures.append(GateFailure(gate, collection.index.keys[place], error))
    return closed, failures
