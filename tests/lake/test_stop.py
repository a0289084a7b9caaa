"""A collector that is stopped ends in time, whatever its object store does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.service.conftest import free_port, serving, write_shop


@pytest.mark.parametrize("silent", [True, False], ids=["takes connections and answers nothing", "refuses connections"])
def test_a_collector_ends_without_its_object_store(tmp_path: Path, redis_url: str, *, silent: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen(64)
        port = listener.getsockname()[1] if silent else free_port()
        url = f"s3://shop/away?scheme=http&endpoint_override=127.0.0.1:{port}&region=eu-central-1"
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
        more = {**os.environ, **keys, "COUNTERPOINT_LOG_COPY": url}
        data = tmp_path / "server" / "data"
        command = [sys.executable, "-m", "engine", "collect", "--data", str(data), "--redis", redis_url]
        with serving(tmp_path / "server", redis_url, write_shop(tmp_path / "shop")) as server:
            body = {"customer": {"user_id": "u-1"}, "channel": "web", "experiments": "*"}
            assert server.post("/v1/decide", body).status_code == 200
            with subprocess.Popen(command, env=more) as collector:
                deadline = time.monotonic() + 60
                while not list((data / "log" / "decisions").rglob("*.parquet")):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                collector.send_signal(signal.SIGTERM)
                assert collector.wait(40) == 0
