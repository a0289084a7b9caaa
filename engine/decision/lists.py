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

An offer that has several creatives on the channel is shown by one of them. The choice is hierarchical: limits, prices
and silence are the offer's, which is drawn first; then a creative is, from the probabilities of the selection of
creatives over those that the channel has. Its number is a hash of the decision's id and the place, apart from that of
the offer: the probability of an offer with its creative is exactly the product of the two, and a replay draws the same.
What is held out, a fallback and a preview draw none; of such an offer the first creative is shown. A moment's offer
that is no arm of the placement has no policy, and its creatives are drawn evenly.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from engine.catalog.plan.creatives import DrawnCreative
from engine.catalog.plan.plan import Selection
from engine.decision.gating.facts import Facts
from engine.decision.offers import FALLBACK_REASONS, Choice, OfferQuery, choose_offer, current_model, draw
from engine.hashing import uniform_draw
from engine.vocabulary import SILENCE, item_name

DRAWN_REASONS = ("policy", "moment")
"""The reasons of choices that may be held out, and of offers whose creative is drawn."""


def choose_shown(query: OfferQuery) -> Choice:
    """Chooses a placement's offer or list, or silence by the selection's share of it; then the creatives, if any."""
    choice = hold_out(query, choose_offer(query) if query.selection.count == 1 else choose_list(query))
    return choice if query.selection.creatives is None and not choice.offer.creatives else draw_creatives(query, choice)


def choose_list(query: OfferQuery) -> Choice:
    """Chooses the offers of a list; only the fallback if fewer offers than the minimum may be shown."""
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
    """The query for the next position, in which the offers above it are closed and counted."""
    return replace(
        query,
        moments=(),
        position=len(items) + 1,
        shown=[*query.shown, *(item.offer.key for item in items)],
        facts=_count_exposures(query.facts, items),
    )


def _count_exposures(facts: Facts, items: Sequence[Choice]) -> Facts:
    """The facts in which the list's offers count as shown now."""
    added = [name for item in items for name in item.offer.limits.exposed.get(facts.channel, ())]
    if not added:
        return facts
    counts = dict(facts.counts)
    for name in added:
        counts[name] = [*counts.get(name, ()), facts.now]
    return replace(facts, counts=counts)


def hold_out(query: OfferQuery, choice: Choice) -> Choice:
    """The choice with its probability against silence, or silence in its place."""
    share = query.selection.silence
    if not share or choice.reason not in DRAWN_REASONS:
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


def draw_creatives(query: OfferQuery, choice: Choice) -> Choice:
    """The choice with a creative for its offer, or for each offer of a list, if the channel has creatives."""
    drawn = _draw_creative(query, choice)
    if not drawn.below:
        return drawn
    return replace(drawn, below=tuple(_draw_creative(query, item) for item in drawn.below))


def _draw_creative(query: OfferQuery, choice: Choice) -> Choice:
    channel = query.facts.channel
    creatives = choice.offer.creatives.get(channel)
    if creatives is None or choice.reason not in DRAWN_REASONS:
        return choice
    keys = [one.key for one in creatives]
    probabilities, policy = [1 / len(keys)] * len(keys), None
    selection = query.selection.creatives
    if selection is not None and (choice.offer.key, channel) in selection.places:
        probabilities, policy = _weigh_creatives(query, selection, choice.offer.key)
    name = f"{item_name(query.selection.placement, choice.position)}#creative"
    at = draw(probabilities, uniform_draw(query.decision_id, name))
    creative = DrawnCreative(
        key=keys[at], propensity=probabilities[at], candidates=keys, probabilities=probabilities, policy=policy
    )
    return replace(choice, creative=creative)


def _weigh_creatives(query: OfferQuery, selection: Selection, offer: str) -> tuple[list[float], str]:
    """The probabilities of an offer's creatives on the channel, in their order, and the policy with its version."""
    model = current_model(selection, query.creative_snapshot, query.facts)
    places = selection.places[offer, query.facts.channel]
    probabilities: list[float] = model.policy.probabilities(model.x, candidates=places).tolist()
    return probabilities, f"{selection.key}@{model.version}"
