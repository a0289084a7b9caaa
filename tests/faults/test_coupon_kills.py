"""A decision server is killed under load while coupon codes are drawn: no code twice, none lost, to the cent."""

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from engine.service.access.listener import listen
from tests.faults.test_place_kills import SHOP, check_ledger, serve
from tests.verbs import run_verb

KILLS = 4
CODES = 400
COUPON = {
    "key": "kettle",
    "budget": {"amount": 1000, "cost": 0.07, "hold": "20s"},
    "coupons": {"hold": "1d"},
    "renderings": {"web": {"headline": "Your code is {coupon}"}},
}


class Askers:
    """Customers who ask one after another; one whose server was killed asks again."""

    def __init__(self, base: str, number: int) -> None:
        self.got: list[tuple[str, str, str]] = []
        self.done = threading.Event()
        self._base, self._number = base, number
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        asked = 0
        while not self.done.is_set():
            asked += 1
            customer = f"u-{self._number}-{asked}"
            answer = self._ask(customer)
            hero = answer["offers"]["hero"]
            if hero["offer"] == "kettle":
                assert hero["rendering"] == {"headline": f"Your code is {hero['coupon']}"}
                self.got.append((customer, hero["coupon"], answer["decision_id"]))
            time.sleep(0.02)

    def _ask(self, customer: str) -> dict[str, Any]:
        body = {"customer": {"user_id": customer}, "channel": "web", "placements": ["hero"]}
        while True:
            try:
                answer = httpx.post(f"{self._base}/v1/decide", json=body, timeout=20)
            except httpx.TransportError:
                continue
            if answer.status_code == 200 and not answer.json()["degraded"]:
                found: dict[str, Any] = answer.json()
                return found


def counts(folder: Path, redis_url: str) -> dict[str, int]:
    done = run_verb("coupons", "list", "--json", "--data", str(folder / "data"), "--redis", redis_url, check=True)
    (one,) = json.loads(done.stdout)
    return {state: one[state] for state in ("imported", "free", "drawn", "redeemed", "revoked")}


def test_no_code_is_given_twice_or_lost_by_kills_under_load(redis_url: str, tmp_path: Path) -> None:
    chance = random.Random(20261130)
    for name, content in {**SHOP, "offers/kettle.yaml": COUPON}.items():
        path = tmp_path / "experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    codes = tmp_path / "codes.txt"
    codes.write_text("".join(f"CODE-{number}\n" for number in range(CODES)))
    words = ["coupons", "import", str(codes), "--offer", "kettle", "--experiments", str(tmp_path / "experiments")]
    run_verb(*words, "--data", str(tmp_path / "data"), "--redis", redis_url, check=True)
    with listen("127.0.0.1", 0) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = serve(listener, tmp_path, redis_url)
        crowds = [Askers(base, number) for number in range(4)]
        try:
            for _ in range(KILLS):
                before = sum(len(crowd.got) for crowd in crowds)
                deadline = time.monotonic() + 20
                while sum(len(crowd.got) for crowd in crowds) < before + 6 and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.05))
                server.kill()
                server.join()
                server = serve(listener, tmp_path, redis_url)
        finally:
            for crowd in crowds:
                crowd.done.set()
            for crowd in crowds:
                crowd.thread.join()
        got = [one for crowd in crowds for one in crowd.got]
        assert len({code for _, code, _ in got}) == len({customer for customer, _, _ in got}) == len(got) > KILLS
        # A code that a killed server had drawn was its customer's when they asked again: none is lost.
        drawn = counts(tmp_path, redis_url)
        assert drawn == {"imported": CODES, "free": CODES - len(got), "drawn": len(got), "redeemed": 0, "revoked": 0}
        events = [
            {"type": "track", "event": "purchase", "message_id": f"m-{n}", "user_id": customer, "decision_id": decision}
            for n, (customer, _, decision) in enumerate(got)
        ]
        for begin in range(0, len(events), 50):
            batch = {"batch": events[begin : begin + 50]}
            statuses = httpx.post(f"{base}/v1/events", json=batch, timeout=120).json()["statuses"]
            assert {one["status"] for one in statuses} == {"accepted"}
        assert counts(tmp_path, redis_url) | {"free": 0} == drawn | {"free": 0, "drawn": 0, "redeemed": len(got)}
        server.kill()
        server.join()
    check_ledger(tmp_path, redis_url, len(got))
