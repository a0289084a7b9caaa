"""Learnt policies on their way from the learner to the decision servers: versioned, checked by digest, kept a while."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import structlog
from redis.exceptions import RedisError

from engine import keyspace
from engine.catalog.plan.plan import Plan, Selection
from engine.decision.offers import Snapshot
from engine.errors import BadInput, StoreUnavailable
from engine.journal.log_once import Outage
from engine.journal.spool import ship
from engine.journal.stream import Client
from engine.keyspace import LEARNER_FIGURES, SHADOW_PRICES, SNAPSHOT_HEADERS, TRIPPED_BREAKERS
from engine.settings import Settings
from policies import Bandit, load_policy, with_arms
from policies.linear import Linear

KEPT = 20
INTERVAL = 0.25
_PATIENCE = 2.0
_SCRIPT = Path(__file__).with_name("snapshots.lua").read_text(encoding="utf-8")
_log = structlog.get_logger(__name__)


class Header(NamedTuple):
    """What stands before a snapshot: `time` in seconds since 1970, `learnt` the weight of what it learnt until then.

    `meaning` is `meaning_of` the selection it was learnt for.
    """

    version: int
    time: float
    learnt: float
    meaning: str
    digest: str

    @classmethod
    def of(cls, version: int, at: float, learnt: float, meaning: str, blob: bytes) -> "Header":
        """The header of a snapshot's bytes."""
        return cls(version, at, learnt, meaning, _digest(blob))

    def line(self) -> bytes:
        """As it is stored."""
        return f"{self.version} {self.time!r} {self.learnt!r} {self.meaning} {self.digest}".encode()


class Published(NamedTuple):
    """A snapshot as it is in the store."""

    header: Header
    blob: bytes


def meaning_of(selection: Selection) -> str:
    """A digest of what a policy's numbers mean: its kind, its features and groups, and what counts as a reward."""
    policy = msgspec.structs.replace(selection.policy, floor=0.0, discount=1.0)
    metric = selection.reward.metric
    groups = [(group.name, group.values) for group in selection.features.groups]
    said = (policy, groups, metric.event, metric.kind, metric.value, metric.filter)
    return blake2b(msgspec.json.encode(said), digest_size=6).hexdigest()


def aligned(policy: Bandit, selection: Selection, arms: tuple[str, ...] | None = None) -> Bandit:
    """What `policy` learnt, over the plan's arms (or over `arms`), with the floor and the forgetting of the plan.

    Raises:
        ValueError: if it is of another kind or for contexts of another length.
    """
    prior = bandit(selection)
    if policy.kind != prior.kind or policy.dim != prior.dim:
        raise ValueError(
            f"{selection.key}: the snapshot is a {policy.kind} of {policy.dim} dimensions, the plan asks for "
            f"{prior.kind} of {prior.dim}; the learner publishes one that fits"
        )
    traits = None
    if isinstance(policy, Linear) and isinstance(prior, Linear) and prior.traits.items() - policy.traits.items():
        traits = {**policy.traits, **prior.traits}
    return replace(with_arms(policy, arms or prior.arms, traits), floor=prior.floor, discount=prior.discount)


def bandit(selection: Selection) -> Bandit:
    """The prior of a selection as what `policies` makes.

    Raises:
        TypeError: if the plan holds a policy of another make, which cannot be stored.
    """
    if not isinstance(selection.prior, Bandit):
        raise TypeError(f"{selection.key}: {type(selection.prior).__name__} cannot be stored; make it with policies")
    return selection.prior


def publish(client: Client, key: str, header: Header, blob: bytes) -> int:
    """Make a snapshot the current one of `key` unless a newer one is; the version that is current afterwards."""
    keys = (SNAPSHOT_HEADERS, keyspace.snapshot(key), keyspace.kept_snapshots(key))
    line = header.line()
    return int(client.eval(_SCRIPT, 3, *keys, key, header.version, line, line + b"\n" + blob, KEPT))


def headers(client: Client) -> dict[str, Header]:
    """The headers of all current snapshots."""
    return {_raw(key).decode(): _header(_raw(line)) for key, line in client.hgetall(SNAPSHOT_HEADERS).items()}


def current(client: Client, key: str) -> Published | None:
    """The current snapshot of a selection; None where nothing was learnt yet.

    Raises:
        BadInput: if it is damaged.
    """
    value = client.get(keyspace.snapshot(key))
    return None if value is None else _checked(key, _raw(value))


def kept(client: Client, key: str) -> list[Header]:
    """The headers of the snapshots that can be rolled back to, the newest (the current one) first."""
    found = [_header(_raw(line)) for line in client.hkeys(keyspace.kept_snapshots(key))]
    return sorted(found, reverse=True)


def kept_at(client: Client, key: str, header: Header) -> Published:
    """A kept snapshot.

    Raises:
        BadInput: if it is not kept any more, or damaged.
    """
    value = client.hget(keyspace.kept_snapshots(key), header.line())
    if value is None:
        raise BadInput(f"{key}@{header.version} is not kept any more; choose another version")
    return _checked(key, _raw(value))


def trip(client: Client, key: str, reason: str) -> None:
    """Mark a selection as tripped: decision servers answer with its fallback."""
    client.hset(TRIPPED_BREAKERS, key, reason)


def untrip(client: Client, key: str) -> bool:
    """Take the mark away; False if there was none."""
    return bool(client.hdel(TRIPPED_BREAKERS, key))


def tripped(client: Client) -> dict[str, str]:
    """The tripped selections with their reasons."""
    return {_raw(key).decode(): _raw(reason).decode() for key, reason in client.hgetall(TRIPPED_BREAKERS).items()}


def put_prices(client: Client, by_offer: Mapping[str, float]) -> None:
    """Make these the shadow prices by offer; decision servers take them over with the next look."""
    gone = prices(client).keys() - by_offer.keys()
    if gone:
        client.hdel(SHADOW_PRICES, *gone)
    if by_offer:
        client.hset(SHADOW_PRICES, mapping={key: repr(price) for key, price in by_offer.items()})


def prices(client: Client) -> dict[str, float]:
    """The shadow prices by offer."""
    return _numbers(client.hgetall(SHADOW_PRICES))


def tell(client: Client, figures: Mapping[str, float]) -> None:
    """Let decision servers show what the learner counted, by name."""
    if figures:
        client.hset(LEARNER_FIGURES, mapping={name: repr(figure) for name, figure in figures.items()})


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """What the client raises in the block as `StoreUnavailable`, for callers that do not know the client."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"{doing}: {error}; it goes on when the store answers") from error


class Follower:
    """Holds the newest snapshots of a plan's selections; `run` it as a task, readers take `snapshots`, one reference.

    Beside them what else the learner says: selections that are `tripped` with the reason, shadow `prices` by offer, and
    what it counted (`told`). A snapshot that is damaged or does not fit is counted in `rejected`, and the one before
    it stays.
    """

    def __init__(self, settings: Settings, plan: Callable[[], Plan], *, interval: float = INTERVAL) -> None:
        self.snapshots: Mapping[str, Snapshot] = {}
        self.tripped: Mapping[str, str] = {}
        self.prices: Mapping[str, float] = {}
        self.told: Mapping[str, float] = {}
        self.rejected = 0
        self._plan = plan
        self._interval = interval
        self._client = ship.connect(settings.redis, timeout=_PATIENCE)
        self._fitted_to: Plan | None = None
        self._fitting = asyncio.Lock()
        self._lines: dict[str, bytes] = {}
        self._learnt: dict[str, tuple[Header, Bandit]] = {}
        self._polled: float | None = None

    @property
    def age(self) -> float | None:
        """Seconds since the store was last asked successfully; None before the first time."""
        return None if self._polled is None else time.monotonic() - self._polled

    async def run(self) -> None:
        """Poll until cancelled, whatever the store does."""
        outage = Outage("deciding by the snapshots that are here", "following the snapshots again")
        try:
            while True:
                try:
                    await self.poll()
                    outage.over()
                except StoreUnavailable as error:
                    outage.failed(error)
                await asyncio.sleep(self._interval)
        finally:
            await self._client.aclose()

    async def poll(self) -> bool:
        """Look once, and fetch what changed; whether anything did.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        plan = self._plan()
        with store_errors("following the snapshots"):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hgetall(SNAPSHOT_HEADERS)
            pipeline.hgetall(TRIPPED_BREAKERS)
            pipeline.hgetall(SHADOW_PRICES)
            pipeline.hgetall(LEARNER_FIGURES)
            lines, marks, priced, told = await pipeline.execute()
            self._polled = time.monotonic()
            found = {key.decode(): line for key, line in lines.items()}
            wanted = [key for key, line in found.items() if key in plan.policies and self._lines.get(key) != line]
            values = await self._client.mget([keyspace.snapshot(key) for key in wanted]) if wanted else []
        self.tripped = {key.decode(): reason.decode() for key, reason in marks.items()}
        self.prices, self.told = _numbers(priced), _numbers(told)
        gone = self._lines.keys() - found.keys()
        if not wanted and not gone and plan is self._fitted_to:
            return False
        for key in gone:
            del self._lines[key]
            self._learnt.pop(key, None)
        for key, value in zip(wanted, values, strict=True):
            self._lines[key] = found[key]
            await asyncio.to_thread(self._take, key, _raw(value or b""))
        await self._refit(frozenset(wanted))
        return True

    async def adopt(self, plan: Plan, swap: Callable[[Plan], None]) -> None:
        """Fit what was learnt to a new plan, then `swap` both in: no decision sees one without the other."""
        async with self._fitting:
            fitted = await asyncio.to_thread(self._fit, plan, frozenset())
            swap(plan)
            self.snapshots, self._fitted_to = fitted, plan

    async def _refit(self, fresh: frozenset[str]) -> None:
        async with self._fitting:
            plan = self._plan()
            self.snapshots = await asyncio.to_thread(self._fit, plan, fresh)
            self._fitted_to = plan

    def _take(self, key: str, value: bytes) -> None:
        try:
            header, blob = _checked(key, value)
            self._learnt[key] = header, load_policy(blob)
        except (BadInput, ValueError) as error:
            self._reject(key, error)

    def _fit(self, plan: Plan, fresh: frozenset[str]) -> dict[str, Snapshot]:
        fitted: dict[str, Snapshot] = {}
        for key, (header, policy) in self._learnt.items():
            selection = plan.policies.get(key)
            before = self.snapshots.get(key)
            if selection is None or header.meaning != meaning_of(selection):
                continue
            if before and before.version == header.version and key not in fresh and plan is self._fitted_to:
                fitted[key] = before
                continue
            try:
                now = aligned(policy, selection)
            except ValueError as error:
                self._reject(key, error)
                continue
            now.probabilities(np.zeros(now.dim))  # what a policy computes once is computed here, not in a request
            fitted[key] = Snapshot(now, header.version, selection.arms)
        return fitted

    def _reject(self, key: str, error: Exception) -> None:
        self.rejected += 1
        _log.error("a snapshot was not taken; the one before it stays", key=key, error=str(error))


def _numbers(found: Mapping[bytes | str, bytes | str]) -> dict[str, float]:
    return {_raw(key).decode(): float(value) for key, value in found.items()}


def _raw(answer: bytes | str) -> bytes:
    """The client's types leave open whether it decodes; ours does not."""
    return answer if isinstance(answer, bytes) else answer.encode()


def _digest(blob: bytes) -> str:
    return blake2b(blob, digest_size=16).hexdigest()


def _header(line: bytes) -> Header:
    version, at, learnt, meaning, digest = line.decode().split(" ")
    return Header(int(version), float(at), float(learnt), meaning, digest)


def _checked(key: str, value: bytes) -> Published:
    line, _, blob = value.partition(b"\n")
    try:
        header = _header(line)
    except ValueError as error:
        raise BadInput(f"the snapshot of {key} has no header ({line[:60]!r}); roll back to an earlier one") from error
    if header.digest != _digest(blob):
        raise BadInput(f"{key}@{header.version} does not have the digest it was published with; roll back")
    return Published(header, blob)
