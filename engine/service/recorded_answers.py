"""The last stages of a decision: encodes answer and records, and appends the records before the answer is sent.

Without space on the disk a request ends with 503. Where the operator set `full_disk: answer` it is degraded and
answered without a record: nothing in such an answer was claimed, and nothing reported for it counts.
"""

from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from engine.decision.decision import Decision
from engine.journal.from_decision import records_of
from engine.service.access.public_answer import publish_answer
from engine.service.decision_task import Decided, DecidedTask, DecisionTask, FailedTask, Prepared, PreparedTask, each
from engine.service.idempotency import PreparedAnswer
from engine.service.problems import Refusal
from engine.service.recorder import encode_records
from engine.service.worker import Worker

UNRECORDED = "not recorded: the server's disk is full, so nothing can be reported for this decision"


class RecordedAnswers:
    """The answers of one worker; `degrade` decides a task without the store."""

    def __init__(self, worker: Worker, degrade: Callable[[DecisionTask], DecidedTask]) -> None:
        self._recorder = worker.recorder
        self._metrics = worker.metrics
        self._degrade = degrade
        self._encode = msgspec.json.Encoder().encode

    def record_all(self, decided: Sequence[Decided]) -> list[Prepared]:
        """Encode all answers and append their records to the spool, in one write.

        Where that fails none of the records is in the spool: every request ends with the error or, if answers need no
        record, is degraded and answered without one.
        """
        prepared = each(self.prepare_one, decided)
        payloads = [payload for one in prepared if isinstance(one, PreparedTask) for payload in one.answer.records]
        try:
            if payloads:
                self._recorder.append_encoded(payloads)
        except Exception as error:  # noqa: BLE001 (no answer may leave without its record)
            if isinstance(error, Refusal) and self._recorder.is_optional:
                return each(self._prepare_unrecorded, decided)
            return [one if isinstance(one, FailedTask) else FailedTask(error) for one in prepared]
        return prepared

    def record_flags(self, decision: Decision, now: float, *, expose: bool) -> None:
        """Append the records of a decision on flags. Errors as in `Recorder.append`."""
        try:
            self._recorder.append(records_of(decision, now, expose=expose))
        except Refusal:
            if not self._recorder.is_optional:
                raise
            self._metrics.count_unrecorded()

    def prepare_one(self, decided: DecidedTask) -> PreparedTask:
        """Encode one answer and its records; an erased customer's id is left out."""
        task, decision = decided.task, decided.decision
        records = encode_records(records_of(decision, task.now, expose=task.request.expose))
        customer = None if decision.erased else decision.answer.customer
        answer = replace(decision.answer, warnings=task.warnings) if task.warnings else decision.answer
        encoded = self._encode(publish_answer(answer) if task.is_public else answer)
        return PreparedTask(decision, PreparedAnswer(encoded, records, customer))

    def _prepare_unrecorded(self, decided: DecidedTask) -> PreparedTask:
        """Encode an answer without a record; it was made without the store, so it claims and counts nothing."""
        task, is_degraded = decided.task, decided.decision.answer.degraded
        degraded = decided if is_degraded else self._degrade(task)
        warned = replace(task, warnings=[*task.warnings, UNRECORDED])
        prepared = self.prepare_one(replace(degraded, task=warned))
        self._metrics.count_unrecorded()
        return PreparedTask(prepared.decision, replace(prepared.answer, records=[]))
