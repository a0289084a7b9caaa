"""A policy that starts from what is known already: an old log, or anybody's table of what was shown and earned."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.catalog.plan.features import Value
from engine.catalog.plan.plan import Plan, Selection
from engine.errors import BadInput
from engine.journal import stream
from engine.learn.combine import MARK, parts_of
from engine.learn.rollback import put_current
from engine.settings import Settings
from engine.snapshots.header import meaning_of, prior_of
from engine.snapshots.publish import store_errors
from policies import Bandit, dump_policy

if TYPE_CHECKING:
    import duckdb

WarmRow = tuple[str, float | None, float, Mapping[str, Value]]
_PIECE = 50_000
_LOG = """
WITH shown AS (
    SELECT decision_id, key, min(time) AS time FROM read_parquet($exposures, hive_partitioning = false)
    WHERE key = $key GROUP BY ALL
), earned AS (
    SELECT decision_id, arg_max(reward, time) AS reward FROM read_parquet($rewards, hive_partitioning = false)
    WHERE key = $key GROUP BY ALL
), chosen AS (
    SELECT * FROM read_parquet($decisions, hive_partitioning = false)
    WHERE kind = 'offer' AND key = $key AND policy IS NOT NULL
), clock AS (
    SELECT max(epoch(time)) AS now
    FROM (SELECT time FROM shown UNION ALL SELECT time FROM read_parquet($rewards, hive_partitioning = false))
)
SELECT variant, coalesce(reward, 0.0), propensity, context, epoch(shown.time) + $window <= now
FROM chosen JOIN shown USING (decision_id) LEFT JOIN earned USING (decision_id), clock
ORDER BY shown.time, decision_id
"""
_TABLES = (".parquet", ".csv")
_WANTED = "a log's folder (DATA/log), or a Parquet or CSV file with the columns arm and reward"
_OPEN = "reward that may still come"
_context = msgspec.json.Decoder(dict[str, Value])


class WarmStart(NamedTuple):
    """What a warm start made: the published version, the rows it learnt and the rows it could not use, by reason."""

    version: int
    learnt: int
    unused: dict[str, int]


def warm_start(settings: Settings, plan: Plan, key: str, source: Path) -> WarmStart:
    """Learn `key` from its prior on all rows of `source` and publish that; a learner goes on from it.

    Args:
        settings: where the store is.
        plan: has the selection.
        key: of the selection.
        source: the folder of a log (every policy's decisions at the placement count, once their reward is settled), or
            a Parquet or CSV file with the columns `arm` and `reward`; `propensity` and one column per feature if any.

    Raises:
        BadInput: if there is no such selection, or nothing in `source` to learn from.
        StoreUnavailable: if the store does not answer.
    """
    selection = plan.policies.get(key)
    if selection is None:
        raise BadInput(f"{key!r} is no selection; use one of {', '.join(sorted(plan.policies))}")
    policy, unused = learnt_from(selection, source)
    with stream.connect_stream(settings.redis) as client, store_errors("publishing"):
        # Nothing that a learner taught before is in it, so its clock reads 0 there.
        meaning, blob = meaning_of(selection), dump_policy(policy)
        parts = parts_of(client, key)
        for part in parts:
            put_current(client, part, 0.0, meaning, dump_policy(prior_of(selection)))
        if parts:
            put_current(client, f"{key}{MARK}warm", 0.0, meaning, blob)
        version = put_current(client, key, 0.0, meaning, blob)
    return WarmStart(version, policy.seen, unused)


def learnt_from(selection: Selection, source: Path) -> tuple[Bandit, dict[str, int]]:
    """The prior of a selection taught by all rows of a log or table, and how many it could not use, by reason.

    Raises:
        BadInput: if there is nothing to learn from.
    """
    if not source.exists():
        raise BadInput(f"{source}: does not exist; give {_WANTED}")
    if source.is_file() and source.suffix not in _TABLES:
        raise BadInput(f"{source}: is no folder and no {' or '.join(_TABLES)}; give {_WANTED}")
    policy = prior_of(selection)
    unused: Counter[str] = Counter()
    for rows in _log(selection, source, unused) if source.is_dir() else _table(selection, source):
        policy = _taught(policy, selection, rows, unused)
    if not policy.seen:
        aside = ", ".join(f"{rows:,} ({reason})" for reason, rows in (+unused).items())
        why = f"left aside were {aside}" if aside else "it has none"
        raise BadInput(f"{source}: no row teaches {selection.key}, {why}; see what it holds")
    return policy, dict(+unused)


def _taught(policy: Bandit, selection: Selection, rows: Sequence[WarmRow], unused: Counter[str]) -> Bandit:
    places = {arm: index for index, arm in enumerate(policy.arms)}
    usable: list[tuple[int, float, float]] = []
    contexts: list[np.ndarray] = []
    for arm, reward, propensity, context in rows:
        place = places.get(str(arm))
        if place is None:
            unused["arm that the plan does not have"] += 1
        elif reward is None or not math.isfinite(reward):
            unused["reward that is no finite number"] += 1
        elif not 0 < propensity <= 1:
            unused["propensity outside (0, 1]"] += 1
        else:
            usable.append((place, reward, propensity))
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
    """The rows whose window is over: of the others only those that earned something already would be known."""
    tables = ("decisions", "exposures", "rewards")
    files = {name: str(folder / name / "**" / "*.parquet") for name in tables}
    missing = [name for name in tables if next((folder / name).glob("**/*.parquet"), None) is None]
    if missing:
        within = [folder / "log", *sorted(file for file in folder.iterdir() if file.suffix in _TABLES)]
        meant = next((str(one) for one in within if one.exists()), _WANTED)
        raise BadInput(f"{folder}: has no {missing[0]}/*.parquet, so it holds no log; give {meant}")
    asked = {**files, "key": selection.placement, "window": selection.reward.window}
    with _duckdb(folder) as connection:
        answer = connection.execute(_LOG, asked)
        while rows := answer.fetchmany(_PIECE):
            unused[_OPEN] += sum(not over for *_, over in rows)
            yield [(arm, reward, p, _context.decode(context or "{}")) for arm, reward, p, context, over in rows if over]


def _table(selection: Selection, file: Path) -> Iterator[list[WarmRow]]:
    features = selection.features
    traits = list(dict.fromkeys([*(spec.trait for spec in features.specs), *(group.name for group in features.groups)]))
    with _duckdb(file) as connection:
        table = connection.read_csv(str(file)) if file.suffix == ".csv" else connection.read_parquet(str(file))
        for name in ("arm", "reward", *traits):
            if name not in table.columns:
                raise BadInput(f"{file}: has no column {name!r} but {', '.join(table.columns)}; rename one, or add it")
        given = "propensity" if "propensity" in table.columns else str(1 / len(selection.arms))
        quoted = ['"' + trait.replace('"', '""') + '"' for trait in traits]
        chosen = table.project(", ".join(["arm", "try_cast(reward AS DOUBLE)", f"CAST({given} AS DOUBLE)", *quoted]))
        while rows := chosen.fetchmany(_PIECE):
            yield [(arm, reward, p, dict(zip(traits, values, strict=True))) for arm, reward, p, *values in rows]


@contextmanager
def _duckdb(source: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    try:
        import duckdb  # noqa: PLC0415 (a learner lives without the analysis extra)
    except ImportError as error:
        raise BadInput(
            "duckdb is not installed: a warm start needs it; pip install 'counterpoint[analysis]'"
        ) from error
    with duckdb.connect() as connection:
        try:
            yield connection
        except duckdb.Error as error:
            raise BadInput(f"{source}: cannot be read: {str(error).splitlines()[0]}") from error
