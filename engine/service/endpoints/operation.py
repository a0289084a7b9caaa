"""One operation of the HTTP face for its documentation, and the bodies that only the documentation names."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from engine.customers.model.events import Event
from engine.json_body import BATCH_ITEMS
from engine.service.access.keys_file import KeyRole
from engine.service.document.schemas import QueryParameter, RequestRule, no_rule
from engine.service.endpoints.flag_answers import ErrorCode, EvaluationReason

HeaderDocs = Mapping[str, str]


class EventBatch(msgspec.Struct, frozen=True):
    """Up to 1,000 events; each gets its own status."""

    batch: Annotated[list[Event], msgspec.Meta(max_length=BATCH_ITEMS)]


class BulkFlag(msgspec.Struct, frozen=True):
    """An evaluation with its reason, or a failure with its errorCode."""

    key: str
    reason: EvaluationReason | msgspec.UnsetType = msgspec.UNSET
    variant: str | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, str | float | bool] | msgspec.UnsetType = msgspec.UNSET
    value: object = msgspec.UNSET
    errorCode: ErrorCode | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 (the protocol's name)
    errorDetails: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 (the protocol's name)


class StreamEndpoint(msgspec.Struct, frozen=True):
    """The address of a stream, relative to the protocol's base URL."""

    requestUri: str  # noqa: N815 (the protocol's name)


class EventStream(msgspec.Struct, frozen=True):
    """The address at which a page learns that flags may have changed."""

    type: Literal["sse"]
    endpoint: StreamEndpoint
    inactivityDelaySec: int  # noqa: N815 (the protocol's name)


class BulkEvaluation(msgspec.Struct, frozen=True):
    """All flags of a channel."""

    flags: list[BulkFlag]
    metadata: dict[str, str]
    eventStreams: list[EventStream]  # noqa: N815 (the protocol's name)


class Live(msgspec.Struct, frozen=True):
    """The answer that the process is alive."""

    status: Literal["live"]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method at one path. `role` is the minimum role of a key (None: no key); other answers are problems.

    `rule` is a JSON schema of what the type of `request` does not say. `items` names the list of a request whose items
    are answered one by one, and `pages` is whether a browser gets a page at the address. What a value of one of
    `stateful_headers` does depends on the requests before.
    """

    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    about: str = ""
    role: KeyRole | None = None
    request: type | None = None
    rule: RequestRule = no_rule
    items: str = ""
    example: Mapping[str, object] | None = None
    headers: HeaderDocs = {}
    stateful_headers: HeaderDocs = {}
    query: Mapping[str, QueryParameter] = {}
    answer: type | None = None
    status: int = 200
    media: str = "application/json"
    pages: bool = False
    failures: Mapping[int, str] = {}
    failure: type | None = None
