"""Every Redis key of Counterpoint: pattern, value, life and owner. A literal key stands in this module only.

Braces mark the part that Redis Cluster hashes, so keys with the same braces share a node and may meet in one script.
`docs/reference/keyspace.md` is generated from `KEYSPACE`.
"""

from typing import Final, NamedTuple

from engine.vocabulary import DAY


class KeyPattern(NamedTuple):
    """One kind of key. `life` says when Redis drops it; `owner` is the module that writes it."""

    pattern: str
    value: str
    life: str
    owner: str


class PartitionKeys(NamedTuple):
    """The keys of one partition of the log's stream; they share a node."""

    stream: str
    shipped: str
    collected: str
    positions: str


PARTITIONS: Final = "cp:partitions"
SNAPSHOT_HEADERS: Final = "cp:{snapshots}"
TRIPPED_BREAKERS: Final = "cp:breakers"
SHADOW_PRICES: Final = "cp:prices"
LEARNER_FIGURES: Final = "cp:learner"
UNFINISHED_MERGES: Final = "cp:merges"
ERASURES: Final = "cp:{erased}"
ERASURES_LIFE: Final = 30 * DAY
"""Seconds for which an erasure is announced: no spool or stream keeps a record for longer."""
UNFINISHED_ERASURES: Final = "cp:{erased}:begun"
PAUSED_EXPERIMENTS: Final = "cp:paused"
STORE_PROBE: Final = "cp:{probe}"


def profile(key: str) -> str:
    """The entry of the identifier whose keyed hash is `key`: a profile, a pointer to one, or a tombstone."""
    return f"cp:{{{key}}}"


def counted_messages(key: str) -> str:
    """Digests of the message ids that were counted for the customer at `key`."""
    return f"cp:{{{key}}}:seen"


def counters(key: str) -> str:
    """The times of exposures, redemptions and refusals that caps count for the customer at `key`."""
    return f"cp:{{{key}}}:caps"


def pending_decision(decision_id: str) -> str:
    """A decision that awaits exposure or outcome events; `*` gives the pattern of all."""
    return f"cp:{{d:{decision_id[:64]}}}"


def pool(kind: str, name: str) -> str:
    """A stock (`kind` is stock) or a budget: its level and what is spent and held, in ten-thousandths."""
    return f"cp:{{{kind}:{name}}}"


def pool_holds(kind: str, name: str) -> str:
    """When each hold on the stock or budget ends."""
    return f"{pool(kind, name)}:holds"


def idempotent_answer(digest: str) -> str:
    """The answer given under an idempotency key; `?` times 32 gives the pattern of all."""
    return f"cp:{{r:{digest}}}"


def partition(number: int) -> PartitionKeys:
    """The keys of one partition of the log's stream."""
    stream = f"cp:{{log{number}}}"
    return PartitionKeys(stream, f"{stream}:shipped", f"{stream}:collected", f"{stream}:positions")


def snapshot(key: str) -> str:
    """The current snapshot of a selection."""
    return f"{SNAPSHOT_HEADERS}:{key}"


def kept_snapshots(key: str) -> str:
    """Earlier snapshots of a selection, for a rollback."""
    return f"{SNAPSHOT_HEADERS}:{key}:kept"


KEYSPACE: Final = (
    KeyPattern(
        profile("HASH"),
        "string: profile, pointer, profile frozen in a merge, or tombstone",
        "`life`; `anonymous_life` for visitors; `tombstone_life` once erased",
        "customers",
    ),
    KeyPattern(counted_messages("HASH"), "string: 64-bit digests of message ids", "`seen_life`", "customers"),
    KeyPattern(counters("HASH"), "string: msgpack map from counter to (time, claim)", "400 days", "claims"),
    KeyPattern(UNFINISHED_MERGES, "hash: visitor's key to customer's key", "`life`", "customers"),
    KeyPattern(pending_decision("ID"), "string: msgpack, what may still be exposed or claimed", "24 hours", "claims"),
    KeyPattern(pool("stock", "SKU"), "hash: level, spent, held, and each hold's amount", "400 days", "claims"),
    KeyPattern(pool("budget", "OFFER"), "hash: spent, held, and each hold's amount", "400 days", "claims"),
    KeyPattern(pool_holds("stock", "SKU"), "sorted set: claim by the end of its hold", "400 days", "claims"),
    KeyPattern(idempotent_answer("DIGEST"), "string: request digest and answer", "60 seconds", "service"),
    KeyPattern(PARTITIONS, "set: numbers of partitions that hold records", "no end", "journal"),
    KeyPattern(partition(0).stream, "stream: frames of records, trimmed once collected", "no end", "journal"),
    KeyPattern(partition(0).shipped, "hash: spool to its last shipped sequence number", "no end", "journal"),
    KeyPattern(partition(0).collected, "hash: spool to its last collected sequence number", "no end", "journal"),
    KeyPattern(partition(0).positions, "hash: reader to its stream position", "no end", "journal"),
    KeyPattern(SNAPSHOT_HEADERS, "hash: selection to its current snapshot's header", "no end", "snapshots"),
    KeyPattern(snapshot("KEY"), "string: header line and policy", "no end", "snapshots"),
    KeyPattern(kept_snapshots("KEY"), "hash: header line to snapshot, the newest 20", "no end", "snapshots"),
    KeyPattern(TRIPPED_BREAKERS, "hash: selection to the reason", "no end", "snapshots"),
    KeyPattern(SHADOW_PRICES, "hash: offer to its shadow price", "no end", "snapshots"),
    KeyPattern(LEARNER_FIGURES, "hash: figure's name to its value", "no end", "snapshots"),
    KeyPattern(ERASURES, "stream: time and digests of erased identifiers", "30 days", "erasure"),
    KeyPattern(UNFINISHED_ERASURES, "hash: begun erasure, by hashes and digests only", "30 days", "erasure"),
    KeyPattern(PAUSED_EXPERIMENTS, "hash: experiment to who paused it, when and why", "no end", "service"),
    KeyPattern(STORE_PROBE, "never written: read to see whether the store answers", "none", "service"),
)
