"""A simulated shop: customers with different tastes visit the engine over HTTP, and the demo reports what it learnt.

The seed fixes who comes, in which order, and what each would click; which offer they see depends on the engine.
"""

import asyncio
import random
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
from rich.console import Console

from engine import embedded
from engine.analysis import analyze_experiment, policy_report
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.render.terminal import render, render_policies
from engine.catalog import load_plan
from engine.erasure.listener import LogErasures
from engine.errors import BadInput, CounterpointError
from engine.journal.log.collect import collect
from engine.progress import relay_lines, track_progress
from engine.service.access.listener import listen
from engine.settings import Settings
from engine.up import run_engine

CHANNELS = ("web", "web", "app", "app", "email")
AT_ONCE = 32
"""Visits under way at the same time."""
VISITS = 3
"""Visits of each customer."""
SEED = 20261122
MARK = "made-by-the-demo"
"""The file that marks a data folder as a demo's, which the next demo may delete."""
PAUSES = (0.1, 0.5, 2.0)
"""Seconds between attempts if the store is too busy to answer; message ids make repeated events harmless."""
REWARD_SECONDS = 3.0
"""Seconds for the learner to join the last rewards."""


class DemoError(CounterpointError):
    """The error that the engine did not answer the demo's traffic; its log lines have the cause."""


class DemoReply(msgspec.Struct, frozen=True):
    """The parts of an answer that the demo reads."""

    decision_id: str = ""
    experiments: dict[str, dict[str, object]] = {}
    offers: dict[str, dict[str, object]] = {}


@dataclass(frozen=True)
class Shopper:
    """One simulated customer: traits that the shop knows, and click rates that it does not know."""

    user_id: str
    tier: int
    coffee: float

    def clicks(self, offer: object) -> float:
        """The probability of a click on an offer, which the engine has to learn."""
        return {
            "free_delivery": 0.05,
            "second_coffee": 0.02 + 0.40 * self.coffee,
            "birthday_drink": 0.04 + 0.05 * self.tier,
            "tasting_set": 0.02 + 0.36 * (1 - self.coffee),
            "grinder_discount": 0.02 + 0.02 * self.tier,
        }.get(str(offer), 0.02)


def run_demo(
    settings: Settings, customers: int, *, once: bool, stop: threading.Event, out: Console, err: Console
) -> int:
    """Run the whole engine, send it the visits of `customers` shoppers and print its reports.

    Returns:
        The exit code, 0.

    Raises:
        BadInput: if the port is taken, or the data folder is another demo's or has other files.
        DemoError: if the engine does not answer.
    """
    with listen(settings.host, settings.port):  # before the data of an earlier demo is deleted for nothing
        _empty_folder(settings.data)
    err.print("Starting the store, a decision server, the learner and the collector …")
    with relay_lines(err) as stderr, run_engine(settings, stop, stderr) as (base, served):
        err.print(
            f"Counterpoint answers at {base}\n  the shop       {base}/shop\n  the dashboard  {base}/", soft_wrap=True
        )
        asyncio.run(_traffic(base, customers, stop, err))
        if stop.is_set():
            return 0
        err.print("Collecting the log …")
        stop.wait(REWARD_SECONDS)
        collect(served, LogErasures(), drain=True)
        plan = load_plan(settings.experiments, settings.plans)
        out.print(render_policies(policy_report(settings.log, "home_hero", ripe=False)))
        for key, experiment in plan.experiments.items():
            if experiment.spec.metrics is None:  # a flag measures nothing by itself
                continue
            question, metrics = build_question(plan, key)
            out.print(render(analyze_experiment(question, metrics, settings.log)))
        if not once:
            err.print(
                f"\nOpen the shop at {base}/shop and the dashboard at {base}/ now. Ctrl-C ends both.", soft_wrap=True
            )
            err.print("To compute a report from its log again, run:")
            err.print(f"  .venv/bin/counterpoint analyze hero_policy --data {settings.data}", soft_wrap=True)
            stop.wait()
    return 0


def _empty_folder(data: Path) -> None:
    """Delete the data of an earlier demo, and no other files."""
    mark = data / MARK
    if data.exists() and not mark.exists() and (not data.is_dir() or any(data.iterdir())):
        raise BadInput(f"--data {data}: has files that no demo wrote; name a new or an empty folder")
    if embedded.is_in_use(data / "store"):
        raise BadInput(f"--data {data}: another demo runs there; end it, or name another folder")
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    mark.touch()


async def _traffic(base: str, customers: int, stop: threading.Event, err: Console) -> None:
    """Identify every shopper, then send their visits, `AT_ONCE` at a time."""
    chance = random.Random(SEED)
    shoppers = [
        Shopper(f"u-{index}", chance.choice((0, 0, 1, 1, 2, 3)), round(chance.random(), 2))
        for index in range(customers)
    ]
    visits = [(shopper, visit) for visit in range(VISITS) for shopper in chance.sample(shoppers, len(shoppers))]
    async with httpx.AsyncClient(base_url=base, timeout=10) as client:
        with track_progress(err, "Customers identify themselves", len(shoppers)) as advance:
            for start in range(0, len(shoppers), 200):
                await _identify(client, shoppers[start : start + 200])
                advance(min(200, len(shoppers) - start))
        with track_progress(err, "Customers visit the shop", len(visits)) as advance:
            queue = iter(visits)

            async def visit() -> None:
                for shopper, number in queue:
                    if stop.is_set():
                        return
                    await _visit(client, shopper, random.Random(f"{SEED}-{shopper.user_id}-{number}"))
                    advance(1)

            await asyncio.gather(*(visit() for _ in range(AT_ONCE)))


async def _identify(client: httpx.AsyncClient, shoppers: list[Shopper]) -> None:
    batch = [
        {
            "type": "identify",
            "message_id": str(uuid.uuid4()),
            "user_id": shopper.user_id,
            "traits": {"loyalty.tier": shopper.tier, "affinity.coffee": shopper.coffee},
        }
        for shopper in shoppers
    ]
    await _post(client, "/v1/events", {"batch": batch})


async def _visit(client: httpx.AsyncClient, shopper: Shopper, chance: random.Random) -> None:
    """One visit: a decision, then perhaps a click on its offer and a purchase, likelier on the one-page checkout."""
    channel = chance.choice(CHANNELS)
    body = {
        "customer": {"user_id": shopper.user_id},
        "channel": channel,
        "placements": ["home_hero"],
        "experiments": ["checkout_layout"],
    }
    answer = await _post(client, "/v1/decide", body)
    offer = answer.offers["home_hero"]["offer"]
    layout = answer.experiments["checkout_layout"]["variant"]
    event = {"user_id": shopper.user_id, "channel": channel, "decision_id": answer.decision_id, "type": "track"}
    batch = []
    if chance.random() < shopper.clicks(offer):
        batch.append({**event, "message_id": str(uuid.uuid4()), "event": "click", "properties": {"offer": offer}})
    if chance.random() < (0.075 if layout == "one_page" else 0.05):
        revenue = round(chance.lognormvariate(2.6, 0.5), 2)
        properties = {"revenue": revenue, "order_id": str(uuid.uuid4())}
        batch.append({**event, "message_id": str(uuid.uuid4()), "event": "purchase", "properties": properties})
    if batch:
        await _post(client, "/v1/events", {"batch": batch})


async def _post(client: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> DemoReply:
    """Send a request, and retry after a pause while the store is busy."""
    answer = await client.post(path, json=body)
    for pause in PAUSES:
        if answer.status_code != 503:
            break
        await asyncio.sleep(pause)
        answer = await client.post(path, json=body)
    if answer.status_code != 200:
        raise DemoError(f"{path} answered {answer.status_code}: {answer.text}")
    return msgspec.json.decode(answer.content, type=DemoReply)
