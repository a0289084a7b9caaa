"""Daily partial statistics: a folder's files are aggregated once, stored, and added up, so a refresh reads new ones."""

from __future__ import annotations

import hashlib
import os
from glob import glob
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.sources.aggregate import VARIANT, Group, aggregate_groups
from engine.analysis.stats.moments import merge_moments
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.engines import DuckDB

FILE = "file__"
LAYOUT = 2  # of what is stored
Flat = tuple[int, list[float], list[list[float]]]  # n, mean, comoment
Variant = tuple[int, dict[str, Flat]]  # units, and moments by measure


class Part(msgspec.Struct, frozen=True):
    """One file's statistics by variant (None for rows without one), and what the file was when read."""

    size: int
    changed: int
    variants: dict[str | None, Variant]


def refresh_partials(
    source: DuckDB, folder: str, variant: str, measures: Sequence[Measure], store: Path
) -> dict[str | None, Group]:
    """Groups of a folder's Parquet files by variant, reading only files that are new or changed since the last time.

    Args:
        source: the engine that reads them.
        folder: holds one Parquet file or more per day, at any depth; every row is a unit.
        variant: the column of the variant.
        measures: metrics over the files' own columns.
        store: a folder of ours; what is in it may be deleted at any time.

    Raises:
        BadInput: if the folder holds no Parquet file.
    """
    files = _files(folder)
    question = msgspec.json.encode((LAYOUT, str(Path(folder).resolve()), variant, list(measures)))
    kept = store / f"{hashlib.sha256(question).hexdigest()[:24]}.msgpack"
    parts = _read(kept)
    seen = {file: Path(folder, file).stat() for file in files}
    fresh = {
        name: parts[name]
        for name, now in seen.items()
        if name in parts and (parts[name].size, parts[name].changed) == (now.st_size, now.st_mtime_ns)
    }
    missing = [name for name in seen if name not in fresh]
    if missing:
        pilot = _pilot(fresh, measures)
        for name, variants in _aggregated(
            source, folder, missing, variant=variant, measures=measures, pilot=pilot
        ).items():
            fresh[name] = Part(seen[name].st_size, seen[name].st_mtime_ns, variants)
        _write(kept, fresh)
    found: dict[str | None, list[Variant]] = {}
    for part in fresh.values():
        for of, variant_part in part.variants.items():
            found.setdefault(of, []).append(variant_part)
    return {of: _together(several) for of, several in found.items()}


def newest_file(folder: str) -> str:
    """The folder's last file by name: it stands for the columns of all, so that they need not be opened.

    Raises:
        BadInput: if the folder holds no Parquet file.
    """
    return str(Path(folder, max(_files(folder))))


def _files(folder: str) -> list[str]:
    """By their names within the folder, which are the same from every working directory."""
    files = glob("**/*.parquet", root_dir=folder, recursive=True)  # noqa: PTH207 # no path object per file: a refresh is short
    if not files:
        raise BadInput(f"{folder} holds no Parquet file; partial statistics are kept per file of a folder")
    return files


def _pilot(parts: dict[str, Part], measures: Sequence[Measure]) -> dict[str, float] | None:
    """The means of some part, near enough to the next day's to centre its sums at."""
    for part in parts.values():
        for _, moments in part.variants.values():
            means = {
                column: value
                for measure in measures
                for column, value in zip(measure.columns, moments[measure.name][1], strict=True)
            }
            if all(map(isfinite, means.values())):
                return means
    return None


def _together(parts: list[Variant]) -> Group:
    moments = {}
    for measure in parts[0][1]:
        n, mean, comoment = zip(*(flats[measure] for _, flats in parts), strict=True)
        moments[measure] = merge_moments(np.array(n, float), np.array(mean), np.array(comoment))
    return Group(sum(units for units, _ in parts), moments)


def _aggregated(
    source: DuckDB,
    folder: str,
    files: list[str],
    variant: str,
    measures: Sequence[Measure],
    pilot: dict[str, float] | None,
) -> dict[str, dict[str | None, Variant]]:
    paths = {str(Path(folder, name)): name for name in files}
    one = files[0] if len(files) == 1 else None  # a refresh has one: nothing to tell apart
    if one is not None:
        table = source.table(next(iter(paths)))
    else:
        quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        every = f"SELECT * FROM read_parquet([{quoted}], union_by_name = true, filename = '{FILE}')"  # noqa: S608 # quoted above
        table = source.view(quoted, every)
    known = table.schema()  # a column that these files lack has no value in them, as if all files were read together
    columns = sorted({column for measure in measures for column in measure.columns})
    own = {VARIANT: table[variant].cast("string") if variant in known else None}
    if one is None:
        own[FILE] = table[FILE]
    values = {column: table[column].cast("float64") if column in known else None for column in columns}
    frame = table.select(**own, **values)
    parts: dict[str, dict[str | None, Variant]] = {name: {} for name in files}
    for (name, *path), group in aggregate_groups(source, frame, tuple(own), measures, pilot).items():
        flat = {key: (m.n, m.mean.tolist(), m.comoment.tolist()) for key, m in group.moments.items()}
        parts[one or paths[str(path[0])]][None if name is None else str(name)] = (group.units, flat)
    return parts


def _read(kept: Path) -> dict[str, Part]:
    try:
        return msgspec.msgpack.decode(kept.read_bytes(), type=dict[str, Part])
    except (OSError, msgspec.DecodeError):
        return {}  # not there, or of another version: everything is read again


def _write(kept: Path, parts: dict[str, Part]) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    new = kept.with_suffix(f".{os.getpid()}")
    new.write_bytes(msgspec.msgpack.encode(parts))
    new.replace(kept)
