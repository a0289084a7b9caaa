"""Visits: runs of events with no pause longer than the visit gap, stored as intervals."""

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile

VisitSpan = tuple[int, int]


def extend_visits(profile: Profile, time: float, rules: ProfileRules) -> tuple[list[VisitSpan], int]:
    """Returns the newest visits (first and last second each) and the number of older ones, after an event at `time`.

    Intervals closer than the gap are one visit, so events may arrive in any order. An event from before the oldest
    stored visit belongs to those already counted.
    """
    moment = int(time)
    if len(profile.visits) >= rules.visits_limit and moment < profile.visits[0][0] - rules.visit_gap:
        return profile.visits, profile.past_visits
    return _bounded([*profile.visits, (moment, moment)], profile.past_visits, rules)


def merge_visits(a: Profile, b: Profile, rules: ProfileRules) -> tuple[list[VisitSpan], int]:
    """Returns the visits of a merged customer."""
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
