"""All measurement reports of a log from one reading, sharing tables and fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.analysis.measure.channels import measure_channels
from engine.analysis.measure.journeys.attribution import AttributionOptions, measure_attribution
from engine.analysis.measure.journeys.funnel import measure_funnel
from engine.analysis.measure.journeys.journeys import measure_journeys
from engine.analysis.measure.kpis.report import measure_kpis
from engine.analysis.measure.opportunity.report import measure_opportunity
from engine.analysis.measure.programme import measure_programme, plan_files
from engine.analysis.measure.satisfaction import measure_satisfaction
from engine.analysis.measure.value.clv import measure_clv
from engine.analysis.measure.value.cohorts import measure_cohorts
from engine.analysis.measure.value.ledger import archived_offers, measure_ledger
from engine.analysis.measure.value.rfm import measure_rfm
from engine.vocabulary import CLICK, PURCHASE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.analysis.measure.model import MeasureReport
    from engine.analysis.measure.sources import EventSource
    from engine.catalog.archive import Archive
    from engine.catalog.plan.plan import Plan

STEPS: Final = (CLICK, PURCHASE)


def measure_all(
    source: EventSource, plan: Plan, *, archive: Archive | None = None, steps: Sequence[str] | None = None
) -> dict[str, MeasureReport]:
    """Every report by its name, each with its default options.

    Args:
        source: of a log.
        plan: of the shop.
        archive: of the plans that ran, for experiments whose file was deleted, and what offers cost then.
        steps: of the funnel; a click and an order if left out.

    Raises:
        BadInput: if the log cannot be read, or an answer is off its scale.
    """
    files, whys = plan_files(plan)
    build: dict[str, Callable[[], MeasureReport]] = {
        "kpis": lambda: measure_kpis(source, plan, archive=archive),
        "opportunity": lambda: measure_opportunity(source),
        "programme": lambda: measure_programme(source, files, archive=archive, whys=whys),
        "channels": lambda: measure_channels(source),
        "clv": lambda: source.once("clv", lambda: measure_clv(source, with_traits=False))[0],
        "rfm": lambda: measure_rfm(source)[0],
        "cohorts": lambda: measure_cohorts(source),
        "funnel": lambda: measure_funnel(source, list(steps or STEPS)),
        "journeys": lambda: measure_journeys(source),
        "attribution": lambda: measure_attribution(source, AttributionOptions(by="offer")),
        "ledger": lambda: measure_ledger(source, archived_offers(archive, plan), plan.version),
        "satisfaction": lambda: source.once("satisfaction", lambda: measure_satisfaction(source)),
    }
    return {name: one() for name, one in build.items()}
