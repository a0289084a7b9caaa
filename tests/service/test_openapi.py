import html.parser
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.spec.identifiers import is_placeholder
from engine.customer import KINDS
from engine.service.app import create_app
from engine.service.document.schemas import components
from engine.service.endpoints.openapi import openapi
from engine.service.endpoints.operations import OPERATIONS, Operation
from engine.settings import Settings

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
KEYS = {"/ofrep/v1/evaluate/flags/{key}": "dark_mode"}


def path_of(one: Operation) -> str:
    return one.path.replace("{key}", KEYS.get(one.path, "theme"))


def validator(schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": openapi()["components"]})


def test_every_route_of_the_api_is_documented(tmp_path: Path, shop: Path) -> None:
    app = create_app(Settings(data=tmp_path, experiments=shop))
    routes = {re.sub(r":\w+}", "}", route.path) for route in app.routes}
    assert {path for path in routes if path.startswith(("/v1/", "/ofrep/"))} <= {one.path for one in OPERATIONS}


def test_what_is_documented_is_served_with_the_methods_that_are_documented(server: Any) -> None:
    for one in OPERATIONS:
        offered = {same.method for same in OPERATIONS if same.path == one.path}
        other = "PATCH" if "delete" in offered else "DELETE"
        answer = server.request(other, path_of(one))
        assert answer.status_code == 405, one.path
        allowed = {method.strip().lower() for method in answer.headers["allow"].split(",")}
        assert allowed == {two.method for two in OPERATIONS if two.path == one.path}


@pytest.mark.parametrize("one", [one for one in OPERATIONS if one.example], ids=lambda one: one.path)
def test_the_examples_are_answered_as_the_document_says(server: Any, one: Operation) -> None:
    operation = openapi()["paths"][one.path][one.method]  # type: ignore[index]
    content = operation["requestBody"]["content"]["application/json"]
    validator(content["schema"]).validate(content["example"])
    answer = server.post(path_of(one), content["example"])
    assert answer.status_code == one.status, answer.text
    validator(operation["responses"][str(one.status)]["content"]["application/json"]["schema"]).validate(answer.json())


def test_a_problem_is_as_the_document_says(server: Any) -> None:
    responses = openapi()["paths"]["/v1/decide"]["post"]["responses"]  # type: ignore[index]
    schema = responses["400"]["content"]["application/problem+json"]["schema"]
    validator(schema).validate(server.post("/v1/decide", {}).json())


def test_the_document_is_served_and_its_references_lead_somewhere(server: Any) -> None:
    answer = server.get("/docs/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["openapi"] == "3.1.0"
    for name in re.findall(r'"#/components/schemas/([^"]+)"', answer.text):
        assert name in document["components"]["schemas"]
    ids = [o["operationId"] for path in document["paths"].values() for o in path.values()]
    assert len(set(ids)) == len(ids)


def test_names_of_schemas_do_not_change_with_the_names_of_classes() -> None:
    schemas: Any = openapi()["components"]["schemas"]  # type: ignore[index]
    names = msgspec.json.decode((VECTORS / "openapi_schemas.json").read_bytes(), type=list[str])
    assert sorted(schemas) == names
    assert all(schemas[name]["title"] == name for name in names if "title" in schemas[name])


def test_the_page_reads_without_any_other_server(server: Any) -> None:
    answer = server.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    linked: list[str] = []
    anchors: set[str] = set()

    class Links(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "img")
            attributes = dict(attrs)
            linked.extend(filter(None, (attributes.get("href"), attributes.get("src"))))
            anchors.add(attributes.get("id") or "")

    Links().feed(answer.text)
    assert linked
    assert all(link == "/docs/openapi.json" or link.removeprefix("#") in anchors for link in linked)
    for one in OPERATIONS:
        assert f"{one.method.upper()} {one.path}" in answer.text


def test_the_page_says_nothing_of_this_machine(server: Any) -> None:
    assert (
        str(Path(__file__).resolve().parents[2]) not in server.get("/docs").text + server.get("/docs/openapi.json").text
    )


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_a_method_that_no_framework_routes_is_refused_with_those_that_are_offered(server: Any, one: Operation) -> None:
    answer = server.request("TRACE", path_of(one).replace("{id}", "u-1").replace("{sku}", "S-1"))
    assert answer.status_code == 405
    offered = {same.method.upper() for same in OPERATIONS if same.path == one.path}
    assert {name.strip() for name in answer.headers["allow"].split(",")} == offered


def test_the_document_asks_for_keys_where_the_server_does() -> None:
    for needs_keys in (True, False):
        paths: Any = openapi(needs_keys=needs_keys)["paths"]
        assert bool(paths["/v1/decide"]["post"]["security"]) is needs_keys


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"customer": {}}, 400),
        ({"customer": {"user_id": None}}, 400),
        ({"customer": {"user_id": "0"}}, 400),
        ({"customer": {"phone": " - "}}, 400),
        ({"customer": {}, "context": {"store": "--"}}, 400),
        ({"customer": {"user_id": "null", "device_id": "Object undefined", "email": "n/a"}}, 400),
        ({"customer": {"user_id": "{{user}}", "loyalty_card": "-1", "anonymous_id": "\U000e47c1\u00b7"}}, 400),
        ({"customer": {"phone": "+49", "email": "null@example.org"}}, 400),
        ({"customer": {"phone": "abc 1 000"}}, 400),
        ({"customer": {"email": "anna@unknown.example"}}, 400),
        ({"customer": {"phone": "+49 30 1"}}, 200),
        ({"customer": {"user_id": "nullified", "phone": "+49"}}, 200),
        ({"customer": {"anonymous_id": "\u0e01 \u0e33"}}, 200),
        ({"customer": {"user_id": "\u674e\u660e"}}, 200),
        ({"customer": {}, "context": {"store": "S12"}}, 200),
        ({"customer": {"user_id": None, "email": "anna@example.org"}}, 200),
    ],
)
def test_who_is_no_customer_is_none_to_the_document_either(server: Any, body: Any, status: int) -> None:
    request = {"channel": "web", **body}
    operation = openapi()["paths"]["/v1/decide"]["post"]  # type: ignore[index]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert server.post("/v1/decide", request).status_code == status
    assert validator(schema).is_valid(request) is (status == 200)


TEXTS = [
    "u-1",
    "null",
    "N/A",
    "0",
    "+49",
    "+49 30 1234567",
    "\u674e",
    "\u00b7",
    "",
    "\ue000",
    "a@b.example",
    "@b.example",
]


def random_request(dice: random.Random, channels: dict[str, list[str]]) -> dict[str, Any]:
    """A request that may break a rule: a channel or a placement of another, a placeholder, too many attributes."""
    ids = dice.sample(KINDS, dice.randrange(4))
    channel = dice.choice([*channels, "wbe"])
    placements = dice.choices(channels.get(dice.choice([channel, *channels]), []) or ["nowhere"], k=dice.randrange(3))
    context: dict[str, Any] = {"country": dice.choice(["DE", 7, None, 1e300, [True]])}
    if dice.random() < 0.3:
        context["store"] = dice.choice([*TEXTS, 12])
    if dice.random() < 0.05:
        context |= {f"a{n}": n for n in range(500)}
    who = {kind: dice.choice([*TEXTS, None]) for kind in ids}
    return {"customer": who, "channel": channel, "placements": placements, "context": context}


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/explain"])
def test_a_request_is_valid_by_the_served_document_where_the_server_takes_it(server: Any, path: str) -> None:
    document = server.get("/docs/openapi.json").json()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    by_schema = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
    rules = schema["allOf"][1]["allOf"][1]["anyOf"]
    channels = {
        rule["properties"]["channel"]["const"]: rule["properties"]["placements"].get("items", {}).get("enum", [])
        for rule in rules
    }
    assert channels["web"]
    dice, statuses = random.Random(11), Counter[int]()
    for _ in range(300):
        body = random_request(dice, channels)
        answer = server.post(path, body)
        statuses[answer.status_code] += 1
        assert by_schema.is_valid(body) is (answer.status_code == 200), (body, answer.text)
    assert min(statuses[200], statuses[400]) > 50


def test_a_parameter_is_valid_by_the_served_document_where_the_server_takes_it(server: Any) -> None:
    parameters = server.get("/docs/openapi.json").json()["paths"]["/v1/due"]["get"]["parameters"]
    schemas = {one["name"]: one["schema"] for one in parameters}
    assert schemas["channel"]["enum"]
    for name, value in [
        *(("channel", name) for name in (*schemas["channel"]["enum"], "web", "")),
        *(("limit", number) for number in (0, 1, 1000, 1001, -1, "x")),
        *(("lease", number) for number in (0, 1, 86_400, 86_401, "")),
    ]:
        query = {"channel": schemas["channel"]["enum"][0], name: value}
        is_valid = jsonschema.Draft202012Validator(schemas[name]).is_valid(value)
        assert (server.get(f"/v1/due?{urlencode(query)}").status_code == 200) is is_valid, query


@pytest.mark.parametrize(("path", "name"), [("/v1/events", "batch"), ("/v1/stock", "levels")])
def test_an_item_that_is_answered_alone_breaks_no_rule_of_the_body(server: Any, path: str, name: str) -> None:
    schema = openapi()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]  # type: ignore[index]
    body: dict[str, Any] = {name: [7, {}, {"sku": ""}]}
    validator(schema).validate(body)
    assert [one["status"] for one in server.post(path, body).json()["statuses"]] == ["rejected"] * 3
    assert not validator(schema).is_valid({name: [{}] * 1001})
    assert server.post(path, {name: [{}] * 1001}).status_code == 400


def test_an_answer_without_a_type_of_its_own_is_what_the_document_says(server: Any) -> None:
    server.post("/v1/events", {"batch": [{"type": "identify", "message_id": "doc-1", "user_id": "doc-1"}]})
    content = openapi()["paths"]["/v1/profiles/{id}"]["get"]["responses"]["200"]["content"]  # type: ignore[index]
    validator(content["application/json"]["schema"]).validate(server.get("/v1/profiles/doc-1").json())


@pytest.mark.parametrize("number", [7, 2**64 - 1, 2**64, -(2**63) - 1, 0])
def test_a_number_that_identifies_nobody_is_no_target_by_the_document(server: Any, number: int) -> None:
    operation = openapi()["paths"]["/ofrep/v1/evaluate/flags/{key}"]["post"]  # type: ignore[index]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = {"context": {"anonymousId": number}}
    answer = server.post("/ofrep/v1/evaluate/flags/checkout_layout", body)
    assert validator(schema).is_valid(body) is (answer.status_code == 200), answer.text


PARTS = [
    "<",
    "ErG",
    "^",
    "I",
    ">",
    "@",
    "null",
    "NULL",
    "a",
    "0",
    "-",
    " ",
    ".",
    "de",
    "_",
    "{",
    "}",
    "[[",
    "]]",
    "nan",
]
PARTS += ["object", "1", "\x0b", "+49", "/", "undefined", "Z", "\\", "`", "\u0142", "\u4e2d", "\ue001"]


@given(st.lists(st.sampled_from(PARTS), max_size=7).map("".join))
@settings(max_examples=500, deadline=None)
def test_the_document_says_of_each_text_whether_it_names_somebody(text: str) -> None:
    schemas: Any = components()
    somebody = schemas["Somebody"]["not"]["pattern"]
    mailbox = [one["not"]["pattern"] for one in schemas["Mailbox"]["allOf"][1:]]
    assert is_placeholder(text) == bool(re.search(somebody, text, re.ASCII))
    assert is_placeholder(text, "email") == any(re.search(pattern, text, re.ASCII) for pattern in (somebody, *mailbox))
