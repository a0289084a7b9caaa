"""The index over a collection's offers says what each offer's own audience, dates and channels say."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.plan.indexing.bits import set_places
from engine.catalog.plan.indexing.offer_index import IndexedOffer, build_offer_index

VALUES: list[Any] = [None, True, False, 0, 1, 2.5, -1, float("inf"), "", "DE", "AT", "null", "1", "2.5", "x"]
VALUES += [["DE", "FR"], [1, 2], [], {"DE": 1}]
values = st.sampled_from(VALUES)
texts = st.sampled_from(["DE", "AT", "null", "1", "true", "[object Object]", "DE,FR"])
numbers = st.sampled_from([-1, 0, 1, 2, 2.5, 3])
operators = st.sampled_from(["$gt", "$gte", "$lt", "$lte"])
traits = st.sampled_from(["country", "loyalty.tier", "country.0", "country.length"])
terms = st.one_of(
    texts,
    numbers,
    st.builds(lambda v: {"$eq": v}, st.one_of(texts, numbers)),
    st.builds(lambda v: {"$in": v}, st.lists(texts, max_size=3)),
    st.builds(lambda v: {"$nin": v}, st.lists(texts, max_size=3)),
    st.builds(lambda o, v: {o: v}, operators, st.one_of(numbers, texts)),
    st.builds(lambda a, v, b, w: {a: v, b: w}, operators, numbers, operators, numbers),
    st.builds(lambda v: {"$exists": v}, st.booleans()),
)
plain = st.dictionaries(traits, terms, max_size=3)
audiences = st.one_of(
    plain,
    st.builds(lambda a, b: {"$and": [a, b]}, plain, plain),
    st.builds(lambda a, b: {"$or": [a, b]}, plain, plain),
    st.builds(lambda a: {"$not": a}, plain),
)


@settings(max_examples=600, deadline=None)
@given(st.lists(audiences, min_size=1, max_size=8), values, values)
def test_the_audience_of_every_offer_is_as_its_condition_says(found: list[Any], country: Any, tier: Any) -> None:
    attributes = {"country": country, "loyalty": {"tier": tier}}
    offers = [IndexedOffer(f"o{n}", 0.0, float("inf"), one, {}) for n, one in enumerate(found)]
    outside = build_offer_index(offers).outside_audience(attributes, (1 << len(offers)) - 1)
    inside = [place not in set(set_places(outside)) for place in range(len(offers))]
    assert inside == [compile_condition(one)(attributes) for one in found]


times = st.sampled_from([0.0, 10.0, 20.0, 30.0, float("inf")])


@given(st.lists(st.tuples(times, times), min_size=1, max_size=8), st.sampled_from([0.0, 5.0, 10.0, 20.0, 29.9, 30.0]))
def test_dates_hold_from_their_start_until_before_their_end(spans: list[tuple[float, float]], now: float) -> None:
    spans = [(min(a, b), max(a, b)) for a, b in spans]
    offers = [IndexedOffer(f"o{n}", start, end, {}, {}) for n, (start, end) in enumerate(spans)]
    running = set(set_places(build_offer_index(offers).within_dates(now)))
    assert running == {n for n, (start, end) in enumerate(spans) if start <= now < end}
