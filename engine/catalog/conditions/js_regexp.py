"""Patterns as JavaScript's `RegExp` reads them, run by Python's `re`; one that could stall a decision is refused.

`re` backtracks. A pattern is read as its steps, each with the sample characters it can match; the reading gives the
translation and a bound: the longest chain of choices (repeats, optional parts, alternatives that begin alike) that can
hand characters over to each other. Chains of up to two run, on texts short enough for them; longer ones, and repeats
inside repeats without a delimiter, are refused.
"""

import re
from collections.abc import Callable, Iterable
from itertools import combinations, starmap
from typing import NamedTuple

MAX_PATTERN = 1_000
MAX_DEPTH = 20
# Longest text a pattern is matched against, by the length of its longest chain; a longer text does not match.
MAX_TEXT = (10_000, 2_000, 500)

_SAMPLE = [chr(code) for code in range(9, 127)] + list("\x00\xa0éÉÿß€漢\u2028😀")
_ANY = frozenset(_SAMPLE)
_COUNT = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}")
_HEX = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}")
_NAME = re.compile(r"<([A-Za-z_][A-Za-z0-9_]*)>")
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}


class PatternError(ValueError):
    """A pattern that is no regular expression, or one that could take forever: `rule` and `remedy`."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(f"{rule}; {remedy}")
        self.rule = rule
        self.remedy = remedy


def compile_pattern(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """Whether `pattern` is found anywhere in a text; raises `PatternError` with the rule and the remedy."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"is longer than {MAX_PATTERN} characters", "split it into several under $or")
    reading = _PatternReader(pattern)
    whole = reading.alternatives(0)
    if reading.at < len(pattern):
        raise _malformed("a ')' without its '('")
    chain = _longest_chain(whole.steps)
    if chain >= len(MAX_TEXT):
        raise PatternError("repeats too often over the same characters", "split it into several $regex under $and")
    try:
        found = re.compile(whole.text, re.IGNORECASE if ignore_case else 0)
    except (re.error, OverflowError) as error:
        raise _malformed(str(error)) from error
    longest = MAX_TEXT[chain]
    return lambda text: len(text) <= longest and found.search(text) is not None


class _Step(NamedTuple):
    """What a match passes in order: a character of `chars`, a `choice` of how many, or (no `chars`) a position."""

    chars: frozenset[str]
    choice: bool = False
    needed: bool = True


class _Piece(NamedTuple):
    """A part of the pattern: its translation, its steps, whether it repeats inside, and its alternatives overlap."""

    text: str
    steps: tuple[_Step, ...]
    varies: bool = False
    ambiguous: bool = False


def _malformed(what: str) -> PatternError:
    return PatternError(f"is no regular expression ({what})", "correct it")


def _longest_chain(steps: tuple[_Step, ...]) -> int:
    longest = 0
    open_choices: list[tuple[frozenset[str], int]] = []
    while steps and steps[-1].choice:  # what ends the pattern is never taken back
        steps = (*steps[:-1], steps[-1]._replace(choice=False)) if steps[-1].needed else steps[:-1]
    for step in steps:
        if step.choice:
            chain = 1 + max((length for chars, length in open_choices if chars & step.chars), default=0)
            longest = max(longest, chain)
        if step.needed and step.chars:
            open_choices = [(chars, length) for chars, length in open_choices if chars & step.chars]
        if step.choice:
            open_choices.append((step.chars, chain))
    return longest


def _union(steps: Iterable[_Step]) -> frozenset[str]:
    return frozenset[str]().union(*(step.chars for step in steps))


def _exclusive(left: _Piece, right: _Piece) -> bool:
    """Whether no text can begin with both: at some fixed place they need different characters."""
    places = zip(*([step for step in piece.steps if step.chars] for piece in (left, right)), strict=False)
    for one, other in places:
        if one.choice or other.choice or not (one.needed and other.needed):
            return False
        if not one.chars & other.chars:
            return True
    return False


def _single(text: str) -> _Piece:
    found = re.compile(text, re.IGNORECASE)
    return _Piece(text, (_Step(frozenset(filter(found.fullmatch, _SAMPLE))),))


class _PatternReader:
    """A pattern being read, left to right."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def ahead(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def alternatives(self, depth: int) -> _Piece:
        branches = [self.sequence(depth)]
        while self.ahead("|"):
            branches.append(self.sequence(depth))
        if len(branches) == 1:
            return branches[0]
        hardest = max(branches, key=lambda branch: sum(step.choice for step in branch.steps))
        overlapping = not all(starmap(_exclusive, combinations(branches, 2)))
        union = _union(step for branch in branches for step in branch.steps)
        return _Piece(
            "|".join(branch.text for branch in branches),
            (*(step._replace(needed=False) for step in hardest.steps), _Step(union, choice=overlapping)),
            any(branch.varies for branch in branches),
            overlapping or any(branch.ambiguous for branch in branches),
        )

    def sequence(self, depth: int) -> _Piece:
        pieces = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            pieces.append(self.quantified(self.atom(depth)))
        return _Piece(
            "".join(piece.text for piece in pieces),
            tuple(step for piece in pieces for step in piece.steps),
            any(piece.varies for piece in pieces),
            any(piece.ambiguous for piece in pieces),
        )

    def atom(self, depth: int) -> _Piece:
        char = self.pattern[self.at]
        self.at += 1
        if char == "(":
            return self.group(depth + 1)
        if char == "[":
            return self.character_class()
        if char == "\\":
            return self.escape()
        if char in "*+?" or (char == "{" and _COUNT.match(self.pattern, self.at - 1)):
            raise _malformed("nothing to repeat")
        if char in "^$":
            return _Piece(r"\Z" if char == "$" else "^", (_Step(frozenset()),))
        return _single(r"[^\n\r\u2028\u2029]" if char == "." else re.escape(char))

    def group(self, depth: int) -> _Piece:
        if depth > MAX_DEPTH:
            raise PatternError(f"nests more than {MAX_DEPTH} groups", "flatten it")
        kind = ""
        if self.ahead("?"):
            kind = next((f"?{mark}" for mark in (":", "=", "!", "<=", "<!") if self.ahead(mark)), "")
            name = _NAME.match(self.pattern, self.at)
            if not kind and name:
                kind = f"?P<{name[1]}>"
                self.at = name.end()
            if not kind:
                raise _malformed("unknown kind of group; for any case use $regexi")
        inner = self.alternatives(depth)
        if not self.ahead(")"):
            raise _malformed("a '(' without its ')'")
        return inner._replace(text=f"({kind}{inner.text})")

    def character_class(self) -> _Piece:
        negated = self.ahead("^")
        out = []
        while not self.ahead("]"):
            char = self.pattern[self.at : self.at + 1]
            self.at += 1
            if not char:
                raise _malformed("a '[' without its ']'")
            if char == "\\":
                out.append(self.escaped(in_class=True))
            else:
                out.append(f"\\{char}" if char in "[&~|" else char)
        if not out:
            return _single(r"[\s\S]" if negated else r"[^\s\S]")
        try:
            return _single(f"[{'^' if negated else ''}{''.join(out)}]")
        except re.error as error:
            raise _malformed(str(error)) from error

    def escape(self) -> _Piece:
        text = self.escaped(in_class=False)
        if text.startswith("(?a:"):
            return _Piece(text, (_Step(frozenset()),))
        if text[1:].isdigit() and text[1] != "0":
            return _Piece(text, (_Step(_ANY),), varies=True)
        return _single(text)

    def escaped(self, *, in_class: bool) -> str:
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if not char:
            raise _malformed("it ends with a '\\'")
        if char in "dw":
            return _CLASSES[char] if in_class else f"[{_CLASSES[char]}]"
        if char in "DW" and not in_class:
            return f"[^{_CLASSES[char.lower()]}]"
        if char in "bB" and not in_class:
            return rf"(?a:\{char})"
        if char in "123456789" and not in_class:
            return f"\\{char}"
        hexadecimal = _HEX.match(self.pattern, self.at - 1)
        if hexadecimal:
            self.at = hexadecimal.end()
            return f"\\{hexadecimal[0]}"
        if char in "sSntrfvDWb":
            return f"\\{char}"
        return r"\x00" if char == "0" else re.escape(char)

    def quantified(self, piece: _Piece) -> _Piece:
        start = self.at
        count = _COUNT.match(self.pattern, self.at)
        if count:
            low = int(count[1][:6])
            high = low if not count[2] else int(count[3][:6]) if count[3] else None
            self.at = count.end()
        elif self.at < len(self.pattern) and self.pattern[self.at] in "*+?":
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.pattern[self.at]]
            self.at += 1
        else:
            return piece
        self.ahead("?")
        sign = self.pattern[start : self.at]
        if self.at < len(self.pattern) and self.pattern[self.at] in "*+?":
            raise _malformed("multiple repeat")
        if not any(step.chars for step in piece.steps):
            raise _malformed("nothing to repeat")
        if high is None or high > 1:
            _check_repeatable(piece)
        if low == high:
            return piece._replace(text=piece.text + sign, steps=piece.steps * min(low, 3))
        steps = (_Step(_union(piece.steps), choice=True, needed=low > 0),)
        return _Piece(piece.text + sign, steps, varies=True, ambiguous=piece.ambiguous)


def _check_repeatable(piece: _Piece) -> None:
    """Refuse to repeat what can match one text in several ways: the ways would multiply with each round."""
    if piece.ambiguous:
        rule = "repeats alternatives of which one can begin like another"
        raise PatternError(rule, "let no text match two of them")
    if piece.varies and not _delimited(piece.steps):
        raise PatternError("repeats a repeat", "write it without a repeat inside a repeat")


def _delimited(steps: tuple[_Step, ...]) -> bool:
    """Whether a round begins or ends with a character that nothing else in it can match."""
    for border, others in ((steps[0], steps[1:]), (steps[-1], steps[:-1])):
        if border.needed and border.chars and not border.choice and not border.chars & _union(others):
            return _longest_chain((*others, border)) <= 1
    return False
