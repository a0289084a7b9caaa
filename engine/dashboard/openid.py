"""Login by OpenID Connect Core 1.0: the authorization code flow with PKCE, of one provider.

```
/login/openid       sets a signed cookie with a random state and sends the browser to the provider
provider            asks the person, sends the browser back with a code and the state
/login/openid/done  the state must be that of the cookie; the code is exchanged for an ID token, which is verified:
                    signature (RS256 or ES256, by the provider's JWKS), iss, aud, azp, exp, iat, nonce
```

Nothing is stored here between the two requests: nonce and code verifier are HMACs of the state under the dashboard's
secret, so another browser's code, or the same one twice, has no use. The session is ours afterwards: the provider's
tokens are not stored.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx
import jwt
import msgspec
import structlog

from engine.service.access.hosts import is_loopback
from engine.service.access.openid_settings import OpenIdSpec, is_protected
from engine.service.problems import Refusal

DONE = "/login/openid/done"
"""The path that the provider sends browsers back to."""
ALGORITHMS = ("RS256", "ES256")
LOGIN_SECONDS = 600.0
"""Seconds between the first request and the return from the provider."""
DISCOVERY_SECONDS = 3_600.0
"""Seconds for which the discovery document is used."""
LEEWAY_SECONDS = 30.0
"""The error that the provider's clock may have."""
MOST_BYTES = 1_000_000
TIMEOUT = httpx.Timeout(5.0)
_ERROR = re.compile(r"[a-z_]{1,60}")

Sign = Callable[[str, str], str]
Document = TypeVar("Document")
log = structlog.get_logger(__name__)


class PendingLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A login in progress, for the cookie: its state, its target page, its callback, and its expiry."""

    state: str
    target: str
    back: str
    ends: float


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """The used fields of the discovery document of OpenID Connect Discovery 1.0."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: Sequence[str] = ("client_secret_basic",)


class TokenAnswer(msgspec.Struct, frozen=True):
    """The used fields of the token endpoint's answer of RFC 6749."""

    id_token: str = ""
    error: str = ""


class OpenIdLogin:
    """The two steps of a login at the provider of `spec`; `sign(use, text)` is the dashboard's HMAC."""

    def __init__(self, spec: OpenIdSpec, sign: Sign) -> None:
        self.spec = spec
        self.mark = sign("openid", msgspec.json.encode(spec, order="deterministic").decode())[:16]
        """Changes with the settings, so that sessions of other ones end."""
        self._sign = sign
        self._client: httpx.AsyncClient | None = None
        self._provider: tuple[float, Provider] | None = None
        self._keys: list[jwt.PyJWK] = []
        self._lock = asyncio.Lock()

    async def begin(self, target: str, own: str) -> tuple[str, PendingLogin]:
        """The provider's address to redirect to, and the content of the cookie.

        Args:
            target: where the person wants to go in the dashboard.
            own: the address by which the browser reached it, as `https://host`.

        Raises:
            Refusal: 502 if the provider does not answer as one, 421 if no address is set and this is not this machine.
        """
        provider = await self._discover()
        back, state = self._address(own) + DONE, secrets.token_urlsafe(32)
        query = {
            "response_type": "code",
            "client_id": self.spec.client_id,
            "redirect_uri": back,
            "scope": " ".join(self.spec.scopes),
            "state": state,
            "nonce": self._nonce(state),
            "code_challenge": _challenge(self._verifier(state)),
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in provider.authorization_endpoint else "?"
        pending = PendingLogin(state=state, target=target, back=back, ends=time.time() + LOGIN_SECONDS)
        return f"{provider.authorization_endpoint}{joint}{urlencode(query)}", pending

    async def finish(self, answer: Mapping[str, str], pending: PendingLogin | None) -> dict[str, object]:
        """The verified claims of a person who returns from the provider.

        Args:
            answer: the query of the callback.
            pending: what the browser's cookie remembers; None without a valid one.

        Raises:
            Refusal: 401 or 403 for an answer that is not the one asked for, 502 if the provider fails.
        """
        if pending is None or pending.ends < time.time() or not _is_equal(pending.state, answer.get("state", "")):
            minutes = f"{LOGIN_SECONDS / 60:.0f} minutes"
            why = f"this login was begun in another browser or tab, or more than {minutes} ago"
            raise Refusal(401, f"{why}; log in again, in one tab and within {minutes}")
        if answer.get("iss", self.spec.issuer) != self.spec.issuer:  # RFC 9207
            why = f"the answer (iss) is not from {self.spec.issuer}, which was asked"
            raise Refusal(401, f"{why}; log in again here, and if it repeats compare openid.issuer with the provider's")
        if "error" in answer or not answer.get("code"):
            error = answer.get("error", "")
            known = error if _ERROR.fullmatch(error) else "no code"
            remedy = "log in again with an account that may, or ask the administrator of the login for the role"
            raise Refusal(403, f"the provider did not log you in ({known}); {remedy}")
        token = await self._exchange(answer["code"], pending)
        return await self._verify(token, self._nonce(pending.state))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _address(self, own: str) -> str:
        """The address of the dashboard; an unverified `Host` header is trusted only if it is this machine."""
        if self.spec.address is not None:
            return self.spec.address.rstrip("/")
        if not is_loopback(urlsplit(own).hostname or ""):
            raise Refusal(421, f"{own} is not this machine; set openid.address in the file of keys to this address")
        return own

    def _nonce(self, state: str) -> str:
        return self._sign("openid nonce", state)

    def _verifier(self, state: str) -> str:
        return self._sign("openid verifier", state)

    async def _discover(self) -> Provider:
        async with self._lock:
            if self._provider is None or time.monotonic() - self._provider[0] > DISCOVERY_SECONDS:
                address = f"{self.spec.issuer.rstrip('/')}/.well-known/openid-configuration"
                found = _decode(await self._fetch("GET", address), Provider, address)
                if found.issuer != self.spec.issuer:
                    raise _provider_error(f"its discovery document is of {found.issuer!r}, not {self.spec.issuer!r}")
                for one in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
                    if not is_protected(one):
                        raise _provider_error(f"{one!r} of its discovery document is not https")
                self._provider = time.monotonic(), found
                self._keys = []  # read again with it: the provider may have withdrawn one
            return self._provider[1]

    async def _exchange(self, code: str, pending: PendingLogin) -> str:
        """The ID token for a code."""
        provider, spec = await self._discover(), self.spec
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": pending.back,
            "code_verifier": self._verifier(pending.state),
        }
        pair = None
        if spec.client_secret is not None and "client_secret_basic" in provider.token_endpoint_auth_methods_supported:
            pair = quote(spec.client_id, safe=""), quote(spec.client_secret, safe="")  # RFC 6749, 2.3.1
        else:
            form |= {"client_id": spec.client_id}
            form |= {"client_secret": spec.client_secret} if spec.client_secret is not None else {}
        body = await self._fetch("POST", provider.token_endpoint, form, pair)
        answer = _decode(body, TokenAnswer, provider.token_endpoint)
        if answer.error in {"invalid_client", "unauthorized_client"}:
            raise _provider_error(f"it answers {answer.error}; check client_id and client_secret")
        if answer.error == "invalid_grant":
            raise Refusal(401, "the code of this login was used before, or is too old; log in again, without reloading")
        if not answer.id_token:
            known = answer.error if _ERROR.fullmatch(answer.error) else "no reason"
            raise Refusal(
                401, f"the provider gave no ID token ({known}); log in again, or ask the provider's administrator"
            )
        return answer.id_token

    async def _verify(self, token: str, nonce: str) -> dict[str, object]:
        """The claims of an ID token, by OpenID Connect Core 1.0, 3.1.3.7."""
        try:
            claims = await self._read_claims(token)
        except jwt.PyJWTError as error:
            log.warning("an ID token was refused", reason=str(error))
            raise Refusal(
                401, f"the ID token of the provider is not valid ({error}); ask the provider's administrator"
            ) from error
        if not _is_equal(nonce, str(claims.get("nonce", ""))):
            raise Refusal(401, "the ID token is of another login (nonce); log in again, in one tab")
        audience, party = claims["aud"], claims.get("azp")
        if party != self.spec.client_id and (party is not None or (isinstance(audience, list) and len(audience) > 1)):
            raise Refusal(401, "the ID token was issued to another client (azp); ask the provider's administrator")
        return claims

    async def _read_claims(self, token: str) -> dict[str, object]:
        """The claims of a token that one of the provider's keys signed; the keys are read again if no known one did.

        Without a key id in its header it may be any key of the algorithm.
        """
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError(f"alg is not one of {', '.join(ALGORITHMS)}")
        for is_fresh in (False, True):
            if is_fresh:
                self._keys = await self._fetch_keys()
            fitting = [key for key in self._keys if key.algorithm_name == header["alg"]]
            for key in fitting:
                if "kid" in header and key.key_id != header["kid"]:
                    continue
                with suppress(jwt.InvalidSignatureError):
                    claims: dict[str, object] = jwt.decode(
                        token,
                        key,
                        algorithms=ALGORITHMS,
                        audience=self.spec.client_id,
                        issuer=self.spec.issuer,
                        leeway=LEEWAY_SECONDS,
                        options={"require": ["exp", "iat", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
                    )
                    return claims
        raise jwt.InvalidKeyError("signed by a key that the provider does not publish")

    async def _fetch_keys(self) -> list[jwt.PyJWK]:
        """The provider's keys for signatures."""
        address = (await self._discover()).jwks_uri
        document = _decode(await self._fetch("GET", address), dict[str, object], address)
        try:
            found = jwt.PyJWKSet.from_dict(document)
        except jwt.PyJWTError as error:
            raise _provider_error(f"{address} has no key that can be used ({error})") from error
        return [key for key in found.keys if key.public_key_use in {None, "sig"}]

    async def _fetch(
        self,
        method: str,
        address: str,
        form: Mapping[str, str] | None = None,
        pair: tuple[str, str] | None = None,
    ) -> bytes:
        """The body of an answer of the provider; one that is an error has a body too."""
        self._client = self._client or httpx.AsyncClient(timeout=TIMEOUT)
        body = b""
        try:
            headers = {"accept": "application/json"}
            async with self._client.stream(method, address, data=form, headers=headers, auth=pair) as answer:
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise _provider_error(f"{address} answers more than {MOST_BYTES:,} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _provider_error(f"{address}: {error or type(error).__name__}") from error
        return body


def _decode(body: bytes, kind: type[Document], address: str) -> Document:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _provider_error(f"{address} answers something else than expected ({error})") from error


def _provider_error(reason: str) -> Refusal:
    log.warning("the login provider failed", reason=reason)
    return Refusal(502, f"the login provider failed: {reason}; try again, or log in with a key")


def _challenge(verifier: str) -> str:
    """The code challenge of a verifier by the method S256, RFC 7636, 4.2."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def _is_equal(known: str, sent: str) -> bool:
    return hmac.compare_digest(known.encode(), sent.encode(errors="replace"))
