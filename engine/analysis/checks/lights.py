"""The lights of an experiment: its checks as good, warning or bad, each with a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from engine.analysis.report.model import Report
    from engine.catalog.spec.experiment import ExperimentSpec

Tone = Literal["", "good", "bad", "warn", "muted"]


class Light(msgspec.Struct, frozen=True, kw_only=True):
    """One check: its name, whether it is good, and a sentence that explains it."""

    name: str
    tone: Tone
    text: str


def state_of(spec: ExperimentSpec, now: float, *, is_paused: bool) -> str:
    """Whether the experiment runs now, by its file, its dates and the kill switch."""
    if spec.status != "running":
        return spec.status
    if is_paused:
        return "paused"
    if spec.start is not None and spec.start.timestamp() > now:
        return "scheduled"
    if spec.end is not None and spec.end.timestamp() <= now:
        return "ended"
    return "running"


def lights_of(report: Report) -> list[Light]:
    """The lights of a report: the split, the guardrails, the exposures, and the other flags of its data."""
    quality = report.quality
    split = "The units split as planned" if quality.srm.ok else "The units do not split as planned: the data are faulty"
    found = [Light(name="Split", tone="good" if quality.srm.ok else "bad", text=f"{split} (p = {quality.srm.p:.2g}).")]
    guards = [row for row in report.metrics if row.role == "guardrail"]
    harmed = [f"{row.metric} of {row.variant}" for row in guards if row.guard == "harmed"]
    still_open = [f"{row.metric} of {row.variant}" for row in guards if row.guard == "open"]
    if harmed:
        found.append(Light(name="Guardrails", tone="bad", text=f"Harmed: {', '.join(harmed)}."))
    elif still_open:
        found.append(Light(name="Guardrails", tone="warn", text=f"Not yet shown to be safe: {', '.join(still_open)}."))
    elif guards:
        found.append(Light(name="Guardrails", tone="good", text="All are shown to be no worse than their margins."))
    exposure = quality.exposure
    if exposure is not None:
        share = exposure.exposed / exposure.assigned if exposure.assigned else 0.0
        tone: Tone = "bad" if exposure.p < 0.001 else "warn" if share < 0.5 or exposure.orphans else "good"
        text = f"{share:.1%} of those assigned saw it; equal over the variants at p = {exposure.p:.2g}."
        found.append(Light(name="Exposures", tone=tone, text=text))
    if quality.flags:
        found.append(
            Light(name="Data", tone="warn", text=" ".join(f"{flag[:1].upper()}{flag[1:]}." for flag in quality.flags))
        )
    return found
