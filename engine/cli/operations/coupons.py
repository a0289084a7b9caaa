"""`counterpoint coupons`: import the codes of an offer, count them, and revoke one."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import cyclopts
from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, Data, Folder, Redis, app, new_table, open_store, out, print_json, print_line
from engine.errors import BadInput
from engine.settings import Settings, from_environment

if TYPE_CHECKING:
    from engine.customers.redis.pipeline import RedisPipeline

Found = TypeVar("Found")
STORE_WAIT = 5.0
"""Seconds that a verb waits for the store."""
CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,63}")
CODE_RULE = "letters, digits, . _ and -, 3 to 64"
OfferKey = Annotated[str, Parameter(help="The offer with `coupons` that the codes belong to.")]

coupons = cyclopts.App(name="coupons", help="The coupon codes of offers: import, count and revoke them.", group=RUN)
app.command(coupons)


@coupons.command(name="import")
def import_file(
    file: Annotated[Path, Parameter(help="A text file with one code on each line.")],
    *,
    offer: OfferKey,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Import codes for an offer; those that were imported before are counted and left as they are."""
    from engine.claims.coupons import count_codes, import_codes

    codes = _read_codes(file)
    _require_coupons(offer, from_environment(experiments=experiments, data=data))
    with open_store(data, redis) as settings:

        async def add(pipeline: "RedisPipeline") -> tuple[int, object]:
            new = await import_codes(pipeline, offer, codes, time.time())
            return new, await count_codes(pipeline, offer, time.time())

        new, counts = _with_store(settings.redis, add)
    if json:
        print_json({"new": new, "known": len(codes) - new, "counts": counts})
    else:
        print_line(f"{new:,} codes are new, {len(codes) - new:,} were known.")
    return 0


@coupons.command
def revoke(
    code: Annotated[str, Parameter(help="The code.")], *, offer: OfferKey, data: Data = None, redis: Redis = None
) -> int:
    """Revoke a code, whoever has it; exit 1 if it is unknown, redeemed or revoked already."""
    from engine.claims.coupons import revoke_code

    with open_store(data, redis) as settings:
        state = _with_store(settings.redis, lambda pipeline: revoke_code(pipeline, offer, code, time.time()))
    is_revoked = state in {"free", "drawn"}
    print_line(f"{code}: {f'revoked; it was {state}' if is_revoked else state or 'is not a code of this offer'}.")
    return 0 if is_revoked else 1


@coupons.command(name="list")
def list_offers(*, data: Data = None, redis: Redis = None, json: AsJson = False) -> int:
    """Count the codes of each offer: free, with customers, redeemed, revoked."""
    from engine.claims.coupons import count_codes, offers_with_codes

    with open_store(data, redis) as settings:

        async def count(pipeline: "RedisPipeline") -> list[object]:
            return [await count_codes(pipeline, offer, time.time()) for offer in await offers_with_codes(pipeline)]

        found = _with_store(settings.redis, count)
    if json:
        print_json(found)
        return 0
    names = ("offer", "imported", "free", "drawn", "redeemed", "revoked")
    table = new_table(*names, figures=names[1:])
    for one in found:
        table.add_row(*(str(getattr(one, name)) for name in names))
    out.print(table if found else "No codes were imported.")
    return 0


def _read_codes(file: Path) -> list[str]:
    """The codes of a file, each once; a first line `code` is a heading."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise BadInput(f"{file}: cannot be read ({reason}); name a text file with one code on each line") from error
    codes: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        code = line.strip()
        if not code or (number == 1 and code.lower() == "code"):
            continue
        if not CODE.fullmatch(code):
            raise BadInput(f"{file}:{number}: {code[:40]!r} is not a code; use {CODE_RULE}, one on each line")
        codes[code] = None
    if not codes:
        raise BadInput(f"{file}: has no code; write one on each line")
    return list(codes)


def _require_coupons(offer: str, settings: Settings) -> None:
    from engine.catalog import load_plan

    folder = settings.experiments
    offers = load_plan(folder, settings.plans).offers
    if offer not in offers or offers[offer].limits.coupons is None:
        able = [key for key, one in offers.items() if one.limits.coupons is not None]
        raise BadInput(
            f"--offer {offer}: is not an offer with `coupons` in {folder}; "
            f"use one of {', '.join(able) or '(none: add `coupons: {}` to its file)'}"
        )


def _with_store(url: str, run: "Callable[[RedisPipeline], Awaitable[Found]]") -> Found:
    async def connected() -> Found:
        from engine.customers.store import ProfileStore

        store = ProfileStore.open(url, timeout=STORE_WAIT)
        try:
            return await run(store.pipeline)
        finally:
            await store.close()

    return asyncio.run(connected())
