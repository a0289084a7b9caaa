"""Computes one result in a separate low-priority process, so that pages and decisions do not wait for DuckDB.

Every report is the object that the command line prints for the same question.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from engine.catalog.archive import Archive
from engine.catalog.watch import PlanWatch
from engine.dashboard.board.results import Job, Result, failed_result
from engine.errors import BadInput, CounterpointError

if TYPE_CHECKING:
    from engine.analysis.measure.model import MeasureReport
    from engine.analysis.report.model import Report
    from engine.settings import Settings

REPLAYED_VISITS = 2000
"""The last decisions of the log that the funnel of gates is computed from."""
MOST_SAMPLED = 400
"""The last decisions of the log whose customers drafts are tried on."""

_watches: dict[str, PlanWatch] = {}


class HistoryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a report of a past time: the units of each variant, and the row of each metric and variant."""

    at: float
    report: Report


def compute(settings: Settings, job: Job, source: str) -> Result:
    """The result of a job, or the reason why the data or the plan do not allow one."""
    began, now = time.perf_counter(), time.time()
    try:
        value = _COMPUTE[job.kind](settings, job)
    except CounterpointError as error:
        return failed_result(str(error), now, time.perf_counter() - began)
    return Result(value, "", now, time.perf_counter() - began, source)


def _watch(settings: Settings) -> PlanWatch:
    """The running plan, read again if a file changed."""
    place = str(settings.experiments)
    watch = _watches.get(place)
    if watch is None:
        watch = _watches[place] = PlanWatch(settings.experiments, Archive(settings.plans), logs_changes=False)
    watch.poll()
    return watch


def _experiment(settings: Settings, job: Job) -> Report:
    from engine.analysis import analyze_experiment  # noqa: PLC0415 # slow to import
    from engine.analysis.checks.changed_question import add_first_verdict  # noqa: PLC0415
    from engine.analysis.design.question_from_plan import build_question  # noqa: PLC0415

    question, metrics = build_question(_watch(settings).plan, job.key)
    report = analyze_experiment(question, metrics, settings.log, segment=str(job.detail) or None)
    return add_first_verdict(report, settings.log, Archive(settings.plans), question, metrics)


def _history(settings: Settings, job: Job) -> HistoryPoint:
    from engine.analysis import analyze_experiment  # noqa: PLC0415 # slow to import
    from engine.analysis.design.question_from_plan import build_question  # noqa: PLC0415

    question, metrics = build_question(_watch(settings).plan, job.key)
    at = float(str(job.detail))
    primary = [metric for metric in metrics if metric.name == question.primary]
    question = msgspec.structs.replace(question, secondary=(), guardrails=())
    moment = datetime.fromtimestamp(at, UTC)
    return HistoryPoint(at=at, report=analyze_experiment(question, primary, settings.log, as_of=moment))


def _placement(settings: Settings, job: Job) -> object:
    from engine.analysis import policy_report  # noqa: PLC0415 # slow to import
    from engine.analysis.bandits.policy_report import NothingExposed  # noqa: PLC0415

    try:
        return policy_report(settings.log, job.key)
    except NothingExposed as error:
        why = "No offer that a policy chose was seen here yet. Ask for the placement (POST /v1/decide), and expose it."
        raise BadInput(why) from error


def _allocation(settings: Settings, job: Job) -> object:
    from engine.analysis.bandits.allocation_history import allocation_history  # noqa: PLC0415 # slow to import

    return allocation_history(settings.log, job.key)


def _activity(settings: Settings, job: Job) -> object:
    from engine.analysis.measure.activity import read_activity  # noqa: PLC0415 # slow to import

    del job
    return read_activity(settings.log)


def _stale(settings: Settings, job: Job) -> object:
    from engine.analysis.checks.stale_flags import find_stale_flags  # noqa: PLC0415 # slow to import

    del job
    return find_stale_flags(_watch(settings).specs.experiments, settings.log, time.time())


def _gates(settings: Settings, job: Job) -> object:
    from engine.journal.log.logged_requests import latest_requests  # noqa: PLC0415 # slow to import
    from engine.rehearse.dry_run import dry_run, visits_of_log  # noqa: PLC0415

    plan = _watch(settings).plan
    logged = ((one.now, one.request, one.profile) for one in latest_requests(settings.log, REPLAYED_VISITS))
    return dry_run(plan, job.key, visits_of_log(plan, job.key, logged))


def _sample(settings: Settings, job: Job) -> object:
    from engine.journal.log.logged_requests import latest_requests  # noqa: PLC0415 # slow to import
    from engine.rehearse.customers import SampledCustomer  # noqa: PLC0415

    del job
    traces = latest_requests(settings.log, MOST_SAMPLED)
    seen = {one.profile.id: SampledCustomer(one.profile, one.request.context, one.request.channel) for one in traces}
    return tuple(seen.values())


def _coverage(settings: Settings, job: Job) -> object:
    from engine.rehearse.coverage import measure_coverage  # noqa: PLC0415 # slow to import
    from engine.rehearse.customers import make_one_per_stage  # noqa: PLC0415

    del job
    watch, now = _watch(settings), time.time()
    purposes = {offer.purpose for offer in watch.specs.offers.values() if offer.purpose is not None}
    return measure_coverage(
        watch.plan, watch.specs, make_one_per_stage(purposes, now, watch.plan.rules.computed.stages), now
    )


def _measure(settings: Settings, job: Job) -> MeasureReport:
    from engine.analysis.measure.sources import EventSource  # noqa: PLC0415 # slow to import
    from engine.analysis.sources.log_read_lock import lock_log_for_reading  # noqa: PLC0415
    from engine.dashboard.board.measures import build_measure  # noqa: PLC0415

    plan = _watch(settings).plan
    source = EventSource(
        log_dir=settings.log, files=(), names={}, until=None, currency=plan.currency, stages=plan.rules.computed.stages
    )
    with lock_log_for_reading(settings.log):
        return build_measure(settings, plan, job.key, source)


_COMPUTE = {
    "experiment": _experiment,
    "history": _history,
    "placement": _placement,
    "allocation": _allocation,
    "activity": _activity,
    "coverage": _coverage,
    "gates": _gates,
    "sample": _sample,
    "stale": _stale,
    "measure": _measure,
}
