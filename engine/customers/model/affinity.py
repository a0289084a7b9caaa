"""Affinities: exponentially decayed sums, so recent interest weighs most."""

from engine.customer import Decayed


def add_decayed(held: Decayed | None, more: Decayed | None, half_life: float) -> Decayed:
    """Returns the total of two decayed sums as of the later of their times; at least one is given."""
    if held is None or more is None:
        found = held or more
        if found is None:
            raise ValueError("add_decayed needs at least one sum")
        return found
    if held.time < more.time:
        held, more = more, held
    return Decayed(held.value + more.value * 2.0 ** ((more.time - held.time) / half_life), held.time)


def grow_affinity(
    held: dict[str, Decayed], name: str, weight: float, time: float, half_life: float, limit: int
) -> dict[str, Decayed]:
    """Returns the affinities after adding `weight` to `name`; past the limit the smallest decayed sum is dropped."""
    grown = held | {name: add_decayed(held.get(name), Decayed(weight, time), half_life)}
    if len(grown) <= limit:
        return grown
    newest = max(a.time for a in grown.values())
    faintest = min(grown, key=lambda key: (grown[key].value * 2.0 ** ((grown[key].time - newest) / half_life), key))
    return {key: value for key, value in grown.items() if key != faintest}
