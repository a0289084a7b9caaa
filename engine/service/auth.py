"""Authentication: API keys with roles, and the HMAC that proves a customer to a publishable key.

The file of keys (`COUNTERPOINT_API_KEYS`, YAML or JSON) has each key itself or only its SHA-256:

    keys:
      - {name: shop-backend, role: server, sha256: 9f86d081884c7d65…}
      - {name: web-shop, role: client, key: pk-web-7c1f, secret: …, origins: [https://shop.example]}

A key may end (`expires`), and while it is rotated the one before it is good too (`previous`); see `access.keys_file`.
A `client` key lists the origins of its pages, which then may use it from a browser (`access.cors`).
A role includes those before it: `client` (publishable, so its customers must be proven), `server`, `admin`. Without a
file everyone on this machine may do everything, and the server listens on this machine only.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from engine.customer import CustomerIds, prove
from engine.errors import BadInput
from engine.service.access.cors import origin_of
from engine.service.access.guesses import GuessLimiter
from engine.service.access.hosts import is_loopback, require_loopback_host
from engine.service.access.keys_file import KeyRole, KeySpec, key_digest, read_keys_file, refuse_examples
from engine.service.access.openid_settings import DashboardRole
from engine.service.problems import Refusal
from engine.settings import KEY_GUESSES, Settings

RawHeaders = Iterable[tuple[bytes, bytes]]
ExpiringSecret = tuple[bytes, float]
"""A secret that proves customers, and its end (s since 1970)."""

RANK: dict[KeyRole, int] = {"client": 0, "server": 1, "admin": 2}
DASHBOARD_ROLES: dict[KeyRole, DashboardRole | None] = {"client": None, "server": "view", "admin": "admin"}
"""The rights of a key of each role in the dashboard, unless the file states others."""
PROOF_HEADER = b"x-customer-proof"


class Caller:
    """The sender of a request: a name for the audit log, a role, and a token bucket for its rate.

    `share` is the part of the rate that this worker may use (`access.shared_rates`), `demand` what it was asked for.
    """

    __slots__ = (
        *("_filled_at", "_secrets", "_tokens", "dashboard", "demand", "may_say", "name", "origins"),
        *("rate", "role", "share"),
    )

    def __init__(
        self,
        name: str,
        role: KeyRole,
        secrets: Sequence[ExpiringSecret] = (),
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
        self.rate = per_second
        self.share = per_second or 0.0
        self.demand = 0
        self._secrets = tuple(secrets)
        self._tokens = per_second or 0.0
        self._filled_at = 0.0

    def require_proof(self, ids: CustomerIds, proof: str) -> None:
        """Refuse a customer without a valid proof, if the key is publishable.

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
        sent, is_proven = proof.lower().encode(), False
        for secret, until in self._secrets:
            is_right = hmac.compare_digest(prove(secret, ids).encode(), sent)
            is_proven |= is_right and (until == math.inf or time.time() < until)
        return one_line and is_proven

    def require_origin(self, headers: RawHeaders) -> None:
        """Refuse a page whose origin the key does not list; a key without origins is not for browsers.

        Raises:
            Refusal: 403.
        """
        if self.origins and (origin := origin_of(headers)) and origin not in self.origins:
            detail = f"the key {self.name} is not for pages of {origin!r}; add it to the key's origins"
            raise Refusal(403, detail, "origin")

    def count_request(self, now: float) -> None:
        """Take one token at `now` (s, monotonic); the bucket holds one second of this worker's share.

        Raises:
            Refusal: 429 if the key has used up its rate.
        """
        if self.rate is None:
            return
        self.demand += 1
        self._tokens = min(max(self.share, 1.0), self._tokens + (now - self._filled_at) * self.share)
        self._filled_at = now
        if self._tokens < 1:
            wait = math.ceil((1 - self._tokens) / self.share)
            detail = f"the key {self.name} may send {self.rate:g} requests per second; wait {wait} s"
            raise Refusal(429, detail, "", ((b"retry-after", str(wait).encode()),))
        self._tokens -= 1


ANYONE = Caller("anyone on this machine", "admin")


class Keys:
    """The keys of an installation; without keys every caller is an admin."""

    def __init__(self, specs: Iterable[KeySpec] = (), *, guesses: int = KEY_GUESSES) -> None:
        self._callers: list[tuple[bytes, Caller, float]] = []
        """The digest of each live key, its caller, and its end (s since 1970)."""
        for spec in specs:
            caller = Caller(
                spec.name,
                spec.role,
                _secrets_of(spec),
                spec.per_second,
                origins=spec.origins,
                may_say=spec.client_may_say,
                dashboard=spec.dashboard,
            )
            self._callers.append((key_digest(spec), caller, _end_of(spec.expires)))
            if spec.previous is not None:
                self._callers.append((key_digest(spec.previous), caller, _end_of(spec.previous.until)))
        self._guesses = GuessLimiter(guesses)
        self.limited = [caller for caller in dict.fromkeys(one for _, one, _ in self._callers) if caller.rate]
        """The callers that have a rate."""
        self.origins = frozenset(origin for _, caller, _ in self._callers for origin in caller.origins)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def dashboard_role_of(self, name: str) -> DashboardRole | None:
        """The dashboard role of the keys with this name; None if there are none or all have expired."""
        now = time.time()
        return next((one.dashboard for _, one, until in self._callers if one.name == name and now < until), None)

    def live_digests(self, name: str) -> list[bytes]:
        """The SHA-256 of each unexpired key with this name: two during a rotation."""
        now = time.time()
        return [digest for digest, one, until in self._callers if one.name == name and now < until]

    def guard_for(self, least: KeyRole | None) -> "RequestGuard":
        """The guard of addresses that need a key with at least the role `least`; None if they need no key."""
        return RequestGuard(self, least)

    def identify(self, headers: RawHeaders, peer: str) -> Caller:
        """The caller who owns the request's key.

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
        found, ends = None, math.inf
        for known, caller, until in self._callers:  # compares all, in constant time: the time says nothing of the keys
            if hmac.compare_digest(known, digest):
                found, ends = caller, until
        if found is not None:
            if ends != math.inf and time.time() >= ends:
                at = datetime.fromtimestamp(ends, UTC).isoformat(timespec="seconds")
                detail = f"this key of {found.name} ended at {at}; send the one that replaced it"
                raise Refusal(401, detail, "authorization", ((b"www-authenticate", b"Bearer"),))
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
        """The caller of a request.

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
    """Load the keys that the settings name.

    Raises:
        BadInput: if the file is invalid; if other machines could connect, and there is none or it has example keys.
    """
    if settings.api_keys is not None:
        specs = read_keys_file(settings.api_keys)
        if not is_loopback(settings.host):
            refuse_examples(settings.api_keys, specs)
        return Keys(specs, guesses=settings.key_guesses)
    if not is_loopback(settings.host):
        raise BadInput(
            f"--host {settings.host}: other machines need a key; name a file of keys with COUNTERPOINT_API_KEYS, or "
            "use --host 127.0.0.1"
        )
    return Keys()


def _secrets_of(spec: KeySpec) -> list[ExpiringSecret]:
    """The secrets that prove customers to a key: its own, and the previous key's until that expires."""
    found = [] if spec.secret is None else [(spec.secret.encode(), math.inf)]
    if spec.previous is not None and spec.previous.secret is not None:
        found.append((spec.previous.secret.encode(), _end_of(spec.previous.until)))
    return found


def _end_of(moment: datetime | None) -> float:
    """The expiry of a key in seconds since 1970; infinite if it never expires."""
    return math.inf if moment is None else moment.timestamp()
