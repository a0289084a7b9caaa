"""Customers from a file, or made up, for trials that touch no store."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from engine.customer import LAPSED_AFTER, LOYAL_ORDERS, Consent, JourneyItem, Profile, Stage, Trait
from engine.customers.model.traits import CONSENT, flatten_traits
from engine.errors import BadInput
from engine.vocabulary import DAY


class SampledCustomer(msgspec.Struct, frozen=True):
    """One customer of a trial, with the context and the channel their request would have."""

    profile: Profile
    context: dict[str, object] = {}
    channel: str | None = None


class _Line(msgspec.Struct, frozen=True):
    user_id: Annotated[str, msgspec.Meta(min_length=1)]
    traits: dict[str, object] = {}
    context: dict[str, object] = {}
    channel: str | None = None


def make_customers(number: int) -> list[SampledCustomer]:
    """Customers `c-0`, `c-1` … of whom nothing is known."""
    return [SampledCustomer(Profile(id=f"c-{index}", unit=f"c-{index}")) for index in range(number)]


def make_one_per_stage(purposes: Iterable[str], now: float) -> list[SampledCustomer]:
    """A customer in each stage of the journey at `now` (s since 1970), who agreed to all `purposes`."""
    agreed = {purpose: Consent(granted=True, time=now) for purpose in purposes}
    long_ago = now - LAPSED_AFTER - DAY

    def one(stage: Stage, **known: object) -> SampledCustomer:
        return SampledCustomer(msgspec.structs.replace(Profile(id=stage, unit=stage, consents=agreed), **known))

    return [
        one("new"),
        one("engaged", past_visits=2),
        one("cart", journey={"cart": JourneyItem({"items": 1}, now, now + DAY)}),
        one("customer", order_count=1, last_order=now),
        one("loyal", order_count=LOYAL_ORDERS, last_order=now),
        one("lapsed", order_count=1, last_order=long_ago),
    ]


def read_sample(path: Path) -> list[SampledCustomer]:
    """The customers of a JSON array, JSON Lines or CSV file: `user_id`, and `traits`, `context`, `channel` if any.

    In a CSV every other column is a trait. As in an identify, a trait `consent.PURPOSE` is a consent.

    Raises:
        BadInput: if the file or one of its lines cannot be read; the line is named. If it has no customer.
    """
    found = _read(path)
    if not found:
        raise BadInput(f"{path}: has no customer; give at least one, with a user_id")
    return found


def with_channel(sample: list[SampledCustomer], channel: str | None) -> list[SampledCustomer]:
    """The sample, in which who names no channel is met on this one."""
    return [msgspec.structs.replace(one, channel=one.channel or channel) for one in sample]


def _read(path: Path) -> list[SampledCustomer]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{path}: cannot be read ({why}); give a JSON, JSON Lines or CSV file") from error
    if path.suffix == ".csv":
        return [_sampled(line) for line in _rows(path, text)]
    if text.lstrip().startswith("["):
        try:
            return [_sampled(line) for line in msgspec.json.decode(text, type=list[_Line])]
        except msgspec.DecodeError as error:
            raise BadInput(f"{path}: {error}; each customer is an object with user_id") from error
    found: list[SampledCustomer] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(_sampled(msgspec.json.decode(line, type=_Line)))
            except msgspec.DecodeError as error:
                raise BadInput(f"{path} line {number}: {error}; each line is an object with user_id") from error
    return found


def _rows(path: Path, text: str) -> Iterator[_Line]:
    reader = csv.DictReader(text.splitlines())
    if "user_id" not in (reader.fieldnames or []):
        raise BadInput(f"{path}: has no column user_id; name the customers' column so")
    for row in reader:
        if not row["user_id"]:
            raise BadInput(f"{path} line {reader.line_num}: its user_id is empty; each line is a customer")
        if None in row:
            raise BadInput(f"{path} line {reader.line_num}: has more cells than there are columns; quote its commas")
        traits: dict[str, object] = {
            name: _value(cell) for name, cell in row.items() if name not in {"user_id", "channel"} and cell
        }
        yield _Line(row["user_id"], traits, {}, row.get("channel") or None)


def _value(cell: str) -> str | float | bool:
    if cell in {"true", "false"}:
        return cell == "true"
    try:
        return float(cell)
    except ValueError:
        return cell


def _sampled(line: _Line) -> SampledCustomer:
    traits: dict[str, Trait] = {}
    consents: dict[str, Consent] = {}
    for name, value in flatten_traits(line.traits).items():
        purpose = name.removeprefix(CONSENT)
        if purpose != name and isinstance(value, bool):
            consents[purpose] = Consent(value, 0.0)
        else:
            traits[name] = Trait(value, 0.0)
    profile = Profile(id=line.user_id, unit=line.user_id, traits=traits, consents=consents)
    return SampledCustomer(profile, line.context, line.channel)
