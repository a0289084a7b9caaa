"""`counterpoint mcp`: the protocol's own client over standard input and output; drafts are all that it can write."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from engine.cli.bridges.drafts import DraftFolder
from engine.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
DRAFT = """\
key: new_banner
hypothesis: A banner of its own reminds people of the bread, so more carts become orders.
owner: growth
variants: [{key: control, weight: 0.5}, {key: banner, weight: 0.5}]
metrics: {primary: conversion}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcp") / "experiments"
    shutil.copytree(ROOT / "experiments", folder)
    return folder


async def converse(shop: Path) -> dict[str, Any]:
    words = ["-m", "engine", "mcp", "--drafts", str(shop.parent / "drafts"), "--experiments", str(shop)]
    server = StdioServerParameters(command=sys.executable, args=[*words, "--data", str(shop.parent)], cwd=str(ROOT))
    found: dict[str, Any] = {}
    async with Client(server) as client:
        found["tools"] = {tool.name: tool for tool in (await client.list_tools()).tools}

        async def call(name: str, /, **arguments: Any) -> str:
            result = await client.call_tool(name, arguments)
            return "".join(part.text for part in result.content)

        found["check"] = await call("check")
        found["bad"] = await call("write_draft", name="new_banner.yaml", yaml=DRAFT + "wieght: 1\n")
        found["good"] = await call("write_draft", name="new_banner.yaml", yaml=DRAFT)
        found["plan"] = await call("plan")
        found["preview"] = await call("preview", key="new_banner")
        found["power"] = await call("power", metric="proportion:0.1", mde=0.05)
        found["escape"] = await call("write_draft", name="../experiments/channels.yaml", yaml="channels: []")
        found["files"] = await call("list_files")
    return found


@pytest.fixture(scope="module")
def found(shop: Path) -> dict[str, Any]:
    return asyncio.run(asyncio.wait_for(converse(shop), 300))


def test_every_tool_says_what_it_does(found: dict[str, Any]) -> None:
    wanted = {"check", "plan", "preview", "simulate", "power", "analyze", "explain", "status", "write_draft"}
    assert wanted <= found["tools"].keys()
    assert all(tool.description for tool in found["tools"].values())


def test_a_draft_is_checked_and_planned_beside_what_runs(found: dict[str, Any], shop: Path) -> None:
    assert json.loads(found["check"])["problems"] == []
    [problem] = json.loads(found["bad"])["problems"]
    assert "wieght" in json.dumps(problem)
    assert json.loads(found["good"])["problems"] == []
    assert "new_banner" in found["plan"]
    assert "new_banner" in found["preview"] or "banner" in found["preview"]
    assert json.loads(found["power"])
    assert not (shop / "new_banner.yaml").exists()


def test_no_name_leads_out_of_the_folder_of_drafts(found: dict[str, Any], shop: Path, tmp_path: Path) -> None:
    assert "is not a name of a draft" in found["escape"]
    assert (shop / "channels.yaml").read_bytes() == (ROOT / "experiments/channels.yaml").read_bytes()
    assert json.loads(found["files"])["drafts"] == ["new_banner.yaml"]
    drafts = DraftFolder(tmp_path / "drafts")
    for name in (
        "/etc/passwd.yaml",
        "a.py",
        "a/../b.yaml",
        "..yaml",
        "offers/../../x.yaml",
        "x/y.yaml",
        ".yaml",
        "a\n.yaml",
    ):
        with pytest.raises(BadInput, match="not a name of a draft"):
            drafts.write(name, "")
    (tmp_path / "drafts").mkdir()
    (tmp_path / "drafts/link.yaml").symlink_to(tmp_path / "outside.yaml")
    (tmp_path / "drafts/offers").symlink_to(tmp_path)
    for name in ("link.yaml", "offers/x.yaml"):
        with pytest.raises(BadInput, match="leads out of the folder"):
            drafts.write(name, "x: 1")
    assert not (tmp_path / "outside.yaml").exists()
