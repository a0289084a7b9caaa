"""Connections that pack commands by hiredis, as redis-py's synchronous ones do.

redis-py's asynchronous connections pack in Python, for three times the CPU: a fifth of what an event costs.
"""

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.connection import HiredisRespSerializer

_SERIALIZER = HiredisRespSerializer()


class PackedByHiredis:
    """The packing of a connection of redis-py; a base class before its own."""

    def pack_command(self, *args: bytes | str | float) -> list[bytes]:
        """Returns a command in the protocol of Redis.

        Raises:
            DataError: if an argument is not text, bytes or a number.
        """
        name = args[0]
        if type(name) is str and " " not in name:
            try:
                return [hiredis.pack_command(args)]  # type: ignore[arg-type] # its stub knows one argument
            except TypeError:
                pass  # the library's packing raises its own error
        return _SERIALIZER.pack(*args)  # type: ignore[no-any-return,arg-type] # it splits names such as CONFIG GET


def connect_packed(url: str, *, timeout: float, retry: Retry) -> Redis:
    """Returns a client of one server whose connections, plain, by TLS or by a Unix socket, pack by hiredis."""
    pool = ConnectionPool.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry)
    plain = pool.connection_class
    pool.connection_class = type(f"Packed{plain.__name__}", (PackedByHiredis, plain), {})
    return Redis.from_pool(pool)
