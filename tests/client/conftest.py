"""The servers of `tests/service`, and a network in between that drops answers."""

import importlib.util
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_path = Path(__file__).resolve().parents[1] / "service" / "conftest.py"
_spec = importlib.util.spec_from_file_location("service_fixtures", _path)
assert _spec
assert _spec.loader
_service = importlib.util.module_from_spec(_spec)
sys.modules["service_fixtures"] = _service
_spec.loader.exec_module(_service)
serve, shop, server = _service.serve, _service.shop, _service.server


class Lossy:
    """A TCP proxy to `base`: of the first `lost` connections the answer is read and thrown away."""

    def __init__(self, base: str) -> None:
        self.lost = 0
        self.connections = 0
        host, port = base.removeprefix("http://").split(":")
        self._to = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            drop = self.connections <= self.lost
            threading.Thread(target=self._carry, args=(near, drop), daemon=True).start()

    def _carry(self, near: socket.socket, drop: bool) -> None:  # noqa: FBT001 (a thread's argument)
        with near, socket.create_connection(self._to) as far:
            back = threading.Thread(target=self._copy, args=(far, near, drop), daemon=True)
            back.start()
            self._copy(near, far, drop=False)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, drop: bool) -> None:  # noqa: FBT001 (a thread's argument)
        try:
            while data := source.recv(65536):
                if drop:
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@pytest.fixture
def network(server: object) -> Iterator[Lossy]:
    proxy = Lossy(server.base)  # type: ignore[attr-defined]
    yield proxy
    proxy.close()
