"""`counterpoint migrate`: the layouts of store and log after an update."""

from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, Data, Redis, app, open_store, print_json, print_line
from engine.errors import require_extras
from engine.settings import keep_files_private


@app.command(group=RUN)
def migrate(
    *,
    dry_run: Annotated[
        bool, Parameter(negative="", show_default=False, help="Say what would be done; exit 1 if there is something.")
    ] = False,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Bring store and log to the layouts of this version; roles may run meanwhile."""
    require_extras("counterpoint migrate", "analysis")
    from engine.deployment.migrate import migrate as run_migration
    from engine.deployment.migrate import plan_migrations

    keep_files_private()
    with open_store(data, redis) as settings:
        found = plan_migrations(settings) if dry_run else run_migration(settings)
    if json:
        print_json({"dry_run": dry_run, "parts": found})
    else:
        for one in found:
            print_line(f"{one.part}: layout {one.layout}, of this version {one.target}")
            for step in one.steps or ["nothing to do"]:
                print_line(f"  {step if dry_run or not one.steps else f'done: {step}'}")
    return 1 if dry_run and any(one.is_due for one in found) else 0
