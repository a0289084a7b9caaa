"""Interactions of running experiments: a planted one is found and named with its layer; without any, none is."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.interactions.contrasts import SIGNS, CellSizes, estimate_contrast
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import Arm
from engine.analysis.stats.multiplicity import holm
from tests.verbs import run_verb

EXPERIMENTS = {"price": "checkout", "badge": None, "color": None, "font": "checkout"}
UNITS = 3000


def cells_of(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[dict[Any, Arm], dict[Any, CellSizes]]:
    cells, sizes = {}, {}
    for cell in SIGNS:
        own = values[(first == cell[0]) & (second == cell[1])]
        cells[cell] = Arm(len(own), float(own.mean()), float(own.var(ddof=1)) / len(own))
        sizes[cell] = CellSizes(len(own), int((own != 0).sum()))
    return cells, sizes


def test_the_contrast_is_the_difference_of_differences() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(4000) < 0.5, rng.random(4000) < 0.3
    values = rng.gamma(2, 5, 4000) + 3 * first - 1 * second + 2 * (first & second)
    cells, sizes = cells_of(values, first, second)
    found = estimate_contrast(cells, sizes, alpha=0.05, planned=4000)
    design = np.column_stack([np.ones(4000), first, second, first & second]).astype(float)
    slope = np.linalg.lstsq(design, values, rcond=None)[0]
    assert isinstance(found, Effect)
    assert found.estimate == pytest.approx(slope[3])
    assert (found.p is not None and found.p < 0.05) == (found.low > 0 or found.high < 0)
    few = estimate_contrast(cells, sizes | {(True, True): CellSizes(29, 29)}, alpha=0.05, planned=4000)
    assert few == NotEstimable("the smallest of the four cells has 29 units of 30")


def test_no_false_finding_over_all_pairs_and_looks_in_more_than_alpha_of_the_shops() -> None:
    """Four experiments without any interaction: six pairs, read at ten looks."""
    rng, shops, alpha = np.random.default_rng(4), 60, 0.05
    false = 0
    for _ in range(shops):
        variants = rng.random((4, UNITS)) < 0.5
        values = (rng.random(UNITS) < 0.2 + 0.05 * variants[0]) * rng.gamma(2, 5, UNITS)
        for look in range(1, 11):
            n = UNITS * look // 10
            p = []
            for one in range(4):
                for other in range(one):
                    found = estimate_contrast(
                        *cells_of(values[:n], variants[one, :n], variants[other, :n]), alpha=alpha, planned=UNITS
                    )
                    p += [found.p or 0.0] if isinstance(found, Effect) else []
            if p and min(holm(p)) < alpha:
                false += 1
                break
    assert false / shops <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / shops)


def write_shop(folder: Path) -> Path:
    folder.mkdir()
    for key, layer in EXPERIMENTS.items():
        place = f"layer: {layer}\n" if layer else ""
        (folder / f"{key}.yaml").write_text(
            f"key: {key}\n{place}variants: [{{key: old}}, {{key: new}}]\nmetrics: {{primary: spend}}\n"
        )
    (folder / "metrics.yaml").write_text("metrics: [{key: spend, kind: revenue, event: purchase}]\n")
    table = "{table: seen, at: files, customer: c, time: t, variant: v}"
    (folder / "moved.yaml").write_text(
        f"key: moved\nvariants: [{{key: old}}, {{key: new}}]\nmetrics: {{primary: spend}}\nexposures: {table}\n"
    )
    (folder / "sources.yaml").write_text(f"sources: [{{key: files, kind: files, path: {folder}}}]\n")
    (folder / "channels.yaml").write_text("channels: [{key: web}]\n")
    (folder / "layers.yaml").write_text("layers: [{key: checkout, reserve: {price: [0, 0.5], font: [0.5, 1]}}]\n")
    return folder


def test_a_planted_interaction_is_named_with_the_layer_that_prevents_it(
    tmp_path: Path, write_log: Callable[..., Path]
) -> None:
    rng = np.random.default_rng(5)
    decisions, exposures, events = [], [], []
    for n in range(UNITS):
        shown = {key: bool(rng.random() < 0.5) for key in EXPERIMENTS if key != "font"}
        for at, (key, is_new) in enumerate(shown.items()):
            row = {"decision_id": f"{key}-{n}", "time": 60.0 * at, "customer": f"u{n}", "key": key}
            decisions.append(row | {"variant": "new" if is_new else "old"})
            exposures.append(row)
        if rng.random() < 0.5:
            spent = float(rng.gamma(4, 5)) + 5 * shown["color"] - 14 * (shown["price"] and shown["badge"])
            event = {"message_id": f"m{n}", "time": 3600.0, "customer": f"u{n}", "event": "purchase", "revenue": spent}
            events.append(event)
            events.append(event | {"message_id": f"e{n}", "time": 30.0, "revenue": 1e3 * shown["badge"]})  # too early
    log = write_log(decisions=decisions, exposures=exposures, events=events)
    shop = ("--experiments", str(write_shop(tmp_path / "shop")))
    done = run_verb("interactions", "--log", str(log), "--as-of", "2026-11-05", "--json", *shop, check=True)
    report = json.loads(done.stdout)
    found = [one for one in report["interactions"] if one["found"]]
    assert [sorted(one["experiments"]) for one in found] == [["badge", "price"]]
    assert found[0]["contrast"]["low"] < -7 < found[0]["contrast"]["high"]
    assert found[0]["prevent"].startswith("write 'layer: checkout' in badge too, and in layers.yaml a range for each")
    assert report["apart"] == [["font", "price"]]
    assert list(report["skipped"]) == ["moved"]
    assert "moved" not in {key for one in report["interactions"] for key in one["experiments"]}
    assert any("smallest of the four cells has 0 units" in str(one["contrast"]) for one in report["interactions"])
