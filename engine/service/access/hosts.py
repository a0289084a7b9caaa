"""Loopback hosts: a server without keys answers only requests for this machine.

A page of another site can let its own name resolve to 127.0.0.1 (DNS rebinding) and then read answers as its own. Its
requests carry that name as `Host`, so a name that is not of this machine is refused.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from engine.service.problems import Refusal


def is_loopback(host: str) -> bool:
    """Whether a host name or an address, without a port, always means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3


def require_loopback_host(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a request whose host is not this machine.

    Raises:
        Refusal: 421.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not _names_this_machine(hosts[0]):
        names = ", ".join(repr(host.decode("latin-1")) for host in hosts)
        detail = (
            f"the request is for {names or 'no host'}, and without keys only this machine is "
            "served; use 127.0.0.1 or localhost, or configure keys with COUNTERPOINT_API_KEYS"
        )
        raise Refusal(421, detail, "host")


@lru_cache(maxsize=256)
def _names_this_machine(host: bytes) -> bool:
    return is_loopback(_without_port(host.decode("latin-1").lower()))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
