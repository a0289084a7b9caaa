"""The measurement reports on the pages, each with the command line's default options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.analysis.measure.channels import measure_channels
from engine.analysis.measure.journeys.attribution import AttributionOptions, measure_attribution
from engine.analysis.measure.journeys.funnel import measure_funnel
from engine.analysis.measure.journeys.journeys import measure_journeys
from engine.analysis.measure.kpis.report import measure_kpis
from engine.analysis.measure.opportunity.report import OpportunityOptions, measure_opportunity
from engine.analysis.measure.programme import measure_programme, plan_files
from engine.analysis.measure.satisfaction import SatisfactionOptions, measure_satisfaction
from engine.analysis.measure.value.clv import ClvOptions, measure_clv
from engine.analysis.measure.value.cohorts import measure_cohorts
from engine.analysis.measure.value.ledger import archived_offers, measure_ledger
from engine.analysis.measure.value.rfm import measure_rfm
from engine.catalog.archive import Archive
from engine.dashboard.board.measure_names import MEASURES
from engine.errors import BadInput
from engine.vocabulary import CLICK, PURCHASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.analysis.measure.model import MeasureReport
    from engine.analysis.measure.sources import EventSource
    from engine.catalog.plan.plan import Plan
    from engine.settings import Settings


def build_measure(settings: Settings, plan: Plan, name: str, source: EventSource) -> MeasureReport:
    """Build one report.

    Raises:
        BadInput: if there is none of this name, or the log does not have what it needs.
    """
    build = _BUILD.get(name)
    if build is None:
        raise BadInput(f"measure {name!r}: is not a report; the reports are {', '.join(MEASURES)}")
    return build(settings, plan, source)


def _programme(settings: Settings, plan: Plan, source: EventSource) -> MeasureReport:
    files, whys = plan_files(plan)
    archive = Archive(settings.plans)
    return measure_programme(source, files, archive=archive, whys=whys, window_days=14.0)


def _kpis(settings: Settings, plan: Plan, source: EventSource) -> MeasureReport:
    return measure_kpis(source, plan, archive=Archive(settings.plans))


def _ledger(settings: Settings, plan: Plan, source: EventSource) -> MeasureReport:
    return measure_ledger(source, archived_offers(Archive(settings.plans), plan), plan.version)


def _satisfaction(settings: Settings, plan: Plan, source: EventSource) -> MeasureReport:
    del settings, plan
    return measure_satisfaction(source, SatisfactionOptions(question="nps", asked=None, by=(), experiment=None))


_BUILD: dict[str, Callable[[Settings, Plan, EventSource], MeasureReport]] = {
    "programme": _programme,
    "kpis": _kpis,
    "opportunity": lambda _settings, _plan, source: measure_opportunity(source, OpportunityOptions()),
    "channels": lambda _settings, _plan, source: measure_channels(source),
    "clv": lambda _settings, _plan, source: measure_clv(source, ClvOptions(), with_traits=False)[0],
    "rfm": lambda _settings, _plan, source: measure_rfm(source)[0],
    "ledger": _ledger,
    "cohorts": lambda _settings, _plan, source: measure_cohorts(source, by="month", period="month"),
    "funnel": lambda _settings, _plan, source: measure_funnel(source, [CLICK, PURCHASE], window_days=7.0),
    "journeys": lambda _settings, _plan, source: measure_journeys(source, gap_days=7.0, zone="UTC"),
    "attribution": lambda _settings, _plan, source: measure_attribution(source, AttributionOptions()),
    "satisfaction": _satisfaction,
}
