"""The cost of one in-process assignment against GrowthBook's Python SDK with the same rule, in alternating runs.

`python loadtests/assignment.py [--runs N] [--json]`. The SDK runs in an environment of its own, made on first use. It
is measured as in its manual, with one `GrowthBook` object per customer, and with one object for all of them. Exits with
1 if one assignment takes 2 µs or more, or the SDK as in its manual is less than ten times slower.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEER = Path(__file__).parents[1] / ".cache" / "peers" / "growthbook"
SDK = "growthbook==4.0.0"
UNITS = [f"u-{number}" for number in range(100_000, 120_000)]
SEED = "checkout_layout"
COVERAGE = 0.5
WEIGHTS = [0.5, 0.5]
AUDIENCE = {"country": {"$in": ["DE", "AT"]}, "loyalty.tier": {"$gte": 2}}
TRAITS = {"country": "DE", "loyalty": {"tier": 3}}
PLAIN = "bucket and variant"
TARGETED = "audience, bucket and variant"
REUSED = ", one object"
BUDGET_US = 2.0
BUDGET_RATIO = 10.0


def timed(assign: Callable[[str], int]) -> tuple[float, int]:
    """CPU microseconds per unit, and a checksum of the assignments."""
    start = time.process_time()
    variants = [assign(unit) for unit in UNITS]
    spent = time.process_time() - start
    return spent / len(UNITS) * 1e6, sum((index + 1) * (variant + 1) for index, variant in enumerate(variants))


def ours() -> dict[str, Callable[[str], int]]:
    from engine.catalog.conditions.compile import compile_condition  # noqa: PLC0415  the peer's environment has no engine
    from engine.hashing import bucket_ranges, variant_lookup  # noqa: PLC0415  as above

    assign = variant_lookup(SEED, bucket_ranges(len(WEIGHTS), COVERAGE, WEIGHTS))
    matches = compile_condition(AUDIENCE)
    return {PLAIN: assign, TARGETED: lambda unit: assign(unit) if matches(TRAITS) else -1}


def theirs() -> dict[str, Callable[[str], int]]:
    from growthbook import Experiment, GrowthBook  # noqa: PLC0415  only the peer's environment has it

    def runner(condition: dict[str, object] | None, *, keep: bool) -> Callable[[str], int]:
        experiment = Experiment(
            key=SEED,
            seed=SEED,
            variations=[0, 1],
            weights=WEIGHTS,
            coverage=COVERAGE,
            hashVersion=2,
            condition=condition,
        )
        kept = GrowthBook()

        def assign(unit: str) -> int:
            if keep:
                sdk = kept
                sdk.set_attributes({"id": unit, **TRAITS})
            else:
                sdk = GrowthBook(attributes={"id": unit, **TRAITS})
            result = sdk.run(experiment)
            return result.variationId if result.inExperiment else -1

        return assign

    conditions = {PLAIN: None, TARGETED: AUDIENCE}
    return {
        f"{name}{suffix}": runner(condition, keep=bool(suffix))
        for name, condition in conditions.items()
        for suffix in ("", REUSED)
    }


def measured(rules: dict[str, Callable[[str], int]]) -> dict[str, tuple[float, int]]:
    return {name: timed(assign) for name, assign in rules.items()}


def peer() -> dict[str, tuple[float, int]]:
    answer = subprocess.run(
        [PEER / "bin" / "python", __file__, "--peer"], capture_output=True, check=True, text=True
    ).stdout
    return {name: (took, checksum) for name, (took, checksum) in json.loads(answer).items()}


def install_peer() -> None:
    if not (PEER / "bin" / "python").exists():
        print(f"making {PEER} with {SDK} …", file=sys.stderr)
        venv.create(PEER, with_pip=True)
        subprocess.run([PEER / "bin" / "python", "-m", "pip", "install", "--quiet", SDK], check=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=7)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--peer", action="store_true", help="only measure the SDK, as JSON")
    chosen = arguments.parse_args()
    if chosen.peer:
        print(json.dumps(measured(theirs())))
        return 0
    install_peer()
    rules = ours()
    pairs = [(measured(rules), peer()) for _ in range(chosen.runs)]
    rows: list[dict[str, Any]] = []
    for name in pairs[0][1]:
        own = name.removesuffix(REUSED)
        if pairs[0][0][own][1] != pairs[0][1][name][1]:
            print(f"{name}: the two assign differently: their times are not comparable", file=sys.stderr)
            return 1
        rows.append(
            {
                "rule": name,
                "ours_us": statistics.median(mine[own][0] for mine, _ in pairs),
                "growthbook_us": statistics.median(other[name][0] for _, other in pairs),
                "ratio": statistics.median(other[name][0] / mine[own][0] for mine, other in pairs),
            }
        )
    if chosen.json:
        print(json.dumps(rows))
    else:
        print(f"{'CPU per assignment':<46}{'ours':>10}{'growthbook':>14}{'ratio':>8}   median of {chosen.runs}")
        for row in rows:
            print(f"{row['rule']:<46}{row['ours_us']:>7.2f} µs{row['growthbook_us']:>11.2f} µs{row['ratio']:>8.1f}")
    by_manual = [row for row in rows if not row["rule"].endswith(REUSED)]
    met = all(row["ours_us"] < BUDGET_US and row["ratio"] >= BUDGET_RATIO for row in by_manual)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
