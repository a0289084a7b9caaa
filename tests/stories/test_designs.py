"""Random designs from YAML through served decisions and a Parquet log to the report: shares, split, power and money.

The suite runs some; `FUZZ=200` runs that many.
"""

import os
from collections import Counter
from datetime import timedelta
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.report.model import Money
from engine.analysis.report.past_experiments import pair_traffic
from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.catalog.check.load import load_specs
from engine.catalog.check.warnings import final_shares
from engine.catalog.plan.plan import Plan
from engine.catalog.watch import PlanWatch
from engine.rehearse.assertion_files import measured_experiments
from engine.vocabulary import DAY
from tests.stories.conftest import write_shop
from tests.stories.random_designs import (
    DAYS,
    MOVED,
    SHIPPED,
    START,
    Design,
    World,
    audience_of,
    designs,
    serve,
    write_design,
)

ERRORS = 5.0
"""Standard errors of a share that chance may take: one in two million."""


class Rehearsal:
    """A design in a folder of its own: its plans, and what came of serving it."""

    def __init__(self, design: Design, place: Path) -> None:
        self.design, self.place, self.plans = design, place, place / "plans"
        self.kept = ""
        if design.holdout == "frozen":
            before = {**write_design(design), "experiments": {}, "layers": {}}
            self.kept = PlanWatch(write_shop(place / "kept", before), Archive(self.plans)).plan.version
        self.folder = self.write("served")
        self.after = self.plan(self.write("shipped", is_shipped=True)) if design.ships else None
        self.world = serve(design, self.plan(self.folder), self.after, place / "log")

    def write(self, name: str, **more: Any) -> Path:
        return write_shop(self.place / name, write_design(self.design, kept=self.kept, **more))

    def plan(self, folder: Path) -> Plan:
        return load_plan(folder, self.plans)

    def whole(self) -> World:
        """What full traffic would be: everyone is let in whom only a coverage, a layer or a filter keeps out."""
        return serve(
            self.design, self.plan(self.write("whole", is_whole=True)), self.after, self.place / "log of the whole"
        )


@settings(
    max_examples=int(os.environ.get("FUZZ", "12")),
    derandomize="FUZZ" not in os.environ,
    deadline=None,
    phases=[Phase.generate],  # an example takes a second, so that shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(designs())
def test_shares_split_power_and_money_are_those_of_what_was_served(design: Design) -> None:
    environment = {"COUNTERPOINT_ENVIRONMENT": "staging"} if design.environment else {}
    with TemporaryDirectory() as place, patch.dict(os.environ, environment):
        served = Rehearsal(design, Path(place))
        expect_report(served)
        expect_power(served)


def expect_report(served: Rehearsal) -> None:
    design, world = served.design, served.world
    plan = served.after or served.plan(served.folder)
    question, metrics = build_question(plan, design.reported)
    as_of = None if design.ships else START + timedelta(days=DAYS, hours=2)
    report = analyze_experiment(question, metrics, world.log, as_of=as_of)
    units = Counter(world.exposed.values())
    assert "" not in units
    assert report.units == units
    assert report.quality.srm.p > 1e-6, (report.units, report.quality.srm)
    if not design.switches:
        assert report.quality.srm.expected == pytest.approx(design.weights, abs=1e-6)
        customers = Counter(world.customers.values())
        spent: Counter[str] = Counter()
        for customer, (at, amount) in world.bought.items():
            spent[world.customers[customer]] += amount if at <= world.end else 0.0  # type: ignore[assignment]
        means = {name: spent[name] / customers[name] for name in customers}
        for row in report.metrics:
            assert row.mean == pytest.approx({name: means[name] for name in row.mean}, abs=1e-9)
    money = report.recommendation.money_per_month
    assert isinstance(money, Money)
    row = next(one for one in report.metrics if one.variant == money.variant)
    everyone, let_in = len(served.whole().exposed), sum(units.values())
    rows = len(world.members) / let_in  # a mean of stores is per customer
    assert report.days is not None
    expected = row.absolute.estimate * rows * everyone / report.days * 30
    share = let_in / everyone
    error = ERRORS * sqrt((1 - share) / let_in) if share < 1 else 1e-9
    error += 1e-4 if design.switches else 0.0  # thin times of day are joined
    assert money.estimate == pytest.approx(expected, rel=error), (share, money.basis)


def expect_power(served: Rehearsal) -> None:
    """The shares of the audience that `check` and `counterpoint test` plan with, and the traffic of `power KEY`."""
    design, world = served.design, served.world
    specs = load_specs(served.folder, served.plans)
    shares = final_shares(specs, measured_experiments(specs)[design.reported])
    until = SHIPPED.timestamp() if design.ships else float("inf")
    base = audience_of(design, MOVED.timestamp(), until)
    control, *others = design.weights
    smallest = min(others, key=lambda name: design.weights[name])
    for share, name in zip(shares, (control, smallest), strict=True):
        had = sum(world.exposed[unit] == name for unit in world.late)
        assert had == pytest.approx(len(base) * share, abs=ERRORS * sqrt(len(base) * share * (1 - share)) + 1), name
    pair = [name for name in world.exposed.values() if name in {control, smallest}]
    traffic = pair_traffic(served.plan(served.folder), design.reported, world.log)
    days = (min(until, START.timestamp() + DAYS * DAY) - START.timestamp()) / DAY
    if design.unit == "customer":  # the others have all come after some days
        assert traffic.daily == pytest.approx(len(pair) / days, rel=0.1)
    both = design.weights[control] + design.weights[smallest]
    assert traffic.share == pytest.approx(design.weights[control] / both)
