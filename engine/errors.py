"""The errors that Counterpoint raises. A message gives the place, the value, the rule and the remedy, in that order."""

import msgspec


class Problem(msgspec.Struct, frozen=True, order=True):
    """One mistake in a YAML file: the file, the path inside it, and the rule with its remedy."""

    file: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file} {self.path}: {self.message}" if self.path else f"{self.file}: {self.message}"


class CounterpointError(Exception):
    """The base of all errors that are expected and explained; any other exception is a bug."""


class CatalogError(CounterpointError):
    """The YAML has problems, all of which are listed; the running plan is unchanged."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadInput(CounterpointError):
    """An argument, a setting or a file breaks a rule."""


class StoreUnavailable(CounterpointError):
    """Redis did not answer in time, or refused."""


class JournalError(CounterpointError):
    """A spool or the log cannot be written, or cannot be read as written."""


class StoppedError(CounterpointError):
    """The caller asked to stop before the work was done. It is no failure: a verb exits with 0."""

    def __init__(self, message: str | None = "stopped before the work was done") -> None:
        super().__init__(message)
