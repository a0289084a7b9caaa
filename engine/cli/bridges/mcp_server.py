"""The tools that agents get over the Model Context Protocol, each of which is a verb of the command line.

A tool runs its verb in a process of its own with `--json`, so an agent reads what a person reads, and nothing that a
verb prints gets into the protocol. The tools change nothing but files of the drafts' folder. What a draft would do is
asked of a copy of the shop with the drafts written over it.
"""

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mcp.server.mcpserver import MCPServer

from engine.cli.bridges.drafts import DraftFolder
from engine.errors import BadInput
from engine.settings import Settings

VERB_SECONDS = 600.0
SECRET = frozenset(("notify.yaml",))
"""Files that run and whose receivers an agent need not know."""
MOST_CHARACTERS = 200_000
"""The longest answer; a longer one is refused with what to ask instead."""
INSTRUCTIONS = (
    "Counterpoint decides experiments, flags and offers from YAML files. Read the running files, write drafts with "
    "write_draft, and look at check, plan, preview and simulate with drafts=true before you propose them to a person. "
    "You cannot change what runs."
)


class Tools:
    """The command-line verbs on one shop, as tools."""

    def __init__(self, settings: Settings, drafts: DraftFolder, redis: str | None = None) -> None:
        self.settings, self.drafts = settings, drafts
        self.where = ["--data", str(settings.data), *(["--redis", redis] if redis else [])]

    def all(self) -> Iterator[Callable[..., object]]:
        """Yield the functions that become tools; an agent reads their docstrings."""
        yield from (self.check, self.plan, self.preview, self.simulate, self.power)
        yield from (self.analyze, self.explain, self.status)
        yield from (self.list_files, self.read_file, self.write_draft, self.delete_draft)

    async def check(self, *, drafts: bool = True) -> str:
        """Validate every YAML file of the shop, by default with the drafts written over it: all problems at once."""
        with self._shop(drafts=drafts) as folder:
            return await _run("check", str(folder), "--json")

    async def plan(self) -> str:
        """Lists the changes of the drafts: each safe or unsafe with its reason, and how many customers move."""
        with self._shop(drafts=True) as folder:
            return await _run("plan", str(self.settings.experiments), str(folder), "--json")

    async def preview(self, key: str, *, drafts: bool = True) -> str:
        """Shows the variant or offer of a customer in each stage, and why; it has no side effect."""
        with self._shop(drafts=drafts) as folder:
            return await _run("preview", key, "--experiments", str(folder), *self.where, "--json")

    async def simulate(self, key: str, customers: int = 2_000, *, drafts: bool = True) -> str:
        """A dry run of an experiment or a placement on made-up customers: allocation, caps, stock and spend."""
        count = str(max(1, min(customers, 100_000)))
        with self._shop(drafts=drafts) as folder:
            words = (key, "--customers", count, "--experiments", str(folder), *self.where, "--json")
            return await _run("simulate", *words)

    async def power(self, metric: str, mde: float | None = None, units: int | None = None, power: float = 0.8) -> str:
        """Sample size of an experiment, or its power, from a baseline such as proportion:0.1 or mean:16.2,25.1.

        Give `mde`, the least relative effect (0.02 for 2 %), or `units`, or both.
        """
        words = ["--metric", metric]
        words += [] if mde is None else ["--mde", str(mde)]
        words += ["--power", str(power)] if units is None else ["--units", str(units)]
        return await _run("power", *words, "--json")

    async def analyze(self, key: str) -> str:
        """The report of an experiment or a placement from the log: effects with intervals, quality, the verdict."""
        words = ("--experiments", str(self.settings.experiments), "--log", str(self.settings.log), "--json")
        return await _run("analyze", key, *words)

    async def explain(self, decision_id: str) -> str:
        """Replay one logged decision from its record, and say why it was made."""
        return await _run("explain", decision_id, *self.where, "--json")

    async def status(self) -> str:
        """Every experiment, flag and placement in a line: days left, traffic, checks, what to decide next."""
        return await _run("status", "--experiments", str(self.settings.experiments), *self.where, "--json")

    def list_files(self) -> str:
        """The names of the YAML files that run, and of the drafts."""
        running = sorted(path.relative_to(self.settings.experiments).as_posix() for path in self._running())
        return json.dumps({"running": running, "drafts": self.drafts.names()})

    def read_file(self, name: str) -> str:
        """The text of a draft, or else of the file that runs under this name."""
        try:
            text = self.drafts.read(name)
        except BadInput as error:
            return str(error)
        if text is not None:
            return text
        path = self.settings.experiments / name
        if name in SECRET:
            return f"{name}: has secrets and is not shown"
        return path.read_text(encoding="utf-8") if path.is_file() else f"{name}: there is no such file"

    async def write_draft(self, name: str, yaml: str) -> str:
        """Write a draft, such as checkout_layout.yaml or offers/coffee.yaml; the answer is what check says.

        Nothing that runs changes.
        """
        try:
            self.drafts.write(name, yaml)
        except BadInput as error:
            return str(error)
        return await self.check()

    def delete_draft(self, name: str) -> str:
        """Delete a draft."""
        try:
            return f"{name}: {'deleted' if self.drafts.delete(name) else 'there is no such draft'}"
        except BadInput as error:
            return str(error)

    def _running(self) -> list[Path]:
        folder = self.settings.experiments
        return [path for pattern in ("*.yaml", "offers/*.yaml") for path in folder.glob(pattern)]

    @contextmanager
    def _shop(self, *, drafts: bool) -> Iterator[Path]:
        """The running folder, or a copy of it with the drafts written over its files."""
        if not drafts or not self.drafts.names():
            yield self.settings.experiments
            return
        with tempfile.TemporaryDirectory(prefix="counterpoint-drafts-") as place:
            copy = Path(place) / self.settings.experiments.name
            (copy / "offers").mkdir(parents=True)
            for path in self._running():
                shutil.copyfile(path, copy / path.relative_to(self.settings.experiments))
            for name in self.drafts.names():
                (copy / name).write_text(self.drafts.read(name) or "", encoding="utf-8")
            yield copy


def make_server(settings: Settings, drafts: Path, redis: str | None = None) -> MCPServer:
    """The server with its tools; `run()` serves standard input and output."""
    server = MCPServer("counterpoint", instructions=INSTRUCTIONS)
    for tool in Tools(settings, DraftFolder(drafts), redis).all():
        server.tool()(tool)
    return server


async def _run(verb: str, *words: str) -> str:
    """The output of a verb: its JSON, or its errors if it has none."""
    command: Sequence[str] = (sys.executable, "-m", "engine", verb, *words)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), VERB_SECONDS)
    except TimeoutError:
        process.kill()
        return f"{verb}: took longer than {VERB_SECONDS:g} s; ask for less"
    text = out.decode().strip() or f"exit {process.returncode}: {err.decode().strip()}"
    if len(text) > MOST_CHARACTERS:
        return f"{verb}: the answer has {len(text):,} characters, more than {MOST_CHARACTERS:,}; ask for less"
    return text
