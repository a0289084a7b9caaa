"""Logged choices of one placement as arrays: from the Parquet log, or from a CSV of the Open Bandit Dataset.

Propensities are taken as they were logged and never computed again: a policy's later state gives other ones.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.analysis.sources.engines import Cell, DuckDB
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.merged_customers import merged_customers_table
from engine.catalog.plan.features import Context, Value
from engine.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
T = TypeVar("T", bound=Hashable)

_NEEDED = {
    "decisions": (
        *("decision_id", "time", "customer", "kind", "key"),
        *("variant", "propensity", "candidates", "context", "policy"),
    ),
    "exposures": ("decision_id", "key"),
    "rewards": ("decision_id", "key", "reward", "time"),
}
_LOG = """
WITH shown AS (SELECT DISTINCT decision_id, key FROM {exposures}),
earned AS (SELECT decision_id, key, arg_max(reward, time) AS reward FROM {rewards} GROUP BY ALL)
SELECT decision_id, coalesce({customer}, decision_id), variant, propensity, candidates, context, reward
FROM {decisions} AS logged JOIN shown USING (decision_id, key) LEFT JOIN earned USING (decision_id, key) {became}
WHERE kind = 'offer' AND policy IS NOT NULL AND variant IS NOT NULL AND key = {placement}
ORDER BY time, decision_id
"""
_ROUND = ("timestamp", "item_id", "click", "propensity_score")
_context = msgspec.json.Decoder(dict[str, Value])


@dataclass(frozen=True)
class Logged:
    """The exposed choices (n,) of a placement in the order of time; `place` names where they are from.

    `arm` and the candidates are positions in `arms`; `sets[which[i]]` are the candidates of row i, the chosen arm
    among them, and `contexts[context[i]]` its features. Rows of one `customer` are not independent, nor are those of
    a visitor who turned out to be one; customers are counted in the order in which they first came. `unsettled` rows
    have neither a reward nor a zero in the log yet.
    """

    place: str
    placement: str
    arms: tuple[str, ...]
    arm: Ints
    reward: Floats
    propensity: Floats
    customer: Ints
    sets: tuple[Ints, ...]
    which: Ints
    contexts: tuple[Context, ...]
    context: Ints
    unsettled: int = 0

    def __len__(self) -> int:
        return self.arm.size

    @property
    def customers(self) -> int:
        """How many there are."""
        return int(self.customer.max()) + 1

    def only(self, rows: Ints) -> "Logged":
        """These rows (m,) of it, their customers counted from 0 again."""
        arm, reward, propensity = self.arm[rows], self.reward[rows], self.propensity[rows]
        customer = np.unique(self.customer[rows], return_inverse=True)[1].ravel()
        which, context = self.which[rows], self.context[rows]
        return replace(
            self, arm=arm, reward=reward, propensity=propensity, customer=customer, which=which, context=context
        )


def read_logged(source: Path, placement: str | None = None) -> Logged:
    """The logged choices in `source`.

    Args:
        source: the folder of a log (decisions of a policy that were exposed; the last reward of each counts, none is
            a zero), or a CSV of the Open Bandit Dataset, whose items are `item_` and the id, every one of them a
            candidate; item_context.csv beside it names those that were never shown.
        placement: which of a log's placements; may be left out where there is one.

    Raises:
        BadInput: in one line, if a column, the rewards or the choice is missing, or a propensity is not in (0, 1].
    """
    if source.is_dir():
        with lock_log_for_reading(source):
            found = _log(source, placement)
        return _checked(found)
    if not source.is_file():
        raise BadInput(f"{source}: does not exist; give a log's folder or a CSV of the Open Bandit Dataset")
    if source.suffix != ".csv":
        raise BadInput(f"{source}: is no folder and no .csv; give a log's folder or a CSV of the Open Bandit Dataset")
    return _checked(_rounds(source))


def _log(folder: Path, placement: str | None) -> Logged:
    source = DuckDB()
    tables = {name: _table(source, folder, name) for name in _NEEDED}
    found = source.run(
        f"SELECT DISTINCT key FROM {tables['decisions']} WHERE kind = 'offer' AND policy IS NOT NULL ORDER BY key"  # noqa: S608 # quoted in _table
    )
    placements = [str(key) for (key,) in found]
    if not placements:
        raise BadInput(f"{folder}: has no decision of a policy; only offers that a policy chose can be judged")
    if placement is None and len(placements) > 1:
        raise BadInput(f"{folder}: has the placements {', '.join(placements)}; name one with --placement")
    chosen = placement or placements[0]
    people = merged_customers_table(source, folder)
    who = {"customer": "logged.customer", "became": ""}
    if people is not None:
        joined = f"LEFT JOIN {people} AS became ON logged.customer = became.old AND logged.time <= became.until"
        who = {"customer": "coalesce(became.customer, logged.customer)", "became": joined}
    rows = source.run(_LOG.format(**tables, **who, placement=_quoted(chosen)))
    if not rows:
        raise BadInput(
            f"{folder}: placement {chosen!r} has no exposed decision of a policy; there is {', '.join(placements)}"
        )
    ids, customers, offers, propensities, candidates, contexts, rewards = zip(*rows, strict=True)
    _refuse_propensities(folder, propensities, [f"decision {one}" for one in ids])
    if not any(source.run(f"SELECT 1 FROM {tables['rewards']} WHERE key = {_quoted(chosen)} LIMIT 1")):  # noqa: S608 # quoted
        raise BadInput(f"{folder}: rewards/ has none of placement {chosen!r}; without rewards nothing can be judged")
    could = [_candidates(folder, *row) for row in zip(ids, offers, candidates, strict=True)]
    arms = tuple(sorted({name for names in set(could) for name in names}))
    at = {name: index for index, name in enumerate(arms)}
    sets, which = _coded(could)
    texts, context = _coded([text or "{}" for text in contexts])
    return Logged(
        place=str(folder),
        placement=chosen,
        arms=arms,
        arm=np.array([at[str(offer)] for offer in offers], dtype=np.intp),
        reward=np.array([0.0 if reward is None else reward for reward in rewards], dtype=np.float64),
        propensity=np.array(propensities, dtype=np.float64),
        customer=_coded(customers)[1],
        sets=tuple(np.array([at[name] for name in names], dtype=np.intp) for names in sets),
        which=which,
        contexts=tuple(_decoded(folder, str(text)) for text in texts),
        context=context,
        unsettled=sum(reward is None for reward in rewards),
    )


def _rounds(file: Path) -> Logged:
    source = DuckDB()
    table = f"read_csv({_quoted(str(file))}, sample_size = -1)"
    columns = _columns(source, table, str(file), _ROUND)
    features = [name for name in columns if name not in _ROUND and not name.startswith("column")]
    taken = ", ".join('"' + name.replace('"', '""') + '"' for name in features)
    rows = source.run(
        "SELECT CAST(item_id AS VARCHAR), try_cast(click AS DOUBLE), try_cast(propensity_score AS DOUBLE)"  # noqa: S608 # quoted
        f"{', ' + taken if taken else ''} FROM {table} ORDER BY timestamp, item_id"
    )
    if not rows:
        raise BadInput(f"{file}: has no round below its header; give a log of the Open Bandit Dataset")
    items, clicks, propensities = ([row[index] for row in rows] for index in range(3))
    _refuse_propensities(file, propensities, [f"item {item}" for item in items])
    beside = file.with_name("item_context.csv")
    known = {str(item) for item in items}
    if beside.is_file():
        context_table = f"read_csv({_quoted(str(beside))})"
        _columns(source, context_table, str(beside), ("item_id",))
        known |= {str(item) for (item,) in source.run(f"SELECT CAST(item_id AS VARCHAR) FROM {context_table}")}  # noqa: S608 # quoted
    ordered = sorted(known, key=lambda item: (len(item), item))
    at = {item: index for index, item in enumerate(ordered)}
    contexts, context = _coded([row[3:] for row in rows])
    return Logged(
        place=str(file),
        placement=file.stem,
        arms=tuple(f"item_{item}" for item in ordered),
        arm=np.array([at[str(item)] for item in items], dtype=np.intp),
        reward=np.array(clicks, dtype=np.float64),
        propensity=np.array(propensities, dtype=np.float64),
        customer=np.arange(len(rows)),
        sets=(np.arange(len(ordered)),),
        which=np.zeros(len(rows), np.intp),
        contexts=tuple({name: _value(v) for name, v in zip(features, values, strict=True)} for values in contexts),
        context=context,
    )


def _table(source: DuckDB, folder: Path, name: str) -> str:
    """SQL that reads one table of the log, after a look at its columns."""
    if next((folder / name).glob("**/*.parquet"), None) is None:
        what = "rewards; without them nothing can be judged" if name == "rewards" else "log; give DATA/log"
        raise BadInput(f"{folder}: has no {name}/*.parquet, so it holds no {what}")
    table = f"read_parquet({_quoted(f'{folder / name}/**/*.parquet')}, union_by_name = true, hive_partitioning = false)"
    _columns(source, table, f"{folder}/{name}", _NEEDED[name])
    return table


def _columns(source: DuckDB, table: str, place: str, needed: Sequence[str]) -> list[str]:
    columns = [str(row[0]) for row in source.run(f"DESCRIBE SELECT * FROM {table}")]  # noqa: S608 # quoted by callers
    missing = [name for name in needed if name not in columns]
    if missing:
        raise BadInput(f"{place}: has no column {' and no '.join(map(repr, missing))}; an evaluation needs it")
    return columns


def _refuse_propensities(place: Path, propensities: Sequence[Cell], rows: Sequence[str]) -> None:
    """Refuses the log where a choice does not have the probability with which it was made."""
    values = np.array([math.nan if one is None else one for one in propensities], dtype=np.float64)
    for what, bad in (("missing or NaN", np.isnan(values)), ("not in (0, 1]", (values <= 0) | (values > 1))):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise BadInput(
                f"{place}: {rows[at]}: propensity {values[at]:g} is {what} ({int(bad.sum()):,} of {len(values):,}); "
                "only choices logged with their probability can be used, and none may be left out"
            )


def _checked(log: Logged) -> Logged:
    bad = ~np.isfinite(log.reward)
    if bad.any():
        raise BadInput(f"{log.place}: {int(bad.sum()):,} rewards are no finite number; mend them, or take them out")
    if not log.reward.any():
        raise BadInput(f"{log.place}: every reward of {log.placement!r} is 0; without rewards nothing can be judged")
    if max(names.size for names in log.sets) < 2:
        raise BadInput(f"{log.place}: every decision had one candidate; where nothing is chosen nothing can be judged")
    if log.customers < 2:
        raise BadInput(f"{log.place}: all decisions are of one customer; an interval needs two")
    return log


def _candidates(folder: Path, decision: Cell, offer: Cell, names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise BadInput(f"{folder}: decision {decision} has no candidates; an evaluation needs what could be chosen")
    return tuple(sorted({str(name) for name in names} | {str(offer)}))


def _coded(values: Iterable[T]) -> tuple[list[T], Ints]:
    """The distinct values in the order they occur, and each one's position."""
    places: dict[T, int] = {}
    codes = [places.setdefault(value, len(places)) for value in values]
    return list(places), np.array(codes, dtype=np.intp)


def _decoded(folder: Path, text: str) -> Context:
    try:
        return _context.decode(text)
    except msgspec.MsgspecError as error:
        raise BadInput(f"{folder}: context {text[:60]!r} is no JSON object of plain values ({error})") from error


def _value(value: Cell) -> Value:
    return value if isinstance(value, str | int | float | bool) else None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
