"""Confidence's targeting: criteria on attributes and segments, joined by an expression of their names.

An attribute is read as the type of the values it is compared with: a text may be a number, a truth value, a time or a
version. What cannot be read so, and what is missing, matches nothing. Of a list one element must match, under `allRule`
every one; that also holds for an empty list and a missing attribute.
"""

from collections.abc import Callable, Mapping, Sequence

from engine.catalog.conditions.js_coercion import to_text
from engine.catalog.conditions.semver import read_version
from engine.imports.model import Unsupported
from engine.imports.predicates import ALWAYS, NEVER, Tree, all_of, any_of, negate, trait
from engine.imports.source_values import read_number, read_time, write_time

ReadSegment = Callable[[str], Tree]
MILLISECOND = 0.001
_TEXTS = {"startsWithRule": "$startsWith", "endsWithRule": "$endsWith", "containsRule": "$contains"}


def camel(raw: object) -> dict[str, object]:
    """A message of the document with the names of its fields in lower camel case, as protobuf writes JSON.

    Raises:
        Unsupported: if it is no message.
    """
    if not isinstance(raw, Mapping):
        raise Unsupported(f"is malformed: {raw!r} is not a mapping")
    found: dict[str, object] = {}
    for name, value in raw.items():
        first, *rest = str(name).split("_")
        found[first + "".join(part.capitalize() for part in rest)] = value
    return found


def read_targeting(raw: object, read_segment: ReadSegment) -> Tree:
    """The condition under which a targeting is true.

    Args:
        raw: the message; without criteria it always holds.
        read_segment: when a customer is in the segment of a name.

    Raises:
        Unsupported: for what a condition cannot say.
    """
    if not raw:
        return ALWAYS
    targeting = camel(raw)
    criteria = targeting.get("criteria") or {}
    known = {name: _criterion(one, read_segment) for name, one in _items(criteria)}
    return _expression(targeting["expression"], known) if targeting.get("expression") else ALWAYS


def _items(raw: object) -> Sequence[tuple[str, object]]:
    return list(raw.items()) if isinstance(raw, Mapping) else []


def _expression(raw: object, known: Mapping[str, Tree]) -> Tree:
    found = camel(raw)
    if "ref" in found:
        return known.get(str(found["ref"]), NEVER)
    if "not" in found:
        return negate(_expression(found["not"], known))
    for name, join in (("and", all_of), ("or", any_of)):
        if name in found:
            operands = camel(found[name] or {}).get("operands") or []
            if not isinstance(operands, list):
                raise Unsupported("is malformed: the operands of an expression are not a list")
            return join([_expression(one, known) for one in operands])
    return ALWAYS


def _criterion(raw: object, read_segment: ReadSegment) -> Tree:
    found = camel(raw)
    if "segment" in found:
        return read_segment(str(camel(found["segment"]).get("segment")))
    if "materializedSegment" in found:
        raise Unsupported("asks for a materialized segment, whose members are not in the file")
    attribute = camel(found.get("attribute"))
    name = str(attribute.get("attributeName"))
    name = "id" if name == "targeting_key" else name
    if "anyRule" in attribute:
        return _matches(name, camel(camel(attribute["anyRule"]).get("rule")))
    if "allRule" in attribute:
        return _all_match(name, camel(camel(attribute["allRule"]).get("rule")))
    return _matches(name, attribute)


def _matches(name: str, rule: Mapping[str, object]) -> Tree:
    """The attribute, or an element of it if it is a list, meets a rule."""
    found: list[Tree] = []
    for test in _tests(rule):
        found.append(trait(name, {"$exists": True, **test}))
        if not test.keys() & {"$in", *_TEXTS.values()}:  # these look into lists themselves
            found.append(trait(name, {"$elemMatch": test}))
    return any_of(found)


def _all_match(name: str, rule: Mapping[str, object]) -> Tree:
    """Every element of the list meets a rule, read as the first of its types."""
    test = _tests(rule)[0]
    is_list = trait(name, {"$type": "array"})
    other = trait(name, {"$elemMatch": {"$not": test}})
    single = all_of([negate(is_list), trait(name, {"$exists": True, **test})])
    return any_of([trait(name, {"$exists": False}), all_of([is_list, negate(other)]), single])


def _tests(rule: Mapping[str, object]) -> list[dict[str, object]]:
    """The tests of a single value, which must meet at least one of them."""
    for field, operator in _TEXTS.items():
        if field in rule:
            return [{operator: str(camel(rule[field] or {}).get("value", ""))}]
    if "eqRule" in rule:
        return _equal([camel(camel(rule["eqRule"]).get("value"))])
    if "setRule" in rule:
        values = camel(rule["setRule"]).get("values") or []
        return _equal([camel(one) for one in values]) if isinstance(values, list) else []
    if "rangeRule" in rule:
        return _in_range(camel(rule["rangeRule"]))
    raise Unsupported(f"has a targeting rule without a known form: {', '.join(sorted(rule)) or 'it is empty'}")


def _equal(values: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The tests for one of some values; those of one kind are one test."""
    forms: list[object] = []
    found: list[dict[str, object]] = []
    for value in values:
        if "timestampValue" in value:
            moment = _moment(value)
            span = {"$after": write_time(moment - MILLISECOND), "$before": write_time(moment + MILLISECOND)}
            found.append({"$type": "string", **span})
        elif "versionValue" in value:
            forms.append(_version(value))  # as it is written: 10.1 is not 10.1.0
        else:
            forms += _forms(value)
    return found + ([{"$in": forms}] if forms or not found else [])


def _forms(value: Mapping[str, object]) -> list[object]:
    """The values that are equal to one, as a customer's attribute may have them."""
    if "boolValue" in value:
        is_true = bool(value["boolValue"])
        return [is_true, *(["true", "True", "TRUE"] if is_true else ["false", "False", "FALSE"])]
    if "numberValue" in value:
        number = read_number(value["numberValue"])
        if number is None:
            raise Unsupported(f"compares with {value['numberValue']!r}, which is not a number")
        text = to_text(number)
        return [number, text, *([f"{text}.0"] if "." not in text else [])]
    if "stringValue" in value:
        text = str(value["stringValue"])
        number = read_number(text)
        return [text, *([number] if number is not None and to_text(number) == text else [])]
    raise Unsupported("compares with a list, or with no value")


def _in_range(rule: Mapping[str, object]) -> list[dict[str, object]]:
    """The tests of a range with open or closed ends: a test of a text, and for numbers also one of a number."""
    found: dict[str, object] = {}
    versions: list[str] = []
    for field, sign in _SIGNS.items():
        if field not in rule:
            continue
        value = camel(rule[field])
        if "timestampValue" in value:
            shift = MILLISECOND * {">=": -1, "<=": 1}.get(sign, 0)
            found["$after" if ">" in sign else "$before"] = write_time(_moment(value) + shift)
        elif "versionValue" in value:
            versions.append(sign + _version(value))
        else:
            number = read_number(value.get("numberValue"))
            if number is None:
                raise Unsupported("has a range of values that have no order")
            found[_ORDER[sign]] = number
    if versions:
        # A list of operands is met by one of them, so the lower end is the negation of what is below it.
        upper = [one for one in versions if one.startswith("<")]
        lower = [one for one in versions if one.startswith(">")]
        test: dict[str, object] = {"$semver": (upper or lower)[0]}
        if upper and lower:
            below = lower[0].replace(">=", "<", 1) if lower[0].startswith(">=") else lower[0].replace(">", "<=", 1)
            test["$not"] = {"$semver": below}
        return [test]
    if found.keys() & {"$after", "$before"}:
        return [{"$type": "string", **found}]
    return [{"$type": "number", **found}, {"$type": "string", "$regex": _NUMERIC, **found}]


_SIGNS: Mapping[str, str] = {
    "startInclusive": ">=",
    "startExclusive": ">",
    "endInclusive": "<=",
    "endExclusive": "<",
}
_NUMERIC = r"^[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?$"
_ORDER: Mapping[str, str] = {">=": "$gte", ">": "$gt", "<=": "$lte", "<": "$lt"}


def _moment(value: Mapping[str, object]) -> float:
    moment = read_time(value["timestampValue"])
    if moment is None:
        raise Unsupported(f"compares with {value['timestampValue']!r}, which is not a time")
    return moment


def _version(value: Mapping[str, object]) -> str:
    version = str(camel(value["versionValue"]).get("version"))
    if read_version(version) is None:
        raise Unsupported(f"compares with the version {version!r}, which is not of the form 1.2.3")
    return version
