"""The verb that shows the state of every experiment, flag and placement."""

import time
from typing import TYPE_CHECKING

from rich.markup import escape

from engine.cli.app import (
    REPORT,
    AsJson,
    Data,
    Folder,
    LogFolder,
    Redis,
    app,
    is_store_named,
    new_table,
    out,
    print_json,
    print_line,
)
from engine.errors import require_extras
from engine.settings import from_environment

if TYPE_CHECKING:
    from engine.analysis.checks.lights import Light
    from engine.supervise.status import StatusLine

STYLES = {"good": "green", "warn": "yellow", "bad": "bold red", "muted": "dim", "": ""}
WORDS = {"good": "good", "warn": "look", "bad": "BAD", "muted": "-", "": "-"}

LONGEST_KEY = 40
"""Characters of a key that the table does not fold."""


@app.command(group=REPORT)
def status(
    *,
    log: LogFolder = None,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Show every experiment, flag and placement in a line: days left, traffic, checks, and what to decide next.

    Traffic is decisions a day over the last 7 days. A flag that gave one value for 90 days is called stale. Pauses,
    ramps and breakers are read from the store of the data directory; if none runs there, pauses and ramps from the log.
    """
    require_extras("counterpoint status", "analysis")
    from engine.catalog.check.load import load_specs
    from engine.supervise.running_state import read_running_state
    from engine.supervise.status import read_shop_status

    settings = from_environment(experiments=experiments, data=data, redis=redis)
    folder = log or settings.log
    specs = load_specs(settings.experiments, settings.plans)
    running = read_running_state(settings, folder, is_named=is_store_named(redis))
    found = read_shop_status(specs, running, folder, time.time())
    if json:
        print_json(found)
        return 0
    headers = ("what", "key", "state", "left", "a day", "checks", "next")
    table = new_table(*headers, figures=["left", "a day"])
    table.columns[1].min_width = max((min(LONGEST_KEY, len(line.key)) for line in found.lines), default=0)
    for line in found.lines:
        table.add_row(*_cells(line))
    out.print(table)
    for one in found.stale:
        print_line(f"stale: {one.key}: {one.text}")
    print_line(f"Plan {found.plan}, {found.as_of}.{'' if folder.is_dir() else f' {folder} has no log yet.'}")
    return 0


def _cells(line: "StatusLine") -> tuple[str, ...]:
    left = "" if line.days_left is None else f"{max(0.0, line.days_left):,.0f} d"
    traffic = "" if line.traffic is None else f"{line.traffic:,.0f}"
    checks = ", ".join(map(_light, line.lights))
    faults = [light.text for light in line.lights if light.tone in {"warn", "bad"}]
    return line.kind, escape(line.key), line.state, left, traffic, checks, escape(" ".join((line.next, *faults)))


def _light(light: "Light") -> str:
    """A check as one word."""
    style = STYLES[light.tone]
    word = f"[{style}]{WORDS[light.tone]}[/]" if style else WORDS[light.tone]
    return f"{light.name} {word}"
