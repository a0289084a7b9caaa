"""Limits on the events of publishable keys: they may not state what a customer is worth.

Whoever visits a page has its key, and a proof of their own ids. What audiences, tiers and caps rest on must not come
from there, or everyone could be a gold member with ten orders: orders, points, redemptions, consents, and the traits
that the plan's conditions read. A key that may say some of it all the same lists the names as `client_may_say`.
"""

from collections.abc import Collection, Iterator, Mapping

from engine.customers.model.events import Event
from engine.customers.model.traits import CONSENT, flatten_traits
from engine.service.problems import Refusal
from engine.vocabulary import PAGE_CONTEXT, WORTH_ATTRIBUTES, WORTH_EVENTS, WORTH_PROPERTIES

_REMEDY = "send it with a server key, or list {name} under client_may_say of the page's key"


def find_worth(event: Event, audience_names: Collection[str], may_say: Collection[str]) -> str | None:
    """The statement of a customer's worth that a publishable key may not send; None if the event has none."""
    name = event.event or ""
    if event.type == "track" and not _is_listed(name, may_say):
        if name in WORTH_EVENTS:
            return f"event: {name!r} states what the customer is worth; {_REMEDY.format(name=name)}"
        for found in sorted(WORTH_PROPERTIES & event.properties.keys()):
            if not _is_listed(found, may_say):
                return f"properties.{found}: states what the customer is worth; {_REMEDY.format(name=found)}"
    traits = flatten_traits(event.traits) if event.type == "identify" else {}
    for trait, value in traits.items():
        is_withdrawal = trait.startswith(CONSENT) and value is False
        if _is_worth(trait, WORTH_ATTRIBUTES | {*audience_names}, may_say) and not is_withdrawal:
            return f"traits.{trait}: audiences or caps rest on it; {_REMEDY.format(name=trait)}"
    return None


def refuse_worth_in_context(
    context: Mapping[str, object], audience_names: Collection[str], may_say: Collection[str]
) -> None:
    """Refuses a decision whose context states what the customer is worth.

    Raises:
        Refusal: 403.
    """
    for name in worth_in_context(context, audience_names, may_say):
        detail = f"it states what the customer is worth; {_REMEDY.format(name=name)}"
        raise Refusal(403, detail, f"context.{name}")


def worth_in_context(
    context: Mapping[str, object], audience_names: Collection[str], may_say: Collection[str]
) -> list[str]:
    """The names in a context that state what the customer is worth.

    These are computed attributes and the traits that audiences read, since the context takes precedence over a trait
    that the server stated. The present of a page, as its country, is not among them (`PAGE_CONTEXT`).
    """
    protected = WORTH_ATTRIBUTES | {name for name in audience_names if name.partition(".")[0] not in PAGE_CONTEXT}
    return [name for name in _names(context) if _is_worth(name, protected, may_say)]


def _names(context: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in context.items():
        if isinstance(value, Mapping) and value:
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _is_worth(name: str, protected: Collection[str], may_say: Collection[str]) -> bool:
    parts = name.split(".")
    within = any(".".join(parts[:count]) in protected for count in range(1, len(parts) + 1))
    around = any(other.startswith(f"{name}.") for other in protected)
    return (within or around) and not _is_listed(name, may_say)


def _is_listed(name: str, may_say: Collection[str]) -> bool:
    """Whether the name, or its part before a dot, is listed."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in may_say for count in range(1, len(parts) + 1))
