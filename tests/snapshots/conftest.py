"""The shop of the learner's tests, whose plan and store the snapshots fit."""

from tests.learn.conftest import shop

__all__ = ["shop"]
