"""The time of `check` for a folder of about 10,000 lines: read, validate, cross-check, compile.

`python -m loadtests.check [--experiments N] [--runs N] [--json]`. Exits with 1 if the median run takes 2 s or more.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from engine.catalog.check.load import load_specs
from engine.catalog.check.warnings import find_warnings
from engine.catalog.plan.compile import compile_plan

BUDGET_SECONDS = 2.0
EXPERIMENT = """\
key: {key}
hypothesis: Customers who see version {number} order more often than before.
owner: growth
unit: customer
layer: {key}
status: running
audience:
  country: {{$in: [DE, AT]}}
  loyalty.tier: {{$gte: {tier}}}
  $segment: regulars
coverage: 0.5
variants:
  - key: control
    weight: 0.5
    payload: {{{key}: classic}}
  - key: one_page
    weight: 0.5
    payload: {{{key}: one_page}}
metrics:
  primary: conversion
  guardrails: [conversion]
"""


def make(folder: Path, number: int) -> int:
    """Write a shop of `number` experiments; returns its number of lines."""
    keys = [f"experiment_{index}" for index in range(number)]
    files = {f"{key}.yaml": EXPERIMENT.format(key=key, number=at, tier=at % 4) for at, key in enumerate(keys)}
    files |= {
        "channels.yaml": "channels:\n  - {key: web}\n  - {key: app}\n",
        "metrics.yaml": "metrics:\n  - {key: conversion, event: purchase}\n",
        "segments.yaml": "segments:\n  - {key: regulars, condition: {visits: {$gte: 3}}}\n",
        "layers.yaml": "layers:\n" + "".join(f"  - {{key: {key}}}\n" for key in keys),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return sum(text.count("\n") for text in files.values())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--experiments", type=int, default=475)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lines = make(folder, chosen.experiments)
        seconds = []
        for _ in range(chosen.runs):
            start = time.perf_counter()
            specs = load_specs(folder)
            find_warnings(specs, 0.0)
            compile_plan(specs)
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    if chosen.json:
        print(json.dumps({"lines": lines, "seconds": median, "budget": BUDGET_SECONDS}))
    else:
        print(f"check of {lines:,} lines: {median:.2f} s, median of {chosen.runs}; budget {BUDGET_SECONDS:g} s")
    return 0 if median < BUDGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
