"""Authentication: API keys with roles, and the HMAC that proves a customer to a publishable key.

The file of keys (`COUNTERPOINT_API_KEYS`, YAML or JSON) has each key itself or only its SHA-256:

    keys:
      - {name: shop-backend, role: server, sha256: 9f86d081884c7d65…}
      - {name: web-shop, role: client, key: pk-web-7c1f, secret: …, origins: [https://shop.example]}

A `client` key lists the origins of its pages, which then may use it from a browser (`access.cors`).
A role includes those before it: `client` (publishable, so its customers must be proven), `server`, `admin`. Without a
file everyone on this machine may do everything, and the server listens on this machine only.
"""

import hashlib
import hmac
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.catalog.check.decode import FieldProblem, find_problems, shorten_value
from engine.customer import CustomerIds, prove
from engine.errors import BadInput
from engine.service.access.cors import origin_of
from engine.service.access.guesses import GuessLimiter
from engine.service.access.hosts import is_loopback, require_loopback_host
from engine.service.access.openid_settings import DashboardRole, OpenIdSpec, openid_problems
from engine.service.problems import Refusal
from engine.settings import Settings

KeyRole = Literal["client", "server", "admin"]
RawHeaders = Iterable[tuple[bytes, bytes]]

_EXAMPLE_KEYS = frozenset(
    hashlib.sha256(key).hexdigest() for key in (b"test", b"pk-web-7c1f", b"sk-shop-5e9d", b"ak-2f61-5d0c")
)
_EXAMPLE_SECRET = "kept-by-the-backend-7c1f"  # noqa: S105 (known to everyone, so it is refused)
"""The keys and the secret of the documentation."""

RANK: dict[KeyRole, int] = {"client": 0, "server": 1, "admin": 2}
DASHBOARD_ROLES: dict[KeyRole, DashboardRole | None] = {"client": None, "server": "view", "admin": "admin"}
"""What a key of each role may do in the dashboard, unless the file says otherwise."""
PROOF_HEADER = b"x-customer-proof"


_KEYS_REMEDY = "write keys: [{name: …, role: client | server | admin, key: …}]"
_LONG = Meta(
    pattern="(?s)^.{8,}$",
    description="text with a length of at least 8",
    extra={"remedy": "make one with: openssl rand -hex 24"},
)
_ORIGIN = Meta(
    pattern=r"^[a-z][a-z0-9+.-]*://[^/\s]+$",
    description="an origin",
    extra={"remedy": "write scheme and host alone: https://shop.example.org"},
)
_SHA256 = Meta(
    pattern="^[0-9a-f]{64}$",
    description="64 hexadecimal digits",
    extra={"remedy": "compute it with: printf %s KEY | sha256sum"},
)


class KeySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key: its role and its rate on each worker.

    `dashboard` says what a person with this key may do there (`engine.dashboard.sessions`).
    For `client` also the secret that its customers are signed with, the origins of the pages that may use it, and the
    names of events, properties and traits that it may say of a customer's worth (`access.client_statements`).
    """

    name: Annotated[str, Meta(min_length=1)]
    role: KeyRole
    key: Annotated[str, _LONG] | None = None
    sha256: Annotated[str, _SHA256] | None = None
    secret: Annotated[str, _LONG] | None = None
    per_second: Annotated[float, Meta(ge=1)] | None = None
    client_may_say: list[Annotated[str, Meta(min_length=1)]] = []
    origins: list[Annotated[str, _ORIGIN]] = []
    dashboard: DashboardRole | None = None
    """What its holder may do in the dashboard; by default `view` for the role server and `admin` for admin."""


class PreviewSecret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A secret that signs preview tokens (`service.previews.tokens`); `name` says which it is."""

    name: Annotated[str, Meta(min_length=1)]
    secret: Annotated[str, _LONG]


class KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of keys; of `previews` the first signs and all verify; `openid` is a login for the dashboard."""

    keys: Annotated[list[KeySpec], Meta(min_length=1)]
    previews: list[PreviewSecret] = []
    openid: OpenIdSpec | None = None


class Caller:
    """The sender of a request: a name for the audit log, a role, and a token bucket for its rate."""

    __slots__ = ("_filled_at", "_rate", "_secret", "_tokens", "dashboard", "may_say", "name", "origins", "role")

    def __init__(
        self,
        name: str,
        role: KeyRole,
        secret: str | None = None,
        per_second: float | None = None,
        *,
        origins: Iterable[str] = (),
        may_say: Iterable[str] = (),
        dashboard: DashboardRole | None = None,
    ) -> None:
        self.name = name
        self.role = role
        self.dashboard = dashboard or DASHBOARD_ROLES[role]
        self.origins = frozenset(origins)
        self.may_say = frozenset(may_say)
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

    def require_origin(self, headers: RawHeaders) -> None:
        """Refuse a page of an origin that the key does not list; a key without origins is not for browsers.

        Raises:
            Refusal: 403.
        """
        if self.origins and (origin := origin_of(headers)) and origin not in self.origins:
            detail = f"the key {self.name} is not for pages of {origin!r}; add it to the key's origins"
            raise Refusal(403, detail, "origin")

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
            (
                _key_digest(spec),
                Caller(
                    spec.name,
                    spec.role,
                    spec.secret,
                    spec.per_second,
                    origins=spec.origins,
                    may_say=spec.client_may_say,
                    dashboard=spec.dashboard,
                ),
            )
            for spec in specs
        ]
        self._guesses = GuessLimiter()
        self.origins = frozenset(origin for _, caller in self._callers for origin in caller.origins)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def dashboard_role_of(self, name: str) -> DashboardRole | None:
        """The dashboard role of the key with this name; None for an unknown one."""
        return next((caller.dashboard for _, caller in self._callers if caller.name == name), None)

    def digest_of(self, name: str) -> bytes:
        """The SHA-256 of the key with this name; empty for an unknown one."""
        return next((digest for digest, caller in self._callers if caller.name == name), b"")

    def guard_for(self, least: KeyRole | None) -> "RequestGuard":
        """The guard of addresses that need a key of the role `least`; None for those that need no key."""
        return RequestGuard(self, least)

    def identify(self, headers: RawHeaders, peer: str) -> Caller:
        """The caller whose key the request sends.

        Raises:
            Refusal: 401 for no valid key, 429 for a peer that sent too many unknown ones.
        """
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
        if found is not None:
            self._guesses.admit(peer, found.name, time.monotonic())
            return found
        if sent:
            self._guesses.count_failure(peer, time.monotonic())
        detail = (
            "the key is unknown; see the file that COUNTERPOINT_API_KEYS names"
            if sent
            else "no valid key was sent; send Authorization: Bearer KEY or X-API-Key: KEY"
        )
        raise Refusal(401, detail, "authorization", ((b"www-authenticate", b"Bearer"),))


class RequestGuard:
    """Identifies the caller of an address by the request's headers and its peer."""

    __slots__ = ("_keys", "_least", "origins")

    def __init__(self, keys: Keys, least: KeyRole | None) -> None:
        self._keys = keys
        self._least = least
        self.origins = keys.origins if least == "client" else frozenset()
        """The origins whose pages may read answers from here."""

    def __call__(self, headers: RawHeaders, peer: str = "") -> Caller:
        """The caller.

        Raises:
            Refusal: 401 for no valid key, 403 for a role below `least` or a page of another origin, 421 for another
                host than this machine where no keys are configured, 429 past the key's rate.
        """
        if not self._keys:
            require_loopback_host(headers)
            return ANYONE
        if self._least is None:
            return ANYONE
        caller = self._keys.identify(headers, peer)
        if RANK[caller.role] < RANK[self._least]:
            detail = f"the key {caller.name} has role {caller.role}; this address needs a key of role {self._least}"
            raise Refusal(403, detail, "authorization")
        caller.require_origin(headers)
        caller.count_request(time.monotonic())
        return caller


def load_keys_from_settings(settings: Settings) -> Keys:
    """The keys that the settings name.

    Raises:
        BadInput: if the file is invalid; if other machines could connect, and there is none or it has example keys.
    """
    if settings.api_keys is not None:
        specs = read_keys_file(settings.api_keys)
        for index, spec in enumerate(specs if not is_loopback(settings.host) else ()):
            if _key_digest(spec).hex() in _EXAMPLE_KEYS or spec.secret == _EXAMPLE_SECRET:
                raise BadInput(
                    f"{settings.api_keys} keys[{index}]: {spec.name} is the example of the documentation, which "
                    "everyone knows; make a key and a secret of your own (openssl rand -hex 16)"
                )
        return Keys(specs)
    if not is_loopback(settings.host):
        raise BadInput(
            f"--host {settings.host}: other machines need a key; name a file of keys with COUNTERPOINT_API_KEYS, or "
            "use --host 127.0.0.1"
        )
    return Keys()


def read_keys_file(path: Path) -> list[KeySpec]:
    """The keys of a file; errors as in `read_access_file`."""
    return read_access_file(path).keys


def read_access_file(path: Path) -> KeysFile:
    """Read a YAML or JSON file of keys.

    Raises:
        BadInput: if the file cannot be read, or with one line for each rule that it breaks.
    """
    try:
        data = msgspec.yaml.decode(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; COUNTERPOINT_API_KEYS must name a file that can be read") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}; {_KEYS_REMEDY}") from error
    entries = data.get("keys") if isinstance(data, dict) else None
    problems = [f"{path}{f' {place}' if place else ''}: {message}" for place, message in _find_problems(data)]
    if isinstance(entries, list):
        problems += [f"{path} {place}: {message}" for place, message in _find_conflicts(entries)]
    found = None if problems else msgspec.convert(data, KeysFile)
    if found is not None and found.openid is not None:
        problems = [f"{path} {place}: {message}" for place, message in openid_problems(found.openid)]
    if found is None or problems:
        raise BadInput("\n".join(problems))
    return found


def _find_problems(data: object) -> Iterator[FieldProblem]:
    """Yield the problems of single fields. A message never quotes a key, which would end up in a log."""
    if not isinstance(data, dict):
        yield "", f"is not a mapping; {_KEYS_REMEDY}"
        return
    for place, message in find_problems(data, KeysFile):
        *_, name = place.split(".")
        part, _, rest = place.partition("[")
        index = rest.partition("]")[0]
        if name in {"key", "secret", "sha256"} and index:
            value = data[part][int(index)].get(name)
            yield place, message.removeprefix(f"{shorten_value(value)} ")
        elif place == "openid.client_secret":
            yield place, "is not text; put it in quotes"
        else:
            yield place, message


def _find_conflicts(entries: Sequence[object]) -> Iterator[FieldProblem]:
    """Yield the keys without exactly one of `key` and `sha256`, or without a secret, and those that are there twice."""
    names: dict[str, int] = {}
    digests: dict[bytes, int] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            continue
        name, key, digest = (entry.get(field) for field in ("name", "key", "sha256"))
        if (key is None) == (digest is None):
            yield f"keys[{index}]", f"{name} needs either key or sha256; set exactly one"
        elif isinstance(key, str) or (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
            found = digests.setdefault(_digest_of(key, digest), index)
            if found != index:
                yield f"keys[{index}]", f"{name} has the same key as keys[{found}]; make a new one"
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield f"keys[{index}].name", f"{name!r} is the name of keys[{names[name]}] too; give it another"
        if entry.get("role") == "client" and entry.get("secret") is None:
            yield f"keys[{index}].secret", f"{name} has role client, so its customers need one; add it"
        if entry.get("role") == "client" and entry.get("dashboard") is not None:
            message = f"{name} has role client, which web pages publish; make a key of role server for a person"
            yield f"keys[{index}].dashboard", message
        for field in ("origins", "client_may_say"):
            if entry.get(field) and entry.get("role") != "client":
                message = f"{name} has role {entry.get('role')}, which no page may have; remove {field}"
                yield f"keys[{index}].{field}", message


def _key_digest(spec: KeySpec) -> bytes:
    """The SHA-256 of a key, given as such or computed."""
    return _digest_of(spec.key, spec.sha256)


def _digest_of(key: str | None, sha256: str | None) -> bytes:
    return bytes.fromhex(sha256) if sha256 else hashlib.sha256((key or "").encode()).digest()
