"""Bytes that an earlier release stored are read as before: records, segments, streams, snapshots, checkpoints.

Expected values name every field, so two fields of one type that change places in an array fail here.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from engine import keyspace
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideRequest
from engine.journal import records, traces
from engine.journal.log import commit
from engine.journal.records import (
    AnyRecord,
    CreativeRow,
    DecisionRecord,
    DecisionRow,
    EventRecord,
    ExposureRecord,
    QuarantineRecord,
    RewardRecord,
)
from engine.journal.spool import spool
from engine.journal.spool.frames import encode_frame
from engine.journal.stream import Mark, Progress, Reader
from engine.snapshots.header import parse_header, parse_snapshot
from engine.snapshots.publish import current_headers, current_snapshot, stored_headers, stored_snapshot
from policies import load_policy

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "stored_journal.json").read_text())
STORED: dict[str, bytes] = {name: bytes.fromhex(text) for name, text in VECTORS["records"].items()}
SPOOL: str = VECTORS["segment"]["spool"]
SELECTION: str = VECTORS["snapshot"]["key"]

TRACE = traces.Trace(
    now=1764000000.5,
    request=DecideRequest(
        customer=CustomerIds(user_id="u-1"), channel="web", placements=["hero"], context={"intent": "buy"}
    ),
    profile=Profile(id="u-1", unit="v-1", points=3.0),
    availability=Availability(counts={"exposure|*": [1.0, 2.0]}),
    degraded=True,
    tripped=["hero:web"],
    paused=["checkout"],
    release="0.9.0",
    probabilities={"hero": [0.25, 0.75]},
)


def _trace_of_nine_fields() -> bytes:
    """The trace as the earlier release wrote it, before `ramped` was added at its end."""
    blob = traces.encode_trace(TRACE)
    assert (blob[1], blob[-1]) == (0x9A, 0x80)  # an array of ten, whose last is an empty map
    return blob[:1] + b"\x99" + blob[2:-1]


EXPECTED: dict[str, AnyRecord] = {
    "decision": DecisionRecord(
        decision_id="d-1",
        time=1764000000.5,
        customer="u-1",
        device="phone-1",
        channel="web",
        plan="plan-1",
        rows=[
            DecisionRow(
                kind="experiment",
                key="checkout",
                variant="B",
                reason="assigned",
                propensity=0.5,
                crossover=True,
                version="2",
            ),
            DecisionRow(
                kind="offer",
                key="hero",
                variant="shoes",
                reason="policy",
                propensity=0.75,
                candidates=["shoes", "hats"],
                context={"tier": "gold", "visits": 4.0, "member": True, "city": None},
                policy="hero:web@7",
            ),
        ],
        trace=_trace_of_nine_fields(),
    ),
    "decision of a list": DecisionRecord(
        decision_id="d-3",
        time=1764000001.5,
        customer="u-1",
        device=None,
        channel="web",
        plan="plan-1",
        rows=[
            DecisionRow(
                kind="offer",
                key="row",
                variant="hats",
                reason="policy",
                propensity=0.5,
                candidates=["hats", "socks"],
                policy="row@7",
                position=2,
                joint=0.125,
            )
        ],
    ),
    "decision of a creative": DecisionRecord(
        decision_id="d-4",
        time=1764000001.75,
        customer="u-1",
        device=None,
        channel="web",
        plan="plan-1",
        rows=[
            DecisionRow(
                kind="offer",
                key="hero",
                variant="hats",
                reason="policy",
                propensity=0.125,
                candidates=["hats", "socks"],
                policy="hero@7",
                creative=CreativeRow(
                    key="photo", propensity=0.25, candidates=["photo", "text"], policy="hero#creatives@5"
                ),
            )
        ],
    ),
    "decision without a device, trace or row": DecisionRecord(
        decision_id="d-2", time=1764000001.0, customer="", device=None, channel="email", plan="plan-1", rows=[]
    ),
    "exposure": ExposureRecord(decision_id="d-1", time=1764000002.0, customer="u-1", keys=["checkout", "hero"]),
    "event": EventRecord(
        message_id="m-1",
        time=1764000003.0,
        received=1764000004.0,
        customer="u-1",
        event="Order Completed",
        decision_id="d-1",
        channel="web",
        revenue=49.5,
        properties='{"order_id":"é-1"}'.encode(),
    ),
    "event without decision, channel or revenue": EventRecord(
        message_id="m-2",
        time=1764000005.0,
        received=1764000006.0,
        customer="u-2",
        event="Page Viewed",
        decision_id=None,
        channel=None,
        revenue=None,
        properties=b"{}",
    ),
    "reward": RewardRecord(decision_id="d-1", key="hero", reward=49.5, time=1764000007.0),
    "quarantine": QuarantineRecord(time=1764000008.0, reason="unknown event", source="http", body=b"\x00\xff{"),
}
LENGTHENED = {"decision", "decision of a list"}
"""Stored before `position` and `joint`, or `creative`, were added at the end of a decision's rows."""
SHIPPED = {0: [(3, "event")], 1: [(1, "decision"), (2, "exposure"), (4, "reward")]}
"""By partition: sequence number and name of each record of the stored segment."""


def test_every_type_of_record_has_stored_bytes() -> None:
    assert {type(record) for record in EXPECTED.values()} == set(AnyRecord.__args__)
    assert EXPECTED.keys() == STORED.keys()


@pytest.mark.parametrize("name", STORED)
def test_a_stored_record_is_read_and_written_as_before(name: str) -> None:
    assert records.decode(STORED[name]) == EXPECTED[name]
    if name not in LENGTHENED:
        assert records.encode(EXPECTED[name]) == STORED[name]


def test_the_trace_of_a_stored_decision_is_read() -> None:
    decision = records.decode(STORED["decision"])
    assert isinstance(decision, DecisionRecord)
    assert traces.decode_trace(decision.trace) == TRACE


def test_a_stored_segment_is_read_frame_by_frame(tmp_path: Path) -> None:
    stored = bytes.fromhex(VECTORS["segment"]["bytes"])
    (tmp_path / VECTORS["segment"]["name"]).write_bytes(stored)
    frames, cursor = spool.read_frames(tmp_path, spool.START)
    assert cursor == spool.Cursor(1, len(stored))
    assert [(frame.seq, frame.partition, frame.payload) for frame in frames] == sorted(
        (seq, partition, STORED[name]) for partition, shipped in SHIPPED.items() for seq, name in shipped
    )
    assert b"".join(encode_frame(frame.seq, frame.partition, frame.payload) for frame in frames) == stored


def test_stored_stream_entries_are_read(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for partition, entries in VECTORS["stream_entries"].items():
            client.sadd(keyspace.PARTITIONS, partition)
            for fields in entries:
                entry = client.xadd(
                    f"cp:{{log{partition}}}", {name: bytes.fromhex(value) for name, value in fields.items()}
                )
                client.hset(f"cp:{{log{partition}}}:shipped", "last", entry)
        deliveries = Reader(client, "learner", Progress(), partitions=2).read()
    assert [(delivery.spool, delivery.broken) for delivery in deliveries] == [(SPOOL, b"")] * 2
    assert {delivery.partition: delivery.frames for delivery in deliveries} == {
        partition: [(seq, STORED[name]) for seq, name in shipped] for partition, shipped in SHIPPED.items()
    }


def test_a_stored_snapshot_is_read(redis_url: str) -> None:
    stored = VECTORS["snapshot"]
    value = bytes.fromhex(stored["value"])
    header = parse_header(stored["header"].encode())
    assert header.line() == stored["header"].encode()
    assert (header.version, header.time, header.learnt, header.meaning) == (7, 1764000000.25, 3.0, "0123456789ab")
    policy = load_policy(parse_snapshot(SELECTION, value).blob)
    assert (policy.kind, policy.arms, policy.seen) == ("beta_thompson", ("hats", "shoes"), 3)
    assert {name: array.tolist() for name, array in policy.statistics.items()} == {
        "count": [1.0, 2.0],
        "total": [1.0, 1.0],
    }
    with redis.Redis.from_url(redis_url) as client:
        client.hset("cp:{snapshots}", SELECTION, stored["header"])
        client.set(f"cp:{{snapshots}}:{SELECTION}", value)
        client.hset(
            f"cp:{{snapshots}}:{SELECTION}:kept",
            mapping={line: bytes.fromhex(text) for line, text in stored["kept"].items()},
        )
        assert current_headers(client) == {SELECTION: header}
        assert current_snapshot(client, SELECTION) == parse_snapshot(SELECTION, value)
        assert stored_headers(client, SELECTION) == [header]
        assert stored_snapshot(client, SELECTION, header) == parse_snapshot(SELECTION, value)


def test_a_stored_checkpoint_is_read_and_its_commit_finished(tmp_path: Path) -> None:
    """The stored commit was interrupted after its rename: the next process renames its file and removes the other."""
    (tmp_path / ".checkpoint.json").write_text(VECTORS["checkpoint"])
    hidden = tmp_path / "events" / "day=2025-11-24" / ".2-2.parquet.tmp"
    removed = tmp_path / "decisions" / "day=2025-11-24" / "1.parquet"
    for path in (hidden, removed):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"parquet")
    checkpoint = commit.recover_log(tmp_path)
    assert checkpoint.commit == 2
    assert checkpoint.progress == Progress(
        positions={0: "1764000000000-3", 1: "1764000001000-0"},
        marks={0: {SPOOL: Mark(seq=4, seen=1764000001000)}, 1: {}},
    )
    assert checkpoint.erased == {"aa11": 1764000009.5}
    assert hidden.with_name("2.parquet").read_bytes() == b"parquet"
    assert not hidden.exists()
    assert not removed.exists()
