"""Warm start: teaches a policy from an old log, or from a table of exposures and rewards, and publishes it.

Every row needs the propensity of its arm. Of a log only exposures whose reward window is over count: of the others
only those that were rewarded would be known, which biases the rewards upward.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.catalog.conditions.check import is_text_trait
from engine.catalog.plan.features import Value
from engine.catalog.plan.plan import Plan, Selection
from engine.errors import BadInput, MissingExtra
from engine.journal import stream
from engine.learn.partitions.combine import part_names
from engine.learn.partitions.share import MARK
from engine.learn.rollback import publish_as_current
from engine.settings import Settings
from engine.snapshots.header import meaning_of, prior_of
from engine.snapshots.publish import store_errors
from policies import Bandit, dump_policy

if TYPE_CHECKING:
    import duckdb

WarmRow = tuple[str, float | None, float, Mapping[str, Value]]
"""Arm, reward, propensity, features."""
_ROWS_AT_ONCE = 50_000
_LOG = """
WITH exposures AS (
    FROM read_parquet($exposures, hive_partitioning = false, union_by_name = true)
    UNION ALL BY NAME SELECT NULL::INTEGER AS position WHERE false
), rewards AS (
    FROM read_parquet($rewards, hive_partitioning = false, union_by_name = true)
    UNION ALL BY NAME SELECT NULL::INTEGER AS position WHERE false
), decisions AS (
    FROM read_parquet($decisions, hive_partitioning = false, union_by_name = true)
    UNION ALL BY NAME SELECT NULL::INTEGER AS position, NULL::DOUBLE AS creative_propensity WHERE false
), shown AS (
    SELECT decision_id, coalesce(position, 0) AS place, min(time) AS time FROM exposures
    WHERE key = $key GROUP BY ALL
), earned AS (
    SELECT decision_id, coalesce(position, 0) AS place, arg_max(reward, time) AS reward FROM rewards
    WHERE key = $key GROUP BY ALL
), chosen AS (
    SELECT *, coalesce(position, 0) AS place FROM decisions
    WHERE kind = 'offer' AND key = $key AND policy IS NOT NULL
), clock AS (
    SELECT max(epoch(time)) AS now
    FROM (SELECT time FROM shown UNION ALL SELECT time FROM rewards)
)
SELECT variant, coalesce(reward, 0.0), propensity / coalesce(creative_propensity, 1), context,
    epoch(shown.time) + $window <= now
FROM chosen JOIN shown USING (decision_id, place) LEFT JOIN earned USING (decision_id, place), clock
ORDER BY shown.time, decision_id, place
"""
_TABLES = (".parquet", ".csv")
_EXPECTED = "a log's folder (DATA/log), or a Parquet or CSV file with the columns arm and reward"
_OPEN = "reward that may still come"
_context = msgspec.json.Decoder(dict[str, Value])


class WarmStart(NamedTuple):
    """The published version, the number of rows taught, and the number of unused rows by reason."""

    version: int
    learnt: int
    unused: dict[str, int]


def warm_start(settings: Settings, plan: Plan, key: str, source: Path) -> WarmStart:
    """Teach a selection's prior all rows of `source` and publish it; a running learner continues from it.

    Args:
        settings: the store's address.
        plan: the plan that has the selection.
        key: the selection's key.
        source: the folder of a log (decisions of every policy at the placement count, once their window is over), or a
            Parquet or CSV file with the columns `arm` and `reward`, optionally `propensity` and one per feature.

    Raises:
        BadInput: if there is no such selection, or `source` has no usable row.
        StoreUnavailable: if the store does not answer.
    """
    selection = plan.policies.get(key)
    if selection is None:
        raise BadInput(f"{key!r}: is not a selection; use one of {', '.join(sorted(plan.policies))}")
    policy, unused = learn_from(selection, source)
    with stream.connect_stream(settings.redis) as client, store_errors("publishing"):
        # It contains no lesson of a learner, so it is published at 0 on the learner's clock.
        meaning, blob = meaning_of(selection), dump_policy(policy)
        parts = part_names(client, key)
        for part in parts:  # their sum must be the warm policy: reset them, and add it as a part
            publish_as_current(client, part, 0.0, meaning, dump_policy(prior_of(selection)))
        if parts:
            publish_as_current(client, f"{key}{MARK}warm", 0.0, meaning, blob)
        version = publish_as_current(client, key, 0.0, meaning, blob)
    return WarmStart(version, policy.seen, unused)


def learn_from(selection: Selection, source: Path) -> tuple[Bandit, dict[str, int]]:
    """The selection's prior after all rows of a log or table, and the number of unused rows by reason.

    Raises:
        BadInput: if `source` cannot be read or has no usable row.
    """
    if not source.exists():
        raise BadInput(f"{source}: does not exist; give {_EXPECTED}")
    if source.is_file() and source.suffix not in _TABLES:
        raise BadInput(f"{source}: is neither a folder nor a {' or '.join(_TABLES)} file; give {_EXPECTED}")
    policy = prior_of(selection)
    unused: Counter[str] = Counter()
    for rows in _log(selection, source, unused) if source.is_dir() else _table(selection, source):
        policy = _teach_rows(policy, selection, rows, unused)
    if not policy.seen:
        skipped = ", ".join(f"{rows:,} ({reason})" for reason, rows in (+unused).items())
        why = f"unused rows: {skipped}" if skipped else "it has no rows"
        raise BadInput(f"{source}: no row can teach {selection.key} ({why}); check the rows and their columns")
    return policy, dict(+unused)


def _teach_rows(policy: Bandit, selection: Selection, rows: Sequence[WarmRow], unused: Counter[str]) -> Bandit:
    """The policy after these rows; counts rows that it cannot use in `unused`."""
    positions = {arm: index for index, arm in enumerate(policy.arms)}
    usable: list[tuple[int, float, float]] = []
    contexts: list[np.ndarray] = []
    for arm, reward, propensity, context in rows:
        position = positions.get(str(arm))
        if position is None:
            unused["arm that the plan does not have"] += 1
        elif reward is None or not math.isfinite(reward):
            unused["reward that is not a finite number"] += 1
        elif not 0 < propensity <= 1:
            unused["propensity outside (0, 1]"] += 1
        else:
            usable.append((position, reward, propensity))
            if policy.dim:
                contexts.append(selection.features.vector(context))
    if not usable:
        return policy
    arms, rewards, propensities = (np.array(column) for column in zip(*usable, strict=True))
    try:
        return policy.update(np.array(contexts) if policy.dim else None, arms, rewards, propensities)
    except ValueError as error:
        raise BadInput(f"reward: {error}") from error


def _log(selection: Selection, folder: Path, unused: Counter[str]) -> Iterator[list[WarmRow]]:
    """The log's exposures whose reward window is over, in pieces; counts the others in `unused`."""
    tables = ("decisions", "exposures", "rewards")
    files = {name: f"{escape(str(folder / name))}/**/*.parquet" for name in tables}
    missing = [name for name in tables if next((folder / name).glob("**/*.parquet"), None) is None]
    if missing:
        within = [folder / "log", *sorted(file for file in folder.iterdir() if file.suffix in _TABLES)]
        suggestion = next((str(path) for path in within if path.exists()), _EXPECTED)
        raise BadInput(f"{folder}: has no {missing[0]}/*.parquet, so it is not a log; give {suggestion}")
    parameters = {**files, "key": selection.placement, "window": selection.reward.window}
    with _duckdb(folder) as connection:
        result = connection.execute(_LOG, parameters)
        while rows := result.fetchmany(_ROWS_AT_ONCE):
            unused[_OPEN] += sum(not over for *_, over in rows)
            yield [(arm, reward, p, _context.decode(context or "{}")) for arm, reward, p, context, over in rows if over]


def _table(selection: Selection, file: Path) -> Iterator[list[WarmRow]]:
    """The rows of a table, in pieces. Without a column `propensity` the arms count as chosen uniformly."""
    features = selection.features
    traits = list(dict.fromkeys([*(spec.trait for spec in features.specs), *(group.name for group in features.groups)]))
    with _duckdb(file) as connection:
        path = escape(str(file))  # DuckDB reads a name with [, * or ? as a pattern
        table = connection.read_csv(path) if file.suffix == ".csv" else connection.read_parquet(path)
        for name in ("arm", "reward", *traits):
            if name not in table.columns:
                raise BadInput(f"{file}: has no column {name!r}, only {', '.join(table.columns)}; rename or add one")
        if file.suffix == ".csv":
            names = (
                "arm",
                *(trait for trait in traits if is_text_trait(trait)),
            )  # DuckDB would read 2024_10 as a number
            table = connection.read_csv(path, dtype=dict.fromkeys(names, "VARCHAR"))
        propensity = "propensity" if "propensity" in table.columns else str(1 / len(selection.arms))
        quoted = ['"' + trait.replace('"', '""') + '"' for trait in traits]
        chosen = table.project(
            ", ".join(["arm", "try_cast(reward AS DOUBLE)", f"CAST({propensity} AS DOUBLE)", *quoted])
        )
        while rows := chosen.fetchmany(_ROWS_AT_ONCE):
            yield [(arm, reward, p, dict(zip(traits, values, strict=True))) for arm, reward, p, *values in rows]


@contextmanager
def _duckdb(source: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A DuckDB connection whose errors name the unreadable source."""
    try:
        import duckdb  # noqa: PLC0415 (a learner runs without the analysis extra)
    except ImportError as error:
        raise MissingExtra("a warm start", "analysis") from error
    with duckdb.connect() as connection:
        try:
            yield connection
        except duckdb.Error as error:
            raise BadInput(f"{source}: cannot be read: {str(error).splitlines()[0]}; give {_EXPECTED}") from error
