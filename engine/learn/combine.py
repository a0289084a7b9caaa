"""Learners with partitions of their own publish parts; what they know together is the sum of these."""

import time
from collections.abc import Mapping, Sequence
from functools import reduce

import structlog

from engine.journal import stream
from engine.learn.reward_rules import Rule, Rules
from engine.snapshots.header import Header, StoredSnapshot, align_policy, prior_of
from engine.snapshots.publish import current_headers, current_snapshot, publish_snapshot
from policies import Bandit, dump_policy, load_policy, merge_policies

MARK = "/"  # no selection's key has it
REST = f"{MARK}before"
_log = structlog.get_logger(__name__)


def parts_of(client: stream.StreamClient, key: str) -> list[str]:
    """The names under which the parts of a selection are published."""
    return sorted(name for name in current_headers(client) if name.startswith(key + MARK))


def combine_parts(client: stream.StreamClient, rules: Rules) -> dict[str, int]:
    """Publish the sum of the parts of every selection for which it is not current; the versions that it got.

    Any number of processes may do this at once. With forgetting the sum is approximate, since each part ages by
    what it saw itself.
    """
    there = current_headers(client)
    published: dict[str, int] = {}
    for key, rule in rules.of.items():
        names = _of(there, key, rule)
        learnt = sum(there[name].learnt for name in names)
        current = there.get(key)
        newest = max((there[name].time for name in names), default=0.0)
        if not names or (current is not None and current.learnt == learnt and current.time >= newest):
            continue
        found = _found(client, names)
        blob = dump_policy(_sum(found, rule))
        version = current.version + 1 if current else 1
        # Never older than its newest part by its header, whatever the clocks of two machines say.
        at = max(time.time(), *(part.header.time for part in found))
        header = Header.of(version, at, sum(part.header.learnt for part in found), rule.meaning, blob)
        if publish_snapshot(client, key, header, blob) == version:
            published[key] = version
    return published


def keep_the_rest(client: stream.StreamClient, rules: Rules) -> None:
    """Publish as a part what a current snapshot knows beyond its parts: a learner of all partitions taught it.

    For a learner of some partitions before it publishes anything, so that the sum does not begin again from nothing.
    """
    there = current_headers(client)
    for key, rule in rules.of.items():
        current, names = there.get(key), _of(there, key, rule)
        newest = max((there[name].time for name in names), default=0.0)
        learnt = sum(there[name].learnt for name in names)
        if current is None or current.meaning != rule.meaning or current.learnt == learnt or newest > current.time:
            continue
        name = key + REST
        known = _found(client, [one for one in names if one != name])
        whole = _found(client, [key])
        blob = dump_policy(merge_policies(_sum(whole, rule), prior_of(rule.selection), _sum(known, rule)))
        version = there[name].version + 1 if name in there else 1
        learnt = current.learnt - sum(part.header.learnt for part in known)
        publish_snapshot(client, name, Header.of(version, time.time(), learnt, rule.meaning, blob), blob)
        _log.info("kept what a learner of all partitions taught", key=key, version=current.version)


def _of(there: Mapping[str, Header], key: str, rule: Rule) -> list[str]:
    return [name for name in there if name.startswith(key + MARK) and there[name].meaning == rule.meaning]


def _found(client: stream.StreamClient, names: Sequence[str]) -> list[StoredSnapshot]:
    return [part for name in names if (part := current_snapshot(client, name)) is not None]


def _sum(parts: Sequence[StoredSnapshot], rule: Rule) -> Bandit:
    prior = prior_of(rule.selection)
    policies = [align_policy(load_policy(part.blob), rule.selection) for part in parts]
    return reduce(lambda sum_, policy: merge_policies(policy, sum_, prior), policies, prior)
