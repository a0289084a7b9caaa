"""Tables that a report stores have the types that its later queries assume."""

from engine.analysis.sources.engines import DuckDB, ibis_table


def test_a_column_of_literal_doubles_is_stored_as_doubles() -> None:
    source = DuckDB()
    rows = ibis_table(source.view("rows", "SELECT range AS x FROM range(40000)"))
    kept = source.keep("kept", rows.mutate(bought=(rows["x"] % 2 == 0).ifelse(1.0, 0.0)))
    types = {name: kind for name, kind, *_ in source.connection.execute("DESCRIBE kept").fetchall()}
    assert types["bought"] == "DOUBLE"
    assert types["x"] == "BIGINT"
    # As decimals the product has 34 digits behind the point, and its sum no room before it.
    centred = kept.mutate(q=kept["bought"] - 0.38205216719973536)
    (total,) = source.rows(centred.aggregate(p=(centred["q"] * centred["q"]).sum()))[0]
    assert abs(float(total or 0.0) - (20_000 * 0.61794783280026464**2 + 20_000 * 0.38205216719973536**2)) < 1e-6
