"""TLS to the store and from the server, with certificates of an authority of the test's own."""

import asyncio
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from engine.doctor.access import check_store_access
from engine.settings import from_environment
from tests.service.conftest import free_port, serving, write_shop
from tests.verbs import run_verb

DECIDE = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}


@dataclass(frozen=True)
class Certificates:
    authority: Path
    chain: Path
    key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["/usr/bin/env", "openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=127.0.0.1", *names)
    openssl("req", "-x509", *new, "-keyout", "server.key", "-out", "server.pem", *signed)
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")


@contextmanager
def encrypted(store: str, certificates: Certificates) -> Iterator[int]:
    """A port that speaks TLS and passes on to the store."""
    target = urlsplit(store)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.chain, certificates.key)
    port, loop, ready = free_port(), asyncio.new_event_loop(), threading.Event()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(copy(reader, other), copy(other_reader, writer), return_exceptions=True)

    async def run() -> None:
        await asyncio.start_server(pass_on, "127.0.0.1", port, ssl=context)
        ready.set()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(run())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait(10)
    yield port
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_a_server_reaches_its_store_over_tls_and_refuses_one_it_cannot_verify(
    tmp_path: Path, redis_url: str, certificates: Certificates
) -> None:
    shop, patient = write_shop(tmp_path / "shop"), {"COUNTERPOINT_STORE_TIMEOUT": "2"}
    with encrypted(redis_url, certificates) as port:
        trusting = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates.authority}"
        with serving(tmp_path / "trusting", trusting, shop, patient) as server:
            answer = server.post("/v1/decide", DECIDE).json()
            assert answer["degraded"] is False
            event = {"type": "track", "message_id": "m-1", "user_id": "u-1", "event": "product_viewed"}
            assert '"accepted"' in server.post("/v1/events", {"batch": [event]}).text
            done = run_verb("collect", "--drain", "--data", str(server.data), "--redis", trusting)
            assert done.returncode == 0, done.stderr
        with serving(tmp_path / "doubting", f"rediss://127.0.0.1:{port}/0", shop, patient) as server:
            assert server.post("/v1/decide", DECIDE).json()["degraded"] is True


def test_a_server_answers_over_tls_alone(tmp_path: Path, redis_url: str, certificates: Certificates) -> None:
    port = free_port()
    environment = {
        "COUNTERPOINT_TLS_CERTIFICATE": str(certificates.chain),
        "COUNTERPOINT_TLS_KEY": str(certificates.key),
    }
    command = [sys.executable, "-m", "engine", "serve", "--port", str(port), "--data", str(tmp_path / "data")]
    command += ["--experiments", str(write_shop(tmp_path / "shop")), "--redis", redis_url, "--workers", "2"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            base = f"https://127.0.0.1:{port}"
            context = ssl.create_default_context(cafile=str(certificates.authority))
            with httpx.Client(
                base_url=base, verify=context, transport=httpx.HTTPTransport(context, retries=9)
            ) as client:
                answers = [client.post("/v1/decide", json=DECIDE) for _ in range(20)]
                assert {answer.status_code for answer in answers} == {200}
                viewed = {"type": "track", "user_id": "u-1", "event": "product_viewed"}
                large = [viewed | {"message_id": f"m-{number}-{'x' * 100}"} for number in range(400)]
                assert client.post("/v1/events", json={"batch": large}).status_code in (200, 202)
            with pytest.raises(httpx.TransportError):
                httpx.post(f"http://127.0.0.1:{port}/v1/decide", json=DECIDE)
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                httpx.post(f"{base}/v1/decide", json=DECIDE)
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"COUNTERPOINT_TLS_KEY": "server.key"}, "set both, or neither"),
        (
            {"COUNTERPOINT_TLS_KEY": "none.key", "COUNTERPOINT_TLS_CERTIFICATE": "none.pem"},
            "name the chain and its key",
        ),
    ],
)
def test_a_server_without_a_usable_certificate_does_not_start(
    tmp_path: Path, redis_url: str, more: dict[str, str], reason: str
) -> None:
    shop = str(write_shop(tmp_path / "shop"))
    words = ("serve", "--port", "0", "--data", str(tmp_path / "data"), "--experiments", shop, "--redis", redis_url)
    done = run_verb(*words, env=more)
    assert done.returncode == 2
    assert reason in done.stderr


def test_doctor_finds_a_store_that_others_reach_without_encryption(tmp_path: Path) -> None:
    def found(url: str) -> list[str]:
        settings = from_environment({}, redis=url, data=tmp_path)
        return [one.detail for one in check_store_access(settings)]

    assert found("redis://127.0.0.1:1/0") == []
    assert found("redis://store.invalid:1/0") == ["customers pass to the store unencrypted"]
    assert found("rediss://store.invalid:1/0") == []
