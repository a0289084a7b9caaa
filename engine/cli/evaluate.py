"""What another policy would have earned on the log, as a verb."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import AsJson, Data, app, out, print_json
from engine.settings import from_environment


@app.command
def evaluate(
    *,
    log: Annotated[
        Path | None, Parameter(help="The log's folder, DATA/log by default, or a CSV of the Open Bandit Dataset.")
    ] = None,
    policy: Annotated[
        list[Path], Parameter(help="A YAML file: a placement's, or `kind:` and its options; may be repeated.")
    ],
    placement: Annotated[str | None, Parameter(help="Which of the log's, where the files do not say it.")] = None,
    alpha: Annotated[float, Parameter(help="One minus the intervals' coverage.")] = 0.05,
    curve: Annotated[
        bool, Parameter(negative="", show_default=False, help="Also a learning curve, by replay of the log.")
    ] = False,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Judge policies offline, on decisions logged with their propensities; exit 1 where the log does not allow it."""
    from engine.analysis.offpolicy.evaluate import evaluate as judge
    from engine.analysis.render.evaluation import render_evaluation

    source = log or from_environment(data=data).log
    report = judge(source, policy, placement=placement, alpha=alpha, curve=curve)
    if json:
        print_json(report)
    else:
        out.print(render_evaluation(report))
    return 0 if report.judged else 1
