"""Every block of every page is valid in its language, and the commands of the reference run on data of its kind."""

import ast
import csv
import html.parser
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "loadtests/README.md"]
BLOCK = re.compile(r"^```(\w+)(?: \S+)?\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
SHOWN_ONLY = {"text", "console", "sql"}
"""Output, and a query that `tests/test_docs.py` runs."""


def blocks() -> Iterator[tuple[str, str, str]]:
    for page in PAGES:
        for number, (language, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1):
            yield f"{page.relative_to(ROOT)}:{number}", language, text


def refusal(command: list[str], text: str) -> str:
    """What a tool says against a text; empty if it takes it."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=240)
    return "" if done.returncode == 0 else done.stderr + done.stdout


def problem(language: str, text: str) -> str:
    """Why a block is not valid in its language; empty if it is."""
    try:
        match language:
            case "python":
                ast.parse(text)
            case "yaml":
                msgspec.yaml.decode(text)
            case "json":
                json.loads(text)
            case "html":
                html.parser.HTMLParser().feed(text)
            case "sh":
                return refusal(["/bin/bash", "-n"], text)
            case "js" | "jsx" | "css":
                return refusal(["/usr/bin/esbuild", f"--loader={language}", "--log-level=error"], text)
            case "php":
                opened = text if text.startswith("<?php") else f"<?php {text}"
                return refusal(["/usr/bin/php", "-l"], opened)
            case "java":
                return ""  # `test_storefront_pages` compiles and runs it
            case _:
                return "" if language in SHOWN_ONLY else f"no check for {language}"
    except (SyntaxError, ValueError, msgspec.MsgspecError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("languages", "tools"),
    [
        (("python", "yaml", "json", "html", "sh", "java", *SHOWN_ONLY), ()),
        (("js", "jsx", "css"), ("/usr/bin/esbuild",)),
        (("php",), ("/usr/bin/php",)),
    ],
    ids=["python", "esbuild", "php"],
)
def test_every_block_is_valid_in_its_language(
    require_tools: Any, languages: tuple[str, ...], tools: tuple[str, ...]
) -> None:
    require_tools(*tools)
    chosen = [block for block in blocks() if block[1] in languages]
    assert chosen
    found = [f"{place}: {fault}" for place, language, text in chosen if (fault := problem(language, text))]
    assert found == []


def test_every_language_of_the_docs_has_a_check() -> None:
    checked = {"python", "yaml", "json", "html", "sh", "java", "js", "jsx", "css", "php", *SHOWN_ONLY}
    assert {language for _, language, _ in blocks()} <= checked


COMMAND = re.compile(r"^counterpoint ((?:measure|evaluate|check) .*?)(?: +#.*)?$", flags=re.MULTILINE)
DRIVER = """
import json, shlex, sys
from engine.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["counterpoint", *shlex.split(line)]
    try:
        main()
    except SystemExit as end:
        print(json.dumps([line, end.code]), file=sys.stderr)
"""
TYPES = ("open", "click", "purchase")


def past_orders(chance: random.Random, until: date) -> Iterator[tuple[date, float]]:
    """A customer's orders of a year: with a pace and a size of their own, until they leave."""
    at, pace = until - timedelta(days=chance.randrange(60, 360)), chance.gammavariate(1.5, 0.02)
    worth, leaves = 40 / chance.gammavariate(4, 1), at + timedelta(days=chance.expovariate(1 / 150))
    while at <= until:
        yield at, round(chance.gammavariate(6, worth / 6) + 0.01, 2)
        at += timedelta(days=1 + chance.expovariate(pace))
        if at > leaves:
            return


def write_tables(folder: Path) -> None:
    """The tables that the pages name, with the columns that they name."""
    chance = random.Random(11)
    day = "2026-{:02d}-{:02d}".format
    orders, touches, events, answers = [], [], [], []
    for customer in range(300):
        for at, revenue in past_orders(chance, date(2026, 9, 28)):
            orders.append([f"c-{customer}", at.isoformat(), revenue, chance.choice(("spring", "summer"))])
        for number, name in enumerate(TYPES):
            if chance.random() < 0.8 - 0.25 * number:
                at, source = day(9, 10 + number), chance.choice(("web", "email", "app"))
                touches.append([f"c-{customer}", at, name, source, 20 if name == "purchase" else ""])
                events.append([f"c-{customer}", at, name, source])
        row = [f"c-{customer}", day(9, 1 + customer % 28), chance.randint(0, 10)]
        answers.append([*row, chance.choice(("new", "loyal")), chance.choice(("a", "b"))])
    effects = [[round(chance.gauss(0.02, 0.03), 4), 0.01, round(chance.gauss(0.01, 0.02), 4), 0.01] for _ in range(40)]
    paths = [["web > email", 30, 400], ["email", 10, 300], ["app > web", 25, 350], ["web", 12, 500]]
    for name, columns, rows in (
        ("orders", "customer time revenue campaign", orders),
        ("touches", "customer time type source revenue", touches),
        ("events", "customer time action source", events),
        ("survey", "customer time answer segment stage", answers),
        ("effects", "lead_effect lead_se lag_effect lag_se", effects),
        ("paths", "path orders journeys", paths),
    ):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns.split(), *rows])


def send_traffic(base: str) -> None:
    """Customers who look, order and answer, over HTTP."""
    chance = random.Random(12)
    with httpx.Client(base_url=base, timeout=120) as client:
        for number in range(150):
            who, channel = {"user_id": f"u-{number}"}, chance.choice(("web", "app"))
            body = {"customer": who, "channel": channel, "placements": ["home_hero"], "experiments": "*"}
            decision = client.post("/v1/decide", json=body).json()["decision_id"]
            item = {"type": "track", "channel": channel, "decision_id": decision, **who}
            names = ["view", *(["cart_updated"] * (number % 2)), *(["click"] * (number % 3 == 0)), "survey_sent"]
            batch = [{**item, "event": name, "properties": {"category": "tea", "items": 1}} for name in names]
            for at, revenue in past_orders(chance, datetime.now(UTC).date() - timedelta(days=1)):
                order = {"revenue": revenue, "order_id": f"o-{number}-{at}"}
                past = {"event": "purchase", "properties": order, "timestamp": f"{at}T12:00:00Z"}
                batch.append({**item, **past})
            if number % 3:
                order = {"revenue": 10.0 + number % 7, "order_id": f"o-{number}"}
                batch.append({**item, "event": "purchase", "properties": order})
            if number % 2:
                batch += [{**item, "event": name, "properties": {"score": number % 5 + 1}} for name in ("nps", "csat")]
            batch.append({**who, "type": "identify", "traits": {"loyalty.tier": number % 3}})
            sent = [{"message_id": f"{number}-{at}", **one} for at, one in enumerate(batch)]
            client.post("/v1/events", json={"batch": sent}).raise_for_status()


def test_the_commands_of_the_reference_run(reader: Any) -> None:
    shutil.copytree(ROOT / "experiments", reader.folder / "experiments")
    reader.run("counterpoint up")
    send_traffic(reader.base)
    reader.run("counterpoint collect --drain")
    write_tables(reader.folder)
    for name in ("new", "uniform", "FILE"):
        reader.write(f"{name}.yaml", "kind: uniform\n")
    pages = [ROOT / "README.md", *sorted((ROOT / "docs/reference").rglob("*.md"))]
    lines = [line for page in pages for _, text in BLOCK.findall(page.read_text()) for line in COMMAND.findall(text)]
    lines = [line for line in lines if ".cache/obd" not in line]  # `tests/test_obd_replay.py` has that log
    assert len(lines) > 20
    lines = [line.replace("--key KEY", f"--server {reader.base}") for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input="\n".join(lines),
        cwd=reader.folder,
        env=reader.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    codes = {one[0]: one[1] for line in done.stderr.splitlines() if line.startswith('["') for one in [json.loads(line)]}
    assert [shlex.split(line)[:2] for line in lines if line not in codes] == [], done.stderr
    # 1 is the answer no; the value of an experiment's customers needs months after their first exposure.
    answered = {"evaluate": 1, "measure clv --experiment": 2}
    failed = {
        line: code
        for line, code in codes.items()
        if code and not any(line.startswith(start) and code == expected for start, expected in answered.items())
    }
    assert failed == {}, done.stderr
    # Whether so few orders determine what one is worth turns on the last digits of their sums.
    refused = "--experiment checkout_layout: the customers' value cannot be estimated yet" in done.stderr
    assert (codes["measure clv --experiment checkout_layout"] == 2) is refused
