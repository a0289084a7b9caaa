"""`counterpoint doctor` finds what was broken on purpose, names the remedy, and changes nothing."""

import json
from pathlib import Path

import msgspec
import redis

from engine.doctor.findings import examine
from engine.journal.records import ExposureRecord, encode
from engine.journal.spool.spool import Spool
from engine.settings import Settings
from tests.verbs import run_verb

SHOP = Path(__file__).resolve().parents[2] / "experiments"


def problems(settings: Settings, *servers: str) -> dict[str, str]:
    """What is wrong, by subject, each with its remedy."""
    found = examine(settings, servers)
    return {one.subject: f"{one.detail}. {one.remedy}" for one in found if one.severity != "ok"}


def test_each_fault_is_found_with_its_remedy(tmp_path: Path, redis_url: str) -> None:
    keys, yaml = tmp_path / "keys.yaml", tmp_path / "yaml"
    keys.write_text("keys: [{name: shop, role: server, key: sk-0123456789abcdef}]")
    keys.chmod(0o600)
    settings = Settings(experiments=SHOP, data=tmp_path / "data", redis=redis_url, api_keys=keys)
    assert problems(settings) == {}
    assert not (tmp_path / "data").exists()
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.xadd("cp:{9}:log", {"x": "y"})
    keys.chmod(0o644)
    yaml.mkdir()
    (yaml / "channels.yaml").write_text("channels: 3")
    own = Spool(settings.spool)
    own.append(encode(ExposureRecord("d-1", 1e9, "u-1", ["hero"])), 0)
    own.close()
    found = problems(msgspec.structs.replace(settings, experiments=yaml), "http://127.0.0.1:9")
    assert f"counterpoint check {yaml}" in found["experiments"]
    assert "chmod o= " in found["keys"]
    assert "maxmemory-policy noeviction" in found["store"]
    assert "collect --drain" in found["spools"]
    assert "http://127.0.0.1:9" in found["server"]
    away = problems(msgspec.structs.replace(settings, redis="redis://127.0.0.1:9/0"))
    assert "start it" in away["store"]


def test_the_verb_ends_with_1_where_something_is_wrong(tmp_path: Path, redis_url: str) -> None:
    words = ["doctor", "--experiments", str(SHOP), "--data", str(tmp_path), "--redis", redis_url, "--json"]
    done = run_verb(*words, "--server", "http://127.0.0.1:9")
    assert (done.returncode, json.loads(done.stdout)[-1]["subject"]) == (1, "server")


def test_a_server_that_cannot_be_asked_is_a_finding(redis_url: str) -> None:
    store = redis_url.partition("://")[2].partition("/")[0]
    for url in (f"http://{store}", "http://host:abc", "http://a b", "http://[", f"http://{'x' * 70}.de", "ftp://x"):
        (found,) = (one for one in examine(Settings(redis=redis_url), [url]) if one.subject == "server")
        assert found.severity == "problem"
        assert url in found.detail
        assert "http://HOST:PORT" in found.remedy or "/readyz" in found.remedy
