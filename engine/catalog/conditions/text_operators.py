"""Operators on texts, addresses and remainders; a missing trait or a value of another type never matches.

| operator | takes | matches |
|---|---|---|
| `$startsWith`, `$endsWith`, `$contains` | a text, or a list of which one must fit | a text, or a list with one |
| `$ip` | an address or a network in CIDR form, or a list of them | a text that is an address in one of them |
| `$mod` | `[divisor, remainder]` | a number whose whole part leaves the remainder, with the number's sign |

A remainder is MongoDB's: the whole parts of value, divisor and remainder count, so 4.5 leaves 0 of 4.
"""

import math
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_Test = Callable[[object], bool]
TEXT_OPERATORS = ("$startsWith", "$endsWith", "$contains")
OPERATORS_OF_VALUES = (*TEXT_OPERATORS, "$ip", "$mod")


def compile_text_operator(name: str, operand: object) -> _Test:
    """The test of one operator; it is never true for an operand that `is_operand` rejects."""
    if not is_operand(name, operand):
        return _never
    if name == "$mod" and isinstance(operand, Sequence):
        return _leaves(int(operand[0]), int(operand[1]))
    parts = tuple(str(part) for part in _listed(operand))
    test = _within(parts) if name == "$ip" else _fits(name, parts)
    return lambda value: any(map(test, value)) if isinstance(value, list | tuple) else test(value)


def is_operand(name: str, operand: object) -> bool:
    """Whether an operator can be compiled with this operand."""
    if name == "$mod":
        is_pair = isinstance(operand, list | tuple) and len(operand) == 2
        return is_pair and all(map(_is_number, _listed(operand))) and int(_listed(operand)[0]) != 0
    parts = _listed(operand)
    if not parts or not all(isinstance(part, str) for part in parts):
        return False
    return name != "$ip" or all(_read_network(str(part)) is not None for part in parts)


def _never(_: object) -> bool:
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _listed(operand: object) -> Sequence[float]:
    """The operand as a list; a single value becomes a list of one."""
    return operand if isinstance(operand, list | tuple) else [operand]  # type: ignore[list-item]


def _fits(name: str, parts: tuple[str, ...]) -> _Test:
    if name == "$startsWith":
        return lambda value: isinstance(value, str) and value.startswith(parts)
    if name == "$endsWith":
        return lambda value: isinstance(value, str) and value.endswith(parts)
    return lambda value: isinstance(value, str) and any(part in value for part in parts)


def _leaves(divisor: int, remainder: int) -> _Test:
    def test(value: object) -> bool:
        return _is_number(value) and math.fmod(int(value), divisor) == remainder  # type: ignore[call-overload]

    return test


def _within(parts: tuple[str, ...]) -> _Test:
    networks = [network for network in map(_read_network, parts) if network is not None]

    def test(value: object) -> bool:
        if not isinstance(value, str):
            return False
        address = _read_address(value)
        return address is not None and any(address in network for network in networks)

    return test


def _read_network(text: str) -> IPv6Network | None:
    """The network in a text (IPv4 as its mapped IPv6 network); None if the text is no network."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, IPv6Network):
        return network
    return IPv6Network((_mapped(network.network_address), network.prefixlen + 96))


def _read_address(text: str) -> IPv6Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return _mapped(address) if isinstance(address, IPv4Address) else address


def _mapped(address: IPv4Address) -> IPv6Address:
    """`::ffff:192.0.2.1` of 192.0.2.1 (RFC 4291, 2.5.5.2)."""
    return IPv6Address((0xFFFF << 32) + int(address))
