"""Learners with partitions of their own publish parts; what they know together is the sum of these."""

import time
from functools import reduce

import structlog

from engine.journal import snapshots, stream
from engine.journal.snapshots import Header, aligned, bandit
from engine.learn.rules import Rules
from policies import dump, load, merge

MARK = "/"  # no selection's key has it
_log = structlog.get_logger(__name__)


def parts_of(client: stream.Client, key: str) -> list[str]:
    """The names under which the parts of a selection are published."""
    return sorted(name for name in snapshots.headers(client) if name.startswith(key + MARK))


def combine(client: stream.Client, rules: Rules) -> dict[str, int]:
    """Publish the sum of the parts of every selection for which it is not current; the versions that it got.

    Any number of processes may do this at once. With forgetting the sum is approximate, since each part ages by
    what it saw itself.
    """
    there = snapshots.headers(client)
    published: dict[str, int] = {}
    for key, rule in rules.of.items():
        names = [name for name in there if name.startswith(key + MARK) and there[name].meaning == rule.meaning]
        learnt = sum(there[name].learnt for name in names)
        current = there.get(key)
        newest = max((there[name].time for name in names), default=0.0)
        if not names or (current is not None and current.learnt == learnt and current.time >= newest):
            continue
        prior = bandit(rule.selection)
        found = [part for name in names if (part := snapshots.current(client, name)) is not None]
        parts = [aligned(load(part.blob), rule.selection) for part in found]
        blob = dump(reduce(lambda sum_, part: merge(part, sum_, prior), parts, prior))
        version = current.version + 1 if current else 1
        # Never older than its newest part by its header, whatever the clocks of two machines say.
        at = max(time.time(), *(part.header.time for part in found))
        header = Header.of(version, at, sum(part.header.learnt for part in found), rule.meaning, blob)
        if snapshots.publish(client, key, header, blob) == version:
            published[key] = version
    return published
