"""Sends notices: to a webhook (JSON, Slack or Teams), signed with a secret, or by e-mail.

A delivery carries the notice's id as `Idempotency-Key`, so a receiver that was reached but did not answer in time can
drop the repetition. The signature is `sha256=` and the hex HMAC-SHA256 of `TIMESTAMP.BODY`.
"""

import hashlib
import hmac
import html
import os
import re
import smtplib
import ssl
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from http.client import HTTPException
from urllib.parse import urlsplit

import msgspec

from engine.catalog.spec.notify import ReceiverSpec
from engine.errors import BadInput, CounterpointError

SECONDS = 5.0
"""The wait for one receiver."""
_encode = msgspec.json.Encoder().encode


class NotDelivered(CounterpointError):
    """The error that a receiver did not accept a message; it is sent again later."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message: an id that is the same for a repetition, a kind (or `digest`), a title, and a text in Markdown."""

    id: str
    kind: str
    subject: str
    title: str
    text: str
    at: float


def send(receiver: ReceiverSpec, message: Message) -> None:
    """Send a message to all addresses of a receiver.

    Raises:
        NotDelivered: if one of them did not take it.
        BadInput: if the receiver's variable is not set.
    """
    try:
        if receiver.webhook is not None:
            _post(receiver.webhook, _body(receiver, message), _headers(receiver, message))
        if receiver.email:
            _mail(receiver, message)
    except (OSError, smtplib.SMTPException, HTTPException, ValueError) as error:
        # An address that cannot be asked, a server that breaks its protocol, a status from 300.
        raise NotDelivered(f"{receiver.key}: {type(error).__name__}: {error}") from error


def _body(receiver: ReceiverSpec, message: Message) -> bytes:
    """The request's body in the receiver's format."""
    if receiver.format == "slack":
        return _encode({"text": f"*{_slack(message.title)}*\n{_slack(message.text)}"})
    if receiver.format == "teams":
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [
                {"type": "TextBlock", "text": message.title, "weight": "Bolder", "wrap": True},
                {"type": "TextBlock", "text": message.text, "wrap": True},
            ],
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
        return _encode({"type": "message", "attachments": [attachment]})
    return _encode(message)


def _slack(text: str) -> str:
    """Text escaped so that Slack finds no mention or link in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _headers(receiver: ReceiverSpec, message: Message) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Idempotency-Key": message.id, "User-Agent": "counterpoint"}
    if receiver.secret is not None:
        stamp = f"{message.at:.0f}"
        signed = stamp.encode() + b"." + _body(receiver, message)
        digest = hmac.new(_variable(receiver, receiver.secret).encode(), signed, hashlib.sha256).hexdigest()
        headers |= {"X-Counterpoint-Timestamp": stamp, "X-Counterpoint-Signature": f"sha256={digest}"}
    return headers


def _variable(receiver: ReceiverSpec, name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise BadInput(f"notify.yaml {receiver.key}: the variable {name} is not set; set it where this process starts")
    return value


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirections: a signed body goes to the address in the file only."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    # The scheme is http or https: the field's pattern allows no other.
    request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")  # noqa: S310
    with _opener.open(request, timeout=SECONDS) as answer:
        answer.read(1000)


def _mail(receiver: ReceiverSpec, message: Message) -> None:
    """Send one mail, as text and as HTML, to all of the receiver's addresses."""
    server = urlsplit(receiver.smtp or "smtp://localhost")
    host = server.hostname or "localhost"
    mail = EmailMessage()
    mail["Subject"] = re.sub(r"\s+", " ", message.title)
    mail["From"] = receiver.sender or f"counterpoint@{host}"
    mail["To"] = ", ".join(receiver.email)
    mail["Message-ID"] = f"<{message.id}.{receiver.key}@counterpoint>"
    mail.set_content(message.text)
    mail.add_alternative(page_of(message), subtype="html")
    if server.scheme == "smtps":
        client: smtplib.SMTP = smtplib.SMTP_SSL(
            host, server.port or 465, timeout=SECONDS, context=ssl.create_default_context()
        )
    else:
        client = smtplib.SMTP(host, server.port or 25, timeout=SECONDS)
    with client:
        if server.scheme == "smtp" and client.has_extn("starttls"):
            client.starttls(context=ssl.create_default_context())
        if receiver.login is not None:
            name, _, password = _variable(receiver, receiver.login).partition(":")
            client.login(name, password)
        client.send_message(mail)


def page_of(message: Message) -> str:
    """The message as HTML: tables of its Markdown as tables, other lines as paragraphs."""
    rows: list[str] = []
    parts = [f"<h1>{html.escape(message.title)}</h1>"]
    for line in [*message.text.splitlines(), ""]:
        if line.startswith("|"):
            if not set(line) <= set("|-: "):
                cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
            continue
        if rows:
            parts.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
            rows = []
        if line.strip() and not line.startswith("#"):
            parts.append(f"<p>{html.escape(line)}</p>")
    return "\n".join(parts)
