"""The verb that finds experiments whose effects depend on each other."""

import time
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import REPORT, AsJson, Data, Folder, LogFolder, app, print_json, print_line
from engine.settings import from_environment


@app.command(group=REPORT)
def interactions(
    *,
    log: LogFolder = None,
    as_of: Annotated[datetime | None, Parameter(help="Count only what happened until then (UTC).")] = None,
    alpha: Annotated[float, Parameter(help="The probability of any false finding, at any look.")] = 0.05,
    experiments: Folder = None,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Find pairs of running experiments whose effects depend on each other, and the layer that would prevent each."""
    from engine.analysis.interactions.pairs import find_interactions
    from engine.analysis.stats.estimate import Effect
    from engine.catalog import load_plan
    from engine.errors import BadInput

    if not 0 < alpha < 1:
        raise BadInput(f"--alpha {alpha:g} is not between 0 and 1; 0.05 is usual")
    settings = from_environment(experiments=experiments, data=data)
    now = as_of.replace(tzinfo=as_of.tzinfo or UTC).timestamp() if as_of else time.time()
    found = find_interactions(
        load_plan(settings.experiments, settings.plans), log or settings.log, now=now, alpha=alpha
    )
    if json:
        print_json(found)
        return 0
    tested = [one for one in found.interactions if isinstance(one.contrast, Effect)]
    for one in found.interactions:
        pair = f"{one.experiments[0]}.{one.variants[0]} and {one.experiments[1]}.{one.variants[1]} on {one.metric}"
        if not isinstance(one.contrast, Effect):
            print_line(f"  {pair}: {one.contrast.not_estimable}")
        elif one.found:
            effect = one.contrast
            print_line(
                f"! {pair}: both together {effect.estimate:+.4g} ({effect.low:+.4g} to {effect.high:+.4g}) more than "
                f"the sum of their effects, adjusted p {one.adjusted_p:.2g}. To prevent it {one.prevent}."
            )
    count = sum(one.found for one in tested)
    print_line(
        f"{count} of {len(tested)} contrasts interact; any false finding has a probability of at most {alpha:g}."
    )
    if found.apart:
        print_line(f"{len(found.apart)} pairs share a layer, and so no customer.")
    for key, why in found.skipped.items():
        print_line(f"{key} is left out: {why}.")
    return 0
