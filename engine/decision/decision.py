"""`decide` turns one request into one `Decision`: the answer to the storefront and the records for the log.

Pure: no I/O, no clock, no global. The same plan, snapshots, profile, request, time and options give the same decision.
"""

from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec

from engine.catalog.plan.places import NOWHERE
from engine.catalog.plan.plan import Plan, Selection
from engine.catalog.spec.units import Unit
from engine.customer import Counts, CustomerIds, Profile, resumable_journey
from engine.decision.answers import OfferAnswer, answer_offer, fill_coupon, force_offer, withhold_fallback
from engine.decision.assign import Subject
from engine.decision.attributes import build_attributes, usable_profile
from engine.decision.experiments import (
    UNKNOWN,
    Assigned,
    ExperimentAnswer,
    ExperimentAssigner,
    HoldoutSide,
    holdout_sides,
    is_tripped,
    kept_selection_at,
    new_sticky_entries,
    selection_at,
)
from engine.decision.gating.facts import Facts, Pools, Prices
from engine.decision.lists import choose_shown
from engine.decision.offers import (
    FALLBACK_REASONS,
    NONE_LOST,
    Choice,
    LostClaims,
    OfferQuery,
    OfferReason,
    Snapshot,
)
from engine.decision.units import read_store, read_units
from engine.decision.windows import former_zones, quiet_until
from engine.errors import BadInput
from engine.vocabulary import CAMPAIGN_CHANNEL, item_name

TTL = 30
"""Seconds for which a storefront may cache an answer."""


class DecideRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The request of a storefront: the customer, the channel, and the placements and experiments to decide."""

    customer: CustomerIds
    channel: str
    placements: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    experiments: Annotated[list[str], msgspec.Meta(max_length=1000)] | Literal["*"] = []
    context: dict[str, object] = {}
    expose: bool = True


class Availability(msgspec.Struct, frozen=True, gc=False):
    """The limits of offers at the time of the decision, apart from the profile.

    `counts` and `pools` as read from the store, `prices` as the learner published them, and by placement the offers
    whose claim was denied in this decision. `short` are places that turned out not to have an item: another one hands
    it over, and no gate closes the offer that was drawn. `reserved` are the places, by offer, where this decision has
    claimed the item: a redraw that shows the offer again leaves it there.
    """

    counts: Counts = {}
    pools: Pools = {}
    lost: Mapping[str, LostClaims] = {}
    prices: Prices = {}
    short: Pools | msgspec.UnsetType = msgspec.UNSET  # rare, so left out of the traces of all other decisions
    reserved: Mapping[str, str] | msgspec.UnsetType = msgspec.UNSET


UNRESTRICTED = Availability()


class DecideOptions(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The circumstances of a decision that are neither plan, profile nor request.

    Attributes:
        degraded: whether the profile could not be read: placements show their fallback, and the answer says so.
        tripped: selections whose circuit breaker is open: their placements show the fallback.
        availability: what limits the offers now.
        preview: the variant or offer that a preview forces, by experiment and placement; all are those of the plan.
        trace: whether to record why each offer is not shown, and what made the probabilities of the others.
    """

    degraded: bool = False
    tripped: Collection[str] = ()
    availability: Availability = UNRESTRICTED
    preview: Mapping[str, str] = {}
    trace: bool = False


DEFAULT_OPTIONS = DecideOptions()


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to the storefront; `ttl` is in seconds, `warnings` name identifiers that are placeholders."""

    decision_id: str
    customer: str
    plan: str
    degraded: bool
    ttl: int
    experiments: dict[str, ExperimentAnswer]
    offers: dict[str, OfferAnswer]
    resume: dict[str, object]
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer, with the records and the stored entries that follow from it.

    `sides` are those of frozen holdouts. `sticky_entries` are to be added to the customer's profile (usually none);
    `zone` and `counts` are the customer's. `decide` leaves the rest to its caller: `trace` is what a replay needs,
    `claims_key` where the customer's claims are stored, `customer_ids` and `unit` the customer of a deferred exposure;
    nothing is stored about one who is `erased`.
    """

    answer: Answer
    device: str | None
    channel: str
    assigned: dict[str, Assigned]
    choices: dict[str, Choice]
    sides: tuple[HoldoutSide, ...] = ()
    sticky_entries: dict[str, str] = {}
    zone: str = "UTC"
    counts: Counts = {}
    claims_key: str = ""
    trace: bytes = b""
    customer_ids: CustomerIds = CustomerIds()
    unit: str = ""
    erased: bool = False

    def items(self) -> Iterator[tuple[str, Choice]]:
        """Yields each item's name and choice; a placement that shows one offer is one item with its own name."""
        for placement, choice in self.choices.items():
            for item in choice.items:
                yield item_name(placement, item.position), item


def decide(
    plan: Plan,
    snapshots: Mapping[str, Snapshot],
    profile: Profile,
    request: DecideRequest,
    now: float,
    *,
    decision_id: str | None = None,
    options: DecideOptions = DEFAULT_OPTIONS,
) -> Decision:
    """Decides every placement and experiment of `request`.

    Args:
        plan: what is running.
        snapshots: the learnt policies by selection key; the prior stands in for a missing one.
        profile: the customer.
        request: what is asked.
        now: seconds since 1970.
        decision_id: the id that all draws are hashed from; by default a digest of customer, channel and time.
        options: what else the decision depends on.

    Raises:
        BadInput: for a channel or placement that the plan does not have.
    """
    _check_request(plan, request)
    decision_id = decision_id or _digest_id(profile, request, now)
    facts = _gather_facts(plan, usable_profile(plan, profile, now), request, now, options.availability)
    subject = _subject_of(plan, profile, request, facts.attributes, options)
    assigned, experiments = _assign_experiments(ExperimentAssigner(plan, subject, profile, now), request)
    query = _PlacementQuery(
        plan=plan,
        kept=subject.kept,
        snapshots=snapshots,
        facts=facts,
        assigned=assigned,
        decision_id=decision_id,
        options=options,
    )
    choices = _choose_offers(query, request)
    answer = Answer(
        decision_id=decision_id,
        customer=profile.id,
        plan=plan.version,
        degraded=options.degraded,
        ttl=TTL,
        experiments=experiments,
        offers={placement: answer_offer(plan, choice, facts) for placement, choice in choices.items()},
        resume=resumable_journey(profile, now),
    )
    return Decision(
        answer=answer,
        device=subject.units["device"],
        channel=request.channel,
        assigned=assigned,
        choices=choices,
        sides=holdout_sides(plan, subject) if plan.frozen else (),
        sticky_entries=new_sticky_entries(assigned.values(), subject),
        zone=facts.zone,
        counts=facts.counts,
    )


def with_coupons(decision: Decision, codes: Mapping[str, str]) -> Decision:
    """The decision with each offer's coupon code filled into its answer."""
    if not codes:
        return decision
    offers = {placement: fill_coupon(one, codes) for placement, one in decision.answer.offers.items()}
    return msgspec.structs.replace(decision, answer=msgspec.structs.replace(decision.answer, offers=offers))


def _digest_id(profile: Profile, request: DecideRequest, now: float) -> str:
    """The decision id for a caller that gives none."""
    key = f"{profile.id}\0{request.channel}\0{now!r}".encode()
    return blake2b(key, digest_size=16).hexdigest()


def _check_request(plan: Plan, request: DecideRequest) -> None:
    """Raises BadInput for a channel or placement that is not in the plan, or one that is requested twice."""
    if request.channel == CAMPAIGN_CHANNEL and plan.campaigns.keys() >= set(request.placements):
        return  # the engine's own: `schedule` and the replay of what it chose
    if request.channel not in plan.channels:
        raise BadInput(f"channel: {request.channel!r} is not a channel; use one of {', '.join(sorted(plan.channels))}")
    seen: set[str] = set()
    for index, placement in enumerate(request.placements):
        if placement in seen:
            raise BadInput(f"placements[{index}]: {placement!r} is asked for twice; ask once")
        if (request.channel, placement) not in plan.selections:
            on = ", ".join(sorted(p for c, p in plan.selections if c == request.channel)) or "(none)"
            raise BadInput(
                f"placements[{index}]: {placement!r} is not a placement of {request.channel}; use one of {on}"
            )
        seen.add(placement)


def _gather_facts(
    plan: Plan, profile: Profile, request: DecideRequest, now: float, availability: Availability
) -> Facts:
    """The facts that gates, moments and policies read, the same for every placement of the request."""
    attributes, zone = build_attributes(
        profile, request.channel, request.context, now, plan.zone, computed=plan.rules.computed
    )
    return Facts(
        profile=profile,
        attributes=attributes,
        channel=request.channel,
        now=now,
        zone=zone,
        counts=availability.counts,
        former=former_zones(zone, availability.counts),
        pools=availability.pools,
        short=availability.short or {},
        reserved=availability.reserved or {},
        prices=availability.prices,
        is_silenced=plan.silenced_when is not None and plan.silenced_when(attributes),
        vicinity=NOWHERE if plan.places is None else plan.places.around(attributes),
    )


def _subject_of(
    plan: Plan, profile: Profile, request: DecideRequest, attributes: Mapping[str, object], options: DecideOptions
) -> Subject:
    """The units and names of the request, for assignment."""
    ids, placeholders = request.customer, plan.rules.placeholders
    units: dict[Unit, str | None] = {
        "customer": profile.unit,
        "device": ids.device_id or ids.anonymous_id,
        "store": read_store(request.context, placeholders),
    }
    if plan.unit_traits:
        units |= read_units(plan.unit_traits, attributes, placeholders)
    return Subject(
        kept=plan.find_kept(units) if plan.frozen else None,
        units=units,
        names=(profile.id, ids.user_id, ids.anonymous_id),
        attributes=attributes,
        sticky=profile.sticky,
        degraded=options.degraded,
        preview=options.preview,
    )


def _assign_experiments(
    assigner: ExperimentAssigner, request: DecideRequest
) -> tuple[dict[str, Assigned], dict[str, ExperimentAnswer]]:
    """Assignments and answers of experiments: the requested ones, then those of the requested placements."""
    plan = assigner.plan
    assigned: dict[str, Assigned] = {}
    answers: dict[str, ExperimentAnswer] = {}
    if request.experiments == "*":
        assigned = assigner.assign_applicable(request.channel)
        for key in assigner.subject.preview:
            if key in plan.experiments:
                assigned[key] = assigner.assign(plan.experiments[key])
    else:
        for key in request.experiments:
            answers[key] = UNKNOWN  # in the order of the request; replaced below where it is known
            experiment = assigner.find(key)
            if experiment is not None and key not in assigned:
                assigned[key] = assigner.assign(experiment)
    plans = (plan,) if assigner.subject.kept is None else (plan, assigner.subject.kept)
    for placement in request.placements:
        for each in plans:
            for experiment in each.by_placement.get((request.channel, placement), ()):
                if experiment.key not in assigned:
                    assigned[experiment.key] = assigner.assign(experiment)
    for key, one in assigned.items():
        answers[key] = one.answer()
    return assigned, answers


class _PlacementQuery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The input shared by all placements' choices; `kept` is the archived plan of a customer in its holdout."""

    plan: Plan
    kept: Plan | None
    snapshots: Mapping[str, Snapshot]
    facts: Facts
    assigned: Mapping[str, Assigned]
    decision_id: str
    options: DecideOptions


def _choose_offers(query: _PlacementQuery, request: DecideRequest) -> dict[str, Choice]:
    """The choice of each placement, in request order: an offer shown in one placement is closed for later ones."""
    plan, facts, options = query.plan, query.facts, query.options
    choices: dict[str, Choice] = {}
    shown: list[str] = []
    silence = _quiet_silence(plan, facts)
    for placement in request.placements:
        lost = options.availability.lost.get(placement, NONE_LOST)
        if placement in options.preview and placement not in plan.experiments:  # the key of both is an experiment's
            choice = force_offer(plan, request.channel, options.preview[placement])
            count = selection_at(plan, request.channel, placement, {}).count
        else:
            choice, count = _choose_at(query, request.channel, placement, shown, silence)
        if count > 1 and not choice.position:
            choice = msgspec.structs.replace(choice, position=1)
        if choice.reason in FALLBACK_REASONS:  # any other passed the gates, which close what is capped or shown
            choice = withhold_fallback(plan, facts, choice, shown, lost)
        choices[placement] = choice
        if not choice.is_silent:
            shown += (item.offer.key for item in choice.items)
    return choices


def _choose_at(
    query: _PlacementQuery,
    channel: str,
    placement: str,
    shown: Collection[str],
    silence: tuple[OfferReason, float | None] | None,
) -> tuple[Choice, int]:
    """The choice of one placement and its number of positions, by the plan that decides for the customer.

    Where the kept plan does not have the placement it shows today's fallback, and sends nothing on an outbound channel.
    """
    plan, options = query.kept or query.plan, query.options
    if query.kept is None:
        selection: Selection | None = selection_at(plan, channel, placement, query.assigned)
    else:
        selection = kept_selection_at((query.plan, query.kept), channel, placement, query.assigned)
    if selection is None:
        today = selection_at(query.plan, channel, placement, {})
        reason: OfferReason = "dropped" if channel in query.plan.outbound else "fallback"
        return Choice(offer=today.fallback, reason=reason, propensity=1.0), today.count
    if silence is not None:
        why, until = silence
        return Choice(offer=selection.fallback, reason=why, propensity=1.0, not_before=until), selection.count
    if options.degraded or is_tripped(selection, options.tripped):
        why = "fallback" if options.degraded else "breaker"
        return Choice(offer=selection.fallback, reason=why, propensity=1.0), selection.count
    asked = OfferQuery(
        selection=selection,
        snapshot=query.snapshots.get(selection.key),
        facts=query.facts,
        decision_id=query.decision_id,
        moments=plan.moments.get((channel, placement), ()),
        shown=shown,
        lost=options.availability.lost.get(placement, NONE_LOST),
        trace=options.trace,
        creative_snapshot=None if selection.creatives is None else query.snapshots.get(selection.creatives.key),
    )
    return choose_shown(asked), selection.count


def _quiet_silence(plan: Plan, facts: Facts) -> tuple[OfferReason, float | None] | None:
    """The reason why an outbound channel sends nothing in quiet hours, and the end of those hours."""
    quiet = plan.quiet.get(facts.channel)
    until = quiet_until(quiet, facts.now, facts.zone) if quiet is not None else None
    if quiet is None or until is None:
        return None
    return ("deferred", until) if quiet.then == "defer" else ("dropped", None)
