"""`make calibrate-bandits`: coverage of bandits' arms and contrasts in 1,000 runs of each world, a Markdown table."""

import sys

from tests.statistical.bandit_worlds import WORLDS, measure

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
SEED = 2026

sys.stdout.write("| world | arms: estimated | cover | width | contrasts: estimated | cover | width | trend found |\n")
sys.stdout.write("|---|---|---|---|---|---|---|---|\n")
for name, world in WORLDS.items():
    arms, contrasts, trends = measure(world, RUNS, SEED)
    cells = [
        cell
        for tally in (arms, contrasts)
        for cell in (
            f"{tally.given / tally.asked:.0%}",
            f"{tally.coverage:.1%}",
            f"{tally.width / max(tally.given, 1):.3f}",
        )
    ]
    sys.stdout.write(f"| {name} | {' | '.join(cells)} | {trends:.0%} |\n")
    sys.stdout.flush()
