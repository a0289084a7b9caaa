"""Patterns as JavaScript's `RegExp` reads them, run by Python's `re`; those that could stall a decision are refused."""

import re
from collections.abc import Callable


class PatternError(ValueError):
    """A pattern that is no regular expression, or one that could take forever: `rule` and `remedy`."""

    def __init__(self, rule: str, remedy: str) -> None:
        super().__init__(f"{rule}; {remedy}")
        self.rule = rule
        self.remedy = remedy


def read_pattern(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """Whether `pattern` is found anywhere in a text; raises `PatternError` with the rule and the remedy."""
    try:
        found = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"is no regular expression ({error})", "correct it") from error
    return lambda text: found.search(text) is not None
