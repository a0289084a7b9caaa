"""Looks into the store of a test past the engine, whether it is one server or a cluster."""

import redis


def open_store(url: str) -> redis.Redis:
    """A client of one server or of a cluster, by the address.

    A client of a cluster has the commands of a client of one server. It sends each to the node of its key, and scans
    all primaries.
    """
    if url.startswith("redis+cluster://"):
        first = url.removeprefix("redis+cluster://").split(",")[0]
        return redis.RedisCluster.from_url(f"redis://{first}")  # type: ignore[return-value]
    return redis.Redis.from_url(url)


def empty_store(url: str) -> None:
    """Delete every key, on every primary."""
    with open_store(url) as client:
        if isinstance(client, redis.RedisCluster):
            client.flushall(target_nodes=redis.RedisCluster.PRIMARIES)
        else:
            client.flushall()
