"""The listening socket of a decision server, which its processes share."""

import os
import socket
import ssl
from pathlib import Path

from engine.errors import BadInput

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket that the processes of one server share.

    Raises:
        BadInput: if the address cannot be bound.
    """
    # asyncio turns Nagle's algorithm off, which delays answers by 40 ms, only where the protocol is named.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadInput(f"--port {port}: cannot listen on {host}:{port} ({error.strerror}); choose another") from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    listener.set_inheritable(True)
    return listener


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Check a server's certificate and key before it listens.

    Raises:
        BadInput: if one is given without the other, cannot be read, or is not of the other.
    """
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise BadInput("COUNTERPOINT_TLS_CERTIFICATE and COUNTERPOINT_TLS_KEY: set both, or neither")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except OSError as error:  # `ssl.SSLError` is one
        raise BadInput(
            f"COUNTERPOINT_TLS_CERTIFICATE {certificate}: {error.strerror or error}; name the chain and its key in PEM"
        ) from error


def adopt_listener(fd: int) -> socket.socket:
    """The listening socket that the supervisor opened and passed to this process as file descriptor `fd`."""
    listener = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    return listener


def duplicate_listener(listener: socket.socket, count: int) -> list[socket.socket]:
    """Duplicate a listening socket `count` times; no copy blocks in `accept`.

    `socket.dup` sets the mode of its original again, which all processes of the listener share: were that to wait, a
    worker that starts would let those that serve wait in `accept` for the next connection.
    """
    listener.setblocking(False)
    return [listener, *(listener.dup() for _ in range(count - 1))]
