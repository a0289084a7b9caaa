"""Lowers the priority of the dashboard's processes, so that decisions do not wait for pages or reports.

| process | priority | so that |
|---|---|---|
| pages | niceness `PAGES_NICE` | a decision server gets three times as much of a core that both want |
| reports | niceness `REPORTS_NICE`, and batch (Linux) | it gets nine times as much, and no report interrupts it |

Reports are not idle (`SCHED_IDLE`): on a machine without a free core none would end, and erasure and compaction wait
for the log's lock of a report that reads.

Linux may group processes by session (autogroup), and then compares niceness within a session only. `up` starts each
role in a session of its own, so the session of the pages gets their niceness too; the reports share it.
A container that has a CPU group of its own has the share of that group, whatever is set here.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

PAGES_NICE, REPORTS_NICE = 5, 10
_AUTOGROUP, _THREADS = Path("/proc/self/autogroup"), Path("/proc/self/task")
_TRIES, _PAUSE = 5, 0.11
"""The kernel takes one autogroup's niceness per 0.1 s from unprivileged processes and refuses the others."""


def lower_priority_of_pages() -> None:
    """Make this process yield to decision servers; what it starts inherits its priority."""
    _raise_niceness(PAGES_NICE)
    if os.getsid(0) != os.getpid():
        return  # a session of others, such as a terminal's, which may run decision servers too
    for _ in range(_TRIES):
        try:
            _AUTOGROUP.write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError:
            return  # no such groups, or none that this process may change
        else:
            return


def lower_priority_of_reports() -> None:
    """Make this process yield to pages and decision servers; what it starts inherits its priority."""
    _raise_niceness(REPORTS_NICE)
    if hasattr(os, "SCHED_BATCH"):
        for thread in _threads():
            with suppress(OSError):  # a sandbox may forbid it; the niceness holds
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def _raise_niceness(least: int) -> None:
    """Raise the niceness to `least`, unless it is already higher."""
    for thread in _threads():
        with suppress(ProcessLookupError):  # the thread has ended
            os.setpriority(os.PRIO_PROCESS, thread, max(least, os.getpriority(os.PRIO_PROCESS, thread)))


def _threads() -> list[int]:
    """The threads of this process, for Linux sets each one's priority apart, and libraries start some when imported."""
    try:
        return [int(path.name) for path in _THREADS.iterdir()]
    except OSError:
        return [0]  # elsewhere 0 is the process with all its threads
