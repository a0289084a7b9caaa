"""Back to an earlier snapshot: decision servers have it within a second, and the learner goes on from there."""

import time
from typing import NamedTuple

from engine.errors import BadInput, StoreUnavailable
from engine.journal import stream
from engine.learn.combine import parts_of
from engine.settings import Settings
from engine.snapshots.header import Header
from engine.snapshots.publish import current_headers, kept_headers, kept_snapshot, publish_snapshot, store_errors
from policies import Bandit, load_policy

_TRIES = 20


class Version(NamedTuple):
    """A kept snapshot and how many rewards are in it, of which forgetting leaves a part; None where it is damaged."""

    header: Header
    rewards: float | None


def versions(settings: Settings, key: str) -> list[Version]:
    """The snapshots of a selection that can be rolled back to, the newest (the current one) first.

    Raises:
        BadInput: if there is none; the message names the selections that have some.
        StoreUnavailable: if the store does not answer.
    """
    with stream.connect_stream(settings.redis) as client, store_errors("listing snapshots"):
        return [Version(header, _rewards(client, key, header)) for header in _kept(client, key)]


def rollback(settings: Settings, key: str, version: int | None = None) -> int:
    """Publish a kept snapshot of `key` anew, by default that before the current one, or before what that goes back to.

    A learner takes it over as its state: what it learnt since then is forgotten, and learnt again if it is corrected.
    Of learners with partitions of their own each goes back to where it was at that time.

    Returns:
        The version under which it is current now.

    Raises:
        BadInput: if there is no such version; the message names those that are kept.
        StoreUnavailable: if the store does not answer.
    """
    with stream.connect_stream(settings.redis) as client, store_errors("rolling back"):
        target = _chosen(client, key, version)
        for part in parts_of(client, key):
            then = [header for header in kept_headers(client, part) if header.time <= target.time]
            if then:
                republish(client, part, then[0])
        return republish(client, key, target)


def republish(client: stream.StreamClient, key: str, target: Header) -> int:
    """Make a kept snapshot current under the next version, which is the answer.

    Raises:
        StoreUnavailable: if others publish faster than this could, which a healthy store does not let happen.
    """
    blob = kept_snapshot(client, key, target).blob
    return put_current(client, key, target.learnt, target.meaning, blob)


def put_current(client: stream.StreamClient, key: str, learnt: float, meaning: str, blob: bytes) -> int:
    """Make `blob` current under the next version, whatever a learner publishes meanwhile; that version.

    Raises:
        StoreUnavailable: if others publish faster than this could, which a healthy store does not let happen.
    """
    for _ in range(_TRIES):
        there = current_headers(client).get(key)
        header = Header.of(there.version + 1 if there else 1, time.time(), learnt, meaning, blob)
        publish_snapshot(client, key, header, blob)
        if current_headers(client).get(key) == header:
            return header.version
    raise StoreUnavailable(f"{key}: another process published first, {_TRIES} times; try again")


def _chosen(client: stream.StreamClient, key: str, version: int | None) -> Header:
    kept = _kept(client, key)
    if version is None:
        same = [header for header in kept if header.digest == kept[0].digest]
        before = [header for header in kept if header.version < same[-1].version]
        if not before:
            raise BadInput(
                f"{key}@{same[-1].version} is the only snapshot, or the oldest kept; there is none before it"
            )
        return before[0]
    found = next((header for header in kept if header.version == version), None)
    if found is None:
        raise BadInput(f"{key}@{version} is not kept; choose one of {', '.join(str(h.version) for h in kept)}")
    return found


def _kept(client: stream.StreamClient, key: str) -> list[Header]:
    kept = kept_headers(client, key)
    if not kept:
        known = ", ".join(sorted(current_headers(client))) or "none"
        raise BadInput(f"{key!r} has no snapshot to roll back to; selections with snapshots: {known}")
    return kept


def _rewards(client: stream.StreamClient, key: str, header: Header) -> float | None:
    try:
        policy = load_policy(kept_snapshot(client, key, header).blob)
    except (BadInput, ValueError):
        return None
    return _weight(policy)


def _weight(policy: Bandit) -> float:
    """Of all observations in a policy, those of arms that left it too."""
    gone = policy.statistics.get("left_noise", [0.0])[0]
    return float(policy.statistics["count"].sum() + gone)
