"""JavaScript's regular expressions on RE2, an engine whose time is linear in the text.

A pattern is read by the grammar of ECMAScript 2024 (22.2.1, with Annex B) as `new RegExp(pattern)` reads it without the
`u` flag: over UTF-16 code units. It is written again for RE2 over a small alphabet of bytes, one for all code units
that the pattern does not tell apart. What RE2 cannot match with the same meaning (lookaround, back-references) is
rejected with a remedy. RE2's time is at most proportional to the size of its program times the length of the text, so
the longest text that is matched follows from the program.
"""

import re
from collections.abc import Callable

import re2

from engine.catalog.conditions.js_charset import (
    ANY,
    CLASSES,
    LINE_ENDS,
    NEVER,
    Intervals,
    complement,
    make_alphabet,
    normalize,
)
from engine.catalog.conditions.js_charset import (
    ignore_case as fold_case,
)

MAX_PATTERN = 1_000
MAX_DEPTH = 50
MAX_TEXT = 10_000
"""The longest text that any pattern is matched against; a longer one does not match."""
MIN_TEXT = 150
"""A pattern that cannot be matched against texts of this length in time is rejected."""
MAX_STEPS = 30_000
"""Instructions times characters: a step costs at most some 15 ns, so a match costs at most half a millisecond."""
MAX_REPEAT = 1_000
"""RE2's own limit of a counted repeat."""

_PLACEHOLDER = re.compile("<([0-9]+)>")
_COUNT = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}")
_HEX = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})")
_OCTAL = re.compile(r"[0-3][0-7]{0,2}|[4-7][0-7]?")
_NAME = re.compile(r"<([A-Za-z_$][A-Za-z0-9_$]*)>")
_POSIX = re.compile(r"\[[:.=][a-z]+[:.=]\]")
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}


class PatternError(ValueError):
    """The error of a pattern that is malformed or unsupported by RE2: its `rule` and `remedy`."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(f"{rule}; {remedy}")
        self.rule = rule
        self.remedy = remedy


def compile_pattern(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """A test whether `pattern` matches anywhere in a text.

    Raises:
        PatternError: if the pattern is malformed, has no equivalent in RE2, or could take too long.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"is longer than {MAX_PATTERN} characters", "split it into several under $or")
    parser = _PatternParser(utf16_units(pattern), fold=ignore_case)
    translated = parser.parse_alternatives(0)
    if parser.at < len(parser.pattern):
        raise _malformed("a ')' without its '('")
    alphabet = make_alphabet(parser.classes)
    if alphabet is None:
        raise PatternError("names too many different characters", "split it into several under $or")
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.encoding = re2.Options.Encoding.LATIN1
    program = _PLACEHOLDER.sub(lambda place: _byte_class(alphabet.members[int(place[1])]), translated)
    try:
        compiled = re2.compile(program.encode("latin-1"), options)
    except re2.error as error:
        raise PatternError("is too large", "shorten its counted repeats, or split it under $or") from error
    longest = min(MAX_TEXT, MAX_STEPS // compiled.programsize)
    if longest < MIN_TEXT:
        raise PatternError("is too large", "shorten its counted repeats, or split it under $or")
    return lambda text: len(text) <= longest and compiled.search(alphabet.encode(text)) is not None


def _byte_class(members: bytes) -> str:
    """A set of bytes in RE2's syntax of a class."""
    return f"[{''.join(f'{chr(92)}x{byte:02x}' for byte in members)}]" if members else r"[^\x00-\xff]"


def utf16_units(text: str) -> str:
    """The text as one Python character per UTF-16 code unit."""
    if text.isascii():
        return text
    data = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(data[at] | data[at + 1] << 8) for at in range(0, len(data), 2))


def _malformed(what: str) -> PatternError:
    return PatternError(f"is not a regular expression ({what})", "correct it")


def _unsupported(what: str) -> PatternError:
    return PatternError(f"has {what}, which cannot be matched in linear time", "write it with $and, $or and $not")


class _PatternParser:
    """A recursive-descent parser that translates one pattern; `at` is the position of the next code unit.

    With `fold` every class takes all code units that are equal but for case. A class is written as a placeholder, as
    its bytes are known once `classes` is complete.
    """

    def __init__(self, pattern: str, *, fold: bool) -> None:
        self.pattern = pattern
        self.fold = fold
        self.classes: list[Intervals] = []
        self.at = 0
        self.groups = _count_groups(pattern)
        self.names: set[str] = set()
        self.named = _NAME.search(pattern.replace("\\\\", "")) is not None and "(?<" in pattern

    def accept(self, text: str) -> bool:
        """Whether `text` comes next; if so, moves past it."""
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def parse_alternatives(self, depth: int) -> str:
        branches = [self.parse_sequence(depth)]
        while self.accept("|"):
            branches.append(self.parse_sequence(depth))
        return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

    def parse_sequence(self, depth: int) -> str:
        parts = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self.parse_term(depth))
        return "".join(parts)

    def parse_term(self, depth: int) -> str:
        """An assertion, or an atom with its quantifier."""
        char = self.pattern[self.at]
        self.at += 1
        if char in "^$":
            return self.check_unrepeated(r"\A" if char == "^" else r"\z")
        if char == "\\" and self.pattern[self.at : self.at + 1] in {"b", "B"}:
            self.at += 1
            return self.check_unrepeated(f"\\{self.pattern[self.at - 1]}")
        if char == "(":
            return self.parse_quantifier(self.parse_group(depth + 1))
        if char in "*+?" or (char == "{" and _COUNT.match(self.pattern, self.at - 1)):
            raise _malformed("nothing to repeat")
        if char == "[":
            return self.parse_quantifier(self.class_of(self.parse_class()))
        units = self.parse_escape(in_class=False) if char == "\\" else _of(char)
        return self.parse_quantifier(self.class_of(complement(LINE_ENDS) if char == "." else self.folded(units)))

    def class_of(self, units: Intervals) -> str:
        """The placeholder of a class."""
        if units not in self.classes:
            self.classes.append(units)
        return f"<{self.classes.index(units)}>"

    def folded(self, units: Intervals) -> Intervals:
        return fold_case(units) if self.fold else units

    def check_unrepeated(self, assertion: str) -> str:
        """Parses the end of an assertion, after which JavaScript allows no quantifier."""
        following = self.pattern[self.at : self.at + 1]
        if (following and following in "*+?") or _COUNT.match(self.pattern, self.at):
            raise _malformed("nothing to repeat")
        return assertion

    def parse_group(self, depth: int) -> str:
        """Parses a group after its `(`: its kind, its alternatives and the `)`."""
        if depth > MAX_DEPTH:
            raise PatternError(f"nests more than {MAX_DEPTH} groups", "flatten it")
        if self.accept("?"):
            if any(self.accept(mark) for mark in ("=", "!", "<=", "<!")):
                raise _unsupported("a lookaround")
            name = _NAME.match(self.pattern, self.at)
            if name:
                if name[1] in self.names:
                    raise _malformed("two groups of one name")
                self.names.add(name[1])
                self.at = name.end()
            elif not self.accept(":"):
                raise _malformed("unknown kind of group; for any case use $regexi")
        inner = self.parse_alternatives(depth)
        if not self.accept(")"):
            raise _malformed("a '(' without its ')'")
        return f"(?:{inner})"

    def parse_class(self) -> Intervals:
        """Parses a character class after its `[`, up to its `]`."""
        negated = self.accept("^")
        ranges: list[tuple[int, int]] = []
        while not self.accept("]"):
            posix = _POSIX.match(self.pattern, self.at)
            if posix:  # JavaScript reads [[:alpha:]] as one of [ : a l p h, and then a ]
                raise PatternError(f"has the POSIX class {posix[0]}, which JavaScript does not know", "write a-zA-Z")
            low = self.parse_class_atom()
            if self.pattern[self.at : self.at + 1] == "-" and self.pattern[self.at + 1 : self.at + 2] not in {"]", ""}:
                self.at += 1
                high = self.parse_class_atom()
                if _is_single(low) and _is_single(high):
                    if low[0][0] > high[0][0]:
                        raise _malformed("a range of a class out of order")
                    ranges.append((low[0][0], high[0][0]))
                    continue
                ranges += [(0x2D, 0x2D), *high]  # Annex B: a class such as \d is no end of a range
            ranges += low
        units = self.folded(normalize(ranges))
        return (complement(units) if units else ANY) if negated else (units or NEVER)

    def parse_class_atom(self) -> Intervals:
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if not char:
            raise _malformed("a '[' without its ']'")
        return self.parse_escape(in_class=True) if char == "\\" else _of(char)

    def parse_escape(self, *, in_class: bool) -> Intervals:
        r"""The code units that an escape matches, parsed after its `\`."""
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if not char:
            raise _malformed("it ends with a '\\'")
        if char in CLASSES:
            return CLASSES[char]
        if char in _CONTROLS:
            return _of(chr(_CONTROLS[char]))
        if char == "b" and in_class:
            return _of("\b")
        hexadecimal = _HEX.match(self.pattern, self.at - 1)
        if hexadecimal:
            self.at = hexadecimal.end()
            code = int(hexadecimal[1] or hexadecimal[2], 16)
            return ((code, code),)
        letter = self.pattern[self.at : self.at + 1]
        if char == "c":
            if letter.isascii() and (letter.isalpha() or (in_class and letter and letter in "0123456789_")):
                self.at += 1
                return _of(chr(ord(letter) % 32))
            self.at -= 1  # Annex B: the backslash is a literal character
            return _of("\\")
        if char.isascii() and char.isdigit():
            return self.parse_number(in_class=in_class)
        if char == "k" and self.named and not in_class:
            raise _unsupported("a back-reference")
        return _of(char)

    def parse_number(self, *, in_class: bool) -> Intervals:
        """A back-reference, or by Annex B an octal number or the digit itself."""
        start = self.at - 1
        digits = re.compile("[0-9]+").match(self.pattern, start)
        if digits and not in_class and digits[0][0] != "0" and int(digits[0][:6]) <= self.groups:
            raise _unsupported("a back-reference")
        octal = _OCTAL.match(self.pattern, start)
        if octal is None:  # 8 and 9
            return _of(self.pattern[start])
        self.at = octal.end()
        code = int(octal[0], 8)
        return ((code, code),)

    def parse_quantifier(self, atom: str) -> str:
        """The atom with the quantifier that follows it, if any."""
        start = self.at
        count = _COUNT.match(self.pattern, self.at)
        if count:
            low, high = int(count[1][:7]), int(count[3][:7]) if count[3] else None
            if high is not None and low > high:
                raise _malformed("the numbers of a repeat out of order")
            if max(low, high or 0) > MAX_REPEAT:
                raise PatternError(f"repeats more than {MAX_REPEAT} times", "shorten the repeat")
            self.at = count.end()
        elif self.at < len(self.pattern) and self.pattern[self.at] in "*+?":
            self.at += 1
        else:
            return atom
        sign = self.pattern[start : self.at]
        self.accept("?")  # lazy or greedy, a text matches or does not
        if self.at < len(self.pattern) and (self.pattern[self.at] in "*+?" or _COUNT.match(self.pattern, self.at)):
            raise _malformed("multiple repeat")
        return f"{atom}{sign}"


def _of(char: str) -> Intervals:
    """The interval of one character."""
    return ((ord(char), ord(char)),)


def _is_single(units: Intervals) -> bool:
    """Whether the set has exactly one code unit."""
    return len(units) == 1 and units[0][0] == units[0][1]


def _count_groups(pattern: str) -> int:
    """The number of capturing groups of a pattern: a number up to this is a back-reference."""
    found, in_class, at = 0, False, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(" and (pattern[at + 1 : at + 2] != "?" or _NAME.match(pattern, at + 2)):
            found += 1
        at += 1
    return found
