"""Story: a campaign's day as a batch that is killed twice: each person at most once, and nobody forgotten."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from engine.catalog.spec.offer import WEEKDAYS
from engine.journal.records import DecisionRecord, ExposureRecord
from tests.stories.test_due import WEEKLY, due, records, statements
from tests.verbs import run_verb

PEOPLE = [f"u-{n:03}" for n in range(120)]
DAILY = WEEKLY | {"schedule": {"days": list(WEEKDAYS), "at": ["00:00"]}}
SHOP = {
    "offers": {"coffee": {"purpose": "marketing", "caps": [{"count": 1, "per": "1d"}]}},
    "placements": {"letter": {"offers": ["coffee"]}},
    "channels": {"email": {"outbound": True}, "app": {"outbound": True, "capacity": "1000/h"}},
    "campaigns": [DAILY],
}


def start(shop: Any, out: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "engine", "due", "--channel", "email", "--out", str(out), *words]
    command += ["--data", str(shop.settings.data), "--redis", shop.settings.redis]
    command += ["--experiments", str(shop.settings.experiments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(process: "subprocess.Popen[str]", folder: Path, parts: int) -> None:
    """SIGKILL it once so many parts are there, wherever it is then."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.parquet"))) < parts and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.communicate()


@pytest.mark.timeout(180)
def test_a_batch_that_is_killed_twice_has_each_person_once(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP, workers=1)
    batch = [one for user in PEOPLE for one in statements(user)]
    assert shop.client().post("/v1/events", json={"batch": batch}).status_code == 200
    out = tmp_path / "email.parquet"
    for parts in (1, 3):
        kill_after(start(shop, out, "--part", "4"), tmp_path / "email.parquet.parts", parts)
        assert not out.exists()
    done = start(shop, out)
    _, progress = done.communicate(timeout=60)
    assert done.returncode == 0, progress

    written = pq.read_table(out).to_pylist()
    by_app = [item["customer"] for item in due(shop, "app")]
    assert due(shop, "email") == []
    log = records(shop)
    decisions = {one.decision_id: one for one in log if isinstance(one, DecisionRecord)}
    drawn = {one.customer: one.rows[0].variant for one in decisions.values() if one.rows[0].key == "weekly"}
    assert sorted(row["customer"] for row in written) == sorted(n for n, arm in drawn.items() if arm == "email@00:00")
    assert sorted(by_app) == sorted(name for name, arm in drawn.items() if arm == "app@00:00")
    assert len(drawn) == len(PEOPLE)
    draw = next(one.decision_id for one in decisions.values() if one.rows[0].key == "weekly")
    words = ["explain", draw, "--data", str(shop.settings.data), "--redis", shop.settings.redis, "--json"]
    replayed = run_verb(*words, check=True)
    assert msgspec.json.decode(replayed.stdout)["differences"] == []
    exposed = {one.decision_id for one in log if isinstance(one, ExposureRecord)}
    sent = {row["decision_id"] for row in written}
    assert sent <= exposed  # a confirmation is the exposure
    assert len(exposed) == len(PEOPLE) + len(sent)
    assert {(row["offer"], row["user_id"]) for row in written} == {("coffee", row["customer"]) for row in written}
