"""Work that goes on as soon as it can again says once that it waits, and once that it goes on."""

import time

import structlog
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from engine.errors import StoreUnavailable

log = structlog.get_logger(__name__)


class Outage:
    """The failures of one work in a row: `waits` is told of the first, `goes_on` at their end."""

    def __init__(self, waits: str, goes_on: str) -> None:
        self._waits = waits
        self._goes_on = goes_on
        self._cause: str | None = None
        self._since = 0.0

    def failed(self, error: Exception) -> None:
        """Tell of a failure, unless it goes on; a store that is away is one cause in many words."""
        said = str(error) or type(error).__name__
        cause = "store" if isinstance(error, NoConnection | NoAnswer | StoreUnavailable) else said
        if self._cause is None:
            self._since = time.monotonic()
        if cause != self._cause:
            log.warning(self._waits, error=said)
        self._cause = cause

    def over(self) -> None:
        """Tell that the work goes on, if it had failed."""
        if self._cause is not None:
            log.info(self._goes_on, after=f"{time.monotonic() - self._since:.1f} s")
            self._cause = None
