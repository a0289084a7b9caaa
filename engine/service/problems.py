"""Every error of the HTTP face: RFC 9457 problem+json that says which field, which rule, what to do."""

import re
from http import HTTPStatus

import msgspec

_AT = re.compile(r" - at `(?:key in )?\$(.*?)`$")
_NAMED = re.compile(r"(?:required|unknown) field `([^`]+)`")


class FieldError(msgspec.Struct, frozen=True):
    """One field and what is wrong with it."""

    field: str
    message: str


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error answer."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    errors: list[FieldError] = []
    request_id: str = ""


class Refusal(Exception):
    """The request cannot be served: its status, why, and which fields are at fault."""

    def __init__(
        self, status: int, detail: str, field: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = headers

    def body(self, request_id: str) -> bytes:
        """The problem as JSON."""
        details = ProblemDetails(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            errors=[FieldError(self.field, self.detail)] if self.field else [],
            request_id=request_id,
        )
        return msgspec.json.encode(details)


def refuse_field(message: str) -> Refusal:
    """A refusal from `field: what is wrong; what to do`."""
    field, colon, rest = message.partition(": ")
    return Refusal(400, rest if colon else message, field if colon else "")


def refuse_body(error: Exception) -> Refusal:
    """A refusal of a body that msgspec could not read: the field where there is one, or the place in the JSON."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        at = _AT.search(text)
        path = at.group(1).lstrip(".") if at else ""
        rule = _AT.sub("", text).replace("`", "'")
        named = _NAMED.search(text)
        if named:
            path = f"{path}.{named.group(1)}" if path else named.group(1)
            remedy = "remove it" if "unknown" in rule else "add it"
        else:
            remedy = "see /docs for the request's shape"
        return Refusal(400, f"{rule}; {remedy}", path or "body")
    if isinstance(error, RecursionError):
        return Refusal(400, "the JSON is nested too deeply; send a flat request", "body")
    if isinstance(error, UnicodeDecodeError):
        return Refusal(400, f"the body is not UTF-8 at byte {error.start}; encode it as UTF-8", "body")
    return Refusal(400, f"the body is not JSON: {error}; send a JSON object", "body")
