"""A TCP proxy that is the weather between an engine and its store: delay, lost replies, resets, a slow line."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Weather:
    """What happens to bytes now: `delay` of replies (s), whether replies are dropped, bytes per second at most."""

    delay: float = 0.0
    drops_replies: bool = False
    rate: float = 0.0


class TcpProxy:
    """Forwards connections to a store; `weather` may be changed at any time from any thread."""

    def __init__(self, target: str) -> None:
        address = urlsplit(target)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 6379
        self.weather = Weather()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_listening = threading.Event()

    @property
    def url(self) -> str:
        """The address of the store through the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def reset_all(self) -> None:
        """Cut every open connection."""

        def cut() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    def run(self) -> None:
        """Serve until `stop`; in a thread of its own."""
        self._loop.create_task(self._listen())
        self._loop.run_forever()

    def wait(self) -> None:
        """Wait until it listens."""
        self._is_listening.wait()

    def stop(self) -> None:
        """End `run`."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._copy(reader, back, is_reply=False), self._copy(there, writer, is_reply=True))
        finally:
            self._writers -= {writer, back}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(65_536):
                weather = self.weather
                if is_reply and weather.drops_replies:
                    continue
                if is_reply and weather.delay:
                    await asyncio.sleep(weather.delay)
                if weather.rate:
                    await asyncio.sleep(len(data) / weather.rate)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


@contextmanager
def running_proxy(target: str) -> Iterator[TcpProxy]:
    """A proxy to the store at `target` for the block."""
    proxy = TcpProxy(target)
    with serving(proxy):
        yield proxy


@contextmanager
def serving(proxy: TcpProxy) -> Iterator[None]:
    """Run a proxy for the block."""
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    proxy.wait()
    try:
        yield
    finally:
        proxy.stop()
        thread.join()
