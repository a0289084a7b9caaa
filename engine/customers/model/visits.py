"""Visits: runs of what a customer did with no longer pause than the visit gap, kept as intervals."""

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile

VisitSpan = tuple[int, int]


def extend_visits(profile: Profile, time: float, rules: ProfileRules) -> tuple[list[VisitSpan], int]:
    """The newest visits (first and last second each) and how many were before, after one more sign at `time`.

    Intervals that come within the gap of each other are one visit, so signs may come in any order; one from before
    the oldest visit still kept belongs to those already counted.
    """
    moment = int(time)
    if len(profile.visits) >= rules.visits_limit and moment < profile.visits[0][0] - rules.visit_gap:
        return profile.visits, profile.past_visits
    return _bounded([*profile.visits, (moment, moment)], profile.past_visits, rules)


def merge_visits(a: Profile, b: Profile, rules: ProfileRules) -> tuple[list[VisitSpan], int]:
    """The visits of two profiles that are one customer."""
    return _bounded([*a.visits, *b.visits], a.past_visits + b.past_visits, rules)


def _bounded(intervals: list[VisitSpan], past: int, rules: ProfileRules) -> tuple[list[VisitSpan], int]:
    runs: list[VisitSpan] = []
    for start, end in sorted(intervals):
        if runs and start <= runs[-1][1] + rules.visit_gap:
            runs[-1] = (runs[-1][0], max(runs[-1][1], end))
        else:
            runs.append((start, end))
    over = max(0, len(runs) - rules.visits_limit)
    return runs[over:], past + over
