"""The wire schema of every record: spool frames, stream entries and Parquet rows are made from it.

Records are msgpack arrays with their tag first, so fields are identified by position: add new ones at the end only.
"""

import functools
from typing import Literal

import msgspec

RowKind = Literal["experiment", "offer"]
PREVIEW_MARK = "v"
"""The 13th character of the id of a decision for the bearer of a preview, which has no record."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):  # records hold no cycles
    """One entry of the log. Times are seconds since 1970, UTC."""


class CreativeRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The creative of an offer; `propensity` is its probability given the offer, among these candidates."""

    key: str
    propensity: float
    candidates: list[str]
    policy: str | None = None


class DecisionRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One experiment or placement of an answered decision.

    `propensity` is the probability with which `variant` was chosen among `candidates`, times that of its `creative`
    where it has one; `offer_propensity` is that of the variant alone. `context` holds what the
    policies of the placement read, whichever of them chose, or the traits that reports of the experiment need.
    """

    kind: RowKind
    key: str
    variant: str | None
    reason: str
    propensity: float
    candidates: list[str] = []
    context: dict[str, str | int | float | bool | None] = {}
    policy: str | None = None
    crossover: bool = False
    version: str = ""  # the bucket version of an experiment: exposures are counted per version
    position: int = 0  # of a list's item, from 1; its propensity is given the offers above it
    joint: float = 0.0  # the probability of the item's whole list
    creative: CreativeRow | None = None

    @property
    def offer_propensity(self) -> float:
        """The probability of the variant, whichever creative of it is shown."""
        return self.propensity if self.creative is None else self.propensity / self.creative.propensity


class DecisionRecord(Record, frozen=True, array_like=True, gc=False, tag="decision"):
    """An answered decision. It is in the spool before its answer leaves."""

    decision_id: str
    time: float
    customer: str
    device: str | None
    channel: str
    plan: str
    rows: list[DecisionRow]
    trace: bytes = b""  # see `traces`


class EncodedRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `DecisionRow` for the log, whose candidates stay encoded: they are half of a row, and often equal."""

    kind: RowKind
    key: str
    variant: str | None
    reason: str
    propensity: float
    candidates: msgspec.Raw = msgspec.Raw(b"\x90")
    context: dict[str, str | int | float | bool | None] = {}
    policy: str | None = None
    crossover: bool = False
    version: str = ""
    position: int = 0
    joint: float = 0.0
    creative: CreativeRow | None = None

    @property
    def offer_propensity(self) -> float:
        """The probability of the variant, whichever creative of it is shown."""
        return self.propensity if self.creative is None else self.propensity / self.creative.propensity


class LoggedDecision(Record, frozen=True, array_like=True, gc=False, tag="decision"):
    """A `DecisionRecord` for the log."""

    decision_id: str
    time: float
    customer: str
    device: str | None
    channel: str
    plan: str
    rows: list[EncodedRow]
    trace: bytes = b""


class UntracedDecision(Record, frozen=True, array_like=True, gc=False, tag="decision"):
    """A `DecisionRecord` for the learner, without its trace."""

    decision_id: str
    time: float
    customer: str
    device: str | None
    channel: str
    plan: str
    rows: list[EncodedRow]


class ExposureRecord(Record, frozen=True, array_like=True, gc=False, tag="exposure"):
    """The customer saw the decisions under `keys`: experiments, placements, or items of lists (`home_row[2]`)."""

    decision_id: str
    time: float
    customer: str
    keys: list[str]


class EventRecord(Record, frozen=True, array_like=True, gc=False, tag="event"):
    """An event of a customer: `time` is when it happened by the corrected clock, `received` when it arrived."""

    message_id: str
    time: float
    received: float
    customer: str
    event: str
    decision_id: str | None
    channel: str | None
    revenue: float | None
    properties: bytes  # JSON text as received


class RewardRecord(Record, frozen=True, array_like=True, gc=False, tag="reward"):
    """A reward joined to the decision that earned it; a correction carries the same id and key, later in the log.

    The key is that of a placement, or names the item of a list.
    """

    decision_id: str
    key: str
    reward: float
    time: float


class QuarantineRecord(Record, frozen=True, array_like=True, gc=False, tag="quarantine"):
    """A record that could not be used, with the reason."""

    time: float
    reason: str
    source: str
    body: bytes


AnyRecord = DecisionRecord | ExposureRecord | EventRecord | RewardRecord | QuarantineRecord

LoggedRecord = LoggedDecision | ExposureRecord | EventRecord | RewardRecord | QuarantineRecord

LearnerRecord = UntracedDecision | ExposureRecord | EventRecord | RewardRecord | QuarantineRecord

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)

_logged_decoder: msgspec.msgpack.Decoder[LoggedRecord] = msgspec.msgpack.Decoder(LoggedRecord)
_learner_decoder: msgspec.msgpack.Decoder[LearnerRecord] = msgspec.msgpack.Decoder(LearnerRecord)
_candidates_decoder = msgspec.msgpack.Decoder(list[str])


def encode(record: AnyRecord) -> bytes:
    """The record as msgpack: an array with its tag first."""
    return _encoder.encode(record)


def decode(payload: bytes) -> AnyRecord:
    """The record of `encode`d bytes.

    Raises:
        msgspec.DecodeError: if the bytes are not a record that this version knows.
    """
    return _decoder.decode(payload)


def decode_for_log(payload: bytes) -> LoggedRecord:
    """Decodes a record except a decision's candidates, which `candidates_of` decodes."""
    return _logged_decoder.decode(payload)


def decode_for_learner(payload: bytes) -> LearnerRecord:
    """Decodes a record except a decision's candidates, and skips its trace."""
    return _learner_decoder.decode(payload)


def candidates_of(row: DecisionRow | EncodedRow) -> list[str]:
    """The candidates of a row. Rows with equal candidates share one list, which must not be changed.

    Raises:
        msgspec.DecodeError: if they are no list of text.
    """
    return row.candidates if isinstance(row, DecisionRow) else _decode_candidates(bytes(row.candidates))


@functools.lru_cache(maxsize=4096)
def _decode_candidates(encoded: bytes) -> list[str]:
    return _candidates_decoder.decode(encoded)
