"""The API's documentation: OpenAPI 3.1, generated from the structs that decode and encode it, and one HTML page.

The page loads nothing from other servers, so it also reads on a machine without internet access.
"""

import asyncio
import functools
import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import cast

import msgspec

from engine.service.auth import RequestGuard
from engine.service.document.schemas import JSON_VALUE, NO_NAMES, Node, ShopNames, any_item, components, names_of
from engine.service.endpoints.operation import Operation
from engine.service.endpoints.operations import OPERATIONS
from engine.service.http import JSON, Call, Reply, Route, endpoint
from engine.service.problems import ProblemDetails
from engine.service.worker import Worker

PAGE = Path(__file__).with_name("openapi.html")
REFERENCE = "#/components/schemas/{name}"
BODY_FAILURES = {400: "a field breaks a rule", 413: "the body is too large", 415: "the body is not application/json"}
KEY_FAILURES = {
    401: "no valid key",
    403: "the key may not do this",
    429: "the key has used up its rate, or this address sent too many unknown keys; see Retry-After",
}

PUBLISHED_NAMES = {
    "BatchStatuses": "Statuses",
    "CustomerExport": "Exported",
    "CustomerSummary": "History",
    "DecideBody": "DecideRequest",
    "ErasureResult": "Erased",
    "EventStatus": "Status",
    "ExposureAnswer": "Exposed",
    "StockLevel": "Level",
}
"""Schema names by class name: clients are generated from the document, so a class that is renamed keeps its old one."""


def docs_routes(worker: Worker, guard: RequestGuard, *, needs_keys: bool = True) -> list[Route]:
    """The routes of `/docs` and `/docs/openapi.json`; a server without keys documents operations that need none."""
    newest: tuple[str, bytes] = ("", b"")

    async def page(_: Call) -> Reply:
        policy = b"default-src 'none'; style-src 'unsafe-inline'"
        return Reply(
            html_page(), headers=((b"content-type", b"text/html; charset=utf-8"), (b"content-security-policy", policy))
        )

    async def document(_: Call) -> Reply:
        nonlocal newest
        plan = worker.plan
        if newest[0] != plan.version:
            # The first one takes long; a thread lets decisions go on.
            newest = (plan.version, await asyncio.to_thread(_encoded, names_of(plan), needs_keys=needs_keys))
        return Reply(newest[1], headers=((b"content-type", JSON),))

    return [
        endpoint("/docs", {"GET": page}, limit=0, guard=guard),
        endpoint("/docs/openapi.json", {"GET": document}, limit=0, guard=guard),
    ]


def _encoded(shop: ShopNames, *, needs_keys: bool) -> bytes:
    return msgspec.json.encode(openapi(shop, needs_keys=needs_keys))


def openapi(shop: ShopNames = NO_NAMES, *, needs_keys: bool = True) -> Node:
    """The OpenAPI 3.1 document of all operations.

    Args:
        shop: the names of the plan that the server runs.
        needs_keys: whether it has keys; without them it answers everyone.
    """
    types, schemas = _components()
    paths: dict[str, Node] = {}
    for operation in OPERATIONS:
        document = _operation(operation, types, shop, needs_keys=needs_keys)
        paths.setdefault(operation.path, {})[operation.method] = document
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Counterpoint",
            "version": "1",
            "description": "Experiments and offers, decided for every channel. Errors are RFC 9457 problems.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


@functools.cache
def _components() -> tuple[Mapping[type, object], Node]:
    """The references by type, and the schemas they point to, under their published names."""
    requests = [one.request for one in OPERATIONS if one.request is not None]
    answers = [kind for one in OPERATIONS for kind in (one.answer, one.failure) if kind is not None]
    of_answers, schemas = _schemas([*answers, ProblemDetails], {"description": "any JSON value"})
    of_requests, sent = _schemas(requests, {"$ref": JSON_VALUE})
    for one in OPERATIONS:
        if one.request is not None and one.items:
            fields = cast("dict[str, Node]", cast("Node", sent[_schema_name(one.request)])["properties"])
            fields[one.items]["items"] = any_item(cast("Node", fields[one.items]["items"]))
    return {**of_answers, **of_requests}, {**components(), **schemas, **sent}


def _schemas(kinds: Iterable[type], any_value: Node) -> tuple[dict[type, object], Node]:
    """References by type and the schemas of types; `any_value` is that of `object`, which msgspec does not generate."""
    types = list(dict.fromkeys(kinds))

    def of_object(kind: type) -> Node:
        if kind is object:
            return any_value
        raise NotImplementedError(f"{kind} has no JSON schema; annotate the field with a type that msgspec knows")

    generated = msgspec.json.schema_components(types, ref_template=REFERENCE, schema_hook=of_object)
    text = msgspec.json.encode(generated).decode()
    for name, published in PUBLISHED_NAMES.items():  # as a key or a title, and at the end of a reference
        text = text.replace(f'"{name}"', f'"{published}"').replace(f'/{name}"', f'/{published}"')
    references, schemas = msgspec.json.decode(text, type=tuple[list[object], Node])
    return dict(zip(types, references, strict=True)), schemas


def _operation(one: Operation, types: Mapping[type, object], shop: ShopNames, *, needs_keys: bool) -> Node:
    """One operation object of the document; `types` gives the schema reference of each type."""
    parameters: list[Node] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", one.path)
    ]
    parameters += [
        {"name": name, "in": "header", "description": about, "schema": {"type": "string"}}
        for name, about in one.headers.items()
    ]
    parameters += [
        {"name": name, "in": "query", "required": query.required, "description": query.about, "schema": schema}
        for name, query in one.query.items()
        if (schema := query.schema(shop)) is not None
    ]
    plain = {"type": "object" if one.media == "application/json" else "string"}
    content: Node = {one.media: {"schema": types[one.answer] if one.answer else plain}}
    if one.pages:
        content["text/html"] = {"schema": {"type": "string"}}
    responses: Node = {str(one.status): {"description": "OK", "content": content}}
    failures = {**(BODY_FAILURES if one.request else {}), **(KEY_FAILURES if one.role else {}), **one.failures}
    for status, about in sorted(failures.items()):
        responses[str(status)] = _failure(one, status, about, types)
    # Whether a value is free is no matter of a schema, so a client is not to make one up by it.
    stateful = " ".join(f"Header {name}: {about}." for name, about in one.stateful_headers.items())
    document: Node = {
        "operationId": re.sub(r"\W+", "_", f"{one.method}{one.path}").rstrip("_"),
        "summary": one.summary,
        "description": " ".join(filter(None, (one.about, stateful, one.role and f"Needs a key of role {one.role}."))),
        "parameters": parameters,
        "responses": responses,
        "security": [{"bearer": []}, {"key": []}] if one.role and needs_keys else [],
    }
    if one.request:
        rule = one.rule(shop)
        body: Node = {"schema": {"allOf": [types[one.request], rule]} if rule else types[one.request]}
        if one.example is not None:
            body["example"] = one.example
        document["requestBody"] = {"required": one.role != "admin", "content": {"application/json": body}}
    return document


def _failure(one: Operation, status: int, about: str, types: Mapping[type, object]) -> Node:
    """The response object of a failure: a problem, the protocol's own error, or a readiness answer."""
    if status == 304:
        return {"description": about}
    if one.failure and status in (400, 404):
        return {"description": about, "content": {"application/json": {"schema": types[one.failure]}}}
    if status == 503 and one.role is None and one.answer:
        return {"description": about, "content": {one.media: {"schema": types[one.answer]}}}
    return {"description": about, "content": {"application/problem+json": {"schema": types[ProblemDetails]}}}


@functools.cache
def html_page() -> bytes:
    """The document as a page for people."""
    document = openapi()
    schemas = cast("dict[str, Node]", cast("Node", document["components"])["schemas"])
    operations = "".join(_section(one) for one in OPERATIONS)
    index = "".join(f'<li><a href="#{_anchor(one)}">{_escape(_title(one))}</a></li>' for one in OPERATIONS)
    kinds = "".join(_schema(name, schema) for name, schema in sorted(schemas.items()))
    text = Template(PAGE.read_text(encoding="utf-8"))
    return text.substitute(index=index, operations=operations, schemas=kinds).encode()


def _section(one: Operation) -> str:
    """One operation of the page."""
    example = ""
    if one.example is not None:
        body = msgspec.json.format(msgspec.json.encode(one.example), indent=2).decode()
        example = f"<p>Request</p><pre tabindex='0'>{_escape(body)}</pre>"
    headers = _table(
        (f"<code>{_escape(name)}</code>", _escape(about))
        for name, about in {**one.headers, **one.stateful_headers}.items()
    )
    kinds = [(one.request, "takes"), (one.answer, f"answers {one.status} with")]
    links = ", ".join(
        f'{verb} <a href="#{_schema_name(kind)}">{_schema_name(kind)}</a>' for kind, verb in kinds if kind
    )
    failures = {**(KEY_FAILURES if one.role else {}), **(BODY_FAILURES if one.request else {}), **one.failures}
    rows = _table((str(status), _escape(about)) for status, about in sorted(failures.items()))
    key = f"needs a key of role <b>{one.role}</b>" if one.role else "needs no key"
    return (
        f'<section id="{_anchor(one)}"><h3><code>{_escape(_title(one))}</code></h3>'
        f"<p><b>{_escape(one.summary)}.</b> {_escape(one.about)}</p><p>{'; '.join(filter(None, (key, links)))}</p>"
        f"{headers}{example}{rows}</section>"
    )


def _schema_name(kind: type) -> str:
    """The published name of a struct's schema."""
    return PUBLISHED_NAMES.get(kind.__name__, kind.__name__)


def _schema(name: str, schema: Node) -> str:
    """One schema of the page: a row per field."""
    required = cast("list[str]", schema.get("required", []))
    rows = _table(
        (f"<code>{_escape(field)}</code>", _type_of(cast("Node", about)), "required" if field in required else "")
        for field, about in cast("Node", schema.get("properties", {})).items()
    )
    about = _escape(str(schema.get("description", "")))
    return f'<section id="{_escape(name)}"><h3>{_escape(name)}</h3><p>{about}</p>{rows}</section>'


def _type_of(schema: Node) -> str:
    """The type of a field in words, with a link to its schema where it has one."""
    if "$ref" in schema:
        name = _escape(str(schema["$ref"]).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for word in ("anyOf", "allOf"):
        if word in schema:
            return " or ".join(_type_of(one) for one in cast("list[Node]", schema[word]))
    if "enum" in schema:
        return " or ".join(f"<code>{_escape(str(one))}</code>" for one in cast("list[object]", schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type_of(cast('Node', schema.get('items', {})))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type_of(cast('Node', schema['additionalProperties']))}"
    return _escape(str(schema.get("type", "anything")))


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    """An HTML table; empty if there are no rows."""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{lines}</table>" if lines else ""


def _title(one: Operation) -> str:
    return f"{one.method.upper()} {one.path}"


def _anchor(one: Operation) -> str:
    """The id of an operation's section on the page."""
    return re.sub(r"\W+", "-", f"{one.method}{one.path}").strip("-")


def _escape(text: str) -> str:
    return html.escape(text)
