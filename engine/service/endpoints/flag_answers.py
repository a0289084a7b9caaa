"""Flags in the protocol's form, encoded once per variant and reason: a request adds only its own metadata.

`encode` writes what the structs below say; the form of an experiment lasts as long as its compiled experiment.
"""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec

from engine.catalog.plan.plan import Experiment
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.flags import RULE
from engine.decision.assign import Assignment, AssignmentReason
from engine.decision.experiments import Assigned

EvaluationReason = Literal["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN", "DEFAULT"]
ErrorCode = Literal["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL", "FLAG_NOT_FOUND"]

_MARK = b'"metadata":{}'
_encode = msgspec.json.Encoder().encode


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


class EncodedFlag(NamedTuple):
    """A flag's JSON before and after its metadata, and a digest of both."""

    head: bytes
    tail: bytes
    digest: bytes


class Metadata:
    """The metadata of a request's flags, which differ only in the engine's reason and rule."""

    __slots__ = ("_by_reason", "_decision_id", "_plan", "_warning")

    def __init__(self, decision_id: str, plan: str, warning: str) -> None:
        self._decision_id, self._plan, self._warning = decision_id, plan, warning
        self._by_reason: dict[tuple[AssignmentReason, str], bytes] = {}

    def encoded(self, assignment: Assignment) -> bytes:
        """The metadata of a flag with this assignment: its reason, and the name of the deciding rule."""
        rule = assignment.rule.key.rpartition(RULE)[2] if assignment.rule else ""
        known = self._by_reason.get((assignment.reason, rule))
        if known is None:
            fields = {"decisionId": self._decision_id, "reason": assignment.reason, "planVersion": self._plan}
            fields |= ({"rule": rule} if rule else {}) | ({"warning": self._warning} if self._warning else {})
            known = self._by_reason[assignment.reason, rule] = _encode(fields)
        return known


class FlagAnswers:
    """The encoded answers of the running plan's experiments."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[Experiment, dict[tuple[AssignmentReason, int, str], EncodedFlag]]] = {}

    def encoded(self, assigned: Assigned) -> EncodedFlag:
        """The encoded answer of an assigned experiment or flag."""
        experiment, assignment = assigned.experiment, assigned.assignment
        known = self._forms.get(experiment.key)
        if known is None or known[0] is not experiment:  # the plan was swapped
            known = self._forms[experiment.key] = (experiment, {})
        rule = assignment.rule.key if assignment.rule else ""
        forms, at = known[1], (assignment.reason, assignment.index, rule)
        form = forms.get(at)
        if form is None:
            form = forms[at] = _encode_flag(assigned)
        return form


class RecentPrefetches:
    """The decision ids of recent bulk evaluations by ETag, so that equal results get the same id.

    The decision with that id is in the log, and awaits its exposures until after the ETag changes.
    """

    MOST = 10_000

    def __init__(self) -> None:
        self._ids: OrderedDict[str, str] = OrderedDict()

    def find(self, etag: str) -> str | None:
        """The id of the decision with these results, if this process recorded one."""
        return self._ids.get(etag)

    def add(self, etag: str, decision_id: str) -> None:
        """Remember a recorded decision, and forget the oldest."""
        self._ids[etag] = decision_id
        if len(self._ids) > self.MOST:
            self._ids.popitem(last=False)


def encode_evaluation(flag: EncodedFlag, metadata: bytes) -> bytes:
    """One `Evaluation` as JSON."""
    return b'%b"metadata":%b%b' % (flag.head, metadata, flag.tail)


def flag_value(spec: ExperimentSpec, index: int) -> object:
    """The variant's value: X of a payload `{value: X}`, else the payload, or the key if no variant has a payload.

    If any variant's value is a float, integers become floats too: SDKs reject a flag whose type changes. Null is
    returned as no value.
    """
    payload = spec.variants[index].payload
    if payload == {"value": None}:
        return msgspec.UNSET
    if spec.type == "object":
        return payload
    if not any(variant.payload for variant in spec.variants):
        return spec.variants[index].key
    if payload.keys() != {"value"}:
        return payload
    value = payload["value"]
    if type(value) is int and any(type(variant.payload.get("value")) is float for variant in spec.variants):
        return float(value)
    return value


def _encode_flag(assigned: Assigned) -> EncodedFlag:
    """The encoded answer of an assigned experiment; the digest includes the engine's reason, as the metadata do."""
    experiment, assignment = assigned.experiment, assigned.assignment
    value = flag_value(experiment.spec, assignment.index) if assignment.index >= 0 else msgspec.UNSET
    reason = _reason(experiment.spec, assigned)
    encoded = _encode(Evaluation(experiment.key, reason, assigned.variant or "", {}, value))
    head, _, tail = encoded.partition(_MARK)  # texts escape their quotes, so the first mark is the field
    rule = assignment.rule.key if assignment.rule else ""
    return EncodedFlag(head, tail, blake2b(encoded + f"{assignment.reason}\0{rule}".encode(), digest_size=16).digest())


def _reason(spec: ExperimentSpec, assigned: Assigned) -> EvaluationReason:
    """The protocol's name for the engine's reason."""
    match assigned.assignment.reason:
        case "rule":
            return "TARGETING_MATCH" if assigned.logged.spec.audience or assigned.logged.prerequisites else "STATIC"
        case "default":
            return "DEFAULT" if assigned.experiment.rules else "STATIC"
        case "assigned" | "sticky":
            spec = assigned.logged.spec
            if len(spec.variants) > 1 or spec.coverage < 1 or spec.ramp:
                return "SPLIT"
            return "TARGETING_MATCH" if spec.audience or spec.prerequisites else "STATIC"
        case "shipped":
            return "TARGETING_MATCH" if spec.audience or spec.prerequisites else "STATIC"
        case "forced" | "preview":
            return "TARGETING_MATCH"
        case "paused" | "not_started" | "ended":
            return "DISABLED"
        case "degraded":
            return "UNKNOWN"
        case _:
            return "DEFAULT"
