"""A decision server: one of several processes that accept connections from one listening socket."""

import asyncio
import resource
import signal
import socket

import uvicorn
import uvloop
from litestar import Litestar

from engine.service.access.connection import ConnectionLimits
from engine.service.access.fast_path import fast_path_protocol
from engine.service.access.listener import BACKLOG, duplicate_listener
from engine.service.app import create_app, end_streams
from engine.settings import Settings
from policies.special import load_special

STOP_SECONDS = 3
"""Seconds that a stop waits for the requests in progress; draining the spool follows (`worker.DRAIN_SECONDS`)."""
_ACCEPTS = 32
"""Connections that one turn of the event loop may accept."""
_OWN_FILES = 128
"""File descriptors that a process needs besides its connections."""
HOT_PATHS = (
    "/v1/decide",
    "/v1/exposures",
    "/v1/events",
    "/ofrep/v1/evaluate/flags",
    "/ofrep/v1/evaluate/flags/{key:path}",
)
"""Paths whose plain requests go from the socket straight to their handler (`access.fast_path`)."""


def serve_requests(settings: Settings, listener: socket.socket, *, logs_changes: bool = True) -> None:
    """Serve until SIGTERM or SIGINT, after which requests in progress are answered. SIGTERM ends with status 0.

    Args:
        settings: of the worker.
        listener: from `listen` or `adopt_listener`.
        logs_changes: whether this process logs changes of the plan; of several processes one should.
    """
    load_special()
    signal.signal(signal.SIGTERM, _exit)  # uvicorn stops on it, and raises it again when it has stopped
    app = create_app(settings, logs_changes=logs_changes)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=fast_path_protocol(app, HOT_PATHS, ConnectionLimits(connections=most_connections())),
        ws="none",
        proxy_headers=False,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_SECONDS,
        backlog=BACKLOG,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # An event loop of uvloop 0.23 (libuv 1.52) accepts one connection per turn and listening socket. Under load a
        # turn takes milliseconds, so that a probe would wait seconds to be accepted; each duplicate accepts one more.
        runner.run(_StreamEndingServer(config, app).serve(sockets=duplicate_listener(listener, _ACCEPTS)))


class _StreamEndingServer(uvicorn.Server):
    """A server that ends its streams of notices when it stops, instead of waiting for their clients."""

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop as uvicorn does."""
        end_streams(self._app)
        await super().shutdown(sockets)


def most_connections() -> int:
    """The connection limit of this process: below its limit of open files, so that each can be answered."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ConnectionLimits().connections
    return most if files == resource.RLIM_INFINITY else min(most, max(files // 2, files - _OWN_FILES))


def _exit(*_: object) -> None:
    raise SystemExit(0)
