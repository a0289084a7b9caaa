"""Signed, expiring preview tokens: the bearer sees a variant or an offer that they would not get otherwise.

A token is `PAYLOAD.SIGNATURE`, both base64url without padding. The payload is JSON: what is forced, by experiment and
placement, and until when (s since 1970). The signature is HMAC-SHA256 of it.

The secrets are `previews` in the file of keys; without any, the lines of `DATA/preview.key`, which is made at the first
use. The first secret signs and all of them verify: to rotate, put a new one first, and delete the old one when its
tokens have expired. To revoke every token at once, delete all others at once. A file that changed is read again, so
that needs no restart.
"""

import binascii
import hashlib
import hmac
import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from engine.errors import BadInput
from engine.service.access.keys_file import read_access_file
from engine.settings import Settings

HEADER = b"x-counterpoint-preview"
ATTRIBUTE = "counterpoint_preview"
"""The attribute of an OpenFeature context, and the parameter of a page's address, that has a token."""
SECRET_FILE = "preview.key"  # noqa: S105 (the name of a file)
_MOST_CHARACTERS = 4_000
_CONTEXT = b"counterpoint preview\0"
"""Stands before what is signed, so that no other signature with the same secret is one of a token."""
_AGAIN = "make a new link: counterpoint preview KEY --variant VARIANT --link URL"


class PreviewPass(msgspec.Struct, frozen=True, kw_only=True):
    """The variants by experiment and offers by placement that a token forces until a time (s since 1970)."""

    force: dict[str, str]
    until: int


class PreviewRefused(Exception):
    """The error of a token that was altered, has expired or forces a missing key; the text has the remedy."""


_decoder = msgspec.json.Decoder(PreviewPass)


def sign_preview(settings: Settings, force: Mapping[str, str], until: float) -> str:
    """A token that forces variants and offers until a time (s since 1970).

    Raises:
        BadInput: if the file of keys or the secret's file cannot be used.
    """
    payload = msgspec.json.encode(PreviewPass(force=dict(force), until=int(until)))
    return f"{_encode(payload)}.{_encode(_signature(read_secrets(settings)[0], payload))}"


def read_preview(settings: Settings, token: str, now: float) -> PreviewPass:
    """Verify a token, and return what it forces.

    Raises:
        PreviewRefused: if it is none of ours, was altered, or has expired at `now` (s since 1970).
    """
    head, dot, tail = token.strip().partition(".")
    try:
        payload, signature = _decode(head), _decode(tail)
    except (ValueError, binascii.Error):
        payload = signature = b""
    if not dot or len(token) > _MOST_CHARACTERS or not payload:
        raise PreviewRefused(f"is not a preview token; {_AGAIN}")
    # All are compared, in constant time each: the time says nothing of the secrets.
    matches = [hmac.compare_digest(_signature(secret, payload), signature) for secret in read_secrets(settings)]
    if not any(matches):
        raise PreviewRefused(f"was altered, or its secret was replaced; {_AGAIN}")
    found = _decoder.decode(payload)
    if now >= found.until:
        ended = datetime.fromtimestamp(found.until, UTC)
        raise PreviewRefused(f"expired on {ended:%Y-%m-%d} at {ended:%H:%M} UTC; {_AGAIN}")
    return found


def read_secrets(settings: Settings) -> list[bytes]:
    """The secrets, the signing one first.

    Raises:
        BadInput: if their file cannot be used.
    """
    if settings.api_keys is not None:
        try:
            stat = settings.api_keys.stat()
        except OSError as error:
            raise BadInput(f"{settings.api_keys}: cannot be read ({error.strerror}); it has the keys") from error
        known = _secrets_of_keys(settings.api_keys, stat.st_mtime_ns, stat.st_size)
        if known:
            return known
    path = settings.data / SECRET_FILE
    try:
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        lines = [_make_secret(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); it has the secret of preview tokens") from error
    if not lines or any(len(line) < 8 for line in lines):
        raise BadInput(f"{path}: a secret has fewer than 8 characters; delete the file, and a new one is made")
    return [line.encode() for line in lines]


@lru_cache(maxsize=4)
def _secrets_of_keys(path: Path, _changed: int, _size: int) -> list[bytes]:
    """The secrets of a file of keys, cached until the file changes: decoding it per token would take too long."""
    return [one.secret.encode() for one in read_access_file(path).previews]


def _make_secret(path: Path) -> str:
    """Make the secret that the servers of this data folder share; if two processes try, the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    secret = secrets.token_hex(32)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secret}\n")
        os.link(draft, path)  # unlike a rename it fails where another process was first
    except FileExistsError:
        return path.read_text(encoding="utf-8").split()[0]
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); put `previews` into the file of keys") from error
    finally:
        draft.unlink(missing_ok=True)
    return secret


def _signature(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, _CONTEXT + payload, hashlib.sha256)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
