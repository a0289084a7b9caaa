"""Who finds something to see: segment by stage by channel over a sample of customers, the holes shown."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import expand_segments
from engine.customer import CustomerIds, Stage, derive_attributes, derive_stage
from engine.decision.attributes import overlay_context
from engine.decision.decision import DecideRequest, decide
from engine.rehearse.customers import SampledCustomer

EVERYONE = "(everyone)"
STAGES: tuple[Stage, ...] = ("new", "engaged", "cart", "customer", "loyal", "lapsed")


class CoverageCell(msgspec.Struct, frozen=True):
    """The customers of a segment in a stage, and what one placement of a channel has for them.

    `offers` are those that at least one of them may have; `without` the share who get the fallback. A `hole` is a
    cell with customers, more than half of whom get nothing of their own.
    """

    segment: str
    stage: Stage
    channel: str
    placement: str
    customers: int
    offers: list[str]
    without: float
    hole: bool


def unmet_segments(specs: Specs, cells: Iterable[CoverageCell]) -> list[str]:
    """The segments that nobody of the sample is in, so that nothing is known of what they find."""
    met = {cell.segment for cell in cells}
    return [key for key, segment in specs.segments.items() if segment.condition is not None and key not in met]


def measure_coverage(plan: Plan, specs: Specs, sample: Iterable[SampledCustomer], now: float) -> list[CoverageCell]:
    """Every segment by stage by channel and placement that has customers in the sample, the worst covered first."""
    segments = {
        key: compile_condition(expand_segments(segment.condition, specs.segments))
        for key, segment in specs.segments.items()
        if segment.condition is not None
    }
    plan = replace(plan, quiet={})  # what is there to be said does not depend on the hour
    placements = sorted({(channel, placement) for channel, placement in plan.selections})
    counts: defaultdict[tuple[str, Stage, str, str], int] = defaultdict(int)
    without: defaultdict[tuple[str, Stage, str, str], int] = defaultdict(int)
    offers: defaultdict[tuple[str, Stage, str, str], set[str]] = defaultdict(set)
    for one in sample:
        known = derive_attributes(one.profile, now)
        overlay_context(known, one.context)
        mine = [EVERYONE, *(key for key, matches in segments.items() if matches(known))]
        at = derive_stage(one.profile, now)
        for channel, placement in placements:
            request = DecideRequest(
                customer=CustomerIds(user_id=one.profile.id),
                channel=channel,
                placements=[placement],
                context=one.context,
                expose=False,
            )
            choice = decide(plan, {}, one.profile, request, now).choices[placement]
            for segment in mine:
                key = (segment, at, channel, placement)
                counts[key] += 1
                without[key] += choice.offer.key not in choice.candidates
                offers[key].update(choice.candidates)
    cells = [
        CoverageCell(
            *key, number, sorted(offers[key]), without[key] / number, 2 * without[key] > number
        )  # key: the first fields
        for key, number in counts.items()
    ]
    return sorted(cells, key=lambda c: (-c.without, c.segment, STAGES.index(c.stage), c.channel, c.placement))
