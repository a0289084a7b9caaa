"""The same promises in a cluster, where a command over two customers' keys is refused."""

import asyncio
import time

from msgspec.structs import replace

from engine.claims.claims import CapCheck, Claim, Claims, Denial, stock_share
from engine.claims.pending_exposures import PendingDecision, fetch_pending, store_pending
from engine.customer import CustomerIds
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore
from engine.erasure.profiles import SECOND_SWEEP_SECONDS, erase_profile, finish_erasures

NOW = 1_790_000_000.0


async def silent(accepted: list[Accepted]) -> None: ...


def test_customers_merge_and_claims_hold_across_slots(cluster_url: str) -> None:
    async def run() -> None:
        store = ProfileStore.open(cluster_url, timeout=10)
        claims = Claims(store.pipeline)
        await claims.set_stock("SKU", 5, NOW)
        await claims.set_stock("SKU", 4, NOW, "hamburg")
        for n in range(30):
            visitor, user = {"anonymous_id": f"a-{n}"}, {"user_id": f"u-{n}"}
            buy = Event("track", f"m{n}", event="purchase", properties={"revenue": 2.0}, timestamp=NOW, **visitor)
            await store.ingest([buy], NOW, silent)
            found = await store.fetch(CustomerIds(**visitor), NOW)
            await store.bind_customer(found, NOW, silent)
            await claims.count(found.key, Claim(id=f"c{n}", counters=["exposure|*"]), NOW)
            await store.bind_customer(await store.fetch(CustomerIds(**visitor, **user), NOW), NOW, silent)
            app = await store.fetch(CustomerIds(**user), NOW, counts=True)
            assert (app.profile.revenue, app.profile.unit, app.counts) == (2.0, f"a-{n}", {"exposure|*": [NOW]})
        many = await asyncio.gather(*(store.fetch(CustomerIds(anonymous_id=f"a-{n}"), NOW) for n in range(30)))
        assert [found.profile.id for found in many] == [f"u-{n}" for n in range(30)]
        units = [
            claims.claim(
                found.key,
                [
                    Claim(
                        id=f"d{n}",
                        caps=[CapCheck("exposure|*", 2, 0)],
                        counters=["exposure|*"],
                        shares=[replace(stock_share("SKU", "hamburg" if n % 2 else None), least=1, hold=60)],
                    )
                ],
                NOW,
            )
            for n, found in enumerate(many)
        ]
        answers = [denial for (denial,) in await asyncio.gather(*units)]
        assert answers.count(None) == 5 + 4
        assert answers.count(Denial("stock", "SKU")) == 10
        assert answers.count(Denial("stock", "hamburg/SKU")) == 11
        for n in (7, 8):
            held_for = PendingDecision(
                customer=f"u-{n}", keys=["hero"], key=many[n].key, unit=f"a-{n}", who=CustomerIds(user_id=f"u-{n}")
            )
            await store_pending(store.pipeline, f"d-{n}", held_for)
        assert await erase_profile(store, "u-7") == {"user_id": ["u-7"], "anonymous_id": ["a-7"]}
        assert [await fetch_pending(store.pipeline, f"d-{n}") is not None for n in (7, 8)] == [False, True]
        assert await finish_erasures(store, time.time() + SECOND_SWEEP_SECONDS) == 1
        assert (await store.fetch(CustomerIds(anonymous_id="a-7"), NOW)).is_erased
        await store.close()

    asyncio.run(run())
