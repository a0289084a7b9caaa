"""Receivers get a message in their form; where they fail, in any way, it waits and nothing else stops."""

import email
import email.policy
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest

from engine.catalog.spec.notify import ReceiverSpec
from engine.supervise.receivers import Message, NotDelivered, send

MESSAGE = Message(id="m1", kind="ramp", subject="a", title="a: at 0.1", text="<b>held</b>\n| a | b |", at=1.0)


@pytest.fixture
def rude() -> Iterator[int]:
    """The port of a server that answers every connection with a line that is no HTTP and no SMTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"nonsense\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "where",
    [
        {"webhook": "http://127.0.0.1:{port}/"},
        {"webhook": "http://127.0.0.1:abc/"},
        {"webhook": "http://127.0.0.1:1/"},
        {"webhook": "http://\u00e4\u00f6.invalid/\u00fc"},
        {"email": ["a@example.org"], "smtp": "smtp://127.0.0.1:{port}"},
        {"email": ["a@example.org"], "smtp": "smtp://127.0.0.1:abc"},
    ],
)
def test_a_receiver_that_cannot_be_reached_is_not_delivered(where: dict[str, str | list[str]], rude: int) -> None:
    fields = {name: value.format(port=rude) if isinstance(value, str) else value for name, value in where.items()}
    with pytest.raises(NotDelivered):
        send(ReceiverSpec(key="one", **fields), MESSAGE)  # type: ignore[arg-type]


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[str]]]:
    """The port of a mail server, and the messages that it took."""
    taken: list[str] = []

    def talk(peer: socket.socket) -> None:
        with peer, peer.makefile("rw", newline="\r\n", encoding="utf-8") as line:

            def say(text: str) -> None:
                line.write(f"{text}\n")
                line.flush()

            say("220 ready")
            for words in line:
                command = words.strip().upper()
                if command == "DATA":
                    say("354 go on")
                    taken.append("".join(iter(line.readline, ".\r\n")))
                say("221 bye" if command == "QUIT" else "250 ok")

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                talk(peer)

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1], taken


def test_a_mail_has_a_text_and_a_page_without_markup_of_others(mailbox: tuple[int, list[str]]) -> None:
    port, taken = mailbox
    one = ReceiverSpec(key="team", email=["a@example.org", "b@example.org"], smtp=f"smtp://127.0.0.1:{port}")
    send(one, MESSAGE)
    mail = email.message_from_string(taken[0], policy=email.policy.default)
    assert (mail["Subject"], mail["To"]) == ("a: at 0.1", "a@example.org, b@example.org")
    page = mail.get_body(("html",)).get_content()
    assert "<p>&lt;b&gt;held&lt;/b&gt;</p>" in page
    assert "<td>a</td><td>b</td>" in page


@pytest.mark.parametrize(
    ("form", "body"),
    [("slack", {"text": "*a: at 0.1*\n&lt;b&gt;held&lt;/b&gt;\n| a | b |"}), ("teams", {"type": "message"})],
)
def test_a_webhook_gets_the_form_that_its_chat_reads(form: Literal["slack", "teams"], body: dict[str, str]) -> None:
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        send(ReceiverSpec(key="chat", webhook=f"http://127.0.0.1:{server.server_port}/", format=form), MESSAGE)
        server.shutdown()
    assert json.loads(got[0]).items() >= body.items()
