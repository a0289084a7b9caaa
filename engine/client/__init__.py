"""A thin typed client for Python storefronts: the verbs of `client.js`, blocking and for asyncio.

A decision or flag always has an answer in time: the caller's fallback or default if the engine does not answer.

>>> from engine.client import Client, Customer
>>> shop = Client("http://127.0.0.1:8080", channel="web", timeout=0.2)
>>> anna = Customer(user_id="u-42")
>>> decision = shop.decide(anna, placements=["home_hero"])  # doctest: +SKIP
>>> decision.rendering("home_hero", {"headline": "Good morning"})["headline"]  # doctest: +SKIP
'The second coffee is on us'
>>> shop.flag("dark_mode", default=False, customer=anna)  # doctest: +SKIP
True
>>> shop.track(anna, "purchase", {"revenue": 12.5}, decision_id=decision.decision_id)  # doctest: +SKIP
"""

from engine.client.asynchronous import AsyncClient
from engine.client.messages import DecisionReply as Decision
from engine.client.messages import ExperimentReply as ExperimentAnswer
from engine.client.messages import NoAnswer, Rejected, Unsendable
from engine.client.messages import OfferReply as OfferAnswer
from engine.client.synchronous import Client
from engine.customer import CustomerIds as Customer
from engine.customer import prove

__all__ = [
    "AsyncClient",
    "Client",
    "Customer",
    "Decision",
    "ExperimentAnswer",
    "NoAnswer",
    "OfferAnswer",
    "Rejected",
    "Unsendable",
    "prove",
]
