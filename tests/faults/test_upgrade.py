"""Every process is replaced in turn under load. `make upgrade` does it from a real earlier commit."""

from pathlib import Path

import pytest

from tests.faults.soak.upgrade import run

SEED = 7


@pytest.mark.timeout(300)
def test_no_decision_is_refused_lost_or_doubled_while_processes_are_replaced() -> None:
    ledger, found = run(Path(__file__).parents[2], 7.5, SEED, callers=4)
    assert not any(found.values()), found
    assert len(ledger.decisions) > 20
