"""Measures which customers of a sample have an offer, by segment, journey stage, channel and placement."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import expand_segments
from engine.customer import CustomerIds
from engine.decision.attributes import overlay_context
from engine.decision.decision import DecideRequest, decide
from engine.rehearse.customers import SampledCustomer
from engine.traits.attributes import derive_attributes
from engine.traits.stages import Stage, derive_stage

EVERYONE = "(everyone)"
STAGES: tuple[Stage, ...] = ("new", "engaged", "cart", "customer", "loyal", "lapsed")


class CoverageCell(msgspec.Struct, frozen=True, kw_only=True):
    """The customers of a segment in a stage, and the offers of one placement of a channel for them.

    `offers` are the candidates of at least one of them; `without` is the share of customers who get the fallback. A
    cell is a `hole` where that share exceeds one half.
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
    """The segments without a customer in the sample, whose coverage is therefore unknown."""
    met = {cell.segment for cell in cells}
    return [key for key, segment in specs.segments.items() if segment.condition is not None and key not in met]


def measure_coverage(plan: Plan, specs: Specs, sample: Iterable[SampledCustomer], now: float) -> list[CoverageCell]:
    """The cells of all segments, stages, channels and placements with customers in the sample, the worst first."""
    segments = {
        key: compile_condition(expand_segments(segment.condition, specs.segments))
        for key, segment in specs.segments.items()
        if segment.condition is not None
    }
    plan = replace(plan, quiet={})  # coverage does not depend on the time of day
    placements = sorted({(channel, placement) for channel, placement in plan.selections})
    counts: defaultdict[tuple[str, Stage, str, str], int] = defaultdict(int)
    without: defaultdict[tuple[str, Stage, str, str], int] = defaultdict(int)
    offers: defaultdict[tuple[str, Stage, str, str], set[str]] = defaultdict(set)
    for one in sample:
        known = derive_attributes(one.profile, now, plan.rules.computed)
        overlay_context(known, one.context)
        memberships = [EVERYONE, *(key for key, matches in segments.items() if matches(known))]
        stage = derive_stage(one.profile, now, plan.rules.computed.stages)
        for channel, placement in placements:
            request = DecideRequest(
                customer=CustomerIds(user_id=one.profile.id),
                channel=channel,
                placements=[placement],
                context=one.context,
                expose=False,
            )
            choice = decide(plan, {}, one.profile, request, now).choices[placement]
            for segment in memberships:
                key = (segment, stage, channel, placement)
                counts[key] += 1
                without[key] += choice.offer.key not in choice.candidates
                offers[key].update(choice.candidates)
    cells = [
        CoverageCell(
            segment=key[0],
            stage=key[1],
            channel=key[2],
            placement=key[3],
            customers=number,
            offers=sorted(offers[key]),
            without=without[key] / number,
            hole=2 * without[key] > number,
        )
        for key, number in counts.items()
    ]
    return sorted(cells, key=lambda c: (-c.without, c.segment, STAGES.index(c.stage), c.channel, c.placement))
