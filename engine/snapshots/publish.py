"""Publishes the learner's results to the decision servers: snapshots, open breakers, shadow prices and figures.

A snapshot replaces the current one only if its version is higher, in one script, so a learner that lost its lock cannot
undo its successor's work. `STORED_VERSIONS` stay for a rollback, the older the sparser.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from engine import keyspace
from engine.errors import BadInput, StoreUnavailable
from engine.journal.stream import StreamClient
from engine.keyspace import LEARNER_FIGURES, RAMP_POSITIONS, SHADOW_PRICES, SNAPSHOT_HEADERS, TRIPPED_BREAKERS
from engine.snapshots.header import Header, StoredSnapshot, parse_header, parse_snapshot

STORED_VERSIONS = 20
"""The number of versions of a policy that stay in the store; `publish.lua` chooses which one to delete beyond that."""
_log = structlog.get_logger(__name__)
_PUBLISH = Path(__file__).with_name("publish.lua").read_text(encoding="utf-8")


def publish_snapshot(client: StreamClient, key: str, header: Header, blob: bytes) -> int:
    """Make a snapshot the current one of selection `key` unless a newer one is; returns the current version."""
    names = (SNAPSHOT_HEADERS, keyspace.snapshot(key), keyspace.stored_snapshots(key))
    line = header.line()
    return int(client.eval(_PUBLISH, 3, *names, key, header.version, line, line + b"\n" + blob, STORED_VERSIONS))


def current_headers(client: StreamClient) -> dict[str, Header]:
    """The headers of all current snapshots, by selection; one that was altered counts as missing."""
    headers: dict[str, Header] = {}
    for key, line in client.hgetall(SNAPSHOT_HEADERS).items():
        try:
            headers[as_bytes(key).decode()] = parse_header(as_bytes(line))
        except ValueError as error:
            report_altered(repr(key), as_bytes(line), str(error))
    return headers


def current_snapshot(client: StreamClient, key: str) -> StoredSnapshot | None:
    """The current snapshot of a selection; None before the first.

    Raises:
        BadInput: if it is damaged.
    """
    value = client.get(keyspace.snapshot(key))
    return None if value is None else parse_snapshot(key, as_bytes(value))


def stored_headers(client: StreamClient, key: str) -> list[Header]:
    """The headers of the snapshots that a rollback can choose from, the newest (the current one) first."""
    found = []
    for line in client.hkeys(keyspace.stored_snapshots(key)):
        try:
            found.append(parse_header(as_bytes(line)))
        except ValueError as error:
            report_altered(key, as_bytes(line), str(error))
    return sorted(found, reverse=True)


def stored_snapshot(client: StreamClient, key: str, header: Header) -> StoredSnapshot:
    """The snapshot with this header, current or earlier.

    Raises:
        BadInput: if it is no longer stored, or damaged.
    """
    value = client.hget(keyspace.stored_snapshots(key), header.line())
    if value is None:
        raise BadInput(
            f"{key}@{header.version} is no longer stored; choose a version that `counterpoint policy versions` lists"
        )
    return parse_snapshot(key, as_bytes(value))


@functools.lru_cache(maxsize=256)
def report_altered(key: str, line: bytes, error: str) -> None:
    """Log an altered snapshot, given its header line, only once, since it is read at every step."""
    _log.error(
        "a stored snapshot was altered; roll back to another version", key=key, header=repr(line[:80]), error=error
    )


def open_breaker(client: StreamClient, key: str, reason: str) -> None:
    """Open a selection's circuit breaker: decision servers answer with its fallback."""
    client.hset(TRIPPED_BREAKERS, key, reason)


def close_breaker(client: StreamClient, key: str) -> bool:
    """Close a selection's circuit breaker; False if it was not open."""
    return bool(client.hdel(TRIPPED_BREAKERS, key))


def open_breakers(client: StreamClient) -> dict[str, str]:
    """The selections whose breaker is open, with the reasons."""
    return {
        as_bytes(key).decode(errors="replace"): as_bytes(reason).decode(errors="replace")
        for key, reason in client.hgetall(TRIPPED_BREAKERS).items()
    }


def publish_prices(client: StreamClient, by_offer: Mapping[str, float]) -> None:
    """Replace the shadow prices by offer; decision servers read them at their next poll."""
    gone = shadow_prices(client).keys() - by_offer.keys()
    if gone:
        client.hdel(SHADOW_PRICES, *gone)
    if by_offer:
        client.hset(SHADOW_PRICES, mapping={key: repr(price) for key, price in by_offer.items()})


def shadow_prices(client: StreamClient) -> dict[str, float]:
    """The shadow prices by offer."""
    return numbers_by_name(client.hgetall(SHADOW_PRICES))


def publish_ramp_position(client: StreamClient, experiment: str, coverage: float) -> None:
    """Set the coverage that the ramp of an experiment has reached; decision servers read it at their next poll."""
    client.hset(RAMP_POSITIONS, experiment, repr(coverage))


def ramp_positions(client: StreamClient) -> dict[str, float]:
    """The coverage that each held ramp has reached, by experiment."""
    return numbers_by_name(client.hgetall(RAMP_POSITIONS))


def publish_figures(client: StreamClient, figures: Mapping[str, float]) -> None:
    """Publish the learner's counters by name, for decision servers to export."""
    if figures:
        client.hset(LEARNER_FIGURES, mapping={name: repr(figure) for name, figure in figures.items()})


@contextmanager
def store_errors(action: str) -> Iterator[None]:
    """Raise the client's errors in the block as `StoreUnavailable`, for callers that do not import the client."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"{action}: {error}; it continues when the store answers") from error


def numbers_by_name(reply: Mapping[bytes | str, bytes | str]) -> dict[str, float]:
    """The numbers in a stored hash, by name; other values are left out."""
    numbers: dict[str, float] = {}
    for key, value in reply.items():
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            numbers[as_bytes(key).decode(errors="replace")] = number
        else:
            report_altered(repr(key), as_bytes(value), "a stored value is not a number; it counts as missing")
    return numbers


def as_bytes(answer: bytes | str) -> bytes:
    """The reply as bytes: the client's types allow text too, but this client does not decode."""
    return answer if isinstance(answer, bytes) else answer.encode()
