"""Liveness, readiness, and the metrics that Prometheus scrapes."""

import asyncio
import time
from importlib.metadata import version

import msgspec

from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, WholeRequest, endpoint
from engine.service.worker import Worker

SNAPSHOT_SECONDS = 30.0
"""The age of the last look at the snapshots past which a worker is not ready."""
LAG_SECONDS = 0.02
"""The lag of the event loop from which on probes get the state of a moment ago."""
RECENT_SECONDS = 2.0
LAG_RECORDS = 100_000
"""The records waiting in the spool past which a worker is not ready."""
TEXT = b"text/plain; version=0.0.4; charset=utf-8"


_FULL_DISK = {"refuse": "nothing is answered", "answer": "decisions are degraded and not recorded"}


class Index(msgspec.Struct, frozen=True):
    """The server's name and version, and the addresses that describe it."""

    name: str
    version: str
    links: dict[str, str]


LINKS = {
    "docs": "/docs",
    "guide": "/docs/guide",
    "openapi": "/docs/openapi.json",
    "script": "/client.js",
    "shop": "/shop",
    "live": "/healthz",
    "ready": "/readyz",
    "metrics": "/metrics",
}


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this worker should get traffic, and the state of its dependencies. Ages are in seconds.

    `degraded`: the store is away, so every answer is a fallback; or it refuses writes, so many are.
    """

    ready: bool
    degraded: bool
    plan: str
    plan_problems: list[str]
    store: bool
    snapshot_age: float | None
    spool_lag_records: int
    why: list[str]


def health_routes(worker: Worker, guard: RequestGuard) -> list[Route]:
    """The routes of `/`, `/healthz`, `/readyz`, `/readyz/degraded` and `/metrics` of a worker."""
    links = LINKS | ({"dashboard": "/"} if worker.settings.dashboard else {})
    index_body = msgspec.json.encode(Index("Counterpoint", version("counterpoint"), links))

    async def index(_: Call) -> Reply:
        return Reply(index_body)

    async def live(_: Call) -> Reply:
        return Reply(b'{"status":"live"}')

    async def ready(_: Call) -> Reply:
        return _readiness_reply(await check_readiness(worker))

    async def ready_degraded(_: Call) -> Reply:
        return _readiness_reply(await check_readiness(worker, accept_degraded=True))

    probes = [RecentReadiness(worker, guard, accept_degraded=accepts) for accepts in (False, True)]

    async def metrics(_: Call) -> Reply:
        worker.pulse.measure_spool()
        return Reply(worker.metrics.render(), headers=((b"content-type", TEXT),))

    return [
        endpoint("/", {"GET": index}, limit=0, guard=guard),
        endpoint("/healthz", {"GET": live}, limit=0, guard=guard),
        endpoint("/readyz", {"GET": ready}, limit=0, guard=guard, take=probes[0].take),
        endpoint("/readyz/degraded", {"GET": ready_degraded}, limit=0, guard=guard, take=probes[1].take),
        endpoint("/metrics", {"GET": metrics}, limit=0, guard=guard),
    ]


class RecentReadiness:
    """Answers probes of a worker that is behind its work with a state of at most `RECENT_SECONDS` ago.

    Each round trip to the store takes turns of a busy event loop, and a probe that waits for several takes a live
    server for a dead one.
    """

    def __init__(self, worker: Worker, guard: RequestGuard, *, accept_degraded: bool) -> None:
        self._worker = worker
        self._guard = guard
        self._accept_degraded = accept_degraded
        self._reply: Reply | None = None
        self._checked = 0.0
        self._checking: asyncio.Task[None] | None = None

    def take(self, request: WholeRequest) -> bool:
        """Answer a probe at once while the event loop lags and the state is known; else leave it to the handler."""
        if self._worker.pulse.lag < LAG_SECONDS:
            return False
        age = time.monotonic() - self._checked
        if age > RECENT_SECONDS / 2 and (self._checking is None or self._checking.done()):
            self._checking = asyncio.get_running_loop().create_task(self._check())
        if self._reply is None or age > RECENT_SECONDS:
            return False
        try:
            request.call_by(self._guard)
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            request.refuse(error, self._guard.origins)
        else:
            request.answer(self._reply, self._guard.origins)
        return True

    async def _check(self) -> None:
        """Check the state for the probes that follow."""
        readiness = await check_readiness(self._worker, accept_degraded=self._accept_degraded)
        self._reply, self._checked = _readiness_reply(readiness), time.monotonic()


async def check_readiness(worker: Worker, *, accept_degraded: bool = False) -> Readiness:
    """Check the worker's dependencies now.

    With `accept_degraded` a worker that can only answer fallbacks is ready: what fails because the store is away, the
    age of the snapshots and the lag of the spool, then does not count (docs/decisions/0003-ready-without-the-store.md).
    """
    health = worker.store_health
    # Sent together: while the server is busy each round trip takes a turn of its event loop.
    store, write_refusal, policy = await asyncio.gather(
        health.is_reachable(), health.write_refusal(), health.eviction_policy()
    )
    write_refusal = write_refusal if store else None
    age = worker.follower.age
    lag = worker.shipper.lag().records
    why = []
    if not (store or accept_degraded):
        why.append("the store does not answer; decisions are degraded")
    if write_refusal and not accept_degraded:
        why.append(f"the store takes no writes, and decisions that need one are degraded: {write_refusal}")
    if policy:
        why.append(
            f"the store's maxmemory-policy is {policy}, which deletes answered decisions to make room; set it to "
            "noeviction (CONFIG SET maxmemory-policy noeviction)"
        )
    if (age is None or age > SNAPSHOT_SECONDS) and (store or not accept_degraded):
        why.append(f"the learnt policies were not read for over {SNAPSHOT_SECONDS:g} s; check the store")
    if worker.spool.gone:
        why.append("the spool was deleted; nothing is answered until its folder can be created")
    elif worker.spool.full and not (accept_degraded and worker.recorder.is_optional):
        why.append(f"the disk of the spool is full; free space, or {_FULL_DISK[worker.settings.full_disk]}")
    if lag > LAG_RECORDS and (store or not accept_degraded):
        why.append(f"{lag} records wait in the spool, over {LAG_RECORDS}; see the log for why the stream takes none")
    return Readiness(
        ready=not why,
        degraded=not store or write_refusal is not None or (worker.spool.full and worker.recorder.is_optional),
        plan=worker.watch.plan.version,
        plan_problems=[str(problem) for problem in worker.watch.problems],
        store=store,
        snapshot_age=age,
        spool_lag_records=lag,
        why=why,
    )


def _readiness_reply(readiness: Readiness) -> Reply:
    return Reply(msgspec.json.encode(readiness), 200 if readiness.ready else 503)
