"""The overview: decisions due today, running experiments, and the engine's health."""

import time

from engine.analysis.checks.lights import Light
from engine.analysis.measure.activity import ActivityReport, DailyActivity
from engine.dashboard.board.refresh import log_time
from engine.dashboard.board.results import Job
from engine.dashboard.figures import DAY, format_age, format_money
from engine.dashboard.tables import DataTable, TableCell, columns_of, count_cell, money_cell, text_cell
from engine.dashboard.views.experiments import experiments_table
from engine.dashboard.views.summary import keep_fresh, summaries
from engine.dashboard.web import Page, PageVisit
from engine.service.endpoints.health import check_readiness

SHOWN_RUNNING = 20
OLD_LOG_SECONDS = 60.0
"""Age of the log from which the overview asks whether the collector runs."""


async def overview(visit: PageVisit) -> Page:
    """The first page."""
    desk = visit.desk
    found = summaries(desk)
    activity = desk.results.read(Job("activity", ""))
    report = activity.value if activity is not None and isinstance(activity.value, ActivityReport) else None
    running = [one for one in found if one.state in {"running", "paused", "scheduled"}]
    keep_fresh(desk, running[:SHOWN_RUNNING])
    return Page(
        template="overview.html",
        title="Overview",
        context={
            "decisions": [one for one in found if one.needs_decision],
            "running": running,
            "others": len(found) - len(running),
            "health": await engine_lights(visit),
            "today": report.days[-1] if report and report.days else None,
            "money_today": format_money(report.days[-1].revenue, desk.plan.currency) if report and report.days else "",
            "currency": desk.plan.currency,
            "computed": activity.at if activity else None,
        },
        tables=(experiments_table("experiments", running), _activity_table(report, desk.plan.currency)),
    )


async def engine_lights(visit: PageVisit) -> list[Light]:
    """The state of the engine's dependencies."""
    desk = visit.desk
    ready = await check_readiness(desk.worker)
    found = [
        Light(
            name="Store",
            tone="good" if ready.store and not ready.degraded else "bad",
            text="answers" if ready.store else "does not answer: decisions are fallbacks. Start it, or see the log.",
        )
    ]
    if ready.plan_problems:
        more = f"The changed folder has {len(ready.plan_problems)} problems and is not run; the editor lists them."
        found.append(Light(name="Plan", tone="bad", text=more))
    else:
        found.append(Light(name="Plan", tone="good", text=f"{ready.plan} runs"))
    if ready.snapshot_age is not None:
        text = f"read {format_age(time.time() - ready.snapshot_age)}"
        found.append(Light(name="Learnt policies", tone="good" if ready.snapshot_age < 30 else "warn", text=text))
    written = log_time(desk.settings.log)
    if written is None:
        text = "Nothing was written yet: send a decision, and check that the collector runs."
        found.append(Light(name="Log", tone="warn", text=text))
    else:
        is_old = time.time() - written > OLD_LOG_SECONDS
        text = f"written {format_age(written)}"
        found.append(Light(name="Log", tone="muted" if is_old else "good", text=text))
    found += [
        Light(name="Breaker", tone="bad", text=f"{key} is open: its placement shows the fallback.")
        for key in desk.worker.follower.tripped
    ]
    known = {"the store does not answer"}
    found += [
        Light(name="Engine", tone="bad", text=f"{why[:1].upper()}{why[1:]}.")
        for why in ready.why
        if why.partition(";")[0] not in known
    ]
    return found


def _activity_table(report: ActivityReport | None, currency: str) -> DataTable:
    days = report.days[::-1] if report else []
    return DataTable(
        name="activity",
        title="The last days",
        columns=columns_of(
            {
                "day": "Day",
                "decisions": "Decisions",
                "exposures": "Seen",
                "events": "Events",
                "orders": "Orders",
                "revenue": "Revenue",
            },
            figures=("decisions", "exposures", "events", "orders", "revenue"),
        ),
        rows=[_activity_row(day, currency) for day in days[:14]],
        empty="Nothing is in the log yet. Ask for a decision: POST /v1/decide, see /docs.",
    )


def _activity_row(day: DailyActivity, currency: str) -> list[TableCell]:
    return [
        text_cell(time.strftime("%Y-%m-%d", time.gmtime(day.day + DAY / 2))),
        count_cell(day.decisions),
        count_cell(day.exposures),
        count_cell(day.events),
        count_cell(day.orders),
        money_cell(day.revenue, currency),
    ]
