"""Keeps results fresh: a thread chooses jobs, and a separate process computes them one at a time.

What is computed, in this order:

| | which | again |
|---|---|---|
| asked for | what a page was about within `WANTED_SECONDS` | when log or plan changed, and the result is old enough |
| listed | what a list showed within `WANTED_SECONDS` | the same |
| standing | the report of every experiment and every placement | the same, but rarer |
| history | points in time of these reports | when the plan changed: a point is of the past, and time adds new ones |

A computation that failed is tried again, also if log and plan are the same: memory, a disk or a permission may be back.

A result is old enough after `REST` times the seconds that it took, and the process rests after each computation for as
long as that took: at most half a core computes, however large the log is. Points of the history lie on a grid of round
spans, so that only new ones are computed.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path

import structlog

from engine.analysis.report.model import Report
from engine.catalog.plan.plan import Plan
from engine.dashboard.board.compute import HistoryPoint, compute
from engine.dashboard.board.results import Job, Result, Results, failed_result
from engine.dashboard.priority import lower_priority_of_reports
from engine.settings import Settings

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""Seconds between looks at what is to be computed."""
WANTED_SECONDS = 300.0
"""Seconds for which a page that was opened keeps its results fresh."""
FORGET_SECONDS = 3_600.0
"""Seconds after which a result that no page asked for since is forgotten."""
REST, STANDING_REST = 1.0, 10.0
"""The pause after a computation as a multiple of its seconds: for requested and for standing results."""
LEAST_SECONDS, STANDING_SECONDS = 2.0, 60.0
"""The least seconds between two computations of one result: asked for, and standing."""
MOST_POINTS = 16
"""Points of a history."""
STEPS = (10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 10_800.0, 43_200.0, 86_400.0, 604_800.0, 2_592_000.0)
"""Spans between two points of a history, s."""


class Refresher:
    """The thread and the process that keep `results` fresh for the plan that `read_plan` returns."""

    def __init__(self, settings: Settings, results: Results, read_plan: Callable[[], Plan]) -> None:
        self._settings = settings
        self._results = results
        self._read_plan = read_plan
        self._stop = threading.Event()
        self._pool: ProcessPoolExecutor | None = None
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self.running: Job | None = None
        """The computation in progress."""

    def start(self) -> None:
        """Start the thread; the process starts with the first computation."""
        self._thread.start()

    def stop(self) -> None:
        """End both; a computation in progress is discarded."""
        self._stop.set()
        self._results.changed.set()
        self._thread.join(2.0)
        self._end_process()

    def source(self) -> str:
        """The present input of results: the state of the log and the version of the plan."""
        return f"{log_state(self._settings.log)} {self._read_plan().version}"

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                job = self._choose()
                if job is not None:
                    self._stop.wait(self._compute(job))
                    continue
            except Exception:  # one failure must not keep the other results from their turn
                log.exception("a result of the dashboard cannot be computed")
            self._results.changed.wait(LOOK_SECONDS)
            self._results.changed.clear()

    def _choose(self) -> Job | None:
        """The most urgent job; None if all results are fresh."""
        if log_time(self._settings.log) is None:
            return None
        now, source, plan = time.time(), self.source(), self._read_plan()
        wanted, listed = (read(now - WANTED_SECONDS) for read in (self._results.wanted, self._results.listed))
        standing = list(standing_jobs(plan))
        self._results.drop({*standing, *self._points(standing, now)}, now - FORGET_SECONDS)
        for jobs, rest, least in (
            (wanted, REST, LEAST_SECONDS),
            (listed, REST, LEAST_SECONDS),
            (standing, STANDING_REST, STANDING_SECONDS),
        ):
            due = [job for job in jobs if job.kind != "history" and self._is_due(job, source, now, rest, least)]
            if due:
                return min(due, key=self._age_key)
        return next(self._missing_points(standing, now), None)

    def _is_due(self, job: Job, source: str, now: float, rest: float, least: float) -> bool:
        found = self._results.peek(job)
        if found is None:
            return True
        return found.source != source and now - found.at >= max(least, rest * found.seconds)

    def _age_key(self, job: Job) -> float:
        found = self._results.peek(job)
        return found.at if found else 0.0

    def _points(self, standing: list[Job], now: float) -> Iterator[Job]:
        """The known points of the reports' histories."""
        for job in standing:
            found = self._results.peek(job)
            if job.kind == "experiment" and found is not None and isinstance(found.value, Report):
                yield from (Job("history", job.key, at) for at in history_times(found.value, now))

    def _missing_points(self, standing: list[Job], now: float) -> Iterator[Job]:
        for point in self._points(standing, now):
            # A point of another plan may be of another question, so it is computed again.
            if self._is_due(point, self._read_plan().version, now, STANDING_REST, STANDING_SECONDS):
                yield point

    def _compute(self, job: Job) -> float:
        """Compute and store one result; returns the seconds to rest."""
        is_first, began = self._results.peek(job) is None, time.monotonic()
        source = self._read_plan().version if job.kind == "history" else self.source()
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=lower_priority_of_reports)
        self.running = job
        try:
            future: Future[Result] = self._pool.submit(compute, self._settings, job, source)
            while not self._stop.is_set():
                try:
                    self._results.write(job, future.result(LOOK_SECONDS))
                except TimeoutError:
                    continue
                break
        except BrokenProcessPool:
            self._end_process()
            reason = "the process that computes it ended, perhaps for want of memory; it is tried again"
            self._results.write(job, failed_result(reason, time.time()))
        except Exception:  # one failure must not keep the other results from their turn
            log.exception("a report cannot be computed", job=job.kind, key=job.key)
            reason = "the engine failed on this report; the dashboard's log has the error, and it is tried again"
            self._results.write(job, failed_result(reason, time.time()))
        finally:
            self.running = None
        return 0.0 if is_first else time.monotonic() - began

    def _end_process(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):  # noqa: SLF001 # a computation cannot be cancelled otherwise
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


def standing_jobs(plan: Plan) -> Iterator[Job]:
    """The reports that are computed without a request."""
    yield Job("activity", "")
    yield Job("sample", "")
    for experiment in plan.experiments.values():
        for one in (experiment, *(rule.experiment for rule in experiment.rules)):
            if one.spec.metrics is not None:
                yield Job("experiment", one.key, "channel")
    for placement in dict.fromkeys(placement for _, placement in plan.selections):
        yield Job("placement", placement)


def history_times(report: Report, now: float) -> list[float]:
    """The times (s since 1970) of an experiment's history: round ones from its first exposure to now."""
    if report.first_exposure is None or report.last_exposure is None:
        return []
    first = datetime.fromisoformat(report.first_exposure).timestamp()
    # What came after the last exposure may be on its way to the log still, and a point is computed once.
    last = min(now, datetime.fromisoformat(report.last_exposure).timestamp())
    step = next((step for step in STEPS if (last - first) / step <= MOST_POINTS), STEPS[-1])
    begin = int(first // step) + 1
    return [number * step for number in range(begin, int(last // step) + 1)][-MOST_POINTS:]


def read_history(results: Results, report: Report, now: float) -> list[HistoryPoint]:
    """The known points of an experiment's history, in time order."""
    points = (results.peek(Job("history", report.experiment, at)) for at in history_times(report, now))
    return [point.value for point in points if point is not None and isinstance(point.value, HistoryPoint)]


def log_state(folder: Path) -> str:
    """A text that changes with each commit of the collector to the log."""
    try:
        stat = (folder / ".checkpoint.json").stat()
    except OSError:
        return "no log"
    return f"{stat.st_mtime_ns}"


def log_time(folder: Path) -> float | None:
    """The time of the collector's last commit (s since 1970); None without a log."""
    try:
        return (folder / ".checkpoint.json").stat().st_mtime
    except OSError:
        return None
