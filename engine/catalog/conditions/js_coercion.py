"""JavaScript's coercions of JSON values, by which GrowthBook's conditions are defined.

ECMA-262's ToString, ToNumber, ToBoolean and IsLessThan, for None, bool, int, float, str, list and dict.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final

_NUMERAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_PREFIXED = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)")
_COMPARE: dict[str, Callable[..., bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBERS: Final = (int, float)
ARRAYS: Final = (list, tuple)
"""Tuples, since `int | float` makes a new union each time that it is evaluated."""
_INFINITIES = {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf}


def is_array(value: object) -> bool:
    """Whether a value is a JSON array."""
    return isinstance(value, ARRAYS)


def type_of(value: object) -> str:
    """The name that `$type` compares with: null, boolean, number, string, array or object."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, NUMBERS):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if is_array(value) else "object"


def to_boolean(value: object) -> bool:
    """ToBoolean: null, false, 0, NaN and the empty text are false; an empty list or mapping is true."""
    if value is None or value == "":
        return False
    if isinstance(value, NUMBERS):
        return bool(value) and not math.isnan(value)
    return True


def to_text(value: object) -> str:
    """ToString, except that a whole number of any size keeps all its digits."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, NUMBERS):
        return _float_text(value) if isinstance(value, float) else str(value)
    if isinstance(value, ARRAYS):
        return ",".join("" if item is None else to_text(item) for item in value)
    return "[object Object]"


def _float_text(value: float) -> str:
    """A float in JavaScript's form: whole below 1e21 without a point, with an exponent below 1e-6 and from 1e21."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    if abs(value) >= 1e-6 and abs(value) < 1e21:
        return f"{Decimal(repr(value)):f}"
    digits, exponent = f"{Decimal(repr(value)).normalize():e}".split("e")
    return f"{digits}e{int(exponent):+d}"


def to_number(value: object) -> float:
    """ToNumber: null and the empty text are 0, a text that is not a numeral is NaN."""
    if isinstance(value, NUMBERS):
        return value
    text = "" if value is None else to_text(value).strip()
    if not text:
        return 0
    if _NUMERAL.fullmatch(text):
        return float(text)
    if _PREFIXED.fullmatch(text):
        return int(text, 0)
    return _INFINITIES.get(text, math.nan)


def deep_equal(left: object, right: object) -> bool:
    """Deep equality of JSON values; a boolean never equals a number.

    The JavaScript SDK compares the two as JSON text, so there the order of keys counts. Here it does not: a profile's
    keys have no order.
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(deep_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, ARRAYS) and isinstance(right, ARRAYS):
        return len(left) == len(right) and all(map(deep_equal, left, right))
    return strict_equal(left, right)


def strict_equal(left: object, right: object) -> bool:
    """`===`: no coercion; two lists or two mappings are never identical."""
    return type_of(left) == type_of(right) and not is_array(left) and not isinstance(left, Mapping) and left == right


def compile_comparison(symbol: str, right: object) -> Callable[[object], bool]:
    """The test `left <symbol> right` for <, <=, > or >=: two texts by UTF-16 units, anything else as numbers."""
    compare = _COMPARE[symbol]
    number = to_number(right)
    if right is None or isinstance(right, NUMBERS):
        return lambda left: compare(left if type(left) is int else to_number(left), number)
    text = to_text(right)
    key = _utf16_key(text)

    def test(left: object) -> bool:
        if isinstance(left, str) or is_array(left) or isinstance(left, Mapping):
            return compare(_utf16_key(to_text(left)), key)
        return compare(to_number(left), number)

    return test


def _utf16_key(text: str) -> bytes:
    """A sort key in the order of UTF-16 code units, in which JavaScript compares texts."""
    return text.encode("utf-16-be", "surrogatepass")


def read_member(value: object, name: str) -> object:
    """`value[name]`: a mapping's key, a list's index or its `length`; None if it is missing."""
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if name == "length":
            return len(value)
        if name.isdecimal() and len(name) < 10 and name == str(int(name)):
            return value[int(name)] if int(name) < len(value) else None
    return None
