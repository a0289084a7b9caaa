"""Notices to people about the running shop, from reports, pools and breakers.

A notice has an id of its kind, subject and day, under which a receiver can drop a repeated delivery.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec

from engine.analysis.report.model import Report
from engine.catalog.spec.notify import NoticeKind
from engine.vocabulary import DAY

NEARLY_GONE = 0.1
"""The share of a stock or budget at which it is nearly gone."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One notice: its kind, its subject (an experiment, an offer, a selection), a title, a text and its time (s)."""

    kind: NoticeKind
    subject: str
    title: str
    text: str
    at: float

    @property
    def id(self) -> str:
        """The id of the notice, equal for the same kind, subject and title on one day (UTC)."""
        day = datetime.fromtimestamp(self.at, UTC).date()
        return blake2b(f"{self.kind}\0{self.subject}\0{self.title}\0{day}".encode(), digest_size=12).hexdigest()


def notices_of_report(report: Report, now: float, running_since: float) -> Iterator[Notice]:
    """Yield the notices of a running experiment's report at `now`; `running_since` is its start."""
    key = report.experiment
    verdict = report.recommendation
    if verdict.verdict in ("ship", "stop"):
        text = " ".join(part for part in (verdict.why, verdict.would_change) if part)
        yield Notice(kind="verdict", subject=key, title=f"{key}: {verdict.verdict}", text=text, at=now)
    if not report.quality.srm.ok:
        units = ", ".join(f"{name} {count:,}" for name, count in report.units.items())
        text = f"The units are {units}, which is not the planned split (p = {report.quality.srm.p:.2g}). {verdict.why}"
        yield Notice(kind="srm", subject=key, title=f"{key}: the split is not as planned", text=text, at=now)
    for metric in report.metrics:
        if metric.guard == "harmed":
            title = f"{key}: the guardrail {metric.metric} is harmed"
            text = f"{metric.metric} is worse in {metric.variant} than its margin allows. {verdict.why}"
            yield Notice(
                kind="guardrail", subject=f"{key}/{metric.metric}/{metric.variant}", title=title, text=text, at=now
            )
    last = datetime.fromisoformat(report.last_exposure).timestamp() if report.last_exposure else running_since
    if now - max(last, running_since) > DAY:
        text = "Nobody was exposed to it for a day. Is its audience empty, or does no page ask for it?"
        yield Notice(kind="no_exposures", subject=key, title=f"{key}: no exposures", text=text, at=now)


def notices_of_pools(left: Mapping[tuple[NoticeKind, str], tuple[float, float]], now: float) -> Iterator[Notice]:
    """Yield the stocks and budgets that are nearly used up, given the rest and total of each."""
    for (kind, name), (rest, whole) in sorted(left.items()):
        if whole > 0 and rest <= NEARLY_GONE * whole:
            title = f"{kind} {name} is gone" if rest <= 0 else f"{kind} {name} is nearly gone"
            text = f"{rest:,.6g} of {whole:,.6g} left."
            yield Notice(kind=kind, subject=name, title=title, text=text, at=now)


def notices_of_breakers(reasons: Mapping[str, str], now: float) -> Iterator[Notice]:
    """Yield a notice for each selection whose breaker is open."""
    for selection, reason in sorted(reasons.items()):
        text = f"{reason}. Its customers see the fallback until `counterpoint policy close {selection}`."
        yield Notice(kind="breaker", subject=selection, title=f"{selection}: its breaker opened", text=text, at=now)


def digest_markdown(reports: Sequence[Report], since: datetime) -> str:
    """A week's summary as Markdown: a line per running experiment, those that need a decision first."""
    order = {"fix the data": 0, "stop": 1, "ship": 2, "keep running": 3}
    lines = [f"# Experiments in the week from {since:%Y-%m-%d}", ""]
    if not reports:
        return "\n".join([*lines, "No experiment is running.", ""])
    lines += ["| experiment | verdict | units | days left | why |", "|---|---|---|---|---|"]
    for report in sorted(reports, key=lambda one: (order[one.recommendation.verdict], one.experiment)):
        found = report.recommendation
        days = "" if found.days_left is None else f"{found.days_left:.0f}"
        units = f"{sum(report.units.values()):,}"
        name = report.title or report.experiment
        cells = (name, found.verdict, units, days, found.why)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, ""])
