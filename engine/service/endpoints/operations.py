"""The operations of the HTTP face, for its documentation; the examples are answered by the shipped shop."""

from engine.decision.decision import Answer
from engine.decision.explanation import Explanation
from engine.decision.staff_view import AgentView
from engine.service.decide_body import DecideBody, EvaluationRequest
from engine.service.document.schemas import (
    QueryParameter,
    context_rule,
    decide_rule,
    degrees,
    outbound_channel,
    place,
    target_rule,
    whole_number,
)
from engine.service.due.desk import DueAnswer
from engine.service.endpoints.admin import SwitchAnswer, SwitchRequest
from engine.service.endpoints.due import ConfirmAnswer, ConfirmRequest
from engine.service.endpoints.events import BatchStatuses
from engine.service.endpoints.exposures import ExposeRequest, ExposureAnswer
from engine.service.endpoints.flag_answers import Evaluation, Failure
from engine.service.endpoints.health import Index, Readiness
from engine.service.endpoints.operation import BulkEvaluation, EventBatch, Live, Operation
from engine.service.endpoints.profiles import CustomerExport, ErasureResult, OfferHistory
from engine.service.endpoints.stock import Stock, StockLevel, StockLevels, StockPlaces, StockStatuses

PROOF = {"X-Customer-Proof": "with a client key: HMAC-SHA256 in hex over a line name=value for each id of the customer"}
PREVIEW = {"X-Counterpoint-Preview": "the token of a preview, which forces what its bearer gets; 403 once it expired"}
NO_CUSTOMER = "no customer has this id, or it is a placeholder, such as 0 or null, that names nobody"
ANNA = {"user_id": "u-42", "anonymous_id": "a-9"}
CONTEXT = {"targetingKey": "u-42", "anonymousId": "a-9", "channel": "web", "country": "DE"}

OPERATIONS = (
    Operation(
        method="post",
        path="/v1/decide",
        summary="Decide what a customer gets",
        about="Offers for placements and variants of experiments, each with its reason. Not being assigned is an "
        "answer, never an error. The customer has at least one identifier, or the context a store. "
        "No offer stands in an answer twice: a placement whose fallback is shown in another "
        "stays empty, with the reason shown. With expose: false nothing counts as seen until /v1/exposures reports it.",
        role="client",
        request=DecideBody,
        rule=decide_rule,
        example={
            "customer": ANNA,
            "channel": "web",
            "placements": ["home_hero"],
            "experiments": ["checkout_layout"],
            "context": {"store": "S12", "intent": "cancel"},
            "expose": True,
        },
        headers=PROOF | PREVIEW,
        stateful_headers={
            "Idempotency-Key": "the same key with the same body has the same answer for a minute, logged once"
        },
        answer=Answer,
        failures={
            422: "the Idempotency-Key was used for another request",
            503: "the disk takes no records; nothing is answered until it does",
        },
    ),
    Operation(
        method="post",
        path="/v1/exposures",
        summary="Report that a prefetched decision was seen",
        about="All of the decision, or the placements and experiments that are named; within a day. Caps, stock and "
        "budgets of a prefetched offer are claimed now: where one is refused, show the fallback instead.",
        role="client",
        headers={"X-Customer-Proof": "with a client key: the proof that the decision was asked with"},
        request=ExposeRequest,
        answer=ExposureAnswer,
        status=202,
        failures={
            404: "no such decision waits to be seen, or it has none of the names",
            503: "the store is away; send it again",
        },
    ),
    Operation(
        method="post",
        path="/v1/events",
        summary="Send what customers did and who they are",
        about="A message id counts once, however often it is sent. An item that a client key may not send is rejected "
        "with the reason: of another customer, or of what the customer is worth.",
        role="client",
        request=EventBatch,
        items="batch",
        example={
            "batch": [
                {
                    "type": "track",
                    "message_id": "m-1",
                    "user_id": "u-42",
                    "event": "purchase",
                    "properties": {"revenue": 12.5},
                    "timestamp": "2026-11-22T09:30:00Z",
                    "channel": "store",
                }
            ]
        },
        headers=PROOF,
        answer=BatchStatuses,
        failures={503: "the store is away; send the same batch again"},
    ),
    Operation(
        method="post",
        path="/v1/explain",
        summary="Say what a customer would get and why",
        about="Every candidate with its propensity and what made it, and the gate that closed each other offer. "
        "Changes nothing, logs nothing, counts nothing.",
        role="server",
        request=DecideBody,
        rule=decide_rule,
        example={"customer": ANNA, "channel": "web", "placements": ["home_hero"]},
        headers=PREVIEW,
        answer=Explanation,
        failures={503: "the store is away; ask again"},
    ),
    Operation(
        method="post",
        path="/v1/agent",
        summary="The same for staff at a till or on the phone",
        about="The offer, why it, why not the others in plain words, and the customer's history. Nothing counts as "
        "seen: report what was offered to `/v1/exposures`, and what came of it as events, with the `decision_id`.",
        role="server",
        request=DecideBody,
        rule=decide_rule,
        example={"customer": ANNA, "channel": "store", "placements": ["till_prompt"]},
        answer=AgentView,
        failures={503: "the store is away; ask again"},
    ),
    Operation(
        method="post",
        path="/v1/stock/{sku}",
        summary="Set how many there are of a SKU",
        about="As counted on the shelves, including what is held for customers. A SKU that was never set has none.",
        role="server",
        request=StockLevel,
        example={"level": 12},
        answer=Stock,
        failures={503: "the store is away; nothing was changed"},
    ),
    Operation(
        method="get",
        path="/v1/stock/{sku}",
        summary="What is left of a SKU",
        about="Neither sold since the count nor held for a customer.",
        role="server",
        answer=Stock,
        failures={503: "the store is away; ask again"},
    ),
    Operation(
        method="post",
        path="/v1/stock",
        summary="Set many stocks",
        about="Up to 1,000 levels, each of a SKU, or of a SKU at a place of places.yaml; each gets its own status. "
        "Sending a batch again is harmless until something is sold in between.",
        role="server",
        request=StockLevels,
        items="levels",
        example={"levels": [{"sku": "COFFEE-12", "level": 40}]},
        answer=StockStatuses,
        failures={503: "the store is away; send the batch again"},
    ),
    Operation(
        method="get",
        path="/v1/stock/{sku}/places",
        summary="Where a SKU is",
        about="Every place with what is left there, the nearest to the query's position first.",
        role="server",
        query={
            "place": QueryParameter("a place of places.yaml, from which distances are measured", place),
            "latitude": QueryParameter(
                "degrees, with longitude: the position from which distances are measured", degrees(90)
            ),
            "longitude": QueryParameter("degrees", degrees(180)),
        },
        answer=StockPlaces,
        failures={400: "a parameter breaks its rule", 503: "the store is away; ask again"},
    ),
    Operation(
        method="post",
        path="/v1/stock/{sku}/places/{place}",
        summary="Set how many of a SKU a place has",
        about="As counted on its shelves, including what is held for customers there.",
        role="server",
        request=StockLevel,
        answer=Stock,
        failures={404: "no such place in places.yaml", 503: "the store is away; nothing was changed"},
    ),
    Operation(
        method="get",
        path="/v1/stock/{sku}/places/{place}",
        summary="What is left of a SKU at a place",
        role="server",
        answer=Stock,
        failures={404: "no such place in places.yaml", 503: "the store is away; ask again"},
    ),
    Operation(
        method="get",
        path="/v1/due",
        summary="Hand out the messages of a channel that are due",
        about="Those of campaigns and moments whose time is now, each decided and claimed, under a lease. Send them, "
        "then confirm; what is not confirmed by `lease_until` is handed out again, with the same `message_id`.",
        role="server",
        query={
            "channel": QueryParameter("a channel with `outbound: true`", outbound_channel, required=True),
            "limit": QueryParameter("how many at most: 100 unless given, up to 1000", whole_number(1, 1000)),
            "lease": QueryParameter("seconds of the lease: 900 unless given, up to 86400", whole_number(1, 86_400)),
        },
        answer=DueAnswer,
        failures={400: "a parameter breaks its rule", 503: "the store is away; ask again"},
    ),
    Operation(
        method="post",
        path="/v1/due/confirm",
        summary="Confirm that messages were sent, or release them",
        about="By decision id. `sent` is the exposure; `released` messages are due again at once; `dropped` ones are "
        "not sent. Reporting again changes nothing.",
        role="server",
        request=ConfirmRequest,
        example={"sent": ["01930f3a7c21p2b4c8d1e6f7a9b3c5d"]},
        answer=ConfirmAnswer,
        failures={503: "the store is away; send the same report again"},
    ),
    Operation(
        method="get",
        path="/v1/profiles/{id}",
        summary="The customer 360",
        about="Traits, affinities, orders, points, consents, satisfaction, the journey, what was counted. Any "
        "identifier of the customer will do.",
        role="server",
        failures={404: NO_CUSTOMER, 503: "the store is away; ask again"},
    ),
    Operation(
        method="delete",
        path="/v1/profiles/{id}",
        summary="Erase a customer",
        about="Profile, aliases, what was counted and the log; what comes late creates nothing.",
        role="server",
        answer=ErasureResult,
        failures={
            404: "the id is a placeholder, such as 0 or null, and names nobody",
            503: "the store is away; ask again",
        },
    ),
    Operation(
        method="get",
        path="/v1/profiles/{id}/export",
        summary="Export everything stored about a customer",
        role="server",
        answer=CustomerExport,
        failures={
            404: NO_CUSTOMER,
            501: "the server is installed without counterpoint[analysis], which reads the log",
            503: "the store is away; ask again",
        },
    ),
    Operation(
        method="get",
        path="/v1/profiles/{id}/offers",
        summary="What a customer was offered, for staff",
        about="Each offer with its channel, when it was offered and seen, what came of it (a refusal, a redemption), "
        "the `staff` and `store` of the request's context, and the `staff` of the event. The newest first; `since` is "
        "the oldest day that was read within a second, empty if the whole log was.",
        role="server",
        answer=OfferHistory,
        failures={
            404: NO_CUSTOMER,
            501: "the server is installed without counterpoint[analysis], which reads the log",
            503: "the store is away; ask again",
        },
    ),
    Operation(
        method="post",
        path="/ofrep/v1/evaluate/flags/{key}",
        summary="OpenFeature: evaluate one flag",
        about="Every experiment and flag is one. targetingKey is the user id; beside a userId in the context it is the "
        "visitor's id, so a login keeps their variants. Counts as seen. No value means: use the default in the code; "
        "why stands in metadata.reason.",
        role="client",
        request=EvaluationRequest,
        rule=target_rule,
        example={"context": CONTEXT},
        headers=PROOF | PREVIEW,
        answer=Evaluation,
        failures={404: "FLAG_NOT_FOUND"},
        failure=Failure,
    ),
    Operation(
        method="post",
        path="/ofrep/v1/evaluate/flags",
        summary="OpenFeature: evaluate all flags of a channel",
        about="A prefetch, never an exposure: post metadata.decisionId to /v1/exposures when a flag is used.",
        role="client",
        request=EvaluationRequest,
        rule=context_rule,
        example={"context": CONTEXT},
        headers=PROOF | PREVIEW | {"If-None-Match": "the ETag of the answer at hand: 304 if nothing changed"},
        answer=BulkEvaluation,
        failures={304: "nothing changed"},
        failure=Failure,
    ),
    Operation(
        method="get",
        path="/ofrep/v1/stream",
        summary="OpenFeature: be notified when flags may have changed",
        about="Server-sent events, which eventStreams of an evaluation of all flags names: evaluate again on each. A "
        "notice says nothing else, so it needs no key.",
        media="text/event-stream",
        failures={503: "too many pages listen; poll instead"},
    ),
    Operation(
        method="post",
        path="/v1/experiments/{key}/pause",
        summary="Kill switch: pause an experiment at every worker within a second",
        about="It stays paused, regardless of its file, until it is resumed. Who did it is in the log.",
        role="admin",
        request=SwitchRequest,
        example={"reason": "orders fell"},
        answer=SwitchAnswer,
        failures={404: "no such experiment", 503: "the store is away and nothing is paused"},
    ),
    Operation(
        method="post",
        path="/v1/experiments/{key}/resume",
        summary="Kill switch: resume it, by the status in its file",
        role="admin",
        request=SwitchRequest,
        example={"reason": "fixed"},
        answer=SwitchAnswer,
        failures={404: "no such experiment", 503: "the store is away and nothing is resumed"},
    ),
    Operation(
        method="get",
        path="/",
        summary="Where to go from here",
        about="A browser gets the dashboard, where one runs.",
        answer=Index,
        pages=True,
    ),
    Operation(method="get", path="/healthz", summary="The process is alive", answer=Live),
    Operation(
        method="get",
        path="/readyz",
        summary="This worker should get traffic",
        about="Its plan and the problems of a refused one, the store, the age of what it learnt, what waits in it.",
        answer=Readiness,
        failures={503: "not ready; the field why has the reasons"},
    ),
    Operation(
        method="get",
        path="/readyz/degraded",
        summary="This worker should get traffic, be it for fallbacks",
        about="As /readyz, but ready without the store too. For a balancer that would rather pass fallbacks on than "
        "answer nothing when the store is away from every worker at once.",
        answer=Readiness,
        failures={503: "not ready; the field why has the reasons"},
    ),
    Operation(
        method="get", path="/metrics", summary="Prometheus metrics of all workers", media="text/plain; version=0.0.4"
    ),
)
