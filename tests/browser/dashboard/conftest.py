"""A whole engine with a day's traffic and Debian's Chromium, for the tests that look at pages."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, sync_playwright

from engine.settings import Settings
from engine.up import run_engine
from tests.dashboard.openid_provider import CLIENT, SECRET

SHOP = Path(__file__).resolve().parents[3] / "experiments"
CHROMIUM = "/usr/bin/chromium"
"""Installed by apt, on the test machine by `.ci/run`: without it these tests fail."""
ADMIN, VIEWER = "ak-browser-tests-admin", "sk-browser-tests-view"
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
"""What somebody could type into any field."""
KEYS = [
    {"name": "anna", "role": "admin", "key": ADMIN},
    {"name": "vera", "role": "server", "key": VIEWER},
    {"name": "web", "role": "client", "key": "pk-browser-tests", "secret": "signs-customers"},
]
CUSTOMERS = 240


@dataclass(frozen=True)
class Engine:
    base: str
    settings: Settings

    def api(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {ADMIN}"}
        answer = httpx.request(method, f"{self.base}{path}", json=body, headers=headers, timeout=60)
        assert answer.status_code < 300, answer.text
        return answer


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """An OpenID provider, in a process of its own."""
    command = [sys.executable, str(Path(__file__).parents[2] / "dashboard" / "openid_provider.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        yield started.stdout.readline().strip()
        started.terminate()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, issuer: str) -> Iterator[Engine]:
    """`counterpoint up` with keys, its shop and an experiment whose texts are scripts, after some traffic."""
    folder = tmp_path_factory.mktemp("browser")
    experiments = shutil.copytree(SHOP, folder / "experiments")
    hostile = yaml.safe_load((experiments / "checkout_layout.yaml").read_text())
    hostile |= {"key": "hostile", "title": SCRIPT, "hypothesis": SCRIPT, "owner": SCRIPT}
    hostile["variants"] = [{"key": "control"}, {"key": "other", "payload": {"text": SCRIPT}}]
    del hostile["force"], hostile["layer"]
    (experiments / "hostile.yaml").write_text(yaml.safe_dump(hostile))
    _write_hostile_files(experiments)
    draft = hostile | {"key": "a_draft", "title": "A draft", "status": "draft"}
    (experiments / "a_draft.yaml").write_text(yaml.safe_dump(draft))
    keys = folder / "keys.yaml"
    openid = {"issuer": issuer, "client_id": CLIENT, "client_secret": SECRET, "title": f"a staff account{SCRIPT[:39]}"}
    openid |= {"roles": {"view": ["everyone"], "operate": ["growth"]}}
    keys.write_text(yaml.safe_dump({"keys": KEYS, "openid": openid}))
    # On a busy machine a decision may wait for the store longer than 50 ms, and a degraded one has no variant.
    patient = 5.0
    settings = Settings(experiments=experiments, data=folder / "data", port=0, api_keys=keys, store_timeout=patient)
    with run_engine(settings, threading.Event()) as (base, served):
        running = Engine(base, served)
        _send_traffic(running)
        yield running


def _write_hostile_files(experiments: Path) -> None:
    """A flag, an offer, a moment and a campaign with scripts for texts."""
    rule = {"key": "de", "title": SCRIPT, "hypothesis": SCRIPT, "audience": {"country": "DE"}}
    rule |= {
        "variants": [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}],
        "metrics": {"primary": "click"},
    }
    flag = {"key": "hostile.flag", "kind": "flag", "type": "string", "title": SCRIPT, "owner": SCRIPT}
    flag |= {"variants": [{"key": "old", "value": SCRIPT}, {"key": "new", "value": "x"}], "rules": [rule]}
    (experiments / "hostile.flag.yaml").write_text(yaml.safe_dump(flag | {"default": "old"}))
    for name, part in (("moments", "moments"), ("campaigns", "campaigns")):
        path = experiments / f"{name}.yaml"
        found = yaml.safe_load(path.read_text())
        found[part][0]["title"] = SCRIPT
        path.write_text(yaml.safe_dump(found))
    offer = experiments / "offers" / "tasting_set.yaml"
    offer.write_text(yaml.safe_dump(yaml.safe_load(offer.read_text()) | {"title": SCRIPT}))


def _send_traffic(engine: Engine) -> None:
    """Customers with scripts for names, who come and order; every other one only looks."""
    batch = []
    for number in range(CUSTOMERS):
        traits = {"loyalty.tier": number % 4, "affinity.coffee": (number % 10) / 10, "nickname": SCRIPT}
        identify = {"type": "identify", "message_id": f"i{number}", "user_id": f"u-{number}", "traits": traits}
        batch.append(identify)
    scripted = {"type": "identify", "message_id": "script", "user_id": SCRIPT, "traits": {"nickname": SCRIPT}}
    engine.api("POST", "/v1/events", {"batch": [*batch, scripted]})
    experiments = ["checkout_layout", "hostile", "hero_policy"]
    for number in range(CUSTOMERS):
        channel = ("web", "app")[number % 2]
        body = {"customer": {"user_id": f"u-{number}"}, "channel": channel, "placements": ["home_hero"]}
        answer = engine.api("POST", "/v1/decide", body | {"experiments": experiments}).json()
        event = {"user_id": f"u-{number}", "decision_id": answer["decision_id"], "channel": channel, "type": "track"}
        sent = [event | {"event": SCRIPT, "message_id": f"s{number}", "properties": {"note": SCRIPT}}]
        if number % 3 == 0:
            sent.append(event | {"event": "click", "message_id": f"c{number}"})
        if number % 4 == 0:
            order = {"revenue": 10.0 + number % 7, "order_id": f"o{number}"}
            sent.append(event | {"event": "purchase", "message_id": f"p{number}", "properties": order})
        engine.api("POST", "/v1/events", {"batch": sent})
    for verb in ("pause", "resume"):
        engine.api("POST", f"/v1/experiments/hostile/{verb}", {"reason": SCRIPT})


@pytest.fixture(scope="module")
def ready(engine: Engine) -> Engine:
    """The engine once its pages have their first figures."""
    with httpx.Client(base_url=engine.base, follow_redirects=True, timeout=60) as client:
        log_in(client)
        deadline = time.monotonic() + 240
        while True:
            rows = client.get("/experiments?format=json").json()
            if sum(row["units"] == CUSTOMERS for row in rows) == 3:
                break
            assert time.monotonic() < deadline, rows
            time.sleep(1)
    return engine


def log_in(client: httpx.Client, key: str = ADMIN) -> httpx.Response:
    """Log in as a person would: load the form, send it with its token."""
    form = client.get("/login").text
    token = form.partition('name="token" value="')[2].partition('"')[0]
    return client.post("/login", data={"token": token, "key": key, "next": "/"})
