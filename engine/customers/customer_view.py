"""The customer 360 that the API returns: every field of a profile under its own name, times as RFC 3339."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from engine.customer import Counts, Profile, TraitSeries, resumable_journey
from engine.decision.windows import ZONE_MARK
from engine.traits.attributes import derive_attributes
from engine.traits.rules import TraitRules


def customer_view(
    profile: Profile, now: float, counts: Counts | None = None, computed: TraitRules | None = None
) -> dict[str, object]:
    """Returns the whole profile as JSON data: the attributes that conditions read at `now`, and their inputs.

    The same events give the same view, in whatever order and however often they arrived.
    """
    seen = derive_attributes(profile, now, computed) | {"channels": sorted(profile.channels)}
    affinity = seen.get("affinity")
    if isinstance(
        affinity, dict
    ):  # the order of arrival changes the last digits of decayed sums and the order of the names
        seen["affinity"] = {name: _rounded(value) for name, value in sorted(affinity.items())}
    return {
        "customer": profile.id,
        "unit": profile.unit,
        "units": sorted(profile.units),
        "identifiers": {kind: sorted(values) for kind, values in sorted(profile.ids.items())},
        "shared": profile.shared,
        "created": format_time(profile.created),
        "updated": format_time(profile.updated),
        "attributes": seen,
        "resume": resumable_journey(profile, now),
        "traits": {
            name: {"value": trait.value, "time": format_time(trait.time), "source": trait.source}
            for name, trait in sorted(profile.traits.items())
        },
        "consents": {
            name: {
                "granted": consent.granted,
                "time": format_time(consent.time),
                "expires": format_time(consent.expires) if consent.expires is not None else None,
                "source": consent.source,
            }
            for name, consent in sorted(profile.consents.items())
        },
        "orders": [
            {
                "order_id": key,
                "revenue": order.revenue,
                "refunded": order.revenue if order.full else order.refunded,
                "points": order.points,
                "time": format_time(abs(order.time)),
            }
            for key, order in sorted(profile.orders.items(), key=lambda item: (abs(item[1].time), item[0]))
        ],
        "visits": [{"from": format_time(start), "to": format_time(end)} for start, end in profile.visits],
        "answers": {
            name: {"score": answer.score, "time": format_time(answer.time)}
            for name, answer in sorted(profile.answers.items())
        },
        "channels": _moments(profile.channels),
        "events": _moments(profile.recent),
        "series": _sorted_series(profile.series),
        "archived_series": _sorted_series(profile.archived_series),
        "sticky": dict(sorted(profile.sticky.items())),
        "counted": _counted(counts or {}),
    }


def _counted(counts: Counts) -> dict[str, list[str]]:
    return {
        name: [format_time(time) for time in sorted(times)]
        for name, times in sorted(counts.items())
        if not name.startswith(ZONE_MARK)  # how windows remember a zone, which is among the traits
    }


def format_time(time: float) -> str:
    """A time (s since 1970) as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sorted_series(series: Mapping[str, TraitSeries]) -> object:
    return msgspec.to_builtins(dict(sorted(series.items())))


def _rounded(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _moments(times: Mapping[str, float]) -> dict[str, str]:
    return {name: format_time(time) for name, time in sorted(times.items())}
