"""Limits the failed guesses of keys per peer.

A peer that sent too many unknown keys is refused whatever it sends next, or a lucky guess would still be served. Keys
that it used before go on: behind a proxy all customers are one peer, and one of them must not lock out the others.
"""

import math
from collections import OrderedDict

from engine.service.problems import Refusal

SECONDS_PER_GUESS = 10.0
_MOST_PEERS = 10_000
"""The peers, and the keys of peers, that are remembered; past it the one that was silent for longest is forgotten."""


class GuessLimiter:
    """Token buckets of failed guesses by peer, of `burst` guesses each. Times are seconds of a monotonic clock."""

    def __init__(self, burst: int) -> None:
        self._burst = burst
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._used: OrderedDict[tuple[str, str], None] = OrderedDict()

    def admit(self, peer: str, key_name: str, now: float) -> None:
        """Admit a known key, and remember it for the peer.

        Raises:
            Refusal: 429 if the peer is over its guesses and did not use this key before.
        """
        used = (peer, key_name)
        if used in self._used:
            return
        self._require_guess_left(peer, now)
        self._used[used] = None
        if len(self._used) > _MOST_PEERS:
            self._used.popitem(last=False)

    def count_failure(self, peer: str, now: float) -> None:
        """Count an unknown key.

        Raises:
            Refusal: 429 if the peer is over its guesses.
        """
        self._require_guess_left(peer, now)
        self._spent[peer] = (self._failures(peer, now) + 1, now)
        self._spent.move_to_end(peer)
        if len(self._spent) > _MOST_PEERS:
            self._spent.popitem(last=False)

    def _failures(self, peer: str, now: float) -> float:
        failures, since = self._spent.get(peer, (0.0, now))
        return max(0.0, failures - (now - since) / SECONDS_PER_GUESS)

    def _require_guess_left(self, peer: str, now: float) -> None:
        over = self._failures(peer, now) + 1 - self._burst
        if over > 0:
            wait = math.ceil(over * SECONDS_PER_GUESS)
            detail = f"this address sent too many unknown keys; wait {wait} s"
            raise Refusal(429, detail, "authorization", ((b"retry-after", str(wait).encode()),))
