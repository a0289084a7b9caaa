"""Reads JSON from clients: limits its nesting, describes its errors, and splits broken batches into items.

msgspec reads bodies. It recurses, so a body that is accepted by a shallow stack may fail on a deeper one when its value
is read again; `MAX_DEPTH` is far below that. Its messages on half a surrogate pair do not name it; `describe` does.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import TypeVar

import msgspec

from engine.errors import BadInput

MAX_DEPTH = 32
"""The greatest depth of nested lists and objects of a body, the body itself included."""

MAX_BYTES = 64 * 1024
"""Most bytes of a body that is not a batch."""

BATCH_ITEMS = 1000
"""Most items of a batch."""

BATCH_COMMAS = 50_000
"""Commas from which the items of a batch are counted before they are read: half a million may be sent at once."""

BATCH_LISTS = 200_000
"""Most lists and objects in a batch whose items must be separated because one of them is no JSON."""

TOO_DEEP = f"the JSON is nested more than {MAX_DEPTH} deep; send it flatter"

TOO_LONG = "a whole number has more than 64 bits; send it as text"

UNREADABLE_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The errors that msgspec raises for a body that it cannot read, or that breaks a rule of its type."""

T = TypeVar("T")

_PLACE = re.compile(r" - at `(?:key in )?\$(.*?)`$")
_FIELD = re.compile(r"(?:required|unknown) field `([^`]+)`")
_HIGH, _LOW = rb"\\u[dD][89aAbB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_SURROGATES = re.compile(rb"\\[^u]|(?:%b%b)|(%b|%b)" % (_HIGH, _LOW, _HIGH, _LOW))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{},]', re.DOTALL)
_TEXT = rb'"(?:[^"\\]|\\.)*+"'
_BETWEEN = re.compile(rb'(?:[^][{}",]++|%b)*+([][{},])' % _TEXT, re.DOTALL)
"""The next comma or bracket between the items of a list."""
_FLAT = rb"""\[(?:[^][{}"]++|%b)*+\]|\{(?:[^][{}"]++|%b)*+\}""" % (_TEXT, _TEXT)
_INSIDE = re.compile(rb'(?:[^][{}"]++|%b|%b)*+([][{}])' % (_TEXT, _FLAT), re.DOTALL)
"""The next bracket within an item that is not of a list or an object without others in it."""
_LIST = re.compile(rb"\s*:\s*\[")
_MANY_DIGITS = re.compile(rb"[0-9]{19}")
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body.

    Raises:
        BadInput: `field: rule; remedy`, with the field or place that breaks a rule, else `body`.
    """
    if len(body) > MAX_BYTES:
        raise BadInput(f"body: {len(body):,} bytes are over the limit of {MAX_BYTES:,}; send less at once")
    if is_too_deep(body):
        raise BadInput(f"body: {TOO_DEEP}")
    try:
        value = decoder.decode(body)
    except UNREADABLE_JSON as error:
        field, detail = describe(error, body)
        meant = similar_name(field.rpartition(".")[2], _names_of(decoder.type)) if "unknown field" in detail else None
        hint = f"; did you mean {meant!r}?" if meant else ""
        raise BadInput(f"{field}: {detail}{hint}") from None
    if _MANY_DIGITS.search(body):  # of a number that is too long, or of a text: only an encoder can say
        try:
            msgspec.msgpack.encode(value)
        except OverflowError:
            raise BadInput(f"body: {TOO_LONG}") from None
    return value


def similar_name(name: str, known: Collection[str]) -> str | None:
    """The known name most similar to an unknown one: `user_id` for `userId`."""
    plain = {re.sub("[^a-z0-9]", "", one.lower()): one for one in known}
    [*near] = get_close_matches(re.sub("[^a-z0-9]", "", name.lower()), plain, 1)
    return plain[near[0]] if near else None


def _names_of(kind: type) -> list[str]:
    """The names of all fields of a struct and of its nested structs."""
    _, schemas = msgspec.json.schema_components([kind], schema_hook=lambda _: {"description": "any"})
    return [name for schema in schemas.values() for name in schema.get("properties", {})]


def is_too_deep(body: bytes) -> bool:
    """Whether lists and objects nest deeper than `MAX_DEPTH`; in linear time, without recursion."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", body).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):  # each round takes the innermost lists away
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return b"[" in brackets


def describe(error: Exception, body: bytes) -> tuple[str, str]:
    """The field (or `body`) that msgspec could not decode, with the broken rule and its remedy."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        place = _PLACE.search(text)
        path = place.group(1).lstrip(".") if place else ""
        rule = _PLACE.sub("", text).replace("`", "'")
        field = _FIELD.search(text)
        if field:
            path = f"{path}.{field.group(1)}" if path else field.group(1)
            remedy = "remove it" if "unknown" in rule else "add it"
        else:
            remedy = "see /docs for the request's schema"
        return path or "body", f"{rule}; {remedy}"
    if isinstance(error, RecursionError):
        return "body", TOO_DEEP
    if isinstance(error, UnicodeDecodeError):
        return "body", f"the body is not UTF-8 at byte {error.start}; encode it as UTF-8"
    half = find_half_surrogate(body)
    if half is not None:
        return "body", f"{half} is half of a surrogate pair and no character; send both halves, or \\ufffd"
    return "body", f"the body is not JSON: {error}; send a JSON object"


def find_half_surrogate(body: bytes) -> str | None:
    """The first escape of half a surrogate pair, such as of a split emoji; None if there is none."""
    return next((found[1].decode() for found in _SURROGATES.finditer(body) if found[1]), None)


def replace_half_surrogates(body: bytes) -> bytes:
    """The body with U+FFFD for every half of a surrogate pair, so that the rest of it can be read."""
    return _SURROGATES.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)


def split_batch(
    body: bytes, name: str, read: Callable[[bytes], Sequence[msgspec.Raw]], most: int = BATCH_ITEMS
) -> Sequence[bytes | msgspec.Raw]:
    """The undecoded items of a batch, so that an item that is not JSON is rejected alone.

    Args:
        body: a JSON object.
        name: its field with the items.
        read: gives the items of a body that is JSON, and raises what msgspec does for one that is no such batch.
        most: the limit of items.

    Raises:
        BadInput: if the body is no such batch, or has more items.
    """
    error: Exception | None = None
    if body.count(b",") <= BATCH_COMMAS:
        try:
            return _limited(read(body), name, most)
        except UNREADABLE_JSON as found:
            error = found
    lists = body.count(b"[") + body.count(b"{")
    separated = split_list(body, name, most) if lists <= BATCH_LISTS else None
    rest, items = separated or (body, None)
    try:
        found_items = read(rest)  # in `rest` a null stands for each item
    except UNREADABLE_JSON as found:
        field, detail = describe(_encoding_error(body) or error or found, body)
        raise BadInput(f'{field}: {detail}; send {{"{name}": […]}} as JSON') from found
    return _limited(found_items if items is None else items, name, most)


def _encoding_error(body: bytes) -> UnicodeDecodeError | None:
    """The error of a body that is not UTF-8, which msgspec does not find in names that it skips."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error
    return None


def _limited(items: Sequence[T], name: str, most: int) -> Sequence[T]:
    if len(items) > most:
        raise BadInput(f"{name}: {len(items)} items are over the limit of {most}; send them in several batches")
    return items


def split_list(body: bytes, name: str, most: int) -> tuple[bytes, list[bytes]] | None:
    """The undecoded items of the list `name` in an object, and the body with `null` for each item.

    It needs no item to be well-formed, only its strings and brackets to be closed; None where they are not.

    Raises:
        BadInput: for more than `most` items, without reading further.
    """
    opened = _find_list(body, f'"{name}"'.encode())
    if opened is None:
        return None
    items: list[bytes] = []
    start = opened
    for kind, at in _separators(body, opened):
        item = body[start:at].strip()
        if item:
            items.append(item)
            if len(items) > most:
                raise BadInput(f"{name}: has more than {most} items, the limit; send them in several batches")
        elif items or kind == b",":
            return None
        if kind == b"]":
            return body[:opened] + b",".join([b"null"] * len(items)) + body[at:], items
        start = at + 1
    return None


def _find_list(body: bytes, key: bytes) -> int | None:
    """The position after the opening bracket of the list `key` in the outermost object."""
    depth = 0
    for token in _TOKEN.finditer(body):
        kind = token[0][:1]
        if kind in b"{[":
            depth += 1
        elif kind in b"}]":
            depth -= 1
        elif depth == 1 and token[0] == key and (opening := _LIST.match(body, token.end())):
            return opening.end()
    return None


def _separators(body: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield the commas between the items of a list that begins at `start`, and its closing bracket."""
    depth = 0
    at = start
    while found := (_INSIDE if depth else _BETWEEN).match(body, at):
        at, kind = found.end(), found[1]
        if kind in b"{[":
            depth += 1
        elif kind == b",":
            yield kind, at - 1
        elif depth:
            depth -= 1
        else:
            if kind == b"]":
                yield kind, at - 1
            return
