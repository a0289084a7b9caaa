"""Types of the YAML's fields: their valid values, and the remedy that `check` gives for any other value."""

from datetime import datetime, timedelta
from functools import cache
from typing import Annotated, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta

Key = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9_-]{1,64}$",
        description="letters, digits, _ and -, 64 at most",
        extra={"remedy": "use letters, digits, _ and - only, 64 at most"},
    ),
]
FlagKey = Annotated[
    str,
    Meta(
        pattern="^[A-Za-z0-9_-][A-Za-z0-9_./:-]{0,63}$",
        description="letters, digits, _ - . / and :, 64 at most",
        extra={"remedy": "use letters, digits, _ - . / and :, 64 at most"},
    ),
]
"""The key of an experiment, a flag or a variant."""
Share = Annotated[float, Meta(ge=0, le=1, extra={"remedy": "give a share such as 0.5"})]
Weight = Annotated[float, Meta(ge=0, le=1, extra={"remedy": "weights of the variants sum to 1"})]
Probability = Annotated[float, Meta(gt=0, lt=1, extra={"remedy": "give a probability such as 0.05"})]
Positive = Annotated[float, Meta(gt=0, extra={"remedy": "give a number above 0"})]
Count = Annotated[int, Meta(ge=1, extra={"remedy": "give a whole number, 1 or more"})]
Text = Annotated[str, Meta(min_length=1, extra={"remedy": "write some text or leave the key out"})]
_WORD = r"""[^\s\u0000-\u001f\u007f"'`\\|;*?(){}\[\]<>]+"""
PROPERTY_NAME = rf"^(?=.{{1,100}}$){_WORD}( {_WORD})*$(?!\n)"
"""Nothing that quotes, groups or matches in a query language; what is left names traits in every script."""
PROPERTY_NAME_RULE = "the name of a trait or property"
PROPERTY_NAME_REMEDY = "use letters, digits, single spaces and _ . : / $ @ -, 100 at most"
PropertyName = Annotated[
    str, Meta(pattern=PROPERTY_NAME, description=PROPERTY_NAME_RULE, extra={"remedy": PROPERTY_NAME_REMEDY})
]
Condition = Annotated[
    dict[str, object], Meta(description="a condition in MongoDB query form", extra={"check": "condition"})
]
Payload = Annotated[dict[str, object], Meta(description="what the storefront receives")]
ZonedTime = Annotated[
    datetime,
    Meta(
        tz=True, description="with its zone: 2026-11-01T00:00:00Z", extra={"remedy": "write it as 2026-11-01T00:00:00Z"}
    ),
]
Span = Annotated[
    str,
    Meta(
        pattern="^[1-9][0-9]{0,5}(s|m|h|d)$",
        description="a length of time: 30s, 15m, 24h, 7d",
        extra={"remedy": "write a number and s, m, h or d, such as 24h"},
    ),
]
HandOutRate = Annotated[
    str,
    Meta(
        pattern="^[1-9][0-9]{0,8}/(m|h|d)$",
        description="a number per minute, hour or day: 10000/h",
        extra={"remedy": "write a number and /m, /h or /d, such as 10000/h"},
    ),
]
Interval = Annotated[list[Share], Meta(min_length=2, max_length=2, description="from the first up to the second")]
TimeOfDay = Annotated[
    str,
    Meta(
        pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$",
        description='a time of day: "21:00"',
        extra={"remedy": 'write hours and minutes in quotes, such as "21:00"'},
    ),
]

RESTRICTS: Final = "restricts"
"""Marks a field without which more customers are reached, or more often: `caps: Annotated[list[CapSpec], RESTRICTS]`.

A fallback has no such field, and the watcher waits longer before it takes a plan in which one is missing.
"""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(span: str) -> float:
    """The length of a `Span` in seconds: `24h` is 86400.0."""
    return timedelta(seconds=int(span[:-1]) * SECONDS[span[-1]]).total_seconds()


def count_and_seconds(rate: str) -> tuple[int, float]:
    """The number and the period in seconds of a `HandOutRate`: `10000/h` is (10000, 3600.0)."""
    count, _, period = rate.partition("/")
    return int(count), float(SECONDS[period])


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every mapping in the YAML: decoding it validates it, and an unknown key is an error."""


@cache
def restricting_fields(spec: type[Spec]) -> tuple[str, ...]:
    """The fields of a kind of spec that `RESTRICTS` marks, in order."""
    hints = get_type_hints(spec, include_extras=True)
    return tuple(name for name, hint in hints.items() if RESTRICTS in get_args(hint)[1:])
