"""flagd's flags: `{"flags": {…}, "$evaluators": {…}}`, https://flagd.dev/reference/flag-definitions.

Targeting is a JsonLogic expression that gives the name of a variant. Each of its branches becomes a rule, in their
order; one that gives null becomes a rule for the default variant. A flag that is disabled gives the default of the
caller's code, so its own default variant is its last rule.
"""

from collections.abc import Iterator, Mapping

import msgspec

from engine.catalog.plan.peer_hashing import peer_place
from engine.imports.draft import Draft, Split
from engine.imports.json_logic import Literal, Variable, compile_truth, operand_of, operator_of, resolve_references
from engine.imports.model import Json, Unsupported
from engine.imports.predicates import ALWAYS, NEVER, Hash, Tree, all_of, trait
from engine.imports.shared_parts import ReadFlag, SharedParts
from engine.imports.source_values import read_source

FLAG_KEY = "$flagd.flagKey"


class FlagdFlag(msgspec.Struct, frozen=True, rename="camel"):
    """One flag."""

    state: str
    variants: dict[str, object]
    default_variant: str | bool | None = None
    targeting: object = None


def read_flagd(document: Json, shop: SharedParts) -> Iterator[tuple[str, ReadFlag]]:
    """Yield the flags of a document.

    Raises:
        Unsupported: if it has no flags.
    """
    flags, evaluators = document.get("flags"), document.get("$evaluators")
    if isinstance(flags, list):
        flags = {str(one.get("key")): one for one in flags if isinstance(one, Mapping)}
    if not isinstance(flags, Mapping):
        raise Unsupported("has no 'flags'; give a flag definition of flagd")
    shop.name_flags(flags)
    shared = evaluators if isinstance(evaluators, Mapping) else {}
    for name, raw in flags.items():
        yield name, lambda name=name, raw=raw: _FlagdReader(name, raw, shared, shop).read()  # type: ignore[misc]


class _FlagdReader:
    """Reads one flag into a draft."""

    def __init__(self, name: str, raw: object, evaluators: Mapping[str, object], shop: SharedParts) -> None:
        self.flag = read_source(raw, FlagdFlag)
        self.name = name
        self.draft = Draft(name, shop.keys[name])
        self.logic = resolve_references(self.flag.targeting, evaluators)
        keys: list[str] = []
        for variant, value in self.flag.variants.items():
            keys.append(self.draft.variant(value, variant, within=keys))
        self.keys = dict(zip(self.flag.variants, keys, strict=True))

    def read(self) -> Draft:
        """The draft of the flag."""
        draft = self.draft
        if self.flag.state not in {"ENABLED", "DISABLED"}:
            raise Unsupported(f"has the state {self.flag.state!r}, which is neither ENABLED nor DISABLED")
        draft.is_off = self.flag.state == "DISABLED"
        rest = self._default()
        draft.default = draft.code_default() if draft.is_off else rest
        if self.logic not in (None, {}):
            self._result(self.logic, ALWAYS, "targeting")
        elif draft.is_off and rest != draft.default:
            draft.add(ALWAYS, rest, "default")
        return draft

    def _default(self) -> str:
        default = self.flag.default_variant
        if default is None or default == "":
            return self.draft.code_default()
        return self._variant(default)

    def _variant(self, name: object) -> str:
        """The variant of this name; one that the flag does not have is an error there, and the code's default here."""
        text = str(name).lower() if isinstance(name, bool) else str(name)
        if text in self.keys:
            return self.keys[text]
        self.draft.note(
            "targeting", "changed", f"{text!r} is not a variant, an error there; the code's default is given"
        )
        return self.draft.code_default()

    def _result(self, node: object, when: Tree, place: str) -> None:
        """Append the rules that decide for everyone who meets `when`."""
        if when == NEVER:
            return
        if not isinstance(node, Mapping):
            self.draft.add(when, self._default() if node is None else self._variant(node), place)
            return
        operator, arguments = operator_of(node)
        if operator in {"if", "?:"}:
            self._branches(arguments, when, place)
        elif operator == "fractional":
            self._fractional(arguments, when, place)
        elif operator == "var":
            self._named_by(node, when, place)
        else:
            truth = compile_truth(node, self.name)
            for name, tree in (("true", all_of([when, truth])), ("false", when)):
                self.draft.add(tree, self._variant(name), f"{place}-{name}")

    def _branches(self, arguments: list[object], when: Tree, place: str) -> None:
        """The branches of an `if`: condition, result, condition, result, …, and what else applies."""
        pairs = len(arguments) // 2
        for index in range(pairs):
            truth = compile_truth(arguments[2 * index], self.name)
            self._result(arguments[2 * index + 1], all_of([when, truth]), f"{place}-{index + 1}")
        self._result(arguments[-1] if len(arguments) % 2 else None, when, f"{place}-else")

    def _named_by(self, node: object, when: Tree, place: str) -> None:
        """Add a rule for each variant that the value of an attribute may name; other values get the code's default."""
        operand = operand_of(node, self.name)
        if isinstance(operand, Literal):
            self._result(operand.value, when, place)
            return
        for variant, key in self.keys.items():
            forms: list[object] = [variant, *([variant == "true"] if variant in {"true", "false"} else [])]
            self.draft.add(all_of([when, trait(operand.name, {"$in": forms})]), key, f"{place}-{variant}")
        self._result(operand.default, all_of([when, trait(operand.name, {"$exists": False})]), f"{place}-missing")
        self.draft.note(place, "changed", "flagd fails on a name that no variant has; here it gives the code's default")
        self.draft.add(when, self.draft.code_default(), f"{place}-else")

    def _fractional(self, arguments: list[object], when: Tree, place: str) -> None:
        by, parts = self._bucketing(arguments)
        weights: list[tuple[str, int]] = []
        for part in parts:
            if not isinstance(part, list) or not part or isinstance(part[0], dict | list):
                raise Unsupported("has a fractional whose variants or weights are computed")
            weight = part[1] if len(part) > 1 else 1
            if not isinstance(weight, int) or isinstance(weight, bool):
                raise Unsupported("has a fractional with a weight that is not a whole number")
            weights.append((self._default() if part[0] is None else self._variant(part[0]), max(weight, 0)))
        total = sum(weight for _, weight in weights)
        if not total:
            self.draft.add(when, self._default(), place)
            return
        ranges: list[tuple[str, float, float]] = []
        low = 0
        for key, weight in weights:
            ranges.append((key, low / total, (low + weight) / total))
            low += weight
        self.draft.add(when, Split(by, ranges), place)
        rest = self._default()  # nothing to hash
        if by.hash == "flagd_text":  # a missing attribute adds nothing to the text
            alone = peer_place("flagd_text", by.seed)("")
            rest = next(key for key, start, end in ranges if start <= alone < end)
        self.draft.add(when, rest, f"{place}-no-unit")

    def _bucketing(self, arguments: list[object]) -> tuple[Hash, list[object]]:
        """The value that a fractional hashes, and its other arguments."""
        if not arguments:
            raise Unsupported("has a fractional without arguments")
        first, rest = arguments[0], arguments[1:]
        if isinstance(first, list):
            return Hash(self.name, "flagd", unit="targetingKey"), arguments
        steps: list[object] = [first]
        if isinstance(first, Mapping):
            operator, inner = operator_of(first)
            steps = inner if operator == "cat" else [first]
        operands = [operand_of(step, self.name) for step in steps]
        variables = [one for one in operands if isinstance(one, Variable)]
        if len(variables) != 1 or operands[-1] is not variables[0] or variables[0].default is not None:
            raise Unsupported("has a fractional that hashes other than one attribute behind constants")
        seed = "".join(str(one.value) for one in operands if isinstance(one, Literal))
        attribute = "targetingKey" if variables[0].name == "id" else variables[0].name
        return Hash(seed or self.name, "flagd_text" if seed else "flagd_unit", unit=attribute), rest
