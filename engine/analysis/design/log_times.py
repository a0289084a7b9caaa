"""Times of the log's tables: integers of microseconds since 1970, UTC, which need no time zone database to compare.

A report of a table imports this module without the rest of the log.
"""

SECOND = 1_000_000
DAY = 86_400 * SECOND
