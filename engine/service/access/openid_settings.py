"""The section `openid` of the file of keys: the provider whose accounts log in to the dashboard, and their roles."""

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from engine.catalog.check.decode import FieldProblem
from engine.service.access.hosts import is_loopback

DashboardRole = Literal["view", "operate", "admin"]
ROLE_ORDER: tuple[DashboardRole, ...] = ("admin", "operate", "view")
"""The most that a role may do comes first."""
_WORD = Meta(min_length=1)
_ADDRESS = Meta(
    pattern=r"^https?://[^/?#\s@]+[^?#\s]*$",
    description="an address without a query",
    extra={"remedy": "write it as the provider does: https://login.example.org/realms/shop"},
)


class OpenIdSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The login of people by OpenID Connect Core 1.0, as the authorization code flow with PKCE (RFC 7636).

    `issuer` is the provider's, whose discovery document is at `/.well-known/openid-configuration` below it. `address`
    is the dashboard's, as browsers open it; without one only this machine logs in. `roles` maps values of the ID
    token's claim `claim` to what their people may do: the most of several. `name` is the claim that the audit log
    names people by.
    """

    issuer: Annotated[str, _ADDRESS]
    client_id: Annotated[str, _WORD]
    client_secret: Annotated[str, _WORD] | None = None
    address: Annotated[str, _ADDRESS] | None = None
    title: Annotated[str, Meta(min_length=1, max_length=60)] = "OpenID Connect"
    scopes: list[Annotated[str, Meta(pattern=r"^[!#-\[\]-~]+$", description="a scope")]] = msgspec.field(
        default_factory=lambda: ["openid", "email"]
    )
    claim: Annotated[str, _WORD] = "groups"
    name: Annotated[str, _WORD] = "email"
    roles: Annotated[dict[DashboardRole, list[Annotated[str, _WORD]]], Meta(min_length=1)]

    def role_of(self, claims: Mapping[str, object]) -> DashboardRole | None:
        """The highest role that the claims grant; None without any, or for an e-mail address that is not verified."""
        if self.is_unverified(claims):
            return None
        found = read_claim(claims, self.claim)
        listed = found if isinstance(found, list) else [found]
        values = {one for one in listed if isinstance(one, str)}
        return next((role for role in ROLE_ORDER if values & set(self.roles.get(role, ()))), None)

    def is_unverified(self, claims: Mapping[str, object]) -> bool:
        """Whether roles go by e-mail address and the provider has not verified this one.

        At many providers people enter any address (OpenID Connect Core 1.0, 5.7).
        """
        return self.claim == "email" and claims.get("email_verified") is not True

    def name_of(self, claims: Mapping[str, object]) -> str:
        """The name for the audit log: the claim `name`, or the subject if that claim is missing or not verified."""
        found = read_claim(claims, self.name)
        is_doubtful = self.name == "email" and claims.get("email_verified") is False
        return found if isinstance(found, str) and found and not is_doubtful else str(claims["sub"])


def read_claim(claims: Mapping[str, object], name: str) -> object:
    """The claim with this name; dots lead into nested claims, as in `realm_access.roles`. None if it is missing."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def openid_problems(spec: OpenIdSpec) -> list[FieldProblem]:
    """The problems that the types cannot rule out, each with its place in the file."""
    found = []
    for field in ("issuer", "address"):
        value = getattr(spec, field)
        if value is not None and not is_protected(value):
            found.append((f"openid.{field}", f"{value!r} sends what logs in unencrypted; use https"))
    if "openid" not in spec.scopes:
        found.append(("openid.scopes", f"{spec.scopes} lacks 'openid', without which no ID token is sent; add it"))
    return found


def is_protected(address: str) -> bool:
    """Whether the address is reached by https or lies on this machine, so that nobody in between can read."""
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
