"""An erasure that an earlier release announced and did not finish is read and completed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import redis

from engine.customers.store import ProfileStore
from engine.erasure.announcements import read_announcements
from engine.erasure.profiles import SECOND_SWEEP_SECONDS, finish_erasures
from engine.hashing import identifier_digest
from engine.journal import stream

STORED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "stored_erasure.json").read_text())
DIGESTS = {identifier_digest(name) for name in ("u-secret", "a-secret", "secret@x.de")}


def test_stored_announcements_are_read(redis_url: str) -> None:
    with stream.connect_stream(redis_url) as client:
        for fields in STORED["announcements"]:
            client.xadd("cp:{erased}", fields)
        announced, position = read_announcements(client, stream.BEGINNING)
        assert announced == dict.fromkeys(DIGESTS, float(STORED["announcements"][0]["at"]))
        assert read_announcements(client, position) == ({}, position)


def test_a_stored_note_is_completed(redis_url: str) -> None:
    """The store as it was when the old process died after the note and before the first tombstone."""
    with redis.Redis.from_url(redis_url) as client:
        for key, value in STORED["profiles"].items():
            client.set(key, bytes.fromhex(value))
        (note,) = STORED["note"].items()
        client.hset("cp:{erased}:begun", note[0], bytes.fromhex(note[1]))

        async def complete() -> list[int]:
            store = ProfileStore.open(redis_url, timeout=10)
            due = float(note[0].split()[0]) + SECOND_SWEEP_SECONDS
            completed = [await finish_erasures(store, due + n * SECOND_SWEEP_SECONDS) for n in range(3)]
            await store.close()
            return completed

        assert asyncio.run(complete()) == [1, 1, 0]  # resumed, and swept again
        left = {key: client.get(key) for key in client.scan_iter() if client.type(key) == b"string"}
        assert set(left.values()) == {b"T"}
        assert len(left) == 3
        assert not client.exists("cp:{erased}:begun")
    with stream.connect_stream(redis_url) as client:
        announced, _ = read_announcements(client, stream.BEGINNING)
        assert announced.keys() == DIGESTS
