"""The dashboard's pages without a browser: names of downloads, logins, the editor's files, and what a role may read."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
import yaml
from litestar import Litestar
from litestar.testing import TestClient

from engine.dashboard.app import create_dashboard
from engine.processes import counterpoint_command
from engine.settings import Settings

SHOP = Path(__file__).resolve().parents[2] / "experiments"
ADMIN, VIEWER, OPERATOR = "ak-pages-admin", "sk-pages-viewer", "sk-pages-operator"
KEYS = [
    {"name": "anna", "role": "admin", "key": ADMIN},
    {"name": "vera", "role": "server", "key": VIEWER},
    {"name": "otto", "role": "server", "key": OPERATOR, "dashboard": "operate"},
]
Client = TestClient[Litestar]


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    experiments = shutil.copytree(SHOP, tmp_path / "experiments")
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump({"keys": KEYS}))
    return Settings(experiments=experiments, data=tmp_path / "data", redis=redis_url, api_keys=keys)


@contextmanager
def open_as(settings: Settings, key: str = ADMIN) -> Iterator[Client]:
    with TestClient(create_dashboard(settings), raise_server_exceptions=False) as client:
        client.follow_redirects = False
        assert log_in(client, key).status_code == 303
        yield client


def log_in(client: Client, key: str) -> httpx.Response:
    token = field(client.get("/login").text, "token")
    return client.post("/login", data={"token": token, "key": key, "next": "/"})


def field(html: str, name: str) -> str:
    return html.partition(f'name="{name}" value="')[2].partition('"')[0]


def opened(client: Client, name: str) -> dict[str, str]:
    """The fields of the editor on a file, but its text."""
    html = client.get("/editor", params={"file": name}).text
    return {"token": field(html, "token"), "seen": field(html, "seen"), "name": name}


def saved_names(answer: httpx.Response) -> tuple[str, str]:
    assert answer.is_success
    found = re.fullmatch(
        r"attachment; filename=\"([A-Za-z0-9_.-]+)\"; filename\*=UTF-8''([A-Za-z0-9_.~%-]+)",
        answer.headers["content-disposition"],
    )
    assert found, answer.headers["content-disposition"]
    return found[1], unquote(found[2])


def test_a_download_may_have_any_name(settings: Settings) -> None:
    names = {"Łódź": "d", "Тест": "", "結帳 🛒": "", 'a"; x\r\n\\b': "a-x-b", "..": ""}
    with open_as(settings) as client:
        for title, plain in names.items():
            form = opened(client, "checkout_layout.yaml") | {"name": f"{title}.yaml", "text": "x"}
            ascii_name, name = saved_names(client.post("/editor/download", data=form))
            assert ascii_name == f"{plain or 'counterpoint'}.yaml"
            assert name.endswith(".yaml")
            assert title not in {"Łódź", "Тест"} or name == f"{title}.yaml"
        html = client.get("/editor?table=plan&format=csv&file=Тест.yaml")
        assert saved_names(html) == ("editor-.yaml-plan.csv", "editor-тест.yaml-plan.csv")


def test_a_page_with_a_title_of_another_script_downloads(settings: Settings) -> None:
    path = settings.experiments / "checkout_layout.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"title": "Тест Łódź"}))
    with open_as(settings) as client:
        answer = client.get("/experiments/checkout_layout?table=changes&format=csv")
        assert saved_names(answer)[1] == "тест-łódź-changes.csv"


def test_a_session_ends_when_its_key_is_replaced(settings: Settings) -> None:
    with open_as(settings) as client:
        cookie = client.cookies["counterpoint_session"]
    assert settings.api_keys
    for rotated, status in ((ADMIN, 200), ("ak-pages-rotated", 303)):
        keys = [KEYS[0] | {"key": rotated}, *KEYS[1:]]
        settings.api_keys.write_text(yaml.safe_dump({"keys": keys}))
        with TestClient(create_dashboard(settings)) as client:
            client.follow_redirects = False
            assert client.get("/", headers={"cookie": f"counterpoint_session={cookie}"}).status_code == status


def test_other_characters_in_cookies_and_tokens_are_refused(settings: Settings) -> None:
    with open_as(settings) as client:
        form = {"key": "checkout_layout", "do": "pause"}
        for token in ("Łódź", "é", "🛒", "\udce9"):
            body = {"token": token.encode(errors="surrogateescape")} | form
            assert client.post("/switch", data=body).status_code == 403, token
            headers = {b"x-token": token.encode(errors="surrogateescape")}
            assert client.post("/switch", data=form, headers=headers).status_code == 403, token
        cookies = (b"x.\xe9", b"\xc5\x81.x", b"\xe9.\xff", b"%C3%A9.%FF", b'"\\303\\251.x"')
    with TestClient(create_dashboard(settings), raise_server_exceptions=False) as client:
        client.follow_redirects = False
        for cookie in cookies:
            answer = client.get("/", headers={b"cookie": b"counterpoint_session=" + cookie})
            assert answer.status_code == 303, cookie
        assert log_in(client, "ключ").status_code == 401


def test_a_file_with_the_line_ends_of_windows_is_written(settings: Settings) -> None:
    path = settings.experiments / "push_message.yaml"
    data = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(data)
    with open_as(settings) as client:
        form = opened(client, path.name) | {"text": data.decode() + "# mine\r\n"}
        assert client.post("/editor/write", data=form).status_code == 303
        assert path.read_bytes() == data + b"# mine\r\n"
        assert client.post("/editor/write", data=form).status_code == 409
        form = opened(client, path.name) | {"text": "# " + "é\r\n" + data.decode()}
        assert client.post("/editor/write", data=form).status_code == 303
    assert not list(settings.experiments.glob(".*"))


def test_of_writers_at_the_same_time_one_wins(settings: Settings) -> None:
    path = settings.experiments / "push_message.yaml"
    text = path.read_text()
    with open_as(settings) as client, ThreadPoolExecutor(6) as pool:
        form = opened(client, path.name)
        drafts = [form | {"text": f"{text}# {number}\n"} for number in range(6)]
        answers = list(pool.map(lambda draft: client.post("/editor/write", data=draft).status_code, drafts))
    assert sorted(answers) == [303] + 5 * [409]
    assert path.read_text() == drafts[answers.index(303)]["text"]
    assert not list(settings.experiments.glob(".*"))


def test_a_file_that_is_not_utf8_is_refused_with_the_reason(settings: Settings) -> None:
    path = settings.experiments / "push_message.yaml"
    with open_as(settings) as client:
        form = opened(client, path.name) | {"text": path.read_text()}
        data = b"# caf\xe9\n" + path.read_bytes()
        path.write_bytes(data)
        answer = client.get("/editor", params={"file": path.name})
        assert answer.status_code == 400
        assert "byte 6 is not UTF-8" in answer.text
        assert client.post("/editor/write", data=form).status_code == 409
        assert path.read_bytes() == data


def test_an_open_stream_ends_without_a_traceback(settings: Settings, tmp_path: Path) -> None:
    open_settings = ("--data", str(tmp_path / "data"), "--experiments", str(settings.experiments))
    command = counterpoint_command("dashboard", "--port", "0", "--redis", settings.redis, *open_settings)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        base = process.stderr.readline().partition("http://")[2].partition(",")[0]
        with httpx.stream("GET", f"http://{base}/live/events", timeout=60) as answer:
            parts = answer.iter_text()
            assert next(parts).startswith("data: ")
            process.terminate()
            assert all(part.startswith("data: ") for part in parts)
        assert "Error" not in process.stderr.read()
    assert process.returncode == 0


@pytest.mark.parametrize("key", [VIEWER, OPERATOR])
def test_only_an_admin_reads_the_addresses_of_webhooks(settings: Settings, key: str) -> None:
    url = "https://hooks.example.org/services/T0/B0/kept-secret"
    path = settings.experiments / "notify.yaml"
    path.write_text(yaml.safe_dump({"receivers": [{"key": "team", "webhook": url}]}))
    with open_as(settings) as client:
        assert url in client.get("/editor?file=notify.yaml").text
    with open_as(settings, key) as client:
        answer = client.get("/editor?file=notify.yaml")
        assert answer.status_code == 403
        assert "webhook" in answer.text
        assert "notify.yaml" not in client.get("/editor?file=checkout_layout.yaml").text
        path.write_text(yaml.safe_dump({"receivers": [{"key": "team", "webhook": "ftp:kept-secret"}]}))
        form = opened(client, "checkout_layout.yaml") | {"text": "key: checkout_layout"}
        checked = client.post("/editor/check", data=form)
        assert checked.status_code == 200
        assert "only an admin may read it" in checked.text
        assert "kept-secret" not in checked.text
        assert client.post("/editor/check", data=form | {"name": "notify.yaml"}).status_code == 403


def test_a_method_that_a_page_does_not_take_is_refused_with_those_that_it_takes(settings: Settings) -> None:
    with open_as(settings) as client:
        answer = client.request("TRACE", "/")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert "does not take the method" in answer.text


@pytest.mark.parametrize(
    "path", ["/nope", "/experiments/nope", "/measure/nope", "/static/1/nope.css", "/customers/%00"]
)
def test_no_method_answers_for_a_page_that_does_not_exist(settings: Settings, path: str) -> None:
    with open_as(settings) as client:
        statuses = {method: client.request(method, path).status_code for method in ("GET", "HEAD", "OPTIONS")}
        assert set(statuses.values()) == {404}, statuses
        if path == "/nope":
            assert {client.request(method, path).status_code for method in ("POST", "PUT", "DELETE")} == {404}


def test_options_of_a_page_names_the_methods_that_it_takes(settings: Settings) -> None:
    offered = {
        "/": "GET, HEAD, OPTIONS",
        "/experiments/checkout_layout": "GET, HEAD, OPTIONS",
        "/login": "GET, HEAD, POST, OPTIONS",
        "/switch": "POST, OPTIONS",
        "/live/events": "GET, HEAD, OPTIONS",
    }
    with open_as(settings) as client:
        for path, allowed in offered.items():
            answer = client.options(path)
            assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b""), path
            assert client.put(path).status_code == 405
