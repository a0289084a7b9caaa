"""A learner to be killed: `learner_process.py EXPERIMENTS DATA URL LEARNT batch|publication`.

Once it has learnt so much it prints a line and continues with one batch, or with the publication that it is about to
begin. It never gets further, so that a kill falls into the work however late it comes.
"""

import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from engine.catalog import Plan, load_plan
from engine.learn import learn, learner
from engine.learn.partitions import combine
from engine.learn.state import state_path
from engine.settings import Settings

announced = threading.Event()


def announce() -> None:
    """Print the line after which the test kills this process."""
    if not announced.is_set():
        announced.set()
        sys.stdout.write("\n")
        sys.stdout.flush()


def plans(plan: Plan, state: Path, enough: float, *, publishing: bool) -> Iterator[Plan]:
    """The plan, once for every batch."""
    while learnt(state) < enough or (publishing and not announced.is_set()):
        yield plan
    if not publishing:
        announce()
        yield plan
    signal.pause()


def watched(state: Path, enough: float) -> None:
    """Announce the first publication after so much was learnt, just before it."""
    publish = learner.publish_snapshot

    def announce_first(*arguments: Any) -> int:
        if learnt(state) >= enough:
            announce()
        return publish(*arguments)

    learner.publish_snapshot = combine.publish_snapshot = announce_first


def learnt(state: Path) -> float:
    """How much of `till` is committed."""
    with closing(sqlite3.connect(state)) as db:
        return max((found for (found,) in db.execute("SELECT learnt FROM policies WHERE key = 'till'")), default=-1.0)


signal.alarm(60)  # nobody is left waiting for one that hangs
experiments, data, url, amount, during = sys.argv[1:]
settings = Settings(experiments=Path(experiments), data=Path(data), redis=url, partitions=2)
file, publishing = state_path(settings.data, None), during == "publication"
if publishing:
    watched(file, float(amount))
given = plans(load_plan(experiments), file, float(amount), publishing=publishing)
learn(settings, lambda: next(given), threading.Event(), clock=lambda: 0.0)
