"""Ids of decisions: sorted by time, and marked where the log may be told of one more than once."""

import os
import random

_RANDOM = random.Random(os.urandom(32))  # ids must differ, not be secret: no system call for each


def new_id(now: float, *, ahead: bool = False) -> str:
    """A decision id: 12 hex digits of milliseconds, so that ids sort by time, and 80 random bits.

    With `ahead` its 13th character is `p`: what is told to be seen of that decision may be told again, and the
    collector counts it once.
    """
    digits = f"{int(now * 1000):012x}{_RANDOM.getrandbits(80):020x}"
    return f"{digits[:12]}p{digits[13:]}" if ahead else digits


def mark_repeatable(decision_id: str) -> str:
    """The id as one of a decision that may be asked for again: its 13th character is `r`, which is no hex digit."""
    return f"{decision_id[:12]}r{decision_id[13:]}"
