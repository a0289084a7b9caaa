"""uvicorn's HTTP protocol with limits on sizes, times, pipelined requests and answers that no client reads.

httptools parses and uvicorn answers; this class decides how many bytes the parser gets, when a connection has had its
time, and how a request ends that is refused before any handler sees it.

| the connection | ends |
|---|---|
| over `ConnectionLimits.connections` | with 503 and Retry-After, once its request comes |
| silent: no byte of a first request in `first_byte_seconds` | closed without an answer |
| reading a head | with 408 after `gap_seconds` without a byte, or `head_seconds` in all; 414 or 431 past `head_bytes` |
| reading a body | with 408 by its handler (`http.read_body`); closed `linger_seconds` after an answer before its end |
| answering, with more requests sent ahead | reads no more while `requests_ahead` wait |
| writing to a client that does not read | reads no more, and is aborted after `write_seconds` |
| asked to upgrade, or sent what is not HTTP | after the answers that are due |

Invariants:

1. The parser gets at most one head at a time, and never more than `head_bytes` of one: memory and CPU stay bounded.
2. Answers leave in the order of the requests; a refusal waits for the answers before it.
3. While reading is held nothing times out: the delay is ours.
"""

import asyncio
import re
from collections.abc import Callable

import httptools
import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from engine.service.ids import new_request_id
from engine.service.problems import PROBLEM, Refusal

_CHUNKED_PIECE = 4096
"""Bytes of a chunked body that the parser gets at once: requests may follow it, and its end is not known before."""
_FRAMING_PER_BYTE = 8
"""Bytes of chunk sizes per byte of a body: a body of single bytes needs five, a flood of chunk extensions more."""
_MOST_DROPPED = 1_000_000
"""Bytes of a refused request that are read and dropped, so that its client gets to read the answer."""
_DIGITS = re.compile(rb"[0-9]{1,18}")
_OFFERS_HTTP2 = re.compile(rb"(?<=\r\n)upgrade(?=:[ \t]*h2c[ \t]*\r\n)", re.IGNORECASE)
"""The header by which a client offers HTTP/2 without TLS, as Java's does with each request. A server may ignore it (RFC
9110, 7.8), but the parser would take the body for bytes of the other protocol. A name of the same length hides it."""


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one connection, and of all connections of a process. Times are seconds."""

    connections: int = 10_000
    head_bytes: int = 16_384
    """The request line and the headers."""
    headers: int = 100
    requests_ahead: int = 8
    first_byte_seconds: float = 10.0
    gap_seconds: float = 5.0
    """Between two bytes of a head."""
    head_seconds: float = 10.0
    linger_seconds: float = 5.0
    """The seconds for the rest of a request that was answered before its end."""
    write_seconds: float = 30.0
    stop_seconds: float = 1.5
    """The seconds for an upload in progress when the server stops."""


class HeldFlow(FlowControl):
    """Flow control of a connection whose reading can be held; only `release` resumes it."""

    is_held = False

    def hold(self) -> None:
        """Stop reading until `release`."""
        self.is_held = True
        self.pause_reading()

    def release(self) -> None:
        """Resume reading."""
        self.is_held = False
        self.resume_reading()

    def pause_reading(self) -> None:
        """Stop reading; a closing transport does not read anyway."""
        if not self._transport.is_closing():
            super().pause_reading()

    def resume_reading(self) -> None:
        """Read again unless reading is held."""
        if not self.is_held and not self._transport.is_closing():
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """A connection within `limits`."""

    limits = ConnectionLimits()
    flow: HeldFlow

    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _in_body = False
    _head_began = 0.0
    _head_size = 0
    """Bytes that the parser got since the message before ended."""
    _body_left: int | None = 0
    """Bytes of the body that are still to come; None where only the parser knows (chunked)."""
    _framing_left = 0
    _active: RequestResponseCycle | None = None
    """The request that uvicorn answers now; `cycle` is the latest, which may wait in `pipeline`."""
    _ahead = b""
    """The bytes that the client sent while the queue was full."""
    _is_excess = False
    """Whether the process had too many connections when this one came."""
    _dropped = 0
    _is_deaf = False
    """Whether what else the client sends is dropped, since the connection is about to close."""
    _last_answer: bytes | None = None
    """A refusal that waits for the answers before it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first byte; mark the connection for refusal if there are too many."""
        super().connection_made(transport)
        self.flow = HeldFlow(transport)
        excess = len(self.connections) - self.limits.connections
        self._is_excess = excess > 0
        if excess > max(8, self.limits.connections // 16):  # refusals use up file descriptors too
            transport.abort()
        elif self._is_excess:
            self._set_timer(1.0, self._refuse_excess)
        else:
            self._set_timer(self.limits.first_byte_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and drop unparsed bytes."""
        self.unset_timer()
        self._stop_write_timer()
        self._unset_keepalive_if_required()
        self._is_deaf, self._ahead = True, b""
        self.pipeline.clear()
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True  # uvicorn marks the latest, which may be one that waited
            self._active.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in progress: no request, no part of a request, no unread answer."""
        is_answered = self.cycle is None or self.cycle.response_complete
        is_open = not (self._is_deaf or self._is_excess or self._ahead)
        return is_answered and is_open and not (self._in_head or self._in_body or self.flow.write_paused)

    @property
    def has_waiting(self) -> bool:
        """Whether something waits for the current answer: pipelined bytes, the rest of a body, or a refusal."""
        return bool(self._ahead or self._in_body or self._last_answer is not None)

    def data_received(self, data: bytes) -> None:
        """Parse the client's bytes, within the limits."""
        if self._is_deaf:
            self._dropped += len(data)
            if self._dropped > _MOST_DROPPED:
                self._close()
            return
        if self._ahead:  # what was read before reading was held
            self._ahead += data
        elif self._is_excess:
            self._refuse_excess()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        start = 0
        while start < len(data) and not self._is_deaf:
            if self._is_full:
                self._ahead = data[start:]
                self.flow.hold()
                return
            size = self._piece_size(data, start)
            self._parse_piece(data[start : start + size])
            start += size
        if self._in_head:
            spent = self.loop.time() - self._head_began
            self._set_timer(min(self.limits.gap_seconds, self.limits.head_seconds - spent), self._time_out)

    @property
    def _is_full(self) -> bool:
        """Whether the bytes waiting behind the current request have reached their limit."""
        waiting = len(self.pipeline)
        return waiting >= self.limits.requests_ahead or (waiting > 0 and len(self.cycle.body) > HIGH_WATER_LIMIT)

    def _piece_size(self, data: bytes, start: int) -> int:
        """The bytes from `start` that the parser may get: at most to the end of the current head or body."""
        if self._in_body:
            return _CHUNKED_PIECE if self._body_left is None else max(1, self._body_left)
        end = data.find(b"\r\n\r\n", start)
        size = len(data) - start if end < 0 else end + 4 - start
        return min(size, self.limits.head_bytes + 1 - self._head_size)

    def _parse_piece(self, piece: bytes) -> None:
        if self._in_body:
            self._framing_left -= len(piece)
        else:
            self._head_size += len(piece)
            piece = _OFFERS_HTTP2.sub(b"ignored", piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:  # no protocol is offered: answer, and read no further
            self._is_deaf = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(Refusal(400, "the request is not HTTP/1.1, or is ambiguous; send another"))
        else:
            self._check_sizes()

    def _check_sizes(self) -> None:
        limits = self.limits
        if not self._in_body and self._head_size > limits.head_bytes:
            if self._in_head and len(self.url) > limits.head_bytes // 2:
                self._refuse(Refusal(414, f"the address has more than {limits.head_bytes} bytes; shorten it"))
            else:
                self._refuse(Refusal(431, f"the headers have more than {limits.head_bytes} bytes; send fewer"))
        elif self._in_head and len(self.headers) > limits.headers:
            self._refuse(Refusal(431, f"there are more than {limits.headers} headers; send fewer"))
        elif self._in_body and self._body_left is None and self._framing_left < 0:
            self._refuse(Refusal(400, "the chunks have more framing than content; send larger chunks", "body"))

    def on_message_begin(self) -> None:
        """Start the timer of a request's head."""
        self._in_head, self._head_began = True, self.loop.time()
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, without trailing spaces. Trailers are dropped, since the request was checked before them."""
        if self._in_head:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Note the length of the body once the head is complete, and start or queue the request."""
        if len(self.headers) > self.limits.headers:
            return  # still `_in_head`, so `_check_sizes` refuses it
        super().on_headers_complete()  # raises for an address that is none, while this is still a head
        self._in_head, self._in_body = False, True
        self.unset_timer()
        framing = {name: value for name, value in self.headers if name in (b"content-length", b"transfer-encoding")}
        self._framing_left = self.limits.head_bytes * 4
        self._body_left = None
        if b"transfer-encoding" not in framing:
            length = framing.get(b"content-length", b"0").lstrip(b"0") or b"0"
            self._body_left = int(length) if _DIGITS.fullmatch(length) else None

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on; each chunk raises the allowance of framing bytes."""
        if self._in_head:
            return
        self._framing_left += len(body) * (_FRAMING_PER_BYTE + 1)
        if self._body_left is not None:
            self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Hand the complete request on."""
        if self._in_head:
            return
        self._in_body, self._head_size = False, 0
        self.unset_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with what waited for this answer: the next request, a refusal, or pipelined bytes."""
        is_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_unless_read()
        elif self._last_answer is not None and is_last:
            self._write_last(self._last_answer)
        elif self._in_body and self.cycle.response_complete:
            self._set_timer(self.limits.linger_seconds, self._close)
        if self._ahead and not self._is_deaf and not self._is_full:
            data, self._ahead = self._ahead, b""
            if not self.flow.write_paused:
                self.flow.release()
            self._parse(data)

    def pause_writing(self) -> None:
        """Take no more requests while the client does not read; abort the connection if that lasts."""
        super().pause_writing()
        self.flow.hold()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Take requests again once the client reads."""
        super().resume_writing()
        self._stop_write_timer()
        if not self._ahead:
            self.flow.release()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without a recent request; abort it if the client has not read its last answer."""
        super().timeout_keep_alive_handler()
        self._abort_unless_read()

    def shutdown(self) -> None:
        """Close after the current request; one that is incomplete after `stop_seconds` gets no answer."""
        super().shutdown()
        if self._is_deaf and self._last_answer is None:
            self._close()
        if self._in_body and not self.transport.is_closing():
            self._set_timer(self.limits.stop_seconds, self._close)

    def _refuse(self, refusal: Refusal) -> None:
        """End the connection with an answer to the request that is being parsed, after those to the requests before."""
        self._is_deaf = True
        self.unset_timer()
        request_id = new_request_id()
        body = refusal.body(request_id.decode())
        headers = [
            (b"content-type", PROBLEM),
            *refusal.headers,
            (b"x-request-id", request_id),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        answer = b"".join((STATUS_LINE[refusal.status], *lines, b"\r\n", body))
        if self._in_body and self.pipeline:
            self.pipeline.popleft()  # the request whose body is refused: it has not started
        elif self._in_body:
            self._end_upload(answer)
            return
        if self.cycle is None or self.cycle.response_complete:
            self._write_last(answer)
        else:
            self._last_answer = answer

    def _refuse_excess(self) -> None:
        detail = "the server has as many connections as it can hold; retry"
        self._refuse(Refusal(503, detail, "", ((b"retry-after", b"1"),)))

    def _end_upload(self, answer: bytes) -> None:
        """Refuse the rest of the request that a handler is answering."""
        if self.cycle.response_started or self.cycle.response_complete:
            self._close()
        else:
            self.cycle.disconnected = True  # the handler waits for the body and then answers nobody
            self.cycle.message_event.set()
            self._write_last(answer)

    def _write_last(self, answer: bytes) -> None:
        """Write a refusal, and close once the client has read it: closing at once would reset its upload."""
        if self.transport.is_closing():
            return
        self._is_deaf = True
        self.transport.write(answer)
        if self._is_excess:
            self._close()
            return
        self.transport.write_eof()
        self.flow.release()
        self._set_timer(self.limits.linger_seconds, self._close)

    def _time_out(self) -> None:
        if self.flow.is_held:
            self._set_timer(self.limits.gap_seconds, self._time_out)
        else:
            self._refuse(Refusal(408, "the headers did not arrive in time; send them at once"))

    def _close(self) -> None:
        self._is_deaf = True
        self.transport.close()
        self._abort_unless_read()

    def _abort_unless_read(self) -> None:
        """Abort after a delay if the client does not read its last answer, since closing alone would wait for ever."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._stop_write_timer()
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def _set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self.unset_timer()
        self._timer = self.loop.call_later(max(0.0, seconds), then)

    def unset_timer(self) -> None:
        """Stop the timer of the phase that the client has completed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
