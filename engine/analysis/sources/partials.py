"""Partial statistics: each file of a folder is aggregated once and stored, so that a refresh reads only new files."""

from __future__ import annotations

import hashlib
import os
from functools import reduce
from glob import escape, glob
from math import isfinite
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.analysis.aggregates.aggregate import VARIANT, Group, aggregate_groups
from engine.analysis.aggregates.covariates import (
    add_imputed,
    covariate_means,
    covariate_terms,
    drop_idle_indicators,
    imputed_measures,
)
from engine.analysis.sources.engines import is_hidden
from engine.analysis.stats.moments import Outcomes, merge_moments
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.engines import DuckDB, Frame

FILE = "file__"
LAYOUT = 4  # the version of the stored format
Flat = tuple[int, list[float], list[list[float]]]  # n, mean, comoment
Variant = tuple[int, dict[str, Flat], dict[str, list[tuple[int | None, float]]]]
"""Units, and by measure the moments and the outcomes of its terms."""


class Part(msgspec.Struct, frozen=True):
    """A file's statistics by variant (None: rows without one), with its size and time of change at reading."""

    size: int
    changed: int
    variants: dict[str | None, Variant]


class Partials(msgspec.Struct, frozen=True):
    """The statistics of a folder's files by name, and the constants that impute missing covariates."""

    means: dict[str, float] = {}
    parts: dict[str, Part] = {}


def refresh_partials(
    source: DuckDB, folder: str, variant: str, measures: Sequence[Measure], store: Path
) -> tuple[dict[str | None, Group], list[Measure]]:
    """Groups of a folder's Parquet files by variant, reading only new or changed files.

    The measures returned have an indicator for each covariate that some unit lacks.

    Args:
        source: the engine that reads them.
        folder: holds one Parquet file or more per day, at any depth; every row is a unit.
        variant: the column of the variant.
        measures: metrics over the files' own columns.
        store: the folder of the statistics, a cache; its files may be deleted at any time.

    Raises:
        BadInput: if the folder holds no Parquet file.
    """
    files = _files(folder)
    question = msgspec.json.encode((LAYOUT, str(Path(folder).resolve()), variant, list(measures)))
    cache = store / f"{hashlib.sha256(question).hexdigest()[:24]}.msgpack"
    terms = covariate_terms(measures)
    imputed = imputed_measures(measures, terms)
    stored = _read(cache)
    parts, means = stored.parts, stored.means
    seen = {file: Path(folder, file).stat() for file in files}
    fresh = {
        name: parts[name]
        for name, now in seen.items()
        if name in parts and (parts[name].size, parts[name].changed) == (now.st_size, now.st_mtime_ns)
    }
    missing = [name for name in seen if name not in fresh]
    if missing:
        rows = _read_files(source, folder, missing, variant, measures)
        if not fresh:  # the constants may be any, but must be the same in all files
            means = covariate_means(source, rows.frame, terms)[1] if terms else {}
        for name, variants in _aggregate_files(source, rows, measures, means, _pilot(fresh, imputed)).items():
            fresh[name] = Part(seen[name].st_size, seen[name].st_mtime_ns, variants)
        _write(cache, Partials(means, fresh))
    found: dict[str | None, list[Variant]] = {}
    for part in fresh.values():
        for of, variant_part in part.variants.items():
            found.setdefault(of, []).append(variant_part)
    return drop_idle_indicators({of: _merge(several) for of, several in found.items()}, imputed)


def newest_file(folder: str) -> str:
    """The folder's last file by name, whose columns stand for all, so that the others need not be opened.

    Raises:
        BadInput: if the folder holds no Parquet file.
    """
    return str(Path(folder, max(_files(folder))))


def _files(folder: str) -> list[str]:
    """Paths of the Parquet files relative to the folder, independent of the working directory."""
    files = glob("**/*.parquet", root_dir=folder, recursive=True)  # noqa: PTH207 # no path object per file: a refresh is short
    files = [file for file in files if not is_hidden(file)]
    if not files:
        raise BadInput(
            f"{folder} has no Parquet file; partial statistics are stored per file, so name a folder that has some"
        )
    return files


def _pilot(parts: dict[str, Part], measures: Sequence[Measure]) -> dict[str, float] | None:
    """A stored file's means, close enough to a new file's to centre its sums."""
    for part in parts.values():
        for _, moments, _ in part.variants.values():
            means = {
                column: value
                for measure in measures
                for column, value in zip(measure.columns, moments[measure.name][1], strict=True)
            }
            if all(map(isfinite, means.values())):
                return means
    return None


def _merge(parts: list[Variant]) -> Group:
    moments, outcomes = {}, {}
    for measure in parts[0][1]:
        n, mean, comoment = zip(*(flats[measure] for _, flats, _ in parts), strict=True)
        moments[measure] = merge_moments(np.array(n, float), np.array(mean), np.array(comoment))
        terms = zip(*(own[measure] for _, _, own in parts), strict=True)
        outcomes[measure] = tuple(reduce(add, (Outcomes(*of) for of in term)) for term in terms)
    return Group(sum(units for units, _, _ in parts), moments, outcomes)


class _Rows(NamedTuple):
    """The rows of several files as one frame, keyed by VARIANT and, if there are several, by FILE; `names` by path."""

    frame: Frame
    keys: tuple[str, ...]
    names: dict[str, str]


def _read_files(source: DuckDB, folder: str, files: list[str], variant: str, measures: Sequence[Measure]) -> _Rows:
    paths = {str(Path(folder, name)): name for name in files}
    is_single = len(files) == 1  # the usual refresh; it needs no column for the file
    if is_single:
        table = source.table(next(iter(paths)))
    else:
        several = "SELECT * FROM read_parquet({}, union_by_name = true, filename = {})"
        table = source.view(", ".join(paths), several, list(map(escape, paths)), FILE)
    known = table.schema()  # a column that these files lack is null, as in a union of all files
    columns = sorted({column for measure in measures for column in measure.columns})
    own = {VARIANT: table[variant].cast("string") if variant in known else None}
    if not is_single:
        own[FILE] = table[FILE]
    values = {column: table[column].cast("float64") if column in known else None for column in columns}
    return _Rows(table.select(**own, **values), tuple(own), paths)


def _aggregate_files(
    source: DuckDB,
    rows: _Rows,
    measures: Sequence[Measure],
    means: dict[str, float],
    pilot: dict[str, float] | None,
) -> dict[str, dict[str | None, Variant]]:
    """Each file's statistics by variant, with an indicator per covariate, since other files may lack values."""
    frame, imputed = add_imputed(rows.frame, measures, covariate_terms(measures), means)
    parts: dict[str, dict[str | None, Variant]] = {name: {} for name in rows.names.values()}
    for (name, *path), group in aggregate_groups(source, frame, rows.keys, imputed, pilot).items():
        flat = {key: (m.n, m.mean.tolist(), m.comoment.tolist()) for key, m in group.moments.items()}
        outcomes = {key: [(of.units, of.size) for of in own] for key, own in group.outcomes.items()}
        file = rows.names[str(path[0])] if path else next(iter(rows.names.values()))
        parts[file][None if name is None else str(name)] = (group.units, flat, outcomes)
    return parts


def _read(cache: Path) -> Partials:
    try:
        return msgspec.msgpack.decode(cache.read_bytes(), type=Partials)
    except (OSError, msgspec.DecodeError):
        return Partials()  # missing, or of another version: every file is read


def _write(cache: Path, partials: Partials) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    new = cache.with_suffix(f".{os.getpid()}")
    new.write_bytes(msgspec.msgpack.encode(partials))
    new.replace(cache)
