"""Live, ready, and what Prometheus reads."""

from importlib.metadata import version

import msgspec

from engine.service.http import Call, Reply, Route, endpoint
from engine.service.worker import Worker

SNAPSHOT_SECONDS = 30.0
LAG_RECORDS = 100_000
TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class Index(msgspec.Struct, frozen=True):
    """What answers here, and the addresses of what it says of itself."""

    name: str
    version: str
    links: dict[str, str]


LINKS = {
    "docs": "/docs",
    "openapi": "/docs/openapi.json",
    "live": "/healthz",
    "ready": "/readyz",
    "metrics": "/metrics",
}


class Readiness(msgspec.Struct, frozen=True):
    """Whether this worker should get traffic, and what it depends on. Ages are seconds.

    `degraded`: its store is away, so all it can answer are fallbacks; or takes no writes, so it is for many customers.
    """

    ready: bool
    degraded: bool
    plan: str
    plan_problems: list[str]
    store: bool
    snapshot_age: float | None
    spool_lag_records: int
    why: list[str]


def health_routes(worker: Worker) -> list[Route]:
    """`/`, `/healthz`, `/readyz`, `/readyz/degraded` and `/metrics` of a worker."""
    index = msgspec.json.encode(Index("Counterpoint", version("counterpoint"), LINKS))

    async def first(_: Call) -> Reply:
        return Reply(index)

    async def live(_: Call) -> Reply:
        return Reply(b'{"status":"live"}')

    async def ready(_: Call) -> Reply:
        return _told(await readiness(worker))

    async def enough(_: Call) -> Reply:
        return _told(await readiness(worker, degraded=True))

    async def metrics(_: Call) -> Reply:
        worker.meters.spool_lag.set(worker.shipper.lag().records)
        return Reply(worker.meters.page(), headers=((b"content-type", TEXT),))

    return [
        endpoint("/", {"GET": first}, limit=0),
        endpoint("/healthz", {"GET": live}, limit=0),
        endpoint("/readyz", {"GET": ready}, limit=0),
        endpoint("/readyz/degraded", {"GET": enough}, limit=0),
        endpoint("/metrics", {"GET": metrics}, limit=0),
    ]


async def readiness(worker: Worker, *, degraded: bool = False) -> Readiness:
    """What the worker depends on, asked now; with `degraded` one that can answer nothing but fallbacks is ready."""
    store = await worker.away.reached()
    refusal = await worker.away.refusal() if store else None
    age = worker.follower.age
    lag = worker.shipper.lag().records
    why = []
    if not (store or degraded):
        why.append("the store does not answer; decisions are degraded")
    if refusal and not degraded:
        why.append(f"the store takes no writes, and decisions that need one are degraded: {refusal}")
    if (age is None or age > SNAPSHOT_SECONDS) and (store or not degraded):
        why.append(f"no look at the learnt policies for over {SNAPSHOT_SECONDS:g} s")
    if worker.spool.gone:
        why.append(f"the spool {worker.spool.path} was deleted; no answer leaves until its folder can be made again")
    elif worker.spool.full:
        why.append(f"the disk of {worker.spool.path} is full; free it, no answer leaves when it takes no more")
    if lag > LAG_RECORDS and (store or not degraded):
        why.append(f"{lag} records wait in the spool; see why the stream does not take them")
    return Readiness(
        ready=not why,
        degraded=not store or refusal is not None,
        plan=worker.watch.plan.version,
        plan_problems=[str(problem) for problem in worker.watch.problems],
        store=store,
        snapshot_age=age,
        spool_lag_records=lag,
        why=why,
    )


def _told(state: Readiness) -> Reply:
    return Reply(msgspec.json.encode(state), 200 if state.ready else 503)
