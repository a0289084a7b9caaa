"""A few stories where the keys of one step are on several nodes: a login, codes, a shared budget, leases, an erasure.

`make cluster-stories` runs every story there.
"""

import pytest

from tests.store import empty_store
from tests.stories import test_coupons, test_due, test_erased_holds, test_identity, test_shared_budgets

_LOGIN, _CODES, _MESSAGES, _BUDGET = test_identity, test_coupons, test_due, test_shared_budgets

test_a_login_keeps_what_was_seen = _LOGIN.test_what_was_prefetched_and_seen_is_kept_at_the_login
test_a_server_finishes_what_another_died_in = _LOGIN.test_a_server_that_starts_finishes_what_another_died_in
test_an_erased_customer_leaves_no_name = _LOGIN.test_an_erased_customer_leaves_no_name_whatever_comes_late
test_a_code_belongs_to_one_customer = _CODES.test_no_code_is_ever_given_to_two_customers
test_an_erasure_deletes_the_owner_of_a_code = _CODES.test_an_erasure_deletes_whose_code_it_was_and_nobody_gets_it_again
test_one_budget_of_several_offers = _BUDGET.test_offers_spend_one_amount_together_and_no_more
test_an_unconfirmed_lease_returns = _MESSAGES.test_an_unconfirmed_lease_returns_and_a_confirmed_one_does_not
test_two_that_are_one_get_one_message = _MESSAGES.test_one_who_turns_out_to_be_two_gets_one_message
test_what_an_erased_customer_had_is_free = (
    test_erased_holds.test_the_next_customer_gets_at_once_what_an_erased_one_had_on_hold
)


@pytest.fixture
def redis_url(six_node_url: str) -> str:
    """An empty cluster, in the place of the one server."""
    empty_store(six_node_url)
    return six_node_url
