"""OpenFeature Remote Evaluation Protocol 0.3.0: serves the plan's experiments and flags to any OpenFeature SDK.

A flag that is the same for everyone is evaluated without knowing the customer; any other needs `targetingKey`. The
single evaluation is an exposure. The bulk one is a prefetch: its exposures are reported to `/v1/exposures`.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b

import msgspec
import structlog
from msgspec.structs import replace

from engine.catalog.plan.plan import Experiment, Plan
from engine.catalog.spec.identifiers import absence_warning, is_placeholder
from engine.catalog.spec.units import Unit
from engine.customer import Profile
from engine.decision.assign import is_same_for_everyone
from engine.decision.decision import DecideRequest, Decision
from engine.decision.units import units_in_context
from engine.errors import BadInput
from engine.service.access.client_statements import worth_in_context
from engine.service.auth import PROOF_HEADER, Caller, RequestGuard
from engine.service.decide_body import build_request, decode_context
from engine.service.decision_flow import DecisionFlow
from engine.service.decision_task import DecisionTask, new_task, result_of, unit_as_customer
from engine.service.document.schemas import LONGEST_NAME
from engine.service.endpoints.flag_answers import (
    ErrorCode,
    Failure,
    FlagAnswers,
    Metadata,
    RecentPrefetches,
    encode_evaluation,
)
from engine.service.endpoints.flag_stream import STREAM_PATH
from engine.service.http import JSON, Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.previews.decisions import decide_preview
from engine.service.previews.tokens import ATTRIBUTE, HEADER
from engine.service.problems import Refusal
from engine.service.worker import Worker

DEFAULT_CHANNEL = "web"
ETAG_SECONDS = 43_200
"""ETags change this often: exposures of a prefetched decision are taken for a day, so clients need a new one before."""

UNREADABLE = frozenset((400, 408, 413, 415))
"""Statuses of a body that could not be read, which the protocol calls PARSE_ERROR."""

LONGEST = 2.0**63
"""A whole number has at most 64 bits."""

log = structlog.get_logger(__name__)

NOBODY = Profile(id="", unit="-")
"""The profile for flags that are the same for everyone."""


class NotEvaluated(Exception):
    """Ends an evaluation with one of the protocol's error codes."""

    def __init__(self, code: ErrorCode, details: str) -> None:
        super().__init__(details)
        self.code: ErrorCode = code
        self.details = details


class FlagContext(msgspec.Struct, frozen=True):
    """The equivalent `/v1/decide` request of the same customer, without experiments yet.

    `warning` says which attributes were not used as the identifier or the channel that their names stand for. `preview`
    is the token of a preview, if one was sent.
    """

    request: DecideRequest
    warning: str
    preview: str = ""

    @property
    def is_anonymous(self) -> bool:
        """Whether the request has no identifier of the customer."""
        customer = self.request.customer
        return not any(getattr(customer, name) for name in customer.__struct_fields__)

    def units(self, plan: Plan) -> Mapping[Unit, str]:
        """The store and other units that the request itself names, without ids of customers and devices."""
        return units_in_context(plan.unit_traits, self.request.context, plan.rules.placeholders)


_encode = msgspec.json.Encoder().encode
_STREAMS = _encode([{"type": "sse", "endpoint": {"requestUri": STREAM_PATH}, "inactivityDelaySec": 120}])
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def ofrep_routes(worker: Worker, flow: DecisionFlow, guard: RequestGuard, limit: int) -> list[Route]:
    """The routes of the single and the bulk evaluation."""
    answers, recent = FlagAnswers(), RecentPrefetches()

    async def single(call: Call) -> Reply:
        key = str(call.path["key"]).removeprefix("/")
        try:
            return Reply(await _evaluate_flag(worker, flow, answers, call, key))
        except Exception as error:  # noqa: BLE001 (the protocol has its own form for every failure)
            return _failure_reply(error, key)

    async def bulk(call: Call) -> Reply:
        try:
            return await _evaluate_channel(worker, flow, answers, recent, call)
        except Exception as error:  # noqa: BLE001 (the protocol has its own form for every failure)
            return _failure_reply(error, msgspec.UNSET)

    return [
        endpoint(path, {"POST": handler}, limit=limit, guard=guard, format_refusal=_parse_failure)
        for path, handler in (
            ("/ofrep/v1/evaluate/flags/{key:path}", single),
            ("/ofrep/v1/evaluate/flags", bulk),
        )
    ]


async def _evaluate_flag(worker: Worker, flow: DecisionFlow, answers: FlagAnswers, call: Call, key: str) -> bytes:
    """Evaluate one flag; a known customer counts as exposed."""
    began = time.perf_counter()
    plan = worker.plan
    context = _read_context(call, plan)
    experiment = plan.experiments.get(key)
    if context.preview:
        decision = await _preview_flags(worker, context, [key])
        return _encode_preview(answers, decision, context, key)
    if experiment is None:
        raise NotEvaluated("FLAG_NOT_FOUND", f"{key!r} is not an experiment or flag of the running plan; check its key")
    now = time.time()
    if context.is_anonymous and not is_same_for_everyone(plan, experiment, context.units(plan), now):
        raise NotEvaluated("TARGETING_KEY_MISSING", _needs_targeting_key(key))
    context = _for_unit(context, [experiment], context.units(plan))
    expose = not context.is_anonymous
    decision = await _decide_flags(flow, context, [key], now)
    flow.answers.record_flags(decision, now, expose=expose)
    worker.metrics.count_decision(decision, time.perf_counter() - began)
    assigned, answer = decision.assigned[key], decision.answer
    metadata = Metadata(answer.decision_id, answer.plan, context.warning).encoded(assigned.assignment)
    return encode_evaluation(answers.encoded(assigned), metadata)


async def _evaluate_channel(
    worker: Worker, flow: DecisionFlow, answers: FlagAnswers, recent: RecentPrefetches, call: Call
) -> Reply:
    """Evaluate all flags of the channel; 304 if nothing changed since the client's ETag."""
    began = time.perf_counter()
    deadline = flow.new_deadline()
    plan = worker.plan
    context = _read_context(call, plan)
    now = time.time()
    experiments = [
        experiment
        for experiment in plan.experiments.values()
        if experiment.spec.channels is None or context.request.channel in experiment.spec.channels
    ]
    is_known = not context.is_anonymous
    units = {} if is_known else context.units(plan)
    keys = [e.key for e in experiments if is_known or is_same_for_everyone(plan, e, units, now)]
    context = _for_unit(context, [plan.experiments[key] for key in keys], units)
    if context.preview:
        decision = await _preview_flags(worker, context, keys)
    else:
        decision = await _decide_flags(flow, context, keys, now, deadline=deadline)
    shown = list(dict.fromkeys([*(e.key for e in experiments), *decision.assigned]))
    etag = _etag([_digest_flag(answers, decision, key) for key in shown], context, now)
    headers = ((b"content-type", JSON), (b"etag", etag.encode()))
    if _matches(call.header(b"if-none-match"), etag):
        return Reply(b"", 304, headers[1:])  # not recorded: the client goes on using the decision it has
    decision_id = None if context.preview else recent.find(etag)
    if decision_id is None:
        decision_id = decision.answer.decision_id
        if not context.preview:
            if not context.is_anonymous:
                await flow.store_pending_exposure(decision, deadline)
            flow.answers.record_flags(decision, now, expose=False)
            if not (decision.answer.degraded or decision.erased):
                recent.add(etag, decision_id)
    worker.metrics.count_decision(decision, time.perf_counter() - began)
    metadata = Metadata(decision_id, plan.version, context.warning)
    flags = b",".join(_encode_flag_of(answers, decision, key, metadata) for key in shown)
    whole = _encode({"decisionId": decision_id, "planVersion": plan.version})
    body = b'{"flags":[%b],"metadata":%b,"eventStreams":%b}' % (flags, whole, _STREAMS)
    return Reply(body, headers=headers)


def _digest_flag(answers: FlagAnswers, decision: Decision, key: str) -> bytes:
    """A digest of one flag's result; a failure is digested as it is."""
    assigned = decision.assigned.get(key)
    return _encode_failure(key) if assigned is None else answers.encoded(assigned).digest


def _encode_flag_of(answers: FlagAnswers, decision: Decision, key: str, metadata: Metadata) -> bytes:
    """One flag of a decision as JSON."""
    assigned = decision.assigned.get(key)
    if assigned is None:
        return _encode_failure(key)
    return encode_evaluation(answers.encoded(assigned), metadata.encoded(assigned.assignment))


def _encode_failure(key: str) -> bytes:
    """The answer for a flag that cannot be evaluated without a customer."""
    return _encode(Failure("TARGETING_KEY_MISSING", _needs_targeting_key(key), key))


async def _decide_flags(
    flow: DecisionFlow, context: FlagContext, keys: list[str], now: float, *, deadline: float | None = None
) -> Decision:
    """Decide the experiments `keys`, without the store if the customer is unknown; with a deadline as a prefetch."""
    expose = deadline is None and not context.is_anonymous
    request = replace(context.request, experiments=keys, expose=expose)
    if context.is_anonymous:
        return flow.evaluate(DecisionTask(request=request, now=now, decision_id=new_id(now)), NOBODY)
    [decided] = await flow.decide_with_store([new_task(request, now, new_id(now, ahead=not expose), deadline=deadline)])
    return result_of(decided).decision


async def _preview_flags(worker: Worker, context: FlagContext, keys: list[str]) -> Decision:
    """Decide by a preview token: the experiments `keys`, and those that the token forces on the channel."""
    request = replace(context.request, experiments=keys, expose=False)
    profile = NOBODY if context.is_anonymous else None
    seconds = worker.settings.store_timeout
    return await decide_preview(worker, request, context.preview, seconds=seconds, profile=profile, adds_forced=True)


def _encode_preview(answers: FlagAnswers, decision: Decision, context: FlagContext, key: str) -> bytes:
    """One flag of a preview, as JSON."""
    assigned = decision.assigned.get(key)
    if assigned is None:
        raise NotEvaluated("FLAG_NOT_FOUND", f"{key!r} is not an experiment or flag of the running plan; check its key")
    answer = decision.answer
    metadata = Metadata(answer.decision_id, answer.plan, context.warning).encoded(assigned.assignment)
    return encode_evaluation(answers.encoded(assigned), metadata)


def _read_context(call: Call, plan: Plan) -> FlagContext:
    """Decode the body by the rules of `/v1/decide`.

    `targetingKey` is the customer's user id, unless the context gives the same as `anonymousId` or `deviceId`, or gives
    another `userId`: then it is the visitor's. Where an attribute cannot be the identifier or the channel that its name
    stands for, it is an attribute only: one attribute of a page never fails all flags of the page.
    """
    context = decode_context(call.body)
    key = context.get("targetingKey")
    if key is not None and not isinstance(key, str):
        raise BadInput(f"context.targetingKey: {key!r:.40} is not a string; send it as one")
    warnings: list[str] = []
    placeholders = plan.rules.placeholders
    if key and len(key) <= LONGEST_NAME and is_placeholder(key, None, placeholders):
        warnings.append(absence_warning("context.targetingKey", key))
        key = None
    user = _read_identifier(context, warnings, placeholders, "userId", "user_id")
    anonymous = _read_identifier(context, warnings, placeholders, "anonymousId", "anonymous_id")
    device = _read_identifier(context, warnings, placeholders, "deviceId", "device_id")
    if key not in (user, anonymous, device):
        if user is None:
            user = key or None
        elif anonymous is None:
            anonymous = key or None
    values = {
        "customer": {"user_id": user, "anonymous_id": anonymous, "device_id": device},
        "channel": _read_channel(context, plan, warnings),
        "context": {name: value for name, value in context.items() if name not in {"targetingKey", ATTRIBUTE}},
    }
    request = build_request(values)
    if call.caller.role == "client":
        request = _without_worth(request, plan, call.caller, warnings)
    token = call.header(HEADER) or context.get(ATTRIBUTE)
    flags = FlagContext(request, "; ".join(warnings), token if isinstance(token, str) else "")
    if not flags.is_anonymous:  # what needs no identifier has nobody to prove
        call.caller.require_proof(request.customer, call.header(PROOF_HEADER))
    return flags


def _for_unit(context: FlagContext, experiments: Sequence[Experiment], units: Mapping[Unit, str]) -> FlagContext:
    """The context with its store or other unit as the customer, if it names none and such a unit is tested.

    Otherwise an experiment on stores would have no exposure. The `experiments` are the same for everyone in the store.
    """
    tested = [unit for unit in units if any(experiment.spec.unit == unit for experiment in experiments)]
    if not context.is_anonymous or not tested:
        return context
    customer = unit_as_customer(tested[0], units[tested[0]])
    return replace(context, request=replace(context.request, customer=customer))


def _without_worth(request: DecideRequest, plan: Plan, caller: Caller, warnings: list[str]) -> DecideRequest:
    """The request without attributes that state the customer's worth, which a page may not send."""
    worth = worth_in_context(request.context, plan.audience_names, caller.may_say)
    if not worth:
        return request
    warnings += [f"context.{name}: states what the customer is worth; a server key may send it" for name in worth]
    dropped = {name.partition(".")[0] for name in worth}
    kept = {name: value for name, value in request.context.items() if name.partition(".")[0] not in dropped}
    return replace(request, context=kept)


def _read_identifier(
    context: Mapping[str, object], warnings: list[str], placeholders: Collection[str], *names: str
) -> str | None:
    """The first named attribute that is an identifier; a whole number counts as its digits."""
    for name in names:
        value = context.get(name)
        if isinstance(value, float) and value.is_integer() and -LONGEST <= value < 2 * LONGEST:
            value = int(value)  # 3013.0 is the same number in JSON
        if isinstance(value, str | int) and not isinstance(value, bool):
            if value == "":
                continue
            # A text that is too long is no identifier and no placeholder: the request is refused, as by `/v1/decide`.
            if len(str(value)) > LONGEST_NAME or not is_placeholder(str(value), None, placeholders):
                return str(value)
            warnings.append(absence_warning(f"context.{name}", value))
        elif value is not None:
            warnings.append(f"context.{name}: {value!r:.40} is not a string, so it identifies nobody")
    return None


def _read_channel(context: Mapping[str, object], plan: Plan, warnings: list[str]) -> str:
    """The context's channel, or the plan's default channel if it names none."""
    default = DEFAULT_CHANNEL if DEFAULT_CHANNEL in plan.channels else min(plan.channels)
    channel = context.get("channel") or default
    if isinstance(channel, str) and channel in plan.channels:
        return channel
    known = ", ".join(sorted(plan.channels))
    warnings.append(f"context.channel: {channel!r:.40} is not a channel ({known}), so the flags are those of {default}")
    return default


def _needs_targeting_key(key: str) -> str:
    """The error detail of a flag that cannot be evaluated without a customer."""
    return f"{key} depends on the customer; send context.targetingKey"


def _etag(digests: list[bytes], context: FlagContext, now: float) -> str:
    """A digest of the results and the request, without the decision's id and the plan's version.

    A comment in a YAML file is a new version and no new result.
    """
    parts = [_encode_sorted((context.request, context.warning, int(now // ETAG_SECONDS))), *digests]
    return f'"{blake2b(b"".join(parts), digest_size=16).hexdigest()}"'


def _matches(if_none_match: str, etag: str) -> bool:
    """Whether an `If-None-Match` header names the ETag; weak tags match too (RFC 9110, 13.1.2)."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in if_none_match.split(","))


def _parse_failure(refusal: Refusal, path: Mapping[str, object]) -> Reply | None:
    """The protocol's error for an unreadable body, with the status of the cause."""
    if refusal.status not in UNREADABLE:
        return None
    key = str(path.get("key", "")).removeprefix("/")
    failure = Failure("PARSE_ERROR", refusal.detail, key or msgspec.UNSET)
    return Reply(_encode(failure), refusal.status, ((b"content-type", JSON), *refusal.headers))


def _failure_reply(error: Exception, key: str | msgspec.UnsetType) -> Reply:
    """The protocol's form of an error; refusals of the caller (401, 403, 429) stay problem+json."""
    match error:
        case NotEvaluated():
            status = 404 if error.code == "FLAG_NOT_FOUND" else 400
            return Reply(_encode(Failure(error.code, error.details, key)), status)
        case BadInput():
            code: ErrorCode = "PARSE_ERROR" if str(error).startswith("body: ") else "INVALID_CONTEXT"
            return Reply(_encode(Failure(code, str(error), key)), 400)
        case Refusal() if error.status < 500:
            raise error
        case Refusal():
            headers = ((b"content-type", JSON), *error.headers)
            return Reply(_encode(Failure("GENERAL", error.detail, key)), error.status, headers)
        case _:
            log.error("evaluation failed", key=str(key), exc_info=error)
            failure = Failure("GENERAL", "the engine failed on this request; its log has the error", key)
            return Reply(_encode(failure), 500)
