"""Makes the link that shows its bearer a variant or an offer on the shop's own pages."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from engine.catalog.check.decode import suggest_name
from engine.cli.app import print_json, print_line
from engine.errors import BadInput
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.catalog.spec.folder import Specs
    from engine.catalog.spec.offer import OfferSpec

LONGEST_DAYS = 30
"""Days for which a link may work: it is shared, and whoever has it sees what is not public."""


class PreviewLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link, its token, the choices that it forces, and its expiry (RFC 3339)."""

    link: str
    token: str
    force: dict[str, str]
    until: str


def print_link(
    settings: Settings, specs: "Specs", key: str, variant: str | None, *, link: str, expires: str, json: bool
) -> int:
    """Print the link to a page that shows a variant of an experiment, or an offer of a placement.

    Raises:
        BadInput: if there is no such variant or offer, or the link or its span cannot be used.
    """
    from engine.service.previews.tokens import ATTRIBUTE, sign_preview

    force = {key: _find_forced(specs, key, variant)}
    until = time.time() + _read_span(expires)
    token = sign_preview(settings, force, until)
    parts = urlsplit(link)
    if not parts.scheme.startswith("http") or not parts.netloc:
        raise BadInput(f"--link {link}: is not the address of a page; write it whole, as https://shop.example/checkout")
    others = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != ATTRIBUTE]
    whole = urlunsplit(parts._replace(query=urlencode([*others, (ATTRIBUTE, token)])))
    ends = datetime.fromtimestamp(int(until), UTC).isoformat()
    if json:
        print_json(PreviewLink(link=whole, token=token, force=force, until=ends))
    else:
        print_line(whole)
    return 0


def _find_forced(specs: "Specs", key: str, variant: str | None) -> str:
    """The variant of the experiment, or the offer of the placement, to force."""
    experiment = specs.experiments.get(key)
    if experiment is not None:
        known, kind = [one.key for one in experiment.variants], "a variant of"
    elif key in {one.key for one in specs.channels.placements}:
        known, kind = [name for offer in specs.offers.values() for name in _forced_names(offer)], "an offer for"
    else:
        names = [*specs.experiments, *(one.key for one in specs.channels.placements)]
        raise BadInput(f"{key!r} is neither an experiment nor a placement; {suggest_name(key, names)}")
    if variant is None:
        raise BadInput(f"preview --link: --variant is missing; {key} has {', '.join(known[:12])}")
    if variant not in known:
        raise BadInput(f"--variant {variant}: is not {kind} {key}; {suggest_name(variant, known)}")
    return variant


def _forced_names(offer: "OfferSpec") -> list[str]:
    """The names that force an offer: its key, and its key with each of its creatives."""
    from engine.catalog.plan.creatives import creative_arm, creatives_of

    return [offer.key, *(creative_arm(offer.key, key) for key in creatives_of(offer))]


def _read_span(text: str) -> float:
    """The seconds of a span such as 24h."""
    from engine.catalog.spec.fields import SECONDS

    number, unit = text[:-1], text[-1:]
    found = int(number) * SECONDS[unit] if number.isdigit() and unit in SECONDS else 0
    if not 0 < found <= LONGEST_DAYS * SECONDS["d"]:
        raise BadInput(f"--expires {text}: is not a span of at most {LONGEST_DAYS}d; write 2h or 7d")
    return float(found)
