"""Servers that a measurement starts, and waits for."""

import time

import httpx

START_SECONDS = 60.0


def wait_until_ready(base: str) -> None:
    """Return once the server takes requests.

    Raises:
        TimeoutError: if it does not within a minute.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{base}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{base} is not ready after {START_SECONDS:g} s")
