"""The viewer's identity: signed cookies, roles, and tokens that prove the origin of a form.

The cookie is a `Session` as JSON with its HMAC under a secret of the data folder, so every dashboard on that folder
accepts it and nothing has to be stored. It names the key that logged in by a digest: taking the key out of the file, or
replacing it under the same name, and starting the dashboard again ends its sessions. That of a person who logged in by
OpenID Connect names the provider's settings in the same way.

| key | may |
|---|---|
| role `client` | nothing: it is published in web pages |
| role `server` | `view` |
| role `admin` | `admin` |
| any but `client`, with `dashboard: view`, `operate` or `admin` | that |
| none: an account of the provider (`engine.dashboard.openid`) | the most that `roles` gives its claim |

Without a file of keys everyone on this machine is an admin, as at the API, and needs a session only for its token.
"""

import hashlib
import hmac
import os
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from engine.dashboard.openid import OpenIdLogin, PendingLogin
from engine.errors import BadInput
from engine.service.access.hosts import require_loopback_host
from engine.service.access.openid_settings import DashboardRole, OpenIdSpec
from engine.service.auth import ANYONE, Caller, Keys
from engine.service.problems import Refusal

COOKIE = "counterpoint_session"
PENDING_COOKIE = "counterpoint_login"
SESSION_SECONDS = 12 * 3_600.0
RANKS: dict[DashboardRole | None, int] = {None: 0, "view": 1, "operate": 2, "admin": 3}
Sealed = TypeVar("Sealed", "Session", PendingLogin)
RequestHeaders = Iterable[tuple[bytes, bytes]]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One browser's session: its random id, login, role and key, and its expiry (s since 1970).

    `role` is None before the login. `key` is a digest of the key under the secret; empty without a key. `openid` is the
    mark of the provider's settings; empty for a login with a key.
    """

    id: str
    name: str = ""
    role: DashboardRole | None = None
    key: str = ""
    openid: str = ""
    ends: float = 0.0


class Sessions:
    """Reads and writes sessions; `is_open` where no keys are configured, so that everyone on this machine is admin."""

    def __init__(self, keys: Keys, data: Path, openid: OpenIdSpec | None = None) -> None:
        self._keys = keys
        self._secret = _read_secret(data)
        self.is_open = not keys
        self.openid = OpenIdLogin(openid, self._sign) if openid else None
        self.is_encrypted = openid is not None and (openid.address or "").startswith("https://")
        """Whether browsers reach the dashboard by https, by the settings."""

    def read(self, headers: RequestHeaders, cookie: str | None) -> tuple[Session, bool]:
        """The session of a request, and whether it is new, so that its cookie has to be sent.

        Raises:
            Refusal: 421 for another host than this machine where no keys are configured.
        """
        if self.is_open:
            require_loopback_host(headers)
        found = self._open("session", cookie or "", Session)
        if found is not None and found.ends > time.time() and self._is_valid(found):
            return found, False
        return self._start(ANYONE if self.is_open else None), True

    def log_in(self, key: str, peer: str) -> Session:
        """The session of a key.

        Raises:
            Refusal: 401 for an unknown key, 403 for one of a role without pages, 429 after too many guesses.
        """
        sent = key.strip().encode(errors="replace")
        caller = self._keys.identify([(b"x-api-key", sent)], peer)
        if caller.dashboard is None:
            raise Refusal(403, f"the key {caller.name} has the role {caller.role}, which has no dashboard", "key")
        return self._start(caller, hashlib.sha256(sent).digest())

    def log_in_by_claims(self, claims: Mapping[str, object]) -> Session:
        """The session of a person who logged in at the provider.

        Args:
            claims: of the verified ID token.

        Raises:
            Refusal: 403 for one without any role here.
        """
        if self.openid is None:
            raise Refusal(404, "no login by OpenID Connect is configured")
        spec = self.openid.spec
        name, role = spec.name_of(claims), spec.role_of(claims)
        if role is None:
            why = f"none of the values of {spec.claim} is in openid.roles; ask for one"
            if spec.is_unverified(claims):
                why = "the provider does not say that its e-mail address is verified (email_verified); verify it there"
            raise Refusal(403, f"the account {name} has no role here: {why}")
        return Session(
            id=secrets.token_urlsafe(18),
            name=name,
            role=role,
            openid=self.openid.mark,
            ends=time.time() + SESSION_SECONDS,
        )

    def seal(self, pending: PendingLogin) -> str:
        """The cookie value of a login in progress."""
        return self._seal("pending", pending)

    def unseal(self, cookie: str) -> PendingLogin | None:
        """The login in a cookie; None if the dashboard did not sign it."""
        return self._open("pending", cookie, PendingLogin)

    def log_out(self) -> Session:
        """A session without a login."""
        return self._start(ANYONE if self.is_open else None)

    def encode(self, session: Session) -> str:
        """The value of the cookie."""
        return self._seal("session", session)

    def token(self, session: Session) -> str:
        """The token that every form of the session sends."""
        return self._sign("form", session.id)

    def require_own_form(self, session: Session, token: str, headers: RequestHeaders) -> None:
        """Refuse a change that does not come from a form of this dashboard.

        Raises:
            Refusal: 403.
        """
        named = {name: value.decode("latin-1") for name, value in headers}
        site = named.get(b"sec-fetch-site", "same-origin")
        origin = named.get(b"origin", "")
        is_ours = site in {"same-origin", "none"} and (not origin or urlsplit(origin).netloc == named.get(b"host", ""))
        if not is_ours or not _is_equal(self.token(session), token):
            raise Refusal(403, "this form is too old, or another site sent it; load the page again and repeat")

    def _start(self, caller: Caller | None, digest: bytes = b"") -> Session:
        role = caller.dashboard if caller else None
        name = caller.name if caller else ""
        return Session(
            id=secrets.token_urlsafe(18),
            name=name,
            role=role,
            key=self._key_mark(digest),
            ends=time.time() + SESSION_SECONDS,
        )

    def _key_mark(self, digest: bytes) -> str:
        """The mark of a key with this digest in a session; empty without a key."""
        return self._sign("key", digest.hex())[:16] if digest else ""

    def _is_valid(self, session: Session) -> bool:
        """Whether the key of the login is still valid under its name, with the same role."""
        if self.is_open:
            return session.role == "admin"
        if session.role is None:
            return True
        if session.openid:
            return self.openid is not None and _is_equal(self.openid.mark, session.openid)
        has_same_role = self._keys.dashboard_role_of(session.name) == session.role
        marks = [self._key_mark(digest) for digest in self._keys.live_digests(session.name)]
        return has_same_role and any(_is_equal(mark, session.key) for mark in marks)

    def _open(self, use: str, cookie: str, kind: type[Sealed]) -> Sealed | None:
        """The value of a cookie that was signed for this use; None for any other cookie."""
        body, _, signature = cookie.partition(".")
        if not signature or not _is_equal(self._sign(use, body), signature):
            return None
        try:
            return msgspec.json.decode(urlsafe_b64decode(body), type=kind)
        except (ValueError, msgspec.MsgspecError):
            return None

    def _seal(self, use: str, value: Session | PendingLogin) -> str:
        body = urlsafe_b64encode(msgspec.json.encode(value)).decode()
        return f"{body}.{self._sign(use, body)}"

    def _sign(self, use: str, text: str) -> str:
        return hmac.new(self._secret, f"{use} {text}".encode(errors="replace"), hashlib.sha256).hexdigest()


def has_role(session: Session, least: DashboardRole) -> bool:
    """Whether the session has at least the role `least`."""
    return RANKS[session.role] >= RANKS[least]


def _is_equal(known: str, sent: str) -> bool:
    """Whether both texts are equal, compared in constant time; `compare_digest` alone takes only ASCII."""
    return hmac.compare_digest(known.encode(), sent.encode(errors="replace"))


def _read_secret(data: Path) -> bytes:
    """The secret of the data folder, made if necessary; only this user can read it.

    Raises:
        BadInput: if it cannot be read or written.
    """
    path = data / "dashboard.secret"
    try:
        data.mkdir(parents=True, exist_ok=True)
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(made, "wb") as file:
                file.write(secrets.token_bytes(32))
        secret = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; the dashboard signs its cookies with this file") from error
    if len(secret) < 32:
        raise BadInput(f"{path}: is shorter than 32 bytes; delete it, and the dashboard makes another")
    return secret
