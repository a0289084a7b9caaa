"""How an erasure is told to every learner and collector, on whatever machine: through the store, by digests alone."""

from hashlib import blake2b

STREAM = "cp:{erased}"
"""The stream of erasures; an entry has `at` (s since 1970) and `who`, digests with a space between."""

KEPT = 30 * 86_400.0
"""How long one is kept, in seconds: no spool or stream keeps a record for longer."""


def digest(identifier: str) -> str:
    """What is kept of an erased id."""
    return blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
