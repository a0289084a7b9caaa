"""One experiment as a row: its state, its verdict in words and money, and the lights of its checks."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.analysis.checks.lights import Light, Tone, lights_of, state_of
from engine.analysis.checks.stale_flags import StaleFlag
from engine.analysis.design.methods import Method
from engine.analysis.render.terminal import money_text
from engine.analysis.report.model import MetricReport, Money, Report
from engine.analysis.stats.estimate import Effect
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.flags import RULE
from engine.dashboard.board.desk import Desk
from engine.dashboard.board.reported import file_key, reported_specs
from engine.dashboard.board.results import Job, Result
from engine.dashboard.figures import DAY, format_change, format_money, format_span, format_span_of
from engine.dashboard.web import link_to

STATE_TONES: dict[str, Tone] = {"running": "good", "paused": "warn", "draft": "muted", "scheduled": "muted"}
VERDICT_TONES: dict[str, Tone] = {"ship": "good", "stop": "bad", "fix the data": "bad", "keep running": "warn"}
LOOKS: dict[Method, tuple[str, str]] = {
    "sequential": ("that holds at every look", "The band holds at every look, so it may be watched daily."),
    "group_sequential": ("that holds at the planned looks", "The band holds at the planned looks only."),
    "fixed": ("of a single look", "The band is of a single look, at the end: do not stop because it leaves 0 earlier."),
    "bayesian": ("of a single look", "The band is of a single look: do not stop because it leaves 0 once."),
}
"""The coverage of an interval over time, by the method of its report: for a label, and as a sentence."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One experiment; `report` is None until it is computed, `reason` is the reason for none."""

    key: str
    title: str
    owner: str
    state: str
    href: str
    spec: ExperimentSpec
    paused_by: bool
    report: Report | None = None
    reason: str = ""
    computed: float | None = None
    lights: list[Light] = field(default_factory=list)
    verdict: str = ""
    tone: Tone = "muted"
    why: str = ""
    money: Money | None = None
    money_line: str = ""
    effect: str = ""
    days_left: float | None = None
    units: int = 0

    @property
    def needs_decision(self) -> bool:
        """Whether a person should decide today."""
        return self.verdict in {"ship", "stop", "fix the data"} and self.state in {"running", "paused"}

    @property
    def worth(self) -> float:
        """The absolute amount at stake in the decision, which sorts the list."""
        return abs(self.money.estimate) if self.money else 0.0

    @property
    def money_short(self) -> str:
        """The monthly amount in a few characters, with its interval if the decision is open."""
        if self.money is None or self.report is None:
            return ""
        unit = self.report.currency
        if self.money.settled:
            return f"{format_money(self.money.estimate, unit, signed=True)} a month"
        low = format_money(self.money.low, "", signed=True)
        return f"{low} to {format_money(self.money.high, unit, signed=True)} a month"

    @property
    def left(self) -> str:
        """Days until a verdict is due."""
        return format_span(self.days_left * DAY) if self.days_left is not None else ""


def keep_fresh(desk: Desk, shown: Sequence[Summary]) -> None:
    """Request the reports of a page's experiments, so that they are renewed as the log grows."""
    for one in shown:
        if one.state != "draft" and one.spec.metrics is not None:
            desk.results.keep_listed(Job("experiment", one.key, "channel"))


def summaries(desk: Desk) -> list[Summary]:
    """All experiments of the folder, drafts and rules of flags included: those that need a decision first."""
    stale = stale_flags(desk)
    found = [summarize(desk, spec, stale) for spec in reported_specs(desk.worker.watch.specs).values()]
    order = {"running": 1, "paused": 2, "scheduled": 3, "draft": 4}
    return sorted(found, key=lambda one: (not one.needs_decision, -one.worth, order.get(one.state, 5), one.key))


def stale_flags(desk: Desk) -> dict[str, StaleFlag]:
    """The flags that the code could remove, by key, from the newest check of the log."""
    result = desk.results.read(Job("stale", ""))
    return {one.key: one for one in result.value} if result and isinstance(result.value, list) else {}


def summarize(desk: Desk, spec: ExperimentSpec, stale: Mapping[str, StaleFlag]) -> Summary:
    """One experiment, or a rule of a flag."""
    key = spec.key
    paused = file_key(key) in desk.worker.kill_switch.paused
    result = desk.results.peek(Job("experiment", key, "channel"))
    report = result.value if result is not None and isinstance(result.value, Report) else None
    plain = Summary(
        key=key,
        title=_title_of(spec),
        owner=spec.owner or "",
        state=state_of(spec, time.time(), is_paused=paused),
        href=link_to("experiments", key),
        spec=spec,
        paused_by=paused,
        reason=_reason(spec, result),
        computed=result.at if result else None,
        lights=[Light(name="Stale", tone="warn", text=f"It {stale[key].text}.")] if key in stale else [],
    )
    return plain if report is None else _with_report(plain, report)


def _title_of(spec: ExperimentSpec) -> str:
    """The title; a rule of a flag has that of its flag, so its own name follows."""
    _, is_rule, name = spec.key.partition(RULE)
    return f"{spec.title}: {name}" if spec.title and is_rule else spec.title or spec.key


def primary_rows(report: Report) -> list[MetricReport]:
    """The rows of the primary metric, one for each variant."""
    return [row for row in report.metrics if row.role == "primary"]


def _with_report(plain: Summary, report: Report) -> Summary:
    advice = report.recommendation
    money = advice.money_per_month if isinstance(advice.money_per_month, Money) else None
    rows = [row for row in primary_rows(report) if isinstance(row.relative, Effect)]
    best = max(rows, key=lambda row: row.chance_best or 0.0, default=None)
    effect = ""
    if best is not None and isinstance(best.relative, Effect):
        span = format_span_of(best.relative.low, best.relative.high)
        effect = f"{best.variant}: {best.metric} {format_change(best.relative.estimate)} ({span})"
    return Summary(
        **{
            **{name: getattr(plain, name) for name in ("key", "title", "owner", "state", "href", "spec", "paused_by")},
            "computed": plain.computed,
            "report": report,
            "lights": [*lights_of(report), *plain.lights],
            "verdict": advice.verdict,
            "tone": VERDICT_TONES[advice.verdict],
            "why": f"{advice.why}.",
            "money": money,
            "money_line": money_text(report),
            "effect": effect,
            "days_left": advice.days_left,
            "units": sum(report.units.values()),
        }
    )


def _reason(spec: ExperimentSpec, result: Result | None) -> str:
    """The reason for a missing report, with the remedy."""
    if spec.status == "draft":
        return "A draft: try it in the editor with preview, then set status: running."
    if spec.metrics is None and spec.kind == "flag":
        return "A flag: it gives a value, and measures nothing by itself. A rule with metrics has a report of its own."
    if spec.metrics is None:
        return "It names no metrics, so nothing is measured: add metrics: {primary: …} to its file."
    if result is None:
        return "Its first report is being computed."
    return result.reason
