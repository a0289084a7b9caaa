"""Reserves identifiers, which count towards a customer's limits before they are joined to it.

A merge is several writes, and several processes may join identifiers to one customer at the same moment. So the first
write is a reservation: an entry of `Profile.joining`, which names the identifier and the end of its life. Limits count
it as if the customer had it. The write that joins the identifier, or finds that it stays apart, drops the reservation;
after a crash it lapses.
"""

from collections.abc import Collection
from typing import NamedTuple

from msgspec.structs import replace

from engine.customer import WEAK, Profile
from engine.customers.model.merge import profile_kind

RESERVED_SECONDS = 60.0


class Reservation(NamedTuple):
    """A profile with new entries in `joining`, and their names."""

    profile: Profile
    names: list[str]


def reserve_identifiers(
    profile: Profile, stored: Profile | None, reserved: Collection[str], now: float
) -> Reservation | None:
    """Returns `stored`, or a new profile, with reservations for the additional ids of `profile`; None if none.

    Those that the caller `reserved` before are left out. Browsers and devices are reserved only for a customer who has
    nothing else, since the limits of another one do not count them.
    """
    held: dict[str, list[str]] = stored.ids if stored is not None else {profile_kind(profile): [profile.id]}
    names = [
        name
        for kind, values in profile.ids.items()
        if kind not in WEAK or not profile.is_known
        for value in values
        if value not in held.get(kind, ()) and (name := f"{kind}:{value}") not in reserved
    ]
    if not names:
        return None
    first, life = profile.created, profile.half_life
    base = stored or Profile(
        id=profile.id, unit=profile.id, created=first, updated=first, undecided=True, half_life=life, ids=held
    )
    joining = base.joining | dict.fromkeys(names, now + RESERVED_SECONDS)
    return Reservation(replace(base, version=base.version + 1, joining=joining), names)


def counted_ids(profile: Profile, now: float) -> dict[str, list[str]]:
    """Returns a profile's identifiers by kind, including those reserved at `now` (s since 1970)."""
    ids = profile.ids
    for name, until in profile.joining.items():
        kind, _, value = name.partition(":")
        if until > now and value not in ids.get(kind, ()):
            ids = ids | {kind: [*ids.get(kind, ()), value]}
    return ids


def drop_reservations(profile: Profile, names: Collection[str], now: float) -> Profile:
    """Returns the profile without these reservations and those that lapsed by `now` (s since 1970)."""
    if not profile.joining:
        return profile
    kept = {name: until for name, until in profile.joining.items() if until > now and name not in names}
    return replace(profile, joining=kept)
