"""The verb that shows the cost of the shop's rules."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import REPORT, AsJson, Data, Folder, LogFolder, app, out, print_json
from engine.errors import BadInput, require_extras
from engine.settings import from_environment


@app.command(group=REPORT)
def rent(
    *,
    alpha: Annotated[float, Parameter(help="One minus the coverage of the intervals.")] = 0.05,
    experiments: Folder = None,
    log: LogFolder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Show what each gate, cap, floor, hold-out and quiet hour costs, by the log, or why the log cannot tell."""
    require_extras("counterpoint rent", "analysis")
    from engine.analysis.planvalue.rent import measure_rent
    from engine.analysis.render.plan_value import render_rent
    from engine.catalog.check.load import load_specs

    if not 0 < alpha < 1:
        raise BadInput(f"--alpha {alpha}: is not between 0 and 1; 0.05 gives 95% intervals")
    settings = from_environment(experiments=experiments, data=data)
    report = measure_rent(load_specs(settings.experiments, settings.plans), Path(log or settings.log), alpha=alpha)
    if json:
        print_json(report)
    else:
        out.print(render_rent(report))
    return 0
