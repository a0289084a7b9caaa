"""Every tutorial, followed word for word by somebody with nothing but its text."""

import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_experiment(reader: Any) -> None:
    printed = reader.follow("tutorial/first-experiment.md")
    assert "shop/checkout_layout.yaml variants[1].weight: 1.4 is not between 0 and 1" in printed
    assert "conversion" in printed
    assert re.search(r"keep running", printed, re.IGNORECASE)
    assert "one_page" in printed
    assert "same" in printed


def test_the_first_bandit_learns_who_likes_what(reader: Any) -> None:
    printed = reader.follow("tutorial/first-bandit.md")
    shares = {
        (name, int(age)): dict(re.findall(r"'(\w+)': '(\d+)%'", found))
        for name, age, found in re.findall(r"^(first|last) (22|70) (\{.*\})$", printed, re.MULTILINE)
    }
    for age, likes in ((22, "espresso"), (70, "tea")):
        assert int(shares["last", age][likes]) > 60, shares
        assert all(int(share) >= 2 for share in shares["last", age].values())
    assert "ESS" in printed or "effective" in printed


def test_a_table_of_ones_own(reader: Any) -> None:
    printed = reader.follow("tutorial/your-own-table.md")
    assert "sample ratio" in printed
    assert "minutes" in printed
    assert re.search(r"^(ship|keep running|stop)$", printed, re.MULTILINE)


def test_one_customer_from_the_web_to_the_till(reader: Any) -> None:
    shutil.copytree(ROOT / "experiments", reader.folder / "experiments")
    printed = reader.follow("tutorial/web-to-till.md")
    (web,), (app,) = (re.findall(rf"variant {where}: (\w+)", printed) for where in ("on the web", "in the app"))
    assert web == app != "none"
    assert "waiting from the web: {'items': 2, 'value': 17.8}" in printed
    assert "cart after the order: {}" in printed
    assert '"offer":"stay_bonus"' in printed
    assert "mara" not in " ".join(str(path) for path in (reader.folder / "omni-data/log").rglob("*"))


def test_nobody_changes_the_variant_who_comes_from_growthbook(reader: Any) -> None:
    printed = reader.follow("tutorial/from-growthbook.md")
    assert "10000 of 10000 customers keep their variant" in printed
    assert '"value":' in printed
