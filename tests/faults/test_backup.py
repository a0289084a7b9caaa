"""A backup that is taken under load and restored elsewhere has every decision once, and the same reports."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import httpx
import msgspec
import pytest

from engine import embedded
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.report.experiment import analyze_experiment
from engine.backup.installation import back_up, check_backup, restore_backup
from engine.catalog import load_plan
from engine.erasure.listener import LogErasures
from engine.errors import BadInput
from engine.journal.log.collect import collect
from engine.settings import STORE_ADDRESS_FILE, Settings
from tests.faults.test_server_kills import Load
from tests.faults.test_up_kills import ROOT, ready, until, up
from tests.verbs import run_verb

SHOP = ROOT / "experiments"


def run(*words: str) -> str:
    done = run_verb(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def report(data: Path) -> bytes:
    question, metrics = build_question(load_plan(SHOP), "checkout_layout")
    return msgspec.json.encode(
        analyze_experiment(question, metrics, data / "log", as_of=datetime(2100, 1, 1, tzinfo=UTC))
    )


def logged(data: Path) -> dict[str, int]:
    """How often each decision is in the log: the most rows that it has for one key."""
    rows = duckdb.read_parquet(f"{data}/log/decisions/*/*.parquet").aggregate("decision_id, key, count(*) as n")
    return dict(rows.aggregate("decision_id, max(n)").fetchall())


def test_a_backup_under_load_is_restored_elsewhere(tmp_path: Path) -> None:
    data, first, last = tmp_path / "data", tmp_path / "first", tmp_path / "last"
    with up(data) as (engine, base):
        until(lambda: ready(base))
        loads = [Load(base, number) for number in range(2)]
        try:
            until(lambda: all(len(load.answered) > 100 for load in loads))
            before = [decision for load in loads for decision in list(load.answered)]
            run("backup", str(first), "--experiments", str(SHOP), "--data", str(data), "--json")
        finally:
            for load in loads:
                load.done.set()
            for load in loads:
                load.thread.join()
        assert httpx.get(f"{base}/healthz", timeout=20).status_code == 200
        answered = {decision for load in loads for decision in load.answered}
        settings = Settings(data=data, experiments=SHOP, redis=(data / STORE_ADDRESS_FILE).read_text())
        collect(settings, LogErasures(), drain=True)
        back_up(settings, last)
        engine.terminate()
        engine.wait(60)
    for backup in (first, last):
        restored = tmp_path / f"{backup.name}-restored"
        restore_backup(backup, restored, tmp_path / f"{backup.name}-yaml")
        assert (tmp_path / f"{backup.name}-yaml" / "channels.yaml").is_file()
        with embedded.running(restored / "store") as store:
            summary = collect(Settings(data=restored, redis=store.url), LogErasures(), drain=True)
        assert (summary.lost, summary.waiting) == (0, 0)
    found = logged(tmp_path / "first-restored")
    assert set(before) <= found.keys() <= answered
    assert set(found.values()) == set(logged(data).values()) == {1}
    assert logged(tmp_path / "last-restored") == logged(data)
    assert report(tmp_path / "last-restored") == report(data)
    with next(last.rglob("*.parquet")).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadInput, match="not as it was backed up"):
        check_backup(last)
