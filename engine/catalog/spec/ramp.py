"""The YAML of ramps: coverage that rises at dates, or while guardrails hold."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.fields import Positive, Share, Span, Spec, ZonedTime


class RampStep(Spec, frozen=True, kw_only=True):
    """From `at` on, the experiment has this `coverage`."""

    at: ZonedTime
    coverage: Share


class HeldRamp(Spec, frozen=True, kw_only=True):
    """A ramp that holds itself: each of `steps` is a coverage, and the next begins when the guardrails allow it.

    `counterpoint supervise` looks at the experiment's report, by its anytime-valid test. A step lasts at least `every`.
    A guardrail that is harmed, or a loss that may exceed `loss_budget`, returns everyone to control. The loss is that
    of the primary metric in money: the worst of its effect per unit, with 95 % confidence at any time, for every unit
    that had another variant than control.
    """

    steps: Annotated[list[Share], Meta(min_length=1, max_length=50)]
    every: Span
    advance: Literal["guardrails_hold"] = "guardrails_hold"
    loss_budget: Positive | None = None


Ramp = list[RampStep] | HeldRamp


def timed_steps(ramp: Ramp) -> list[RampStep]:
    """The steps of a ramp by dates; empty for a held ramp."""
    return [] if isinstance(ramp, HeldRamp) else ramp


def final_coverage(ramp: Ramp, coverage: float) -> float:
    """The coverage at the end of a ramp that begins at `coverage`."""
    if isinstance(ramp, HeldRamp):
        return ramp.steps[-1]
    return ramp[-1].coverage if ramp else coverage
