"""The listening socket that the workers of one server share."""

import os

from engine.service.access.listener import adopt_listener, duplicate_listener, listen


def test_a_worker_that_starts_lets_no_other_wait_in_accept() -> None:
    with listen("127.0.0.1", 0) as listener, adopt_listener(os.dup(listener.fileno())) as starting:
        copies = duplicate_listener(starting, 3)
        assert not os.get_blocking(listener.fileno())
        for copy in copies[1:]:
            copy.close()
