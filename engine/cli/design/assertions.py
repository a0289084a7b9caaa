"""The verb that checks a growth team's own assertions."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape

from engine.cli.app import DESIGN, AsJson, Data, app, format_count, new_table, out, print_error, print_json, print_line
from engine.cli.catalog import read_customers
from engine.errors import MissingExtra, require_extras
from engine.settings import Settings, from_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.catalog.spec.folder import Specs
    from engine.rehearse.assertions import PowerFinding

SAMPLED = 5_000
"""Customers that are generated where no file is given."""


@app.command(name="test", group=DESIGN)
def check_tests(
    folder: Annotated[Path | None, Parameter(help="The folder of YAML; ./experiments by default.")] = None,
    *,
    customers: Annotated[
        Path | None, Parameter(help="The sample of customers, as in preview; 5,000 generated ones by default.")
    ] = None,
    full: Annotated[
        bool, Parameter(name="--all", negative="", show_default=False, help="Show assertions that hold, too.")
    ] = False,
    data: Data = None,
    json: AsJson = False,
) -> int:
    """Check the assertions in FOLDER/tests/*.yaml; exit 1 if one does not hold, 2 if one could not be judged.

    Each says what customers with given traits get, what sampled customers never or always see, or which power an
    experiment has. Nothing is written, and no store is needed. Ramps that hold themselves are at the step that the
    data directory has, else at their first.
    """
    from engine.catalog.check.load import load_specs
    from engine.rehearse.assertion_files import read_assertions
    from engine.rehearse.assertions import check_assertions
    from engine.rehearse.generated_customers import make_customers

    settings = from_environment(experiments=folder, data=data)
    folder = settings.experiments
    specs, now = load_specs(folder, settings.plans), time.time()
    assertions = read_assertions(folder, specs)
    sample = read_customers(customers, specs) if customers else []
    if not sample and any(one.spec.customers is not None for one in assertions):
        sample = make_customers(SAMPLED, specs, now=now)
    ramped = _current_steps(settings, specs)
    results = list(check_assertions(assertions, specs, sample, now, _planned_power, ramped=ramped))
    failed = [one for one in results if one.judged and not one.ok]
    unjudged = [one for one in results if not one.judged]
    code = 1 if failed else 2 if unjudged else 0
    if json:
        counts = {"passed": sum(one.ok for one in results), "failed": len(failed), "not_judged": len(unjudged)}
        print_json({"ok": code == 0, **counts, "results": results})
        return code
    if not assertions:
        print_error(f"{folder}/tests has no assertion; write tests/shop.yaml, see docs/how-to/test-your-shop.md")
    shown = results if full else failed + unjudged
    headers = ("", "test", "given", "expected", "got", "why")
    table = new_table(*headers)
    table.columns[1].min_width = 20
    for one in shown:
        word = "[green]ok[/]" if one.ok else "[bold red]FAILED[/]" if one.judged else "[yellow]not judged[/]"
        cells = (f"{one.file}: {one.test}", one.given, one.expected, one.got, one.why)
        table.add_row(word, *map(escape, cells))
    if shown:
        out.print(table)
    for line in sorted({line for one in results for line in one.ramps}):
        print_line(f"Judged with {line}.")
    aside = f", {len(unjudged):,} not judged" if unjudged else ""
    print_line(f"{format_count(sum(one.ok for one in results), 'assertion')} hold, {len(failed):,} failed{aside}.")
    return code


def _current_steps(settings: Settings, specs: "Specs") -> "Mapping[str, float]":
    """The coverage that each held ramp has reached; empty if there are none."""
    from engine.catalog.plan.compile import compile_plan
    from engine.supervise.running_state import read_running_state

    if not any(one.held_steps or one.rules for one in compile_plan(specs).experiments.values()):
        return {}
    return read_running_state(settings, settings.log, is_named=False).ramped


def _planned_power(specs: "Specs", key: str, metric: str, days: float, effect: float | None) -> "PowerFinding":
    """The power of an experiment by a metric."""
    from engine.catalog.check.warnings import final_shares
    from engine.rehearse.assertion_files import measured_experiments
    from engine.rehearse.assertions import PowerFinding

    try:
        require_extras("the power of an experiment", "analysis")
    except MissingExtra as error:
        return PowerFinding(key, metric, None, str(error), judged=False)
    from engine.analysis.design.planned_power import planned_power

    spec = measured_experiments(specs)[key]
    if len(spec.variants) < 2:
        return PowerFinding(key, metric, None, f"{key} has no two variants to compare")
    shares = final_shares(specs, spec)
    power, why = planned_power(specs.metric(metric), spec.analysis, shares, days=days, effect=effect)
    return PowerFinding(key, metric, power, why)
