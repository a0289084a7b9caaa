"""The page about customers names every event that means something, and every attribute that is computed."""

import re
from pathlib import Path

from engine.catalog.conditions import dates
from engine.customer import Consent, Decayed, Order, Profile, SurveyAnswer
from engine.customers.model.reducers import COMPLAINTS, CONSENTS, PURCHASES, QUESTIONS
from engine.decision.attributes import local_clock
from engine.traits.attributes import derive_attributes
from engine.vocabulary import ANSWERS, CONFIRMS, REFUNDS, RELEASES

PAGE = (Path(__file__).parents[2] / "docs/reference/customers.md").read_text()
LISTED = set(re.findall(r"`([a-z_.]+)`", PAGE))
NOW = 1_790_000_000.0


def names(tree: dict[str, object], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in tree.items():
        found |= names(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return found


def test_every_event_that_means_something_is_listed() -> None:
    assert {*PURCHASES, *REFUNDS, *COMPLAINTS, *CONSENTS, *QUESTIONS, *ANSWERS, *CONFIRMS, *RELEASES} <= LISTED


def test_every_computed_attribute_is_listed() -> None:
    everything = Profile(
        "u",
        "u",
        orders={"o": Order(1.0, NOW)},
        order_count=1,
        last_order=NOW,
        affinities={"NAME": Decayed(1.0, NOW)},
        consents={"PURPOSE": Consent(granted=True, time=NOW)},
        answers={question: SurveyAnswer(5.0, NOW) for question in QUESTIONS},
    )
    listed = LISTED | {"affinity.NAME", "consent.PURPOSE", dates.NOW}  # the operators of dates read it, no condition
    computed = names(derive_attributes(everything, NOW) | local_clock(NOW, "UTC"))
    assert computed - {dates.NOW} <= listed  # no condition can name the time of the decision
