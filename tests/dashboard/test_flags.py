"""Pages of flags: the report of a rule, what is stale, and who erased or exported a customer by API or command."""

import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog.check.load import load_specs
from engine.catalog.plan.compile import compile_plan
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.processes import counterpoint_command
from engine.settings import Settings
from engine.vocabulary import DAY
from tests.dashboard.test_pages import ADMIN, KEYS, Client, open_as
from tests.dashboard.test_results import wait_for
from tests.service.conftest import serving

SHOP = Path(__file__).resolve().parents[2] / "experiments"
FLAG = {
    "key": "checkout.v2",
    "kind": "flag",
    "type": "string",
    "variants": [{"key": "old", "value": "classic"}, {"key": "new", "value": "one page"}],
    "rules": [
        {"audience": {"employee": True}, "variant": "new"},
        {
            "key": "de",
            "audience": {"country": "DE"},
            "variants": [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}],
            "metrics": {"primary": "conversion"},
        },
    ],
    "default": "old",
}
RULE = "/experiments/checkout.v2%23de"
CUSTOMERS = 60


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """The log of a flag with an experiment among its rules, and of a list of offers."""
    experiments = shutil.copytree(SHOP, tmp_path / "experiments")
    (experiments / "checkout.v2.yaml").write_text(yaml.safe_dump(FLAG))
    policy = yaml.safe_load((experiments / "home_hero.yaml").read_text())
    (experiments / "home_hero.yaml").write_text(yaml.safe_dump(policy | {"count": 3, "claims": "skip"}))
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": KEYS}))
    with serving(tmp_path, redis_url, experiments) as server:
        for number in range(CUSTOMERS):
            customer = {"user_id": f"u-{number}"}
            asked = {
                "customer": customer,
                "channel": "web",
                "experiments": ["checkout.v2"],
                "placements": ["home_hero"],
            }
            decision = server.post("/v1/decide", asked | {"context": {"country": "DE"}}).json()["decision_id"]
            order = customer | {"type": "track", "event": "purchase", "message_id": f"p{number}", "channel": "web"}
            order |= {"decision_id": decision, "properties": {"revenue": 10.0, "order_id": f"o{number}"}}
            if number % 3 == 0:
                assert server.post("/v1/events", {"batch": [order]}).is_success
        assert httpx.delete(f"{server.base}/v1/profiles/u-1", timeout=60).is_success
        assert server.get("/v1/profiles/u-2/export").is_success
    served = Settings(experiments=experiments, data=tmp_path / "data", redis=redis_url, api_keys=keys)
    for verb in (("erase", "u-3"), ("export", "u-4")):
        place = ("--data", str(served.data), "--redis", redis_url)
        subprocess.run([*counterpoint_command(*verb), *place], check=True, capture_output=True)
    collect(served, LogErasures(), drain=True)
    return served


def table(client: Client, path: str) -> Any:
    return client.get(path).json()


def test_a_rule_has_a_page_and_who_deleted_or_exported_is_in_the_audit_log(settings: Settings) -> None:
    with open_as(settings, ADMIN) as client:
        page = wait_for(client, RULE, lambda text: "Effect over time" in text).text
        assert "checkout.v2#de" in page
        assert "The switch is that of the flag checkout.v2" in page
        assert f'href="{RULE}?table=metrics&amp;format=csv"' in page
        shown = table(client, f"{RULE}?table=metrics&format=json")
        question, metrics = build_question(compile_plan(load_specs(settings.experiments)), "checkout.v2#de")
        report = analyze_experiment(question, metrics, settings.log)
        assert [row["control_mean"] for row in shown] == [row.mean["old"] for row in report.metrics]
        listed = {row["experiment"]: row for row in table(client, "/experiments?format=json")}
        assert listed["checkout.v2#de"]["units"] == sum(report.units.values()) > 50
        assert "A rule with metrics has a report of its own" in listed["checkout.v2"]["why"]
        assert f'href="{RULE}"' in client.get("/experiments/checkout.v2").text
        positions = wait_for(client, "/bandits/home_hero?table=positions&format=json", lambda text: text != "[]")
        assert [row["position"] for row in positions.json()] == [1, 2, 3]
        wait_for(client, "/audit?table=actions&format=json", lambda text: text.count("customer e") == 4)
        actions = [(row["what"], row["who"]) for row in table(client, "/audit?table=actions&format=json")]
        assert sum(what == "customer erased" for what, _ in actions) == 2
        assert sum(what == "customer exported" for what, _ in actions) == 2
        assert sum(who.endswith(", command line") for _, who in actions) == 2
        form = {"key": "checkout.v2#de", "do": "pause"}
        token = client.get("/").text.partition('data-token="')[2].partition('"')[0]
        assert client.post("/switch", data=form | {"token": token}).status_code == 303
        assert "paused" in client.get("/experiments/checkout.v2").text


def test_a_flag_that_gave_one_value_for_long_is_called_stale(settings: Settings) -> None:
    for path in (settings.log / "decisions").rglob("*.parquet"):  # as if all of it had happened long ago
        rows = pq.read_table(path)
        old = pa.array([int((time.time() - 200 * DAY) * 1e6)] * len(rows), rows["time"].type)
        variants = pa.array(["old" if key == "checkout.v2" else None for key in rows["key"].to_pylist()])
        rows = rows.set_column(rows.schema.get_field_index("time"), "time", old)
        pq.write_table(rows.set_column(rows.schema.get_field_index("variant"), "variant", variants), path)
    day = datetime.fromtimestamp(time.time() - 200 * DAY, UTC).date().isoformat()
    with open_as(settings, ADMIN) as client:
        page = wait_for(client, "/experiments/checkout.v2", lambda text: "Stale" in text)
        assert f"nobody asked for it since {day}; take it out of the code" in page.text
        checks = {row["experiment"]: row["checks"] for row in table(client, "/experiments?format=json")}
        assert "nobody asked for it" in checks["checkout.v2"]
