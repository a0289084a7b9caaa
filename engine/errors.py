"""What can go wrong, said once: every message gives the value, the rule and the remedy."""

import msgspec


class Problem(msgspec.Struct, frozen=True, order=True):
    """One mistake in a file: which file, the path inside it, and what to do about it."""

    file: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file} {self.path}: {self.message}" if self.path else f"{self.file}: {self.message}"


class CounterpointError(Exception):
    """Counterpoint could not go on."""


class CatalogError(CounterpointError):
    """The YAML has problems; the plan that ran before keeps running."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadInput(CounterpointError):
    """A person's input breaks a rule: the place, the value, the rule and the remedy in one line."""


class StoreUnavailable(CounterpointError):
    """Redis did not answer in time."""


class JournalError(CounterpointError):
    """The log could not be written or read as it must be."""


class StoppedError(CounterpointError):
    """Told to stop before the work began; that is no failure."""
