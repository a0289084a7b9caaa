"""What to believe: reports from the log or from any table, as verbs."""

from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import AsJson, Data, Folder, Log, app, out, print_json
from engine.settings import from_environment


@app.command
def analyze(
    key: str,
    *,
    log: Log = None,
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
        print_json(report)
    else:
        out.print(render(report))
    return 0
