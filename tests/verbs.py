"""`counterpoint VERB …` and scripts as tests start them: in processes of their own, forked with their libraries."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import BinaryIO

LOADED = (
    *("altair", "cyclopts", "duckdb", "httpx", "ibis.backends.duckdb", "litestar", "markdown_it"),
    *("pyarrow.dataset", "redis.asyncio", "rich.console", "scipy.optimize", "scipy.stats", "structlog", "yaml"),
    *("pygments.formatters.html", "uvicorn.protocols.http.httptools_impl", "uvloop"),
    *("engine.analysis", "engine.catalog.watch", "engine.claims.claims", "engine.customers.ingest", "engine.decision"),
    *("engine.erasure.listener", "engine.journal.log.collect", "engine.learn", "engine.rehearse"),
)
"""What most verbs import, a second of CPU. Not `engine.cli` and the meters, which read their process's environment."""
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(LOADED))


def run_verb(
    *words: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
    seconds: float = 240,
) -> "subprocess.CompletedProcess[str]":
    """Run one verb to its end, as `subprocess.run` would: with its own streams, folder, environment and exit code.

    Raises:
        subprocess.CalledProcessError: with `check`, if its exit code is not 0.
        subprocess.TimeoutExpired: after `seconds`, when it is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("out", "err")]
        place = cwd or Path.cwd(), dict(os.environ if env is None else env)
        process = _forks.Process(target=_run, args=(words, streams, *place))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, seconds)
        printed = [stream.read_text(encoding="utf-8") for stream in streams]
        done = subprocess.CompletedProcess(words, process.exitcode, *printed)
    if check:
        done.check_returncode()
    return done


def start_server(listener: socket.socket, env: Mapping[str, str]) -> ForkServerProcess:
    """A decision server on a listening socket; it prints nowhere. The caller kills and joins it."""
    process = _forks.Process(target=_serve, args=(listener, dict(env)))
    process.start()
    return process


@contextmanager
def forked_script(script: Path, *words: str) -> Iterator[tuple[ForkServerProcess, BinaryIO]]:
    """A process that runs a script, and what it prints; it is killed at the end."""
    reader, writer = _forks.Pipe(duplex=False)
    process = _forks.Process(target=_run_script, args=(str(script), words, writer))
    process.start()
    writer.close()
    with reader, os.fdopen(reader.fileno(), "rb", closefd=False) as printed:
        try:
            yield process, printed
        finally:
            process.kill()
            process.join()


def _run(words: tuple[str, ...], streams: list[Path], cwd: Path, env: dict[str, str]) -> None:
    os.chdir(cwd)
    for number, path in enumerate(streams, 1):
        _print_to(str(path), number)
    _run_here(words, env)


def _serve(listener: socket.socket, env: dict[str, str]) -> None:
    for number in (1, 2):
        _print_to(os.devnull, number)
    _run_here(("serve", "--fd", str(listener.detach())), env)


def _run_here(words: tuple[str, ...], env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = ["counterpoint", *words]
    from engine.cli import main  # noqa: PLC0415 (reads the environment)

    main()


def _run_script(script: str, words: tuple[str, ...], writer: Connection) -> None:
    os.dup2(writer.fileno(), 1)
    writer.close()
    _print_to(os.devnull, 2)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def _print_to(path: str, number: int) -> None:
    stream = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, number)
    os.close(stream)
