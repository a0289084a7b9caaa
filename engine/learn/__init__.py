"""Rewards joined to the logged context, arm and propensity, learnt, and published as snapshots."""

from engine.learn.learner import learn

__all__ = ["learn"]
