"""Story: the store counts a claim and its reply is lost: the message is sent all the same, its cap not used up."""

import asyncio
import contextlib
from datetime import timedelta
from hashlib import sha1
from pathlib import Path
from typing import Any

import httpx
import time_machine

import engine.claims
from engine.settings import Settings
from tests.faults.soak.proxy import TcpProxy, serving
from tests.stories.conftest import Shop, worker, write_shop
from tests.stories.test_due import MONDAY, WEEKLY, due, people

SCRIPT = sha1(Path(engine.claims.__path__[0], "claims.lua").read_bytes(), usedforsecurity=False).hexdigest().encode()
SHOP = {
    "offers": {"coffee": {"caps": [{"count": 1, "per": "1d"}]}},
    "placements": {"letter": {"offers": ["coffee"]}},
    "channels": {"email": {"outbound": True}},
    "campaigns": [WEEKLY | {"channels": WEEKLY["channels"][:1], "schedule": {"days": ["monday"], "at": ["00:00"]}}],
}


class LostReply(TcpProxy):
    """Cuts a connection in place of the reply to the next command that has `word` in it."""

    word = b""

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        replies = asyncio.create_task(self._copy(there, writer, is_reply=True))
        while data := await reader.read(65_536):
            is_lost = bool(self.word) and self.word in data
            if is_lost:
                self.word = b""
                replies.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await replies
            back.write(data)
            if is_lost:
                await there.read(65_536)  # it is carried out
                writer.transport.abort()
                break
        back.close()


def test_a_claim_whose_reply_is_lost_is_released_and_the_message_sent(single_url: str, tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "experiments", SHOP)
    proxy = LostReply(single_url)
    with serving(proxy):
        settings = Settings(redis=proxy.url, data=tmp_path / "data", experiments=folder, store_timeout=5.0)
        with worker(settings) as base, httpx.Client(base_url=base, timeout=120) as client:
            shop = Shop(settings, [base], [client])

            def ask() -> list[dict[str, Any]]:
                answer = client.get("/v1/due", params={"channel": "email", "limit": 1})
                assert answer.status_code == 200, answer.text
                return list(answer.json()["items"])

            with time_machine.travel(MONDAY, tick=True):
                people(shop)
                assert len(ask()) == 1
                proxy.word = SCRIPT
                assert ask() == []
                assert proxy.word == b""
                waiting = due(shop, "email")
            with time_machine.travel(MONDAY + timedelta(seconds=60), tick=True):
                (item,) = due(shop, "email")
                assert item["offer"] == "coffee"
                assert item["customer"] not in {one["customer"] for one in waiting}
