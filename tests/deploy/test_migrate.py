"""Layouts of store and log: what migrate would do, does, and does once; what is of a later version is refused."""

import json
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import redis

from engine.journal.log.commit import CHECKPOINT
from engine.journal.log.parquet import SCHEMAS
from tests.service.conftest import serving, write_shop
from tests.verbs import run_verb


def test_a_log_of_earlier_files_gets_every_column_and_keeps_its_rows(tmp_path: Path, redis_url: str) -> None:
    shop, data = write_shop(tmp_path / "shop"), tmp_path / "server" / "data"
    store = ("--redis", redis_url, "--data", str(data))
    with serving(tmp_path / "server", redis_url, shop) as server:
        for number in range(8):
            body = {"customer": {"user_id": f"u-{number}"}, "channel": "web", "experiments": "*"}
            assert server.post("/v1/decide", body).status_code == 200
    run_verb("collect", "--drain", *store, check=True)
    assert json.loads(run_verb("migrate", "--json", *store, check=True).stdout)["parts"][1]["steps"] == []
    [path] = (data / "log").glob("decisions/day=*/*.parquet")
    rows = pq.read_table(path, partitioning=None)
    pq.write_table(rows.drop_columns(["creatives", "joint"]), path)  # as a version before those columns wrote it
    checkpoint = data / "log" / CHECKPOINT
    before = msgspec.json.decode(checkpoint.read_bytes())
    checkpoint.write_bytes(msgspec.json.encode({name: one for name, one in before.items() if name != "layout"}))

    found = run_verb("migrate", "--dry-run", "--json", *store)
    assert found.returncode == 1
    [_, log] = json.loads(found.stdout)["parts"]
    assert (log["layout"], log["target"]) == (1, 2)
    assert "write 1 files" in log["steps"][0]
    assert log["steps"][0].endswith("again with the columns creatives, joint")
    assert "creatives" not in pq.read_schema(path).names  # a dry run changes nothing
    doctor = json.loads(run_verb("doctor", "--json", "--experiments", str(shop), *store).stdout)
    assert "counterpoint migrate" in json.dumps(doctor)

    run_verb("migrate", *store, check=True)
    assert pq.read_schema(path).names == SCHEMAS["decisions"].names
    assert pq.read_table(path, partitioning=None).equals(rows)
    assert run_verb("migrate", "--dry-run", *store).returncode == 0
    after = msgspec.json.decode(checkpoint.read_bytes())
    assert after["progress"] == before["progress"]


def test_a_store_and_a_log_of_a_later_version_are_refused(tmp_path: Path, redis_url: str) -> None:
    data = tmp_path / "data"
    (data / "log").mkdir(parents=True)
    with redis.Redis.from_url(redis_url) as client:
        client.set("cp:layout", 99)
    store = ("--redis", redis_url, "--data", str(data))
    for words in (("migrate", "--dry-run"), ("collect", "--drain")):
        done = run_verb(*words, *store)
        assert done.returncode == 2
        assert "the store has layout 99 of a later version, this one reads up to 1; install that" in done.stderr
    with redis.Redis.from_url(redis_url) as client:
        client.delete("cp:layout")
    (data / "log" / CHECKPOINT).write_text('{"layout": 99}')
    done = run_verb("migrate", *store)
    assert done.returncode == 2
    assert "layout 99 is of a later version, this one reads up to 2; install that" in done.stderr
