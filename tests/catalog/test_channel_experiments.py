"""The index of a channel skips experiments, but none that would apply."""

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.check.load import build_specs
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.decision.assign import Subject, assign

AUDIENCES = (
    "{}",
    "{country: DE}",
    "{country: {$in: [DE, AT]}}",
    "{tier: {$gte: 2}}",
    "{country: DE, tier: {$lt: 2}}",
    "{$or: [{country: AT}, {tier: 3}]}",
    "{city: {$exists: false}}",
)
MORE = ("", "sticky: true\n", "force: [{customers: [u-1], variant: a}]\n", "fallback_unit: device\nunit: store\n")


def _plan(drawn: list[tuple[int, int, bool]]) -> Plan:
    files = {
        "channels.yaml": b"channels: [{key: web}]",
        "metrics.yaml": b"metrics: [{key: click, event: click}]",
    }
    layered = [f"e{n}" for n, (_, _, in_layer) in enumerate(drawn) if in_layer]
    ranges = {key: [n / len(layered), (n + 1) / len(layered)] for n, key in enumerate(layered)}
    files["layers.yaml"] = f"layers: [{{key: busy, reserve: {ranges}}}]".replace("'", "").encode()
    for n, (audience, more, in_layer) in enumerate(drawn):
        layer = "layer: busy\n" if in_layer else ""
        text = f"key: e{n}\n{layer}{MORE[more]}audience: {AUDIENCES[audience]}\nvariants: [{{key: a}}, {{key: b}}]\n"
        files[f"e{n}.yaml"] = text.encode()
    return compile_plan(build_specs("shop", files))


@settings(max_examples=40, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(st.integers(0, len(AUDIENCES) - 1), st.integers(0, len(MORE) - 1), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    who=st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(("DE", "AT", "FR", None)), st.sampled_from((0, 1, 2, 3, None))),
        min_size=1,
        max_size=20,
    ),
)
def test_the_index_leaves_out_no_experiment_that_assigns_a_variant(
    drawn: list[tuple[int, int, bool]], who: list[tuple[int, str | None, int | None]]
) -> None:
    plan = _plan(drawn)
    for number, country, tier in who:
        attributes = {name: value for name, value in (("country", country), ("tier", tier)) if value is not None}
        units = {"customer": f"u-{number}", "device": f"d-{number}", "store": None}
        sticky = {"e0__0": "a"} if number % 3 == 0 else {}
        subject = Subject(units=units, names=frozenset((f"u-{number}",)), attributes=attributes, sticky=sticky)
        applying = {e.key for e in plan.by_channel["web"].find_applicable(attributes, units)}
        for key, experiment in plan.experiments.items():
            if assign(plan, experiment, subject, 1e9).index >= 0:
                assert key in applying
