"""A gate that fails on a customer costs that offer, is counted on the page of metrics, and not the answer."""

import asyncio
import shutil
import time
from pathlib import Path

from engine.customer import CustomerIds, Profile, Trait
from engine.decision.decision import DecideRequest
from engine.service.decision_flow import DecisionFlow, DecisionTask
from engine.service.worker import Worker
from engine.settings import Settings


class Unreadable(dict[str, object]):
    """A value that a condition cannot read, as no mistake of the engine's is known that could be sent instead."""

    def __eq__(self, other: object) -> bool:
        raise OverflowError

    __hash__ = None  # type: ignore[assignment]


def test_a_gate_that_fails_is_counted_and_the_answer_has_the_other_offers(
    tmp_path: Path, shop: Path, redis_url: str
) -> None:
    folder = shutil.copytree(shop, tmp_path / "experiments")
    offer = folder / "offers" / "second_coffee.yaml"
    offer.write_text(offer.read_text() + "audience: {visits_to: {$elemMatch: {bar: north}}}\n")

    async def run() -> None:
        worker = Worker(Settings(data=tmp_path / "data", experiments=folder, redis=redis_url))
        flow = DecisionFlow(worker)
        profile = Profile("u", "u", traits={"visits_to": Trait([Unreadable(bar="north")], 0.0)})  # type: ignore[list-item]
        request = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", placements=["home_hero"])
        decision = flow.evaluate(
            DecisionTask(request=request, now=time.time(), decision_id="0" * 32), profile, trace=True
        )
        choice = decision.choices["home_hero"]
        assert choice.closed["second_coffee"] == "failed"
        assert choice.offer.key != "second_coffee"
        assert choice.reason == "policy"
        assert 'counterpoint_gate_failures_total{gate="audience"} 1.0' in worker.metrics.render().decode()
        await asyncio.gather(worker.store.close(), worker.event_store.close())

    asyncio.run(run())
