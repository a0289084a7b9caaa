"""Mixed load with a random fault every minute, and a ledger of every answer that is compared with the log.

    python -m tests.faults.soak.soak [--minutes 30] [--every 60] [--seed N] [--callers 8]

Two decision servers behind one address, a learner and a collector reach their store through a proxy. Callers decide,
report purchases, one in three for a new customer, and send every event that was not answered again. At the end the rest
is collected. Exits with 1 if a decision or an event is lost, doubled or invented, if a decision was answered with 5xx,
or if the memory of a process grew by more than a tenth in the second half.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import redis

from engine import embedded
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.service.access.listener import listen
from engine.settings import Settings
from tests.faults.soak.ledger import Ledger, describe_latencies
from tests.faults.soak.proxy import TcpProxy, Weather, running_proxy

SHOP = Path(__file__).parents[3] / "experiments"
GROWTH, SLACK_MB = 1.1, 16.0
"""Most that the memory of a process may be in the second half: of that in the first, or more than that by."""


class Engine:
    """The processes of one installation, each of which may be killed and started again."""

    def __init__(self, place: Path, proxy: TcpProxy, store: embedded.Embedded, fd: int) -> None:
        self.data, self.yaml, self.proxy, self.store = place / "data", place / "experiments", proxy, store
        shutil.copytree(SHOP, self.yaml)
        self._fd = fd
        self._log = (place / "engine.log").open("ab")
        self.hands = ThreadPoolExecutor(1)
        """Makes the faults. Its one thread lives as long as the store, which ends with the thread that started it."""
        self.roles: dict[str, subprocess.Popen[bytes]] = {}
        for role in ("server 1", "server 2", "learner", "collector"):
            self.start(role)

    def start(self, role: str) -> None:
        """Start the process of a role."""
        words = {"s": ["serve", "--fd", str(self._fd)], "l": ["learn"], "c": ["collect"]}[role[0]]
        environment = os.environ | {
            "COUNTERPOINT_DATA": str(self.data),
            "COUNTERPOINT_REDIS": self.proxy.url,
            "COUNTERPOINT_EXPERIMENTS": str(self.yaml),
        }
        command = [sys.executable, "-m", "engine", *words]
        self.roles[role] = subprocess.Popen(command, env=environment, pass_fds=(self._fd,), stderr=self._log)

    def end(self, role: str, number: signal.Signals) -> None:
        """Send a signal to a role, wait for its end and start it again."""
        self.roles[role].send_signal(number)
        self.roles[role].wait()
        self.start(role)

    def restart_store(self) -> None:
        """Kill the store and start it again on its file."""
        self.store.process.kill()
        self.store.process.wait()
        self.store = embedded.start(self.data.parent / "store", port=self.store.port)

    def memory(self) -> dict[str, float]:
        """Resident megabytes by role."""
        found = {}
        for role, process in self.roles.items():
            with suppress(OSError):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                found[role] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return found

    def stop(self) -> None:
        """End all roles in order."""
        for process in self.roles.values():
            process.terminate()
        for process in self.roles.values():
            process.wait(60)
        self._log.close()


def faults(engine: Engine, chance: random.Random) -> dict[str, Callable[[], float]]:
    """The faults by name; each returns for how many seconds it lasts, after which `calm` ends it."""

    def weather(now: Weather) -> float:
        engine.proxy.weather = now
        return chance.uniform(1.0, 4.0)

    def hang() -> float:
        engine.store.process.send_signal(signal.SIGSTOP)
        return chance.uniform(1.0, 4.0)

    def configure(*words: str) -> float:
        with redis.Redis.from_url(engine.store.url) as client:
            client.execute_command(*words)
        return chance.uniform(1.0, 4.0)

    def reset() -> float:
        engine.proxy.reset_all()
        return 0.5

    def half_written() -> float:
        path = engine.yaml / "checkout_layout.yaml"
        path.write_bytes((SHOP / path.name).read_bytes()[: chance.randrange(20, 200)])
        return 3.0

    def after(action: Callable[[], None]) -> Callable[[], float]:
        def fault() -> float:
            action()
            return 1.0

        return fault

    one = chance.choice(["server 1", "server 2"])
    return {
        f"{one} killed": after(lambda: engine.end(one, signal.SIGKILL)),
        f"{one} ended with SIGTERM": after(lambda: engine.end(one, signal.SIGTERM)),
        "learner killed": after(lambda: engine.end("learner", signal.SIGKILL)),
        "collector killed": after(lambda: engine.end("collector", signal.SIGKILL)),
        "store killed": after(engine.restart_store),
        "store stopped": hang,
        "store out of memory": lambda: configure("CONFIG", "SET", "maxmemory", "1"),
        "store read-only": lambda: configure("REPLICAOF", "127.0.0.1", "1"),
        "replies 200 ms late": lambda: weather(Weather(delay=0.2)),
        "replies dropped": lambda: weather(Weather(drops_replies=True)),
        "a line of 100 kB/s": lambda: weather(Weather(rate=100_000)),
        "connections reset": reset,
        "half of a YAML file": half_written,
    }


def calm(engine: Engine) -> None:
    """End whatever fault is on."""
    engine.proxy.weather = Weather()
    engine.store.process.send_signal(signal.SIGCONT)
    with redis.Redis.from_url(engine.store.url, socket_timeout=10) as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("maxmemory", "0")
    shutil.copy(SHOP / "checkout_layout.yaml", engine.yaml / "checkout_layout.yaml")


class Callers:
    """Customers who decide, look and buy until `stopped`; `is_stormy` while a fault is on."""

    def __init__(self, base: str, ledger: Ledger, seed: int) -> None:
        self._base, self._ledger, self._chance = base, ledger, random.Random(seed)
        self.is_stormy = False
        self.stopped = False
        self._numbers = iter(range(10**9))

    async def run(self, callers: int) -> None:
        """Run so many at once."""
        await asyncio.gather(*(self._call() for _ in range(callers)))

    async def _call(self) -> None:
        async with httpx.AsyncClient(base_url=self._base, timeout=30) as client:
            while not self.stopped:
                number = next(self._numbers)
                user = f"u-{number}" if self._chance.random() < 1 / 3 else f"u-{self._chance.randrange(500)}"
                decision = await self._decide(client, user)
                if decision and self._chance.random() < 0.3:
                    await self._report(client, user, decision, f"soak-{number}")
                await asyncio.sleep(0.005)

    async def _decide(self, client: httpx.AsyncClient, user: str) -> str | None:
        body = {
            "customer": {"user_id": user},
            "channel": "web",
            "placements": ["home_hero"],
            "experiments": ["checkout_layout"],
        }
        began, is_stormy = time.perf_counter(), self.is_stormy
        try:
            answer = await client.post("/v1/decide", json=body)
        except httpx.TransportError:
            self._ledger.unanswered += 1
            return None
        (self._ledger.stormy if is_stormy or self.is_stormy else self._ledger.calm).append(time.perf_counter() - began)
        self._ledger.statuses[answer.status_code] += 1
        if answer.status_code != 200:
            return None
        decided = answer.json()
        self._ledger.decisions.append(decided["decision_id"])
        self._ledger.degraded += decided["degraded"]
        return str(decided["decision_id"])

    async def _report(self, client: httpx.AsyncClient, user: str, decision: str, message: str) -> None:
        """Send a purchase until it is accepted, at times once more."""
        item = {"type": "track", "message_id": message, "user_id": user, "event": "purchase", "decision_id": decision}
        item |= {"channel": "web", "properties": {"revenue": 10, "order_id": message}}
        self._ledger.sent.add(message)
        for _ in range(60):
            with suppress(httpx.TransportError):
                answer = await client.post("/v1/events", json={"batch": [item]})
                status = answer.json()["statuses"][0]["status"] if answer.status_code == 200 else ""
                if status in ("accepted", "duplicate"):
                    self._ledger.accepted.add(message)
                    if self._chance.random() < 0.9:
                        return
            if self.stopped:
                return
            await asyncio.sleep(0.5)


@contextmanager
def installation() -> Iterator[tuple[Engine, str]]:
    """A running engine and its address."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = embedded.start(place / "store")
        proxy = stack.enter_context(running_proxy(store.url))
        listener = stack.enter_context(listen("127.0.0.1", 0))
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        engine = Engine(place, proxy, store, listener.fileno())
        try:
            for _ in range(600):
                with suppress(httpx.TransportError):
                    if httpx.get(f"{base}/readyz", timeout=10).status_code == 200:
                        break
                time.sleep(0.1)
            yield engine, base
        finally:
            engine.stop()
            engine.store.stop()


async def storm(engine: Engine, callers: Callers, *, minutes: float, every: float, seed: int) -> list[dict[str, float]]:
    """Make a fault every so many seconds; returns the memory by role at each."""
    chance, memory = random.Random(seed), list[dict[str, float]]()
    ends = time.monotonic() + minutes * 60
    while time.monotonic() < ends:
        await asyncio.sleep(every * chance.uniform(0.5, 1.0))
        memory.append(engine.memory())
        made = faults(engine, chance)
        name = chance.choice(sorted(made))
        callers.is_stormy = True
        loop = asyncio.get_running_loop()
        await asyncio.sleep(await loop.run_in_executor(engine.hands, made[name]))
        await loop.run_in_executor(engine.hands, calm, engine)
        await asyncio.sleep(1.0)  # whatever waited for the end of the fault is of the fault
        callers.is_stormy = False
        sys.stderr.write(f"{minutes * 60 - (ends - time.monotonic()):6.0f} s  {name}\n")
    callers.stopped = True
    return memory


def report(ledger: Ledger, memory: list[dict[str, float]], found: dict[str, int], seed: int) -> bool:
    """Print the figures; whether all promises held."""
    lines = [
        f"seed {seed}, {len(memory)} faults, {ledger.unanswered:,} broken connections",
        f"{len(ledger.decisions):,} decisions ({ledger.degraded:,} degraded), {len(ledger.accepted):,} events",
        *(f"{name}: {count}" for name, count in found.items()),
        f"decide while calm: {describe_latencies(ledger.calm)}",
        f"decide during faults: {describe_latencies(ledger.stormy)}",
    ]
    is_flat = True
    half = len(memory) // 2
    for role in memory[-1]:  # the most of each half, since a process that was just started has less
        first, second = (max(one.get(role, 0.0) for one in part) for part in (memory[:half], memory[half:]))
        lines.append(f"memory of the {role}: at most {first:.0f} MB, in the second half {second:.0f} MB")
        is_flat &= second < GROWTH * first or second - first < SLACK_MB
    sys.stdout.write("\n".join(lines) + "\n")
    return is_flat and not any(found.values())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--every", type=float, default=60.0, help="most seconds between two faults")
    arguments.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments.add_argument("--callers", type=int, default=8)
    given = arguments.parse_args()
    sys.stderr.write(f"seed {given.seed}\n")
    ledger = Ledger()
    with installation() as (engine, base):
        callers = Callers(base, ledger, given.seed)

        async def run() -> list[dict[str, float]]:
            calling = asyncio.create_task(callers.run(given.callers))
            memory = await storm(engine, callers, minutes=given.minutes, every=given.every, seed=given.seed)
            await calling
            return memory

        memory = asyncio.run(run())
        engine.stop()
        settings = Settings(data=engine.data, redis=engine.store.url)
        collect(settings, LogErasures(), drain=True)
        found = ledger.compare(settings.log)
    return 0 if report(ledger, memory, found, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
