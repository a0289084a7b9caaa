"""What the dashboard computes: the splits that a viewer may ask for, failures, and what a chart says of intervals."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest
import yaml

from engine.analysis import analyze_experiment
from engine.analysis.design.methods import Method
from engine.analysis.design.question_from_plan import build_question
from engine.catalog.check.load import load_specs
from engine.catalog.plan.compile import compile_plan
from engine.dashboard.board.compute import HistoryPoint
from engine.dashboard.charts.lines import LineChart
from engine.dashboard.views.experiment import report_parts
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.settings import Settings
from tests.dashboard.test_pages import VIEWER, Client, open_as
from tests.service.conftest import serving

SHOP = Path(__file__).resolve().parents[2] / "experiments"
METHODS: dict[Method, str] = {
    "sequential": "that holds at every look",
    "group_sequential": "that holds at the planned looks",
    "fixed": "of a single look",
    "bayesian": "of a single look",
}
KEYS = {"keys": [{"name": "vera", "role": "server", "key": VIEWER}]}
CUSTOMERS = 60


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """A log with an experiment at a single look."""
    experiments = shutil.copytree(SHOP, tmp_path / "experiments")
    spec = yaml.safe_load((experiments / "checkout_layout.yaml").read_text())
    del spec["layer"], spec["force"]
    one = spec | {"key": "by_fixed", "analysis": {"method": "fixed"}}
    (experiments / "by_fixed.yaml").write_text(yaml.safe_dump(one))
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump(KEYS))
    with serving(tmp_path, redis_url, experiments) as server:
        for number in range(CUSTOMERS):
            customer = {"user_id": f"u-{number}"}
            asked = {"customer": customer, "channel": "web", "experiments": ["by_fixed"]}
            decision = server.post("/v1/decide", asked).json()["decision_id"]
            event = customer | {"type": "track", "event": "purchase", "decision_id": decision, "channel": "web"}
            if number % 3 == 0:
                order = {"revenue": 10.0 + number % 7, "order_id": f"o{number}"}
                sent = event | {"message_id": f"p{number}", "properties": order}
                assert server.post("/v1/events", {"batch": [sent]}).is_success
    served = Settings(experiments=experiments, data=tmp_path / "data", redis=redis_url, api_keys=keys)
    collect(served, LogErasures(), drain=True)
    return served


def wait_for(client: Client, path: str, has: Callable[[str], bool]) -> httpx.Response:
    deadline = time.monotonic() + 30
    while not has((answer := client.get(path)).text):
        assert time.monotonic() < deadline, answer.text.partition("<main")[2]
        time.sleep(0.2)
    return answer


def test_a_failure_is_tried_again_and_a_split_is_of_a_known_trait(settings: Settings) -> None:
    files = {path: path.read_bytes() for path in settings.log.rglob("*.parquet")}
    assert files
    for path in files:
        path.write_bytes(b"damaged")
    with open_as(settings, VIEWER) as client:
        page = "/experiments/by_fixed"
        wait_for(client, page, lambda text: "the data cannot be read" in text)
        for path, data in files.items():
            path.write_bytes(data)
        shown = wait_for(client, page, lambda text: "Effect over time" in text).text
        assert re.search(r">[\d.]+ → [\d.]+ EUR<", shown)
        for unknown in ("nonsense", "channel ", "user_id", "Łódź", "x" * 2000):
            refused = client.get(page, params={"by": unknown})
            assert refused.status_code == 404
            assert "the traits are channel" in refused.text
        for known in ("", "channel"):
            assert client.get(page, params={"by": known}).status_code == 200
    question, metrics = build_question(compile_plan(load_specs(settings.experiments)), "by_fixed")
    found = analyze_experiment(question, metrics, settings.log)
    assert found.recommendation.why.startswith("0 of at least ")
    for method, says in METHODS.items():
        report = msgspec.structs.replace(found, method=method)
        past = HistoryPoint(at=time.time() - 3_600, report=report)
        chart = report_parts(report, None, [past])["effect"]
        assert isinstance(chart, LineChart)
        assert chart.label == f"Effect on conversion over time, with the interval {says}"
