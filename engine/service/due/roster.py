"""Puts customers on the planner's roster while the plan sends messages by itself; otherwise nothing would read it.

A worker that starts to leave customers out forgets that all of them were noted, and forgets it again once its plan
sends: another worker may have read the new plan, and noted all customers, while this one left some out. The planner
then notes all customers before it plans (`Planner`).
"""

from collections.abc import Iterable

from engine.catalog.plan.plan import Plan
from engine.customers.redis.keys import ProfileKey
from engine.decision.schedule import sending_moments
from engine.due.index import DueIndex


def sends_by_itself(plan: Plan) -> bool:
    """Whether a plan has campaigns, or moments on an outbound channel."""
    return bool(plan.campaigns) or next(sending_moments(plan), None) is not None


class Roster:
    """The roster of customers to plan for, as one worker adds to it."""

    def __init__(self, index: DueIndex) -> None:
        self._index = index
        self._plan: Plan | None = None
        self._is_kept = True

    async def follow(self, plan: Plan) -> bool:
        """Whether this plan needs the roster; call it before profiles change.

        Raises:
            StoreUnavailable: if Redis does not answer in time.
        """
        if plan is not self._plan:
            is_kept = sends_by_itself(plan)
            if not (is_kept and self._is_kept):
                await self._index.forget_noted()
            self._plan, self._is_kept = plan, is_kept
        return self._is_kept

    async def note(self, plan: Plan, keys: Iterable[ProfileKey], at: float) -> None:
        """Put customers on the roster for the time `at` (s since 1970), if the plan sends. Errors as above."""
        if await self.follow(plan):
            await self._index.note(keys, at)
