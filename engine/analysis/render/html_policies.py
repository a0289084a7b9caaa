"""A placement's policies as one HTML file, like an experiment's."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from engine.analysis.render.html import OPEN, intervals, page, paragraphs, row_of
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from engine.analysis.bandits.policy_report import PolicyReport, RewardRate
    from engine.analysis.render.html import Chart, Place

_UNBIASED = (
    "What each offer earns per exposure had it been shown every time it could be, from the logged probabilities. The "
    "plain mean of its rewards is biased: the policy showed it more while it did well."
)


def policies_html(report: PolicyReport) -> str:
    """The whole report; needs the extra `dashboard`.

    Raises:
        BadInput: if the extra is not installed.
    """

    def body(alt: ModuleType, place: Place) -> Iterable[str]:
        yield f"<h1>Placement {html.escape(report.placement)}</h1>"
        yield f'<p class="as-of">As of {report.as_of[:16].replace("T", " ")} UTC.</p>'
        yield from _gains(report)
        yield "<h2>Reward per exposure, by policy</h2>"
        yield place(_levels(alt, [(row.policy, row.rate) for row in report.policies]))
        yield _policies(report)
        yield from paragraphs(_off_policy(report))
        if report.arms:
            yield f'<h2>Reward per exposure, by offer</h2><p class="note">{_UNBIASED}</p>'
            yield place(_levels(alt, [(row.offer, row.value) for row in report.arms]))
            yield _offers(report)

    return page(report.placement, body)


def _gains(report: PolicyReport) -> Iterable[str]:
    """What each policy earns more than uniform choice, in a sentence."""
    for policy, gain in report.against_uniform.items():
        if isinstance(gain, NotEstimable):
            tone, said = "open", f"{policy} against uniform choice: {gain.not_estimable}."
        else:
            tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else "open"
            more = {"good": "earns more than", "bad": "earns less than", "open": "may earn more or less than"}[tone]
            said = f"{policy} {more} uniform choice: {gain.estimate:+.4f} an exposure ({_span(gain, '+')})."
        yield f'<div class="decision {tone}">{"".join(paragraphs([said]))}</div>'


def _levels(alt: ModuleType, named: Sequence[tuple[str, Effect | RewardRate | NotEstimable]]) -> Chart | None:
    rows = [
        row_of(name, Effect(found.estimate, found.low, found.high, 0.0), "increase") | {"tone": OPEN}
        for name, found in named
        if not isinstance(found, NotEstimable)
    ]
    return intervals(alt, rows, "", "level") if rows else None


def _policies(report: PolicyReport) -> str:
    rows = []
    for row in report.policies:
        against = report.against_uniform.get(row.policy)
        effect = f"{against.estimate:+.4f} ({_span(against, '+')})" if isinstance(against, Effect) else ""
        rows.append([row.policy, f"{row.exposures:,}", f"{row.rewards:,.6g}", *_level(row.rate), effect])
    return _table(("policy", "exposures", "rewards", "per exposure", "95% interval", "against uniform"), rows)


def _offers(report: PolicyReport) -> str:
    rows = [[row.offer, f"{row.exposures:,}", *_level(row.value), f"{row.naive_mean:.4f}"] for row in report.arms]
    return _table(("offer", "exposures", "value", "95% interval", "plain mean, biased"), rows)


def _level(found: Effect | RewardRate | NotEstimable) -> tuple[str, str]:
    if isinstance(found, NotEstimable):
        return "", found.not_estimable
    return f"{found.estimate:.4f}", _span(found)


def _span(found: Effect | RewardRate, sign: str = "") -> str:
    return f"{found.low:{sign}.4f} to {found.high:{sign}.4f}"


def _off_policy(report: PolicyReport) -> Iterable[str]:
    for name, value in (("IPS", report.uniform_ips), ("SNIPS", report.uniform_snips)):
        said = f"{value.not_estimable}." if isinstance(value, NotEstimable) else ""
        if not isinstance(value, NotEstimable):
            said = f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}), effective sample {value.ess:,.0f}."
        yield f"Uniform choice would have earned, by {name}: {said}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if at else ''}>{html.escape(cell)}</{tag}>" for at, cell in enumerate(cells))

    body = "".join(f"<tr class=first>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
