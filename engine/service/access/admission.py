"""How many decisions may wait for their answer: as many as are made within the budget of one.

A queue that is longer answers everybody late. So a decision that comes while it is full is refused at once, with 503
and `Retry-After`, for a tenth of the CPU of an answer. The time of a decision is measured, by the wall clock: on a busy
machine fewer are admitted.
"""

from engine.service.problems import Refusal, refuse_for_now

_LEAST, MOST = 64, 1024
"""Decisions that may wait on any machine, and with any budget; those whose budget ends are degraded."""
_FIRST_COST = 0.0002
"""Seconds of a decision before any was measured."""
_SHARE = 0.5
"""The share of the budget that decisions may fill: reading requests, the store's answers and refusals take the rest."""
_SMOOTHING = 0.1


def refuse_overload() -> Refusal:
    """The answer to a request for which there is no room."""
    return refuse_for_now("the server has more to answer than it can in time; retry later, or add workers")


class Admission:
    """The decisions that wait at one worker; `budget` is that of one, in seconds."""

    def __init__(self, budget: float) -> None:
        self.waiting = 0
        self._budget = budget * _SHARE
        self._cost = _FIRST_COST
        self._most = _LEAST
        self._limit()

    @property
    def is_full(self) -> bool:
        """Whether a decision that comes now would wait longer than it may."""
        return self.waiting >= self._most

    def record_cost(self, decisions: int, seconds: float) -> None:
        """Take the time that some decisions took, of which each held the event loop a part."""
        self._cost += _SMOOTHING * (seconds / decisions - self._cost)
        self._limit()

    def _limit(self) -> None:
        self._most = min(MOST, max(_LEAST, int(self._budget / self._cost)))
