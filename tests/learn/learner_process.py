"""A learner to be killed: `learner_process.py EXPERIMENTS DATA URL LEARNT`.

Once it has learnt so much it prints a line and goes on with one batch. It never gets further, so that a kill falls into
the work however late it comes.
"""

import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from engine.catalog import Plan, load_plan
from engine.learn import learn
from engine.learn.state import path_of
from engine.settings import Settings


def plans(plan: Plan, state: Path, enough: float) -> Iterator[Plan]:
    """The plan, once for every batch."""
    while learnt(state) < enough:
        yield plan
    sys.stdout.write("\n")
    sys.stdout.flush()
    yield plan
    signal.pause()


def learnt(state: Path) -> float:
    """How much of `till` is committed."""
    with closing(sqlite3.connect(state)) as db:
        return max((found for (found,) in db.execute("SELECT learnt FROM policies WHERE key = 'till'")), default=-1.0)


signal.alarm(60)  # nobody is left waiting for one that hangs
experiments, data, url, enough = sys.argv[1:]
settings = Settings(experiments=Path(experiments), data=Path(data), redis=url, partitions=2)
given = plans(load_plan(experiments), path_of(settings.data, None), float(enough))
learn(settings, lambda: next(given), threading.Event(), clock=lambda: 0.0)
