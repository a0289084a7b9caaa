"""The YAML of `notify.yaml`: who gets notices of what needs a person, and where."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.fields import Key, Spec, Text

NoticeKind = Literal["verdict", "srm", "guardrail", "no_exposures", "ramp", "stock", "budget", "breaker"]
"""The subject of a notice: a verdict to ship or stop; a split that is not the planned one; a guardrail that is harmed;
a running experiment that nobody saw for a day; a ramp that moved; a stock or a budget of which a tenth is left; a
policy whose breaker opened."""
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

Url = Annotated[
    str,
    Meta(
        pattern="^https?://[^\\s]+$",
        description="an http or https address",
        extra={"remedy": "write https://HOST/PATH"},
    ),
]
SmtpUrl = Annotated[
    str,
    Meta(
        pattern="^smtps?://[^\\s]+$",
        description="a mail server: smtp://HOST:587, or smtps://HOST for TLS from the start",
        extra={"remedy": "write smtp://HOST:587"},
    ),
]
Address = Annotated[
    str, Meta(pattern="^[^@\\s]+@[^@\\s]+$", description="an e-mail address", extra={"remedy": "write NAME@HOST"})
]
VariableName = Annotated[
    str,
    Meta(
        pattern="^(?!COUNTERPOINT_)[A-Z][A-Z0-9_]*$",
        description="the name of an environment variable that is not a setting",
        extra={"remedy": "name a variable, such as NOTIFY_SECRET; the secret itself is never in a file"},
    ),
]


class ReceiverSpec(Spec, frozen=True, kw_only=True):
    """One receiver: a `webhook`, or `email` addresses by the server `smtp`.

    A webhook gets JSON, or a message for Slack or Teams by `format`. With `secret`, a variable's name, the body is
    signed. `sender` is the sender of mails. The mail server's user and password are `NAME:PASSWORD` in the variable
    `login`. `on` are the kinds of notices, all by default; `digest` is the day on which a week's summary is sent.
    """

    key: Key
    webhook: Url | None = None
    format: Literal["json", "slack", "teams"] = "json"
    secret: VariableName | None = None
    email: list[Address] = []
    smtp: SmtpUrl | None = None
    sender: Address | None = None
    login: VariableName | None = None
    on: list[NoticeKind] | None = None
    digest: Weekday | None = None
    title: Text | None = None


class NotifyFile(Spec, frozen=True, kw_only=True):
    """`notify.yaml`: the receivers of notices. `counterpoint supervise` sends each at most once per subject and day."""

    receivers: list[ReceiverSpec] = []
