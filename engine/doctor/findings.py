"""Examines a deployment from one of its machines: settings, YAML, keys, disks, store, streams, log, servers.

It changes nothing. A check that cannot be made is a finding too, with the reason.
"""

import asyncio
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.client import HTTPException, InvalidURL
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import redis

from engine.catalog import load_plan
from engine.claims.claims import pool_key
from engine.claims.requirements import every_share
from engine.doctor.access import check_log_copy, check_store_access
from engine.doctor.diagnosis import Diagnosis, ok, problem, warning
from engine.errors import CatalogError, CounterpointError, StoreUnavailable, has_extra
from engine.journal import stream
from engine.journal.log.commit import read_checkpoint
from engine.journal.spool.ship import connect_shipper
from engine.journal.spool.spool import START, bytes_after, claim_orphans
from engine.journal.stream_lag import StreamLag, read_stream_lags
from engine.service.access.keys_file import read_keys_file
from engine.service.auth import load_keys_from_settings
from engine.settings import Settings

LEAST_FREE = 500e6
"""Bytes that a disk should have free."""
LAG_SECONDS = 120.0
MEMORY_SHARE = 0.8
CLOCK_SECONDS = 1.0
LEAST_FILES = 4096


def examine(settings: Settings, servers: Sequence[str] = ()) -> list[Diagnosis]:
    """Every finding about a deployment; `servers` are base URLs of its decision servers, which are asked too."""
    checks: tuple[tuple[str, Callable[[Settings], Iterator[Diagnosis]]], ...] = (
        ("experiments", _check_experiments),
        ("keys", _check_keys),
        ("disk", _check_disks),
        ("limits", _check_limits),
        ("store", _check_store),
        ("stock by place", _check_shelves),
        ("streams", _check_streams),
        ("spools", _check_spools),
        ("log", _check_log),
        ("store access", check_store_access),
        ("log copy", check_log_copy),
    )
    findings: list[Diagnosis] = []
    for subject, check in checks:
        try:
            findings += check(settings)
        except (CounterpointError, redis.RedisError, OSError) as error:
            detail = str(error).splitlines()[0]
            findings.append(Diagnosis(subject=subject, severity="problem", detail=detail, remedy="see the message"))
    for url in servers:
        findings += _check_server(url)
    return findings


def _check_experiments(settings: Settings) -> Iterator[Diagnosis]:
    try:
        plan = load_plan(settings.experiments, settings.plans)
    except CatalogError as error:
        detail = f"{settings.experiments}: {len(error.problems)} problems; servers run the previous plan"
        yield problem("experiments", detail, f"counterpoint check {settings.experiments}")
        return
    yield ok("experiments", f"{settings.experiments}: plan {plan.version}")


def _check_keys(settings: Settings) -> Iterator[Diagnosis]:
    load_keys_from_settings(settings)
    path = settings.api_keys
    if path is None:
        yield ok("keys", "none: only this machine is served")
    elif path.stat().st_mode & 0o007:
        yield problem("keys", f"{path}: every user of the machine may read or write it", f"chmod o= {path}")
    else:
        yield ok("keys", f"{path}: readable by its owner and group alone")
    soon = datetime.now(UTC) + timedelta(days=7)
    for spec in () if path is None else read_keys_file(path):
        if spec.expires is not None and spec.expires < soon:
            detail = f"{spec.name} ends at {spec.expires.isoformat(timespec='seconds')}; then its callers get 401"
            yield warning("keys", detail, f"counterpoint keys rotate {spec.name}")


def _check_disks(settings: Settings) -> Iterator[Diagnosis]:
    place = next(folder for folder in (settings.data, *settings.data.absolute().parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        yield problem("disk", f"{place}: cannot be written", "give this user the right, or name another --data")
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE:
        yield problem("disk", f"{place}: {free / 1e6:,.0f} MB are free", "free disk space, or no record can be written")
    else:
        yield ok("disk", f"{place}: {free / 1e9:,.1f} GB are free")


def _check_limits(_: Settings) -> Iterator[Diagnosis]:
    files, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        yield warning("limits", f"{files} open files per process bound its connections", "ulimit -n 20000")
    else:
        yield ok("limits", f"{files} open files per process")


def _check_store(settings: Settings) -> Iterator[Diagnosis]:
    with closing(stream.connect_stream(settings.redis)) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            yield problem("store", f"{error}", "start it, or name it with --redis; decisions are degraded until then")
            return
        try:
            stream.refuse_eviction(client)
        except CounterpointError as error:
            yield problem("store", str(error).partition(":")[0], "CONFIG SET maxmemory-policy noeviction")
        if isinstance(client, redis.RedisCluster):
            yield ok("store", "a cluster that answers; look at persistence and memory of each node")
            return
        persistence, memory = client.info("persistence"), client.info("memory")
        if not persistence.get("aof_enabled"):
            remedy = (
                "CONFIG SET appendonly yes, and in its file: a store that dies takes profiles, caps and records along"
            )
            yield problem("store", "it has no append-only file", remedy)
        elif persistence.get("aof_last_write_status") != "ok":
            yield problem("store", "it cannot write its append-only file", "free its disk; its log has the reason")
        most, used = int(memory.get("maxmemory", 0)), int(memory.get("used_memory", 0))
        if most and used > MEMORY_SHARE * most:
            share = f"{100 * used / most:.0f} % of maxmemory are used"
            yield problem("store", share, "raise maxmemory: a full store refuses claims and records")
        seconds, microseconds = client.time()
        ahead = seconds + microseconds / 1e6 - time.time()
        if abs(ahead) > CLOCK_SECONDS:
            yield warning("store", f"its clock is {ahead:+.1f} s from this one", "run a time service on both machines")
        yield ok("store", f"answers; {used / 1e6:,.0f} MB used")


def _check_shelves(settings: Settings) -> Iterator[Diagnosis]:
    try:
        plan = load_plan(settings.experiments, settings.plans)
    except CatalogError:
        return  # the experiments have a finding of their own
    shelves = {
        share.name: share
        for offer in plan.offers.values()
        for share in every_share(plan, offer, time.time())
        if share.pool == "shelf"
    }
    if not shelves:
        return
    with closing(stream.connect_stream(settings.redis)) as client:
        unset = [name for name, share in shelves.items() if not client.hexists(pool_key(share), "level")]
    if unset:
        detail = f"{len(unset):,} of {len(shelves):,} were never counted and so are empty, such as {unset[0]}"
        yield warning("stock by place", detail, "POST /v1/stock/{sku}/places/{place}, or many by POST /v1/stock")
    else:
        yield ok("stock by place", f"all {len(shelves):,} were counted")


def _check_streams(settings: Settings) -> Iterator[Diagnosis]:
    async def read() -> list[StreamLag]:
        async with connect_shipper(settings.redis) as client:
            return await read_stream_lags(client)

    try:
        lags = asyncio.run(read())
    except StoreUnavailable:
        return  # the store has a finding of its own
    behind: dict[str, float] = {}
    for lag in lags:
        behind[lag.reader] = max(behind.get(lag.reader, 0.0), lag.seconds)
        if lag.partition >= settings.partitions:
            detail = f"partition {lag.partition} exists, and COUNTERPOINT_PARTITIONS is {settings.partitions}"
            yield problem("streams", detail, "set the same number for every role")
    for name in ("collector", stream.LEARNER):
        readers = [seconds for reader, seconds in behind.items() if reader.startswith(name)]
        verb = "collect" if name == "collector" else "learn"
        if lags and not readers:
            yield warning("streams", f"no {name} ever read them", f"start counterpoint {verb}")
        elif readers and max(readers) > LAG_SECONDS:
            detail = f"the {name} is {max(readers):,.0f} s behind"
            yield problem("streams", detail, f"is counterpoint {verb} running? Its log names what it waits for")
        elif readers:
            yield ok("streams", f"the {name} is {max(readers):.0f} s behind")


def _check_spools(settings: Settings) -> Iterator[Diagnosis]:
    if not settings.spool.is_dir():
        yield ok("spools", "none on this machine")
        return
    orphans = claim_orphans(settings.spool)
    try:
        size = sum(bytes_after(path, START) for path, _ in orphans)
    finally:
        for _, lock in orphans:
            os.close(lock)
    if size:
        detail = f"{len(orphans)} without a server hold up to {size / 1e6:,.1f} MB of records"
        yield warning("spools", detail, "start a server on this machine, or run counterpoint collect --drain")
    else:
        yield ok("spools", "all are shipped by a server, or empty")


def _check_log(settings: Settings) -> Iterator[Diagnosis]:
    if not settings.log.is_dir():
        yield ok("log", "none on this machine")
        return
    checkpoint = read_checkpoint(settings.log)
    yield ok("log", f"{checkpoint.commit:,} commits")
    if has_extra("analysis"):
        from engine.journal.log.layout import outdated_files  # noqa: PLC0415 (a server has no Parquet libraries)
        from engine.journal.log.quarantine import list_quarantine  # noqa: PLC0415 (as above)

        if old := sum(1 for _ in outdated_files(settings.log)):
            yield warning("log", f"{old:,} files lack columns of this version", "counterpoint migrate")

        held = len(list_quarantine(settings.log))
        if held:
            remedy = "counterpoint quarantine list"
            yield warning("log", f"{held:,} records are in quarantine", remedy)


def _read_ready(url: str) -> bytes:
    try:
        with urlopen(f"{url}/readyz", timeout=10) as answer:  # noqa: S310 (the operator's own address) # nosec B310
            return bytes(answer.read())
    except HTTPError as error:
        return error.read()


def _check_server(url: str) -> Iterator[Diagnosis]:
    if not url.startswith(("http://", "https://")):
        yield problem("server", f"{url}: is not an address of a server", "write http://HOST:PORT")
        return
    try:
        body = _read_ready(url)
    except HTTPException as error:
        if isinstance(error, InvalidURL):
            yield problem("server", f"{url}: is not an address of a server: {error}", "write http://HOST:PORT")
            return
        detail = f"{url}: does not answer as a decision server ({type(error).__name__})"
        yield problem(
            "server", detail, "check the address, which must serve /readyz; if it is right, read the server's log"
        )
        return
    except OSError as error:
        yield problem("server", f"{url}: {error}", "start it; its log has the reason why it ended")
        return
    except ValueError as error:
        yield problem("server", f"{url}: is not an address of a server: {error}", "write http://HOST:PORT")
        return
    try:
        ready = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        why = msgspec.json.decode(ready.get("why", msgspec.Raw(b"[]")), type=list[str])
        problems = msgspec.json.decode(ready.get("plan_problems", msgspec.Raw(b"[]")), type=list[str])
    except (msgspec.MsgspecError, UnicodeError):
        yield problem("server", f"{url}: is not a decision server", "name the address that serves /readyz")
        return
    for text in why:
        detail, _, remedy = text.partition("; ")
        yield problem("server", f"{url}: {detail}", remedy or "see docs/how-to/runbook")
    if problems:
        yield problem("server", f"{url}: {len(problems)} problems of its YAML", "counterpoint check, on its machine")
    if not why and not problems:
        yield ok("server", f"{url}: ready")
