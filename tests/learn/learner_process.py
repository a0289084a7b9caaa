"""A learner to be killed: `learner_process.py EXPERIMENTS DATA URL`."""

import sys
import threading
from pathlib import Path

from engine.catalog import load_plan
from engine.learn import learn
from engine.settings import Settings

experiments, data, url = sys.argv[1:]
plan = load_plan(experiments)
settings = Settings(experiments=Path(experiments), data=Path(data), redis=url, partitions=2)
learn(settings, lambda: plan, threading.Event(), clock=lambda: 0.0)
