"""The facts of one request that gates, moments and policies read."""

from collections.abc import Hashable, Mapping

import msgspec

from engine.catalog.plan.features import Context
from engine.catalog.plan.places import NOWHERE, Vicinity
from engine.customer import Counts, Profile
from engine.decision.windows import NO_ZONES, FormerZones
from policies.batches import Floats

Pools = Mapping[str, float]
"""The rest of stocks and budgets that are low, by `stock:SKU`, `shelf:PLACE/SKU` and `budget:OFFER`."""
Prices = Mapping[str, float]
"""Shadow prices of scarce offers by the offer's key: the cost of one more showing to the other customers."""
NOTHING: Counts = {}
FULL: Pools = {}
FREE: Prices = {}


class Facts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The input of gates, moments and policies for one request. `now` is in seconds since 1970.

    `former` are the customer's zones before `zone`. `vicinity` are the shop's places around the request. No gate reads
    `short` and `reserved`, known after a draw. `is_silenced` says that the shop's `suppress` holds for the customer.
    `vectors` has the context and the vector by the layouts of the featurizers that read them: placements with the same
    features share them.
    """

    profile: Profile
    attributes: Mapping[str, object]
    channel: str
    now: float
    zone: str
    counts: Counts = NOTHING
    former: FormerZones = NO_ZONES
    pools: Pools = FULL
    prices: Prices = FREE
    is_silenced: bool = False
    vicinity: Vicinity = NOWHERE
    short: Pools = FULL
    reserved: Mapping[str, str] = {}
    vectors: dict[tuple[Hashable, Hashable], tuple[Context, Floats]] = msgspec.field(default_factory=dict)
