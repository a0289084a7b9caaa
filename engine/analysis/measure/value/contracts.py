"""Contracts of a table: the renewals reached, their retention, and the contracts left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.analysis.measure.columns import check_flags, check_numbers
from engine.analysis.measure.value.sbg import ContractRetention, fit_contracts
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

MOST_RENEWALS: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class ContractSample:
    """The contracts of a table with and without a renewal, and the retention of those with one.

    A contract before its first renewal says nothing about renewals.
    """

    used: int
    early: int
    retention: ContractRetention | NotEstimable


def read_contracts(source: EventSource, discount: float) -> ContractSample | None:
    """The retention of a table of contracts: `tenure`, the renewal reached, and whether it `ended` then.

    Args:
        source: of tables; a log has no contracts.
        discount: per year.

    Raises:
        BadInput: if a tenure is no whole number from 0, or an end is neither yes nor no.
    """
    if source.log_dir is not None or source.column("tenure") is None:
        return None
    ended = source.require("tenure", "ended")["ended"]
    check_numbers(source, "tenure", filled=True)
    check_flags(source, "ended", filled=True)
    tenure, flag = source.number_sql("tenure"), f"CAST(trim(CAST({ended} AS VARCHAR)) AS BOOLEAN)"
    found = source.engine.run(
        f"SELECT {tenure}, count(*) FILTER ({flag}), count(*) FILTER (NOT {flag}) FROM {source.table.sql} GROUP BY 1"  # nosec B608
    )
    rows = [tuple(float(str(cell)) for cell in row) for row in found]
    for at, _, _ in rows:
        if not (at.is_integer() and 0 <= at <= MOST_RENEWALS):
            raise BadInput(
                f"{source.place}: a contract has the tenure {at:g}; it is the renewal reached, a whole number from 0 "
                f"to {MOST_RENEWALS:,}"
            )
    left, staying = np.zeros((2, max((int(row[0]) for row in rows), default=0) + 1))
    for at, gone, running in rows:
        left[int(at)], staying[int(at)] = gone, running
    retention = fit_contracts(left[1:], staying[1:], discount=(1 + discount) ** (1 / 12) - 1)
    return ContractSample(
        used=round(float((left + staying)[1:].sum())), early=round(float(left[0] + staying[0])), retention=retention
    )


def contract_sentence(contracts: ContractSample) -> str:
    """A sentence on the contracts' retention and the number left out."""
    found = contracts.retention
    if isinstance(found, NotEstimable):
        text = f"The retention of {contracts.used:,} contracts cannot be estimated: {found.not_estimable}."
    else:
        text = (
            f"Of {contracts.used:,} contracts, {found.retention[0]:.1%} pass the first renewal; a new one lasts "
            f"{found.lifetime:,.1f} periods ({found.low:,.1f} to {found.high:,.1f}), discounted."
        )
    if contracts.early:
        text += f" {contracts.early:,} more with tenure 0 have reached no renewal and are left out."
    return text
