"""The proposed seed: what it balances, that it is the one that assigns so, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.analysis.design.unit_balance import propose_seed
from engine.errors import BadInput
from tests.catalog.folder import experiment, plan, subject

STORES = 24


def stores(**columns: object) -> pa.Table:
    rng = np.random.default_rng(4)
    revenue = rng.lognormal(10, 0.8, STORES)
    return pa.table(
        {"store": [f"S{n}" for n in range(STORES)], "revenue": revenue, "visits": rng.poisson(revenue / 50), **columns}
    )


def test_the_proposed_seed_assigns_alike_stores() -> None:
    found = propose_seed(plan(experiment("x", unit="store")).experiments["x"], stores(), seeds=300)
    assert found.units == {"a": 12, "b": 12}
    assert all(row.difference < 0.1 < row.usual for row in found.covariates)
    seeded = plan(experiment("x", unit="store", seed=found.seed))
    from engine.decision.assign import assign  # noqa: PLC0415

    had = [assign(seeded, seeded.experiments["x"], subject(None, store=f"S{n}"), 1e9).index for n in range(STORES)]
    revenue = stores()["revenue"].to_numpy()
    for index, name in enumerate(("a", "b")):
        own = [revenue[n] for n in range(STORES) if had[n] == index]
        assert np.mean(own) == pytest.approx(found.covariates[0].means[name])
    alone = propose_seed(seeded.experiments["x"], stores(), covariates=["visits"], seeds=50)
    assert [row.covariate for row in alone.covariates] == ["visits"]
    assert alone.now == pytest.approx(found.covariates[1].difference)


def test_three_variants_of_uneven_weights_are_balanced() -> None:
    weights = [{"key": key, "weight": weight} for key, weight in (("a", 0.5), ("b", 0.25), ("c", 0.25))]
    found = propose_seed(plan(experiment("x", unit="store", variants=weights)).experiments["x"], stores(), seeds=500)
    assert found.units == {"a": 12, "b": 6, "c": 6}
    assert all(row.difference < row.usual / 2 for row in found.covariates)


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        (pa.table({"shop": ["S1"]}), "has no column 'store'"),
        (pa.table({"store": ["S1", "S1", "S2", "S3"], "x": [1, 2, 3, 4]}), "'S1' has two rows"),
        (pa.table({"store": ["S1", "S2"], "x": [1, 2]}), "has 2 units"),
        (pa.table({"store": list("abcd"), "x": [1, 1, 1, 1]}), "'x' is the same for every unit"),
        (pa.table({"store": list("abcd"), "x": [1, None, 1, 1]}), "b has no x"),
        (pa.table({"store": list("abcd"), "x": list("abcd")}), "no column of numbers"),
    ],
)
def test_a_table_that_cannot_be_balanced_is_refused(table: pa.Table, wrong: str) -> None:
    with pytest.raises(BadInput, match=wrong):
        propose_seed(plan(experiment("x", unit="store")).experiments["x"], table, seeds=5)


def test_the_verb_prints_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from engine.cli.simulate import balance  # noqa: PLC0415
    from tests.stories.conftest import write_shop  # noqa: PLC0415

    two = {"unit": "store", "status": "draft", "variants": [{"key": "a"}, {"key": "b"}]}
    folder = write_shop(tmp_path / "shop", {"offers": {"a": {}}, "placements": {}, "experiments": {"x": two}})
    rows = [f"S{n},{n * n}" for n in range(12)]
    (tmp_path / "stores.csv").write_text("store,revenue\n" + "\n".join(rows) + "\n")
    assert balance("x", covariates=tmp_path / "stores.csv", seeds=50, experiments=folder) == 0
    printed = capsys.readouterr().out
    assert "Write 'seed: x-" in printed
    assert "into x.yaml" in printed
