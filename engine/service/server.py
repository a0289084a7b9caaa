"""A decision server: one or many processes that accept connections from one listening socket."""

import asyncio
import os
import socket

import uvicorn
import uvloop

from engine.errors import BadInput
from engine.service.app import create_app
from engine.service.fast_path import fast_path_protocol
from engine.settings import Settings

BACKLOG = 2048
HOT_PATHS = ("/v1/decide", "/v1/exposures", "/v1/events")
"""Paths whose plain requests go from the socket straight to their handler (`fast_path`)."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that the processes of one server share.

    Raises:
        BadInput: if the address cannot be bound.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadInput(f"--port {port}: cannot listen on {host}:{port} ({error.strerror}); choose another") from error
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener


def serve_requests(settings: Settings, listener: socket.socket, *, logs_changes: bool = True) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are answered first.

    Args:
        settings: of the worker.
        listener: from `listen` or `adopt_listener`.
        logs_changes: whether this process logs changes of the plan; of several processes one should.
    """
    app = create_app(settings, logs_changes=logs_changes)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=fast_path_protocol(app, HOT_PATHS),
        proxy_headers=False,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        backlog=BACKLOG,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


def adopt_listener(fd: int) -> socket.socket:
    """The listening socket that the supervisor of this process opened and passed on as file descriptor `fd`."""
    listener = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    return listener
