"""The file of keys, YAML or JSON: its form and rules, and the example keys that it may not contain.

Two keys of a name may be live at once, so that a key is rotated without a pause: the new one, and the `previous` one
`until` a time. A key past `expires` is refused. Messages never quote a key, which would end up in a log.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.catalog.check.decode import FieldProblem, find_problems, shorten_value
from engine.errors import BadInput
from engine.service.access.openid_settings import DashboardRole, OpenIdSpec, openid_problems

KeyRole = Literal["client", "server", "admin"]

_EXAMPLE_KEYS = frozenset(
    hashlib.sha256(key).hexdigest() for key in (b"test", b"pk-web-7c1f", b"sk-shop-5e9d", b"ak-2f61-5d0c")
)
_EXAMPLE_SECRET = "kept-by-the-backend-7c1f"  # noqa: S105 (known to everyone, so it is refused)
"""The keys and the secret of the documentation."""


_MAPPING = re.compile(r"previous|(keys|previews)(\[[0-9]+\])?")
"""Places of mappings and lists, where a mistaken file may have a key."""
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


class PreviousKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The key before a rotation, valid until `until`; a client's previous key also has its proof secret."""

    until: datetime
    key: Annotated[str, _LONG] | None = None
    sha256: Annotated[str, _SHA256] | None = None
    secret: Annotated[str, _LONG] | None = None


class KeySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key: its role, its expiry, and its rate over all servers (`access.shared_rates`).

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
    """The rights of its holder in the dashboard; by default `view` for the role server and `admin` for admin."""
    expires: datetime | None = None
    previous: PreviousKey | None = None


class PreviewSecret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A secret that signs preview tokens (`service.previews.tokens`), identified by `name`."""

    name: Annotated[str, Meta(min_length=1)]
    secret: Annotated[str, _LONG]


class KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of keys; the first of `previews` signs and all verify; `openid` is a login for the dashboard."""

    keys: Annotated[list[KeySpec], Meta(min_length=1)]
    previews: list[PreviewSecret] = []
    openid: OpenIdSpec | None = None


def read_keys_file(path: Path) -> list[KeySpec]:
    """The keys of a file; errors as in `read_access_file`."""
    return read_access_file(path).keys


def read_access_file(path: Path) -> KeysFile:
    """Read a YAML or JSON file of keys.

    Raises:
        BadInput: if the file cannot be read, or with one line for each rule that it breaks.
    """
    try:
        data = _times_as_text(msgspec.yaml.decode(path.read_bytes()))
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
    """Yield the problems of single fields. No message quotes a key, since messages end up in logs."""
    if not isinstance(data, dict):
        yield "", f"is not a mapping; {_KEYS_REMEDY}"
        return
    for place, message in find_problems(data, KeysFile):
        *_, name = place.split(".")
        if name in {"key", "secret", "sha256"} or _MAPPING.fullmatch(name):
            yield place, message.removeprefix(f"{shorten_value(_value_at(data, place))} ")
        elif place == "openid.client_secret":
            yield place, "is not text; put it in quotes"
        else:
            yield place, message


def _find_conflicts(entries: Sequence[object]) -> Iterator[FieldProblem]:
    """Yield the entries without exactly one of `key` and `sha256`, without a secret, or listed twice."""
    names: dict[str, int] = {}
    digests: dict[bytes, str] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            continue
        place, name, previous = f"keys[{index}]", entry.get("name"), entry.get("previous")
        yield from _find_key_conflicts(place, name, entry, digests)
        if isinstance(previous, dict):
            yield from _find_key_conflicts(f"{place}.previous", name, previous, digests)
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield f"{place}.name", f"{name!r} is the name of keys[{names[name]}] too; give it another"
        if entry.get("role") == "client" and entry.get("secret") is None:
            yield f"{place}.secret", f"{name} has role client, so its customers need one; add it"
        if entry.get("role") == "client" and entry.get("dashboard") is not None:
            message = f"{name} has role client, which web pages publish; make a key of role server for a person"
            yield f"{place}.dashboard", message
        for field in ("origins", "client_may_say"):
            if entry.get(field) and entry.get("role") != "client":
                message = f"{name} has role {entry.get('role')}, which no page may have; remove {field}"
                yield f"{place}.{field}", message


def _find_key_conflicts(
    place: str, name: object, entry: dict[object, object], digests: dict[bytes, str]
) -> Iterator[FieldProblem]:
    """Yield the problems of an entry's key or of its `previous`; `digests` maps earlier digests to their place."""
    key, digest = entry.get("key"), entry.get("sha256")
    if (key is None) == (digest is None):
        yield place, f"{name} needs either key or sha256; set exactly one"
    elif isinstance(key, str):
        found = digests.setdefault(_digest_of(key, None), place)
        if found != place:
            yield place, f"{name} has the same key as {found}; make a new one"
    elif isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
        found = digests.setdefault(_digest_of(None, digest), place)
        if found != place:
            yield place, f"{name} has the same key as {found}; make a new one"


def _times_as_text(value: object) -> object:
    """The value with times and dates as text, as in JSON; a time without a zone is then refused."""
    if isinstance(value, dict):
        return {name: _times_as_text(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_times_as_text(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value


def _value_at(data: object, place: str) -> object:
    """The value at a path of the file, such as `keys[0].previous.key`; None if the path does not exist."""
    for name in re.findall(r"[^.\[\]]+", place):
        if isinstance(data, dict):
            data = data.get(name)
        elif isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        else:
            return None
    return data


def refuse_examples(path: Path, specs: Sequence[KeySpec]) -> None:
    """Refuse keys and secrets that are published in the documentation.

    Raises:
        BadInput: for the first of them.
    """
    for index, spec in enumerate(specs):
        live: tuple[KeySpec | PreviousKey, ...] = (spec, spec.previous) if spec.previous else (spec,)
        if any(key_digest(one).hex() in _EXAMPLE_KEYS or one.secret == _EXAMPLE_SECRET for one in live):
            raise BadInput(
                f"{path} keys[{index}]: {spec.name} uses a key or secret that is published in the documentation; "
                "make your own with `counterpoint keys new`"
            )


def key_digest(spec: KeySpec | PreviousKey) -> bytes:
    """The SHA-256 of a key, given as such or computed."""
    return _digest_of(spec.key, spec.sha256)


def _digest_of(key: str | None, sha256: str | None) -> bytes:
    return bytes.fromhex(sha256) if sha256 else hashlib.sha256((key or "").encode()).digest()
