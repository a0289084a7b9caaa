"""Files of tables: names keep their spelling, unfinished files are no data, other encodings are refused by name."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import aa_table, analyze_table
from engine.errors import BadInput


def report_units(path: Path, **more: str) -> dict[str, int]:
    options = {"variant": "arm", "control": "1.0", "method": "fixed"} | more
    return dict(analyze_table(str(path), metrics=["mean:y"], **options).units)  # type: ignore[arg-type] # options by name


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_variants_units_and_strata_of_a_csv_keep_their_spelling(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "shop.csv"
    values = np.random.default_rng(2).normal(5, 1, 40)
    users = [f"{('1', '1.0', '10', '1e1')[at % 4]}{at // 4}" for at in range(40)]
    lines = [
        f"{('1.0', '1.00')[at % 2]},{user},{('TRUE', 'true')[at // 2 % 2]},{value}"
        for at, (user, value) in enumerate(zip(users, values, strict=True))
    ]
    path.write_text(mark + "\n".join(["arm,user,mobile,y", *lines]) + "\n", encoding="utf-8")
    assert report_units(path) == {"1.0": 20, "1.00": 20}
    assert report_units(path, unit="user") == {"1.0": 20, "1.00": 20}
    assert report_units(path, stratum="mobile") == {"1.0": 20, "1.00": 20}
    (check,) = aa_table(str(path), metrics=["mean:y"], unit="user", runs=200)
    assert check.units == 40


def test_a_unit_may_be_a_covariate_and_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("arm,user,y\n" + "".join(f"{at % 2}.0,{at},{at % 7}\n" for at in range(40)))
    assert report_units(path, unit="user") == {"0.0": 20, "1.0": 20}
    report = analyze_table(str(path), variant="arm", control="1.0", unit="user", metrics=["mean:y|user"])
    assert report.units == {"0.0": 20, "1.0": 20}
    with pytest.raises(BadInput, match="has no column 'usr'; it has arm, user, y"):
        report_units(path, unit="usr")


def test_a_line_separator_within_a_cell_ends_no_row(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("arm,note,y\n" + "".join(f"{at % 2}.0,a\u2028b,{at % 7}\n" for at in range(40)), encoding="utf-8")
    assert report_units(path) == {"0.0": 20, "1.0": 20}


@pytest.mark.parametrize(
    ("encoding", "why"),
    [
        ("latin-1", r"line 22 has the byte 0xE9, which is not UTF-8 but may be Latin-1; save it as UTF-8"),
        ("utf-16", "is UTF-16, not UTF-8; save it as UTF-8"),
        ("utf-16-le", "has NUL bytes, as UTF-16 has, and is not UTF-8; save it as UTF-8"),
    ],
)
def test_another_encoding_is_one_line_with_a_remedy(tmp_path: Path, encoding: str, why: str) -> None:
    path = tmp_path / "shop.csv"
    rows = "".join(f"{at % 2}.0,{'café' if at == 20 else 'tea'},{at % 7}\n" for at in range(40))
    path.write_text("arm,drink,y\n" + rows, encoding=encoding)
    with pytest.raises(BadInput, match=why) as error:
        report_units(path)
    assert "\n" not in str(error.value)


def test_a_compressed_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv.gz"
    path.write_bytes(gzip.compress(("arm,y\n" + "".join(f"{at % 2}.0,{at % 7}\n" for at in range(40))).encode()))
    assert report_units(path) == {"0.0": 20, "1.0": 20}


@pytest.mark.parametrize("partials", [False, True])
def test_hidden_and_unfinished_files_of_a_folder_are_no_data(tmp_path: Path, partials: bool) -> None:  # noqa: FBT001
    folder = tmp_path / "shop"
    rows = pa.table({"arm": ["1.0", "b"] * 20, "y": np.arange(40.0) % 7})
    for name in (
        "a.parquet",
        "_day=1/b.parquet",
        "_temporary/0/c.parquet",
        ".c.parquet",
        "_part-0.parquet",
        ".x/d.parquet",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / name)
    pq.write_table(pa.table({"arm": [1], "y": ["half"]}), folder / "_temporary/e.parquet")
    more = {"partials": str(tmp_path / "parts")} if partials else {}
    assert report_units(folder, **more) == {"1.0": 40, "b": 40}


def test_a_folder_with_unfinished_files_alone_has_no_table(tmp_path: Path) -> None:
    (tmp_path / "_temporary").mkdir()
    pq.write_table(pa.table({"arm": ["1.0"], "y": [1.0]}), tmp_path / "_temporary" / "a.parquet")
    with pytest.raises(BadInput, match="is a folder without Parquet files"):
        report_units(tmp_path)
