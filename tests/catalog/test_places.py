"""`places.yaml`: distances of known pairs, and the problems that `check` names."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from engine.catalog.check.load import load_specs
from engine.catalog.plan.places import compile_places, great_circle_km
from engine.catalog.spec.limits.stock import PlaceSpec
from engine.errors import CatalogError

KETTLE = {"key": "kettle", "renderings": {"web": {"headline": "Kettle"}}}
HAMBURG = {"key": "hamburg", "latitude": 53.55, "longitude": 9.99}


def problems(folder: Path, stock: dict[str, object], *places: dict[str, object]) -> list[str]:
    files: dict[str, object] = {
        "channels.yaml": {"channels": [{"key": "web"}]},
        "metrics.yaml": {"metrics": [{"key": "click", "event": "click"}]},
        "offers/kettle.yaml": KETTLE | {"stock": {"sku": "K"} | stock},
    }
    if places:
        files["places.yaml"] = {"places": list(places)}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    try:
        load_specs(folder)
    except CatalogError as error:
        return [f"{problem.file.rpartition('/')[2]} {problem.path}: {problem.message}" for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("stock", "place", "found"),
    [
        ({"by": "pick_up"}, HAMBURG, ""),
        ({"by": "pick_up", "places": ["hamburg"], "within": 10}, HAMBURG, ""),
        ({"by": "pick_up", "places": ["hambrug"]}, HAMBURG, "stock.places[0]: 'hambrug' is not in places.yaml"),
        ({"within": 10}, HAMBURG, "stock.within: applies only to a stock by place"),
        ({"by": "ship", "pace": True}, HAMBURG, "stock.pace: spreads one stock over time"),
        ({"by": "mail"}, HAMBURG, "stock.by:"),
        ({"by": "ship"}, HAMBURG | {"latitude": 91}, "places[0].latitude:"),
    ],
)
def test_check_names_what_is_wrong_with_a_stock_by_place(
    tmp_path: Path, stock: dict[str, object], place: dict[str, object], found: str
) -> None:
    named = problems(tmp_path, stock, place)
    assert any(found in one for one in named) if found else not named


def test_a_stock_by_place_needs_places_and_each_key_stands_once(tmp_path: Path) -> None:
    assert any("needs places" in one for one in problems(tmp_path / "a", {"by": "ship"}))
    twice = problems(tmp_path / "b", {}, HAMBURG, {**HAMBURG})
    assert twice == ["places.yaml places[1].key: 'hamburg' is given twice; give each place its own key"]


@pytest.mark.parametrize(
    ("start", "end", "km"),
    [
        ((36.12, -86.67), (33.94, -118.40), 2886.45),  # Nashville to Los Angeles, as published for the formula
        ((0.0, 0.0), (0.0, 180.0), 20015.12),  # half of the circumference
        ((90.0, 0.0), (-90.0, 77.0), 20015.12),
        ((10.0, 179.9), (10.0, -179.9), 21.90),  # across the date line
        ((53.55, 9.99), (53.55, 9.99), 0.0),
    ],
)
def test_distances_are_those_of_the_great_circle(
    start: tuple[float, float], end: tuple[float, float], km: float
) -> None:
    found = great_circle_km(*start, np.radians([end[0]]), np.radians([end[1]]))
    assert found[0] == pytest.approx(km, abs=0.02)


def test_a_position_is_a_named_place_or_numbers_of_degrees() -> None:
    places = compile_places(
        [PlaceSpec(key="a", latitude=0.0, longitude=0.0), PlaceSpec(key="b", latitude=0.0, longitude=9.0)]
    )
    assert places is not None
    assert [near.place.key for near in places.around({"place": "b", "latitude": 0, "longitude": 0}).places] == [
        "b",
        "a",
    ]
    for unusable in ({"latitude": True, "longitude": 0}, {"latitude": float("nan"), "longitude": 0}, {"latitude": 1}):
        assert [near.km for near in places.around(unusable).places] == [None, None]
