"""The same inference on anyone's table: a Parquet or CSV file with a variant column."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.methods import decode_inference
from engine.analysis.design.metrics import Measure, parse_measure
from engine.analysis.report.compare import Evidence, compare_all
from engine.analysis.report.model import Quality, Report
from engine.analysis.report.quality import exposure_check, sample_ratio
from engine.analysis.report.verdict import EXPOSURE_GATE, decide
from engine.analysis.sources.aggregate import CROSSED, STRATUM, VARIANT, Group, Groups, aggregate_groups
from engine.analysis.sources.clustered import (
    ABOUT,
    LAST,
    ROWS,
    UNIT,
    WITH,
    build_unit_frame,
    count_clustered_rows,
    flag_half_rows,
    row_centres,
    unwrap_single_rows,
)
from engine.analysis.sources.engines import DuckDB, connect_engine, ibis_table
from engine.analysis.sources.partials import newest_file, refresh_partials
from engine.analysis.sources.quantiles import Quantiles, estimate_quantiles
from engine.analysis.sources.strata import Stratified, poststratify
from engine.analysis.stats.inference import not_a_share
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.sources.engines import Cell, Engine, Table
    from engine.analysis.stats.estimate import NotEstimable

ALL = "all"  # rows as one variant
RESERVED = {VARIANT, CROSSED, STRATUM, UNIT, LAST}


def analyze_table(  # noqa: PLR0913 # the command line's flags, one each
    path: str,
    *,
    variant: str,
    control: str,
    metrics: Sequence[str],
    unit: str | None = None,
    covariates: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    partials: str | None = None,
    engine: str = "duckdb",
    **options: object,
) -> Report:
    """Compares every variant of a table with control.

    Args:
        path: a Parquet or CSV file, a folder of Parquet files, or a table that the engine knows.
        variant: the column that holds the variant of a row.
        control: the variant to compare with.
        metrics: `mean:COL`, `proportion:COL`, `ratio:NUM/DEN`, `quantile:COL@0.9`; the first is the primary one.
        unit: the column of the unit of assignment; rows of one unit are not independent and are taken together, units
            seen in two variants are counted and left out. None: each row is a unit.
        covariates: columns (or NUM/DEN) from before the exposure, for metrics that name none of their own.
        weights: the shares that were asked for; equal if left out.
        partials: a folder to keep statistics of a folder's files in, so that the next report reads only new files.
        engine: where to compute, see `sources.connect`.
        options: the fields of `Inference` by name, such as `method`, `alpha`, `relative`, `prior` (mean and standard
            deviation) and `stratum` (a column).

    Raises:
        BadInput: if the table cannot answer, in one line that says why.
    """
    inference = decode_inference(options)
    stratum = inference.stratum
    if not metrics:
        raise BadInput("no metric is named; add one, as in --metric mean:revenue")
    measures = [
        msgspec.structs.replace(m, adjust=inference.adjust, stratified=bool(stratum))
        for m in parse_measures(metrics, tuple(covariates))
    ]
    source = connect_engine(engine)
    table = source.table(newest_file(path) if partials else path)
    if partials and not {variant, *(column for measure in measures for column in measure.columns)} <= {*table.schema()}:
        table = source.table(path)  # the newest file lacks a column, others may have it
    check_columns(source, path, table, variant, unit, measures, stratum)
    unowned, refused = _without_unit(source, path, table, unit), _no_shares(source, table, unit, measures)
    about = row_centres(source, table, unit, measures)
    frame, framed = build_unit_frame(table, variant, unit, measures, stratum, about=about)
    found: Groups
    if partials is None:
        keys = (VARIANT, CROSSED, *([STRATUM] if stratum else []))
        found = aggregate_groups(source, frame, keys, [m for m in framed if m.rules.has_moments])
        found, framed = unwrap_single_rows(found, framed, measures)
    else:
        parts = refresh_partials(_addable(source, unit, stratum, measures), path, variant, measures, Path(partials))
        found = {(name, False): group for name, group in parts.items()}
    found = _without_nan(found, str(table.schema()[variant]))
    quantiles = {m.name: quantile_of(source, table, variant, unit, m) for m in measures if not m.rules.has_moments}
    named, whole, strata = _by_variant(found, [m.name for m in measures if m.rules.has_moments], stratum)
    crossovers = sum(group.units for key, group in found.items() if key[1])
    unassigned = sum(group.units for key, group in found.items() if key[0] is None and not key[1])
    _check_variants(path, variant, control, named, crossovers)
    if weights is not None:
        _check_weights(weights, named)
    units = {name: group.units for name, group in sorted(named.items())}
    ratio = sample_ratio(units, dict(weights) if weights else dict.fromkeys(units, 1.0))
    flags = [f"{unowned} rows without a {unit} are left out"] if unowned else []
    flags += flag_half_rows(source, table, unit, measures)
    flags += _flags(named, framed, unassigned, variant, sequential=inference.method == "sequential")
    if stratum and strata < 2:
        flags.append(f"no two values of {stratum} have two units in every variant; the metrics are not stratified")
    if not ratio.ok and not weights:
        flags.append("the shares were taken to be equal; give the shares that were asked for if they were not")
    quality = Quality(ratio, crossovers, flags)
    reports = compare_all(framed, list(units), Evidence(control, named, quantiles, whole, refused), inference)
    asked_for = {measure.name: [str(term) for term in measure.covariates] for measure in measures}
    reports = [msgspec.structs.replace(row, covariates=asked_for[row.metric]) for row in reports]
    return Report(
        experiment=Path(path).stem,
        as_of=datetime.now(UTC).isoformat(timespec="seconds"),
        control=control,
        alpha=inference.alpha,
        units=units,
        quality=quality,
        metrics=reports,
        decision=decide(reports, quality, inference),
    )


def parse_measures(metrics: Sequence[str], covariates: tuple[str, ...]) -> list[Measure]:
    """The measures of `kind:COL` specifications, the first being the primary one.

    Raises:
        BadInput: if one is no metric, or is named twice.
    """
    parsed = [parse_measure(text, covariates) for text in metrics]
    names = [measure.name for measure in parsed]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadInput(f"metric {min(twice)!r} is named twice; name each once")
    return [
        msgspec.structs.replace(measure, role="primary" if at == 0 else "secondary")
        for at, measure in enumerate(parsed)
    ]


def _without_nan(found: Groups, kind: str) -> Groups:
    """A number's NaN names no variant, and is one with what is missing."""
    if not kind.startswith("float"):
        return found
    merged: dict[tuple[Cell, ...], Group] = {}
    for key, group in found.items():
        known = (None, *key[1:]) if str(key[0]).lower() == "nan" else key
        merged[known] = merged[known] + group if known in merged else group
    return merged


def _by_variant(found: Groups, metrics: Sequence[str], stratum: str | None) -> Stratified:
    """The groups of each variant, without crossovers."""
    strata: dict[Cell, dict[str, Group]] = {}
    for key, group in found.items():
        if key[0] is not None and not key[1]:
            strata.setdefault(key[2] if stratum else None, {})[str(key[0])] = group
    if not stratum:
        return Stratified(strata.get(None, {}), {}, 1)
    return poststratify([strata[name] for name in sorted(strata, key=str)], metrics)


def quantile_of(source: Engine, plain: Table, variant: str | None, unit: str | None, measure: Measure) -> Quantiles:
    """Each variant's quantile over rows, or that of all; the rows of units seen in two variants are left out."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    table, column = ibis_table(plain), measure.y.num
    rows = table.select(
        variant=ibis.literal(ALL) if variant is None else table[variant].cast("string"),
        unit=ibis.row_number() if unit is None else table[unit].cast("string"),
        x=table[column].cast("float64"),
    )
    if unit is not None:
        seen = rows.group_by("unit").aggregate(least=rows["variant"].min(), most=rows["variant"].max())
        rows = rows.semi_join(seen.filter(seen["least"] == seen["most"]), "unit")
    return estimate_quantiles(source, rows, "x", measure.quantile or 0.5, label=column)


def check_columns(
    source: Engine,
    path: str,
    table: Table,
    variant: str,
    unit: str | None,
    measures: Sequence[Measure],
    stratum: str | None = None,
) -> None:
    """Raises BadInput if a column is missing, or holds text where a metric needs numbers."""
    schema = table.schema()
    numbers = {column for measure in measures for column in measure.columns}
    for column in [variant, *(name for name in (unit, stratum) if name), *sorted(numbers)]:
        if column not in schema:
            raise BadInput(f"{path} has no column {column!r}; it has {', '.join(schema)}")
    for column in sorted(numbers):
        if column in RESERVED or (unit and (column.endswith((ROWS, ABOUT)) or WITH in column)):
            raise BadInput(f"{path}: column {column!r} is called as a column of the report's own; give it another name")
        if not (schema[column].is_numeric() or schema[column].is_boolean()):
            text = table[column].cast("string")
            is_number = text.try_cast("float64").notnull()
            seen = source.rows(table.filter(text.notnull() & ~is_number).select(example=text).limit(1))
            if not seen and not source.rows(table.filter(text.notnull()).select(example=text).limit(1)):
                raise BadInput(f"{path}: column {column!r} holds no value; a metric needs numbers")
            what = "text" if schema[column] == "string" else f"values of type {schema[column]}"
            example = f", for example {seen[0][0]!r}" if seen else ""
            most = ", of 38 digits at most" if schema[column].startswith("decimal") else ""
            raise BadInput(f"{path}: column {column!r} holds {what}{example}; a metric needs numbers{most}")


def _check_weights(weights: Mapping[str, float], named: Mapping[str, Group]) -> None:
    for name, share in weights.items():
        if not (math.isfinite(share) and share >= 0):
            raise BadInput(
                f"weights: the share {share:g} of {name!r} is no number from 0 up; write control=0.9,new=0.1"
            )
    if not any(weights.values()):
        raise BadInput("weights: every share is 0; write control=0.9,new=0.1")
    missing = sorted(set(named) - set(weights))
    if missing:
        raise BadInput(f"weights: {missing[0]!r} has none; give every variant its share")


def _check_variants(path: str, variant: str, control: str, named: Mapping[str, Group], crossovers: int) -> None:
    if not named and crossovers:
        raise BadInput(f"{path}: all {crossovers} units were seen in two variants of {variant}; none can be compared")
    if not named:
        raise BadInput(f"{path} has no row with a {variant}; a comparison needs two variants")
    if control not in named:
        seen = ", ".join(sorted(named)[:10]) or "none"
        raise BadInput(f"{path}: no row has {variant} = {control!r}, the control; the variants are {seen}")
    if len(named) < 2:
        raise BadInput(f"{path}: {variant} has one variant only, {control!r}; a comparison needs two")


def _addable(source: Engine, unit: str | None, stratum: str | None, measures: Sequence[Measure]) -> DuckDB:
    """The engine, or BadInput if what is asked for cannot be had by adding up the statistics of single files."""
    if unit:
        raise BadInput(
            f"partials: rows of one {unit} may lie in several files, whose sums cannot be put together again; leave "
            "--partials out, or have one row per unit and leave --unit out"
        )
    quantile = next((measure.name for measure in measures if not measure.rules.has_moments), None)
    if quantile:
        raise BadInput(f"partials: the quantile {quantile} does not follow from those of single files; leave one out")
    if stratum:
        raise BadInput(f"partials: statistics are kept by variant, not by {stratum}; leave --partials or --stratum out")
    if not isinstance(source, DuckDB):
        raise BadInput("partials: statistics of files are kept by duckdb alone; leave --partials or --engine out")
    return source


def _without_unit(source: Engine, path: str, table: Table, unit: str | None) -> int:
    """How many rows belong to no unit."""
    if unit is None:
        return 0
    column = table[unit]
    owned, every = (int(n or 0) for n in source.rows(table.aggregate(owned=column.count(), every=table.count()))[0])
    if every and not owned:
        raise BadInput(f"{path}: column {unit!r} holds no value; name the column of the unit, or leave --unit out")
    return every - owned


def _no_shares(source: Engine, table: Table, unit: str | None, measures: Sequence[Measure]) -> dict[str, NotEstimable]:
    """Proportions of values other than 0 and 1; where rows are units their variance tells."""
    wild = {}
    for measure in measures:
        if unit is not None and measure.rules.is_share:
            value = table[measure.y.num].cast("float64")
            if source.rows(table.filter((value * (value - 1.0)) != 0.0).select(x=value).limit(1)):
                wild[measure.name] = not_a_share(measure)
    return wild


def _flags(
    named: Mapping[str, Group], measures: Sequence[Measure], unassigned: int, variant: str, *, sequential: bool
) -> list[str]:
    flags = [f"{unassigned} units without a {variant} are left out"] if unassigned else []
    units = {name: group.units for name, group in named.items()}
    for measure in measures:
        if not measure.rules.has_moments:
            continue
        sides = [group.moments[measure.name] for group in named.values()]
        known = dict(zip(named, (side.n for side in sides), strict=True))
        short = sum(units.values()) - sum(known.values())
        if short:
            what = " or a covariate" if measure.covariates else ""
            flags.append(f"{measure.name}: {short} units lack a value{what} and are left out")
        kept = exposure_check(units, known, 0, 0, sequential=sequential)
        if kept.p < EXPOSURE_GATE:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in kept.shares.items())
            flags.append(
                f"{measure.name}: a different share has a value in each variant ({shares}); they do not compare"
            )
        rows = count_clustered_rows(measure, sides)
        if rows > sum(known.values()):
            flags.append(
                f"{measure.name}: {rows} rows of {sum(known.values())} units; rows of one unit are taken together"
            )
    return flags
