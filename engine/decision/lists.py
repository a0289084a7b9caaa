"""Lists: the offers of a placement that shows several at once, drawn one after another without replacement.

Each position is chosen as a single offer is (`choose_offer`), with the offers above it closed: the policy is asked for
its probabilities over those that are left, so the floor holds at every position. A moment's offer has the first
position. The logged propensity of a position is the probability of its offer given those above it, and the product over
the positions is the probability of the list.

An offer counts against its caps within the list as if it had been shown before those below it: a list never has more
offers of a tag than the tag's cap allows.

A placement with `silence` is held out in that share of the decisions that would show an offer. Whether one is, is drawn
by a hash of its id and the placement, apart from the draw of the offer. So the probability of silence is exactly the
share, and that of an offer its own times the rest. A fallback, a preview and an open breaker are never held out.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from engine.decision.gates import Facts
from engine.decision.offers import FALLBACK_REASONS, Choice, OfferQuery, choose_offer
from engine.hashing import uniform_draw
from engine.vocabulary import SILENCE

HELD_OUT_REASONS = ("policy", "moment")
"""The reasons of choices that may be held out."""


def choose_shown(query: OfferQuery) -> Choice:
    """Choose the offer of a placement, or its list, or silence where the placement holds out."""
    return hold_out(query, choose_offer(query) if query.selection.count == 1 else choose_list(query))


def choose_list(query: OfferQuery) -> Choice:
    """Choose the offers of a list; the fallback alone where none may be shown, or not as many as it must have."""
    count = query.selection.count
    items = [choose_offer(replace(query, position=1))]
    while len(items) < count and items[-1].reason not in FALLBACK_REASONS:
        items.append(choose_offer(_query_below(query, items)))
    head, *below = items
    if below and below[-1].reason in FALLBACK_REASONS:
        del below[-1]
    if head.reason not in FALLBACK_REASONS and query.selection.is_whole and len(below) + 1 < count:
        return Choice(
            offer=query.selection.fallback,
            reason="fallback",
            propensity=1.0,
            context=head.context,
            closed=head.closed,
            failures=head.failures,
            position=1,
        )
    placed = (replace(item, position=place, failures=()) for place, item in enumerate(below, 2))
    return replace(head, position=1, below=tuple(placed))


def _query_below(query: OfferQuery, items: Sequence[Choice]) -> OfferQuery:
    """The query for the next position, with the offers above it closed and counted."""
    return replace(
        query,
        moments=(),
        position=len(items) + 1,
        shown=[*query.shown, *(item.offer.key for item in items)],
        facts=_count_exposures(query.facts, items),
    )


def _count_exposures(facts: Facts, items: Sequence[Choice]) -> Facts:
    """The facts with the offers of a list counted as shown now."""
    added = [name for item in items for name in item.offer.limits.exposed.get(facts.channel, ())]
    if not added:
        return facts
    counts = dict(facts.counts)
    for name in added:
        counts[name] = [*counts.get(name, ()), facts.now]
    return replace(facts, counts=counts)


def hold_out(query: OfferQuery, choice: Choice) -> Choice:
    """The choice with its probability beside silence, or silence in its place."""
    share = query.selection.silence
    if not share or choice.reason not in HELD_OUT_REASONS:
        return choice
    candidates = [*choice.candidates, SILENCE]
    probabilities = [*(p * (1.0 - share) for p in choice.probabilities), share]
    is_silent = uniform_draw(query.decision_id, f"{query.selection.placement}#{SILENCE}") < share
    return replace(
        choice,
        reason="silence" if is_silent else choice.reason,
        propensity=share if is_silent else choice.propensity * (1.0 - share),
        candidates=candidates,
        probabilities=probabilities,
        moment=None if is_silent else choice.moment,
        below=() if is_silent else choice.below,
    )
