"""The kill switch: pause and resume, for admins, each with an audit record in the log."""

import time

import msgspec
import structlog

from engine.errors import StoreUnavailable
from engine.journal.records import EventRecord
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.kill_switch import Pause
from engine.service.problems import Refusal, decode_body, refuse_for_now
from engine.service.worker import Worker
from engine.vocabulary import EXPERIMENT_PAUSED, EXPERIMENT_RESUMED

log = structlog.get_logger(__name__)

NOBODY = ""
"""The customer of a record that concerns no customer."""
AWAY = "the store is away and nothing is changed; send it again, or set status: paused in the experiment's file"


class SwitchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the switch is used; the body may be left out."""

    reason: str = ""


class SwitchAnswer(msgspec.Struct, frozen=True):
    """The switch after the request: who used it and when (s since 1970). `status` is that in the experiment's file."""

    experiment: str
    paused: bool
    by: str
    at: float
    status: str


_decoder = msgspec.json.Decoder(SwitchRequest)
_encode = msgspec.json.Encoder().encode


def admin_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`/v1/experiments/{key}/pause` and `/resume`; a paused selection shows its placement's fallback."""

    async def pause(call: Call) -> Reply:
        return await _switch(worker, call, paused=True)

    async def resume(call: Call) -> Reply:
        return await _switch(worker, call, paused=False)

    return [
        endpoint("/v1/experiments/{key:str}/pause", {"POST": pause}, limit=limit, guard=guard),
        endpoint("/v1/experiments/{key:str}/resume", {"POST": resume}, limit=limit, guard=guard),
    ]


async def _switch(worker: Worker, call: Call, *, paused: bool) -> Reply:
    """Use the switch, then record it: an audit record without its effect would be wrong, the reverse only late."""
    key = str(call.path["key"])
    plan = worker.watch.plan
    experiment = plan.experiments.get(key)
    if experiment is None and key not in plan.policies:
        raise Refusal(404, f"{key!r} is no experiment or selection of plan {plan.version}; see /readyz", "key")
    reason = decode_body(_decoder, call.body).reason if call.body else ""
    now = time.time()
    by = call.caller.name
    try:
        if paused:
            await worker.kill_switch.pause(key, Pause(by, now, reason))
        else:
            await worker.kill_switch.resume(key)
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None
    event = EXPERIMENT_PAUSED if paused else EXPERIMENT_RESUMED
    log.warning(event, experiment=key, by=by, reason=reason)
    record = EventRecord(
        message_id=f"audit-{new_id(now)}",
        time=now,
        received=now,
        customer=NOBODY,
        event=event,
        decision_id=None,
        channel=None,
        revenue=None,
        properties=_encode({"experiment": key, "by": by, "reason": reason}),
    )
    worker.recorder.append([record])
    status = experiment.spec.status if experiment else "running"
    return Reply(_encode(SwitchAnswer(key, paused, by, now, status)))
