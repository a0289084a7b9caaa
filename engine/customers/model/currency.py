"""Converts the money of incoming events into the shop's currency.

Profile, learner and reports read the converted event, so an amount is worth the same to each. What was sent stays in
the property `$charged`. An event whose currency has no rate is rejected: its amount is no number of the shop's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customers.model.events import MOST, Event, EventStatus
from engine.orders import AMOUNT_FIELDS, CENTS
from engine.vocabulary import REFUNDS

CURRENCY = "currency"
CHARGED = "$charged"
"""The property with the amounts as they were sent, their currency, and the rate by which they were converted."""
_CODE = re.compile("[A-Z]{3}")


def convert_batch(batch: Sequence[Event | EventStatus], rules: ProfileRules) -> list[Event | EventStatus]:
    """Returns the batch in the shop's currency; an item that cannot be converted becomes its `rejected` status."""
    return [item if isinstance(item, EventStatus) else in_shop_currency(item, rules) for item in batch]


def in_shop_currency(event: Event, rules: ProfileRules) -> Event | EventStatus:
    """Returns an event with its amounts in the shop's currency; converting again changes nothing.

    An event without amounts, or without a currency, stays as it is.
    """
    stated = event.properties.get(CURRENCY)
    if stated is None or stated == rules.currency or event.type != "track":
        return event
    amounts = dict(_amounts(event, rules))
    if not amounts:
        return event
    code = stated.strip().upper() if isinstance(stated, str) else ""
    if code == rules.currency:
        return replace(event, properties={**event.properties, CURRENCY: code})
    rate = rules.rates.get(code)
    if rate is None:
        return EventStatus("rejected", event.message_id, _why_no_rate(stated, code, rules.currency))
    converted = {name: round(amount * rate, CENTS) for name, amount in amounts.items()}
    for name, amount in converted.items():
        if abs(amount) > MOST:
            reason = f"properties.{name}: {amounts[name]} {code} is {amount:,.0f} {rules.currency}, beyond {MOST:,.0f}"
            return EventStatus("rejected", event.message_id, f"{reason}; send what was charged")
    charged = {CURRENCY: code, "rate": rate, **amounts}
    return replace(event, properties={**event.properties, **converted, CURRENCY: rules.currency, CHARGED: charged})


def _amounts(event: Event, rules: ProfileRules) -> Iterator[tuple[str, float]]:
    """Yields the money properties of an event: its revenue, and the amount of a refund."""
    names = {*rules.amounts, *(AMOUNT_FIELDS if event.event in REFUNDS else ())}
    properties: Mapping[str, object] = event.properties
    for name in sorted(names):
        amount = properties.get(name)
        if isinstance(amount, int | float) and not isinstance(amount, bool):
            yield name, amount


def _why_no_rate(stated: object, code: str, currency: str) -> str:
    if not _CODE.fullmatch(code):
        return f"properties.currency: {stated!r:.40} is no ISO 4217 code; send {currency}, or leave it out"
    return (
        f"properties.currency: {code} is not the shop's {currency} and metrics.yaml has no rate for it; send "
        f"{currency}, or add 'rates: {{{code}: …}}'"
    )
