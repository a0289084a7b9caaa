"""A page of the documentation as a reader follows it: its files are written and its commands run, in their order.

A block is a file if its first line is a comment with its name, or if the name stands after the language. Commands that
serve until they are stopped run beside the others, which wait for them. Ports are those of the test.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from engine.service.access.listener import listen

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
NAME = re.compile(r"(?:#|//|/\*|<!--|<\?php //) (\S+\.\w+)(?: \*/| -->)?\n")
SERVES = re.compile(r"counterpoint up|python server\.py|php -S")
READY_SECONDS = 90


@dataclass
class Reader:
    """A reader in an empty folder; `ports` has the ports of the machine that stand for those of the page.

    `log` is the log of the engine, where the rows of this reader are those since `began`.
    """

    folder: Path
    ports: dict[str, str]
    running: ExitStack
    log: Path
    began: datetime
    printed: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://localhost:{self.ports['8080']}"

    def follow(self, page: str, **patience: str) -> str:
        """Follow a page to its end; returns what its commands printed.

        `patience` has times of the page and what a busy machine needs in their place.
        """
        for language, name, text in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
            block = self._with_ports(text)
            for old, new in patience.items():
                block = block.replace(old, new)
            named = NAME.match(block)
            if name or named:
                self.write(name or named[1], block)  # type: ignore[index]
            elif language == "sh":
                for command in self._commands(block):
                    self.run(command)
        return "".join(self.printed)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, command: str) -> str:
        """Run one script; one that serves goes on beside the next."""
        if SERVES.search(command):
            self._serve(command)
            return ""
        done = subprocess.run(
            ["/bin/bash", "-euc", command],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        self.printed.append(done.stdout)
        return done.stdout

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERPOINT_")}
        patient = {"COUNTERPOINT_STORE_TIMEOUT": "5"}  # degraded answers on a busy machine are tested elsewhere
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**kept, **patient, "PATH": path, "PYTHONPATH": str(ROOT)}

    def _commands(self, block: str) -> Iterator[str]:
        """A line that serves stands alone; what is between such lines is one script."""
        script: list[str] = []
        for line in block.splitlines():
            if SERVES.search(line):
                if script:
                    yield "\n".join(script)
                yield line
                script = []
            else:
                script.append(line)
        if script:
            yield "\n".join(script)

    def _serve(self, command: str) -> None:
        is_engine = "counterpoint up" in command
        port = self.ports["8080" if is_engine else "8000"]
        more = f" --port {port}" if is_engine else ""
        log = self.running.enter_context((self.folder / f"{port}.log").open("wb"))
        process = subprocess.Popen(
            ["/bin/bash", "-c", self._executed(command) + more],
            cwd=self.folder,
            env=self.environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self.running.callback(process.wait, 60)
        self.running.callback(process.terminate)
        deadline = time.monotonic() + READY_SECONDS
        path = "/readyz" if is_engine else "/"
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError((self.folder / f"{port}.log").read_text())

    def _executed(self, command: str) -> str:
        """The command in the place of its shell, so that a signal reaches it; variables stay before it."""
        variables, words = re.match(r"((?:\w+=\S+ )*)(.*)", command, flags=re.DOTALL).groups()  # type: ignore[union-attr]
        return f"{variables}exec {words}" if not variables else f"export {variables}; exec {words}"

    def _with_ports(self, text: str) -> str:
        for shown, taken in self.ports.items():
            text = text.replace(f":{shown}", f":{taken}").replace(f'"127.0.0.1", {shown}', f'"127.0.0.1", {taken}')
        return text


def now() -> datetime:
    """The whole second: clients in PHP send no others."""
    return datetime.now(UTC).replace(microsecond=0)


def free_ports() -> dict[str, str]:
    with ExitStack() as probes:
        ports = [probes.enter_context(listen("127.0.0.1", 0)).getsockname()[1] for _ in range(2)]
    return {"8080": str(ports[0]), "8000": str(ports[1])}


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with ExitStack() as running:
        yield Reader(tmp_path, free_ports(), running, tmp_path / ".data/log", now())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader with the repository's shop and a running engine, which asks for no keys; its pages share both."""
    folder = tmp_path_factory.mktemp("engine")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    with ExitStack() as running:
        found = Reader(folder, free_ports(), running, folder / ".data/log", now())
        found.run("counterpoint up")
        yield found


@pytest.fixture
def shop(engine: Reader, tmp_path: Path) -> Iterator[Reader]:
    """A reader in an empty folder of the engine that runs."""
    with ExitStack() as running:
        ports = engine.ports | {"8000": free_ports()["8000"]}
        yield Reader(tmp_path, ports, running, engine.log, now())


@pytest.fixture
def blocks() -> Callable[[str], dict[str, str]]:
    """`blocks(page)`: the files of a page, by name."""

    def found(page: str) -> dict[str, str]:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        files = [(name or (NAME.match(block) or ["", ""])[1], block) for _, name, block in BLOCK.findall(text)]
        return {name: block for name, block in files if name}

    return found
