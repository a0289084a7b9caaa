"""The verb that moves ramps and notifies people."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from engine.cli.app import RUN, Data, Folder, Redis, app, log_to_stderr, print_json, print_line
from engine.errors import BadInput, require_extras
from engine.settings import from_environment, keep_files_private

if TYPE_CHECKING:
    from engine.catalog.plan.plan import Plan
    from engine.catalog.spec.notify import NotifyFile


@app.command(group=RUN)
def supervise(
    *,
    once: Annotated[
        bool, Parameter(negative="", show_default=False, help="Look once, print the notices, end.")
    ] = False,
    every: Annotated[float, Parameter(help="Seconds between two looks.")] = 60.0,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: Annotated[bool, Parameter(negative="", show_default=False, help="With --once: print JSON.")] = False,
    quiet: Annotated[bool, Parameter(help="Do not log changes of the plan.", show=False)] = False,
) -> int:
    """Move the ramps that hold themselves, and send notices to the receivers of notify.yaml."""
    require_extras("counterpoint supervise", "analysis")
    from engine.catalog.archive import Archive
    from engine.catalog.watch import PlanWatch
    from engine.supervise.loop import supervise as run_supervision
    from engine.up import stop_on_signals

    if not every > 0:
        raise BadInput(f"--every {every:g}: is not above 0; give seconds, such as 60")
    settings = from_environment(experiments=experiments, data=data, redis=redis)
    log_to_stderr()
    keep_files_private()
    watch = PlanWatch(settings.experiments, Archive(settings.plans), logs_changes=not quiet)

    def current() -> "tuple[Plan, NotifyFile]":
        watch.poll()
        return watch.plan, watch.notify

    notices = run_supervision(settings, current, stop_on_signals(), every=every, once=once)
    if once and json:
        print_json(notices)
    elif once:
        for notice in notices:
            print_line(f"{notice.title}. {notice.text}")
        if not notices:
            print_line("Nothing needs a person.")
    return 0
