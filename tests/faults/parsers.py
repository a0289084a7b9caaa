"""Hostile bytes for everything that parses them: YAML, requests, records, streams and what is in the store.

    python -m tests.faults.parsers [--minutes 10] [--seed 1] [PARSER ...]

Each parser runs on mutations of good input, drawn by the seed; `tests.faults.atheris_parsers` lets coverage lead them.
A parser may refuse with its documented errors; any other exception ends the run with its input, and with exit code 1.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.catalog.check.load import build_specs, read_folder
from engine.catalog.plan.compile import compile_plan
from engine.customers.model.event_batch import decode_batch
from engine.customers.redis.stored_entry import decode_entry
from engine.errors import BadInput, CatalogError, UnreadableValueError
from engine.journal import records, stream
from engine.journal.log import parquet
from engine.journal.log.collect import UncommittedRows
from engine.journal.spool.frames import decode_frames, encode_frame
from engine.journal.stream import Delivery
from engine.learn.merge_streams import StreamMerger
from engine.service.decide_body import decode_context, decode_decide

SHOP = Path(__file__).resolve().parents[2] / "experiments"
VECTORS = Path(__file__).resolve().parents[1] / "vectors"
_TRACK = (
    b'{"type": "track", "message_id": "m-1", "user_id": "u", "event": "purchase", "properties": {"revenue": 1}, '
    b'"timestamp": "2026-11-30T10:00:00Z", "sent_at": "2026-11-30T10:00:01+01:00"}'
)
_IDENTIFY = (
    b'{"type": "identify", "message_id": "m-2", "user_id": "u", "traits": {"email": "a@b.de"}, "channel": "web"}'
)
REQUESTS = (
    b'{"customer": {"user_id": "u-1", "email": "a@b.de"}, "channel": "web", "placements": ["hero"], "expose": true}',
    b'{"customer": {"anonymous_id": "a-1"}, "channel": "app", "experiments": "*", "context": {"cart": [1, 2.5, null]}}',
    b'{"context": {"targetingKey": "u-1", "country": "DE", "loyalty": {"tier": 2}}}',
    b'{"batch": [%b, %b]}' % (_TRACK, _IDENTIFY),
    b'{"batch": [{"type": "alias", "message_id": "m-3", "user_id": "u", "previous_id": "v"}]}',
)
HOSTILE: list[object] = [
    *(None, True, -1, 0, 2**31, 2**63 - 1, -(2**63), 1e308, float("nan"), float("inf"), -0.0, 1e17, -62_135_596_801.0),
    *(
        "",
        "\x00",
        "\ud7ff",
        "a\r\nb\x1b[31m",
        "💥" * 40,
        "x" * 3000,
        [],
        {},
        [[]],
        {"": None},
        b"",
        b"\xff\xfe",
        "9999-12-31",
    ),
]
Parse = Callable[[bytes], object]


class Parser(NamedTuple):
    """A parser, the errors with which it may refuse, and samples of good input."""

    parse: Parse
    refuses: tuple[type[Exception], ...]
    samples: Sequence[bytes]
    mutate: Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Flip, insert, delete, repeat or splice bytes, one to eight times."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(made) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(made):
            made[at] = rng.choice((0, 255, 128, made[at] ^ 1 << rng.randrange(8)))
        elif kind == 1:
            made[at:at] = rng.randbytes(rng.randint(1, 4))
        elif kind == 2:
            del made[at : at + rng.randint(1, 16)]
        elif kind == 3:
            made[at:at] = made[max(0, at - rng.randint(1, 40)) : at] * rng.randint(1, 4)
        elif kind == 4:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            made[at : at + rng.randint(0, 20)] = other[begin : begin + rng.randint(1, 40)]
        else:
            made[at:at] = rng.choice(TOKENS)
    return bytes(made)


TOKENS = (
    *(b"{", b"[", b"]", b"}", b'"', b"\\ud83d", b"null", b"1e999", b"-0", b"99999999999999999999", b"\r\n", b"\x1b[2J"),
    *(
        b"&a [*a]",
        b"!!python/object",
        b"<<: *a",
        b": ",
        b"- ",
        b"? ",
        b"{$regex: '(a+)+$'}",
        b"$in: 3",
        b"#",
        b"\xc3\x28",
        b"%00",
    ),
)


def mutate_msgpack(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Replace values within a record by hostile ones, and sometimes bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data, others)
    value = msgspec.msgpack.decode(data)
    for _ in range(rng.randint(1, 3)):
        value = _replace_within(rng, value)
    return msgspec.msgpack.encode(value)


def _replace_within(rng: random.Random, value: object) -> object:
    """The value with one of its parts, or itself, replaced."""
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], _replace_within(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        return {**value, name: _replace_within(rng, value[name])}
    return rng.choice(HOSTILE)


def parsers(place: Path) -> dict[str, Parser]:
    """The parsers by name; the collector's rows belong to a log in `place`."""
    files, _ = read_folder(SHOP, place / "plans")
    texts = sorted(name for name in files if name.endswith(".yaml"))

    def parse_yaml(data: bytes) -> object:
        name = next((name for name in texts if files[name] == data), texts[sum(data[:64]) % len(texts)])
        return compile_plan(build_specs("shop", {**files, name: data}))

    def parse_request(data: bytes) -> object:
        found: list[object] = []
        for decode in (decode_decide, decode_context, lambda body: list(decode_batch(body))):
            try:
                found.append(decode(data))
            except BadInput as error:
                str(error).encode()
        return found

    def collect(data: bytes) -> object:
        rows = UncommittedRows(place / "log")
        rows.take(Delivery(0, "1790000000000-0", "spool", [(1, data)]))
        for (table, _), found in rows._rows.items():
            parquet.as_columns(table, found)
        records.decode(data)
        return rows

    def merge(data: bytes) -> object:
        reader = stream.Reader(None, "fuzz", stream.Progress({0: "0-0"}, {}), partitions=1)  # type: ignore[arg-type]
        fields = {b"s": b"spool", b"p": b"0", b"f": data}
        if data[:1] == b"p":
            fields[b"p"] = data[:20]
        taken = reader._take(0, "1790000000000-1", fields)
        merger = StreamMerger(stream.Progress(), {})
        merger.add([taken], 1)
        return merger.take(), list(decode_frames(data))

    stored = json.loads((VECTORS / "stored_journal.json").read_text())["records"]
    encoded = [bytes.fromhex(text) for text in stored.values()]
    entries = json.loads((VECTORS / "stored_customers.json").read_text())["entries"]
    framed = [b"".join(encode_frame(n, 0, one) for n, one in enumerate(encoded, 1)), encode_frame(1, 3, encoded[0])]
    profiles = [bytes.fromhex(text) for text in entries.values() if isinstance(text, str)]
    broken = (msgspec.MsgspecError, ValueError)
    return {
        "yaml": Parser(parse_yaml, (CatalogError,), [files[name] for name in texts], mutate_bytes),
        "request": Parser(parse_request, (), REQUESTS, mutate_bytes),
        "record": Parser(collect, broken, encoded, mutate_msgpack),
        "stream": Parser(merge, (), framed, mutate_bytes),
        "profile": Parser(decode_entry, (UnreadableValueError,), profiles, mutate_bytes),
    }


def run(parser: Parser, rng: random.Random, until: Callable[[int], bool]) -> tuple[int, int]:
    """Run mutations while `until(count)` is false; returns how many ran, and how many were refused.

    Raises:
        AssertionError: with the input, at an exception that is no documented refusal.
    """
    count = refused = 0
    pool = list(parser.samples)
    while not until(count):
        data = parser.mutate(rng, rng.choice(pool), parser.samples)
        count += 1
        try:
            parser.parse(data)
        except parser.refuses:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\ninput: {data!r}") from error
        else:
            if rng.random() < 0.01:
                pool[len(parser.samples) :] = [*pool[len(parser.samples) :], data][-200:]
    return count, refused


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="PARSER")
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        known = parsers(Path(place))
        names = given.names or list(known)
        for name in names:
            ends = time.monotonic() + given.minutes * 60 / len(names)
            count, refused = run(known[name], random.Random(given.seed), lambda _, ends=ends: time.monotonic() > ends)
            sys.stdout.write(f"{name:<10}{count:>12,} inputs, {refused:,} refused, no other exception\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
