"""OpenFeature's evaluation scenarios in Node, by its own SDKs and OFREP providers for servers and for pages."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NODE = Path(__file__).resolve().parents[1] / "node"
PACKAGES = Path(__file__).resolve().parents[2] / ".cache/openfeature"
FLAGS = {
    "boolean-flag": ("boolean", [{"key": "on"}, {"key": "off"}], "on"),
    "string-flag": ("string", [{"key": "greeting", "value": "hi"}, {"key": "parting", "value": "bye"}], "greeting"),
    "integer-flag": ("number", [{"key": "one", "value": 1}, {"key": "ten", "value": 10}], "ten"),
    "float-flag": ("number", [{"key": "tenth", "value": 0.1}, {"key": "half", "value": 0.5}], "half"),
    "object-flag": (
        "object",
        [
            {"key": "empty", "value": {}},
            {
                "key": "template",
                "value": {"showImages": True, "title": "Check out these pics!", "imagesPerPage": 100},
            },
        ],
        "template",
    ),
    "wrong-flag": ("string", [{"key": "one", "value": "uno"}, {"key": "two", "value": "dos"}], "one"),
}


@pytest.fixture(scope="module")
def answers(valkey: Any, shop: Path, serve: Any, require_tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    require_tools("node", str(PACKAGES / "node_modules/@openfeature/web-sdk"))
    place = tmp_path_factory.mktemp("openfeature")
    folder = place / "experiments"
    shutil.copytree(shop, folder)
    specs = [
        {"key": key, "kind": "flag", "type": kind, "variants": variants, "default": default}
        for key, (kind, variants, default) in FLAGS.items()
    ]
    inside = {"fn": "Sulisław", "ln": "Świętopełk", "age": 29, "customer": False}
    specs += [
        {
            "key": "context-aware",
            "kind": "flag",
            "type": "string",
            "variants": [{"key": "internal", "value": "INTERNAL"}, {"key": "external", "value": "EXTERNAL"}],
            "rules": [{"key": "insiders", "audience": inside, "variant": "internal"}],
            "default": "external",
        },
        {"key": "uncovered", "coverage": 0.0, "variants": [{"key": "a"}, {"key": "b"}]},
        {
            "key": "paused-flag",
            "kind": "flag",
            "type": "boolean",
            "status": "paused",
            "variants": [{"key": "off"}],
            "default": "off",
        },
    ]
    for spec in specs:
        (folder / f"{spec['key']}.yaml").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    with serve(place, valkey.url, folder, {"COUNTERPOINT_STORE_TIMEOUT": "5"}) as server:
        command = ["node", str(NODE / "scenarios.mjs"), server.base, str(PACKAGES)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("side", ["server", "web"])
def test_every_flag_has_its_value_variant_and_reason(answers: Any, side: str) -> None:
    found = answers[side]
    expected = {
        "boolean-flag": (True, "on", "STATIC"),
        "string-flag": ("hi", "greeting", "STATIC"),
        "integer-flag": (10, "ten", "STATIC"),
        "float-flag": (0.5, "half", "STATIC"),
        "object-flag": (
            {"showImages": True, "title": "Check out these pics!", "imagesPerPage": 100},
            "template",
            "STATIC",
        ),
        "context-aware": ("INTERNAL", "internal", "TARGETING_MATCH"),
        "paused-flag": (False, "off", "DISABLED"),
    }
    assert {key: (found[key]["value"], found[key]["variant"], found[key]["reason"]) for key in expected} == expected
    assert not any("errorCode" in found[key] for key in expected)


@pytest.mark.parametrize("side", ["server", "web"])
def test_errors_are_the_protocols_and_give_the_codes_default(answers: Any, side: str) -> None:
    found = answers[side]
    wrong, missing = found["wrong-flag"], found["missing-flag"]
    assert (wrong["value"], wrong["reason"], wrong["errorCode"]) == (13, "ERROR", "TYPE_MISMATCH")
    assert (missing["value"], missing["reason"], missing["errorCode"]) == ("uh-oh", "ERROR", "FLAG_NOT_FOUND")
    assert found["uncovered"]["value"] == "as-coded"
    if side == "web":  # the provider for servers, 0.1.3, takes an answer without a value for one of another type
        assert (found["uncovered"]["reason"], "errorCode" in found["uncovered"]) == ("DEFAULT", False)


def test_the_hook_reports_each_flag_that_the_page_used_once(answers: Any) -> None:
    reported = [(one["decision_id"], *one["experiments"]) for one in answers["reports"]]
    assert {one["status"] for one in answers["reports"]} == {202}
    assert len(reported) == len(set(reported))
    assert {key for _, key in reported} == {*FLAGS, "context-aware", "paused-flag"} - {"wrong-flag"}


def test_the_kill_switch_reaches_an_open_page_that_does_not_poll(answers: Any) -> None:
    assert (answers["before"], answers["after"]) == ("STATIC", "DISABLED")
