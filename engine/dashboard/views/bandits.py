"""Bandits: each placement's policies with their choices, rewards, snapshots and rollback."""

import asyncio
import time

from engine.analysis.bandits.allocation_history import ALL_CHANNELS, AllocationHistory
from engine.analysis.bandits.policy_report import PolicyReport, RewardRate
from engine.analysis.checks.lights import Light, Tone
from engine.analysis.offpolicy.estimators import Estimate
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.catalog.plan.plan import Selection
from engine.dashboard.board.results import Job
from engine.dashboard.charts.intervals import IntervalChart, IntervalRow, TickFormat, interval_chart
from engine.dashboard.charts.lines import LineChart, area_chart
from engine.dashboard.tables import (
    DataTable,
    TableCell,
    columns_of,
    count_cell,
    moment_cell,
    share_cell,
    text_cell,
)
from engine.dashboard.views.learnt import posterior_tables, stored_versions, versions_table
from engine.dashboard.web import Page, PageVisit, Redirect, link_to
from engine.learn.rollback import rollback
from engine.service.endpoints.admin import record_audit
from engine.service.problems import Refusal
from engine.vocabulary import POLICY_ROLLED_BACK

MOST_ARMS = 12
"""Offers with an area of their own in the picture; the rest are one."""


async def bandits(visit: PageVisit) -> Page:
    """The page of all placements with a policy."""
    desk, cards = visit.desk, []
    for placement in dict.fromkeys(selection.placement for selection in desk.plan.policies.values()):
        result = desk.results.read(Job("placement", placement))
        report = result.value if result is not None and isinstance(result.value, PolicyReport) else None
        selections = _selections(visit, placement)
        cards.append(
            {
                "placement": placement,
                "href": link_to("bandits", placement),
                "selections": selections,
                "gains": gain_lights(report) if report else [],
                "reason": "" if report else (result.reason if result else "Its report is being computed."),
                "waits": result is None,
                "exposures": sum(row.exposures for row in report.policies) if report else 0,
                "tripped": [one.key for one in selections if one.key in desk.worker.tripped],
            }
        )
    return Page(template="bandits.html", title="Bandits", context={"cards": cards})


async def bandit(visit: PageVisit) -> Page:
    """The page of one placement."""
    placement, desk = visit.path["placement"], visit.desk
    selections = _selections(visit, placement)
    if not selections:
        raise Refusal(404, f"placement {placement!r} has no policy; choose one from the list of bandits")
    result, past = desk.results.read(Job("placement", placement)), desk.results.read(Job("allocation", placement))
    report = result.value if result is not None and isinstance(result.value, PolicyReport) else None
    history = past.value if past is not None and isinstance(past.value, AllocationHistory) else None
    channel = visit.query.get("channel", "")
    shown = channel if history and channel in history.chosen else ALL_CHANNELS
    stored = [(key, await asyncio.to_thread(stored_versions, visit, key)) for key in (one.key for one in selections)]
    posteriors = posterior_tables(visit, selections)
    return Page(
        template="bandit.html",
        title=placement,
        context={
            "placement": placement,
            "selections": selections,
            "report": report,
            "reason": result.reason if result else "",
            "gains": gain_lights(report) if report else [],
            "uniform": _uniform_line(report) if report else "",
            "computed": result.at if result else None,
            "channel": shown,
            "channels": list(history.chosen) if history else [],
            "allocation": _allocation_chart(history, shown) if history else None,
            "policies": _rates_chart(report) if report else None,
            "values": _values_chart(report) if report and report.arms else None,
            "positions": _positions_chart(report) if report and report.positions else None,
            "stored": stored,
            "posteriors": posteriors,
        },
        tables=(
            _policies_table(report),
            _offers_table(report),
            _positions_table(report),
            _allocation_table(history),
            *(versions_table(key, found) for key, found in stored),
            *posteriors,
        ),
    )


async def roll_back(visit: PageVisit) -> Redirect:
    """Publish an earlier snapshot as the next version."""
    key, version = visit.form.get("key", ""), visit.form.get("version", "")
    selection = visit.desk.plan.policies.get(key)
    if selection is None or not (version.isascii() and version.isdigit()):
        raise Refusal(400, f"{key}@{version} is not a stored snapshot; choose one of the table")
    current = await asyncio.to_thread(rollback, visit.desk.settings, key, int(version))
    named = {"selection": key, "to": int(version), "version": current, "by": visit.session.name}
    record_audit(visit.desk.worker, POLICY_ROLLED_BACK, named, time.time())
    return Redirect(to=link_to("bandits", selection.placement))


def gain_lights(report: PolicyReport) -> list[Light]:
    """A sentence per policy about its gain over uniform choice."""
    found = []
    for policy, gain in report.against_uniform.items():
        if isinstance(gain, NotEstimable):
            found.append(Light(name=policy, tone="muted", text=f"against uniform choice: {gain.not_estimable}."))
            continue
        tone: Tone = "good" if gain.low > 0 else "bad" if gain.high < 0 else "warn"
        more = {"good": "earns more than", "bad": "earns less than"}.get(tone, "may earn more or less than")
        span = f"{gain.low:+z.4f} to {gain.high:+z.4f}"
        text = f"{more} uniform choice: {gain.estimate:+z.4f} per showing ({span})."
        found.append(Light(name=policy, tone=tone, text=text))
    return found


def _selections(visit: PageVisit, placement: str) -> list[Selection]:
    return [one for one in visit.desk.plan.policies.values() if one.placement == placement]


def _uniform_line(report: PolicyReport) -> str:
    """The reward that uniform choice would have earned on the same decisions."""
    value = report.uniform_snips
    if isinstance(value, Estimate):
        span = f"{value.low:.4f} to {value.high:.4f}"
        return (
            f"Uniform choice would have earned {value.value:.4f} per showing ({span}; SNIPS on the logged "
            f"propensities, effective sample {value.ess:,.0f})."
        )
    return f"What uniform choice would have earned: {value.not_estimable}."


def _allocation_chart(history: AllocationHistory, channel: str) -> LineChart | None:
    """The share of each offer in the decisions of each span; a span without decisions repeats the one before."""
    chosen = history.chosen[channel]
    parts = {name: chosen[name] for name in list(chosen)[:MOST_ARMS]}
    if rest := [chosen[name] for name in list(chosen)[MOST_ARMS:]]:
        parts["others"] = [sum(counts) for counts in zip(*rest, strict=True)]
    totals = [sum(counts) for counts in zip(*chosen.values(), strict=True)]
    shares: dict[str, list[float]] = {name: [] for name in parts}
    for at, total in enumerate(totals):
        for name, counts in parts.items():
            before = shares[name][-1] if shares[name] else 0.0
            shares[name].append(counts[at] / total if total else before)
    label = f"Share of each offer in the decisions of {history.placement} over time, channel {channel}"
    return area_chart(label, history.times, list(shares.items()))


def _rates_chart(report: PolicyReport) -> IntervalChart:
    rows = [_level_row(row.policy, row.rate, f"{row.exposures:,} showings") for row in report.policies]
    heads = ("Policy", "Reward per showing", "Reward, 95% interval", "Showings")
    return interval_chart("Reward of each policy", rows, heads=heads, tick=TickFormat("number"), zero=False)


def _values_chart(report: PolicyReport) -> IntervalChart:
    ordered = sorted(report.arms, key=lambda one: -(one.value.estimate if isinstance(one.value, Effect) else 0.0))
    rows = [_level_row(row.offer, row.value, f"{row.exposures:,} showings") for row in ordered]
    heads = ("Offer", "Reward if shown whenever eligible", "Reward, 95% interval", "Showings")
    return interval_chart("Value of each offer", rows, heads=heads, tick=TickFormat("number"), zero=False)


def _positions_chart(report: PolicyReport) -> IntervalChart:
    rows = [_level_row(str(row.position), row.rate, f"{row.exposures:,} showings") for row in report.positions]
    heads = ("Position", "Reward per showing", "Reward, 95% interval", "Showings")
    return interval_chart("Reward of each position", rows, heads=heads, tick=TickFormat("number"), zero=False)


def _level_row(name: str, found: Effect | RewardRate | NotEstimable, side: str) -> IntervalRow:
    if isinstance(found, NotEstimable):
        return IntervalRow(name=name, reason=found.not_estimable, side=side)
    return IntervalRow(
        name=name,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        label=f"{found.estimate:.4f}",
        span=f"{found.low:.4f} to {found.high:.4f}",
        side=side,
    )


def _policies_table(report: PolicyReport | None) -> DataTable:
    titles = {"policy": "Policy", "exposures": "Showings", "rewards": "Rewards", "rate": "Reward per showing"}
    titles |= {"low": "From", "high": "To", "gain": "Against uniform", "gain_low": "From", "gain_high": "To"}
    rows = []
    for row in report.policies if report else []:
        against = report.against_uniform.get(row.policy) if report else None
        rate = row.rate if isinstance(row.rate, RewardRate) else None
        gain = against if isinstance(against, Effect) else None
        ends = (rate.estimate, rate.low, rate.high) if rate else (None, None, None)
        gains = (gain.estimate, gain.low, gain.high) if gain else (None, None, None)
        head = [text_cell(row.policy), count_cell(row.exposures), count_cell(row.rewards)]
        rows.append([*head, *(count_cell(end) for end in (*ends, *gains))])
    columns = columns_of(titles, figures=list(titles)[1:])
    return DataTable(name="policies", title="Reward of each policy", columns=columns, rows=rows)


def _positions_table(report: PolicyReport | None) -> DataTable:
    titles = {"position": "Position", "exposures": "Showings", "rewards": "Rewards", "rate": "Reward per showing"}
    titles |= {"low": "From", "high": "To"}
    rows = []
    for row in report.positions if report else []:
        rate = row.rate if isinstance(row.rate, RewardRate) else None
        ends = (rate.estimate, rate.low, rate.high) if rate else (None, None, None)
        rows.append([count_cell(cell) for cell in (row.position, row.exposures, row.rewards, *ends)])
    columns = columns_of(titles, figures=list(titles))
    return DataTable(name="positions", title="Reward of each position", columns=columns, rows=rows)


def _offers_table(report: PolicyReport | None) -> DataTable:
    titles = {"offer": "Offer", "exposures": "Showings", "value": "Value", "low": "From", "high": "To"}
    titles |= {"naive_mean": "Plain mean (biased)", "trend_p": "Trend, p"}
    rows = []
    for row in report.arms if report else []:
        value = row.value if isinstance(row.value, Effect) else None
        ends = (value.estimate, value.low, value.high) if value else (None, None, None)
        cells = [count_cell(end) for end in (row.exposures, *ends, row.naive_mean, row.trend_p)]
        rows.append([text_cell(row.offer), *cells])
    columns = columns_of(titles, figures=list(titles)[1:])
    return DataTable(name="offers", title="Value of each offer", columns=columns, rows=rows)


def _allocation_table(history: AllocationHistory | None) -> DataTable:
    titles = {"time": "From", "channel": "Channel", "offer": "Offer", "decisions": "Decisions", "share": "Share"}
    rows: list[list[TableCell]] = []
    for channel, chosen in history.chosen.items() if history else ():
        totals = [sum(counts) for counts in zip(*chosen.values(), strict=True)]
        for offer, counts in chosen.items():
            for at, number, total in zip(history.times if history else (), counts, totals, strict=True):
                if number:
                    named = [moment_cell(at), text_cell(channel), text_cell(offer)]
                    rows.append([*named, count_cell(number), share_cell(number / total)])
    columns = columns_of(titles, figures=("decisions", "share"))
    return DataTable(name="allocation", title="What was chosen over time", columns=columns, rows=rows)
