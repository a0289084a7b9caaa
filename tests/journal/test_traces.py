from pathlib import Path

import msgspec
import pytest

from engine.catalog import load_plan
from engine.catalog.check.load import load_specs
from engine.customer import CustomerIds, Decayed, JourneyItem, Order, Profile, Trait
from engine.decision.decision import Availability, DecideRequest, decide
from engine.errors import BadInput
from engine.journal.traces import FORMAT, RELEASE, Trace, decode_trace, encode_trace, traced_profile
from engine.rehearse.generated_customers import make_customers
from engine.traits.attributes import derive_attributes

REQUEST = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", context={"intent": "buy"})
TRACE = Trace(1.5, REQUEST, Profile("u", "u", points=3.0), Availability({"exposure|*": [1.0]}), tripped=["hero"])


def test_a_trace_names_its_format_and_its_release() -> None:
    blob = encode_trace(TRACE)
    assert (blob[0], decode_trace(blob)) == (FORMAT, TRACE)
    assert decode_trace(blob).release == RELEASE


def test_a_trace_from_before_formats_is_read_without_a_release() -> None:
    before = msgspec.msgpack.encode(msgspec.to_builtins(TRACE)[:7])
    assert decode_trace(before) == msgspec.structs.replace(TRACE, release="")


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "has no trace"),
        (
            bytes((FORMAT + 1,)) + encode_trace(TRACE)[1:],
            f"has format {FORMAT + 1} and .* reads format {FORMAT}; explain it with",
        ),
        (encode_trace(TRACE)[:-5], "cannot be read .*damaged"),
        (bytes((FORMAT,)), "cannot be read"),
    ],
    ids=["none", "newer", "cut", "empty"],
)
def test_an_unreadable_trace_is_an_error_with_reason_and_remedy(blob: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        decode_trace(blob)


SHOP = Path(__file__).parents[2] / "experiments"
NOW = 1_790_000_000.0


def with_history(profile: Profile, entries: int) -> Profile:
    """The customer with this many more traits, orders, events, visits and steps, none of which the shop reads."""
    numbers = range(entries)
    return msgspec.structs.replace(
        profile,
        ids={"user_id": [profile.id], "device_id": [f"d-{n}" for n in numbers]},
        traits={f"other.{n}": Trait(n, NOW) for n in numbers} | profile.traits,
        affinities={f"brand {n}": Decayed(1.0, NOW) for n in numbers} | profile.affinities,
        orders={f"o-{n}": Order(5.0, NOW - n) for n in numbers},
        visits=[(n, n + 1) for n in numbers],
        recent={f"event_{n}": NOW - n for n in numbers} | profile.recent,
        journey={f"step_{n}": JourneyItem(n, NOW, NOW - 1.0 + n % 2 * 99.0) for n in numbers},
        marks=b"8" * 8 * entries,
    )


@pytest.mark.parametrize("entries", [0, 3, 300])
def test_a_decision_is_the_same_with_the_traced_profile(entries: int) -> None:
    plan = load_plan(SHOP)
    sizes = []
    for one in make_customers(60, load_specs(SHOP), now=NOW):
        profile = with_history(one.profile, entries)
        kept = traced_profile(profile, plan, NOW)
        for channel in sorted(plan.channels):
            placements = [placement for of, placement in plan.selections if of == channel]
            ids = CustomerIds(user_id=profile.id)
            request = DecideRequest(customer=ids, channel=channel, placements=placements, experiments="*")
            made, again = (decide(plan, {}, who, request, NOW, decision_id="d-1") for who in (profile, kept))
            assert made == again
        if entries < 10:
            assert derive_attributes(kept, NOW) == derive_attributes(profile, NOW)
        sizes.append(len(msgspec.msgpack.encode(kept)) / len(msgspec.msgpack.encode(profile)))
    assert max(sizes) < (0.3 if entries > 10 else 1.01)
