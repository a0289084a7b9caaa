"""Four servers, two learners and two collectors on a cluster: a primary, a learner and a collector die under load."""

import pytest

from tests.faults.cluster.cluster import run

SEED = 6


@pytest.mark.timeout(300)
def test_nothing_is_lost_exceeded_or_rewarded_with_a_zero() -> None:
    ledger, found = run(6.0, SEED)
    assert not any(found.values()), found
    assert ledger.clicked
    assert ledger.letters
    assert ledger.logged_in
