"""The roles of the engine as verbs: all of them on one machine, or one each."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from engine.cli.app import Data, Folder, Redis, app, complain, count, err, log_to_stderr, out
from engine.errors import BadInput
from engine.settings import Settings, from_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.catalog import Plan

Host = Annotated[str | None, Parameter(help="The address to listen on; this machine alone by default.")]
Port = Annotated[int | None, Parameter(help="The port to listen on; 8080 by default, 0 takes a free one.")]
Quiet = Annotated[bool, Parameter(help="Another process tells of changed plans; used by `up`.", show=False)]
Workers = Annotated[int | None, Parameter(help="How many processes decide; 1 by default.")]


@app.command
def up(
    *,
    experiments: Folder = None,
    data: Data = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
) -> int:
    """Run everything on this machine: embedded store, decision servers, learner, collector."""
    from engine.up import run_engine, stop_on_signals

    settings = from_environment(experiments=experiments, data=data, host=host, port=port, workers=workers)
    log_to_stderr()
    stop = stop_on_signals()
    with run_engine(settings, stop) as (base, settings):
        complain(f"Counterpoint answers at {base}, {_to(settings)}. Data: {settings.data}. Ctrl-C ends it.")
        stop.wait()
    return 0


@app.command
def serve(
    *,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    fd: Annotated[int | None, Parameter(help="A listening socket that is inherited; used by `up`.", show=False)] = None,
    quiet: Quiet = False,
) -> int:
    """Serve decisions: one process, or --workers N of them."""
    from engine.service.auth import load_keys_from_settings
    from engine.service.server import adopt_listener, listen, serve_requests
    from engine.up import serve_many

    settings = from_environment(experiments=experiments, data=data, redis=redis, host=host, port=port, workers=workers)
    log_to_stderr()
    if fd is not None:
        serve_requests(settings, adopt_listener(fd), tells=not quiet)
        return 0
    load_keys_from_settings(settings)  # refused before anything is said
    with listen(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        complain(f"Decisions at http://{settings.host}:{port}, {_to(settings)}. Data: {settings.data}.")
        if settings.workers > 1:
            serve_many(settings, listener)
        else:
            serve_requests(settings, listener)
    return 0


@app.command
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
) -> int:
    """Join rewards to decisions, update the policies, publish snapshots.

    One learner of all partitions is the rule. Learners with partitions of their own add up what they know, but each
    joins rewards to its own decisions alone: what a visitor earns after logging in is a zero where the known customer
    is another learner's, and a partition without a learner teaches nothing. Shadow prices are moved by that of 0.
    """
    from engine.catalog.archive import Archive
    from engine.catalog.watch import PlanWatch
    from engine.learn import learn as run
    from engine.up import stop_on_signals

    settings = from_environment(experiments=experiments, data=data, redis=redis)
    log_to_stderr()
    watch = PlanWatch(settings.experiments, Archive(settings.data / "plans"), logs_changes=not quiet)

    def current() -> "Plan":
        watch.poll()
        return watch.plan

    unknown = [number for number in partition or [] if not 0 <= number < settings.partitions]
    if unknown:
        raise BadInput(f"--partition {unknown[0]}: there are {settings.partitions}, from 0 on")
    owned, stop = sorted(set(partition)) if partition else None, stop_on_signals()
    if owned and (others := sorted(set(range(settings.partitions)) - set(owned))):
        complain(_alone(owned, others))
    run(settings, current, stop, owned=owned)
    return 0


@app.command
def collect(
    *,
    data: Data = None,
    redis: Redis = None,
    drain: Annotated[
        bool, Parameter(negative="", show_default=False, help="End once all that was answered is in the log.")
    ] = False,
) -> int:
    """Write the log: streams to Parquet. With --drain empty spool and streams into it and end; 1 if not all came."""
    from engine.erasure.listener import LogErasures
    from engine.journal.log.collect import collect as run
    from engine.up import stop_on_signals, store_of

    settings = from_environment(data=data, redis=redis)
    log_to_stderr()
    stop = stop_on_signals()
    if not drain:
        run(settings, LogErasures(), stop=stop)
        return 0
    with store_of(settings, named=redis is not None or "COUNTERPOINT_REDIS" in os.environ) as settings:
        summary = run(settings, LogErasures(), drain=True, stop=stop)
    rows = ", ".join(f"{number:,} {table}" for table, number in summary.rows.items()) or "nothing new"
    complain(f"Collected {rows}.")
    if summary.waiting:
        complain(f"{count(summary.waiting, 'spool')} with records that do not come: what holds it hangs; run it again.")
    return 1 if summary.waiting or summary.lost else 0


@app.command
def demo(
    *,
    once: Annotated[
        bool, Parameter(negative="", show_default=False, help="End after the reports instead of serving on.")
    ] = False,
    customers: Annotated[int, Parameter(help="How many simulated customers come.")] = 4000,
    port: Port = None,
    data: Annotated[
        Path | None, Parameter(help="Where its spool, store and log are kept, emptied first; ./.data/demo by default.")
    ] = None,
) -> int:
    """A shop comes alive: simulated traffic over HTTP, learning, reports. Then keeps serving, unless --once."""
    from engine.demo import run_demo
    from engine.up import stop_on_signals

    if customers < 1:
        raise BadInput(f"--customers {customers}: is below 1; leave it out for 4,000")
    log_to_stderr()
    settings = from_environment(port=port, data=data or Path(".data/demo"))
    return run_demo(settings, customers, once=once, stop=stop_on_signals(), out=out, err=err)


def _to(settings: Settings) -> str:
    return "to those who have a key" if settings.api_keys else "to this machine only, as no keys are configured"


def _alone(owned: "Sequence[int]", others: "Sequence[int]") -> str:
    """What a learner without these `others` does not do."""
    mine, theirs = (", ".join(map(str, some)) for some in (owned, others))
    paced = "" if 0 in owned else " Shadow prices are moved by the learner of partition 0."
    return (
        f"Learns of partition {mine} alone: {theirs} must have learners of their own, or nothing of them is learnt. A "
        "reward counts only where customer and decision are in one learner's partitions; of a visitor who logged in "
        f"meanwhile it may be a zero, in the log too. Without --partition one learner has them all.{paced}"
    )
