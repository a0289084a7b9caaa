"""Decision ids: sorted by time, and marked where the log may receive records of one decision more than once."""

import os
import random

_RANDOM = random.Random(os.urandom(32))  # ids must differ, not be secret, so a request spends no system call on one


def new_id(now: float, *, ahead: bool = False) -> str:
    """A decision id: 12 hex digits of milliseconds since 1970, so that ids sort by time, then 80 random bits in hex.

    With `ahead`, for a prefetched decision, the 13th character is `p`: its exposure may be reported more than once,
    and the collector counts each key of it once.
    """
    digits = f"{int(now * 1000):012x}{_RANDOM.getrandbits(80):020x}"
    return f"{digits[:12]}p{digits[13:]}" if ahead else digits


def mark_repeatable(decision_id: str) -> str:
    """The id of a decision whose records may be spooled twice: its 13th character is `r`, which is no hex digit."""
    return f"{decision_id[:12]}r{decision_id[13:]}"
