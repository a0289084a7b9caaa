"""One request -> one Decision: what is answered, and what is to be logged of it. Pure: no I/O, no clock, no global."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec

from engine.catalog.plan.plan import Experiment, Plan, Selection
from engine.customer import Counts, CustomerIds, Profile, resumable_journey
from engine.customer import derive_attributes as attributes_of
from engine.decision import sticky
from engine.decision.assign import Assignment, AssignmentReason, Subject, assign
from engine.decision.gates import Facts, Pools, Prices, is_capped
from engine.decision.moments import customer_zone
from engine.decision.offers import FALLBACK_REASONS, NONE_LOST, Choice, LostOffers, OfferReason, Snapshot, choose_offer
from engine.decision.quiet import quiet_until
from engine.errors import BadInput

TTL = 30
QUARTER = 900
DEPTH = 10
"""Names of what a request says that go deeper are no traits: each step makes a mapping."""


class DecideRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a storefront asks: which placements and experiments, for whom, on which channel."""

    customer: CustomerIds
    channel: str
    placements: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    experiments: Annotated[list[str], msgspec.Meta(max_length=1000)] | Literal["*"] = []
    context: dict[str, object] = {}
    expose: bool = True


class ExperimentAnswer(msgspec.Struct, frozen=True):
    """The variant and its payload, or none; `reason` as in `AssignmentReason`, or `unknown` for no such experiment."""

    variant: str | None
    payload: Mapping[str, object] | None
    reason: AssignmentReason | Literal["unknown"]


class OfferAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The offer to show and how it looks on this channel.

    There is none in the quiet hours of an outbound channel (`not_before` says from when to ask again) nor past its
    caps, and none where another placement of the answer shows the fallback already.
    """

    offer: str | None
    rendering: Mapping[str, object]
    propensity: float
    policy: str | None
    reason: OfferReason
    moment: str | None = None
    not_before: datetime | None = None


class Availability(msgspec.Struct, frozen=True):
    """What is known beside the profile: `counts`, `pools` and `prices` as in `Facts`, what was `lost` by placement."""

    counts: Counts = {}
    pools: Pools = {}
    lost: Mapping[str, LostOffers] = {}
    prices: Prices = {}


UNRESTRICTED = Availability()


class Answer(msgspec.Struct, frozen=True):
    """What the storefront gets; `ttl` in seconds."""

    decision_id: str
    customer: str
    plan: str
    degraded: bool
    ttl: int
    experiments: dict[str, ExperimentAnswer]
    offers: dict[str, OfferAnswer]
    resume: dict[str, object]


class Assigned(msgspec.Struct, frozen=True):
    """One experiment's part of a decision, for the log."""

    experiment: Experiment
    assignment: Assignment
    crossover: bool = False

    @property
    def variant(self) -> str | None:
        """The key of the variant, None where there is none."""
        index = self.assignment.index
        return self.experiment.spec.variants[index].key if index >= 0 else None

    @property
    def share(self) -> float:
        """The variant's share of all who are let in; 1 where it was not the hash that chose."""
        if self.assignment.reason != "assigned":
            return 1.0
        variants = self.experiment.spec.variants
        variant = variants[self.assignment.index]
        if variant.range is None:
            return 1 / len(variants) if variant.weight is None else variant.weight
        sizes = [high - low for low, high in self.experiment.steps[-1][1]]
        return sizes[self.assignment.index] / sum(sizes)


class Decision(msgspec.Struct, frozen=True):
    """The answer, and what is to be logged and kept with the customer (`kept`, empty as a rule) if it is given.

    `zone` is the customer's. Whoever decides keeps the rest, if at all: `trace` is what a replay needs, `key` where
    the customer's claims are, `who` names them, `unit` is what their variants hang on; of the `erased` nothing is kept.
    """

    answer: Answer
    device: str | None
    channel: str
    assigned: dict[str, Assigned]
    choices: dict[str, Choice]
    sticky_entries: dict[str, str] = {}
    zone: str = "UTC"
    claims_key: str = ""
    trace: bytes = b""
    customer_ids: CustomerIds = CustomerIds()
    unit: str = ""
    erased: bool = False


def decide(  # noqa: PLR0913 (all that a decision depends on, so that it can be replayed)
    plan: Plan,
    snapshots: Mapping[str, Snapshot],
    profile: Profile,
    request: DecideRequest,
    now: float,
    *,
    decision_id: str | None = None,
    degraded: bool = False,
    tripped: Collection[str] = (),
    standing: Availability = UNRESTRICTED,
    trace: bool = False,
) -> Decision:
    """Decide all that `request` asks for.

    Args:
        plan: what is running.
        snapshots: the learnt policies by selection key; the prior stands in for a missing one.
        profile: the customer.
        request: what is asked.
        now: seconds since 1970.
        decision_id: the id that all draws hang on; by default a digest of the customer, the channel and the time.
        degraded: whether the profile could not be read: placements get their fallback, and the answer says so.
        tripped: selections whose circuit breaker is open: their placements get the fallback.
        standing: what was counted of the customer, what is nearly gone, and what was drawn and could not be had.
        trace: whether to keep why each offer is not shown, and what made the probabilities of the others.

    Raises:
        BadInput: for a channel or placement that the plan does not have.
    """
    _check(plan, request)
    key = decision_id or blake2b(f"{profile.id}\0{request.channel}\0{now!r}".encode(), digest_size=16).hexdigest()
    ids = request.customer
    attributes = attributes_of(profile, now)
    overlay_context(attributes, request.context)
    zone = customer_zone(attributes, plan.zone)
    attributes |= {"id": profile.id, "channel": request.channel, **local_clock(now, zone)}
    store = request.context.get("store")
    subject = Subject(
        units={
            "customer": profile.unit,
            "device": ids.device_id or ids.anonymous_id,
            "store": store if isinstance(store, str) else None,
        },
        names=frozenset((profile.id, *filter(None, (ids.user_id, ids.anonymous_id)))),
        attributes=attributes,
        sticky=profile.sticky,
        degraded=degraded,
    )
    assigned: dict[str, Assigned] = {}
    answers: dict[str, ExperimentAnswer] = {}
    if request.experiments == "*":
        for experiment in plan.by_channel[request.channel].find_applicable(subject.attributes, subject.units):
            _assign(plan, experiment, subject, profile, now, assigned, answers, only_in=True)
    else:
        for name in request.experiments:
            if name in plan.experiments:
                _assign(plan, plan.experiments[name], subject, profile, now, assigned, answers)
            else:
                answers[name] = ExperimentAnswer(None, None, "unknown")
    choices: dict[str, Choice] = {}
    offers: dict[str, OfferAnswer] = {}
    facts = Facts(profile, attributes, request.channel, now, zone, standing.counts, standing.pools, standing.prices)
    silence = _silence(plan, facts)
    for placement in request.placements:
        selection = plan.selections[request.channel, placement]
        for experiment in plan.by_placement.get((request.channel, placement), ()):
            own = _assign(plan, experiment, subject, profile, now, assigned, answers)
            selection = own or selection
        shown = [other.offer.key for other in choices.values() if not other.is_silent]
        if silence is not None:
            choice = Choice(selection.fallback, silence[0], 1.0, not_before=silence[1])
        elif degraded or selection.key in tripped:
            choice = Choice(selection.fallback, "fallback" if degraded else "breaker", 1.0)
        else:
            choice = choose_offer(
                selection,
                snapshots.get(selection.key),
                facts,
                key,
                moments=plan.moments.get((request.channel, placement), ()),
                shown=shown,
                lost=standing.lost.get(placement, NONE_LOST),
                trace=trace,
            )
        if choice.reason in FALLBACK_REASONS and request.channel in plan.outbound:
            refused = choice.offer.key in standing.lost.get(placement, NONE_LOST)
            if refused or is_capped(choice.offer, facts):
                choice = msgspec.structs.replace(choice, reason="dropped")
        if choice.offer.key in shown:  # only a fallback can be: what is shown already is no candidate
            choice = msgspec.structs.replace(choice, reason="shown")
        choices[placement] = choice
        offers[placement] = _answered(choice, request.channel)
    answer = Answer(key, profile.id, plan.version, degraded, TTL, answers, offers, resumable_journey(profile, now))
    return Decision(answer, ids.device_id, request.channel, assigned, choices, _kept(assigned.values(), subject), zone)


def _answered(choice: Choice, channel: str) -> OfferAnswer:
    if choice.is_silent:
        until = None if choice.not_before is None else datetime.fromtimestamp(choice.not_before, UTC)
        return OfferAnswer(None, {}, choice.propensity, None, choice.reason, not_before=until)
    rendering = choice.offer.spec.renderings.get(channel, {})
    return OfferAnswer(choice.offer.key, rendering, choice.propensity, choice.policy, choice.reason, choice.moment)


def _silence(plan: Plan, facts: Facts) -> tuple[OfferReason, float | None] | None:
    """Why nothing may be sent now, and until when, on an outbound channel in its quiet hours."""
    quiet = plan.quiet.get(facts.channel)
    until = quiet_until(quiet, facts.now, facts.zone) if quiet is not None else None
    if quiet is None or until is None:
        return None
    return ("deferred", until) if quiet.then == "defer" else ("dropped", None)


def _check(plan: Plan, request: DecideRequest) -> None:
    if request.channel not in plan.channels:
        raise BadInput(f"channel: {request.channel!r} is not a channel; use one of {', '.join(sorted(plan.channels))}")
    for index, placement in enumerate(request.placements):
        if placement in request.placements[:index]:
            raise BadInput(f"placements[{index}]: {placement!r} is asked for twice; ask once")
        if (request.channel, placement) not in plan.selections:
            on = ", ".join(sorted(p for c, p in plan.selections if c == request.channel)) or "(none)"
            raise BadInput(f"placements[{index}]: {placement!r} is no placement of {request.channel}; use one of {on}")


def _assign(
    plan: Plan,
    experiment: Experiment,
    subject: Subject,
    profile: Profile,
    now: float,
    assigned: dict[str, Assigned],
    answers: dict[str, ExperimentAnswer],
    *,
    only_in: bool = False,
) -> Selection | None:
    if experiment.key not in assigned:
        channels = experiment.spec.channels
        off = channels is not None and subject.attributes["channel"] not in channels
        got = Assignment("channel") if off else assign(plan, experiment, subject, now)
        if only_in and got.index < 0 and got.reason != "holdout":
            return None
        one = Assigned(experiment, got, _crossed(plan, experiment, subject, profile, got, now))
        assigned[experiment.key] = one
        payload = experiment.spec.variants[got.index].payload if got.index >= 0 else None
        answers[experiment.key] = ExperimentAnswer(one.variant, payload, got.reason)
    index = assigned[experiment.key].assignment.index
    return experiment.selections[index] if index >= 0 else None


def _crossed(
    plan: Plan, experiment: Experiment, subject: Subject, profile: Profile, got: Assignment, now: float
) -> bool:
    """Whether the customer may have met another variant as a visitor, until they were known."""
    if not profile.units or got.reason not in ("assigned", "sticky") or experiment.spec.unit != "customer":
        return False
    for unit, until in profile.units.items():
        before = msgspec.structs.replace(subject, units={**subject.units, "customer": unit}, sticky={})
        was = assign(plan, experiment, before, min(now, until))
        if was.index >= 0 and was.index != got.index:
            return True
    return False


def _kept(assigned: Iterable[Assigned], subject: Subject) -> dict[str, str]:
    kept: dict[str, str] = {}
    for one in assigned:
        spec = one.experiment.spec
        if spec.sticky and one.variant is not None and one.assignment.reason in ("assigned", "sticky"):
            kept |= sticky.new_sticky_entry(spec, subject.units, subject.sticky, one.variant)
    return kept


def overlay_context(attributes: dict[str, object], context: Mapping[str, object]) -> None:
    """Let what a request says of the customer go before what is known: `loyalty.tier`, flat or nested, is one trait."""
    for name, value in context.items():
        if "." not in name and type(value) is not dict:
            attributes[name] = value
            continue
        place, leaf = attributes, name
        if 0 < name.count(".") < DEPTH:
            *way, leaf = name.split(".")
            for part in way:
                place = _own(place, part)
        if isinstance(value, dict) and isinstance(place.get(leaf), dict):
            overlay_context(_own(place, leaf), value)
        else:
            place[leaf] = value


def _own(tree: dict[str, object], name: str) -> dict[str, object]:
    """The branch of that name as one that may be written to: what stands there may be the request's."""
    branch = tree.get(name)
    mine: dict[str, object] = dict(branch) if isinstance(branch, dict) else {}
    tree[name] = mine
    return mine


def local_clock(now: float, zone: str) -> dict[str, object]:
    """Hour (0 to 24, with its fraction) and weekday (Monday 0) where the customer is, for features and conditions."""
    local = now + _east(zone, int(now // QUARTER))
    day = local // 86_400
    return {"hour": (local - day * 86_400) / 3600, "weekday": int(day + 3) % 7}


@lru_cache(1024)
def _east(zone: str, quarter: int) -> float:
    """Seconds that a zone is ahead of UTC; clocks are changed at quarters of an hour."""
    offset = datetime.fromtimestamp(quarter * QUARTER, ZoneInfo(zone)).utcoffset()
    return offset.total_seconds() if offset else 0.0
