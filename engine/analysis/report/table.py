"""The report of a table with a variant column: a Parquet or CSV file, a frame, or an engine's table."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.aggregates.aggregate import (
    CROSSED,
    STRATUM,
    VARIANT,
    Group,
    Groups,
    aggregate_groups,
)
from engine.analysis.aggregates.clustered import build_unit_frame, flag_half_rows, row_centres, unwrap_single_rows
from engine.analysis.aggregates.covariates import covariate_terms, find_complete_columns, impute_covariates
from engine.analysis.aggregates.strata import Stratified, poststratify
from engine.analysis.checks.balance import check_balance, flag_imbalance
from engine.analysis.checks.ratio_parts import add_ratio_parts
from engine.analysis.design.methods import Inference, decode_inference
from engine.analysis.design.metrics import Measure, parse_measure
from engine.analysis.report.compare import Evidence, compare_all
from engine.analysis.report.model import Quality, Report, SegmentReport
from engine.analysis.report.sample_ratio import SampleRatio, flag_broken_splits, sample_ratio
from engine.analysis.report.table_checks import (
    check_addable,
    check_columns,
    check_variants,
    check_weights,
    count_rows_without_unit,
    flag_missing_values,
    flag_unfit_plan,
    invalid_shares,
)
from engine.analysis.report.verdict import recommend
from engine.analysis.sources.engines import connect_engine, ibis_table
from engine.analysis.sources.frames import FrameOrFile, open_table, table_name
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.aggregates.quantiles import Quantiles
    from engine.analysis.sources.engines import Cell, Engine, Table
    from engine.analysis.stats.estimate import NotEstimable

ALL = "all"  # the name of all rows as one variant


class TableQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """The columns, metrics and options of a table's report; fields as the arguments of `analyze_table`."""

    path: str
    variant: str
    control: str
    measures: list[Measure]
    inference: Inference
    unit: str | None = None
    weights: dict[str, float] | None = None
    partials: str | None = None
    segment: str | None = None

    @property
    def stratum(self) -> str | None:
        """The column that stratifies comparisons; None while segments of another column are reported."""
        return self.inference.stratum if self.segment in {None, self.inference.stratum} else None

    @property
    def part(self) -> str | None:
        """The column that groups units: the segment's, or the stratum."""
        return self.segment or self.inference.stratum

    @property
    def names(self) -> list[str]:
        """The columns of names, not numbers; a column that a metric reads counts as numbers."""
        numbers = {column for measure in self.measures for column in measure.columns}
        columns = (self.variant, self.unit, self.part)
        return [column for column in columns if column is not None and column not in numbers]

    @property
    def summed(self) -> list[Measure]:
        """The measures with moments."""
        return [measure for measure in self.measures if measure.rules.has_moments]


class TableUnits(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of a table's units: `evidence` by variant, and the measures over one row per unit.

    `strata` is the number of strata in which every variant has two units, `unassigned` that of units without a variant,
    `parts` the evidence by segment.
    """

    evidence: Evidence
    framed: list[Measure]
    crossovers: int
    unassigned: int
    strata: int
    flags: list[str]
    parts: dict[str, Evidence]


def analyze_table(
    frame_or_file: FrameOrFile,
    *,
    variant: str,
    control: str,
    metrics: Sequence[str],
    unit: str | None = None,
    covariates: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    segment: str | None = None,
    **options: object,
) -> Report:
    """Compares every variant of a table with control.

    Args:
        frame_or_file: the path of a Parquet or CSV file or of a folder of Parquet files, a table that the engine knows,
            or a pandas, Polars, Arrow or Ibis table or a DuckDB relation.
        variant: the column of the variant.
        control: the variant to compare with.
        metrics: `mean:COL`, `proportion:COL`, `ratio:NUM/DEN`, `quantile:COL@0.9`; the first is the primary one. Of
            units with several rows these are metrics of rows; `sum:COL` and `any:COL` are metrics of units.
        unit: the column of the unit of assignment. Rows of one unit are not independent; units in two variants are
            counted and left out. None: each row is a unit.
        covariates: columns (or NUM/DEN) from before the exposure, for metrics that name none of their own.
        weights: the planned shares of the variants; equal by default.
        segment: a column; also report the effect within each of its values.
        options: `engine`, where to compute (see `sources.engines.connect_engine`); `partials`, a folder that stores
            statistics of a folder's files, so that the next report reads only new files; and the fields of `Inference`
            by name, such as `method`, `alpha`, `relative`, `prior` (mean and standard deviation), `stratum` (a column).

    Raises:
        BadInput: if the table has no such column or variant, or a value that its metric cannot have.
    """
    engine, partials = options.pop("engine", None) or "duckdb", options.pop("partials", None)
    inference = decode_inference(options)
    if not metrics:
        raise BadInput("no metric is named; add one, as in --metric mean:revenue")
    measures = [
        msgspec.structs.replace(
            measure,
            adjust=inference.adjust,
            stratified=bool(inference.stratum) and segment in {None, inference.stratum},
        )
        for measure in parse_measures(metrics, tuple(covariates))
    ]
    asked = TableQuestion(
        path=table_name(frame_or_file),
        variant=variant,
        control=control,
        measures=measures,
        inference=msgspec.structs.replace(inference, between_looks=True),
        unit=unit,
        weights=None if weights is None else dict(weights),
        partials=None if partials is None else str(partials),
        segment=segment,
    )
    source = connect_engine(str(engine))
    return _report(asked, read_table_units(source, _open_table(source, frame_or_file, asked), asked))


def _open_table(source: Engine, frame_or_file: FrameOrFile, asked: TableQuestion) -> Table:
    """The table with its columns checked."""
    if asked.partials and not isinstance(frame_or_file, str | os.PathLike):
        raise BadInput("partials: a frame has no files whose statistics could be stored; leave partials out")
    if asked.partials:
        from engine.analysis.sources.partials import newest_file  # noqa: PLC0415 # a cold report is mostly imports

        table = source.table(newest_file(asked.path))
    else:
        table = open_table(source, frame_or_file, asked.names)
    needed = {asked.variant, *(column for measure in asked.measures for column in measure.columns)}
    if asked.partials and not needed <= {*table.schema()}:
        table = source.table(asked.path)  # the newest file lacks a column, others may have it
    check_columns(
        source,
        table,
        asked.measures,
        path=asked.path,
        variant=asked.variant,
        unit=asked.unit,
        stratum=asked.part,
    )
    return table


def read_table_units(source: Engine, table: Table, asked: TableQuestion) -> TableUnits:
    """The statistics of each variant's units.

    Raises:
        BadInput: if no two variants can be compared.
    """
    unowned = count_rows_without_unit(source, table, path=asked.path, unit=asked.unit)
    refused = invalid_shares(source, table, asked.unit, asked.measures)
    groups, framed = _aggregate(source, table, asked)
    groups = _merge_nan_variants(groups, str(table.schema()[asked.variant]))
    quantiles = {
        measure.name: table_quantiles(source, table, asked.variant, asked.unit, measure)
        for measure in asked.measures
        if not measure.rules.has_moments
    }
    parts = _segment_evidence(asked, groups, framed, refused)
    weighted, whole, strata = _group_by_variant(groups, [measure.name for measure in asked.summed], asked.stratum)
    crossovers = sum(group.units for key, group in groups.items() if key[1])
    check_variants(asked.path, asked.variant, asked.control, groups=weighted, crossovers=crossovers)
    if asked.weights is not None:
        check_weights(asked.weights, weighted)
    evidence = Evidence(control=asked.control, groups=weighted, quantiles=quantiles, whole=whole)
    return TableUnits(
        evidence=msgspec.structs.replace(evidence, refused=refused | _refuse_overrun(evidence, asked.inference)),
        framed=framed,
        crossovers=crossovers,
        unassigned=sum(group.units for key, group in groups.items() if key[0] is None and not key[1]),
        strata=strata,
        parts=parts,
        flags=[
            *([f"{unowned} rows without a {asked.unit} are left out"] if unowned else []),
            *flag_half_rows(source, table, asked.unit, asked.measures),
        ],
    )


def _aggregate(source: Engine, table: Table, asked: TableQuestion) -> tuple[Groups, list[Measure]]:
    """The moments by variant, crossover and stratum, and the measures over one row per unit."""
    if asked.partials is not None:
        from engine.analysis.sources.partials import refresh_partials  # noqa: PLC0415 # see _open_table

        parts, framed = refresh_partials(
            check_addable(source, asked), asked.path, asked.variant, asked.measures, Path(asked.partials)
        )
        return {(name, False): group for name, group in parts.items()}, framed
    # One count serves the covariates and, where a row is a unit and the frame's columns are the table's, the sums.
    terms = covariate_terms(asked.measures)
    names = {column for term in terms for column in term.columns}
    if asked.unit is None:
        names |= {column for measure in asked.measures if measure.rules.has_moments for column in measure.columns}
    complete = find_complete_columns(source, table, names & set(table.schema()))
    rows, measures = impute_covariates(source, table, asked.measures, complete=complete)
    about = row_centres(source, rows, asked.unit, measures)
    frame, framed = build_unit_frame(rows, asked.variant, asked.unit, measures, asked.part, about=about)
    keys = (VARIANT, CROSSED, *([STRATUM] if asked.part else []))
    summed = [measure for measure in framed if measure.rules.has_moments]
    if asked.unit is not None:
        complete = set()
    groups = aggregate_groups(source, frame, keys, summed, complete=complete)
    return unwrap_single_rows(groups, framed, measures)


def _refuse_overrun(evidence: Evidence, inference: Inference) -> dict[str, NotEstimable]:
    """The measures that are read after their last planned look, with the reason."""
    if inference.method != "group_sequential":
        return {}
    from engine.analysis.checks.planned_looks import refuse_overrun  # noqa: PLC0415 # see _open_table

    return refuse_overrun(evidence, inference)


def _segment_evidence(
    asked: TableQuestion, groups: Groups, framed: Sequence[Measure], refused: Mapping[str, NotEstimable]
) -> dict[str, Evidence]:
    """The evidence by value of the segment's column."""
    if not asked.segment:
        return {}
    from engine.analysis.report.segments import segment_evidence  # noqa: PLC0415 # see _open_table

    return segment_evidence(groups, framed, asked.control, refused)


def _report(asked: TableQuestion, data: TableUnits) -> Report:
    """The report of a table's units."""
    groups = data.evidence.groups
    units = {name: group.units for name, group in sorted(groups.items())}
    looks = [units] if asked.inference.has_repeated_looks else None
    ratio = sample_ratio(units, asked.weights or dict.fromkeys(units, 1.0), looks=looks)
    balance = check_balance(data.framed, data.evidence, asked.inference)
    flags = [*_flags(asked, data, ratio), *flag_imbalance(balance)]
    quality = Quality(srm=ratio, crossovers=data.crossovers, flags=flags, balance=balance)
    covariates = {measure.name: [str(term) for term in measure.covariates] for measure in asked.measures}
    reports = [
        msgspec.structs.replace(row, covariates=covariates[row.metric])
        for row in compare_all(data.framed, list(units), data.evidence, asked.inference)
    ]
    reports = add_ratio_parts(reports, {one.name: one for one in data.framed}, data.evidence, asked.inference)
    return Report(
        experiment=Path(asked.path).stem,
        as_of=datetime.now(UTC).isoformat(timespec="seconds"),
        control=asked.control,
        alpha=asked.inference.alpha,
        units=units,
        quality=quality,
        metrics=reports,
        method=asked.inference.method,
        title=Path(asked.path).stem,
        recommendation=recommend(reports, quality, asked.inference),
        segments=_compare_segments(asked, data, units),
    )


def _compare_segments(asked: TableQuestion, data: TableUnits, units: Mapping[str, int]) -> list[SegmentReport]:
    """The effects within each value of the segment's column."""
    if not asked.segment:
        return []
    from engine.analysis.report.segments import compare_segments  # noqa: PLC0415 # see _open_table

    plain = [msgspec.structs.replace(measure, stratified=False) for measure in data.framed]
    others = [name for name in units if name != asked.control]
    return compare_segments(asked.segment, plain, others, data.parts, asked.inference)


def _flags(asked: TableQuestion, data: TableUnits, ratio: SampleRatio) -> list[str]:
    """A sentence for each fault of the data."""
    flags = [*data.flags]
    if data.unassigned:
        flags.append(f"{data.unassigned} units without a {asked.variant} are left out")
    flags += flag_missing_values(
        data.evidence.whole or data.evidence.groups, data.framed, sequential=asked.inference.has_repeated_looks
    )
    if asked.inference.stratum and not asked.stratum:
        stratum = asked.inference.stratum
        flags.append(f"the metrics are not stratified by {stratum} while segments of {asked.segment} are reported")
    shares = asked.weights or dict.fromkeys(data.evidence.groups, 1.0)
    splits = {name: ({side: g.units for side, g in part.groups.items()}, shares) for name, part in data.parts.items()}
    flags += flag_broken_splits(splits, {}, sequential=asked.inference.has_repeated_looks)
    flags += flag_unfit_plan(data.evidence, asked.inference)
    if asked.stratum and data.strata < 2:
        flags.append(
            f"no two values of {asked.stratum} have two units in every variant; the metrics are not stratified"
        )
    if not ratio.ok and not asked.weights:
        flags.append("the shares were taken to be equal; give the planned shares if they were not")
    return flags


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


def _merge_nan_variants(groups: Groups, kind: str) -> Groups:
    """The groups with the variant NaN of a numeric column merged into the missing variant."""
    if not kind.startswith("float"):
        return groups
    merged: dict[tuple[Cell, ...], Group] = {}
    for key, group in groups.items():
        known = (None, *key[1:]) if str(key[0]).lower() == "nan" else key
        merged[known] = merged[known] + group if known in merged else group
    return merged


def _group_by_variant(groups: Groups, metrics: Sequence[str], stratum: str | None) -> Stratified:
    """The groups by variant, without crossovers."""
    strata: dict[Cell, dict[str, Group]] = {}
    for key, group in groups.items():
        if key[0] is not None and not key[1]:
            part = strata.setdefault(key[2] if stratum else None, {})
            part[str(key[0])] = part[str(key[0])] + group if str(key[0]) in part else group
    if not stratum:
        return Stratified(strata.get(None, {}), {}, 1)
    return poststratify([strata[name] for name in sorted(strata, key=str)], metrics)


def table_quantiles(source: Engine, plain: Table, variant: str | None, unit: str | None, measure: Measure) -> Quantiles:
    """The quantile of each variant's rows, or of all rows; the rows of units in two variants are left out."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    from engine.analysis.aggregates.quantiles import estimate_quantiles  # noqa: PLC0415 # see _open_table

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
