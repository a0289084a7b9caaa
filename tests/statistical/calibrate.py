"""`make calibrate`: fixed-horizon coverage from 20,000 runs each, with an error of 0.15 %, and that of bandit arms."""

from sys import stdout

from test_bandits import coverage
from test_intervals import fixed_coverage
from test_kinds import figures

from policies import BetaThompson, LinearThompson

for size, lift in (((2000, 2000), 0.1), ((3000, 500), 0.3)):
    stdout.write(f"{size[0]} and {size[1]} units, lift {lift:.0%}:\n")
    for name, rate in fixed_coverage(size, lift, 20_261_101, 20_000).items():
        stdout.write(f"  {name:22} {rate:.2%}\n")
stdout.write("Kinds of metrics, absolute and relative:\n")
for name, rate, share in figures(20_000, 20_261_102):
    stdout.write(f"  {name:22} {rate:.2%} {share:.2%}\n")
for kind in (BetaThompson, LinearThompson):
    ours, naive, error = coverage(kind, 2000)
    stdout.write(f"{kind.__name__}: AIPW {ours:.2%}, plain mean {naive:.2%}, off by {error:+.4f} on average\n")
