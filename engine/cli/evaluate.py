"""Offline evaluation as verbs: other policies on the log, and the engine on a public dataset."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from engine.cli.app import REPORT, AsJson, Data, app, err, log_to_stderr, out, print_json
from engine.errors import require_extras
from engine.settings import from_environment


@app.command(group=REPORT)
def evaluate(
    *,
    log: Annotated[
        Path | None, Parameter(help="The log's folder, DATA/log by default, or a CSV of the Open Bandit Dataset.")
    ] = None,
    policy: Annotated[
        list[Path], Parameter(help="A YAML file: a placement's, or `kind:` and its options; may be repeated.")
    ],
    placement: Annotated[
        str | None,
        Parameter(
            help="The placement of the log to evaluate, if the files do not name it; PLACEMENT#creatives are the "
            "creatives of what it showed."
        ),
    ] = None,
    alpha: Annotated[float, Parameter(help="One minus the coverage of the intervals.")] = 0.05,
    curve: Annotated[
        bool, Parameter(negative="", show_default=False, help="Also a learning curve, by replay of the log.")
    ] = False,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Estimate the value of policies from decisions logged with their propensities; exit 1 where the log cannot."""
    from engine.analysis.offpolicy.evaluate import evaluate as evaluate_log
    from engine.analysis.render.evaluation import render_evaluation

    source = log or from_environment(data=data).log
    report = evaluate_log(source, policy, placement=placement, alpha=alpha, curve=curve)
    if json:
        print_json(report)
    else:
        out.print(render_evaluation(report))
    return 0 if report.is_estimable else 1


@app.command(group=REPORT)
def replay(
    dataset: Literal["obd"],
    *,
    source: Annotated[Path, Parameter(help="The dataset's folder, as `make obd` unpacks it.")] = Path(
        ".cache/obd/obp/dataset/obd"
    ),
    campaign: Annotated[Literal["all", "men", "women"], Parameter(help="The campaign to replay.")] = "all",
    rounds: Annotated[int, Parameter(help="How many of its rounds.")] = 10_000,
    data: Annotated[
        Path | None, Parameter(help="The folder of spool, store and log; one that is removed afterwards by default.")
    ] = None,
    port: Annotated[int, Parameter(help="The engine's port; a free one by default.")] = 0,
    json: AsJson = False,
) -> int:
    """Replay the logged rounds of a public dataset on a running engine, which learns where it agrees with the log."""
    require_extras("counterpoint replay", "embedded", "analysis")
    from tempfile import TemporaryDirectory

    from engine.traffic.obd_replay import render_replay, replay_obd
    from engine.up import stop_on_signals

    log_to_stderr()
    with TemporaryDirectory(prefix=f"counterpoint-{dataset}-") as folder:
        settings = from_environment(data=data or Path(folder) / "data", port=port)
        report = replay_obd(settings, source, stop_on_signals(), campaign=campaign, rounds=rounds, err=err)
    if json:
        print_json(report)
    else:
        out.print(render_replay(report))
    return 0
