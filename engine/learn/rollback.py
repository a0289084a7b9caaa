"""Rolls a policy back to an earlier snapshot: servers follow within a second, and the learner continues from it.

A rollback publishes the old bytes under the next version, so versions never decrease and a server cannot miss it. The
learner adopts a snapshot that others published in its place (`Learner._adopt_published`): what it learnt since then is
forgotten, and learnt again where it is corrected.
"""

import time
from typing import NamedTuple

from engine.errors import BadInput, StoreUnavailable
from engine.journal import stream
from engine.learn.partitions.combine import part_names
from engine.settings import Settings
from engine.snapshots.header import Header
from engine.snapshots.publish import current_headers, publish_snapshot, store_errors, stored_headers, stored_snapshot
from policies import Bandit, load_policy

_TRIES = 20


class Version(NamedTuple):
    """A stored snapshot and its number of rewards, discounted as the policy forgets; None if it is damaged."""

    header: Header
    rewards: float | None


def versions(settings: Settings, key: str) -> list[Version]:
    """The snapshots of a selection that can be rolled back to, the newest (the current one) first.

    Raises:
        BadInput: if there is none; the message names the selections that have snapshots.
        StoreUnavailable: if the store does not answer.
    """
    with stream.connect_stream(settings.redis) as client, store_errors("listing snapshots"):
        return [Version(header, _rewards(client, key, header)) for header in _stored_headers(client, key)]


def rollback(settings: Settings, key: str, version: int | None = None) -> int:
    """Publish a stored snapshot of `key` as the next version.

    By default it is the one before the current one; after a rollback, the one before that which was rolled back to.
    Parts of learners with partitions of their own go back to their snapshots of that time.

    Returns:
        The version that is current now.

    Raises:
        BadInput: if there is no such version; the message names the stored ones.
        StoreUnavailable: if the store does not answer.
    """
    with stream.connect_stream(settings.redis) as client, store_errors("rolling back"):
        target = _target(client, key, version)
        for part in part_names(client, key):
            then = [header for header in stored_headers(client, part) if header.time <= target.time]
            if then:
                republish(client, part, then[0])
        return republish(client, key, target)


def republish(client: stream.StreamClient, key: str, target: Header) -> int:
    """Publish a stored snapshot as the next version, and return that version.

    Raises:
        StoreUnavailable: if other processes keep publishing first.
    """
    blob = stored_snapshot(client, key, target).blob
    return publish_as_current(client, key, target.learnt, target.meaning, blob)


def publish_as_current(client: stream.StreamClient, key: str, learnt: float, meaning: str, blob: bytes) -> int:
    """Publish `blob` as the next version, even while a learner publishes; returns the version.

    Raises:
        StoreUnavailable: if other processes keep publishing first.
    """
    for _ in range(_TRIES):
        current = current_headers(client).get(key)
        header = Header.of(current.version + 1 if current else 1, time.time(), learnt, meaning, blob)
        publish_snapshot(client, key, header, blob)
        if current_headers(client).get(key) == header:  # otherwise a learner took this version
            return header.version
    raise StoreUnavailable(f"{key}: another process published first, {_TRIES} times; try again")


def _target(client: stream.StreamClient, key: str, version: int | None) -> Header:
    """The header of the snapshot to roll back to."""
    stored = _stored_headers(client, key)
    if version is None:
        # A rollback republished the bytes of an older version: skip what has the current digest to go one step further.
        same = [header for header in stored if header.digest == stored[0].digest]
        before = [header for header in stored if header.version < same[-1].version]
        if not before:
            raise BadInput(f"{key}@{same[-1].version} is the oldest stored snapshot; there is none to roll back to")
        return before[0]
    target = next((header for header in stored if header.version == version), None)
    if target is None:
        raise BadInput(f"{key}@{version} is not stored; choose one of {', '.join(str(h.version) for h in stored)}")
    return target


def _stored_headers(client: stream.StreamClient, key: str) -> list[Header]:
    """The headers of a selection's stored snapshots.

    Raises:
        BadInput: if it has none; the message lists the selections that have some.
    """
    stored = stored_headers(client, key)
    if not stored:
        known = ", ".join(sorted(current_headers(client))) or "none"
        raise BadInput(f"{key!r} has no snapshot to roll back to; selections with snapshots: {known}")
    return stored


def _rewards(client: stream.StreamClient, key: str, header: Header) -> float | None:
    """The number of rewards in a stored snapshot; None if it was deleted meanwhile or cannot be read."""
    try:
        policy = load_policy(stored_snapshot(client, key, header).blob)
    except (BadInput, ValueError):
        return None
    return _weight(policy)


def _weight(policy: Bandit) -> float:
    """The weight of all observations in a policy, including those of arms that left the plan."""
    left = policy.statistics.get("left_noise", [0.0])[0]
    return float(policy.statistics["count"].sum() + left)
