"""Decides for the bearer of a preview token, without records, claims or stored entries.

The customer is read and decided as in any request, except that the token's variants and offers are forced. Nothing is
written: no record in the log, no exposure, no claim, no sticky variant. The id of the decision is marked, so that
exposures and events that name it do not count either. A draft is decided as if it ran.
"""

import asyncio
import time
from dataclasses import replace
from functools import lru_cache

import msgspec

from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Offer, Plan
from engine.catalog.spec.folder import Specs
from engine.customer import Profile
from engine.decision.decision import Availability, DecideOptions, DecideRequest, Decision, decide
from engine.errors import StoreUnavailable
from engine.service.decision_task import new_task, unknown_profile
from engine.service.ids import mark_preview, new_id
from engine.service.previews.tokens import PreviewPass, PreviewRefused, read_preview
from engine.service.problems import Refusal
from engine.service.store_health import BudgetSpent, StoreBudget
from engine.service.worker import Worker


async def decide_preview(
    worker: Worker,
    request: DecideRequest,
    token: str,
    *,
    seconds: float,
    profile: Profile | None = None,
    adds_forced: bool = False,
) -> Decision:
    """The decision for the bearer of a token, with its trace.

    Args:
        worker: of this server.
        request: as sent; without placeholders if there is a `profile`.
        token: as sent.
        seconds: how long it waits for the store; past that the customer is unknown, and the decision degraded.
        profile: of the customer, where it is not to be read.
        adds_forced: whether the experiments that the token forces are asked for, too.

    Raises:
        Refusal: 403 for a token that was altered, has expired, or forces what the request's channel does not have.
    """
    now = time.time()
    try:
        found = read_preview(worker.settings, token, now)
        plan = await _plan_with(worker, found)
        check_preview(plan, found, request.channel)
    except PreviewRefused as error:
        raise Refusal(403, f"preview: the token {error}", "preview") from None
    if adds_forced and request.experiments != "*":
        forced = [key for key in found.force if key in plan.experiments]
        request = msgspec.structs.replace(request, experiments=list(dict.fromkeys([*request.experiments, *forced])))
    task = new_task(request, now, mark_preview(new_id(now)), plan.rules.placeholders) if profile is None else None
    asked = request if task is None else task.request
    availability, degraded = Availability(), False
    if profile is None:
        try:
            async with StoreBudget(asyncio.get_running_loop().time() + seconds):
                customer = await worker.store.fetch(asked.customer, now, counts=True)
            profile, availability = customer.profile, Availability(customer.counts, prices=worker.follower.prices)
        except (StoreUnavailable, BudgetSpent):
            profile, degraded = unknown_profile(asked.customer), True
    options = DecideOptions(
        degraded=degraded, tripped=worker.tripped, availability=availability, preview=found.force, trace=True
    )
    decision_id = mark_preview(new_id(now)) if task is None else task.decision_id
    return decide(plan, worker.snapshots, profile, asked, now, decision_id=decision_id, options=options)


def check_preview(plan: Plan, found: PreviewPass, channel: str) -> None:
    """Refuse a token that forces a key that is not in the plan, or an offer that the channel cannot show.

    Raises:
        PreviewRefused: naming it.
    """
    for key, value in found.force.items():
        if key in plan.experiments:
            if value not in [one.key for one in plan.experiments[key].spec.variants]:
                raise PreviewRefused(f"forces {value!r}, which is not a variant of {key}; make a new link")
        elif key not in plan.placements:
            raise PreviewRefused(f"forces {key!r}, which the plan no longer has; make a new link")
        elif (offer := value.partition("/")[0]) not in plan.offers:
            raise PreviewRefused(f"forces the offer {offer!r}, which the plan no longer has; make a new link")
        elif channel in plan.placements[key]:
            _check_rendering(plan.offers[offer], value.partition("/")[2], channel)


def _check_rendering(offer: Offer, creative: str, channel: str) -> None:
    """Refuse an offer without a rendering for the channel, or a creative that it lacks there."""
    if channel not in offer.spec.renderings:
        raise PreviewRefused(f"forces the offer {offer.key!r}, which has no rendering for {channel}; add one")
    if creative and creative not in [one.key for one in offer.creatives.get(channel, ())]:
        raise PreviewRefused(
            f"forces the creative {creative!r}, which {offer.key} has not on {channel}; make a new link"
        )


async def _plan_with(worker: Worker, found: PreviewPass) -> Plan:
    """The running plan, in which the drafts that a token forces are running."""
    plan, specs = worker.plan, worker.watch.specs
    drafts = tuple(key for key in found.force if key not in plan.experiments and key in specs.experiments)
    if not drafts:
        return plan
    with_drafts = await asyncio.to_thread(_compile, _Drafts(specs, drafts))
    return replace(with_drafts, paused=plan.paused, ramped=plan.ramped)


class _Drafts:
    """The drafts of a folder; two with the same version and keys are equal."""

    def __init__(self, specs: Specs, keys: tuple[str, ...]) -> None:
        self.specs = specs
        self.keys = keys

    def __hash__(self) -> int:
        return hash((self.specs.version, self.keys))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, _Drafts) and self.specs.version == other.specs.version
        return same and self.keys == getattr(other, "keys", None)


@lru_cache(maxsize=8)
def _compile(drafts: _Drafts) -> Plan:
    specs = drafts.specs
    started = {
        key: msgspec.structs.replace(specs.experiments[key], status="running", start=None) for key in drafts.keys
    }
    return compile_plan(replace(specs, experiments={**specs.experiments, **started}))
