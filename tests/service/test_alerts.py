"""Alert rules and the board name metrics that a server has, and each alert has its page."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = ("_bucket", "_count", "_sum")


def test_alerts_and_board_name_metrics_that_exist_and_pages_that_exist(server: Any) -> None:
    assert server.post("/v1/decide", {"customer": {"user_id": "u-1"}, "channel": "web"}).status_code == 200
    lines = server.get("/metrics").text.splitlines()
    known = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    known |= {name + suffix for name in known for suffix in SUFFIXES}
    [group] = msgspec.yaml.decode((ROOT / "deploy/alerts.yaml").read_bytes())["groups"]
    board = json.loads((ROOT / "deploy/grafana/counterpoint.json").read_text())
    asked = [rule["expr"] for rule in group["rules"]]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for text in asked for name in re.findall(r"counterpoint_\w+", text)}
    assert named <= known
    index = (ROOT / "docs/how-to/runbook/README.md").read_text()
    for rule in group["rules"]:
        page = ROOT / rule["annotations"]["runbook"]
        assert f"`{rule['alert']}`" in page.read_text()
        assert f"`{rule['alert']}` | [" in index
        assert f"({page.name})" in index


def test_the_streams_and_the_spool_are_measured(server: Any) -> None:
    asked = {"customer": {"user_id": "u-1"}, "channel": "web", "experiments": "*"}
    assert server.post("/v1/decide", asked).status_code == 200
    samples = {line.rpartition(" ")[0] for line in server.get("/metrics").text.splitlines()}
    for name in ("spool_bytes", "spool_oldest_seconds", "spool_free_bytes", "loop_lag_seconds", "snapshot_age_seconds"):
        assert f"counterpoint_{name}" in samples
    assert 'counterpoint_assignments_total{reason="assigned"}' in samples
