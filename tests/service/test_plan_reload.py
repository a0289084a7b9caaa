"""A folder that people edit while it serves: a good change is swapped in whole, a bad one only shows its problems."""

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx

Serve = Callable[..., AbstractContextManager[Any]]

ROOT = Path(__file__).parents[2]


def _until(check: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return False


def test_a_good_change_is_swapped_in_and_a_bad_one_is_refused_with_all_its_problems(
    serve: Serve, redis_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments", folder)
    with serve(tmp_path, redis_url, folder) as server:
        base = server.base
        first = httpx.get(f"{base}/readyz").json()["plan"]
        layout = folder / "checkout_layout.yaml"
        good = layout.read_text()
        layout.write_text(good.replace("layout: one_page}", "layout: single}"))
        assert _until(lambda: httpx.get(f"{base}/readyz").json()["plan"] != first)
        second = httpx.get(f"{base}/readyz").json()["plan"]

        broken = good.replace("weight: 0.5, payload: {layout: one_page}", "weight: 1.4, payload: {layout: one_page}")
        broken = broken.replace("primary: conversion", "primary: conversoin").replace(
            "status: running", "status: runing"
        )
        layout.write_text(broken)
        assert _until(lambda: len(httpx.get(f"{base}/readyz").json()["plan_problems"]) == 3)
        ready = httpx.get(f"{base}/readyz").json()
        assert ready["ready"]
        assert ready["plan"] == second
        for problem, words in zip(
            ready["plan_problems"],
            (
                ("metrics.primary", "'conversoin'", "did you mean 'conversion'?"),
                ("status", "'runing'", "did you mean 'running'?"),
                ("variants[1].weight", "1.4", "between 0 and 1"),
            ),
            strict=True,
        ):
            assert problem.startswith("experiments/checkout_layout.yaml")
            assert all(word in problem for word in words)
        assert "counterpoint_plans_refused_total 1.0" in httpx.get(f"{base}/metrics").text
        body = {"customer": {"user_id": "qa-1"}, "channel": "web", "experiments": ["checkout_layout"]}
        answer = httpx.post(f"{base}/v1/decide", json=body).json()
        assert answer["experiments"]["checkout_layout"]["payload"] == {"layout": "single"}


def test_a_budget_that_is_raised_is_spent_at_once(serve: Serve, redis_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments", folder)
    bonus = folder / "offers/stay_bonus.yaml"
    bonus.write_text(bonus.read_text().replace("amount: 5000", "amount: 12.5"))
    with serve(tmp_path, redis_url, folder, {"COUNTERPOINT_STORE_TIMEOUT": "5"}) as server:

        def kept(customer: str) -> str:
            asked = {"customer": {"user_id": customer}, "channel": "call_centre", "placements": ["till_prompt"]}
            answer = httpx.post(f"{server.base}/v1/decide", json=asked | {"context": {"intent": "cancel"}})
            return str(answer.json()["offers"]["till_prompt"]["offer"])

        assert [kept(f"u{number}") == "stay_bonus" for number in range(3)] == [True, False, False]
        first = httpx.get(f"{server.base}/readyz").json()["plan"]
        bonus.write_text(bonus.read_text().replace("amount: 12.5", "amount: 25"))
        assert _until(lambda: httpx.get(f"{server.base}/readyz").json()["plan"] != first)
        assert [kept(f"v{number}") == "stay_bonus" for number in range(3)] == [True, False, False]
