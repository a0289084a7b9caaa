"""Limits the decisions that wait for the CPU to the number that can be made within twice a decision's budget.

A queue that is longer answers everybody late. So a decision that comes while it is full is refused at once, with 503
and `Retry-After`, for a tenth of the CPU of an answer. The time of a decision is measured, by the wall clock: on a busy
machine fewer are admitted. Those past the first budget's worth are degraded, which still is an answer.

A decision that waits for the store is none of the queue: it costs nothing until the store answers or its budget ends,
and then it is degraded (promise 6). `DecisionBatches.is_full` counts which of both a decision waits for.
"""

from engine.service.problems import Refusal, refuse_for_now

_LEAST, MOST = 300, 1024
"""Decisions that may wait for the CPU on any machine, and with any budget; those whose budget ends are degraded."""
_FIRST_COST = 0.0002
"""Seconds of a decision before any was measured."""
_BUDGETS = 2.0
"""The budgets that waiting decisions may fill."""
_SMOOTHING = 0.1


def refuse_overload() -> Refusal:
    """The answer to a request that exceeds the limit."""
    return refuse_for_now("the server has more to answer than it can in time; retry later, or add workers")


class Admission:
    """The decisions that wait at one worker; `budget` is the time of one decision, in seconds."""

    def __init__(self, budget: float) -> None:
        self.waiting = 0
        """The number that wait for the CPU or for the store."""
        self.most = _LEAST
        """The most that may wait for the CPU."""
        self._budget = budget * _BUDGETS
        self._cost = _FIRST_COST
        self._limit()

    def record_cost(self, decisions: int, seconds: float) -> None:
        """Records how long a group of decisions held the event loop."""
        self._cost += _SMOOTHING * (seconds / decisions - self._cost)
        self._limit()

    def _limit(self) -> None:
        self.most = min(MOST, max(_LEAST, int(self._budget / self._cost)))
