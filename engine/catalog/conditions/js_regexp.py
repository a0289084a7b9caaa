"""JavaScript's regular expressions translated to Python's `re`; a pattern that could stall a decision is rejected.

`re` backtracks, so its running time may grow with a power of the text's length, or exponentially. The parser reads a
pattern as a sequence of steps, each with the set of sample characters that it can match. From these follows a bound:
the longest chain of choices (repeats, optional parts, alternatives with a common beginning) in which each choice can
match characters that its neighbour gives back. The degree of the running time is the length of this chain:

| longest chain | verdict |
|---|---|
| 0, 1, 2 | accepted, for texts up to `MAX_TEXT[chain]` characters; a longer text does not match |
| 3 and more | rejected |
| repeat inside a repeat | rejected, unless a delimiter separates the rounds: the time would be exponential |
"""

import re
from collections.abc import Callable, Iterable
from itertools import combinations, starmap
from typing import NamedTuple

MAX_PATTERN = 1_000
MAX_DEPTH = 20
MAX_TEXT = (10_000, 2_000, 500)
"""The longest text that a pattern is matched against, by the length of its longest chain of choices."""

_SAMPLE = [chr(code) for code in range(9, 127)] + list("\x00\xa0éÉÿß€漢\u2028😀")
_ANY = frozenset(_SAMPLE)
_COUNT = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}")
_HEX = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}")
_NAME = re.compile(r"<([A-Za-z_][A-Za-z0-9_]*)>")
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}


class PatternError(ValueError):
    """A pattern that is malformed, or could take too long: the `rule` that it breaks and the `remedy`."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(f"{rule}; {remedy}")
        self.rule = rule
        self.remedy = remedy


def compile_pattern(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """A test whether `pattern` matches anywhere in a text.

    Raises:
        PatternError: if the pattern is malformed or could take too long.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"is longer than {MAX_PATTERN} characters", "split it into several under $or")
    parser = _PatternParser(pattern)
    whole = parser.parse_alternatives(0)
    if parser.at < len(pattern):
        raise _malformed("a ')' without its '('")
    chain = _longest_chain(whole.steps)
    if chain >= len(MAX_TEXT):
        raise PatternError("repeats too often over the same characters", "split it into several $regex under $and")
    try:
        compiled = re.compile(whole.text, re.IGNORECASE if ignore_case else 0)
    except (re.error, OverflowError) as error:
        raise _malformed(str(error)) from error
    longest = MAX_TEXT[chain]
    return lambda text: len(text) <= longest and compiled.search(text) is not None


class _Step(NamedTuple):
    """One step of a match: one of `chars`, with `choice` a choice of how many; without `chars` a position.

    A step is `needed` where every match takes at least one character in it.
    """

    chars: frozenset[str]
    choice: bool = False
    needed: bool = True


class _Piece(NamedTuple):
    """A part of the pattern: its translation and steps, whether its length `varies`, whether alternatives overlap."""

    text: str
    steps: tuple[_Step, ...]
    varies: bool = False
    ambiguous: bool = False


def _malformed(what: str) -> PatternError:
    return PatternError(f"is no regular expression ({what})", "correct it")


def _longest_chain(steps: tuple[_Step, ...]) -> int:
    """The largest number of choices that can pass characters on to each other: the degree of the running time."""
    longest = 0
    open_choices: list[tuple[frozenset[str], int]] = []
    while steps and steps[-1].choice:  # nothing after it can fail, so `re` never backtracks into it
        steps = (*steps[:-1], steps[-1]._replace(choice=False)) if steps[-1].needed else steps[:-1]
    for step in steps:
        if step.choice:
            chain = 1 + max((length for chars, length in open_choices if chars & step.chars), default=0)
            longest = max(longest, chain)
        # A character that an open choice cannot match separates it from all later choices.
        if step.needed and step.chars:
            open_choices = [(chars, length) for chars, length in open_choices if chars & step.chars]
        if step.choice:
            open_choices.append((step.chars, chain))
    return longest


def _union(steps: Iterable[_Step]) -> frozenset[str]:
    return frozenset[str]().union(*(step.chars for step in steps))


def _exclusive(left: _Piece, right: _Piece) -> bool:
    """Whether no text can match the beginning of both: at some fixed place they need different characters."""
    places = zip(*([step for step in piece.steps if step.chars] for piece in (left, right)), strict=False)
    for one, other in places:
        if one.choice or other.choice or not (one.needed and other.needed):
            return False
        if not one.chars & other.chars:
            return True
    return False


def _single(text: str) -> _Piece:
    """The piece of one character or character class, given as Python's `re` writes it."""
    compiled = re.compile(text, re.IGNORECASE)  # the larger set of characters is safe for either mode
    return _Piece(text, (_Step(frozenset(filter(compiled.fullmatch, _SAMPLE))),))


class _PatternParser:
    """A recursive-descent parser of one pattern; `at` is the place of the next character."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def accept(self, text: str) -> bool:
        """Whether `text` comes next; if so, move past it."""
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def parse_alternatives(self, depth: int) -> _Piece:
        branches = [self.parse_sequence(depth)]
        while self.accept("|"):
            branches.append(self.parse_sequence(depth))
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

    def parse_sequence(self, depth: int) -> _Piece:
        pieces = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            pieces.append(self.parse_quantifier(self.parse_atom(depth)))
        return _Piece(
            "".join(piece.text for piece in pieces),
            tuple(step for piece in pieces for step in piece.steps),
            any(piece.varies for piece in pieces),
            any(piece.ambiguous for piece in pieces),
        )

    def parse_atom(self, depth: int) -> _Piece:
        """A group, a class, an escape, an anchor or one character."""
        char = self.pattern[self.at]
        self.at += 1
        if char == "(":
            return self.parse_group(depth + 1)
        if char == "[":
            return self.parse_class()
        if char == "\\":
            return self.parse_escape()
        if char in "*+?" or (char == "{" and _COUNT.match(self.pattern, self.at - 1)):
            raise _malformed("nothing to repeat")
        if char in "^$":
            return _Piece(r"\Z" if char == "$" else "^", (_Step(frozenset()),))
        return _single(r"[^\n\r\u2028\u2029]" if char == "." else re.escape(char))

    def parse_group(self, depth: int) -> _Piece:
        """What follows a `(`: its kind, its alternatives and the `)`."""
        if depth > MAX_DEPTH:
            raise PatternError(f"nests more than {MAX_DEPTH} groups", "flatten it")
        kind = ""
        if self.accept("?"):
            kind = next((f"?{mark}" for mark in (":", "=", "!", "<=", "<!") if self.accept(mark)), "")
            name = _NAME.match(self.pattern, self.at)
            if not kind and name:
                kind = f"?P<{name[1]}>"
                self.at = name.end()
            if not kind:
                raise _malformed("unknown kind of group; for any case use $regexi")
        inner = self.parse_alternatives(depth)
        if not self.accept(")"):
            raise _malformed("a '(' without its ')'")
        return inner._replace(text=f"({kind}{inner.text})")

    def parse_class(self) -> _Piece:
        """What follows a `[`, up to its `]`."""
        negated = self.accept("^")
        out = []
        while not self.accept("]"):
            char = self.pattern[self.at : self.at + 1]
            self.at += 1
            if not char:
                raise _malformed("a '[' without its ']'")
            if char == "\\":
                out.append(self.translate_escape(in_class=True))
            else:
                out.append(f"\\{char}" if char in "[&~|" else char)
        if not out:
            return _single(r"[\s\S]" if negated else r"[^\s\S]")
        try:
            return _single(f"[{'^' if negated else ''}{''.join(out)}]")
        except re.error as error:
            raise _malformed(str(error)) from error

    def parse_escape(self) -> _Piece:
        r"""What follows a `\` outside a class: a position, a back-reference or one character."""
        text = self.translate_escape(in_class=False)
        if text.startswith("(?a:"):
            return _Piece(text, (_Step(frozenset()),))
        if text[1:].isdigit() and text[1] != "0":
            return _Piece(text, (_Step(_ANY),), varies=True)
        return _single(text)

    def translate_escape(self, *, in_class: bool) -> str:
        r"""The escape as `re` writes it; JavaScript's `\d` and `\w` are ASCII, also in Unicode text."""
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

    def parse_quantifier(self, piece: _Piece) -> _Piece:
        """The piece with the quantifier that follows it, if any."""
        start = self.at
        count = _COUNT.match(self.pattern, self.at)
        if count:
            low = int(count[1][:6])  # six digits exceed any text that is matched
            high = low if not count[2] else int(count[3][:6]) if count[3] else None
            self.at = count.end()
        elif self.at < len(self.pattern) and self.pattern[self.at] in "*+?":
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self.pattern[self.at]]
            self.at += 1
        else:
            return piece
        self.accept("?")
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
    """Reject a repeat of a piece that can match one text in several ways: the ways multiply with each round.

    Raises:
        PatternError: with the rule and the remedy.
    """
    if piece.ambiguous:
        rule = "repeats alternatives that can begin alike"
        raise PatternError(rule, "write them so that no text can match two of them")
    if piece.varies and not _delimited(piece.steps):
        raise PatternError("repeats a repeat", "write it without a repeat inside a repeat")


def _delimited(steps: tuple[_Step, ...]) -> bool:
    """Whether a round begins or ends with a character that nothing else in it can match: rounds cannot shift."""
    for border, others in ((steps[0], steps[1:]), (steps[-1], steps[:-1])):
        if border.needed and border.chars and not border.choice and not border.chars & _union(others):
            return _longest_chain((*others, border)) <= 1
    return False
