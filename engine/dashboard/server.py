"""The dashboard's process, whose event loop is separate from those that decide."""

import asyncio
import signal
import socket

import uvicorn

from engine.dashboard.app import create_dashboard
from engine.dashboard.priority import lower_priority_of_pages
from engine.settings import Settings

STOP_SECONDS = 1


def serve_dashboard(settings: Settings, listener: socket.socket) -> None:
    """Serve pages at low priority until SIGTERM or SIGINT; SIGTERM ends the process with 0.

    Args:
        settings: of the engine whose pages these are.
        listener: from `listen` or `adopt_listener`.
    """
    lower_priority_of_pages()
    signal.signal(signal.SIGTERM, _exit)  # uvicorn stops on it, and raises it again when it has stopped
    stopping = asyncio.Event()
    config = uvicorn.Config(
        create_dashboard(settings, stopping),
        http="httptools",
        ws="none",
        proxy_headers=False,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    with asyncio.Runner() as runner:
        runner.run(_PageServer(config, stopping).serve(sockets=[listener]))


class _PageServer(uvicorn.Server):
    """Ends open streams first, since a stop would wait for them and cancel them with a traceback."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)


def _exit(*_: object) -> None:
    raise SystemExit(0)
