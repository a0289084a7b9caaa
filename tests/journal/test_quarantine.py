"""What is in quarantine is listed and sent again once, whatever interrupts the replay."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.journal.log.quarantine import ReplaySummary, replay_quarantine
from engine.journal.records import DecisionRecord, DecisionRow, EventRecord, QuarantineRecord, encode
from engine.journal.spool.spool import Spool
from engine.settings import Settings
from tests.verbs import run_verb

NOON = 1_790_000_000.0
DECISION = DecisionRecord("d-1", NOON, "u-1", None, "web", "plan", [DecisionRow("offer", "hero", "tea", "policy", 0.5)])
EVENT = EventRecord("m-1", NOON, NOON, "u-1", "purchase", "d-9", "store", 12.5, b"{}")


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    settings = Settings(data=tmp_path, redis=redis_url, partitions=2)
    own = Spool(settings.spool)
    held = (
        ("unknown tag", encode(DECISION)),
        ("unknown decision: d-9", encode(EVENT)),
        ("unknown tag", b"\xc1 of a version to come"),
    )
    own.append(encode(EVENT), 0)
    own.append_many([(encode(QuarantineRecord(NOON, reason, "learner", body)), 0) for reason, body in held])
    own.close()
    drain(settings)
    return settings


def drain(settings: Settings) -> None:
    summary = collect(settings, LogErasures(), drain=True)
    assert (summary.lost, summary.waiting) == (0, 0)


def counts(settings: Settings) -> dict[str, int]:
    return {
        table: sum(pq.ParquetFile(path).metadata.num_rows for path in settings.log.glob(f"{table}/*/*.parquet"))
        for table in ("decisions", "events", "quarantine")
    }


def run(settings: Settings, *words: str) -> tuple[int, str]:
    done = run_verb("quarantine", *words, "--data", str(settings.data), "--json")
    return done.returncode, done.stdout


def test_records_are_listed_with_their_reason_and_sent_again_once(settings: Settings) -> None:
    code, text = run(settings, "list", "--reason", "unknown tag")
    assert code == 0
    assert sorted(str(row["kind"]) for row in json.loads(text)) == ["None", "decision"]
    assert "u-1" not in text
    assert run(settings, "replay", "--reason", "unknown decision") == (0, '{"replayed":1,"unreadable":0}\n')
    code, text = run(settings, "replay")
    assert (code, json.loads(text)) == (1, {"replayed": 1, "unreadable": 1})
    drain(settings)
    assert counts(settings) == {"decisions": 1, "events": 1, "quarantine": 1}  # the event was in the log already
    assert replay_quarantine(settings.log, settings.spool, 2) == ReplaySummary(0, 1)
    drain(settings)
    assert counts(settings) == {"decisions": 1, "events": 1, "quarantine": 1}


def test_a_replay_that_is_interrupted_is_finished_by_the_next_one(settings: Settings, tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    with pytest.raises(OSError, match="file"):
        replay_quarantine(settings.log, no_folder, 2)
    shutil.copytree(settings.log / ".replay", tmp_path / "copy")
    assert counts(settings)["quarantine"] == 1
    assert replay_quarantine(settings.log, settings.spool, 2) == ReplaySummary(0, 1)
    drain(settings)
    assert counts(settings) == {"decisions": 1, "events": 1, "quarantine": 1}
    # Killed after the spool was made and before its file was deleted: the same records come once more.
    shutil.copytree(tmp_path / "copy", settings.log / ".replay", dirs_exist_ok=True)
    replay_quarantine(settings.log, settings.spool, 2)
    drain(settings)
    assert counts(settings) == {"decisions": 1, "events": 1, "quarantine": 1}
