"""The protocol as its official client speaks it, and as its document says it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import (
    FlagNotFoundError,
    GeneralError,
    InvalidContextError,
    TargetingKeyMissingError,
    TypeMismatchError,
)
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason

from engine.client.exposure_hook import ExposureHook

SINGLE = "/ofrep/v1/evaluate/flags/"
BULK = "/ofrep/v1/evaluate/flags"
DOCUMENT = Path(__file__).resolve().parents[3] / "shared/conformance/ofrep/openapi-0.3.0.json"


@pytest.fixture(scope="module")
def provider(server: Any) -> OFREPProvider:
    return OFREPProvider(server.base)


def about(key: str = "", **attributes: Any) -> EvaluationContext:
    return EvaluationContext(targeting_key=key or None, attributes=attributes)


def exposed(server: Any, decision_id: str) -> list[str]:
    records = [r for r in server.records() if type(r).__name__ == "ExposureRecord" and r.decision_id == decision_id]
    return [key for record in records for key in record.keys]


def test_each_type_of_flag_is_returned_as_its_type(provider: OFREPProvider) -> None:
    on = about("u-1")
    assert provider.resolve_boolean_details("dark_mode", False, on).value is True
    assert provider.resolve_string_details("greeting", "Hi", on).value == "Good morning"
    assert provider.resolve_integer_details("page_size", 10, on).value == 24
    assert provider.resolve_float_details("full_price", 0.5, on).value == 1.0
    assert provider.resolve_object_details("theme", {}, on).value == {"colour": "brown", "leaves": 3}
    assert provider.resolve_object_details("markets", [], on).value == ["DE", "AT"]
    assert provider.resolve_object_details("checkout_layout", {}, on).value["layout"] in ("classic", "one_page")


def test_a_flag_with_a_float_in_one_variant_has_floats_in_all(provider: OFREPProvider, server: Any) -> None:
    values = {provider.resolve_float_details("discount", 0.0, about(f"u-{i}")).value for i in range(20)}
    assert values == {1.0, 0.9}
    assert any(
        '"value":1.0' in server.post(SINGLE + "discount", {"context": {"targetingKey": f"u-{i}"}}).text
        for i in range(20)
    )


def test_variants_without_payloads_return_their_keys(provider: OFREPProvider) -> None:
    got = provider.resolve_string_details("bare", "none", about("u-1"))
    assert got.value == got.variant
    assert got.value in ("left", "right")


def test_targeting_reads_the_context(provider: OFREPProvider) -> None:
    answer = provider.resolve_boolean_details("beta_search", False, about("u-1", country="DE"))
    assert (answer.value, answer.reason, answer.variant) == (True, Reason.TARGETING_MATCH, "on")
    answer = provider.resolve_boolean_details("beta_search", False, about("u-1", country="FR"))
    assert (answer.value, answer.reason, answer.variant) == (False, Reason.DEFAULT, "")
    assert answer.flag_metadata["reason"] == "audience"


def test_reasons_are_the_protocols_and_ours_is_in_the_metadata(provider: OFREPProvider) -> None:
    on = about("u-1")
    assert provider.resolve_boolean_details("dark_mode", False, on).reason == Reason.STATIC
    assert provider.resolve_object_details("checkout_layout", {}, on).reason == Reason.SPLIT
    paused = provider.resolve_boolean_details("resting", False, on)
    assert (paused.value, paused.reason, paused.flag_metadata["reason"]) == (False, Reason.DISABLED, "paused")
    forced = provider.resolve_object_details("checkout_layout", {}, about("qa-1"))
    assert (forced.variant, forced.reason, forced.flag_metadata["reason"]) == (
        "one_page",
        Reason.TARGETING_MATCH,
        "forced",
    )
    reasons = {
        provider.resolve_boolean_details("rollout", False, about(f"u-{i}")).flag_metadata["reason"] for i in range(40)
    }
    assert reasons == {"assigned", "coverage"}


def test_a_missing_flag_and_a_wrong_type_are_errors_of_the_client(provider: OFREPProvider) -> None:
    with pytest.raises(FlagNotFoundError, match="no_such"):
        provider.resolve_boolean_details("no_such", False, about("u-1"))
    with pytest.raises(TypeMismatchError):
        provider.resolve_boolean_details("greeting", False, about("u-1"))
    with pytest.raises(TypeMismatchError):
        provider.resolve_float_details("page_size", 0.5, about("u-1"))


def test_without_a_targeting_key_only_what_is_the_same_for_all_is_evaluated(provider: OFREPProvider) -> None:
    with pytest.raises(TargetingKeyMissingError):
        provider.resolve_object_details("checkout_layout", {}, about())
    with pytest.raises(TargetingKeyMissingError):
        provider.resolve_boolean_details("rollout", False, None)
    for settled in ("filtered", "bound", "after"):
        with pytest.raises(TargetingKeyMissingError):
            provider.resolve_boolean_details(settled, False, about(store="store-1"))
        assert provider.resolve_boolean_details(settled, False, about("u-1")).value is True
    assert provider.resolve_boolean_details("dark_mode", False, about()).value is True
    assert provider.resolve_boolean_details("dark_mode", False, None).value is True
    assert provider.resolve_boolean_details("beta_search", False, about(country="AT")).value is True
    assert provider.resolve_boolean_details("resting", False, about()).reason == Reason.DISABLED


def test_a_wrong_context_is_refused_as_such(provider: OFREPProvider) -> None:
    with pytest.raises(InvalidContextError, match="length"):
        provider.resolve_boolean_details("dark_mode", False, about("u" * 201))


@pytest.mark.parametrize(
    ("attributes", "warning"),
    [
        ({"channel": "fax"}, "context.channel: 'fax' is not a channel"),
        ({"channel": 3}, "context.channel: 3 is not a channel"),
        ({"userId": [7]}, r"context.userId: [7] is not a string"),
        ({"userId": True, "channel": "fax"}, r"context.userId: True is not a string"),
        ({"userId": 42}, ""),
    ],
)
def test_an_attribute_of_a_page_does_not_fail_its_flags(server: Any, attributes: dict[str, Any], warning: str) -> None:
    context = {"targetingKey": "page-1", **attributes}
    single = server.post(SINGLE + "bare", {"context": context})
    bulk = server.post(BULK, {"context": context})
    assert (single.status_code, bulk.status_code) == (200, 200)
    for flag in (single.json(), *bulk.json()["flags"]):
        assert "errorCode" not in flag
        assert flag["metadata"].get("warning", "").startswith(warning)
        assert ("warning" in flag["metadata"]) is bool(warning)


def test_a_user_id_that_is_a_whole_number_is_its_digits(server: Any) -> None:
    for index in range(20):
        numbers = {"targetingKey": f"visitor-{index}", "userId": 9000 + index}
        texts = {"targetingKey": f"visitor-{index}", "userId": str(9000 + index)}
        first, second = (server.post(SINGLE + "bare", {"context": context}).json() for context in (numbers, texts))
        assert first["variant"] == second["variant"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "PARSE_ERROR"),
        (b"", "PARSE_ERROR"),
        (b"[]", "PARSE_ERROR"),
        (b"[" * 200_000, "PARSE_ERROR"),
        (b'{"context": {"a": "\xff"}}', "PARSE_ERROR"),
        (b'{"context": 1}', "INVALID_CONTEXT"),
        (b'{"context": null}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": 7}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "u", "n": 18446744073709551616}}', "PARSE_ERROR"),
        (b'{"context": {"targetingKey": "' + b"u" * 60_000 + b'"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "' + b"u" * 900_000 + b'"}}', "PARSE_ERROR"),
        (b'{"context": {"targetingKey": "u", "userId": "' + b"u" * 201 + b'"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "u", "a": ' + b"[" * 31 + b"]" * 31 + b"}}", "PARSE_ERROR"),
    ],
)
def test_every_400_has_the_protocols_form(server: Any, body: bytes, code: str) -> None:
    before = len(server.records())
    single = server.post(SINGLE + "dark_mode", body)
    assert (single.status_code, single.headers["content-type"]) == (400, "application/json")
    assert single.json()["key"] == "dark_mode"
    assert single.json()["errorCode"] == code
    assert single.json()["errorDetails"]
    bulk = server.post(BULK, body)
    assert (bulk.status_code, bulk.json()["errorCode"]) == (400, code)
    assert len(server.records()) == before


def test_a_404_and_a_200_have_the_protocols_form(server: Any) -> None:
    missing = server.post(SINGLE + "no_such", {"context": {"targetingKey": "u"}})
    assert missing.status_code == 404
    assert (missing.json()["key"], missing.json()["errorCode"]) == ("no_such", "FLAG_NOT_FOUND")
    answer = server.post(SINGLE + "dark_mode", {"context": {"targetingKey": "u"}})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"key", "reason", "variant", "metadata", "value"}
    for key in ("null_value", "resting"):
        assert server.post(SINGLE + key, {"context": {"targetingKey": "u"}}).json().keys() == {
            "key",
            "reason",
            "variant",
            "metadata",
        }


def test_a_single_evaluation_is_logged_and_seen(server: Any) -> None:
    answer = server.post(SINGLE + "checkout_layout", {"context": {"targetingKey": "ofrep-1", "channel": "app"}}).json()
    decision_id = answer["metadata"]["decisionId"]
    [record] = [r for r in server.records() if type(r).__name__ == "DecisionRecord" and r.decision_id == decision_id]
    assert (record.customer, record.channel, record.plan) == ("ofrep-1", "app", answer["metadata"]["planVersion"])
    assert [(row.key, row.variant) for row in record.rows] == [("checkout_layout", answer["variant"])]
    assert exposed(server, decision_id) == ["checkout_layout"]


def test_one_customer_has_one_variant_by_the_protocol_and_by_decide(server: Any) -> None:
    for index in range(20):
        body = {"customer": {"user_id": f"same-{index}"}, "channel": "web", "experiments": ["checkout_layout"]}
        decided = server.post("/v1/decide", body).json()["experiments"]["checkout_layout"]["variant"]
        answer = server.post(SINGLE + "checkout_layout", {"context": {"targetingKey": f"same-{index}"}}).json()
        assert answer["variant"] == decided


def test_a_visitor_keeps_the_variant_at_login(server: Any) -> None:
    for index in range(20):
        visitor = {"targetingKey": f"v-{index}", "anonymousId": f"v-{index}"}
        member = {"targetingKey": f"m-{index}", "anonymousId": f"v-{index}"}
        before, after = (server.post(SINGLE + "bare", {"context": c}).json()["variant"] for c in (visitor, member))
        assert before == after


def test_a_bulk_evaluation_is_never_an_exposure_until_it_is_reported(server: Any) -> None:
    answer = server.post(BULK, {"context": {"targetingKey": "bulk-1"}})
    assert answer.status_code == 200
    flags = {flag["key"]: flag for flag in answer.json()["flags"]}
    assert {"dark_mode", "checkout_layout", "hero_policy", "resting"} <= flags.keys()
    assert "app_only" not in flags
    assert not any("errorCode" in flag for flag in flags.values())
    decision_id = flags["checkout_layout"]["metadata"]["decisionId"]
    assert exposed(server, decision_id) == []
    answer = server.post("/v1/exposures", {"decision_id": decision_id, "experiments": ["checkout_layout"]})
    assert answer.status_code == 202
    assert exposed(server, decision_id) == ["checkout_layout"]


def test_the_hook_reports_a_prefetched_flag_once(server: Any) -> None:
    bulk = server.post(BULK, {"context": {"targetingKey": "u-hook"}}).json()
    flag = next(flag for flag in bulk["flags"] if flag["key"] == "dark_mode")
    details = FlagEvaluationDetails(
        "dark_mode", value=flag["value"], variant=flag["variant"], flag_metadata=flag["metadata"]
    )
    hook = ExposureHook(server.base, timeout=60)
    sent = hook.report("dark_mode", details)
    assert sent is not None
    assert sent.result(60) is True
    assert hook.report("dark_mode", details) is None
    single = server.post(SINGLE + "dark_mode", {"context": {"targetingKey": "u-hook"}}).json()
    seen = FlagEvaluationDetails("dark_mode", True, single["variant"], flag_metadata=single["metadata"])
    assert hook.report("dark_mode", seen) is None  # it counted by itself
    hook.close()
    assert exposed(server, bulk["metadata"]["decisionId"]) == ["dark_mode"]


def test_a_bulk_evaluation_of_nobody_returns_what_it_can_and_why_not_the_rest(server: Any) -> None:
    for body in ({"context": {}}, {}):
        flags = {flag["key"]: flag for flag in server.post(BULK, body).json()["flags"]}
        assert flags["dark_mode"]["value"] is True
        for settled in ("checkout_layout", "filtered", "bound", "after"):
            assert flags[settled]["errorCode"] == "TARGETING_KEY_MISSING"


def test_an_unchanged_context_is_answered_304_and_leaves_nothing_in_the_log(server: Any) -> None:
    body = {"context": {"targetingKey": "etag-1", "country": "DE"}}
    first = server.post(BULK, body)
    etag = first.headers["etag"]
    before = len(server.records())
    again = server.post(BULK, body, if_none_match=etag)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert server.post(BULK, body, if_none_match=f'"x", W/{etag}').status_code == 304
    assert len(server.records()) == before
    for change in ({"country": "AT"}, {"country": "DE", "cart": 2}, {"country": "DE", "targetingKey": "etag-2"}):
        other = server.post(BULK, {"context": body["context"] | change}, if_none_match=etag)
        assert (other.status_code, other.headers["etag"] == etag) == (200, False)
    assert server.post(BULK, body).headers["etag"] == etag


@pytest.mark.skipif(not DOCUMENT.exists(), reason="the protocol's document is not beside this checkout")
def test_every_answer_fits_the_protocols_document(server: Any) -> None:
    document = json.loads(DOCUMENT.read_text())

    def fits(answer: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer)

    fits(server.post(SINGLE + "no_such", {"context": {"targetingKey": "u"}}).json(), "flagNotFound")
    fits(server.post(SINGLE + "bare", {"context": {}}).json(), "evaluationFailure")
    fits(server.post(BULK, b"{").json(), "bulkEvaluationFailure")
    for flag in server.post(BULK, {"context": {"targetingKey": "u"}}).json()["flags"]:
        fits(flag["key"], "key")
        fits(flag["metadata"], "metadata")
        if "value" not in flag:
            fits(flag, "codeDefaultFlag")


def test_the_client_is_asked_to_wait_when_a_key_has_used_up_its_rate(
    tmp_path: Path, serve: Any, shop: Path, redis_url: str
) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: [{name: slow, role: server, key: sk-slow-1, per_second: 1}]\n")
    with serve(tmp_path, redis_url, shop, {"COUNTERPOINT_API_KEYS": str(keys)}) as server:
        provider = OFREPProvider(server.base, headers_factory=lambda: {"Authorization": "Bearer sk-slow-1"})

        def ask_often() -> None:
            for _ in range(20):
                provider.resolve_boolean_details("dark_mode", False, about("u-1"))

        with pytest.raises(GeneralError, match="Rate limited, retry after: 1"):
            ask_often()
        stranger = OFREPProvider(server.base)
        with pytest.raises(Exception, match="unauthorized"):
            stranger.resolve_boolean_details("dark_mode", False, about("u-1"))


@pytest.mark.parametrize("path", ["/ofrep/v1/evaluate/flags/dark_mode", "/ofrep/v1/evaluate/flags"])
def test_a_body_of_another_type_or_too_large_is_refused_in_the_protocols_form(server: Any, path: str) -> None:
    big = b"{" + b" " * 1_000_001 + b"}"
    for content, kind, status in ((b"{}", "text/plain", 415), (big, "application/json", 413)):
        answer = server.post(path, content, content_type=kind)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        failure = answer.json()
        assert failure["errorCode"] == "PARSE_ERROR"
        assert failure["errorDetails"]
        assert failure.get("key") == ("dark_mode" if path.endswith("dark_mode") else None)
