"""Writes records to this worker's spool, each into its customer's partition.

A record is durable, by the spool's own rules, when `append` returns: a handler appends first and
answers afterwards. A full or deleted disk raises, so no answer leaves without its record, except where
the operator set `full_disk: answer`: then decisions are degraded and answered without one, and counted.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from engine.customers.model.events import Accepted
from engine.errors import JournalError
from engine.journal.records import DecisionRecord, EventRecord, ExposureRecord, encode
from engine.journal.spool.spool import Spool, partition_of
from engine.service.problems import DISK_RETRY_SECONDS, Refusal, refuse_for_now

SpoolRecord = DecisionRecord | ExposureRecord | EventRecord
Payloads = list[tuple[bytes, str]]
"""Encoded records, each with the customer that chooses its partition."""

_encode_json = msgspec.json.Encoder().encode


class Recorder:
    """The only writer of a worker's spool."""

    def __init__(self, spool: Spool, partitions: int, *, when_full: Literal["refuse", "answer"] = "refuse") -> None:
        self._spool = spool
        self._partitions = partitions
        self.is_optional = when_full == "answer"
        """Whether decisions are answered without a record while the disk takes none."""

    def has_space(self) -> bool:
        """Whether the disk takes records now; checked first, so that no answer makes claims that cannot be sent.

        Raises:
            Refusal: 503 if it does not, and decisions need a record.
        """
        try:
            self._spool.check_space()
        except JournalError as error:
            if self.is_optional:
                return False
            raise _refuse(error) from error
        return True

    def append(self, records: Sequence[SpoolRecord]) -> None:
        """Append records to the spool, in one write.

        Raises:
            Refusal: 503 if the disk takes no more.
        """
        self.append_encoded(encode_records(records))

    def append_encoded(self, payloads: Payloads) -> None:
        """Append encoded records in one write. Errors as in `append`."""
        partitions = self._partitions
        try:
            self._spool.append_many([(payload, partition_of(customer, partitions)) for payload, customer in payloads])
        except JournalError as error:
            raise _refuse(error) from error

    async def append_events(self, events: list[Accepted]) -> None:
        """Append accepted events: the journal of `ProfileStore`, which calls it before a profile changes."""
        self.append([_event_record(event) for event in events])


def encode_records(records: Sequence[SpoolRecord]) -> Payloads:
    """The records as `Recorder.append_encoded` takes them."""
    return [(encode(record), record.customer) for record in records]


def _refuse(error: JournalError) -> Refusal:
    return refuse_for_now(f"the spool: {error.reason}", seconds=DISK_RETRY_SECONDS)


def _event_record(event: Accepted) -> EventRecord:
    """The log's record of an accepted event."""
    return EventRecord(
        message_id=event.message_id,
        time=event.time,
        received=event.received,
        customer=event.customer,
        event=event.event,
        decision_id=event.decision_id,
        channel=event.channel,
        revenue=event.revenue,
        properties=_encode_json(event.properties),
    )
