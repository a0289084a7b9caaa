"""The state that the views read: the worker of this process, the results, the sessions."""

import asyncio
import time
from dataclasses import dataclass, field

from engine.catalog.plan.plan import Plan
from engine.dashboard.board.live_figures import LiveFigures
from engine.dashboard.board.plan_history import PlanHistory
from engine.dashboard.board.refresh import Refresher
from engine.dashboard.board.results import Results
from engine.dashboard.sessions import Sessions
from engine.service.decision_flow import DecisionFlow
from engine.service.worker import Worker
from engine.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The parts that pages need: worker, results and sessions.

    `worker` is that of a decision server which serves no decisions: it has the plan, the store, the learnt policies and
    a spool for audit records, so a page explains and pauses by the same code as the API.
    """

    settings: Settings
    worker: Worker
    flow: DecisionFlow
    results: Results
    refresher: Refresher
    sessions: Sessions
    history: PlanHistory
    live: LiveFigures
    stopping: asyncio.Event
    """Set when the process ends."""
    started: float = field(default_factory=time.time)

    @property
    def plan(self) -> Plan:
        """The running plan."""
        return self.worker.plan
