"""Whether the question of an experiment changed after the first exposure, by the archived plan of that exposure.

Who chooses the metric, the guardrails or the method after a look at the data has no error rate. The report then shows
the verdict by the question of the start beside the one by the question of today. Where the plan of that exposure is not
in the archive, or cannot be compiled any more, the report says that it could not be verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.analysis.design.question_from_plan import build_question
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import randomized_decisions
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.catalog.plan.compile import compile_plan
from engine.errors import BadInput, CatalogError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.report.model import Report
    from engine.catalog.archive import Archive

MICROSECONDS_OF_THE_FUTURE = 2**62


class FirstQuestion(NamedTuple):
    """The question at the first exposure and its metrics; `plan` is its version, `changes` lists the differences."""

    plan: str
    question: ExperimentQuestion
    metrics: list[MeasuredMetric]
    changes: list[str]


class UnknownQuestion(NamedTuple):
    """The first exposure's plan, of which the question cannot be read, and the reason."""

    plan: str
    reason: str


def find_first_question(
    log_dir: Path, archive: Archive, question: ExperimentQuestion, metrics: Sequence[MeasuredMetric]
) -> FirstQuestion | UnknownQuestion | None:
    """The question with which an experiment began; None if it is that of today, or nobody was exposed.

    Args:
        log_dir: the folder of the log.
        archive: of the plans that ran.
        question: that of today.
        metrics: those of today.

    Raises:
        BadInput: if the folder is not a log's.
    """
    if question.is_holdout:
        return None
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        decided = randomized_decisions(source, log_dir, question, MICROSECONDS_OF_THE_FUTURE)
        first = source.rows(decided.aggregate(plan=decided["plan"].argmin(decided["time"])))[0][0]
    if first is None:
        return None
    try:
        began, earlier = build_question(compile_plan(archive.read_specs(str(first))), question.key)
    except (BadInput, CatalogError, OSError) as error:  # it ran elsewhere, or by rules of its time
        return UnknownQuestion(str(first), str(error).partition("\n")[0])
    changes = list(_changes(began, earlier, question, metrics))
    if not changes:
        return None
    # The variants, their shares and their units are those that were served; only what decides is that of the start.
    asked = msgspec.structs.replace(
        question,
        primary=began.primary,
        secondary=(),
        guardrails=began.guardrails,
        inference=began.inference,
        min_days=began.min_days,
    )
    return FirstQuestion(str(first), asked, earlier, changes)


def add_first_verdict(
    report: Report,
    log_dir: Path,
    archive: Archive,
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    as_of: datetime | None = None,
) -> Report:
    """The report with the verdict by the question of the start, where that was another one, or cannot be known.

    The arguments are as above.

    Raises:
        BadInput: as `analyze_experiment`.
    """
    from engine.analysis.report.experiment import analyze_experiment  # noqa: PLC0415 # that module imports the checks
    from engine.analysis.report.model import FirstVerdict  # noqa: PLC0415 # as above

    first = find_first_question(log_dir, archive, question, metrics)
    if first is None:
        return report
    if isinstance(first, UnknownQuestion):
        reason = f"plan {first.plan}, which made the first exposure: {first.reason}"
        return msgspec.structs.replace(report, unverified_question=reason)
    earlier = analyze_experiment(first.question, first.metrics, log_dir, as_of=as_of)
    verdict = FirstVerdict(plan=first.plan, changes=first.changes, recommendation=earlier.recommendation)
    return msgspec.structs.replace(report, first_verdict=verdict)


def _changes(
    began: ExperimentQuestion,
    earlier: Sequence[MeasuredMetric],
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
) -> Iterator[str]:
    """The changed settings that decide the verdict, each as `name: before → now`."""
    if began.primary != question.primary:
        yield f"metrics.primary: {began.primary} → {question.primary}"
    if set(began.guardrails) != set(question.guardrails):
        before, now = (", ".join(sorted(names)) or "none" for names in (began.guardrails, question.guardrails))
        yield f"metrics.guardrails: {before} → {now}"
    was, is_now = ({metric.name: metric for metric in each} for each in (earlier, metrics))
    for name in dict.fromkeys((began.primary, *began.guardrails)):
        if name in was and name in is_now and was[name] != is_now[name]:
            yield f"the metric {name} is defined otherwise"
    for field in msgspec.structs.fields(began.inference):
        before, now = (getattr(each.inference, field.name) for each in (began, question))
        if before != now:
            yield f"analysis.{field.name}: {before} → {now}"
    if question.min_days < began.min_days:
        yield f"analysis.min_days: {began.min_days:g} → {question.min_days:g}"
