"""The report of a placement's policies as one HTML file."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from engine.analysis.bandits.quarantined import describe_quarantined_rewards
from engine.analysis.render.html import OPEN, intervals, page, paragraphs, row_of
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from altair import LayerChart

    from engine.analysis.bandits.policy_report import PolicyReport, RewardRate
    from engine.analysis.render.html import Place

_UNBIASED = (
    "The reward per exposure of each offer if it were shown whenever it is eligible, estimated with the logged "
    "propensities. The plain mean of its rewards is biased: the policy showed it more while it did well."
)


def policies_html(report: PolicyReport) -> str:
    """The whole report as a page; needs the extra `dashboard`.

    Raises:
        MissingExtra: if the extra is not installed.
    """

    def body(alt: ModuleType, place: Place) -> Iterable[str]:
        yield f"<h1>Placement {html.escape(report.placement)}</h1>"
        yield f'<p class="as-of">As of {report.as_of[:16].replace("T", " ")} UTC.</p>'
        yield from _gain_lines(report)
        yield "<h2>Reward per exposure, by policy</h2>"
        yield place(_levels_chart(alt, [(row.policy, row.rate) for row in report.policies]))
        yield _policies_table(report)
        yield from paragraphs(_off_policy_lines(report))
        if report.arms:
            yield f'<h2>Reward per exposure, by offer</h2><p class="note">{_UNBIASED}</p>'
            yield place(_levels_chart(alt, [(row.offer, row.value) for row in report.arms]))
            yield _offers_table(report)
            yield from paragraphs([report.drift.statement])
        if report.creatives:
            yield f'<h2>Reward per showing of the offer, by creative</h2><p class="note">{_UNBIASED}</p>'
            yield _creatives_table(report)
        if report.contrasts:
            yield "<h2>Differences between offers</h2>"
            yield _contrasts_table(report)

    return page(report.placement, body)


def _gain_lines(report: PolicyReport) -> Iterable[str]:
    """A sentence per policy with the difference of its reward rate from uniform choice."""
    for policy, gain in report.against_uniform.items():
        if isinstance(gain, NotEstimable):
            tone, line = "open", f"{policy} against uniform choice: {gain.not_estimable}."
        else:
            tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else "open"
            more = {"good": "earns more than", "bad": "earns less than", "open": "may earn more or less than"}[tone]
            line = f"{policy} {more} uniform choice: {gain.estimate:+z.4f} an exposure ({_interval(gain, '+')})."
        yield f'<div class="decision {tone}">{"".join(paragraphs([line]))}</div>'


def _levels_chart(
    alt: ModuleType, named: Sequence[tuple[str, Effect | RewardRate | NotEstimable]]
) -> LayerChart | None:
    rows = [
        row_of(name, Effect(found.estimate, found.low, found.high, 0.0), "increase") | {"tone": OPEN}
        for name, found in named
        if not isinstance(found, NotEstimable)
    ]
    return intervals(alt, rows, "", "level") if rows else None


def _policies_table(report: PolicyReport) -> str:
    rows = []
    for row in report.policies:
        against = report.against_uniform.get(row.policy)
        effect = f"{against.estimate:+z.4f} ({_interval(against, '+')})" if isinstance(against, Effect) else ""
        rows.append([row.policy, f"{row.exposures:,}", f"{row.rewards:,.6g}", *_level_cells(row.rate), effect])
    return _table(("policy", "exposures", "rewards", "per exposure", "95% interval", "against uniform"), rows)


def _offers_table(report: PolicyReport) -> str:
    head = ["offer", "exposures", "value", "95% interval", "plain mean, biased"]
    rows = [[row.offer, f"{row.exposures:,}", *_level_cells(row.value), f"{row.naive_mean:.4f}"] for row in report.arms]
    if report.drift.offers:
        head += [f"from {period.start[:16].replace('T', ' ')}" for period in report.arms[0].periods]
        for cells, row in zip(rows, report.arms, strict=True):
            cells += [_level_cells(period.value)[0] for period in row.periods]
    return _table(head, rows)


def _creatives_table(report: PolicyReport) -> str:
    """The creatives by offer, channel and segment."""
    rows = []
    for row in report.creatives:
        place = row.channel if row.segment is None else f"{row.channel}, {row.segment}"
        gain = row.against_first
        effect = f"{gain.estimate:+z.4f} ({_interval(gain, '+')})" if isinstance(gain, Effect) else ""
        rows.append([row.offer, row.creative, place, f"{row.exposures:,}", *_level_cells(row.value), effect])
    head = ("offer", "creative", "channel", "exposures", "value", "95% interval", "against the first")
    return _table(head, rows)


def _contrasts_table(report: PolicyReport) -> str:
    """The pairs of offers that were candidates together."""
    rows = []
    for row in report.contrasts:
        effect = row.effect
        if isinstance(effect, Effect):
            cells = (f"{effect.estimate:+z.4f}", _interval(effect, "+"))
        else:
            cells = ("", effect.not_estimable)
        rows.append([f"{row.offer} against {row.against}", *cells])
    return _table(("offers", "difference", "95% interval"), rows)


def _level_cells(found: Effect | RewardRate | NotEstimable) -> tuple[str, str]:
    if isinstance(found, NotEstimable):
        return "", found.not_estimable
    return f"{found.estimate:.4f}", _interval(found)


def _interval(found: Effect | RewardRate, sign: str = "-") -> str:
    return f"{found.low:{sign}z.4f} to {found.high:{sign}z.4f}"


def _off_policy_lines(report: PolicyReport) -> Iterable[str]:
    yield report.unsettled.text
    yield describe_quarantined_rewards(report.quarantined)
    for name, value in (("IPS", report.uniform_ips), ("SNIPS", report.uniform_snips)):
        if isinstance(value, NotEstimable):
            earned = f"{value.not_estimable}."
        else:
            earned = f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f}), effective sample {value.ess:,.0f}."
        yield f"Uniform choice would have earned, by {name}: {earned}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if at else ''}>{html.escape(cell)}</{tag}>" for at, cell in enumerate(cells))

    body = "".join(f"<tr class=first>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
