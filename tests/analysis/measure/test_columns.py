"""Cells that a report cannot read are named with their column, and never counted as 0."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.channels import measure_channels
from engine.analysis.measure.journeys.attribution import measure_attribution
from engine.analysis.measure.journeys.journeys import measure_journeys
from engine.analysis.measure.satisfaction import measure_satisfaction
from engine.analysis.measure.sources import EventSource
from engine.analysis.measure.value.clv import measure_clv
from engine.analysis.measure.value.cohorts import measure_cohorts
from engine.analysis.measure.value.rfm import measure_rfm
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput

UNREADABLE = ['"27,12"', "ten", "NaN", "inf", "-inf", "1 000"]
REPORTS: list[Callable[[EventSource], Any]] = [
    measure_clv,
    measure_rfm,
    measure_cohorts,
    measure_journeys,
    measure_channels,
]


def write(file: Path, header: str, rows: list[str]) -> EventSource:
    file.write_text("\n".join([header, *rows]) + "\n")
    return EventSource(files=(str(file),))


@pytest.mark.parametrize("cell", UNREADABLE)
def test_an_unreadable_revenue_is_refused_by_every_report(tmp_path: Path, cell: str) -> None:
    rows = [*(f"c{n},2026-01-{1 + n:02},{n}.5" for n in range(20)), f"z,2026-01-30,{cell}"]
    for report in REPORTS:
        source = write(tmp_path / "t.csv", "customer,time,revenue", rows)
        with pytest.raises(
            BadInput, match=f"'revenue'.* 1 of 21 rows, such as '(?i:{cell.strip(chr(34))})'.*--revenue"
        ):
            report(source)


def test_decimal_commas_are_refused_and_empty_cells_or_other_events_are_not(tmp_path: Path) -> None:
    rows = [f"c{n};2026-01-01;{n},5" for n in range(9)]
    with pytest.raises(BadInput, match=r"9 of 9 rows.*decimal point"):
        measure_rfm(write(tmp_path / "comma.csv", "customer;time;revenue", rows))
    rows = [*(f"c{n},2026-01-01,purchase,5" for n in range(9)), "c1,2026-01-02,colour,blue", "c9,2026-01-02,purchase,"]
    report, _ = measure_rfm(write(tmp_path / "t.csv", "customer,time,event,value", rows))
    assert sum(segment.revenue for segment in report.segments) == pytest.approx(45)


@pytest.mark.parametrize("cell", ["", *UNREADABLE])
@pytest.mark.parametrize("column", ["frequency", "recency", "age", "monetary"])
def test_a_summary_names_the_column_that_it_cannot_read(tmp_path: Path, column: str, cell: str) -> None:
    good = {"frequency": "1", "recency": "2", "age": "3", "monetary": "4"}
    rows = [",".join(good.values())] * 40 + [",".join({**good, column: cell}.values())]
    source = write(tmp_path / "t.csv", ",".join(good), rows)
    if (column, cell) == ("monetary", ""):
        assert measure_clv(source)[0].customers == 41
        return
    with pytest.raises(BadInput, match=f"column '{column}'.* 1 of 41 rows"):
        measure_clv(source)


@pytest.mark.parametrize("column", ["conversions", "total"])
@pytest.mark.parametrize("cell", ["", *UNREADABLE])
def test_counts_of_paths_and_scores_are_numbers(tmp_path: Path, column: str, cell: str) -> None:
    good = {"path": "web > app", "conversions": "1", "total": "2"}
    rows = [",".join(good.values()), ",".join({**good, column: cell}.values())]
    with pytest.raises(BadInput, match=f"column '{column}'.* 1 of 2 rows"):
        measure_attribution(write(tmp_path / "t.csv", ",".join(good), rows))
    if cell and "," not in cell:
        with pytest.raises(BadInput, match=r"column 'nps'.* 1 of 11 rows"):
            measure_satisfaction(write(tmp_path / "u.csv", "nps", [*["9"] * 10, cell]))


def test_contracts_before_their_first_renewal_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    leaves = rng.beta(1.0, 3.0, 800)
    tenures = np.minimum(rng.geometric(leaves), 8)
    rows = [f"{tenure},{'yes' if tenure < 8 else 'no'}" for tenure in tenures]
    whole = measure_clv(write(tmp_path / "t.csv", "tenure,ended", rows))[0]
    early = measure_clv(write(tmp_path / "u.csv", "tenure,ended", [*rows, *["0,no"] * 16]))[0]
    assert early.contracts == whole.contracts
    assert not isinstance(whole.contracts, NotEstimable)
    assert whole.sentence.startswith("Of 800 contracts, ")
    assert early.sentence == f"{whole.sentence} 16 more with tenure 0 have reached no renewal and are left out."
    few = measure_clv(write(tmp_path / "v.csv", "tenure,ended", ["1,no", "2,yes"]))[0]
    assert "The retention of 2 contracts cannot be estimated: 1 contracts ended" in few.sentence
    for row, text in {"1,maybe": "'ended'", "1,": "'ended'", ",yes": "'tenure'", "x,yes": "'tenure'"}.items():
        with pytest.raises(BadInput, match=f"column {text}"):
            measure_clv(write(tmp_path / "w.csv", "tenure,ended", [*rows, row]))
    for tenure in ("1.5", "-1", "1e9"):
        with pytest.raises(BadInput, match="whole number"):
            measure_clv(write(tmp_path / "w.csv", "tenure,ended", [*rows, f"{tenure},yes"]))
