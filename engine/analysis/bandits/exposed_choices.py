"""The exposed choices of a placement as arrays. DuckDB joins, orders and numbers them: no row becomes an object."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.bandits.settled import Unsettled, count_unsettled, leave_out_unsettled
from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.traced_traits import ReportSplit, fill_from_traces
from engine.analysis.values.json_fields import json_text

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import ibis.expr.types as ir
    from numpy.typing import NDArray

    from engine.analysis.stats.moments import Floats
    from policies.batches import Ints

_CHOICES = "exposed_choices"
# Names are numbered in their order, so that the same rows give the same arrays. A row without a customer is one of its
# own. A set of candidates contains the offer that was chosen, whatever the log lists.
_NUMBERED = """
WITH logged AS (
    SELECT time, decision_id, position, split_part(policy, '@', 1) AS policy, variant, propensity, reward,
        coalesce(customer, decision_id) AS customer,
        list_sort(list_distinct(list_append(coalesce(candidates, []), variant))) AS names
    FROM exposed_choices
)
SELECT time, coalesce(position, 0) AS position, coalesce(propensity, 'nan'::DOUBLE) AS propensity, reward,
    dense_rank() OVER (ORDER BY policy) - 1 AS policy, dense_rank() OVER (ORDER BY variant) - 1 AS offer,
    dense_rank() OVER (ORDER BY names) - 1 AS candidates, dense_rank() OVER (ORDER BY customer) - 1 AS customer
FROM logged ORDER BY time, decision_id, position
"""
_POLICIES = "SELECT DISTINCT split_part(policy, '@', 1) AS name FROM exposed_choices ORDER BY name"
_OFFERS = "SELECT DISTINCT variant FROM exposed_choices ORDER BY variant"
_SETS = """
WITH sets AS (
    SELECT DISTINCT list_sort(list_distinct(list_append(coalesce(candidates, []), variant))) AS names
    FROM exposed_choices
), numbered AS (SELECT names, row_number() OVER (ORDER BY names) AS number FROM sets)
SELECT number, unnest(names) AS name FROM numbered ORDER BY number, name
"""


_CREATIVES = """
SELECT variant, channel, segment, creative, creatives, creative_policy, coalesce(customer, decision_id),
    creative_propensity, reward
FROM exposed_choices WHERE creative IS NOT NULL ORDER BY time, decision_id, position
"""


@dataclass(frozen=True)
class CreativeChoices:
    """The m showings of offers that have creatives, in the order of time."""

    offer: tuple[str, ...]
    channel: tuple[str, ...]
    segment: tuple[str | None, ...]
    """None where the report is not split, or the showing has no value."""
    creative: tuple[str, ...]
    candidates: tuple[frozenset[str], ...]
    policy: tuple[str, ...]
    """Without the snapshot's version; empty where the creatives were drawn evenly."""
    customer: Ints
    """(m,) numbered from 0."""
    propensity: Floats
    """(m,) the probability of the creative given the offer."""
    reward: Floats
    """(m,)."""


@dataclass(frozen=True)
class ExposedChoices:
    """The n exposed choices of a placement's policies in time order; each item of a list is one."""

    policies: tuple[str, ...]
    """Without the snapshot's version."""
    offers: tuple[str, ...]
    """Those that were shown."""
    policy: Ints
    """(n,) positions in `policies`."""
    offer: Ints
    """(n,) positions in `offers`."""
    position: Ints
    """(n,) places in a list, from 1; 0 where the placement shows a single offer."""
    customer: Ints
    """(n,) numbered from 0."""
    propensity: Floats
    """(n,) the logged probability of the offer that was chosen."""
    reward: Floats
    """(n,) 0 where none has arrived."""
    time: Ints
    """(n,) microseconds since 1970."""
    sets: tuple[tuple[str, ...], ...]
    """The distinct sets of candidates."""
    which: Ints
    """(n,) positions in `sets`."""
    shown: CreativeChoices | None = None
    """Those with a creative; None where no offer has any."""

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def customers(self) -> int:
        """The number of customers."""
        return int(self.customer.max()) + 1

    def find_candidates(self, offer: int) -> NDArray[np.bool_]:
        """Whether an offer, a position in `offers`, could be chosen in each row (n,)."""
        return np.array([self.offers[offer] in names for names in self.sets])[self.which]

    def count_candidates(self) -> Floats:
        """The number of candidates of each row (n,)."""
        return np.array([len(names) for names in self.sets], dtype=np.float64)[self.which]


def read_exposed_choices(
    folder: Path,
    placement: str,
    as_of: datetime | None,
    *,
    window: float | None = None,
    ripe: bool = True,
    split: ReportSplit | None = None,
) -> tuple[ExposedChoices | None, Unsettled]:
    """The exposed choices with settled rewards, None if there are none; also the number of the others.

    The latest reward of a decision counts. With `as_of` only decisions, exposures and rewards until then count.
    `window`, `ripe` and `split` are those of `policy_report`.

    Raises:
        BadInput: if the folder is not a log's.
    """
    source = DuckDB()
    with lock_log_for_reading(folder):
        unsettled = _keep_choices(source, folder, placement, as_of, window=window, ripe=ripe, split=split)
    columns = source.columns(_NUMBERED)
    if not len(columns["reward"]):
        return None, unsettled
    codes = {name: columns[name].astype(np.intp) for name in ("policy", "offer", "candidates", "customer", "time")}
    choices = ExposedChoices(
        policies=tuple(str(name) for (name,) in source.run(_POLICIES)),
        offers=tuple(str(name) for (name,) in source.run(_OFFERS)),
        policy=codes["policy"],
        offer=codes["offer"],
        position=columns["position"].astype(np.intp),
        customer=codes["customer"],
        propensity=columns["propensity"].astype(np.float64),
        reward=columns["reward"].astype(np.float64),
        time=codes["time"],
        sets=tuple(
            tuple(str(name) for _, name in rows) for _, rows in groupby(source.run(_SETS), key=lambda row: row[0])
        ),
        which=codes["candidates"],
        shown=_read_creatives(source),
    )
    return choices, unsettled


def _read_creatives(source: DuckDB) -> CreativeChoices | None:
    """The showings with a creative."""
    rows = source.run(_CREATIVES)
    if not rows:
        return None
    offers, channels, segments, creatives, candidates, policies, customers, propensities, rewards = zip(
        *rows, strict=True
    )
    return CreativeChoices(
        offer=tuple(map(str, offers)),
        channel=tuple("unknown" if one is None else str(one) for one in channels),
        segment=tuple(None if one is None else str(one) for one in segments),
        creative=tuple(map(str, creatives)),
        candidates=tuple(frozenset(map(str, one)) if isinstance(one, list) else frozenset() for one in candidates),
        policy=tuple("" if one is None else str(one).partition("@")[0] for one in policies),
        customer=np.unique(np.array([str(one) for one in customers]), return_inverse=True)[1].ravel(),
        propensity=np.array(propensities, dtype=np.float64),
        reward=np.array(rewards, dtype=np.float64),
    )


def _split_choices(source: DuckDB, folder: Path, rows: ir.Table, split: ReportSplit | None) -> ir.Table:
    """The rows with the value of the segment by which the report is split."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    if split is None:
        return rows.mutate(segment=ibis.null("string"))
    segment = split.segment
    is_logged = segment.matches is None
    own = json_text(rows["context"], segment.name) if is_logged else ibis.null("string")
    rows = source.keep("split_choices", rows.mutate(segment=rows["channel"] if segment.name == "channel" else own))
    if segment.name == "channel":
        return rows
    missing = rows["creative"].notnull() & (rows["segment"].isnull() if is_logged else rows["time"] > 0)
    read = segment.reader(split.zone)
    return fill_from_traces(source, folder, rows, column="segment", missing=missing, read=read)


def _keep_choices(
    source: DuckDB,
    folder: Path,
    placement: str,
    as_of: datetime | None,
    *,
    window: float | None,
    ripe: bool,
    split: ReportSplit | None,
) -> Unsettled:
    """Stores the settled choices with their rewards in a temporary table."""
    tables = [read_log_table(source, folder, name) for name in ("decisions", "exposures", "rewards")]
    if as_of is not None:
        moment = int(as_of.timestamp() * SECOND)
        tables = [table.filter(table["time"] <= moment) for table in tables]
    decided, shown, earned = tables
    chosen = decided.filter(
        (decided["kind"] == "offer")
        & (decided["key"] == placement)
        & decided["policy"].notnull()
        & decided["variant"].notnull()
    )
    shown, earned = shown.filter(shown["key"] == placement), earned.filter(earned["key"] == placement)
    seen = shown.group_by("decision_id", "position").aggregate(exposed=shown["time"].min())
    last = earned.group_by("decision_id", "position").aggregate(reward=earned["reward"].argmax(earned["time"]))
    item = ["decision_id", "position"]
    joined = chosen.inner_join(seen, item).left_join(last, item)
    columns = ("time", "decision_id", "position", "policy", "variant", "customer", "propensity", "candidates")
    of_creatives = ("channel", "context", "creative", "creative_propensity", "creatives", "creative_policy")
    every = source.keep("every_choice", joined.select(*columns, *of_creatives, "exposed", "reward"))
    rows, unsettled = leave_out_unsettled(source, every, earned, window) if ripe else count_unsettled(source, every)
    rows = _split_choices(
        source, folder, rows.select(*columns, *of_creatives, reward=rows["reward"].fill_null(0.0)), split
    )
    source.keep(_CHOICES, rows.drop("context"))
    return unsettled
