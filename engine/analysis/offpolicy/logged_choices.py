"""Logged choices of one placement as arrays: from the Parquet log, or from a CSV of the Open Bandit Dataset.

Propensities are used exactly as they were logged. They are never computed again: the policy's state has changed since,
and a later state gives other probabilities.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from engine.analysis.sources.duckdb_expressions import OFFER_PROPENSITY, View, text_literal, with_added_columns
from engine.analysis.sources.engines import Cell, DuckDB
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.merged_customers import merged_customers_table
from engine.catalog.plan.creatives import CREATIVES
from engine.catalog.plan.features import Context, Value
from engine.errors import BadInput
from policies.batches import Floats, Ints

T = TypeVar("T", bound=Hashable)

_LOG_COLUMNS = {
    "decisions": (
        *("decision_id", "time", "customer", "kind", "key"),
        *("variant", "propensity", "candidates", "context", "policy"),
    ),
    "exposures": ("decision_id", "key"),
    "rewards": ("decision_id", "key", "reward", "time"),
}
"""The columns that each table of the log must have."""
# A reward may be corrected: the latest of a decision counts. A row without a customer is a customer of its own.
_CHOICES_QUERY = """
WITH shown AS (SELECT DISTINCT decision_id, key FROM {exposures}),
earned AS (
    SELECT decision_id, key, coalesce(position, 0) AS place, arg_max(reward, time) AS reward FROM {rewards} GROUP BY ALL
), logged AS (SELECT *, coalesce(position, 0) AS place FROM {decisions})
SELECT decision_id, coalesce({customer}, decision_id), variant, {offer_propensity}, candidates, context, reward, place
FROM logged JOIN shown USING (decision_id, key) LEFT JOIN earned USING (decision_id, key, place) {merges}
WHERE kind = 'offer' AND policy IS NOT NULL AND variant IS NOT NULL AND key = {placement}
ORDER BY time, decision_id, place
"""
"""Every item of a list that was seen in part is a row: whether a position was looked at is part of its reward."""
_CREATIVES_QUERY = _CHOICES_QUERY.replace(
    "variant, {offer_propensity}, candidates, context, reward, place\n",
    "variant || '/' || creative, creative_propensity, list_transform(creatives, one -> variant || '/' || one), "
    "context, reward, 0\n",
).replace("policy IS NOT NULL AND variant IS NOT NULL", "creative_policy IS NOT NULL AND creative IS NOT NULL")
"""The choices of creatives, whose arms are `OFFER/CREATIVE`. Each is given its offer, so that no list is judged."""
_ROUND_COLUMNS = ("timestamp", "item_id", "click", "propensity_score")
"""The columns of the Open Bandit Dataset that are not features."""
_context_decoder = msgspec.json.Decoder(dict[str, Value])


@dataclass(frozen=True)
class LoggedChoices:
    """The n exposed choices of a placement in time order.

    Rows of one customer are not independent; neither are rows of a visitor whose profile was merged into a customer.
    """

    place: str
    """The folder or file they were read from."""
    placement: str
    arms: tuple[str, ...]
    arm: Ints
    """(n,) positions in `arms`."""
    reward: Floats
    """(n,)."""
    propensity: Floats
    """(n,) in (0, 1], the logged probability of the chosen arm."""
    customer: Ints
    """(n,) numbered from 0 in the order in which the customers first came."""
    sets: tuple[Ints, ...]
    """The distinct sets of candidates, as positions in `arms`; each contains the arms chosen from it."""
    which: Ints
    """(n,) positions in `sets`."""
    contexts: tuple[Context, ...]
    """The distinct contexts."""
    context: Ints
    """(n,) positions in `contexts`."""
    position: Ints
    """(n,) of an item of a list, from 1; 0 where one offer was shown."""
    decision: Ints
    """(n,) the number of the row's decision, in the order of the rows; the items of a list share it."""
    unsettled: int = 0
    """The number of rows that have neither a reward nor a zero in the log yet."""

    def __len__(self) -> int:
        return self.arm.size

    @property
    def customers(self) -> int:
        """The number of customers."""
        return int(self.customer.max()) + 1

    @property
    def has_lists(self) -> bool:
        """Whether the rows are items of lists."""
        return bool(self.position.any())

    def select_rows(self, rows: Ints) -> "LoggedChoices":
        """The choices at positions `rows` (m,), with customers numbered from 0."""
        return replace(
            self,
            arm=self.arm[rows],
            reward=self.reward[rows],
            propensity=self.propensity[rows],
            customer=np.unique(self.customer[rows], return_inverse=True)[1].ravel(),
            which=self.which[rows],
            context=self.context[rows],
            position=self.position[rows],
            decision=self.decision[rows],
        )


def read_logged_choices(source: Path, placement: str | None = None) -> LoggedChoices:
    """Reads the exposed choices of a placement.

    Args:
        source: the folder of a log, or a CSV of the Open Bandit Dataset. From a log come the exposed decisions of a
            policy with the latest reward of each, zero where there is none. The items of a CSV become the arms
            `item_ID`, all of them candidates in every round; `item_context.csv` beside it adds items never shown.
        placement: the placement within a log; not needed where the log has only one. `home_hero#creatives` are the
            creatives of what it showed: the choices that its policy of creatives made.

    Raises:
        BadInput: if a column, the rewards or the choice is missing, or a propensity is not in (0, 1].
    """
    if source.is_dir():
        with lock_log_for_reading(source):
            choices = _read_log(source, placement)
        return _check_choices(choices)
    if not source.is_file():
        raise BadInput(f"{source}: does not exist; give a log's folder or a CSV of the Open Bandit Dataset")
    if source.suffix != ".csv":
        raise BadInput(
            f"{source}: is neither a folder nor a .csv; give a log's folder or a CSV of the Open Bandit Dataset"
        )
    return _check_choices(_read_rounds(source))


def _read_log(folder: Path, placement: str | None) -> LoggedChoices:
    """The choices in a Parquet log."""
    source = DuckDB()
    tables = {name: _read_table(source, folder, name) for name in _LOG_COLUMNS}
    placements = _list_placements(source, folder, tables["decisions"])
    if placement is None and len(placements) > 1:
        raise BadInput(f"{folder}: has the placements {', '.join(placements)}; name one with --placement")
    chosen = placement or placements[0]
    views = {name: table.sql for name, table in tables.items()} | {"offer_propensity": OFFER_PROPENSITY}
    shown = chosen.removesuffix(CREATIVES)
    query = _CHOICES_QUERY if shown == chosen else _CREATIVES_QUERY
    rows = source.run(query.format(**views, **_merge_sql(source, folder), placement=text_literal(shown)))
    if not rows:
        raise BadInput(
            f"{folder}: placement {chosen!r} has no exposed decision of a policy; the log has {', '.join(placements)}"
        )
    ids, customers, offers, propensities, candidates, contexts, rewards, places = zip(*rows, strict=True)
    _check_propensities(folder, propensities, [f"decision {decision}" for decision in ids])
    if not source.rows(tables["rewards"].filter(tables["rewards"]["key"] == shown).select("key").limit(1)):
        raise BadInput(f"{folder}: rewards/ has no row of placement {shown!r}; an evaluation needs rewards")
    candidate_sets = [_read_candidates(folder, *row) for row in zip(ids, offers, candidates, strict=True)]
    arms = tuple(sorted({name for names in set(candidate_sets) for name in names}))
    position = {name: index for index, name in enumerate(arms)}
    sets, which = _encode_distinct(candidate_sets)
    texts, context = _encode_distinct([text or "{}" for text in contexts])
    return LoggedChoices(
        place=str(folder),
        placement=chosen,
        arms=arms,
        arm=np.array([position[str(offer)] for offer in offers], dtype=np.intp),
        reward=np.array([0.0 if reward is None else reward for reward in rewards], dtype=np.float64),
        propensity=np.array(propensities, dtype=np.float64),
        customer=_encode_distinct(customers)[1],
        sets=tuple(np.array([position[name] for name in names], dtype=np.intp) for names in sets),
        which=which,
        contexts=tuple(_decode_context(folder, str(text)) for text in texts),
        context=context,
        position=np.array(places, dtype=np.intp),
        decision=_encode_distinct(ids)[1],
        unsettled=sum(reward is None for reward in rewards),
    )


def _read_rounds(file: Path) -> LoggedChoices:
    """The choices in a CSV of the Open Bandit Dataset; each round counts as its own customer."""
    source = DuckDB()
    table = source.table(str(file))
    _check_columns(table, str(file), _ROUND_COLUMNS)
    features = [name for name in table.schema() if name not in _ROUND_COLUMNS and not name.startswith("column")]
    choice = {
        "item": table["item_id"].cast("string"),
        "click": table["click"].try_cast("float64"),
        "propensity": table["propensity_score"].try_cast("float64"),
    }
    values = {f"feature_{at}": table[name] for at, name in enumerate(features)}
    rows = source.rows(table.order_by("timestamp", "item_id").select(**choice, **values))  # DuckDB keeps this order
    if not rows:
        raise BadInput(f"{file}: has no round below its header; give a log of the Open Bandit Dataset")
    items, clicks, propensities = ([row[index] for row in rows] for index in range(3))
    _check_propensities(file, propensities, [f"item {item}" for item in items])
    known = {str(item) for item in items} | _read_item_ids(source, file.with_name("item_context.csv"))
    ordered = sorted(known, key=lambda item: (len(item), item))  # numbers by size, without parsing them
    position = {item: index for index, item in enumerate(ordered)}
    contexts, context = _encode_distinct([row[3:] for row in rows])
    return LoggedChoices(
        place=str(file),
        placement=file.stem,
        arms=tuple(f"item_{item}" for item in ordered),
        arm=np.array([position[str(item)] for item in items], dtype=np.intp),
        reward=np.array(clicks, dtype=np.float64),
        propensity=np.array(propensities, dtype=np.float64),
        customer=np.arange(len(rows)),
        sets=(np.arange(len(ordered)),),
        which=np.zeros(len(rows), np.intp),
        contexts=tuple(
            {name: _plain_value(v) for name, v in zip(features, values, strict=True)} for values in contexts
        ),
        context=context,
        position=np.zeros(len(rows), np.intp),
        decision=np.arange(len(rows)),
    )


def _list_placements(source: DuckDB, folder: Path, decisions: View) -> list[str]:
    """The placements with a policy's choices, at least one."""
    chosen = decisions.filter((decisions["kind"] == "offer") & decisions["policy"].notnull())
    rows = source.rows(chosen.group_by("key").aggregate().order_by("key"))
    if not rows:
        raise BadInput(f"{folder}: has no decision of a policy; only offers that a policy chose can be evaluated")
    return [str(key) for (key,) in rows]


def _merge_sql(source: DuckDB, folder: Path) -> dict[str, str]:
    """The query parts `customer` and `merges`: a merged visitor's rows count for the customer."""
    people = merged_customers_table(source, folder)
    if people is None:
        return {"customer": "logged.customer", "merges": ""}
    join = f"LEFT JOIN {people} AS became ON logged.customer = became.old AND logged.time <= became.until"
    return {"customer": "coalesce(became.customer, logged.customer)", "merges": join}


def _read_item_ids(source: DuckDB, file: Path) -> set[str]:
    """The ids of all items, including those never shown; empty if the file is missing."""
    if not file.is_file():
        return set()
    table = source.table(str(file))
    _check_columns(table, str(file), ("item_id",))
    return {str(item) for (item,) in source.rows(table.select(item=table["item_id"].cast("string")))}


def _read_table(source: DuckDB, folder: Path, name: str) -> View:
    """One table of the log, whose columns have been checked."""
    if next((folder / name).glob("**/*.parquet"), None) is None:
        what = "an evaluation needs rewards" if name == "rewards" else "give the folder of a log, DATA/log"
        raise BadInput(f"{folder}: has no {name}/*.parquet; {what}")
    reader = with_added_columns("read_parquet({}, union_by_name = true, hive_partitioning = false)", name)
    view = source.view(name, reader[1:-1], f"{escape(str(folder / name))}/**/*.parquet")
    _check_columns(view, f"{folder}/{name}", _LOG_COLUMNS[name])
    return view


def _check_columns(table: View, place: str, needed: Sequence[str]) -> None:
    """Raises BadInput if a needed column of a table is missing."""
    missing = [name for name in needed if name not in table.schema()]
    if missing:
        raise BadInput(f"{place}: has no column {' and no '.join(map(repr, missing))}; an evaluation needs it")


def _check_propensities(place: Path, propensities: Sequence[Cell], labels: Sequence[str]) -> None:
    """Raises BadInput if a row has no propensity in (0, 1].

    Leaving such rows out instead would bias every estimate: they are seldom missing at random.
    """
    values = np.array([math.nan if value is None else value for value in propensities], dtype=np.float64)
    for what, bad in (("missing or NaN", np.isnan(values)), ("not in (0, 1]", (values <= 0) | (values > 1))):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise BadInput(
                f"{place}: {labels[first]}: propensity {values[first]:g} is {what} "
                f"({int(bad.sum()):,} of {len(values):,}); "
                "only choices logged with their probability can be used, and none may be left out"
            )


def _check_choices(log: LoggedChoices) -> LoggedChoices:
    """Returns the log; raises BadInput if no policy can be evaluated on it."""
    bad = ~np.isfinite(log.reward)
    if bad.any():
        raise BadInput(f"{log.place}: {int(bad.sum()):,} rewards are not finite numbers; correct or remove them")
    if not log.reward.any():
        raise BadInput(f"{log.place}: every reward of {log.placement!r} is 0; an evaluation needs some that are not")
    if max(names.size for names in log.sets) < 2:
        raise BadInput(f"{log.place}: every decision had one candidate; an evaluation needs decisions with a choice")
    if log.customers < 2:
        raise BadInput(f"{log.place}: all decisions are of one customer; an interval needs two")
    return log


def _read_candidates(folder: Path, decision: Cell, offer: Cell, names: object) -> tuple[str, ...]:
    """A decision's candidates in name order, with the chosen offer added."""
    if not isinstance(names, list) or not names:
        raise BadInput(f"{folder}: decision {decision} has no candidates; an evaluation needs the offers it chose from")
    return tuple(sorted({str(name) for name in names} | {str(offer)}))


def _encode_distinct(values: Iterable[T]) -> tuple[list[T], Ints]:
    """The distinct values in order of first occurrence, and each value's index among them."""
    positions: dict[T, int] = {}
    codes = [positions.setdefault(value, len(positions)) for value in values]
    return list(positions), np.array(codes, dtype=np.intp)


def _decode_context(folder: Path, text: str) -> Context:
    """A logged context, decoded from JSON."""
    try:
        return _context_decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise BadInput(f"{folder}: context {text[:60]!r} is not a JSON object of plain values ({error})") from error


def _plain_value(value: Cell) -> Value:
    """A cell as a feature's value; None if its type cannot be one."""
    return value if isinstance(value, str | int | float | bool) else None
