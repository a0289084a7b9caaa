"""`measure all`: every report from one reading gives what it gives alone, as JSON and as one page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.year_shop import simulate_shop, write_shop
from tests.analysis.measure.test_daily import same

SHOP = Path(__file__).parents[3] / "experiments"
ALONE = {
    "attribution": ("--by", "offer"),
    "programme": (),
    "funnel": ("--step", "page_view", "--step", "purchase"),
}


def measure(log: Path, *words: str) -> dict[str, object]:
    command = [
        sys.executable,
        "-m",
        "engine",
        "measure",
        *words,
        "--log",
        str(log),
        "--experiments",
        str(SHOP),
        "--json",
    ]
    found: dict[str, object] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder / "log", simulate_shop(3, 300, 30, 6000), 30)
    return folder / "log"


def test_all_reports_together_say_what_each_says_alone(log: Path, tmp_path: Path) -> None:
    page = tmp_path / "all.html"
    together = measure(log, "all", "--step", "page_view", "--step", "purchase", "--html", str(page))
    assert len(together) == 12
    for name, words in ALONE.items():
        alone = measure(log, name, *words)
        assert same(together[name], alone)
    text = page.read_text()
    assert all(f'<section id="{name}">' in text for name in together)


def test_all_reports_of_a_table_are_refused_with_the_remedy(tmp_path: Path) -> None:
    table = tmp_path / "orders.csv"
    table.write_text("customer,time,revenue\na,2026-01-01,5\n")
    command = [sys.executable, "-m", "engine", "measure", "all", "--table", str(table)]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "ask for one report" in refused.stderr
