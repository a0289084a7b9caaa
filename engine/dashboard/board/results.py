"""Results for the pages, computed by another process and stored here with their time.

A page never waits for a computation. It shows the newest `Result` with its time, and asks for a newer one.
"""

import threading
import time
from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple

JobKind = Literal[
    "experiment", "history", "placement", "allocation", "measure", "gates", "activity", "coverage", "stale", "sample"
]

RETRY_SECONDS = 5.0
"""The seconds that a failed computation counts as, so that what fails at once is not repeated at once."""


class Job(NamedTuple):
    """One computation: its kind, its experiment, placement or report, and one more argument.

    Of an experiment `detail` is the trait of its segments, of a history the time of one point.
    """

    kind: JobKind
    key: str
    detail: Hashable = ""


class Result(NamedTuple):
    """A job's value or the reason why it has none, its time (s since 1970), and its duration.

    `source` names the log and the plan that it was computed from; a result of another source is to be renewed.
    A failure has none, so that it is computed again after a rest.
    """

    value: object
    reason: str
    at: float
    seconds: float
    source: str


def failed_result(reason: str, at: float, seconds: float = 0.0) -> Result:
    """The result of a computation that failed for `reason`; it rests as one that took `RETRY_SECONDS`, or longer."""
    return Result(None, reason, at, max(seconds, RETRY_SECONDS), "")


class Results:
    """The newest result of each job, and the jobs that pages requested recently."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[Job, Result] = {}
        self._wanted: dict[Job, float] = {}
        self._listed: dict[Job, float] = {}
        self.changed = threading.Event()
        """Set when a page asks for a job, so that the refresher need not wait."""

    def read(self, job: Job) -> Result | None:
        """The newest result of a job for a page, which keeps the job fresh; None until it is computed."""
        with self._lock:
            is_new = job not in self._wanted
            self._wanted[job] = time.time()
            found = self._found.get(job)
        if is_new:
            self.changed.set()
        return found

    def keep_listed(self, job: Job) -> None:
        """Keep a list's job fresh, after the jobs of single pages."""
        with self._lock:
            self._listed[job] = time.time()

    def peek(self, job: Job) -> Result | None:
        """Reads as `read` does, without a request for the job."""
        with self._lock:
            return self._found.get(job)

    def write(self, job: Job, result: Result) -> None:
        """Replace the result of a job."""
        with self._lock:
            self._found[job] = result

    def wanted(self, since: float) -> Mapping[Job, float]:
        """The jobs requested since a time, with the time of each request; forgets older requests."""
        with self._lock:
            self._wanted = {job: at for job, at in self._wanted.items() if at >= since}
            return dict(self._wanted)

    def listed(self, since: float) -> Mapping[Job, float]:
        """The jobs of lists among those of `wanted`."""
        with self._lock:
            self._listed = {job: at for job, at in self._listed.items() if at >= since}
            return dict(self._listed)

    def drop(self, keep: AbstractSet[Job], before: float) -> None:
        """Drop results from before a time, except those in `keep` or requested ones."""
        with self._lock:
            self._found = {
                job: found
                for job, found in self._found.items()
                if found.at >= before or job in keep or job in self._wanted or job in self._listed
            }

    @property
    def oldest(self) -> float | None:
        """The time of the oldest result; None if there are none."""
        with self._lock:
            return min((found.at for found in self._found.values()), default=None)

    @property
    def newest(self) -> float | None:
        """The time of the newest result; None if there are none."""
        with self._lock:
            return max((found.at for found in self._found.values()), default=None)
