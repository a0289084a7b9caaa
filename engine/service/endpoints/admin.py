"""The kill switch: pause and resume, for admins, each with an audit record in the log."""

import time
from collections.abc import Mapping
from typing import Annotated

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
AWAY = (
    "the store did not confirm it in time, so it may or may not hold; send it again, which is safe. A file needs no "
    "store: set status: paused in the experiment's, or take a selection out"
)


class SwitchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason for using the switch; the body may be left out."""

    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


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
    reason = decode_body(_decoder, call.body).reason if call.body else ""
    answer = await switch_experiment(worker, str(call.path["key"]), paused=paused, by=call.caller.name, reason=reason)
    return Reply(_encode(answer))


async def switch_experiment(worker: Worker, key: str, *, paused: bool, by: str, reason: str) -> SwitchAnswer:
    """Pause or resume, then record it, since an audit record of a switch that failed would be wrong.

    Raises:
        Refusal: 404 for an unknown key, 503 if the store does not answer.
    """
    plan = worker.watch.plan
    experiment = plan.experiments.get(key)
    if experiment is None and key not in plan.policies:
        raise Refusal(404, f"{key!r} is not an experiment or selection of plan {plan.version}; see /readyz", "key")
    now = time.time()
    try:
        if paused:
            await worker.kill_switch.pause(key, Pause(by, now, reason))
        else:
            await worker.kill_switch.resume(key)
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None
    event = EXPERIMENT_PAUSED if paused else EXPERIMENT_RESUMED
    log.warning(event, experiment=key, by=by)  # the reason, which a person wrote, is in the audit record alone
    record_audit(worker, event, {"experiment": key, "by": by, "reason": reason}, now)
    status = experiment.spec.status if experiment else "running"
    return SwitchAnswer(key, paused, by, now, status)


def record_audit(worker: Worker, event: str, properties: Mapping[str, object], now: float) -> None:
    """Append an audit record, one of `vocabulary.AUDIT_EVENTS`, to the spool. Errors as in `Recorder.append`."""
    record = EventRecord(
        message_id=f"audit-{new_id(now)}",
        time=now,
        received=now,
        customer=NOBODY,
        event=event,
        decision_id=None,
        channel=None,
        revenue=None,
        properties=_encode(properties),
    )
    worker.recorder.append([record])
