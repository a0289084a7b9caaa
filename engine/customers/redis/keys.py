"""Store keys of identifiers: a keyed hash of kind and value, so that no key reveals a person and no kinds collide."""

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from engine.catalog.spec.identifiers import normalize_identifier
from engine.customer import KINDS, CustomerIds, IdKind

ProfileKey = str


class KeyedId(NamedTuple):
    """One identifier of a customer; `key` is 24 hexadecimal digits."""

    kind: IdKind
    value: str
    key: ProfileKey


KeyHasher = Callable[[IdKind, str], ProfileKey]


def key_hasher(secret: bytes) -> KeyHasher:
    """Returns the keyed hash of this installation, 96 bits of BLAKE2b. Each secret has its own customers."""
    seeded = {kind: blake2b(f"{kind}:".encode(), key=secret[:64], digest_size=12) for kind in KINDS}

    def key(kind: IdKind, value: str) -> ProfileKey:
        state = seeded[kind].copy()
        state.update(value.encode())
        return state.hexdigest()

    return key


def keyed_ids(ids: CustomerIds, hash_: KeyHasher) -> list[KeyedId]:
    """Returns the given identifiers, strongest first."""
    found: list[KeyedId] = []
    if ids.user_id:
        found.append(KeyedId("user_id", ids.user_id, hash_("user_id", ids.user_id)))
    if ids.loyalty_card:
        found.append(KeyedId("loyalty_card", ids.loyalty_card, hash_("loyalty_card", ids.loyalty_card)))
    if ids.email and (email := normalize_identifier("email", ids.email)):
        found.append(KeyedId("email", email, hash_("email", email)))
    if ids.phone and (phone := normalize_identifier("phone", ids.phone)):
        found.append(KeyedId("phone", phone, hash_("phone", phone)))
    if ids.anonymous_id:
        found.append(KeyedId("anonymous_id", ids.anonymous_id, hash_("anonymous_id", ids.anonymous_id)))
    if ids.device_id:
        found.append(KeyedId("device_id", ids.device_id, hash_("device_id", ids.device_id)))
    return found


def identifier_spellings(value: str) -> set[str]:
    """Returns an identifier of unknown kind as given and in canonical form: `Ada@X.de` and `ada@x.de`."""
    found = {value}
    if "@" in value:
        found.add(normalize_identifier("email", value))
    if value.startswith("+"):
        found.add(normalize_identifier("phone", value))
    return found


def strongest_identifier(ids: CustomerIds) -> str:
    """Returns the strongest given identifier in canonical form; empty if there is none."""
    return next((name for kind in KINDS if (name := normalize_identifier(kind, getattr(ids, kind) or ""))), "")
