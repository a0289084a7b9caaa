"""Combines what several learners publish: versions, trips of breakers, and the sum of partitions' policies.

A learner of some partitions publishes a part, named SELECTION/PARTITIONS. Sufficient statistics are sums, so the policy
of all partitions is prior + Σ (part - prior). Invariants:

- Any learner may combine at any time; the same parts give the same sum, and a newer one wins by its version.
- A combined snapshot is current as long as its `learnt` equals the sum of its parts' and no part is newer.
- What a learner of all partitions published before the split stays, as the part SELECTION/before.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import structlog

from engine.errors import BadInput
from engine.journal import stream
from engine.learn.partitions.share import MARK
from engine.learn.reward_rules import RewardRule, RewardRules
from engine.learn.state import State
from engine.learn.teach import Learnt
from engine.snapshots.header import Header, StoredSnapshot, align_policy, load_usable_policy, prior_of
from engine.snapshots.publish import (
    current_headers,
    current_snapshot,
    open_breaker,
    open_breakers,
    publish_snapshot,
    report_altered,
)
from policies import Bandit, dump_policy, merge_policies

REMAINDER = f"{MARK}before"
_log = structlog.get_logger(__name__)


def part_names(client: stream.StreamClient, key: str) -> list[str]:
    """The names under which the parts of a selection are published."""
    return sorted(name for name in current_headers(client) if name.startswith(key + MARK))


def combine_parts(client: stream.StreamClient, rules: RewardRules) -> dict[str, int]:
    """Publish the sum of the parts of every selection whose combined snapshot is not current.

    Any number of processes may do this at once. With forgetting (`discount` below 1) the sum is approximate, because
    each part ages by its own lessons only.

    Returns:
        The published versions by selection.
    """
    headers = current_headers(client)
    published: dict[str, int] = {}
    for key, rule in rules.by_selection.items():
        names = _matching_parts(headers, key, rule)
        learnt = sum(headers[name].learnt for name in names)
        current = headers.get(key)
        newest = max((headers[name].time for name in names), default=0.0)
        if not names or (current is not None and current.learnt == learnt and current.time >= newest):
            continue
        try:
            parts = _fetch(client, names)
            blob = dump_policy(_add_up(parts, rule))
        except (BadInput, ValueError) as error:  # its learner replaces it with its next lesson
            report_altered(key, b" ".join(headers[name].line() for name in names), str(error))
            continue
        version = current.version + 1 if current else 1
        # The clocks of two machines differ: a header older than its newest part would be combined again for ever.
        at = max(time.time(), *(part.header.time for part in parts))
        header = Header.of(version, at, sum(part.header.learnt for part in parts), rule.meaning, blob)
        if publish_snapshot(client, key, header, blob) == version:
            published[key] = version
    return published


def publish_remainder(client: stream.StreamClient, rules: RewardRules) -> None:
    """Publish as a part what current snapshots contain beyond their parts: lessons of an unpartitioned learner.

    A learner of some partitions calls this before it publishes anything; otherwise the first sum would drop them.
    """
    headers = current_headers(client)
    for key, rule in rules.by_selection.items():
        current, names = headers.get(key), _matching_parts(headers, key, rule)
        newest = max((headers[name].time for name in names), default=0.0)
        learnt = sum(headers[name].learnt for name in names)
        if current is None or current.meaning != rule.meaning or current.learnt == learnt or newest > current.time:
            continue
        remainder = key + REMAINDER
        try:
            others = _fetch(client, [name for name in names if name != remainder])
            whole = _fetch(client, [key])
            blob = dump_policy(merge_policies(_add_up(whole, rule), prior_of(rule.selection), _add_up(others, rule)))
        except (BadInput, ValueError) as error:  # nothing can be taken over from it
            report_altered(key, current.line(), str(error))
            continue
        version = headers[remainder].version + 1 if remainder in headers else 1
        learnt = current.learnt - sum(part.header.learnt for part in others)
        header = Header.of(version, time.time(), learnt, rule.meaning, blob)
        publish_snapshot(client, remainder, header, blob)
        _log.info("published the lessons of the learner of all partitions as a part", key=key, version=current.version)


def _matching_parts(headers: Mapping[str, Header], key: str, rule: RewardRule) -> list[str]:
    """The parts of a selection whose statistics still have the same meaning."""
    return [name for name in headers if name.startswith(key + MARK) and headers[name].meaning == rule.meaning]


def _fetch(client: stream.StreamClient, names: Sequence[str]) -> list[StoredSnapshot]:
    """The current snapshots under these names, without parts that were never published."""
    return [part for name in names if (part := current_snapshot(client, name)) is not None]


def _add_up(parts: Sequence[StoredSnapshot], rule: RewardRule) -> Bandit:
    """The sum of the parts' statistics about the common prior, which is counted once."""
    prior = prior_of(rule.selection)
    policies = [align_policy(load_usable_policy(part.blob), rule.selection) for part in parts]
    return reduce(lambda total, policy: merge_policies(policy, total, prior), policies, prior)


def is_own_snapshot(key: str, own: Learnt, header: Header, known: dict[str, Header | None]) -> bool:
    """Whether a current snapshot is this learner's; others publish above its version, or first under the same one.

    One below it is of a store that lost the last. After a start, only the numbers in the learner's file (`own`) tell.
    `known` has the header that was last published or adopted by key, None if the store had none; it is added to.
    """
    if key not in known:
        is_own = header.version < own.version or (header.version, header.learnt) == (own.version, own.learnt)
        if is_own:
            known[key] = header
        return is_own
    last = known[key]
    return last is not None and (header == last or header.version < last.version)


def number_versions(
    changed: Mapping[str, Learnt], published: Mapping[str, int], headers: Mapping[str, Header | None]
) -> dict[str, Learnt]:
    """Policies with the version after the current one, so that no rollback can be below or equal to it."""
    numbered: dict[str, Learnt] = {}
    for key, one in changed.items():
        known = headers.get(key)
        latest = max(published.get(key, 0), known.version if known else 0)
        numbered[key] = replace(one, version=min(one.version, latest + 1)) if latest else one
    return numbered


def publish_trips(client: stream.StreamClient, state: State) -> None:
    """Publish new trips of breakers, and delete those that were closed in the store."""
    known = state.published_trips()
    for selection in set(known).difference(open_breakers(client)) if known else ():
        state.drop_trip(selection)
        _log.info("circuit breaker closed by hand", selection=selection)
    for selection, reason in state.unpublished_trips():
        open_breaker(client, selection, reason)
        state.mark_published(selection)
        _log.error("circuit breaker open: the fallback is shown", selection=selection, reason=reason)
