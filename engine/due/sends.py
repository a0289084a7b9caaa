"""One message of one cause to one customer: its states and its stored form.

| state | is | from | when |
|---|---|---|---|
| none | never thought of, or a week old | | |
| drawn | a campaign's arm is drawn; its records may not be in a spool yet | none | the campaign's day comes |
| waiting | in the index of its channel until `at` | drawn, none | records are appended; a moment begins |
| silent | nothing is sent: the arm is silence | drawn | records are appended |
| leased | handed out under `decision_id` until `at` | waiting, leased | it is due; its lease has ended |
| sent | confirmed | leased | the sender confirms |
| dropped | not to be sent any more, for the reason `why` | waiting, leased | a gate closed it; it came too late |
| waiting | again | leased | the sender releases it, or a quiet hour begins |

Invariants:

- Every change names the value that it replaces (`replace.lua`), so of two processes one goes on.
- A message names the decisions whose claims may not be released yet (`unreleased_ids`) in the same change that makes
  them void: after a crash they are released again, which changes nothing if they were.
- A message is in the index before its state says so, and leaves it after its state does: what a crash leaves in the
  index is found there, and what it finds decides.
- The arm that counts is the one stored as `drawn`. Its records are stored with it and appended before it waits: after
  a crash they are appended again, and the collector drops the second copy (`service.ids.mark_repeatable`).

Format in Redis: a string, the msgpack array of `Send`'s fields in their order. It names nobody, except as `drawn`.
An erasure deletes it (`engine.due.erased`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from engine import keyspace
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, StoredValues, load_script
from engine.errors import UnreadableValueError
from engine.vocabulary import DAY

LIFE = 8 * DAY
"""Seconds after the end of its occurrence for which a message is remembered."""

SendState = Literal["drawn", "waiting", "silent", "leased", "sent", "dropped"]
SETTLED: frozenset[SendState] = frozenset(("silent", "sent", "dropped"))
"""The states from which nothing more is sent."""

_REPLACE = load_script(Path(__file__).with_name("replace.lua"))


class Send(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The state of a message (see the module). Times are seconds since 1970; `closes` is the end of its occurrence.

    `offers` and `exposes` are of the last lease: what was claimed, and the keys that a confirmation exposes.
    `owed` are earlier decisions whose claims are to be released.
    `taken` is when it last counted against the channel's capacity, `holder` who may take it back early.
    """

    occurrence: str
    state: SendState
    channel: str
    placement: str
    at: float
    closes: float
    decision_id: str = ""
    offers: list[str] = []
    exposes: list[str] = []
    taken: float = 0.0
    why: str = ""
    records: list[tuple[bytes, str]] = []
    holder: str = ""
    owed: list[str] = []


class SendKey(NamedTuple):
    """The customer and the cause of a message; in the index `KEY|CAUSE`."""

    key: ProfileKey
    cause: str

    @property
    def member(self) -> str:
        """The place as a member of a channel's index."""
        return f"{self.key}|{self.cause}"

    @classmethod
    def parse(cls, member: bytes) -> "SendKey":
        """The place of a member."""
        key, _, cause = member.decode().partition("|")
        return cls(key, cause)


class StoredSend(NamedTuple):
    """A message as read; a change of it must replace exactly `value`."""

    send: Send | None
    value: bytes


def unreleased_ids(send: Send) -> list[str]:
    """The decisions of a message whose unconfirmed claims may still have to be released."""
    is_void = send.state in ("waiting", "leased", "dropped") and send.decision_id
    return [*send.owed, send.decision_id] if is_void else send.owed


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Send).decode


async def read_sends(pipeline: RedisPipeline, places: Sequence[SendKey]) -> list[StoredSend]:
    """The messages of these places.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    found: list[StoredSend] = []
    for start in range(0, len(places), 500):
        part = places[start : start + 500]
        found += await pipeline.get([keyspace.due_message(*place) for place in part], _read)
    return found


async def replace_send(pipeline: RedisPipeline, place: SendKey, before: bytes, after: Send, now: float) -> bytes | None:
    """Store a message in place of the value `before`; returns the stored value, None if another process was faster.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    value, life = _encode(after), max(0.0, after.closes - now) + LIFE
    done = await pipeline.call(_REPLACE, [keyspace.due_message(*place)], (before, value, round(life * 1000)))
    return value if done else None


def _read(values: StoredValues) -> list[StoredSend]:
    try:
        return [StoredSend(None, b"") if value is None else StoredSend(_decode(value), value) for value in values]
    except msgspec.DecodeError as error:
        raise UnreadableValueError(f"stored message: {error}; was it written by a newer version?") from error
