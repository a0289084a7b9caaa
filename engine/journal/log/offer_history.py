"""A customer's offers for staff: the time and channel of each, whether it was seen, and its outcomes.

It is made of the log's rows and of the records that are not collected yet, so that it has what was answered a moment
ago. The request's context names the `staff` and the `store` that offered, an event's properties the staff that took the
answer. Fallbacks are left out.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from engine.decision.offers import FALLBACK_REASONS
from engine.errors import BadInput
from engine.journal.traces import decode_trace
from engine.vocabulary import ANSWERS, RELEASES, item_name

STAFF_FIELDS = ("staff", "agent", "employee")
"""Names under which a request's context, or an event, says which member of staff it is from."""
OUTCOMES = ANSWERS | RELEASES

LoggedFields = Mapping[str, object]
_properties = msgspec.json.Decoder(dict[str, object])


class OfferOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event about an offer: a click, a redemption, a purchase, a refusal. Times are RFC 3339."""

    event: str
    time: str
    channel: str | None = None
    staff: str | None = None


class OfferedOffer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One offer that a customer got; `seen` is its first exposure, `placement` may name a list's item."""

    offer: str
    placement: str
    channel: str
    decision_id: str
    offered: str
    seen: str | None = None
    staff: str | None = None
    store: str | None = None
    outcomes: list[OfferOutcome] = []


def build_offer_history(rows: Mapping[str, Sequence[LoggedFields]]) -> list[OfferedOffer]:
    """The offers in rows of the tables `decisions`, `exposures` and `events`, the newest first.

    Rows of decisions have their `trace`, where the log has one.
    """
    seen: dict[tuple[str, str], str] = {}
    for row in rows["exposures"]:
        place, at = (str(row["decision_id"]), _name(row)), str(row["time"])
        seen[place] = min(at, seen.get(place, at))
    events: dict[str, list[LoggedFields]] = {}
    for row in rows["events"]:
        if row["event"] in OUTCOMES and row["decision_id"]:
            events.setdefault(str(row["decision_id"]), []).append(row)
    contexts = {str(row["decision_id"]): _context(row) for row in rows["decisions"] if row.get("trace")}
    offered = [
        _offered(row, seen, events.get(str(row["decision_id"]), ()), contexts.get(str(row["decision_id"]), {}))
        for row in rows["decisions"]
        if row["kind"] == "offer" and row["variant"] and row["reason"] not in FALLBACK_REASONS
    ]
    return sorted(offered, key=lambda one: (one.offered, one.decision_id), reverse=True)


def _offered(
    row: LoggedFields, seen: Mapping[tuple[str, str], str], events: Sequence[LoggedFields], context: LoggedFields
) -> OfferedOffer:
    decision_id, name, store = str(row["decision_id"]), _name(row), context.get("store")
    return OfferedOffer(
        offer=str(row["variant"]),
        placement=name,
        channel=str(row["channel"]),
        decision_id=decision_id,
        offered=str(row["time"]),
        seen=seen.get((decision_id, name)),
        staff=_staff(context),
        store=str(store) if store else None,
        outcomes=sorted(_outcomes(row, name, events), key=lambda outcome: outcome.time),
    )


def _outcomes(row: LoggedFields, name: str, events: Sequence[LoggedFields]) -> Iterator[OfferOutcome]:
    """The events about this offer of the decision; for a list they must name the item."""
    for event in events:
        properties = _decoded(event)
        placement = properties.get("placement", None if row["position"] else name)
        offer = properties.get("offer")
        if offer == row["variant"] or (offer is None and placement == name):
            channel = event["channel"]
            yield OfferOutcome(
                event=str(event["event"]),
                time=str(event["time"]),
                channel=str(channel) if channel else None,
                staff=_staff(properties),
            )


def _name(row: LoggedFields) -> str:
    position = row["position"]
    return item_name(str(row["key"]), position if isinstance(position, int) else 0)


def _staff(named: LoggedFields) -> str | None:
    return next((str(named[name]) for name in STAFF_FIELDS if named.get(name)), None)


def _context(row: LoggedFields) -> LoggedFields:
    """The context of a decision's request; empty if its trace cannot be read."""
    trace = row["trace"]
    try:
        return decode_trace(trace).request.context if isinstance(trace, bytes) else {}
    except BadInput:
        return {}


def _decoded(event: LoggedFields) -> LoggedFields:
    try:
        return _properties.decode(str(event["properties"]))
    except msgspec.DecodeError:
        return {}
