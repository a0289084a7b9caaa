"""The kill switch over HTTP: pause and resume, for admins, each with a record in the log of who did it."""

import time

import msgspec
import structlog

from engine.errors import StoreUnavailable
from engine.journal.records import EventRecord
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.kill_switch import Pause
from engine.service.problems import Refusal, refuse_body
from engine.service.worker import Worker

log = structlog.get_logger(__name__)

NOBODY = ""
"""The customer of a record that is about no customer."""


class SwitchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the switch is thrown; the body may be left out."""

    reason: str = ""


class SwitchAnswer(msgspec.Struct, frozen=True):
    """The switch after the request: thrown by whom and when (s since 1970); `status` is what the file says."""

    experiment: str
    paused: bool
    by: str
    at: float
    status: str


def admin_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`/v1/experiments/{key}/pause` and `/resume`; a placement's selection may be paused too and shows its fallback."""

    async def pause(call: Call) -> Reply:
        return await _switch(worker, call, paused=True)

    async def resume(call: Call) -> Reply:
        return await _switch(worker, call, paused=False)

    return [
        endpoint("/v1/experiments/{key:str}/pause", {"POST": pause}, limit=limit, guard=guard),
        endpoint("/v1/experiments/{key:str}/resume", {"POST": resume}, limit=limit, guard=guard),
    ]


async def _switch(worker: Worker, call: Call, *, paused: bool) -> Reply:
    key = str(call.path["key"])
    plan = worker.watch.plan
    experiment = plan.experiments.get(key)
    if experiment is None and key not in plan.policies:
        raise Refusal(404, f"{key!r} is no experiment or selection of plan {plan.version}; see /readyz", "key")
    try:
        told = msgspec.json.decode(call.body, type=SwitchRequest) if call.body else SwitchRequest()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse_body(error) from None
    now = time.time()
    by = call.caller.name
    try:
        if paused:
            await worker.switch.pause(key, Pause(by, now, told.reason))
        else:
            await worker.switch.resume(key)
    except StoreUnavailable:
        detail = "the store is away, so the workers cannot be told; set status: paused in the file, or try again"
        raise Refusal(503, detail, "", ((b"retry-after", b"1"),)) from None
    event = "experiment_paused" if paused else "experiment_resumed"
    properties = {"experiment": key, "by": by, "reason": told.reason}
    log.warning(event, experiment=key, by=by, reason=told.reason)
    worker.append(
        [
            EventRecord(
                f"audit-{new_id(now)}", now, now, NOBODY, event, None, None, None, msgspec.json.encode(properties)
            )
        ]
    )
    answer = SwitchAnswer(key, paused, by, now, experiment.spec.status if experiment else "running")
    return Reply(msgspec.json.encode(answer))
