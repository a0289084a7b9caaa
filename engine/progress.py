"""Progress of a long verb: a bar in a terminal, lines elsewhere; log lines are printed above the bar."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

PARTS = 10
"""The number of lines that a whole progress prints where there is no terminal."""
_STARTS = threading.RLock()
"""Held while a bar starts or a line is printed: a line that was laid out before the bar would be printed into it."""


class ConsoleFile:
    """A text file whose lines a console prints above its progress bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._rest = ""

    def write(self, text: str) -> int:
        """Print the lines that are complete now."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            with _STARTS:
                self._console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` leaves no complete line behind."""


@contextmanager
def track_progress(console: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` steps, as a bar or as lines; yields a function that advances it by n steps."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bar = Progress(*columns, console=console)
        task = bar.add_task(label, total=total)
        with _STARTS:
            bar.start()
        try:
            yield lambda steps: bar.advance(task, steps)
        finally:
            with _STARTS:
                bar.stop()
        return
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        before, done = done, done + steps
        if done * PARTS // total > before * PARTS // total:
            console.print(f"{label}: {done:,} of {total:,}", highlight=False, soft_wrap=True)

    yield advance


@contextmanager
def relay_lines(console: Console) -> Iterator[int | None]:
    """A file descriptor for child processes whose lines the console prints; None without a terminal."""
    if not console.is_terminal:
        yield None
        return
    reader, writer = os.pipe()
    lines = ConsoleFile(console)

    def relay() -> None:
        with os.fdopen(reader, encoding=console.encoding, errors="replace") as source:
            for line in source:
                lines.write(line)

    thread = threading.Thread(target=relay, name="relay-lines", daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join(1.0)  # a child that outlives us still has the pipe
