"""Times in the log's tables: microseconds since 1970, UTC, as integers, so that comparing needs no time zones.

A report of a table imports this module without the rest of the log.
"""

from datetime import UTC, datetime

SECOND = 1_000_000
DAY = 86_400 * SECOND


def iso_time(seconds: float) -> str:
    """A time in seconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
