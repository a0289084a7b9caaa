"""The inputs of a decision besides plan and snapshots, stored in its record so that `explain` can repeat it.

The first byte is the format. Adding fields keeps the format; changing the meaning of a field, or how the same
inputs are decided, needs a new one.
"""

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version

import msgspec

from engine.catalog.plan.plan import Plan
from engine.customer import JourneyItem, Profile, Trait, TraitSeries, TraitValue
from engine.decision.attributes import usable_profile
from engine.decision.decision import Availability, DecideRequest
from engine.errors import BadInput
from engine.traits.stages import STAGE_RULES, derive_stage
from engine.vocabulary import CAMPAIGN

FORMAT = 1
LOGGED_ENTRIES = 64
"""Traits and affinities of a customer up to which all are in a trace, whether or not the plan reads them."""
LOGGED_LENGTH = 200
"""The longest text or list of a trait that the plan does not read and a trace still has."""
UNMARKED = range(0x90, 0xA0)
"""First bytes of a msgpack array: traces written before the format byte, which equal format 1."""
RELEASE = version("counterpoint")


class Trace(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Time and request of a decision, and the part of the profile that it reads (`traced_profile`).

    `tripped` selections had an open breaker, `paused` ones were paused. `release` is the engine's version.
    `probabilities` has, by placement, the candidates' final probabilities where a learnt policy chose, because its
    snapshot is deleted after a while. `ramped` is the coverage that ramps which hold themselves had reached.
    """

    now: float
    request: DecideRequest
    profile: Profile
    availability: Availability
    degraded: bool = False
    tripped: list[str] = []
    paused: list[str] = []
    release: str = RELEASE
    probabilities: dict[str, Sequence[float]] = {}
    ramped: dict[str, float] = {}


def traced_profile(profile: Profile, plan: Plan, now: float) -> Profile:
    """The part of a profile that a decision by this plan at `now` (s since 1970) can read; the result is the same.

    Orders, identifiers, visits and statements are only in the profile's sums, which stay. Traits and affinities that no
    condition and no feature reads stay too, so that a report can split by them, unless they are many or long. The
    shop's own traits stay as their values at `now`; version 0 says that no event wrote this profile.

    Of a customer without consent to profiling, what a decision may not use is left out before anything is computed.
    """
    profile = usable_profile(plan, profile, now)
    names = plan.read_names
    affinities = profile.affinities
    if len(affinities) > LOGGED_ENTRIES and "affinity" not in names:
        affinities = {}
    return msgspec.structs.replace(
        profile,
        ids={},
        merged=[],
        marks=b"",
        version=0,
        traits=_traced_traits(profile, plan, now),
        affinities=affinities,
        orders={},
        visits=[],
        past_visits=profile.past_visits + len(profile.visits),
        recent=_watched_events(profile, plan.rules.watched_events),
        journey=_open_journey(profile, now) if profile.journey else {},
        links=[],
        consent_statements={},
        trait_statements={},
        order_facts={},
        series=_moments_series(profile, plan.rules.computed.unnamed) if profile.series else {},
        archived_series={},
    )


def _traced_traits(profile: Profile, plan: Plan, now: float) -> dict[str, Trait]:
    """The traits that the plan reads, of the others those that are short, while they are few, and the shop's own.

    The shop's own are the values of the traits that it defines and the plan reads, and the stage where it defines
    stages. Reports split by these without the plan.
    """
    traits, names, computed = profile.traits, plan.read_names, plan.rules.computed
    are_few = len(traits) <= LOGGED_ENTRIES
    if not (are_few and _are_short(traits)):
        traits = {
            name: trait
            for name, trait in traits.items()
            if name.partition(".")[0] in names or (are_few and _is_short(trait.value))
        }
    own: dict[str, Trait] = {}
    if computed.stages != STAGE_RULES and "stage" not in profile.traits:
        own["stage"] = Trait(derive_stage(profile, now, computed.stages), now)
    for name, value in computed.read(profile, now):
        if name in names:
            own[name] = Trait(value, now)
    return traits | own if own else traits


def _watched_events(profile: Profile, watched: Collection[str]) -> dict[str, float]:
    """The times of the last events that the plan reads."""
    return {name: at for name, at in profile.recent.items() if name in watched} if watched else {}


def _open_journey(profile: Profile, now: float) -> dict[str, JourneyItem]:
    """What the customer can resume at `now`."""
    items = profile.journey.items()
    return {key: one for key, one in items if key != CAMPAIGN and one.value is not None and one.until > now}


def _moments_series(profile: Profile, digests: Collection[str]) -> dict[str, TraitSeries]:
    """The series that only moments read."""
    return {digest: one for digest, one in profile.series.items() if digest in digests}


def _are_short(traits: Mapping[str, Trait]) -> bool:
    """Whether all traits are short; nearly always, and then no dictionary is made."""
    for trait in traits.values():  # noqa: SIM110 (a generator for `all` costs more)
        if not _is_short(trait.value):
            return False
    return True


def _is_short(value: TraitValue) -> bool:
    return len(value) <= LOGGED_LENGTH if isinstance(value, str) else not isinstance(value, list)


_FORMAT = bytes((FORMAT,))
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Trace)


def encode_trace(trace: Trace) -> bytes:
    """The trace as bytes of a decision's record."""
    return _FORMAT + _encoder.encode(trace)


def decode_trace(blob: bytes) -> Trace:
    """The trace of a record.

    Raises:
        BadInput: if the record has no trace, or one that this version cannot read.
    """
    if not blob:
        raise BadInput("the record has no trace, so it cannot be repeated; its rows in the log are all there is")
    marked = blob[0] not in UNMARKED
    if marked and blob[0] != FORMAT:
        raise BadInput(
            f"the record's trace has format {blob[0]} and Counterpoint {RELEASE} reads format {FORMAT}; "
            "explain it with the release that decided it"
        )
    try:
        trace = _decoder.decode(memoryview(blob)[1:] if marked else blob)
    except msgspec.DecodeError as error:
        raise BadInput(f"the record's trace cannot be read ({error}); is the log damaged?") from error
    return trace if marked else msgspec.structs.replace(trace, release="")
