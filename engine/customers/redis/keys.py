"""Identifiers to store keys: a keyed hash of kind and value, so no key tells a person and no two kinds collide."""

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from engine.customer import KINDS, CustomerIds, IdKind

Key = str


class Ident(NamedTuple):
    """One identifier of a customer; `key` is 24 hexadecimal digits."""

    kind: IdKind
    value: str
    key: Key


Hasher = Callable[[IdKind, str], Key]


def hasher(secret: bytes) -> Hasher:
    """The keyed hash of this installation: 96 bits of BLAKE2b. Another secret finds no customer of this one."""
    seeded = {kind: blake2b(f"{kind}:".encode(), key=secret[:64], digest_size=12) for kind in KINDS}

    def key(kind: IdKind, value: str) -> Key:
        state = seeded[kind].copy()
        state.update(value.encode())
        return state.hexdigest()

    return key


def idents(ids: CustomerIds, hash_: Hasher) -> list[Ident]:
    """The identifiers that were given, strongest first."""
    found: list[Ident] = []
    if ids.user_id:
        found.append(Ident("user_id", ids.user_id, hash_("user_id", ids.user_id)))
    if ids.loyalty_card:
        found.append(Ident("loyalty_card", ids.loyalty_card, hash_("loyalty_card", ids.loyalty_card)))
    if ids.email and (email := normal("email", ids.email)):
        found.append(Ident("email", email, hash_("email", email)))
    if ids.phone and (phone := normal("phone", ids.phone)):
        found.append(Ident("phone", phone, hash_("phone", phone)))
    if ids.anonymous_id:
        found.append(Ident("anonymous_id", ids.anonymous_id, hash_("anonymous_id", ids.anonymous_id)))
    if ids.device_id:
        found.append(Ident("device_id", ids.device_id, hash_("device_id", ids.device_id)))
    return found


def normal(kind: IdKind, value: str) -> str:
    """One way to write an identifier: e-mail addresses in lower case, phone numbers as digits."""
    if kind == "email":
        return value.strip().lower()
    if kind == "phone":
        return "".join(c for c in value if c in "+0123456789")
    return value


def spellings(value: str) -> set[str]:
    """An identifier of a kind that is not told, as given and as it is written here: `Ada@X.de` is `ada@x.de` too."""
    found = {value}
    if "@" in value:
        found.add(normal("email", value))
    if value.startswith("+"):
        found.add(normal("phone", value))
    return found


def strongest(ids: CustomerIds) -> str:
    """The strongest identifier that was given, as it is written here; empty if there is none."""
    return next((name for kind in KINDS if (name := normal(kind, getattr(ids, kind) or ""))), "")
