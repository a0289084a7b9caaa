"""OpenTelemetry traces of this process: off, and free, unless `start_tracing` is given a receiver.

Spans go by OTLP over HTTP to the receiver, from a thread of their own, so no answer waits for it. A receiver that is
away loses spans and nothing else. Sampling, headers and limits are OpenTelemetry's own variables (`OTEL_*`).

| span | is | children |
|---|---|---|
| `POST /v1/decide` and other routes | one request, in the trace of its W3C `traceparent` | of a decision: its stages |
| `queue`, `store.read`, `decide`, `store.write`, `spool.append` | the stages of one decision, one after another | |
| `spool.ship` | records that one step of the shipper copies into the streams | |
| `collect.commit` | a commit of the collector | |
| `learn.batch` | a step of the learner that had something to do | |

Attributes are names of the code and the plan, counts, and decision ids: never an id, a trait or a text of a customer.

Like log lines, traces are of the process, not of one of its parts; so the tracer is a variable of this module.
"""

import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from engine.errors import require_extras

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

Attribute = str | int | float | bool
RequestStage = Literal["queue", "store.read", "decide", "store.write", "spool.append"]
PATH = "/v1/traces"
EXPORT_SECONDS = 2.0
"""Seconds that one export may take, and so at most what a process that stops waits for a receiver that hangs."""

_tracer: "Tracer | None" = None
current_trace: ContextVar["RequestTrace | None"] = ContextVar("current_trace", default=None)
"""The trace of the request that this task answers."""


def start_tracing(receiver: str | None, role: str) -> None:
    """Send the spans of this process to a receiver of OTLP over HTTP, `http://127.0.0.1:4318` say; None sends none.

    Args:
        receiver: its address, with or without `/v1/traces`. A process that ends sends what waits.
        role: the verb, which becomes the service's name `counterpoint-ROLE`.

    Raises:
        MissingExtra: if OpenTelemetry's SDK is not installed.
    """
    global _tracer  # noqa: PLW0603 (one tracer per process, as this module's docstring says)
    if receiver is None:
        return
    require_extras(f"COUNTERPOINT_TRACES {receiver}", "traces")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    address = receiver.rstrip("/")
    address = address if address.endswith(PATH) else address + PATH
    provider = TracerProvider(resource=Resource.create({"service.name": f"counterpoint-{role}"}))
    exporter = OTLPSpanExporter(endpoint=address, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("counterpoint")


class RequestTrace:
    """The span of one request and of its current stage.

    Stages follow one another without gaps: to enter one ends the one before.
    """

    __slots__ = ("_context", "_span", "_stage", "_tracer")

    def __init__(self, tracer: "Tracer", span: "Span", context: "Context") -> None:
        self._tracer = tracer
        self._span = span
        self._context = context
        self._stage: Span | None = None

    def enter(self, stage: RequestStage) -> None:
        """Begin a stage."""
        now = time.time_ns()
        if self._stage is not None:
            self._stage.end(now)
        self._stage = self._tracer.start_span(stage, self._context, start_time=now)

    def add(self, **attributes: Attribute) -> None:
        """Add attributes to the span of the request."""
        for name, value in attributes.items():
            self._span.set_attribute(f"counterpoint.{name}", value)

    def end(self, status: int) -> None:
        """End the stage and the request, which was answered with this HTTP status."""
        now = time.time_ns()
        if self._stage is not None:
            self._stage.end(now)
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415

            self._span.set_status(StatusCode.ERROR)
        self._span.end(now)


def is_tracing() -> bool:
    """Whether this process sends traces."""
    return _tracer is not None


def trace_request(
    method: str, route: str, headers: Iterable[tuple[bytes, bytes]], stage: RequestStage | None = None
) -> RequestTrace | None:
    """Begin the span of a request, in the trace of its `traceparent`; None while it is not sampled, or tracing is off.

    Args:
        method: of HTTP.
        route: the pattern of its path, without the values of parameters: those may be a customer's ids.
        headers: of the request, names in lower case.
        stage: the first, which begins with the request.
    """
    tracer = _tracer
    if tracer is None:
        return None
    from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    parent = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name in (b"traceparent", b"tracestate")
    }
    known: dict[str, Attribute] = {"http.request.method": method, "http.route": route}
    context = TraceContextTextMapPropagator().extract(parent) if parent else None
    span = tracer.start_span(f"{method} {route}", context, SpanKind.SERVER, known)
    if not span.is_recording():
        return None
    trace = RequestTrace(tracer, span, set_span_in_context(span))
    if stage is not None:
        trace.enter(stage)
    return trace


def record_batch(name: str, began: float, **counts: int) -> None:
    """A span from `began` (s since 1970) until now, for work of which only its end shows that there was any."""
    if _tracer is None:
        return
    span = _tracer.start_span(name, start_time=int(began * 1e9))
    for count, number in counts.items():
        span.set_attribute(f"counterpoint.{count}", number)
    span.end()


def end_trace(trace: RequestTrace | None, status: int) -> None:
    """End a request's trace, if it has one."""
    if trace is not None:
        trace.end(status)
