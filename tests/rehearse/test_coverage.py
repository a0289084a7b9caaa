"""The content coverage table: segment by stage by channel, and where nothing is there to be said."""

import json
from typing import Any

from engine.catalog.check.load import build_specs
from engine.catalog.plan.compile import compile_plan
from engine.customer import Profile, Trait
from engine.rehearse.coverage import STAGES, measure_coverage, unmet_segments
from engine.rehearse.customers import SampledCustomer, make_one_per_stage
from engine.traits.stages import derive_stage

NOW = 1_790_000_000.0


def offer(key: str, *channels: str, **more: Any) -> dict[str, Any]:
    return {"key": key, "renderings": {channel: {} for channel in channels}} | more


FILES: dict[str, Any] = {
    "channels.yaml": {
        "channels": [
            {"key": "web"},
            {"key": "push", "outbound": True, "quiet": {"from": "00:00", "to": "23:59", "then": "drop"}},
        ],
        "placements": [{"key": "hero", "channels": ["web", "push"]}],
    },
    "metrics.yaml": {"metrics": [{"key": "click", "event": "click"}]},
    "segments.yaml": {
        "segments": [{"key": key, "condition": {"country": key.upper()}} for key in ("de", "fr")],
    },
    "hero.yaml": {
        "key": "hero",
        "placement": "hero",
        "offers": ["welcome", "thanks"],
        "policy": {"kind": "uniform"},
        "reward": {"metric": "click"},
        "fallback": "plain",
    },
    "offers/welcome.yaml": offer("welcome", "web", audience={"stage": {"$in": ["new", "engaged"]}}),
    "offers/thanks.yaml": offer("thanks", "web", "push", purpose="marketing", audience={"orders.count": {"$gte": 1}}),
    "offers/plain.yaml": offer("plain", "web", "push"),
}


def test_each_stage_and_segment_is_shown_with_its_holes() -> None:
    specs = build_specs("shop", {name: json.dumps(value).encode() for name, value in FILES.items()})
    german = SampledCustomer(Profile("g", "g", traits={"country": Trait("DE", NOW)}))
    sample = [*make_one_per_stage(["marketing"], NOW), german]
    assert [derive_stage(one.profile, NOW) for one in sample[:6]] == list(STAGES)
    cells = measure_coverage(compile_plan(specs), specs, sample, NOW)
    found = {(cell.segment, cell.stage, cell.channel): (cell.customers, cell.offers, cell.hole) for cell in cells}
    everyone = {key[1:]: what for key, what in found.items() if key[0] == "(everyone)"}
    assert everyone == {
        ("new", "web"): (2, ["welcome"], False),
        ("engaged", "web"): (1, ["welcome"], False),
        ("cart", "web"): (1, [], True),
        ("customer", "web"): (1, ["thanks"], False),
        ("loyal", "web"): (1, ["thanks"], False),
        ("lapsed", "web"): (1, ["thanks"], False),
        ("new", "push"): (2, [], True),
        ("engaged", "push"): (1, [], True),
        ("cart", "push"): (1, [], True),
        ("customer", "push"): (1, ["thanks"], False),  # whatever the hour
        ("loyal", "push"): (1, ["thanks"], False),
        ("lapsed", "push"): (1, ["thanks"], False),
    }
    assert found["de", "new", "web"] == (1, ["welcome"], False)
    assert unmet_segments(specs, cells) == ["fr"]
    assert [cell.hole for cell in cells] == sorted((cell.hole for cell in cells), reverse=True)  # the worst first
