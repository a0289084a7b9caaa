"""The form of a finding."""

from typing import Literal

import msgspec

Severity = Literal["ok", "warning", "problem"]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check: a `problem` breaks a promise now, a `warning` may later; else there is no `remedy`."""

    subject: str
    severity: Severity
    detail: str
    remedy: str = ""


def ok(subject: str, detail: str) -> Diagnosis:
    """A check that found nothing wrong."""
    return Diagnosis(subject=subject, severity="ok", detail=detail)


def warning(subject: str, detail: str, remedy: str) -> Diagnosis:
    """What may break a promise later."""
    return Diagnosis(subject=subject, severity="warning", detail=detail, remedy=remedy)


def problem(subject: str, detail: str, remedy: str) -> Diagnosis:
    """What breaks a promise now."""
    return Diagnosis(subject=subject, severity="problem", detail=detail, remedy=remedy)
