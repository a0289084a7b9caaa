"""Decision ids: sorted by time, with a mark if the log may receive a decision's records more than once.

Who has the id of a decision may report its exposures, so ids must not be guessed from others: they come from the
operating system's generator, many at a time so that a request spends no system call on one.
"""

import operator
import os
from hashlib import blake2b

from engine.customer import KINDS, CustomerIds
from engine.journal.records import PREVIEW_MARK

_IDS_PER_READ = 400
_BARE = 32
"""Characters of a decision id without the tag of its customer."""


_pool: list[str] = []


def _random_digits() -> str:
    """20 random hex digits. Taking from the end of a list is one step, so threads never get the same."""
    while True:
        try:
            return _pool.pop()
        except IndexError:
            digits = os.urandom(_IDS_PER_READ * 10).hex()
            _pool.extend(digits[start : start + 20] for start in range(0, len(digits), 20))


def new_id(now: float, *, ahead: bool = False) -> str:
    """A decision id: 12 hex digits of milliseconds since 1970, so that ids sort by time, then 80 random bits in hex.

    With `ahead`, for a prefetched decision, the 13th character is `p`: its exposure may be reported more than once,
    and the collector counts each key of it once.
    """
    digits = f"{int(now * 1000):012x}{_random_digits()}"
    return f"{digits[:12]}p{digits[13:]}" if ahead else digits


def mark_repeatable(decision_id: str) -> str:
    """The id of a decision whose records may be spooled twice: its 13th character is `r`, not a hex digit."""
    return f"{decision_id[:12]}r{decision_id[13:]}"


def mark_preview(decision_id: str) -> str:
    """The id of a preview's decision: its 13th character is `v`. Events that name it do not count."""
    return f"{decision_id[:12]}{PREVIEW_MARK}{decision_id[13:]}"


def is_preview(decision_id: str) -> bool:
    """Whether a decision was made for a preview."""
    return decision_id[12:13] == PREVIEW_MARK


def tag_customer(decision_id: str, ids: CustomerIds) -> str:
    """The id with a tag of its customer, by which `may_be_of` detects other customers' events; 40 characters.

    The tag is a salted digest of the strongest identifier: only who knows the identifier can compare it.
    """
    strongest = next(filter(None, _identifiers(ids)), None)
    return decision_id if strongest is None else decision_id + _tag(decision_id, strongest)


def may_be_of(decision_id: str, ids: CustomerIds) -> bool:
    """Whether the decision may belong to a customer with these identifiers; an untagged id may be anyone's."""
    bare, tag = decision_id[:_BARE], decision_id[_BARE:]
    return not tag or any(tag == _tag(bare, value) for value in _identifiers(ids) if value)


_identifiers = operator.attrgetter(*KINDS)
"""The identifiers of a customer, the strongest first."""


def _tag(decision_id: str, identifier: str) -> str:
    salt = decision_id[13:].encode()[:64]
    return blake2b(identifier.strip().casefold().encode(), digest_size=4, key=salt).hexdigest()


def new_request_id() -> bytes:
    """An id for a request that sends none."""
    return _random_digits()[:16].encode()
