"""OpenFeature Remote Evaluation Protocol 0.3.0: serves the plan's experiments and flags to any OpenFeature SDK.

A flag that is the same for everyone is evaluated without knowing the customer; any other needs `targetingKey`. The
single evaluation is an exposure. The bulk one is a prefetch: its exposures are reported to `/v1/exposures`.
"""

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
from engine.service.auth import PROOF_HEADER, RequestGuard
from engine.service.decision_flow import DecisionFlow, DecisionTask, new_task, result_of
from engine.service.http import JSON, Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.problems import Refusal, decode_body
from engine.service.worker import Worker

DEFAULT_CHANNEL = "web"
ETAG_SECONDS = 43_200
"""ETags change this often: exposures of a prefetched decision are taken for a day, so clients need a new one before."""

UNREADABLE = frozenset((400, 408, 413, 415))
"""Statuses of a body that could not be read, which the protocol calls PARSE_ERROR."""

EvaluationReason = Literal["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN", "DEFAULT"]
ErrorCode = Literal["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL", "FLAG_NOT_FOUND"]

log = structlog.get_logger(__name__)

NOBODY = Profile(id="", unit="-")
"""The profile for flags that are the same for everyone."""


class EvaluationRequest(msgspec.Struct, frozen=True):
    """The body of both endpoints: `targetingKey`, and the attributes that conditions read."""

    context: dict[str, object] = {}


class Evaluation(msgspec.Struct, frozen=True):
    """One evaluated flag. Without `value` the default in the caller's code applies."""

    key: str
    reason: EvaluationReason
    variant: str
    metadata: Mapping[str, str | float | bool]
    value: object = msgspec.UNSET


class Failure(msgspec.Struct, frozen=True):
    """A flag that could not be evaluated; without `key`, all flags of the request."""

    errorCode: ErrorCode  # noqa: N815 (the protocol's name)
    errorDetails: str  # noqa: N815 (the protocol's name)
    key: str | msgspec.UnsetType = msgspec.UNSET


class Evaluations(msgspec.Struct, frozen=True):
    """All flags of the channel."""

    flags: list[Evaluation | Failure]
    metadata: Mapping[str, str]


class NotEvaluated(Exception):
    """Ends an evaluation with one of the protocol's error codes."""

    def __init__(self, code: ErrorCode, details: str) -> None:
        super().__init__(details)
        self.code: ErrorCode = code
        self.details = details


class FlagContext(msgspec.Struct, frozen=True):
    """The customer and the channel of a request, and the attributes that conditions read."""

    customer: CustomerIds
    channel: str
    attributes: dict[str, object]

    @property
    def is_anonymous(self) -> bool:
        """Whether the request has no identifier of the customer."""
        return not any(getattr(self.customer, name) for name in self.customer.__struct_fields__)


_decoder = msgspec.json.Decoder(EvaluationRequest)
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def ofrep_routes(worker: Worker, flow: DecisionFlow, guard: RequestGuard, limit: int) -> list[Route]:
    """The single and the bulk evaluation."""

    async def single(call: Call) -> Reply:
        key = str(call.path["key"])
        try:
            return Reply(_encode(await _evaluate_flag(worker, flow, call, key)))
        except Exception as error:  # noqa: BLE001 (the protocol has its own form for every failure)
            return _failure_reply(error, key)

    async def bulk(call: Call) -> Reply:
        try:
            return await _evaluate_channel(worker, flow, call)
        except Exception as error:  # noqa: BLE001 (the protocol has its own form for every failure)
            return _failure_reply(error, msgspec.UNSET)

    return [
        endpoint(path, {"POST": handler}, limit=limit, guard=guard, format_refusal=_parse_failure)
        for path, handler in (
            ("/ofrep/v1/evaluate/flags/{key:str}", single),
            ("/ofrep/v1/evaluate/flags", bulk),
        )
    ]


async def _evaluate_flag(worker: Worker, flow: DecisionFlow, call: Call, key: str) -> Evaluation:
    """Evaluate one flag; for a known customer it counts as exposed."""
    began = time.perf_counter()
    plan = worker.plan
    context = _read_context(call, plan)
    experiment = plan.experiments.get(key)
    if experiment is None:
        raise NotEvaluated("FLAG_NOT_FOUND", f"{key!r} is no experiment or flag of the running plan; check its key")
    now = time.time()
    if context.is_anonymous and not is_same_for_everyone(plan, experiment, context, now):
        raise NotEvaluated("TARGETING_KEY_MISSING", _needs_targeting_key(key))
    expose = not context.is_anonymous
    decision = await _decide_flags(flow, context, [key], now, expose=expose)
    worker.recorder.append(records_of(decision, now, expose=expose))
    worker.metrics.count_decision(decision, time.perf_counter() - began)
    return describe_evaluation(decision, decision.assigned[key])


async def _evaluate_channel(worker: Worker, flow: DecisionFlow, call: Call) -> Reply:
    """Evaluate all flags of the channel; 304 if nothing changed since the ETag that the client has."""
    began = time.perf_counter()
    plan = worker.plan
    context = _read_context(call, plan)
    now = time.time()
    experiments = [
        experiment
        for experiment in plan.experiments.values()
        if experiment.spec.channels is None or context.channel in experiment.spec.channels
    ]
    keys = [e.key for e in experiments if not context.is_anonymous or is_same_for_everyone(plan, e, context, now)]
    decision = await _decide_flags(flow, context, keys, now, expose=False)
    flags: list[Evaluation | Failure] = [
        describe_evaluation(decision, decision.assigned[e.key])
        if e.key in decision.assigned
        else Failure("TARGETING_KEY_MISSING", _needs_targeting_key(e.key), e.key)
        for e in experiments
    ]
    etag = _etag(decision, flags, context, now)
    headers = ((b"content-type", JSON), (b"etag", etag.encode()))
    if _matches(call.header(b"if-none-match"), etag):
        return Reply(b"", 304, headers[1:])  # not recorded: the client goes on using the decision it has
    if not context.is_anonymous:
        await flow.store_pending_exposure(decision)
    worker.recorder.append(records_of(decision, now, expose=False))
    worker.metrics.count_decision(decision, time.perf_counter() - began)
    answer = Evaluations(flags, {"decisionId": decision.answer.decision_id, "planVersion": plan.version})
    return Reply(_encode(answer), headers=headers)


async def _decide_flags(
    flow: DecisionFlow, context: FlagContext, keys: list[str], now: float, *, expose: bool
) -> Decision:
    """Decide the experiments `keys`; without the store if the customer is unknown."""
    request = DecideRequest(
        customer=context.customer,
        channel=context.channel,
        experiments=keys,
        context=context.attributes,
        expose=expose,
    )
    if context.is_anonymous:
        return flow.evaluate(DecisionTask(request, now, new_id(now)), NOBODY)
    [decided] = await flow.decide_with_store([new_task(request, now, new_id(now, ahead=not expose))])
    return result_of(decided).decision


def _read_context(call: Call, plan: Plan) -> FlagContext:
    """Decode the body.

    `targetingKey` is the customer's user id, unless the context gives the same as `anonymousId` or `deviceId`, or gives
    another `userId`: then it is the visitor's.
    """
    try:
        context = decode_body(_decoder, call.body).context
    except Refusal as refusal:
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
    call.caller.require_proof(customer, call.header(PROOF_HEADER))
    channel = _text(context, "channel") or (DEFAULT_CHANNEL if DEFAULT_CHANNEL in plan.channels else min(plan.channels))
    if channel not in plan.channels:
        raise NotEvaluated(
            "INVALID_CONTEXT",
            f"context.channel: {channel!r} is not a channel; use one of {', '.join(sorted(plan.channels))}",
        )
    return FlagContext(customer, channel, {name: value for name, value in context.items() if name != "targetingKey"})


def _text(context: Mapping[str, object], *names: str) -> str | None:
    """The first of the named attributes that is set."""
    for name in names:
        value = context.get(name)
        if value is not None and not isinstance(value, str):
            raise NotEvaluated("INVALID_CONTEXT", f"context.{name}: {value!r} is not a string; send it as one")
        if value:
            return value
    return None


def _needs_targeting_key(key: str) -> str:
    return f"{key} depends on the customer; send context.targetingKey"


def is_same_for_everyone(plan: Plan, experiment: Experiment, context: FlagContext, now: float) -> bool:
    """Whether every customer gets the same, so that the flag can be evaluated without knowing which."""
    spec = experiment.spec
    if spec.status != "running" or experiment.key in plan.paused or not experiment.start <= now < experiment.end:
        return True
    if spec.unit == "store" and isinstance(context.attributes.get("store"), str):
        return not experiment.holdouts and not experiment.prerequisites
    has_one_variant = experiment.ranges(now) == ((0.0, 1.0),)
    return has_one_variant and not (experiment.layer or experiment.holdouts or experiment.prerequisites or spec.sticky)


def describe_evaluation(decision: Decision, assigned: Assigned) -> Evaluation:
    """An assigned experiment or flag in the protocol's form; the engine's own reason is in the metadata."""
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

    If any variant's value is a float, integers become floats too: SDKs reject a flag whose type changes. Null is
    returned as no value.
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
    """The protocol's reason for the engine's."""
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


def _etag(decision: Decision, flags: list[Evaluation | Failure], context: FlagContext, now: float) -> str:
    """A digest of the results and the context, without the decision's id, which is always new."""
    results = [
        replace(flag, metadata={"reason": flag.metadata["reason"]}) if isinstance(flag, Evaluation) else flag
        for flag in flags
    ]
    period = int(now // ETAG_SECONDS)
    whole = (results, decision.answer.plan, context.customer, context.channel, context.attributes, period)
    return f'"{blake2b(_encode_sorted(whole), digest_size=16).hexdigest()}"'


def _matches(if_none_match: str, etag: str) -> bool:
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in if_none_match.split(","))


def _parse_failure(refusal: Refusal, path: Mapping[str, object]) -> Reply | None:
    """The protocol's form of a body that could not be read, under the status that says why."""
    if refusal.status not in UNREADABLE:
        return None
    key = path.get("key")
    failure = Failure("PARSE_ERROR", refusal.detail, key if isinstance(key, str) else msgspec.UNSET)
    return Reply(_encode(failure), refusal.status, ((b"content-type", JSON), *refusal.headers))


def _failure_reply(error: Exception, key: str | msgspec.UnsetType) -> Reply:
    """The protocol's form of an error; refusals of the caller (401, 403, 429) stay problems, as the protocol wants."""
    match error:
        case NotEvaluated():
            status = 404 if error.code == "FLAG_NOT_FOUND" else 400
            return Reply(_encode(Failure(error.code, error.details, key)), status)
        case BadInput():
            return Reply(_encode(Failure("INVALID_CONTEXT", str(error), key)), 400)
        case Refusal() if error.status < 500:
            raise error
        case Refusal():
            headers = ((b"content-type", JSON), *error.headers)
            return Reply(_encode(Failure("GENERAL", error.detail, key)), error.status, headers)
        case _:
            log.error("evaluation failed", key=str(key), exc_info=error)
            failure = Failure("GENERAL", "the engine failed on this request; its log has the error", key)
            return Reply(_encode(failure), 500)
