"""The learnt state of policies: their stored snapshots, and the current estimate of each arm."""

from collections.abc import Sequence

from engine.catalog.plan.plan import Selection
from engine.dashboard.figures import format_figure
from engine.dashboard.tables import DataTable, columns_of, count_cell, moment_cell, text_cell
from engine.dashboard.web import PageVisit
from engine.errors import BadInput, StoreUnavailable
from engine.learn.rollback import Version, versions


def stored_versions(visit: PageVisit, key: str) -> list[Version]:
    """The stored snapshots, the current one first; empty if the policy has not learnt or the store is away."""
    try:
        return versions(visit.desk.settings, key)
    except (BadInput, StoreUnavailable):
        return []


def versions_table(key: str, found: Sequence[Version]) -> DataTable:
    """The stored snapshots as a table."""
    titles = {"version": "Version", "published": "Published", "learnt": "Rewards learnt", "digest": "Digest"}
    rows = [
        [
            text_cell(f"{key}@{one.header.version}"),
            moment_cell(one.header.time),
            count_cell(one.rewards),
            text_cell(one.header.digest[:12]),
        ]
        for one in found
    ]
    columns = columns_of(titles, figures=("learnt",))
    empty = "It has published no snapshot: it does not learn, or has no reward yet."
    return DataTable(name=f"versions-{key}", title=f"Snapshots of {key}", columns=columns, rows=rows, empty=empty)


def posterior_tables(visit: PageVisit, selections: Sequence[Selection]) -> list[DataTable]:
    """The current estimates of each learnt policy: the observations of its arms, and their expected rewards."""
    found = []
    for one in selections:
        snapshot = visit.desk.worker.snapshots.get(one.key)
        if snapshot is None or not snapshot.version:
            continue
        policy = snapshot.policy
        counts = getattr(policy, "statistics", {}).get("count", [])
        titles = {"arm": "Arm", "observations": "Observations"}
        rows = [
            [text_cell(arm), count_cell(float(counts[at]) if len(counts) > at else None)]
            for at, arm in enumerate(policy.arms)
        ]
        if not policy.dim:  # what a contextual policy expects depends on the customer
            titles |= {"expected": "Expected reward"}
            for row, worth in zip(rows, policy.expected(None), strict=True):
                row.append(count_cell(float(worth)))
        note = f"Of snapshot {one.key}@{snapshot.version}, {format_figure(float(policy.seen))} observations in all."
        if policy.dim:
            note += " What it expects of an arm depends on the customer's features."
        columns = columns_of(titles, figures=list(titles)[1:])
        title = f"What {one.key} has learnt"
        found.append(DataTable(name=f"posterior-{one.key}", title=title, columns=columns, rows=rows, note=note))
    return found
