"""The programme: every experiment of the log, its effect on revenue, and their sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.channels import holdout_difference
from engine.analysis.measure.columns import to_microseconds
from engine.analysis.measure.model import (
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportCell,
    ReportTable,
    count_of,
    units_of,
)
from engine.analysis.stats.bayes import estimate_prior
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput, CatalogError

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource
    from engine.catalog.archive import Archive
    from engine.catalog.plan.plan import Plan
    from engine.catalog.spec.experiment import ExperimentSpec

CONTROL: Final = "control"
ENDED: Final = ("shipped", "stopped", "deleted")
LEAST_EACH: Final = 30
LEAST_PAST: Final = 3
_NOTE = "Revenue per exposed customer against control's, of those whose window is over; the others wait."
_LIMITS = [
    "The best of many noisy effects is too large: the naive sum is measured, the shrunken one expected.",
    "Sums add effects of separate experiments; the holdout measures all of these changes together.",
    "A customer whose window is not over yet counts in no effect, so an experiment that just began has few.",
    "Each effect is of the newest version, on revenue within the window; an experiment's own metrics are in `analyze`.",
]
# A new version assigns every customer again, so the newest alone counts. Who saw two variants is left out.
_UNITS = """
WITH decided AS (
    SELECT decision_id, key, customer, variant, version FROM {decisions}
    WHERE kind = 'experiment' AND variant IS NOT NULL AND reason IN ('assigned', 'sticky') AND customer <> ''
), versions AS (
    SELECT key, arg_max(version, time) AS version FROM {decisions}
    WHERE kind = 'experiment' AND time <= {until} GROUP BY ALL
), seen AS (
    SELECT decided.key, decided.customer, min(variant) AS variant, min(shown.time) AS time
    FROM decided JOIN versions ON versions.key = decided.key AND versions.version IS NOT DISTINCT FROM decided.version
    JOIN {exposures} AS shown ON shown.decision_id = decided.decision_id AND shown.key = decided.key
    WHERE shown.time <= {until}
    GROUP BY ALL HAVING min(variant) = max(variant)
)
SELECT seen.key, variant, seen.customer, any_value(seen.time) AS time, coalesce(sum(revenue), 0) AS revenue,
    any_value(seen.time) + {window} <= {until} AS is_ripe
FROM seen LEFT JOIN {orders} AS placed
    ON placed.customer = seen.customer AND placed.time BETWEEN seen.time AND seen.time + {window}
GROUP BY ALL
"""
_VARIANTS = """
SELECT key, variant, count(*) FILTER (is_ripe), coalesce(avg(revenue) FILTER (is_ripe), 0),
    coalesce(var_samp(revenue) FILTER (is_ripe), 0), min(time) / 1e6, max(time) / 1e6, count(*)
FROM units GROUP BY ALL ORDER BY key, variant
"""
_PLANS = "SELECT key, arg_max(plan, time) FROM {decisions} WHERE kind = 'experiment' GROUP BY ALL"


class PastEffect(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment's variant: its revenue per customer against `control`, measured and shrunken.

    `customers` are those of both whose window is over, `waiting` those whose window is open, who count in no effect.
    `why` is what its file, or the archived one, says under `decided.why`: what was learnt; empty where it says nothing.
    """

    experiment: str
    status: str
    variant: str
    control: str
    customers: int
    waiting: int
    days: float
    measured: Effect | NotEstimable
    shrunken: float | None
    outcome: str
    why: str = ""


class ProgrammeReport(MeasureReport, frozen=True, kw_only=True):
    """All experiments, and sums over those with a gaining variant, whose interval lies above 0.

    `naive` sums the measured effect of each one's variant with the largest such gain, shipped or not; `shrunken` sums
    the shrunken effects of the same variants. `waiting` is the share of exposed customers whose window is open.
    """

    experiments: int
    by_status: dict[str, int]
    """The numbers of experiments by the status in their file; `deleted` counts those without a file."""
    per_month: float | None
    decision_days: float | None
    """The median of days from first to last exposure of experiments that ended: shipped, stopped or deleted."""
    waiting: float | None
    effects: list[PastEffect]
    naive: float | NotEstimable
    shrunken: float | NotEstimable
    holdout: Effect | NotEstimable

    def tables(self) -> list[ReportTable]:
        """The sums beside the holdout, and a row per variant."""
        sums: list[list[ReportCell]] = [
            ["sum of measured effects", None if isinstance(self.naive, NotEstimable) else self.naive, None, None],
            ["sum of shrunken effects", None if isinstance(self.shrunken, NotEstimable) else self.shrunken, None, None],
        ]
        held = self.holdout
        sums.append(
            ["holdout", *([None] * 3 if isinstance(held, NotEstimable) else [held.estimate, held.low, held.high])]
        )
        rows: list[list[ReportCell]] = []
        for row in self.effects:
            known = row.measured
            ends: list[ReportCell] = [None] * 3
            if isinstance(known, Effect):
                ends = [known.estimate, known.low, known.high]
            rows.append(
                [
                    *(row.experiment, row.status, row.variant, row.control, row.customers, row.waiting, row.days),
                    *(*ends, row.shrunken, row.outcome, row.why or None),
                ]
            )
        columns = ["experiment", "file", "variant", "control", "customers", "waiting", "days", "effect", "low", "high"]
        columns += ["shrunken", "outcome", "why"]
        money, units = units_of("money", 1, 2, 3), units_of("score", 6) | units_of("money", 7, 8, 9, 10)
        pace: list[list[ReportCell]] = [[f"experiments: {name}", count] for name, count in self.by_status.items()]
        outcomes = dict.fromkeys((row.outcome for row in self.effects), 0)
        for row in self.effects:
            outcomes[row.outcome] += 1
        pace += [[f"variants: {name}", count] for name, count in outcomes.items()]
        pace += [["experiments per month", self.per_month], ["median days to a decision", self.decision_days]]
        return [
            ReportTable(
                title="All together, per customer", columns=["what", "effect", "low", "high"], rows=sums, units=money
            ),
            ReportTable(title="Pace", columns=["what", "number"], rows=pace, units={1: "score"}),
            ReportTable(title="Experiments", columns=columns, rows=rows, note=_NOTE, units=units),
        ]

    def picture(self) -> Picture | None:
        """The measured effects with their intervals."""
        marks = [
            PictureMark(name=f"{row.experiment} {row.variant}", value=e.estimate, low=e.low, high=e.high)
            for row in self.effects
            if isinstance(e := row.measured, Effect)
        ]
        return Picture(shape="bars", title="Effect on revenue per customer", marks=marks) if marks else None


def measure_programme(
    source: EventSource,
    files: Mapping[str, tuple[str, str]],
    *,
    archive: Archive | None = None,
    whys: Mapping[str, str] | None = None,
    window_days: float = 14.0,
    alpha: float = 0.05,
) -> ProgrammeReport:
    """Every experiment of a log, including those whose file was deleted.

    Args:
        source: of a log.
        files: the status and the control of each experiment that has a file.
        archive: of the plans that ran, for the control and the `why` of an experiment whose file was deleted.
        whys: what each experiment's file says under `decided.why`.
        window_days: days after a customer's first exposure whose revenue counts; who has fewer until now is left out.
        alpha: one minus the intervals' coverage.

    Raises:
        BadInput: if the source is a table, or the window is no number of days.
    """
    rows = _read_variants(source, to_microseconds("window", window_days))
    keys = list(dict.fromkeys(key for key, _, _ in rows))
    effects = []
    archived = _archived_specs(source, archive, [key for key in keys if key not in files])
    known = {key: one.decided.why for key, one in archived.items() if one.decided and one.decided.why} | dict(
        whys or {}
    )
    for key in keys:
        variants = {variant: cells for name, variant, cells in rows if name == key}
        status, first = files.get(key, ("deleted", archived[key].variants[0].key if key in archived else CONTROL))
        effects += _effects((key, status), _choose_control(variants, [first, CONTROL]), variants, alpha)
    effects = [msgspec.structs.replace(row, why=known.get(row.experiment, "")) for row in _shrink(effects)]
    chosen = _best(effects)
    naive = [row.measured.estimate for row in chosen if isinstance(row.measured, Effect)]
    shrunken = [row.shrunken for row in chosen if row.shrunken is not None]
    months, waiting = _span_and_waiting([cells for _, _, cells in rows])
    holdout = holdout_difference(source, alpha)
    statuses = {key: files.get(key, ("deleted", ""))[0] for key in keys}
    return ProgrammeReport(
        report="programme",
        as_of=source.as_of,
        sentence=_sentence(keys, effects, holdout, waiting),
        money=_money(holdout),
        standing="causal",
        limits=_LIMITS,
        currency=source.currency,
        experiments=len(keys),
        by_status=dict(Counter(statuses.values())),
        decision_days=_decision_days(rows, statuses),
        per_month=len(keys) / months if months >= 1 else None,
        waiting=waiting,
        effects=effects,
        naive=sum(naive) if naive else NotEstimable("no variant's gain is significant yet"),
        shrunken=sum(shrunken) if shrunken else _why_unshrunken(effects),
        holdout=holdout,
    )


def plan_files(plan: Plan) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Each experiment's status and control in a plan, and the reason of its decision if stated."""
    specs = {key: one.spec for key, one in plan.experiments.items()}
    files = {key: (str(spec.status), spec.variants[0].key) for key, spec in specs.items()}
    return files, {key: spec.decided.why for key, spec in specs.items() if spec.decided and spec.decided.why}


def _read_variants(source: EventSource, window: int) -> list[tuple[str, str, list[float]]]:
    """Each variant's experiment, name and numbers, from the table `units` that this creates."""
    tables = {name: source.log_rows(name) for name in ("decisions", "exposures")}
    source.create("units", _UNITS, window=str(window), until=str(source.last or 0), **tables)
    return [(str(r[0]), str(r[1]), [float(str(cell)) for cell in r[2:]]) for r in source.rows(_VARIANTS)]


def _span_and_waiting(rows: list[list[float]]) -> tuple[float, float | None]:
    """The months from the first to the last exposure, and the share of customers with an open window."""
    if not rows:
        return 0.0, None
    exposed, ripe = (sum(cells[at] for cells in rows) for at in (5, 0))
    months = (max(cells[4] for cells in rows) - min(cells[3] for cells in rows)) / 86_400 / 30.4
    return months, 1 - ripe / exposed if exposed else None


def _decision_days(rows: list[tuple[str, str, list[float]]], statuses: Mapping[str, str]) -> float | None:
    """The median days from first to last exposure of ended experiments."""
    spans = []
    for key, status in statuses.items():
        own = [cells for name, _, cells in rows if name == key]
        if status in ENDED and own:
            spans.append((max(c[4] for c in own) - min(c[3] for c in own)) / 86_400)
    return median(spans) if spans else None


def _archived_specs(source: EventSource, archive: Archive | None, keys: list[str]) -> dict[str, ExperimentSpec]:
    """Each experiment from the archived plan of its last decision, if that is in the archive."""
    if archive is None or not keys:
        return {}

    @cache
    def specs(version: str) -> dict[str, ExperimentSpec]:
        try:
            found = archive.read_specs(version)
        except (BadInput, CatalogError, OSError):  # it ran elsewhere, or by rules of its time
            return {}
        return {key: one for key, one in found.experiments.items() if one.variants}

    plans = {str(key): str(plan) for key, plan in source.rows(_PLANS, decisions=source.log_rows("decisions"))}
    archived = {key: specs(plans[key]).get(key) for key in keys if key in plans}
    return {key: spec for key, spec in archived.items() if spec is not None}


def _choose_control(variants: Iterable[str], likely: Iterable[str]) -> str:
    """The first likely name of a control that was seen, else the first variant by name."""
    seen = sorted(variants)
    return next((name for name in likely if name in seen), seen[0])


def _why_unshrunken(effects: list[PastEffect]) -> NotEstimable:
    known = sum(isinstance(row.measured, Effect) for row in effects)
    if known < LEAST_PAST:
        return NotEstimable(f"{known} variants have an effect; shrinking needs {LEAST_PAST}")
    return NotEstimable("no variant's gain is significant yet")


def _effects(named: tuple[str, str], control: str, variants: dict[str, list[float]], alpha: float) -> list[PastEffect]:
    key, status = named
    n, mean, spread, first, _, exposed = variants[control]
    found = []
    for variant, (m, other, between, begun, ended, shown) in variants.items():
        if variant == control:
            continue
        measured: Effect | NotEstimable = NotEstimable(
            f"{n:.0f} and {m:.0f} customers whose window is over; an effect needs {LEAST_EACH} each"
        )
        se = (spread / n + between / m) ** 0.5 if min(n, m) >= LEAST_EACH else 0.0
        if min(n, m) >= LEAST_EACH and se == 0:
            measured = NotEstimable("all customers of each variant have the same revenue")
        elif se > 0:
            reach = critical_t(alpha, min(n, m) - 1) * se
            gain = other - mean
            measured = Effect(estimate=gain, low=gain - reach, high=gain + reach, se=se)
        found.append(
            PastEffect(
                experiment=key,
                status=status,
                variant=variant,
                control=control,
                customers=int(n + m),
                waiting=int(exposed + shown - n - m),
                days=max(0.0, ended - min(first, begun)) / 86_400,
                measured=measured,
                shrunken=None,
                outcome=_outcome(measured),
            )
        )
    return found


def _outcome(effect: Effect | NotEstimable) -> str:
    if isinstance(effect, NotEstimable):
        return "too few"
    return "gain" if effect.low > 0 else "loss" if effect.high < 0 else "nothing learnt"


def _shrink(effects: list[PastEffect]) -> list[PastEffect]:
    """The effects with their posterior means under a normal prior of all of them (empirical Bayes)."""
    known = [row.measured for row in effects if isinstance(row.measured, Effect)]
    if len(known) < LEAST_PAST:
        return effects
    prior = estimate_prior([one.estimate for one in known], [one.se for one in known])
    shrunken = []
    for row in effects:
        value = None
        if isinstance(row.measured, Effect):
            weight = prior.sd**2 / (prior.sd**2 + row.measured.se**2)
            value = prior.mean + weight * (row.measured.estimate - prior.mean)
        shrunken.append(msgspec.structs.replace(row, shrunken=value))
    return shrunken


def _best(effects: list[PastEffect]) -> list[PastEffect]:
    """The variant with the largest gain, for each experiment that gained."""
    best: dict[str, PastEffect] = {}
    for row in effects:
        if isinstance(row.measured, Effect) and row.measured.low > 0:
            known = best.get(row.experiment)
            if (
                known is None
                or not isinstance(known.measured, Effect)
                or row.measured.estimate > known.measured.estimate
            ):
                best[row.experiment] = row
    return list(best.values())


def _money(holdout: Effect | NotEstimable) -> MoneyFigure | NotEstimable:
    if isinstance(holdout, NotEstimable):
        return holdout
    what = "revenue per customer let in, less the holdout's"
    return MoneyFigure(what=what, estimate=holdout.estimate, low=holdout.low, high=holdout.high)


def _sentence(keys: list[str], effects: list[PastEffect], holdout: Effect | NotEstimable, waiting: float | None) -> str:
    if not keys:
        return "No experiment was seen by anyone yet."
    counts = {name: sum(row.outcome == name for row in effects) for name in ("gain", "loss", "nothing learnt")}
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    answer = ""
    if isinstance(holdout, Effect):
        answer = f"; customers let in spent {holdout.estimate:+,.2f} each against the holdout"
    left_out = f" {waiting:.1%} of the exposed customers wait for the end of their window." if waiting else ""
    return f"{count_of(len(keys), 'experiment')}; the variants: {text}{answer}.{left_out}"
