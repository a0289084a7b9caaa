"""A folder that is edited while it serves: what is half written is never taken for the whole."""

import os
import shutil
import time
from pathlib import Path

import pytest

from engine.catalog.check.load import load_specs
from engine.catalog.watch import STILL_SECONDS, PlanWatch, find_loosened

SHOP = Path(__file__).parents[2] / "experiments"
OFFER = """\
key: voucher
renderings:
  web: {headline: A voucher of twenty euros}
  store: {prompt: Hand out a voucher}
purpose: marketing
audience: {loyalty.tier: {$gte: 2}}
caps: [{count: 1, per: 365d}]
"""


def polled(watch: PlanWatch, seconds: float, every: float = 0.1) -> bool:
    """Whether polls for so many seconds found a new plan."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if watch.poll():
            return True
        time.sleep(every)
    return False


def copied(tmp_path: Path) -> Path:
    shutil.copytree(SHOP, tmp_path / "experiments")
    return tmp_path / "experiments"


def test_an_offer_that_is_written_slowly_never_runs_without_its_last_keys(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    watch = PlanWatch(folder)
    lines = OFFER.splitlines(keepends=True)
    with (folder / "offers/voucher.yaml").open("w") as file:
        for line in lines:
            file.write(line)
            file.flush()
            polled(watch, STILL_SECONDS * 0.8)
            assert watch.plan.offers.get("voucher") is None
    assert polled(watch, 10)
    assert watch.plan.offers["voucher"].spec.caps


def test_an_offer_without_restrictions_waits_for_its_author(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    watch = PlanWatch(folder)
    half = "".join(OFFER.splitlines(keepends=True)[:4])
    (folder / "offers/voucher.yaml").write_text(half)
    assert not polled(watch, STILL_SECONDS * 2), "its caps may still be on their way"
    (folder / "offers/voucher.yaml").write_text(OFFER)
    assert polled(watch, 10)
    assert watch.plan.offers["voucher"].spec.caps


def test_a_file_that_is_renamed_into_place_is_taken_after_two_looks(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    watch = PlanWatch(folder)
    prepared = tmp_path / "voucher.yaml"
    prepared.write_text(OFFER)
    os.replace(prepared, folder / "offers/voucher.yaml")  # noqa: PTH105 (the call that editors make)
    assert polled(watch, STILL_SECONDS * 4)


PARTS = {
    "offers/voucher.yaml": (OFFER, ("audience", "caps", "purpose"), "voucher"),
    "campaigns.yaml": (
        """\
campaigns:
- key: monday
  schedule: {days: [monday], at: ["09:00"]}
  channels: [{channel: push, placement: push_message}]
  policy: {kind: uniform}
  reward: {metric: conversion}
  purpose: marketing
  audience: {loyalty.tier: {$gte: 2}}
""",
        ("  audience", "  purpose"),
        "monday",
    ),
}


@pytest.mark.parametrize("file", sorted(PARTS))
def test_each_restriction_that_a_file_loses_is_named(tmp_path: Path, file: str) -> None:
    folder = copied(tmp_path)
    text, fields, key = PARTS[file]
    (folder / file).write_text(text)
    before = load_specs(folder)
    for lost in fields:
        kept = [line for line in text.splitlines(keepends=True) if not line.startswith(lost)]
        (folder / file).write_text("".join(kept))
        assert list(find_loosened(before, load_specs(folder))) == [key]


def test_a_shop_that_loses_its_rule_of_silence_is_named(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    channels = (folder / "channels.yaml").read_text()
    (folder / "channels.yaml").write_text(channels + "suppress: {when: complaint_open}\n")
    before = load_specs(folder)
    (folder / "channels.yaml").write_text(channels)
    assert list(find_loosened(before, load_specs(folder))) == ["channels.yaml"]
