"""Events of a metric that a report leaves out, or counts differently, by reason.

A conversion counts for the customer who made it, from the first exposure on and within the metric's window; one that
names a decision of the experiment counts from that decision on. Others count nowhere. Many of them are a fault of the
integration, as a clock that is off or an exposure that is never sent, so their numbers stand in the report:

- *before the exposure*: in the day before the customer's first one, without the id of a decision;
- *outside the window*: before `delay`, or after `delay` and `window`;
- *not exposed*: it names a decision of the experiment, and its customer was never exposed;
- *unknown decision*: it names a decision that the log does not have, and counts by its customer and time alone;
- *another customer's decision*: it names one of the experiment, and counts by its own customer, if at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class UncountedEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The number of a metric's events for each reason; a ratio's are those of its numerator."""

    before_exposure: int = 0
    outside_window: int = 0
    not_exposed: int = 0
    unknown_decision: int = 0
    other_decision: int = 0


REASONS: Mapping[str, str] = {
    "before_exposure": "{} in the day before the first exposure",
    "outside_window": "{} outside of its window",
    "not_exposed": "{} of a decision whose customer was never exposed",
    "unknown_decision": "{} of a decision that the log does not have",
    "other_decision": "{} of another customer's decision",
}


def describe_uncounted_events(found: Mapping[str, UncountedEvents]) -> list[str]:
    """A sentence for each metric about its uncounted events."""
    sentences = []
    for name, one in found.items():
        parts = [text.format(f"{count:,}") for reason, text in REASONS.items() if (count := getattr(one, reason))]
        counts = " Those of other decisions count by their customer and time." if one.unknown_decision else ""
        sentences.append(f"{name}: events that are not counted as they came: {', '.join(parts)}.{counts}")
    return sentences
