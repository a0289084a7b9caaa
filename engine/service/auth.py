"""Who may ask what: keys with roles, and customers that a publishable key must have proven by an HMAC.

Keys are in a YAML or JSON file (`COUNTERPOINT_API_KEYS`); each has the key itself or only its SHA-256:

    keys:
      - {name: shop-backend, role: server, sha256: 9f86d081884c7d65…}
      - {name: web-shop, role: client, key: pk-web-7c1f, secret: kept-by-the-backend, per_second: 200}

Without a file everyone on this machine may do everything, and nobody else can connect.
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
PROOF = b"x-customer-proof"


class KeySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key: what it may do, and for `client` the secret that its customers are proven with."""

    name: Annotated[str, Meta(min_length=1)]
    role: KeyRole
    key: Annotated[str, Meta(min_length=8)] | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    secret: Annotated[str, Meta(min_length=8)] | None = None
    per_second: Annotated[float, Meta(ge=1)] | None = None


class KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All keys of an installation."""

    keys: Annotated[list[KeySpec], Meta(min_length=1)]


class Caller:
    """Who sends a request: a name for the audit, a role, and what is left of its rate."""

    __slots__ = ("_left", "_rate", "_secret", "_then", "name", "role")

    def __init__(self, name: str, role: KeyRole, secret: str | None = None, per_second: float | None = None) -> None:
        self.name = name
        self.role = role
        self._secret = (secret or "").encode()
        self._rate = per_second
        self._left = per_second or 0.0
        self._then = 0.0

    def vouch(self, ids: CustomerIds, proof: str) -> None:
        """Refuse a customer that a publishable key has not proven.

        Raises:
            Refusal: 403 if the role is `client` and `proof` is not the HMAC of `ids` under the key's secret.
        """
        if self.role == "client" and not self.proven(ids, proof):
            raise Refusal(
                403,
                "this key is publishable and the customer is not proven; let the shop's server sign all ids that are "
                "sent and send its proof as X-Customer-Proof",
                "x-customer-proof",
            )

    def proven(self, ids: CustomerIds, proof: str) -> bool:
        """Whether `proof` is that of these ids; a server may speak for anyone."""
        if self.role != "client":
            return True
        one_line = not any("\n" in (getattr(ids, name) or "") for name in ids.__struct_fields__)
        return one_line and hmac.compare_digest(prove(self._secret, ids).encode(), proof.lower().encode())

    def admit(self, now: float) -> None:
        """Count one request at `now`, seconds by any clock that only goes on.

        Raises:
            Refusal: 429 if the key has used up its rate on this worker.
        """
        if self._rate is None:
            return
        self._left = min(self._rate, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1:
            wait = math.ceil((1 - self._left) / self._rate)
            detail = f"the key {self.name} may ask {self._rate:g} times per second; wait {wait} s"
            raise Refusal(429, detail, "", ((b"retry-after", str(wait).encode()),))
        self._left -= 1


ANYONE = Caller("anyone on this machine", "admin")


class Keys:
    """The keys of an installation; with none, everyone who can connect is an admin."""

    def __init__(self, specs: Iterable[KeySpec] = ()) -> None:
        self._callers = [(_digest(spec), Caller(spec.name, spec.role, spec.secret, spec.per_second)) for spec in specs]

    def guard(self, least: KeyRole) -> RequestGuard:
        """What tells who sends a request, and refuses those below the role `least`."""
        rank = RANK[least]

        def check(headers: RawHeaders) -> Caller:
            caller = self._caller(headers)
            if RANK[caller.role] < rank:
                detail = f"the key {caller.name} is a {caller.role} key; this address needs one of role {least}"
                raise Refusal(403, detail, "authorization")
            caller.admit(time.monotonic())
            return caller

        return check if self._callers else lambda _: ANYONE

    def _caller(self, headers: RawHeaders) -> Caller:
        said = b""
        for name, value in headers:
            if name == b"x-api-key":
                said = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                said = value[7:].strip()
        digest = hashlib.sha256(said).digest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            detail = (
                "no valid key; send Authorization: Bearer KEY or X-API-Key: KEY"
                if not said
                else ("the key is not known here; see the file of COUNTERPOINT_API_KEYS")
            )
            raise Refusal(401, detail, "authorization", ((b"www-authenticate", b"Bearer"),))
        return found


def prove(secret: bytes, ids: CustomerIds) -> str:
    """The proof of a customer: HMAC-SHA256, in hex, over a line `name=value` for each id in the order of `CustomerIds`.

    >>> prove(b"kept-by-the-backend", CustomerIds(user_id="u-42"))[:16]
    'f3f72ce7330fdb68'
    """
    lines = "".join(f"{name}={value}\n" for name in ids.__struct_fields__ if (value := getattr(ids, name)) is not None)
    return hmac.new(secret, lines.encode(), hashlib.sha256).hexdigest()


def load_keys_from_settings(settings: Settings) -> Keys:
    """The keys that these settings name.

    Raises:
        BadInput: if the file cannot be used; if there is none and others than this machine could connect.
    """
    if settings.api_keys is not None:
        return Keys(read_keys_file(settings.api_keys))
    if not _loopback(settings.host):
        raise BadInput(
            f"--host {settings.host}: without keys only this machine is served; name a file of keys with "
            "COUNTERPOINT_API_KEYS, or use --host 127.0.0.1"
        )
    return Keys()


def read_keys_file(path: Path) -> list[KeySpec]:
    """The keys in a YAML or JSON file.

    Raises:
        BadInput: if it cannot be read or breaks a rule.
    """
    try:
        specs = msgspec.yaml.decode(path.read_bytes(), type=KeysFile).keys
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; COUNTERPOINT_API_KEYS names a file that can be read") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}; write keys: [{{name: …, role: client | server | admin, key: …}}]") from error
    for index, spec in enumerate(specs):
        if (spec.key is None) == (spec.sha256 is None):
            raise BadInput(f"{path} keys[{index}]: {spec.name} needs either key or sha256; give one of them")
        if spec.role == "client" and spec.secret is None:
            raise BadInput(f"{path} keys[{index}].secret: a client key needs one to prove its customers; add it")
    if len({spec.name for spec in specs}) < len(specs) or len({_digest(spec) for spec in specs}) < len(specs):
        raise BadInput(f"{path}: two keys have the same name or the same key; make them different")
    return specs


def _digest(spec: KeySpec) -> bytes:
    return bytes.fromhex(spec.sha256) if spec.sha256 else hashlib.sha256((spec.key or "").encode()).digest()


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
