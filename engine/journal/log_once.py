"""Logs an outage once at its start and once at recovery, however often the work is retried in between."""

import time

import structlog
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from engine.errors import StoreUnavailable

log = structlog.get_logger(__name__)


class LogOnce:
    """Consecutive failures of one piece of work: logs `start` at the first and `recovery` at their end."""

    def __init__(self, start: str, recovery: str) -> None:
        self._start = start
        self._recovery = recovery
        self._cause: str | None = None
        self._since = 0.0

    def failed(self, error: Exception) -> None:
        """Log a failure unless its cause is logged already; every error of an unreachable store is one cause."""
        text = str(error) or type(error).__name__
        cause = "store" if isinstance(error, NoConnection | NoAnswer | StoreUnavailable) else text
        if self._cause is None:
            self._since = time.monotonic()
        if cause != self._cause:
            log.warning(self._start, error=text)
        self._cause = cause

    def over(self) -> None:
        """Log the recovery, if there was a failure."""
        if self._cause is not None:
            log.info(self._recovery, after=f"{time.monotonic() - self._since:.1f} s")
            self._cause = None
