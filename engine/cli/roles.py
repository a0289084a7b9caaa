"""The roles of the engine as verbs: all of them on one machine (`up`, `demo`), or one each."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from engine.cli.app import (
    RUN,
    AsJson,
    Data,
    Folder,
    Redis,
    app,
    err,
    format_count,
    is_store_named,
    log_to_stderr,
    open_store,
    out,
    print_error,
    print_json,
    print_line,
)
from engine.errors import BadInput, require_extras
from engine.settings import Settings, from_environment, keep_files_private
from engine.telemetry.tracing import start_tracing

if TYPE_CHECKING:
    from engine.catalog import Plan

Host = Annotated[str | None, Parameter(help="The address to listen on; this machine alone by default.")]
Port = Annotated[int | None, Parameter(help="The port to listen on; 8080 by default, 0 takes a free one.")]
DASHBOARD_PORT = 8081
Quiet = Annotated[bool, Parameter(help="Do not log changes of the plan: another process of `up` does.", show=False)]
Workers = Annotated[int | None, Parameter(help="How many processes decide; 1 by default.")]


@app.command(group=RUN)
def up(
    *,
    experiments: Folder = None,
    data: Data = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
) -> int:
    """Run everything on this machine: embedded store, decision servers, learner, collector."""
    require_extras("counterpoint up", "embedded", "analysis")
    from engine.up import run_engine, stop_on_signals

    settings = from_environment(experiments=experiments, data=data, host=host, port=port, workers=workers)
    if settings.tls_certificate is not None:
        raise BadInput("COUNTERPOINT_TLS_CERTIFICATE: `up` has no TLS; run `serve`, or a proxy before `up`")
    log_to_stderr()
    keep_files_private()
    stop = stop_on_signals()
    with run_engine(settings, stop) as (base, settings):
        print_error(f"Counterpoint answers at {base}, {_access(settings)}. Data: {settings.data}. Ctrl-C ends it.")
        stop.wait()
    return 0


@app.command(group=RUN)
def serve(
    *,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    fd: Annotated[int | None, Parameter(help="An inherited listening socket; used by `up`.", show=False)] = None,
    quiet: Quiet = False,
) -> int:
    """Serve decisions: one process, or --workers N of them."""
    from engine.catalog.archive import Archive
    from engine.catalog.watch import check_start
    from engine.service.access.listener import adopt_listener, check_certificate, listen
    from engine.service.auth import load_keys_from_settings
    from engine.service.server import serve_requests
    from engine.up import serve_many

    settings = from_environment(experiments=experiments, data=data, redis=redis, host=host, port=port, workers=workers)
    log_to_stderr()
    keep_files_private()
    start_tracing(settings.traces, "serve")
    if fd is not None:
        serve_requests(settings, adopt_listener(fd), logs_changes=not quiet)
        return 0
    # What is refused is reported before the address is announced.
    check_start(settings.experiments, Archive(settings.plans))
    load_keys_from_settings(settings)
    check_certificate(settings.tls_certificate, settings.tls_key)
    with listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        print_error(
            f"Decisions at {settings.scheme}://{settings.host}:{port}, {_access(settings)}. Data: {settings.data}."
        )
        if settings.workers > 1:
            serve_many(settings, listener)
        else:
            serve_requests(settings, listener)
    return 0


@app.command(group=RUN)
def learn(
    *,
    partition: Annotated[
        list[int] | None,
        Parameter(name="--partition", negative="", help="Only this one; may be repeated. All by default."),
    ] = None,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    quiet: Quiet = False,
    substitute: Annotated[
        bool, Parameter(negative="", help="Stand in for a learner that is gone, and for no other.", show=False)
    ] = False,
) -> int:
    """Join rewards to decisions, update the policies, publish snapshots.

    Run one learner of all partitions, or several with partitions of their own. Each of these reads all partitions,
    teaches its own, and adds up the policies of all. The learner of partition 0 also moves the shadow prices and tests
    the guardrails. When one is gone, another starts a process that takes over its partitions.
    """
    from engine.catalog.archive import Archive
    from engine.catalog.watch import PlanWatch, check_start
    from engine.learn import learn as run_learner
    from engine.learn.partitions.takeover import taking_over
    from engine.up import stop_on_signals

    settings = from_environment(experiments=experiments, data=data, redis=redis)
    unknown = [number for number in partition or [] if not 0 <= number < settings.partitions]
    if unknown:
        raise BadInput(f"--partition {unknown[0]}: is not a partition; name one from 0 to {settings.partitions - 1}")
    log_to_stderr()
    keep_files_private()
    start_tracing(settings.traces, "learn")
    archive = Archive(settings.plans)
    if not quiet:
        check_start(settings.experiments, archive)
    watch = PlanWatch(settings.experiments, archive, logs_changes=not quiet)

    def current_plan() -> "Plan":
        watch.poll()
        return watch.plan

    owned, stop = sorted(set(partition)) if partition else None, stop_on_signals()
    if owned and (others := sorted(set(range(settings.partitions)) - set(owned))):
        print_error(_split_warning(owned, others))
    with taking_over(settings, owned, is_substitute=substitute):
        run_learner(settings, current_plan, stop, owned=owned)
    return 0


@app.command(group=RUN)
def collect(
    *,
    data: Data = None,
    redis: Redis = None,
    drain: Annotated[
        bool, Parameter(negative="", show_default=False, help="End when everything answered is in the log.")
    ] = False,
) -> int:
    """Write the log: streams to Parquet. With --drain also the spools, then end; exit 1 if records are missing."""
    from engine.erasure.listener import LogErasures
    from engine.journal.log.collect import collect as run_collector
    from engine.lake.follow import LAST_SECONDS, copying
    from engine.up import reach_store, stop_on_signals

    settings = from_environment(data=data, redis=redis)
    log_to_stderr()
    keep_files_private()
    start_tracing(settings.traces, "collect")
    stop = stop_on_signals()
    if not drain:
        with copying(settings, last_seconds=LAST_SECONDS) as copy:
            run_collector(settings, LogErasures(), stop=stop)
        if copy.is_hanging:
            sys.stderr.flush()
            os._exit(0)  # all that was collected is committed; pyarrow would wait for its open requests
        return 0
    with reach_store(settings, is_named=is_store_named(redis)) as settings, copying(settings):
        summary = run_collector(settings, LogErasures(), drain=True, stop=stop)
    rows = ", ".join(f"{number:,} {table}" for table, number in summary.rows.items()) or "nothing new"
    print_error(f"Collected {rows}.")
    if summary.waiting:
        print_error(
            f"Uncollected records remain in {format_count(summary.waiting, 'spool')}: the process that writes there is "
            "not shipping. Run this again, or stop that process."
        )
    return 1 if summary.waiting or summary.lost else 0


@app.command(group=RUN)
def dashboard(
    *,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    host: Host = None,
    port: Annotated[int | None, Parameter(help="The port to listen on; 8081 by default, 0 takes a free one.")] = None,
    fd: Annotated[int | None, Parameter(help="An inherited listening socket; used by `up`.", show=False)] = None,
) -> int:
    """Serve the dashboard's pages: a process of its own, which reads the log and the store and decides nothing."""
    require_extras("counterpoint dashboard", "analysis", "dashboard")
    from engine.catalog.archive import Archive
    from engine.catalog.watch import check_start
    from engine.dashboard.server import serve_dashboard
    from engine.service.access.listener import adopt_listener, listen
    from engine.service.auth import load_keys_from_settings

    settings = from_environment(experiments=experiments, data=data, redis=redis, host=host, port=port)
    log_to_stderr()
    keep_files_private()
    start_tracing(settings.traces, "dashboard")
    if fd is not None:
        serve_dashboard(settings, adopt_listener(fd))
        return 0
    check_start(settings.experiments, Archive(settings.plans))
    load_keys_from_settings(settings)
    with listen(settings.host, DASHBOARD_PORT if port is None else port) as listener:
        port = listener.getsockname()[1]
        print_error(f"Dashboard at http://{settings.host}:{port}, {_access(settings)}. Data: {settings.data}.")
        serve_dashboard(settings, listener)
    return 0


@app.command(group=RUN)
def demo(
    *,
    once: Annotated[
        bool, Parameter(negative="", show_default=False, help="End after the reports instead of serving on.")
    ] = False,
    customers: Annotated[int, Parameter(help="The number of simulated customers.")] = 4000,
    port: Port = None,
    data: Annotated[
        Path | None, Parameter(help="The folder of spool, store and log, emptied first; ./.data/demo by default.")
    ] = None,
) -> int:
    """Run a simulated shop: traffic over HTTP, learning, reports. Then serve on, unless --once."""
    require_extras("counterpoint demo", "embedded", "analysis")
    from engine.traffic.demo import run_demo
    from engine.up import stop_on_signals

    if customers < 1:
        raise BadInput(f"--customers {customers}: is below 1; leave it out for 4,000")
    log_to_stderr()
    keep_files_private()
    settings = from_environment(port=port, data=data or Path(".data/demo"))
    return run_demo(settings, customers, once=once, stop=stop_on_signals(), out=out, err=err)


@app.command(group=RUN)
def due(
    *,
    channel: Annotated[str, Parameter(help="A channel that writes to customers (outbound: true).")],
    out: Annotated[Path, Parameter(name="--out", help="The Parquet file to write, one row per message.")],
    part: Annotated[int, Parameter(help="Messages that are confirmed at a time.", show=False)] = 1000,
    limit: Annotated[int | None, Parameter(help="How many messages at most; all that are due by default.")] = None,
    lease: Annotated[int, Parameter(help="Seconds for which another sender waits for what this one lost.")] = 900,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Write the messages that are due on a channel into a file, and confirm them as sent.

    Each is decided, claimed and logged as any request. A run that was killed goes on where it was, by the same command:
    nobody is in the file twice, and nobody is forgotten.
    """
    require_extras("counterpoint due", "analysis")
    import asyncio

    from msgspec.structs import replace

    from engine.service.due.batch import DueBatch, write_due_batch
    from engine.settings import from_environment

    if limit is not None and limit < 1:
        raise BadInput(f"--limit {limit}: is below 1; leave it out for all messages")
    if not 1 <= lease <= 86_400:
        raise BadInput(f"--lease {lease}: is not between 1 and 86400 seconds; leave it out for 900")
    log_to_stderr()
    folder = from_environment(experiments=experiments).experiments
    with open_store(data, redis) as stored:
        settings = replace(stored, experiments=folder)
        batch = DueBatch(channel=channel, file=out, limit=limit, lease=float(lease), part=part)
        summary = asyncio.run(write_due_batch(settings, batch, _report))
    if json:
        print_json(summary)
        return 0
    left = "" if summary.left is None else f" The capacity of {channel} allows {summary.left:,} more now."
    print_line(f"{format_count(summary.messages, 'message')} in {summary.file}.{left}")
    return 0


def _report(written: int) -> None:
    """Print the progress of the file."""
    print_error(f"{format_count(written, 'message')} written …")


def _access(settings: Settings) -> str:
    return "for holders of a key" if settings.api_keys else "for this machine only: no keys are configured"


def _split_warning(owned: Sequence[int], others: Sequence[int]) -> str:
    """A warning about the limits of a learner that has only some of the partitions."""
    mine, rest = (", ".join(map(str, some)) for some in (owned, others))
    prices = "" if 0 in owned else " The learner of partition 0 moves the shadow prices and tests the guardrails."
    return (
        f"Teaching partition {mine} only: {rest} need learners of their own, or nothing is learnt from them. Without "
        f"--partition one learner has them all.{prices}"
    )
