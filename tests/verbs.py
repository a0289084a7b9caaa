"""`counterpoint VERB …` as a test starts it: in a process of its own, which is forked instead of loading libraries."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

LOADED = (
    *("altair", "cyclopts", "duckdb", "httpx", "ibis.backends.duckdb", "litestar", "markdown_it"),
    *("pyarrow.dataset", "redis.asyncio", "rich.console", "scipy.optimize", "scipy.stats", "structlog", "yaml"),
    *("engine.analysis", "engine.catalog", "engine.erasure.listener", "engine.journal.log.collect", "engine.rehearse"),
)
"""What most verbs import, a second of CPU. Not `engine.cli`: its consoles read the environment of their process."""
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


def _run(words: tuple[str, ...], streams: list[Path], cwd: Path, env: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    for number, path in enumerate(streams, 1):
        stream = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(stream, number)
        os.close(stream)
    sys.argv = ["counterpoint", *words]
    from engine.cli import main  # noqa: PLC0415 (reads the environment)

    main()
