"""A real Valkey for every test that names one."""

from collections.abc import Iterator

import pytest
import redis

from engine import embedded


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Embedded]:
    with embedded.running(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis_url(valkey: embedded.Embedded) -> str:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
    return valkey.url
