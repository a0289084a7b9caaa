"""Authentication: API keys with roles, and the HMAC that proves a customer to a publishable key.

The file of keys (`COUNTERPOINT_API_KEYS`, YAML or JSON) has each key itself or only its SHA-256:

    keys:
      - {name: shop-backend, role: server, sha256: 9f86d081884c7d65…}
      - {name: web-shop, role: client, key: pk-web-7c1f, secret: kept-by-the-backend, per_second: 200}

A role includes those before it: `client` (publishable, so its customers must be proven), `server`, `admin`. Without a
file everyone on this machine may do everything, and the server listens on this machine only.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.customer import CustomerIds
from engine.errors import BadInput
from engine.service.problems import Refusal
from engine.settings import Settings

KeyRole = Literal["client", "server", "admin"]
RawHeaders = Iterable[tuple[bytes, bytes]]
RequestGuard = Callable[[RawHeaders], "Caller"]

RANK: dict[KeyRole, int] = {"client": 0, "server": 1, "admin": 2}
PROOF_HEADER = b"x-customer-proof"


class KeySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key: its role, its rate on each worker, and for `client` the secret that its customers are signed with."""

    name: Annotated[str, Meta(min_length=1)]
    role: KeyRole
    key: Annotated[str, Meta(min_length=8)] | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    secret: Annotated[str, Meta(min_length=8)] | None = None
    per_second: Annotated[float, Meta(ge=1)] | None = None


class KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of keys."""

    keys: Annotated[list[KeySpec], Meta(min_length=1)]


class Caller:
    """The sender of a request: a name for the audit log, a role, and a token bucket for its rate."""

    __slots__ = ("_filled_at", "_rate", "_secret", "_tokens", "name", "role")

    def __init__(self, name: str, role: KeyRole, secret: str | None = None, per_second: float | None = None) -> None:
        self.name = name
        self.role = role
        self._secret = (secret or "").encode()
        self._rate = per_second
        self._tokens = per_second or 0.0
        self._filled_at = 0.0

    def require_proof(self, ids: CustomerIds, proof: str) -> None:
        """Refuse a customer that a publishable key does not prove.

        Raises:
            Refusal: 403 if the role is `client` and `proof` is not the HMAC of `ids` under the key's secret.
        """
        if self.role == "client" and not self.is_proven(ids, proof):
            raise Refusal(
                403,
                "the customer is not proven, and the key is publishable; have the shop's server sign all ids of the "
                "customer and send the signature as X-Customer-Proof",
                "x-customer-proof",
            )

    def is_proven(self, ids: CustomerIds, proof: str) -> bool:
        """Whether `proof` is the HMAC of these ids; keys of other roles need none."""
        if self.role != "client":
            return True
        # A line break in one id could make the signed lines of two customers equal.
        one_line = not any("\n" in (getattr(ids, name) or "") for name in ids.__struct_fields__)
        return one_line and hmac.compare_digest(prove(self._secret, ids).encode(), proof.lower().encode())

    def count_request(self, now: float) -> None:
        """Take one token at `now`, seconds of a monotonic clock; the bucket holds one second of the rate.

        Raises:
            Refusal: 429 if the key has used up its rate on this worker.
        """
        if self._rate is None:
            return
        self._tokens = min(self._rate, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            wait = math.ceil((1 - self._tokens) / self._rate)
            detail = f"the key {self.name} may send {self._rate:g} requests per second; wait {wait} s"
            raise Refusal(429, detail, "", ((b"retry-after", str(wait).encode()),))
        self._tokens -= 1


ANYONE = Caller("anyone on this machine", "admin")


class Keys:
    """The keys of an installation; without any, everyone who can connect is an admin."""

    def __init__(self, specs: Iterable[KeySpec] = ()) -> None:
        self._callers = [
            (_key_digest(spec), Caller(spec.name, spec.role, spec.secret, spec.per_second)) for spec in specs
        ]

    def guard_for(self, least: KeyRole) -> RequestGuard:
        """A function that identifies the caller by the request's headers.

        It raises Refusal: 401 for no valid key, 403 for a role below `least`, 429 past the key's rate.
        """
        rank = RANK[least]

        def identify(headers: RawHeaders) -> Caller:
            caller = self._find_caller(headers)
            if RANK[caller.role] < rank:
                detail = f"the key {caller.name} has role {caller.role}; this address needs a key of role {least}"
                raise Refusal(403, detail, "authorization")
            caller.count_request(time.monotonic())
            return caller

        return identify if self._callers else lambda _: ANYONE

    def _find_caller(self, headers: RawHeaders) -> Caller:
        """The caller whose key the request sends."""
        sent = b""
        for name, value in headers:
            if name == b"x-api-key":
                sent = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                sent = value[7:].strip()
        digest = hashlib.sha256(sent).digest()
        found = None
        for known, caller in self._callers:  # compares all, in constant time each: the time says nothing of the keys
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            detail = (
                "the key is unknown; see the file that COUNTERPOINT_API_KEYS names"
                if sent
                else "no valid key was sent; send Authorization: Bearer KEY or X-API-Key: KEY"
            )
            raise Refusal(401, detail, "authorization", ((b"www-authenticate", b"Bearer"),))
        return found


def prove(secret: bytes, ids: CustomerIds) -> str:
    """Sign a customer: HMAC-SHA256 in hex over a line `name=value` for each id that is set, in `CustomerIds` order.

    >>> prove(b"kept-by-the-backend", CustomerIds(user_id="u-42"))[:16]
    'f3f72ce7330fdb68'
    """
    lines = "".join(f"{name}={value}\n" for name in ids.__struct_fields__ if (value := getattr(ids, name)) is not None)
    return hmac.new(secret, lines.encode(), hashlib.sha256).hexdigest()


def load_keys_from_settings(settings: Settings) -> Keys:
    """The keys that the settings name.

    Raises:
        BadInput: if the file is invalid; if there is none and other machines could connect.
    """
    if settings.api_keys is not None:
        return Keys(read_keys_file(settings.api_keys))
    if not _is_loopback(settings.host):
        raise BadInput(
            f"--host {settings.host}: other machines need a key; name a file of keys with COUNTERPOINT_API_KEYS, or "
            "use --host 127.0.0.1"
        )
    return Keys()


def read_keys_file(path: Path) -> list[KeySpec]:
    """Read a YAML or JSON file of keys.

    Raises:
        BadInput: if the file cannot be read or breaks a rule.
    """
    try:
        specs = msgspec.yaml.decode(path.read_bytes(), type=KeysFile).keys
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; COUNTERPOINT_API_KEYS must name a file that can be read") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}; write keys: [{{name: …, role: client | server | admin, key: …}}]") from error
    for index, spec in enumerate(specs):
        if (spec.key is None) == (spec.sha256 is None):
            raise BadInput(f"{path} keys[{index}]: {spec.name} needs either key or sha256; set exactly one")
        if spec.role == "client" and spec.secret is None:
            raise BadInput(
                f"{path} keys[{index}].secret: {spec.name} has role client, so its customers need one; add it"
            )
    if len({spec.name for spec in specs}) < len(specs) or len({_key_digest(spec) for spec in specs}) < len(specs):
        raise BadInput(f"{path}: two keys have the same name or the same key; make them different")
    return specs


def _key_digest(spec: KeySpec) -> bytes:
    return bytes.fromhex(spec.sha256) if spec.sha256 else hashlib.sha256((spec.key or "").encode()).digest()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
