"""Satisfaction: NPS, CSAT and CES with intervals, response rates, and how respondents differ from others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
from scipy.special import ndtri

from engine.analysis.measure.columns import check_flags, check_numbers, describe_missing_event
from engine.analysis.measure.model import (
    CellUnit,
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportCell,
    ReportTable,
    units_of,
)
from engine.analysis.measure.shares import ShareEstimate, net_promoter, wilson_share
from engine.analysis.sources.duckdb_expressions import identifier, text_literal
from engine.analysis.stats.estimate import NotEstimable
from engine.analysis.values.json_fields import json_number_sql
from engine.errors import BadInput
from engine.vocabulary import QUESTIONS

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

NPS, CSAT, CES = QUESTIONS
LEAST_ANSWERS: Final = 5
SCALES: Final = {CSAT: (5, 7, 10), CES: (7, 5, 10)}
"""The upper ends of scales that start at 1; the first that holds every answer is the scale."""
NOTABLE: Final = 0.1
"""A standardized difference from which those who answer count as different."""
_LIMITS = [
    "Only those who answered are counted; 'Who answered' shows how they differ from those who did not.",
    "A customer who answered a question several times counts with the newest answer.",
    "Channels and segments are compared as they are: their customers differ. A variant's difference is in `analyze`.",
]
# A question is named by a property, by the event's name up to an underscore, or by the property `survey`.
_LOG_ANSWERS = """
SELECT customer, time, channel, question, coalesce(
    {own},
    CASE WHEN question IN (split_part(event, '_', 1), properties ->> '$.survey')
        THEN CASE WHEN json_exists(properties, '$.score') THEN {score} ELSE {value} END END
) AS score {more}
FROM {feedback} CROSS JOIN (SELECT unnest({questions}) AS question) AS questions
WHERE contains(properties, question) OR starts_with(event, question)
"""
# A customer can send the log any number: what is off every scale is no answer, and must not end the report.
_ON_SCALE = "score BETWEEN CASE WHEN question = 'nps' THEN 0 ELSE 1 END AND 10"
_NEWEST = """
SELECT * FROM ({answers}) WHERE {kept}
QUALIFY row_number() OVER (PARTITION BY customer, question ORDER BY time DESC, score DESC) = 1
"""
_SCORES = """
SELECT question, CAST({column} AS VARCHAR), count(*), count(*) FILTER (score >= {top}), count(*) FILTER (score <= 6),
    avg(score), coalesce(stddev_samp(score), 0)
FROM answers WHERE question = {question} AND {column} IS NOT NULL GROUP BY ALL ORDER BY count(*) DESC, 2 LIMIT 30
"""
_BIAS = """
WITH worth AS (
    SELECT customer, count(*) FILTER (is_order) AS orders, sum(revenue) AS revenue FROM {orders} GROUP BY ALL
), people AS (
    SELECT asked.customer, coalesce(orders, 0) AS orders, coalesce(revenue, 0) AS revenue,
        answered.customer IS NOT NULL AS answered
    FROM ({asked}) AS asked LEFT JOIN worth USING (customer)
    LEFT JOIN (SELECT DISTINCT customer FROM answers) AS answered USING (customer)
)
SELECT answered, count(*), avg(orders), coalesce(var_samp(orders), 0), avg(revenue), coalesce(var_samp(revenue), 0)
FROM people GROUP BY ALL
"""


class SatisfactionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The question of a table's scores, the event that asks, and the groups of answers."""

    question: str = NPS
    asked: str | None = None
    by: tuple[str, ...] = ()
    experiment: str | None = None


class SatisfactionScore(msgspec.Struct, frozen=True, kw_only=True):
    """One question in one group.

    `score` is the share of the two best answers (csat) or of the three best (ces). For nps it is the interval of the
    net promoter score and its middle, the adjusted score; `raw` is the score itself, the one that is shown. `mean` is
    that of the answers, with a t interval.
    """

    question: str
    by: str
    group: str
    answers: int
    score: ShareEstimate | NotEstimable
    mean: ShareEstimate | NotEstimable
    raw: float | None = None


class ResponseCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The difference of respondents from others who were asked, in standard deviations."""

    measure: str
    answered: float
    silent: float
    difference: float
    p: float
    is_notable: bool


class SatisfactionReport(MeasureReport, frozen=True, kw_only=True):
    """The scores of all answers and of each group, the response rate, and its check."""

    scores: list[SatisfactionScore]
    response: ShareEstimate | NotEstimable
    checks: list[ResponseCheck]

    def tables(self) -> list[ReportTable]:
        """A row per question and group, and the check of the response."""
        columns = ["question", "by", "group", "answers", "score", "low", "high", "mean", "mean low", "mean high"]
        rows: list[list[ReportCell]] = []
        for row in self.scores:
            score = _cells(row.score)
            cells = [_shown(row) if score[0] is not None else None, *score[1:], *_cells(row.mean)]
            rows.append([row.question, row.by, row.group, row.answers, *cells])
        note = (
            "Score: nps from -100 to 100, its interval by the adjusted Wald method, around the adjusted score; csat "
            "and ces the share of the best answers, Wilson."
        )
        units = units_of("row", 4, 5, 6) | units_of("decimal", 7, 8, 9)
        kinds: list[CellUnit] = ["score" if row.question == NPS else "share" for row in self.scores]
        found = [ReportTable(title="Scores", columns=columns, rows=rows, note=note, units=units, row_units=kinds)]
        if self.checks:
            names = ["per customer", "answered", "silent", "difference in sd", "p"]
            checks: list[list[ReportCell]] = [[c.measure, c.answered, c.silent, c.difference, c.p] for c in self.checks]
            of: list[CellUnit] = ["money" if c.measure == "revenue" else "decimal" for c in self.checks]
            units = units_of("row", 1, 2) | {3: "decimal"}
            found.append(ReportTable(title="Who answered", columns=names, rows=checks, units=units, row_units=of))
        return found

    def picture(self) -> Picture | None:
        """The score of each group, for the question with the most answers."""
        shown = [row for row in self.scores if isinstance(row.score, ShareEstimate)]
        if not shown:
            return None
        question = max(shown, key=lambda row: row.answers).question
        marks = [
            PictureMark(name=f"{row.by} {row.group}".strip(), value=_shown(row), low=s.low, high=s.high)
            for row in shown
            if row.question == question and isinstance(s := row.score, ShareEstimate)
        ]
        return Picture(
            shape="bars",
            title=f"{question.upper()} by group",
            marks=marks,
            unit="number" if question == NPS else "share",
        )


def measure_satisfaction(source: EventSource, options: SatisfactionOptions | None = None) -> SatisfactionReport:
    """The scores of each customer's newest answers.

    Raises:
        BadInput: if the source cannot be read, has no column of scores, or an answer is off every scale.
    """
    options = options or SatisfactionOptions()
    columns = _create_answers(source, options)
    questions = [str(name) for (name,) in source.rows("SELECT DISTINCT question FROM answers ORDER BY 1")]
    scores = [row for question in questions for row in _score_groups(source, question, columns)]
    response, checks = _check_response(source, options)
    return SatisfactionReport(
        report="satisfaction",
        as_of=source.as_of if source.has_times else "",
        sentence=_sentence(scores, response, checks),
        money=_money(checks),
        standing="observational",
        limits=[*_LIMITS, *_count_off_scale(source)],
        currency=source.currency,
        scores=scores,
        response=response,
        checks=checks,
    )


def _create_answers(source: EventSource, options: SatisfactionOptions) -> dict[str, str]:
    """Stores the newest answers; returns the group columns as SQL, by name."""
    if source.log_dir is None:
        return _create_table_answers(source, options)
    by = {name: f"by_{at}" for at, name in enumerate(options.by)}
    more = "".join(f", properties ->> {text_literal(_pointer(name))} AS {column}" for name, column in by.items())
    answers = source.fill(_LOG_ANSWERS, **_answer_numbers(), more=more, questions=str(list(QUESTIONS)))
    if options.experiment is not None:
        by["variant"] = "variant"
        answers = (
            f"SELECT * FROM ({answers}) LEFT JOIN (SELECT customer, arg_min(variant, time) AS variant "
            f"FROM {source.log_rows('decisions')} WHERE kind = 'experiment' "
            f"AND key = {text_literal(options.experiment)} AND variant IS NOT NULL GROUP BY 1) AS assigned "
            "USING (customer)"  # nosec B608
        )
    source.create("answers", _NEWEST, answers=answers, kept=_ON_SCALE)
    return {"channel": "channel", **by}


def _count_off_scale(source: EventSource) -> list[str]:
    """A caveat of the report if the log has answers outside every scale."""
    if source.log_dir is None:
        return []
    answers = source.fill(_LOG_ANSWERS, **_answer_numbers(), more="", questions=str(list(QUESTIONS)))
    counted = source.rows(
        "SELECT question, count(*) FROM ({answers}) WHERE NOT ({kept}) GROUP BY 1 ORDER BY 1",
        answers=answers,
        kept=_ON_SCALE,
    )
    found = ", ".join(f"{count:,} of {question}" for question, count in counted)
    return [f"Answers off every scale were left out: {found}. {NPS} is 0 to 10, the others 1 to 10."] if found else []


def _answer_numbers() -> dict[str, str]:
    """SQL of the numbers that an event may give as its answer."""
    places = {"own": "'/' || question", "score": "'/score'", "value": "'/value'"}
    return {name: json_number_sql("properties", place) for name, place in places.items()}


def _pointer(name: str) -> str:
    return f'$."{name}"'


def _create_table_answers(source: EventSource, options: SatisfactionOptions) -> dict[str, str]:
    stated = [name for name in QUESTIONS if source.column(name) is not None and "score" not in source.names]
    scores = {name: source.number_sql(name) for name in stated}
    if not scores:
        source.require("score")
        scores = {options.question: source.number_sql("score")}
    check_numbers(source, *(stated or ["score"]))
    check_flags(source, "asked")
    customer = f"CAST({source.optional('customer', 'row_number() OVER ()')} AS VARCHAR)"
    time = source.time_sql() if source.has_times else "0"
    known = source.table.schema()
    missing = [name for name in options.by if name not in known]
    if missing:
        raise BadInput(f"--by {missing[0]}: {source.place} has no such column; it has {', '.join(known)}")
    by = {name: f"by_{at}" for at, name in enumerate(options.by)}
    more = "".join(f", {identifier(name)} AS {column}" for name, column in by.items())
    parts = [
        f"SELECT {customer} AS customer, {time} AS time, CAST({source.optional('channel')} AS VARCHAR) AS channel, "
        f"{text_literal(question)} AS question, {column} AS score{more} FROM {source.table.sql}"  # nosec B608
        for question, column in scores.items()
    ]
    source.create("answers", _NEWEST, answers=" UNION ALL ".join(parts), kept="score IS NOT NULL AND isfinite(score)")
    return {"channel": "channel", **by}


def _score_groups(source: EventSource, question: str, columns: dict[str, str]) -> list[SatisfactionScore]:
    named = text_literal(question)
    least, most = source.rows("SELECT min(score), max(score) FROM answers WHERE question = {q}", q=named)[0]
    low, high = float(least or 0), float(most or 0)
    scale = 10 if question == NPS else next((end for end in SCALES[question] if high <= end), None)
    if scale is None or low < (0 if question == NPS else 1) or high > scale:
        raise BadInput(f"{source.place}: {question} has answers from {low:g} to {high:g}, off its scale; correct them")
    top = {NPS: 9, CSAT: scale - 1, CES: scale - 2}[question]
    found = []
    for by, column in {"": "''", **columns}.items():
        rows = source.rows(_SCORES, column=column, question=named, top=str(top))
        found += [
            _score(question, by or "all", str(group), [float(value or 0) for value in numbers])
            for _, group, *numbers in rows
        ]
    return found


def _score(question: str, by: str, group: str, numbers: list[float]) -> SatisfactionScore:
    answers, top, bottom, mean, sd = numbers
    n = int(answers)
    if n < LEAST_ANSWERS:
        few = NotEstimable(f"{n} answers; a score needs {LEAST_ANSWERS}")
        return SatisfactionScore(question=question, by=by, group=group, answers=n, score=few, mean=few)
    is_nps = question == NPS
    score = net_promoter(int(top), int(answers - top - bottom), int(bottom)) if is_nps else wilson_share(top, n)
    average: ShareEstimate | NotEstimable = NotEstimable(f"all {n} answers are {mean:g}, so their spread is unknown")
    if sd > 0:
        reach = _reach(n) * sd / math.sqrt(n)
        average = ShareEstimate(estimate=mean, low=mean - reach, high=mean + reach, n=n)
    return SatisfactionScore(
        question=question,
        by=by,
        group=group,
        answers=n,
        score=score if score is not None else NotEstimable("no answer"),
        mean=average,
        raw=100 * (top - bottom) / n if is_nps else None,
    )


def _reach(n: int) -> float:
    from engine.analysis.stats.effects import critical_t  # noqa: PLC0415 # shared with the reports of experiments

    return float(critical_t(0.05, n - 1))


def _asked_sql(source: EventSource, options: SatisfactionOptions) -> str | None:
    """The customers who were asked; if no event asks, the log's customers with an order or any event."""
    if source.log_dir is not None:
        named = "" if options.asked is None else f" WHERE event = {text_literal(options.asked)}"
        return source.fill("SELECT DISTINCT customer FROM {visits}" + named)  # nosec B608
    if source.column("customer") is None:
        return None
    customer, asked = identifier(source.column("customer") or ""), source.column("asked")
    where = "" if asked is None else f" WHERE TRY_CAST(trim(CAST({identifier(asked)} AS VARCHAR)) AS BOOLEAN)"
    return f"SELECT DISTINCT CAST({customer} AS VARCHAR) AS customer FROM {source.table.sql}{where}"  # nosec B608


def _check_response(
    source: EventSource, options: SatisfactionOptions
) -> tuple[ShareEstimate | NotEstimable, list[ResponseCheck]]:
    asked = _asked_sql(source, options)
    if asked is None:
        return NotEstimable("the table does not list customers who were asked and did not answer"), []
    if source.has_times and (source.log_dir is not None or source.column("revenue") is not None):
        rows = source.rows(_BIAS, asked=asked)
    else:
        plain = (
            "SELECT p.customer IN (SELECT customer FROM answers), count(*), 0, 0, 0, 0 FROM ({asked}) AS p GROUP BY 1"
        )
        rows = source.rows(plain, asked=asked)
    by = {bool(row[0]): [float(value or 0) for value in row[1:]] for row in rows}
    n, m = (int(by[answered][0]) if answered in by else 0 for answered in (True, False))
    share = wilson_share(n, n + m)
    if share is None or n == 0:
        missing = "" if options.asked is None else describe_missing_event(source, {options.asked})
        return NotEstimable(missing or "nobody answered"), []
    if min(n, m) < LEAST_ANSWERS:
        return share, []
    places = {"orders": 1, "revenue": 3}
    return share, [
        _compare(name, by[True], by[False], at) for name, at in places.items() if by[True][at] or by[False][at]
    ]


def _compare(measure: str, answered: list[float], silent: list[float], at: int) -> ResponseCheck:
    (n, mean, spread), (m, other, between) = ((row[0], row[at], row[at + 1]) for row in (answered, silent))
    sd = math.sqrt((spread + between) / 2)
    se = math.sqrt(spread / n + between / m)
    difference = (mean - other) / sd if sd > 0 else 0.0
    p = math.erfc(abs(mean - other) / se / math.sqrt(2)) if se > 0 else 1.0
    is_notable = abs(difference) > NOTABLE and abs(mean - other) > float(ndtri(0.975)) * se
    return ResponseCheck(
        measure=measure, answered=mean, silent=other, difference=difference, p=p, is_notable=is_notable
    )


def _shown(row: SatisfactionScore) -> float:
    """The score to show: the plain net promoter score, within its adjusted interval."""
    if row.raw is not None or isinstance(row.score, NotEstimable):
        return row.raw or 0.0
    return row.score.estimate


def _cells(part: ShareEstimate | NotEstimable) -> list[ReportCell]:
    return [None, None, None] if isinstance(part, NotEstimable) else [part.estimate, part.low, part.high]


def _sentence(
    scores: list[SatisfactionScore], response: ShareEstimate | NotEstimable, checks: list[ResponseCheck]
) -> str:
    whole = [row for row in scores if row.by == "all" and isinstance(row.score, ShareEstimate)]
    if not whole:
        return "There are too few answers for a score."
    parts = []
    for row in whole:
        if isinstance(row.score, ShareEstimate):
            s, scale = row.score, 1 if row.question == NPS else 100
            unit = "" if row.question == NPS else " %"
            low, high = f"{scale * s.low:.1f}", f"{scale * s.high:.1f}"
            adjusted = "" if row.raw is None else f", adjusted {s.estimate:.1f}"
            parts.append(f"{row.question.upper()} is {scale * _shown(row):.1f}{unit} ({low} to {high}{adjusted})")
    if isinstance(response, ShareEstimate):
        parts.append(f"{response.estimate:.1%} of {response.n:,} answered")
    if any(check.is_notable for check in checks):
        parts.append("those who answered differ from those who did not")
    return f"{'; '.join(parts)}."


def _money(checks: list[ResponseCheck]) -> MoneyFigure | NotEstimable:
    worth = next((check for check in checks if check.measure == "revenue"), None)
    if worth is None:
        return NotEstimable("there are too few answers, or the spending of their customers is not known")
    return MoneyFigure(what="revenue of a customer who answered", estimate=worth.answered)
