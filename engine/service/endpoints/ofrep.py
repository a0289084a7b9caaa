"""OpenFeature Remote Evaluation Protocol 0.3.0: the experiments and flags of the plan for any OpenFeature SDK."""

import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Literal

import msgspec
import structlog
from msgspec.structs import replace

from engine.catalog.plan.plan import Experiment, Plan
from engine.catalog.spec.experiment import ExperimentSpec
from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideRequest, Decision
from engine.decision.experiments import Assigned
from engine.errors import BadInput
from engine.journal.from_decision import records_of
from engine.service.auth import PROOF, RequestGuard
from engine.service.http import JSON, Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.problems import Refusal, refuse_body
from engine.service.worker import Worker

DEFAULT_CHANNEL = "web"
ETAG_SECONDS = 43_200
"""A prefetched decision can be told as seen for a day, so a client is given a new one well before."""

UNREADABLE = frozenset((400, 408, 413, 415))

EvaluationReason = Literal["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN", "DEFAULT"]
ErrorCode = Literal["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL", "FLAG_NOT_FOUND"]

log = structlog.get_logger(__name__)

NOBODY = Profile(id="", unit="-")
"""Whom a flag is told for that is the same for everyone."""


class EvaluationRequest(msgspec.Struct, frozen=True):
    """The body of both endpoints: `targetingKey` and whatever conditions ask for."""

    context: dict[str, object] = {}


class Evaluation(msgspec.Struct, frozen=True):
    """One flag as it was evaluated. No `value` means that the caller's own default holds."""

    key: str
    reason: EvaluationReason
    variant: str
    metadata: Mapping[str, str | float | bool]
    value: object = msgspec.UNSET


class Failure(msgspec.Struct, frozen=True):
    """One flag, or with no key all of them, that could not be evaluated."""

    errorCode: ErrorCode  # noqa: N815 (the protocol's name)
    errorDetails: str  # noqa: N815 (the protocol's name)
    key: str | msgspec.UnsetType = msgspec.UNSET


class Evaluations(msgspec.Struct, frozen=True):
    """All flags of the channel."""

    flags: list[Evaluation | Failure]
    metadata: Mapping[str, str]


class NotEvaluated(Exception):
    """A flag, or the whole request, could not be evaluated."""

    def __init__(self, code: ErrorCode, details: str) -> None:
        super().__init__(details)
        self.code: ErrorCode = code
        self.details = details


class FlagContext(msgspec.Struct, frozen=True):
    """Whom the flags are for, on which channel, and what conditions see of the moment."""

    customer: CustomerIds
    channel: str
    context: dict[str, object]

    @property
    def anyone(self) -> bool:
        """Whether the request names nobody."""
        return not any(getattr(self.customer, name) for name in self.customer.__struct_fields__)


_request = msgspec.json.Decoder(EvaluationRequest)
_encode = msgspec.json.Encoder().encode
_stable = msgspec.json.Encoder(order="deterministic").encode


def ofrep_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """The single evaluation, which counts as seen, and the bulk one, which never does."""

    async def single(call: Call) -> Reply:
        key = str(call.path["key"])
        try:
            return Reply(_encode(await _single(worker, call, key)))
        except Exception as error:  # noqa: BLE001 (the protocol has its own form for every failure)
            return _failed(error, key)

    async def bulk(call: Call) -> Reply:
        try:
            return await _bulk(worker, call)
        except Exception as error:  # noqa: BLE001 (the protocol has its own form for every failure)
            return _failed(error, msgspec.UNSET)

    return [
        endpoint("/ofrep/v1/evaluate/flags/{key:str}", {"POST": single}, limit=limit, guard=guard, refused=_unreadable),
        endpoint("/ofrep/v1/evaluate/flags", {"POST": bulk}, limit=limit, guard=guard, refused=_unreadable),
    ]


async def _single(worker: Worker, call: Call, key: str) -> Evaluation:
    began = time.perf_counter()
    plan = worker.plan
    asked = _asked(call, plan)
    experiment = plan.experiments.get(key)
    if experiment is None:
        raise NotEvaluated("FLAG_NOT_FOUND", f"{key!r} is no experiment or flag of the running plan; check its key")
    now = time.time()
    if asked.anyone and not is_same_for_everyone(plan, experiment, asked, now):
        raise NotEvaluated("TARGETING_KEY_MISSING", f"{key} is told by customer; send context.targetingKey")
    decision = await _decided(worker, asked, [key], now, expose=not asked.anyone)
    worker.append(records_of(decision, now, expose=not asked.anyone))
    worker.meters.decided(decision, time.perf_counter() - began)
    return describe_evaluation(decision, decision.assigned[key])


async def _bulk(worker: Worker, call: Call) -> Reply:
    began = time.perf_counter()
    plan = worker.plan
    asked = _asked(call, plan)
    now = time.time()
    here = [e for e in plan.experiments.values() if e.spec.channels is None or asked.channel in e.spec.channels]
    told = [e.key for e in here if not asked.anyone or is_same_for_everyone(plan, e, asked, now)]
    decision = await _decided(worker, asked, told, now, expose=False)
    flags: list[Evaluation | Failure] = [
        describe_evaluation(decision, decision.assigned[e.key])
        if e.key in decision.assigned
        else Failure("TARGETING_KEY_MISSING", f"{e.key} is told by customer; send context.targetingKey", e.key)
        for e in here
    ]
    etag = _etag(decision, flags, asked, now)
    headers = ((b"content-type", JSON), (b"etag", etag.encode()))
    if _matches(call.header(b"if-none-match"), etag):
        return Reply(b"", 304, headers[1:])
    if not asked.anyone:
        await worker.hold(decision)
    worker.append(records_of(decision, now, expose=False))
    worker.meters.decided(decision, time.perf_counter() - began)
    answer = Evaluations(flags, {"decisionId": decision.answer.decision_id, "planVersion": plan.version})
    return Reply(_encode(answer), headers=headers)


async def _decided(worker: Worker, asked: FlagContext, keys: list[str], now: float, *, expose: bool) -> Decision:
    request = DecideRequest(
        customer=asked.customer, channel=asked.channel, experiments=keys, context=asked.context, expose=expose
    )
    if asked.anyone:
        return worker.decided(NOBODY, request, now, new_id(now))
    return await worker.weigh(request, now, new_id(now, ahead=not expose))


def _asked(call: Call, plan: Plan) -> FlagContext:
    """What the body asks for.

    `targetingKey` is the customer's user id, unless the context gives the same as `anonymousId` or `deviceId`, or gives
    another `userId`: then it is the visitor's.
    """
    try:
        context = _request.decode(call.body).context
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refusal = refuse_body(error)
        code: ErrorCode = "INVALID_CONTEXT" if refusal.field.startswith("context") else "PARSE_ERROR"
        raise NotEvaluated(code, f"{refusal.field}: {refusal.detail}") from None
    key = _text(context, "targetingKey")
    user = _text(context, "userId", "user_id")
    anonymous = _text(context, "anonymousId", "anonymous_id")
    device = _text(context, "deviceId", "device_id")
    if key not in (user, anonymous, device):
        if user is None:
            user = key
        elif anonymous is None:
            anonymous = key
    customer = CustomerIds(user_id=user, anonymous_id=anonymous, device_id=device)
    call.caller.vouch(customer, call.header(PROOF))
    channel = _text(context, "channel") or (DEFAULT_CHANNEL if DEFAULT_CHANNEL in plan.channels else min(plan.channels))
    if channel not in plan.channels:
        raise NotEvaluated(
            "INVALID_CONTEXT",
            f"context.channel: {channel!r} is no channel; use one of {', '.join(sorted(plan.channels))}",
        )
    return FlagContext(customer, channel, {name: value for name, value in context.items() if name != "targetingKey"})


def _text(context: Mapping[str, object], *names: str) -> str | None:
    for name in names:
        value = context.get(name)
        if value is not None and not isinstance(value, str):
            raise NotEvaluated("INVALID_CONTEXT", f"context.{name}: {value!r} is no text; send it as a string")
        if value:
            return value
    return None


def is_same_for_everyone(plan: Plan, experiment: Experiment, asked: FlagContext, now: float) -> bool:
    """Whether the flag is the same for every customer, so that it can be told without knowing which."""
    spec = experiment.spec
    if spec.status != "running" or experiment.key in plan.paused or not experiment.start <= now < experiment.end:
        return True
    if spec.unit == "store" and isinstance(asked.context.get("store"), str):
        return not experiment.holdouts and not experiment.prerequisites
    everyone = experiment.ranges(now) == ((0.0, 1.0),)
    return everyone and not (experiment.layer or experiment.holdouts or experiment.prerequisites or spec.sticky)


def describe_evaluation(decision: Decision, assigned: Assigned) -> Evaluation:
    """One experiment or flag of a decision as the protocol has it; our own words stand in the metadata."""
    experiment = assigned.experiment
    spec = experiment.spec
    index = assigned.assignment.index
    return Evaluation(
        experiment.key,
        _reason(spec, assigned),
        assigned.variant or "",
        {
            "decisionId": decision.answer.decision_id,
            "reason": assigned.assignment.reason,
            "planVersion": decision.answer.plan,
        },
        flag_value(spec, index) if index >= 0 else msgspec.UNSET,
    )


def flag_value(spec: ExperimentSpec, index: int) -> object:
    """The variant's value: X for a payload `{value: X}`, else the payload, or its key where no variant has a payload.

    A flag that has a float in any variant has floats in all: `1` beside `0.5` is `1.0`. Null is no value.
    """
    payload = spec.variants[index].payload
    if not any(variant.payload for variant in spec.variants):
        return spec.variants[index].key
    if payload.keys() != {"value"}:
        return payload
    value = payload["value"]
    if type(value) is int and any(type(variant.payload.get("value")) is float for variant in spec.variants):
        return float(value)
    return msgspec.UNSET if value is None else value


def _reason(spec: ExperimentSpec, assigned: Assigned) -> EvaluationReason:
    match assigned.assignment.reason:
        case "assigned" | "sticky":
            if len(spec.variants) > 1 or spec.coverage < 1 or spec.ramp:
                return "SPLIT"
            return "TARGETING_MATCH" if spec.audience or spec.prerequisites else "STATIC"
        case "forced":
            return "TARGETING_MATCH"
        case "paused" | "not_started" | "ended":
            return "DISABLED"
        case "degraded":
            return "UNKNOWN"
        case _:
            return "DEFAULT"


def _etag(decision: Decision, flags: list[Evaluation | Failure], asked: FlagContext, now: float) -> str:
    """A tag of the results and the whole context; the decision's own id is none of the results."""
    results = [
        replace(flag, metadata={"reason": flag.metadata["reason"]}) if isinstance(flag, Evaluation) else flag
        for flag in flags
    ]
    whole = (results, decision.answer.plan, asked.customer, asked.channel, asked.context, int(now // ETAG_SECONDS))
    return f'"{blake2b(_stable(whole), digest_size=16).hexdigest()}"'


def _matches(sent: str, etag: str) -> bool:
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in sent.split(","))


def _unreadable(refusal: Refusal, path: Mapping[str, object]) -> Reply | None:
    """A body that could not be read, in the protocol's form under the status that says why."""
    if refusal.status not in UNREADABLE:
        return None
    key = path.get("key")
    failure = Failure("PARSE_ERROR", refusal.detail, key if isinstance(key, str) else msgspec.UNSET)
    return Reply(_encode(failure), refusal.status, ((b"content-type", JSON), *refusal.headers))


def _failed(error: Exception, key: str | msgspec.UnsetType) -> Reply:
    match error:
        case NotEvaluated():
            return Reply(
                _encode(Failure(error.code, error.details, key)), 404 if error.code == "FLAG_NOT_FOUND" else 400
            )
        case BadInput():
            return Reply(_encode(Failure("INVALID_CONTEXT", str(error), key)), 400)
        case Refusal():
            if error.status < 500:
                raise error
            return Reply(
                _encode(Failure("GENERAL", error.detail, key)), error.status, ((b"content-type", JSON), *error.headers)
            )
        case _:
            log.error("evaluation failed", key=str(key), exc_info=error)
            return Reply(_encode(Failure("GENERAL", "the engine failed on this request; its log says why", key)), 500)
