"""Every Redis key of Counterpoint: pattern, value, life and owner. A literal key stands in this module only.

Braces mark the part that Redis Cluster hashes: keys with the same braces share a node and may occur in one script.
`python -m engine.keyspace > docs/reference/keyspace.md` generates the reference page from `KEYSPACE`.
"""

import re
from typing import Final, NamedTuple

from engine.vocabulary import DAY


class KeyPattern(NamedTuple):
    """One kind of key. `life` says when Redis expires it; `owner` is the room that writes it."""

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
RAMP_POSITIONS: Final = "cp:ramps"
LEARNER_FIGURES: Final = "cp:learner"
UNFINISHED_MERGES: Final = "cp:merges"
ERASURES: Final = "cp:{erased}"
ERASURES_LIFE: Final = 30 * DAY
"""Seconds for which an erasure is announced. No spool or stream stores a record for longer."""
UNFINISHED_ERASURES: Final = "cp:{erased}:begun"
COUPON_OFFERS: Final = "cp:coupons"
PAUSED_EXPERIMENTS: Final = "cp:paused"
STORE_PROBE: Final = "cp:{probe}"
STORE_LAYOUT: Final = "cp:layout"
LAYOUT: Final = 1
"""The layout of the store's keys and values. Values say their own encodings; this is for what they cannot say."""
LEARNER_SETS: Final = "cp:learners"


def profile(key: str) -> str:
    """The entry of the identifier whose keyed hash is `key`: a profile, a pointer to one, or a tombstone."""
    return f"cp:{{{key}}}"


def counted_messages(key: str) -> str:
    """Digests of the message ids that were counted for the customer at `key`."""
    return f"cp:{{{key}}}:seen"


def earlier_messages(key: str) -> str:
    """Digests of messages of the customer at `key` that were counted before those of `counted_messages`."""
    return f"cp:{{{key}}}:older"


def archived_orders(key: str) -> str:
    """The orders of the customer at `key` that are not in the profile and may still be refunded."""
    return f"cp:{{{key}}}:orders"


def archived_identifiers(key: str) -> str:
    """The identifiers of the customer at `key` that are not in the profile."""
    return f"cp:{{{key}}}:ids"


def customer_keys(key: str) -> tuple[str, ...]:
    """All keys of a customer, in one hash slot, in the order that the scripts take them; the profile is the first."""
    return (
        profile(key),
        counted_messages(key),
        counters(key),
        archived_orders(key),
        archived_identifiers(key),
        earlier_messages(key),
    )


def counters(key: str) -> str:
    """The times of exposures, redemptions and refusals that caps count for the customer at `key`."""
    return f"cp:{{{key}}}:caps"


def pending_decision(decision_id: str) -> str:
    """A decision that awaits exposure or outcome events; `*` gives the pattern of all."""
    return f"cp:{{d:{decision_id[:64]}}}"


def pool(kind: str, name: str) -> str:
    """A pool by its `kind`, stock, shelf or budget: its level and the amounts spent and on hold, in ten-thousandths."""
    return f"cp:{{{kind}:{name}}}"


def pool_holds(kind: str, name: str) -> str:
    """The end of each hold on the pool."""
    return f"{pool(kind, name)}:holds"


def order(digest: str) -> str:
    """The offers that an order redeemed, by the digest of its id."""
    return f"cp:{{order:{digest}}}"


def coupons(offer: str) -> tuple[str, str, str]:
    """The coupon codes of an offer: their states, the claims on them, and those that are free; in one hash slot."""
    codes = f"cp:{{coupon:{offer}}}"
    return codes, f"{codes}:claims", f"{codes}:free"


def roster(shard: int) -> str:
    """The customers whose key begins with this hexadecimal digit, as candidates of campaigns."""
    return f"cp:{{roster{shard:x}}}"


def roster_looks(shard: int) -> str:
    """The customers of a shard whose moments are to be examined, by time."""
    return f"{roster(shard)}:looks"


ROSTER_PROGRESS: Final = "cp:rosters"


def due_message(key: str, cause: str) -> str:
    """The message of a campaign or a moment to the customer at `key`."""
    return f"cp:{{{key}}}:send:{cause}"


def due(channel: str) -> str:
    """The waiting or leased messages of a channel, by the time at which they are due."""
    return f"cp:{{due:{channel}}}"


def due_capacity(channel: str) -> str:
    """The number of messages of a channel that were handed out in each minute."""
    return f"{due(channel)}:taken"


def due_lease(decision_id: str) -> str:
    """The customer and the cause of a message that was handed out under this decision."""
    return f"cp:{{lease:{decision_id[:64]}}}"


def idempotent_answer(digest: str) -> str:
    """The answer given under an idempotency key; `?` times 32 gives the pattern of all."""
    return f"cp:{{r:{digest}}}"


def key_rate(name: str) -> str:
    """The number of requests per worker under the API key with this name."""
    return f"cp:{{rate:{name}}}"


def partition(number: int) -> PartitionKeys:
    """The keys of one partition of the log's stream."""
    stream = f"cp:{{log{number}}}"
    return PartitionKeys(stream, f"{stream}:shipped", f"{stream}:collected", f"{stream}:positions")


def partition_lease(number: int) -> str:
    """The learner that teaches the decisions of a partition, on whichever machine."""
    return f"cp:{{log{number}}}:lease"


def snapshot(key: str) -> str:
    """The current snapshot of a selection."""
    return f"{SNAPSHOT_HEADERS}:{key}"


def stored_snapshots(key: str) -> str:
    """The snapshots of a selection that a rollback can choose from, the current one included."""
    return f"{SNAPSHOT_HEADERS}:{key}:kept"


KEYSPACE: Final = (
    KeyPattern(
        profile("HASH"),
        "string: profile, pointer, profile frozen in a merge, or tombstone",
        "`life`; for visitors `anonymous_life`; for tombstones 90 days",
        "customers",
    ),
    KeyPattern(counted_messages("HASH"), "string: 64-bit digests of message ids", "14 days", "customers"),
    KeyPattern(
        earlier_messages("HASH"),
        "sorted set: older digests by when they were moved",
        "14 days",
        "customers",
    ),
    KeyPattern(archived_orders("HASH"), "string: msgpack map from order id to order", "`life`", "customers"),
    KeyPattern(archived_identifiers("HASH"), "set: identifiers as `kind:value`", "twice `life`", "customers"),
    KeyPattern(counters("HASH"), "string: msgpack map from counter to (time, claim)", "400 days", "claims"),
    KeyPattern(
        UNFINISHED_MERGES,
        "hash: key of the visitor to key of the customer that it is merged into",
        "`life`",
        "customers",
    ),
    KeyPattern(
        pending_decision("ID"),
        "string: msgpack of what may still be exposed or claimed",
        "24 hours past the longest hold and refund span",
        "claims",
    ),
    KeyPattern(
        pool("stock", "SKU"),
        "hash: level, amount spent, amount on hold, and the amount of each hold",
        "400 days",
        "claims",
    ),
    KeyPattern(
        pool("budget", "OFFER"),
        "hash: amount spent, amount on hold, and the amount of each hold; of a period under `OFFER@DAY/PER`, of a "
        "shared budget under its key",
        "400 days",
        "claims",
    ),
    KeyPattern(pool("shelf", "PLACE/SKU"), "hash: as of a stock, of what one place has of a SKU", "400 days", "claims"),
    KeyPattern(pool_holds("stock", "SKU"), "sorted set: claim by the end of its hold", "400 days", "claims"),
    KeyPattern(pool_holds("budget", "OFFER"), "sorted set: as of a stock", "400 days", "claims"),
    KeyPattern(pool_holds("shelf", "PLACE/SKU"), "sorted set: as of a stock", "400 days", "claims"),
    KeyPattern(order("DIGEST"), "hash: offer to the message and the rules that it counts under", "90 days", "claims"),
    KeyPattern(COUPON_OFFERS, "set: offers that coupon codes were imported for", "never", "claims"),
    KeyPattern(coupons("OFFER")[0], "hash: state of each coupon code, and the codes of claims", "never", "claims"),
    KeyPattern(coupons("OFFER")[1], "sorted set: claims on coupon codes by when they are forgotten", "never", "claims"),
    KeyPattern(coupons("OFFER")[2], "list: coupon codes that nobody has", "never", "claims"),
    KeyPattern(roster(0), "sorted set: keys of customers, in their order", "never", "due"),
    KeyPattern(roster_looks(0), "sorted set: keys of customers by when to look at their moments", "never", "due"),
    KeyPattern(ROSTER_PROGRESS, "hash: campaign and day, or `moments`, to how far it has come", "never", "due"),
    KeyPattern(
        due_message("HASH", "CAUSE"),
        "string: msgpack of one message's state",
        "a week after its occurrence ends",
        "due",
    ),
    KeyPattern(due("CHANNEL"), "sorted set: customer and cause by when the message is due", "never", "due"),
    KeyPattern(due_capacity("CHANNEL"), "hash: minute since 1970 to the messages handed out", "25 hours", "due"),
    KeyPattern(due_lease("ID"), "string: customer and cause", "a day after the lease", "due"),
    KeyPattern(idempotent_answer("DIGEST"), "string: request digest and answer", "60 seconds", "service"),
    KeyPattern(PARTITIONS, "set: numbers of the partitions that have records", "never", "journal"),
    KeyPattern(STORE_LAYOUT, "string: the number of the layout of keys and values", "never", "journal"),
    KeyPattern(partition(0).stream, "stream: frames of records, trimmed once collected", "never", "journal"),
    KeyPattern(
        partition(0).shipped,
        "hash: spool to its last shipped sequence number; `last` to the id of the newest entry",
        "never",
        "journal",
    ),
    KeyPattern(partition(0).collected, "hash: spool to its last collected sequence number", "never", "journal"),
    KeyPattern(partition(0).positions, "hash: reader to its stream position", "never", "journal"),
    KeyPattern(partition_lease(0), "string: the learner's file", "10 seconds", "learn"),
    KeyPattern(LEARNER_SETS, "hash: partitions of a learner to when it was started", "never", "learn"),
    KeyPattern(SNAPSHOT_HEADERS, "hash: selection to its current snapshot's header", "never", "snapshots"),
    KeyPattern(snapshot("KEY"), "string: header line and policy", "never", "snapshots"),
    KeyPattern(
        stored_snapshots("KEY"),
        "hash: header line to snapshot; 20 of them, the older the sparser",
        "never",
        "snapshots",
    ),
    KeyPattern(TRIPPED_BREAKERS, "hash: selection to the reason", "never", "snapshots"),
    KeyPattern(SHADOW_PRICES, "hash: offer to its shadow price", "never", "snapshots"),
    KeyPattern(RAMP_POSITIONS, "hash: experiment to the coverage that its ramp has reached", "never", "snapshots"),
    KeyPattern(LEARNER_FIGURES, "hash: figure's name to its value", "never", "snapshots"),
    KeyPattern(ERASURES, "stream: time and digests of erased identifiers", "30 days", "erasure"),
    KeyPattern(
        UNFINISHED_ERASURES, "hash: notes of begun erasures, by key hashes and digests only", "30 days", "erasure"
    ),
    KeyPattern(
        PAUSED_EXPERIMENTS, "hash: experiment to the person who paused it, the time and the reason", "never", "service"
    ),
    KeyPattern(key_rate("KEY"), "hash: worker to the requests that it got of an API key, and when", "60 s", "service"),
    KeyPattern(STORE_PROBE, "never written: read to see whether the store answers", "never", "service"),
)


def store_pattern(pattern: str) -> str:
    """The keys of a pattern of `KEYSPACE`, as the store's access rules write them; a keyed hash has 24 digits."""
    text = pattern.replace("HASH", "[0-9a-f]" * 24)
    return re.sub(r"[A-Z]+(/[A-Z]+|@[A-Z/]+)?|(?<=log|ter)0", "*", text)


_PAGE_HEAD = """# Keys in Redis

Look up here what a key of Counterpoint stores, which room of `engine/` writes it, and when Redis expires it.

- Upper-case parts of a key vary, as does the 0 of a partition. `HASH` is a keyed hash of an identifier.
- Braces mark the part that Redis Cluster hashes: keys with the same braces share a node.
- `life` and `anonymous_life` are set in `identities.yaml`. A write starts the time of expiry again.
- Run Redis with `maxmemory-policy noeviction`. Many of these values exist nowhere else.

`python -m engine.keyspace > docs/reference/keyspace.md` generates this page from `engine/keyspace.py`.

| key | value | expires after | written by |
|---|---|---|---|
"""


def render_keyspace() -> str:
    """The reference page of all keys, as Markdown."""
    rows = (f"| `{key.pattern}` | {key.value} | {key.life} | `{key.owner}` |\n" for key in KEYSPACE)
    return _PAGE_HEAD + "".join(rows)


if __name__ == "__main__":
    print(render_keyspace(), end="")  # noqa: T201 (the page goes to standard output)
