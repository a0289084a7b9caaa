"""Keys that end, keys that are rotated, and rates that all servers share."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import embedded
from engine.customer import CustomerIds, prove
from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.dashboard.sessions import Sessions
from engine.errors import BadInput
from engine.service.access.keys_file import KeySpec, PreviousKey, read_keys_file
from engine.service.access.shared_rates import SharedRates
from engine.service.auth import Caller, Keys
from engine.service.problems import Refusal
from tests.verbs import run_verb

NOW = datetime.now(UTC)
LIVE = ("ak-before", "ak-now-live")
ANNA = CustomerIds(user_id="anna")


def write_keys(path: Path, *entries: dict[str, object]) -> Path:
    path.write_text(json.dumps({"keys": entries}))
    return path


def make(*words: str) -> tuple[str, dict[str, Any]]:
    made = json.loads(run_verb("keys", *words, "--json", check=True).stdout)
    return made["key"], made["entry"]


def caller_of(keys: Keys, key: str) -> Caller:
    return keys.identify([(b"x-api-key", key.encode())], "peer")


def test_a_key_is_shown_once_and_its_entry_has_its_digest(tmp_path: Path) -> None:
    key, entry = make("new", "backend", "--role", "server", "--days", "90")
    assert key.startswith("sk-")
    assert len(key) > 40
    assert key not in json.dumps(entry)
    (spec,) = read_keys_file(write_keys(tmp_path / "keys.yaml", entry))
    assert spec.key is None
    assert spec.expires is not None
    assert timedelta(days=89) < spec.expires - NOW < timedelta(days=91)
    assert caller_of(Keys([spec]), key).name == "backend"
    shown = run_verb("keys", "new", "page", "--role", "client", check=True)
    (tmp_path / "two.yaml").write_text(f"keys:\n{shown.stdout.splitlines()[1]}\n")
    assert read_keys_file(tmp_path / "two.yaml")[0].secret


def test_a_rotated_key_and_the_one_before_are_live_until_the_overlap_ends(tmp_path: Path) -> None:
    first, entry = make("new", "page", "--role", "client")
    file = write_keys(tmp_path / "keys.yaml", {**entry, "origins": ["https://shop.example"], "per_second": 50})
    second, after = make("rotate", "page", "--file", str(file), "--overlap", "2")
    write_keys(file, after)
    (spec,) = read_keys_file(file)
    keys = Keys([spec])
    callers = {caller_of(keys, key) for key in (first, second)}
    assert len(callers) == 1  # so both share one rate
    (caller,) = callers
    assert (caller.rate, caller.origins) == (50, frozenset({"https://shop.example"}))
    for secret in (entry["secret"], after["secret"]):
        assert caller.is_proven(ANNA, prove(secret.encode(), ANNA))
    assert not caller.is_proven(ANNA, prove(b"another secret", ANNA))
    ended = {**after["previous"], "until": "2026-01-01T00:00:00Z"}
    (spec,) = read_keys_file(write_keys(file, {**after, "previous": ended}))
    keys = Keys([spec])
    assert not caller_of(keys, second).is_proven(ANNA, prove(entry["secret"].encode(), ANNA))
    with pytest.raises(Refusal, match="this key of page ended at 2026-01-01T00:00:00") as refused:
        caller_of(keys, first)
    assert refused.value.status == 401
    assert first not in refused.value.detail


def test_a_key_ends_and_so_do_the_sessions_that_it_began(tmp_path: Path) -> None:
    spec = KeySpec(name="ops", role="admin", key="ak-short-lived", expires=NOW + timedelta(hours=1))
    assert Keys([spec]).dashboard_role_of("ops") == "admin"
    ended = KeySpec(name="ops", role="admin", key="ak-short-lived", expires=NOW - timedelta(seconds=1))
    with pytest.raises(Refusal, match="ended at"):
        caller_of(Keys([ended]), "ak-short-lived")
    assert Keys([ended]).dashboard_role_of("ops") is None
    entry = {"name": "ops", "role": "admin", "key": "ak-short-lived", "expires": (NOW + timedelta(days=3)).isoformat()}
    file = write_keys(tmp_path / "keys.yaml", entry)
    listed = run_verb("keys", "list", "--file", str(file), "--json")
    assert (listed.returncode, json.loads(listed.stdout)[0]["state"]) == (1, "ends within a week")
    assert "ak-short" not in listed.stdout + listed.stderr


def test_a_session_ends_with_the_key_that_began_it(tmp_path: Path) -> None:
    until = NOW + timedelta(hours=1)
    before = PreviousKey(key="ak-before", until=until)
    keys = Keys([KeySpec(name="ops", role="admin", key="ak-now-live", previous=before)])
    cookies = {key: Sessions(keys, tmp_path).encode(Sessions(keys, tmp_path).log_in(key, "peer")) for key in LIVE}
    ended = msgspec.structs.replace(before, until=NOW - timedelta(seconds=1))
    for previous, valid in ((before, LIVE), (ended, LIVE[1:]), (None, LIVE[1:])):
        spec = KeySpec(name="ops", role="admin", key="ak-now-live", previous=previous)
        sessions = Sessions(Keys([spec]), tmp_path)
        assert [key for key, cookie in cookies.items() if not sessions.read([], cookie)[1]] == list(valid)


def test_a_rotation_does_not_lengthen_the_life_of_the_key_before(tmp_path: Path) -> None:
    for ends in (NOW + timedelta(days=1), NOW - timedelta(days=3)):
        entry: dict[str, object] = {
            "name": "ops",
            "role": "admin",
            "key": "ak-short-lived",
            "expires": ends.isoformat(),
        }
        _, after = make("rotate", "ops", "--file", str(write_keys(tmp_path / "keys.yaml", entry)))
        assert after["previous"]["until"] == ends.strftime("%Y-%m-%dT%H:%M:%SZ")
    refused = run_verb("keys", "new", "ops", "--role", "admin", "--days", "1e9")
    assert (refused.returncode, "--days" in refused.stderr) == (2, True)


def test_times_of_yaml_need_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    for text in ("2026-12-01T00:00:00Z", "2026-12-01 01:00:00+01:00", "'2026-12-01T00:00:00Z'"):
        path.write_text(f"keys: [{{name: a, role: server, key: abcdefgh, expires: {text}}}]\n")
        assert read_keys_file(path)[0].expires == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["[abcdefgh]", "abcdefgh", "[{name: a, role: server, key: zzzzzzzz, previous: abcdefgh}]"]
)
def test_a_key_in_the_wrong_place_is_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: {text}\n")
    with pytest.raises(BadInput) as refused:
        read_keys_file(path)
    assert "abcdefg" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("expires: 2026-12-01T00:00:00", "keys[0].expires"),
        ("previous: {until: 2026-12-01T00:00:00Z}", "keys[0].previous"),
        ("previous: {until: 2026-12-01T00:00:00Z, key: abcdefgh}", "same key"),
        ("previous: {key: abcdefgi}", "until"),
        ("previous: {until: 2026-12-01T00:00:00Z, key: s3cret}", "keys[0].previous.key"),
    ],
)
def test_a_wrong_end_or_rotation_is_refused_with_its_place(tmp_path: Path, entry: str, named: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n- name: a\n  role: server\n  key: abcdefgh\n  {entry}\n")
    with pytest.raises(BadInput) as refused:
        read_keys_file(path)
    assert named in str(refused.value)
    assert "abcdefg" not in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_workers_share_a_rate_by_their_demand_and_keep_the_whole_without_the_store(tmp_path: Path) -> None:
    async def divided() -> list[list[float]]:
        found = []
        with embedded.running(tmp_path / "store") as store:
            pipelines = [RedisPipeline(connect_store(store.url, 5)) for _ in range(3)]
            callers = [Caller("page", "server", per_second=100) for _ in pipelines]
            workers = [SharedRates(pipeline, [one]) for pipeline, one in zip(pipelines, callers, strict=True)]
            for demands in ((30, 0, 0), (600, 200, 0), (600, 200, 0), (0, 0, 0), (0, 0, 0)):
                for caller, demand in zip(callers, demands, strict=True):
                    caller.demand = demand
                for worker in workers:
                    await worker.divide()
                found.append([caller.share for caller in callers])
            callers[0].demand = callers[1].demand = 500
            for worker in workers[:2]:
                await worker.divide()
        callers[0].demand = 5
        await workers[0].divide()
        found.append([caller.share for caller in callers[:2]])
        for pipeline in pipelines:
            await pipeline.close()
        return found

    alone, _, busy, _, idle, away = asyncio.run(divided())
    assert alone[0] == 100
    assert busy[:2] == [75, 25]
    assert idle[:2] == [100, 100]
    assert away == [100, 50]


def test_a_share_limits_what_a_worker_lets_through() -> None:
    caller = Caller("page", "server", per_second=100)
    caller.share = 25
    granted = 0
    for n in range(1000):
        with suppress(Refusal):
            caller.count_request(500.0 + n / 100)
            granted += 1
    assert granted == 25 + 249
    assert caller.demand == 1000
