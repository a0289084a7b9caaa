"""Prints how policies compare in simulated shops: `counterpoint simulate --environment`."""

from collections.abc import Sequence
from pathlib import Path

from engine.analysis.offpolicy.target_policies import read_policies
from engine.cli.app import complain, count, grid, out, print_json, say
from engine.errors import BadInput
from engine.rehearse.environments import UNIFORM, compare_policies, default_specs


def simulate_environment(name: str, paths: Sequence[Path], *, rounds: int, runs: int, seed: int, json: bool) -> int:
    """Compare the policies of these files, or one of each kind, and print their regret."""
    if rounds < 1 or runs < 1:
        raise BadInput(f"--rounds {rounds} --runs {runs}: give at least one of each")
    if seed < 0:
        raise BadInput(f"--seed {seed}: is below 0; give a whole number from 0 on")
    specs = {file.name: file.spec for file in read_policies(paths, UNIFORM)}
    if not specs:
        complain("No --policy FILE.yaml: one of each kind, as it is by default.")
        specs = default_specs()
    results = compare_policies(name, specs, rounds=rounds, runs=runs, seed=seed)
    if json:
        print_json({"environment": name, "rounds": rounds, "runs": runs, "seed": seed, "policies": results})
        return 0
    say(f"{name}: {count(rounds, 'round')}, {count(runs, 'run')} from seed {seed}. Regret is what always showing")
    say("the best offer would have earned beyond the policy's choices, by their true chances.")
    figures = ("regret", "of uniform", "seconds")
    table = grid("policy", "kind", *figures, figures=figures)
    for result in results:
        margin = "" if result.error is None else f" ± {result.error:,.1f}"
        regret = f"{result.regret:,.1f}{margin}"
        table.add_row(result.policy, result.kind, regret, f"{result.of_uniform:.0%}", f"{result.seconds:.2f}")
    out.print(table)
    return 0
