"""`counterpoint VERB …`: verbs parse and call. 0 done, 1 the answer is 'no', 2 unusable input."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
import msgspec
from cyclopts import Parameter
from rich.console import Console

from engine.errors import CatalogError, CounterpointError
from engine.settings import from_environment

if TYPE_CHECKING:
    from engine.catalog import Plan

app = cyclopts.App(
    name="counterpoint",
    help="Experiments and offers, decided for every channel of one shop.",
    version_flags=["--version"],
)
out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document and nothing else.")]
Folder = Annotated[Path | None, Parameter(help="The folder of YAML; ./experiments by default.")]
Data = Annotated[Path | None, Parameter(help="Where spool, store and log are kept; ./.data by default.")]
Redis = Annotated[str | None, Parameter(help="redis://…, rediss://… or redis+cluster://…")]


def main() -> None:
    """Run one verb and end the process with its exit code."""
    try:
        sys.exit(app(result_action="return_value") or 0)
    except CatalogError as error:
        for problem in error.problems:
            err.print(str(problem), markup=False, highlight=False, soft_wrap=True)
        err.print(f"{_count(len(error.problems), 'problem')}. Nothing was started or changed.")
        sys.exit(2)
    except CounterpointError as error:
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


@app.command
def check(folder: Path = Path("experiments"), *, json: AsJson = False) -> int:
    """Validate every YAML file and show all problems at once."""
    from engine.catalog import load_plan

    try:
        plan = load_plan(folder)
    except CatalogError as error:
        if json:
            _print_json({"ok": False, "problems": error.problems})
        else:
            for problem in error.problems:
                out.print(str(problem), markup=False, highlight=False, soft_wrap=True)
            out.print(f"{_count(len(error.problems), 'problem')}. The running plan is unchanged.")
        return 1
    if json:
        _print_json({"ok": True, "problems": [], "plan": plan.version})
    else:
        out.print(
            f"{folder}: {_count(len(plan.experiments), 'experiment')}, {_count(len(plan.offers), 'offer')}, "
            f"{_count(len(plan.placements), 'placement')}. No problems. Plan {plan.version}.",
            highlight=False,
        )
    return 0


@app.command
def up(
    *,
    experiments: Folder = None,
    data: Data = None,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
) -> int:
    """Run everything on this machine: embedded store, decision servers, learner, collector."""
    from engine.up import running, stop_on_signals

    settings = from_environment(experiments=experiments, data=data, host=host, port=port, workers=workers)
    _log()
    stop = stop_on_signals()
    with running(settings, stop) as (base, settings):
        err.print(f"Counterpoint answers at {base} on this machine only. Data: {settings.data}. Ctrl-C ends it.")
        stop.wait()
    return 0


@app.command
def serve(
    *,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    fd: Annotated[int | None, Parameter(help="A listening socket that is inherited; used by `up`.", show=False)] = None,
) -> int:
    """Serve decisions: one process, or --workers N of them."""
    from engine.service.server import inherited, listen, run
    from engine.up import serve_many

    settings = from_environment(experiments=experiments, data=data, redis=redis, host=host, port=port, workers=workers)
    _log()
    if fd is not None:
        run(settings, inherited(fd))
    elif settings.workers > 1:
        serve_many(settings)
    else:
        with listen(settings.host, settings.port) as listener:
            run(settings, listener)
    return 0


@app.command
def learn(*, experiments: Folder = None, data: Data = None, redis: Redis = None) -> int:
    """Join rewards to decisions, update the policies, publish snapshots."""
    from engine.catalog.watch import PlanWatch
    from engine.learn import learn as run
    from engine.up import stop_on_signals

    settings = from_environment(experiments=experiments, data=data, redis=redis)
    _log()
    watch = PlanWatch(settings.experiments)

    def current() -> "Plan":
        watch.poll()
        return watch.plan

    run(settings, current, stop_on_signals())
    return 0


@app.command
def analyze(
    key: str,
    *,
    log: Annotated[Path | None, Parameter(help="The Parquet log; DATA/log by default.")] = None,
    experiments: Folder = None,
    data: Data = None,
    as_of: Annotated[datetime | None, Parameter(help="Count only what happened until then (UTC).")] = None,
    json: AsJson = False,
) -> int:
    """The report of one experiment from the log."""
    from engine.analysis import analyze_experiment
    from engine.analysis.ask import ask
    from engine.analysis.render import render
    from engine.catalog import load_plan

    settings = from_environment(experiments=experiments, data=data)
    question, metrics = ask(load_plan(settings.experiments), key)
    report = analyze_experiment(question, metrics, log or settings.log, as_of=as_of and as_of.replace(tzinfo=UTC))
    if json:
        _print_json(report)
    else:
        out.print(render(report))
    return 0


@app.command
def demo(*, once: bool = False, customers: int = 4000, port: int | None = None, data: Data = None) -> int:
    """A shop comes alive: simulated traffic over HTTP, learning, reports. Then keeps serving, unless --once."""
    from engine.demo import run
    from engine.up import stop_on_signals

    _log()
    return run(
        from_environment(port=port, data=data or Path(".data/demo")), customers, once=once, stop=stop_on_signals()
    )


@app.command
def collect(*, data: Data = None, redis: Redis = None, drain: bool = False) -> int:
    """Write the log: streams to Parquet. With --drain empty spool and streams into it and end."""
    from engine.journal.collect import collect as run
    from engine.up import stop_on_signals

    settings = from_environment(data=data, redis=redis)
    _log()
    summary = run(settings, drain=drain, stop=stop_on_signals())
    if drain:
        err.print(f"Collected: {summary}", highlight=False)
    return 0


def _log() -> None:
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
