"""Requests of long comparisons: httpx takes longer to send one than a server takes to answer it."""

import json
from http.client import HTTPConnection
from types import TracebackType
from typing import Any, Self

HEADERS = {"content-type": "application/json"}


class Connection:
    """A connection to one server that stays open."""

    def __init__(self, base: str) -> None:
        self._http = HTTPConnection(base.removeprefix("http://"), timeout=240)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def post(self, path: str, body: object) -> Any:
        """The answer to a body, which must be accepted."""
        status, answer = self.ask(path, body)
        assert status == 200, (path, body, answer)
        return answer

    def ask(self, path: str, body: object) -> tuple[int, Any]:
        """The status and the answer to a body."""
        return self._send("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> Any:
        """The answer at a path, which must be there."""
        status, answer = self._send("GET", path, None)
        assert status == 200, (path, answer)
        return answer

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        self._http.request(method, path, body, HEADERS if body is not None else {})
        answer = self._http.getresponse()
        return answer.status, json.loads(answer.read())
