"""The status of every experiment, flag, rule and placement: state, days left, traffic, checks, next step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from engine.analysis import analyze_experiment
from engine.analysis.checks.lights import Light, lights_of, state_of
from engine.analysis.checks.stale_flags import StaleFlag, find_stale_flags
from engine.analysis.checks.traffic import TRAFFIC_DAYS, KeyTraffic, read_traffic
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.report.model import Report
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.flags import RULE, rule_experiments
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.ramp import HeldRamp
from engine.errors import BadInput
from engine.supervise.running_state import RunningState
from engine.vocabulary import DAY

MOST_FALLBACKS = 0.5
"""The share of a placement's decisions that may be fallbacks before its light warns."""
LEAST_EXPOSED = 0.5
"""The share of decisions that should be exposed."""

StatusKind = Literal["experiment", "flag", "rule", "placement"]


class StatusLine(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment, flag, rule of a flag, or placement.

    `days_left` is until a verdict is due, or until its end where no report says. `traffic` is decisions a day over the
    last days, None without a log; `units` are those of its report. `verdict` is the report's.
    """

    kind: StatusKind
    key: str
    state: str
    owner: str = ""
    days_left: float | None = None
    traffic: float | None = None
    units: int | None = None
    lights: list[Light] = []
    verdict: str = ""
    next: str = ""


class ShopStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All lines as of a time (RFC 3339), those that need a decision first. `stale` lists flags to remove."""

    as_of: str
    plan: str
    lines: list[StatusLine]
    stale: list[StaleFlag]


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """The inputs of the lines; `traffic` is None without a log."""

    specs: Specs
    plan: Plan
    running: RunningState
    log_dir: Path
    traffic: Mapping[str, KeyTraffic] | None
    stale: Mapping[str, StaleFlag]
    now: float


def read_shop_status(specs: Specs, running: RunningState, log_dir: Path, now: float) -> ShopStatus:
    """The status of a folder, from its files, the running shop's state, and the log if there is one."""
    has_log = (log_dir / "decisions").is_dir()
    stale = find_stale_flags(specs.experiments, log_dir, now) if has_log else []
    shop = _Inputs(
        specs=specs,
        plan=compile_plan(specs),
        running=running,
        log_dir=log_dir,
        traffic=read_traffic(log_dir, now) if has_log else None,
        stale={one.key: one for one in stale},
        now=now,
    )
    lines = [line for spec in specs.experiments.values() for line in _experiment_lines(shop, spec)]
    lines += [_placement_line(shop, key) for key in shop.plan.placements]
    urgent = {"fix the data": 0, "stop": 1, "ship": 2}
    order = {"running": 0, "paused": 1, "scheduled": 2, "draft": 3}
    kinds = {"experiment": 0, "rule": 0, "flag": 1, "placement": 2}
    lines.sort(key=lambda one: (urgent.get(one.verdict, 3), kinds[one.kind], order.get(one.state, 4), one.key))
    as_of = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return ShopStatus(as_of=as_of, plan=shop.plan.version, lines=lines, stale=stale)


def _experiment_lines(shop: _Inputs, spec: ExperimentSpec) -> Iterator[StatusLine]:
    """Yield the line of an experiment or a flag, then those of the rules that are experiments."""
    yield _experiment_line(shop, spec, spec.kind)
    for rule in rule_experiments(spec):
        if rule.metrics is not None and len(rule.variants) > 1:
            yield _experiment_line(shop, rule, "rule")


def _experiment_line(shop: _Inputs, spec: ExperimentSpec, kind: StatusKind) -> StatusLine:
    key = spec.key
    pause = shop.running.paused.get(key)
    state = state_of(spec, shop.now, is_paused=pause is not None)
    report = reason = None
    if state not in {"draft", "scheduled"} and spec.metrics is not None:
        report, reason = _report(shop, key)
    traffic = _traffic(shop, key, with_rules=kind == "flag")
    lights = lights_of(report) if report else _exposure_light(traffic)
    left = report.recommendation.days_left if report else None
    if left is None and state == "running" and spec.end is not None:
        left = (spec.end.timestamp() - shop.now) / DAY
    is_open = report is not None and state in {"running", "paused"}
    paused_by = f"{pause.by or 'the kill switch'}: {pause.reason or 'no reason given'}" if pause else ""
    return StatusLine(
        kind=kind,
        key=key,
        state=state,
        owner=spec.owner or "",
        days_left=left if state in {"running", "paused"} else None,
        traffic=None if shop.traffic is None else traffic.daily if traffic else 0.0,
        units=sum(report.units.values()) if report else None,
        lights=lights,
        verdict=report.recommendation.verdict if report and is_open else "",
        next=" ".join(_next_steps(shop, spec, state, report, reason or paused_by)),
    )


def _report(shop: _Inputs, key: str) -> tuple[Report | None, str]:
    """The report of an experiment, or the reason for none."""
    if shop.traffic is None:
        return None, "there is no log yet"
    try:
        question, metrics = build_question(shop.plan, key)
        return analyze_experiment(question, metrics, shop.log_dir), ""
    except BadInput as error:
        return None, str(error)


def _next_steps(shop: _Inputs, spec: ExperimentSpec, state: str, report: Report | None, why: str) -> Iterator[str]:
    """Yield sentences about the next decisions or actions."""
    if state == "running" and isinstance(spec.ramp, HeldRamp):
        yield _ramp_step(shop, spec.key, spec.ramp)
    if spec.key in shop.stale:
        yield f"Stale: {shop.stale[spec.key].text}."
    elif state in {"running", "paused"} and report is not None:
        advice = report.recommendation
        left = f" About {advice.days_left:,.0f} days more." if advice.days_left is not None else ""
        pause = "Paused. " if state == "paused" else ""
        yield f"{pause}{advice.verdict.capitalize()}: {advice.why}.{left}"
        if advice.verdict in {"ship", "stop"} and spec.kind == "experiment":
            yield f"Then counterpoint conclude {spec.key}."
    elif state == "paused":
        yield f"Resume it or end it{f' ({why})' if why else ''}."
    elif state == "running" and spec.kind == "experiment":
        no_metrics = "it names no metrics, so nothing is measured: add metrics to its file"
        yield f"No report: {why or no_metrics}."
    else:
        yield from _next_of_state(spec, state)


def _next_of_state(spec: ExperimentSpec, state: str) -> Iterator[str]:
    """Yield the next step of an experiment that does not run."""
    decided = f" on {spec.decided.on.isoformat()}" if spec.decided is not None else ""
    if state == "draft":
        yield f"Try it with counterpoint preview {spec.key}, then set status: running."
    elif state == "scheduled" and spec.start is not None:
        yield f"It starts on {spec.start.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
    elif state == "shipped":
        yield f"Shipped{decided}: leave the variant {spec.ship} alone in the code, then delete its file."
    elif state == "stopped" and spec.decided is not None:
        yield f"Stopped{decided}: take it out of the code, then delete its file."
    elif state in {"stopped", "ended"} and spec.kind == "experiment":
        yield f"It ended without a decision: counterpoint conclude {spec.key}."


def _ramp_step(shop: _Inputs, key: str, ramp: HeldRamp) -> str:
    """A sentence about the position of a held ramp."""
    reached = shop.running.ramped.get(key)
    current = max((step for step in ramp.steps if step <= (reached or 0.0)), default=ramp.steps[0])
    place = f"Ramp at step {ramp.steps.index(current) + 1} of {len(ramp.steps)}, {current:.3g} of its audience"
    return f"{place}{'' if reached is not None else ' (assumed: counterpoint supervise has not moved it)'}."


def _traffic(shop: _Inputs, key: str, *, with_rules: bool) -> KeyTraffic | None:
    """The traffic of a key; that of a flag includes its rules'."""
    found = [
        one
        for name, one in (shop.traffic or {}).items()
        if name == key or (with_rules and name.startswith(f"{key}{RULE}"))
    ]
    if not found:
        return None
    return KeyTraffic(
        decisions=sum(one.decisions for one in found),
        shown=sum(one.shown for one in found),
        exposed=sum(one.exposed for one in found),
        days=max(one.days for one in found),
    )


def _exposure_light(traffic: KeyTraffic | None) -> list[Light]:
    """The share of exposed decisions, if no report has it by units."""
    if traffic is None or not traffic.shown:
        return []
    share = traffic.exposed / traffic.shown
    text = f"{share:.1%} of the decisions of the last {TRAFFIC_DAYS} days that gave something were seen."
    return [Light(name="Exposures", tone="good" if share >= LEAST_EXPOSED else "warn", text=text)]


def _placement_line(shop: _Inputs, key: str) -> StatusLine:
    traffic = _traffic(shop, key, with_rules=False)
    selections = [one for one in shop.plan.policies.values() if one.placement == key]
    tripped = [one.key for one in selections if one.key in shop.running.breakers]
    lights = []
    if selections:
        text = (
            f"Open: {', '.join(f'{one} ({shop.running.breakers[one]})' for one in tripped)}." if tripped else "Closed."
        )
        lights.append(Light(name="Breaker", tone="bad" if tripped else "good", text=text))
    lights += _exposure_light(traffic)
    todo = []
    if traffic is not None and traffic.decisions:
        share = traffic.fallbacks / traffic.decisions
        is_often = share > MOST_FALLBACKS
        text = f"{share:.1%} of the decisions are the fallback."
        lights.append(Light(name="Fallbacks", tone="warn" if is_often else "good", text=text))
        if is_often:
            todo.append(f"Most customers get the fallback: counterpoint simulate {key} names the gates that keep them.")
    todo += [f"Find the cause, then counterpoint policy close {one}." for one in tripped]
    if not selections:
        todo.append("No file chooses its offers: add one, or take the placement out of channels.yaml.")
    elif shop.traffic is not None and traffic is None:
        todo.append(f"No page asked for it in the last {TRAFFIC_DAYS} days.")
    return StatusLine(
        kind="placement",
        key=key,
        state="breaker open" if tripped else "running" if selections else "empty",
        traffic=None if shop.traffic is None else traffic.daily if traffic else 0.0,
        lights=lights,
        next=" ".join(todo),
    )
