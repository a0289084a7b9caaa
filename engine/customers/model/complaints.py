"""Complaints, each open until it is resolved, for events in any order.

Invariants:
- The statements of a profile are a sorted multiset, so they do not depend on the order of arrival.
- At most `MOST` are stored. Resolved complaints go first, then resolutions of unknown complaints; neither changes which
  others are open.
"""

from collections.abc import Sequence

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import COMPLAINT_FIELD, ComplaintStatement, Profile, complaint_statements, pair_complaints
from engine.customers.model.events import Event
from engine.vocabulary import COMPLAINT_ID_FIELDS, COMPLAINTS

MOST_STATEMENTS = 64


def complaint_id(event: Event) -> str:
    """The id of the complaint that an event is about; empty if it names none."""
    for name in COMPLAINT_ID_FIELDS:
        value = event.properties.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()[:200]
    return ""


def record_complaint(profile: Profile, event: Event, time: float, rules: ProfileRules) -> dict[str, object]:  # noqa: ARG001 (a Reducer)
    """Adds the complaint statement of an event."""
    statement = ComplaintStatement(time, COMPLAINTS[event.event or ""], complaint_id(event))
    return _changes([*complaint_statements(profile), statement])


def merge_complaints(target: Profile, source: Profile, rules: ProfileRules) -> dict[str, object]:  # noqa: ARG001 (a Merger)
    """Returns the statements of both profiles."""
    if not complaint_statements(source):
        return {COMPLAINT_FIELD: target.complaint, "complaints": target.complaints}
    return _changes([*complaint_statements(target), *complaint_statements(source)])


def _changes(statements: Sequence[ComplaintStatement]) -> dict[str, object]:
    kept = sorted(statements)
    while len(kept) > MOST_STATEMENTS:
        pairs = pair_complaints(kept)
        resolved = next((pair for pair in pairs if len(pair) > 1), None)
        known = {statement for pair in pairs for statement in pair}
        gone = resolved or next(((one,) for one in kept if one not in known), (kept[0],))
        for statement in gone:
            kept.remove(statement)
    return {COMPLAINT_FIELD: None, "complaints": kept}
