"""Learns from the log's streams: joins rewards to decisions, teaches the policies, and publishes them as snapshots."""

from engine.learn.loop import learn

__all__ = ["learn"]
