"""Limits the decisions that wait for the CPU to the number that can be made within a decision's budget.

A queue that is longer answers everybody late. So a decision that comes while it is full is refused at once, with 503
and `Retry-After`, for a tenth of the CPU of an answer. The time of a decision is measured, by the wall clock: on a busy
machine fewer are admitted. Those whose budget ends are degraded, which still is an answer.

A decision that waits for the store is none of the queue: it costs nothing until the store answers or its budget ends,
and then it is degraded (promise 6). `DecisionBatches.is_full` counts which of both a decision waits for.

Refusals cost CPU too. `Retry-After` therefore grows with the overload: those that wait come back at about the rate at
which decisions are made, and not all of them every second.
"""

import math

from engine.service.problems import Refusal, refuse_for_now

_LEAST, MOST = 300, 1024
"""Decisions that may wait for the CPU on any machine, and with any budget; those whose budget ends are degraded."""
_FIRST_COST = 0.0002
"""Seconds of a decision before any was measured."""
_BUDGETS = 1.0
"""The budgets that waiting decisions may fill: they wait for refusals and other work besides."""
_SMOOTHING = 0.1
_WINDOW_SECONDS = 0.5
"""Over which refusals are counted against decisions."""
_LONGEST_RETRY = 4
"""Seconds of `Retry-After`, to which up to half is added so that callers do not come back together."""


def refuse_overload(seconds: int = 1) -> Refusal:
    """The answer to a request that exceeds the limit."""
    detail = "the server has more to answer than it can in time; retry later, or add workers"
    return refuse_for_now(detail, seconds=seconds)


class Admission:
    """The decisions that wait at one worker; `budget` is the time of one decision, in seconds."""

    def __init__(self, budget: float) -> None:
        self.waiting = 0
        """The number that wait for the CPU or for the store."""
        self.made = 0
        """The number that were answered since refusals were last counted against them."""
        self.most = _LEAST
        """The most that may wait for the CPU."""
        self._budget = budget * _BUDGETS
        self._cost = _FIRST_COST
        self._refused = 0
        self._window = -math.inf
        self._retry = 1
        self._limit()

    def record_cost(self, decisions: int, seconds: float) -> None:
        """Records how long a group of decisions held the event loop."""
        self._cost += _SMOOTHING * (seconds / decisions - self._cost)
        self._limit()

    def refuse(self, now: float) -> Refusal:
        """Counts a decision for which there is no room at `now` (monotonic, s), and returns the answer to it."""
        self._refused += 1
        if now - self._window > _WINDOW_SECONDS:
            is_current = now - self._window < 2 * _WINDOW_SECONDS
            # Those who wait would then come back as often as decisions are made.
            wanted = math.ceil(self._refused * self._retry / max(self.made, 1)) if is_current else 1
            self._retry = min(max(wanted, self._retry - 1, 1), _LONGEST_RETRY)
            self.made = self._refused = 0
            self._window = now
        return refuse_overload(self._retry + self._refused % (self._retry // 2 + 1))

    def _limit(self) -> None:
        self.most = min(MOST, max(_LEAST, int(self._budget / self._cost)))
