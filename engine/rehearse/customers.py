"""Customers for previews and dry runs, read from a file or generated, never from the store."""

from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from engine.customer import Consent, JourneyItem, Profile, Trait
from engine.customers.model.traits import CONSENT
from engine.errors import BadInput
from engine.rehearse.sample_file import SampleRow, read_sample_file
from engine.traits.stages import STAGE_RULES, Stage, StageRules
from engine.vocabulary import DAY


class SampledCustomer(msgspec.Struct, frozen=True):
    """A customer of a sample, with the context and the channel of their request."""

    profile: Profile
    context: dict[str, object] = {}
    channel: str | None = None


def make_one_per_stage(purposes: Iterable[str], now: float, stages: StageRules = STAGE_RULES) -> list[SampledCustomer]:
    """A customer in each stage of the journey at `now` (s since 1970), with consent to all `purposes`."""
    agreed = {purpose: Consent(granted=True, time=now) for purpose in purposes}
    long_ago = now - stages.lapsed_after - DAY

    def one(stage: Stage, **known: object) -> SampledCustomer:
        return SampledCustomer(msgspec.structs.replace(Profile(id=stage, unit=stage, consents=agreed), **known))

    return [
        one("new"),
        one("engaged", past_visits=stages.engaged_visits),
        one("cart", journey={"cart": JourneyItem({"items": 1}, now, now + DAY)}),
        one("customer", order_count=1, last_order=now),
        one("loyal", order_count=stages.loyal_orders, last_order=now),
        one("lapsed", order_count=1, last_order=long_ago),
    ]


def read_sample(path: Path, texts: Collection[str] = ()) -> list[SampledCustomer]:
    """The customers of a sample file (see `sample_file`). As in an identify, a trait `consent.PURPOSE` is a consent.

    The traits `texts` are text in a CSV, whatever their cells look like.

    Raises:
        BadInput: if the file or one of its lines cannot be read; the line is named. If it has no customer.
    """
    found = [customer_of(row) for row in read_sample_file(path, texts)]
    if not found:
        raise BadInput(f"{path}: has no customer; give at least one, with a user_id")
    return found


def with_channel(sample: list[SampledCustomer], channel: str | None) -> list[SampledCustomer]:
    """The sample with `channel` for the customers that have none."""
    return [msgspec.structs.replace(one, channel=one.channel or channel) for one in sample]


def customer_of(row: SampleRow) -> SampledCustomer:
    """The customer of a row; a trait `consent.PURPOSE` is a consent."""
    traits: dict[str, Trait] = {}
    consents: dict[str, Consent] = {}
    for name, value in row.traits.items():
        purpose = name.removeprefix(CONSENT)
        if purpose != name and isinstance(value, bool):
            consents[purpose] = Consent(value, 0.0)
        else:
            traits[name] = Trait(value, 0.0)
    profile = Profile(id=row.user_id, unit=row.user_id, traits=traits, consents=consents)
    return SampledCustomer(profile, row.context, row.channel)
