"""Customer lifetime value: the expected orders of today's customers until a horizon, and who is still active."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

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
from engine.analysis.measure.value.bg_nbd import (
    BgNbd,
    OrderHistory,
    chance_alive,
    churned_share,
    expected_orders,
    fit_bg_nbd,
)
from engine.analysis.measure.value.clv_tables import value_tables
from engine.analysis.measure.value.contracts import ContractSample, contract_sentence, read_contracts
from engine.analysis.measure.value.costs import CostToServe, measure_costs, read_costs
from engine.analysis.measure.value.customer_values import CustomerValues, read_customer_values
from engine.analysis.measure.value.experiment_value import VariantValue, compare_values
from engine.analysis.measure.value.gamma_gamma import GammaGamma, expected_order_worth, fit_gamma_gamma
from engine.analysis.measure.value.sbg import ContractRetention
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource
    from engine.analysis.measure.value.likelihood import LikelihoodFit
    from policies.batches import Floats

DAYS: Final = {"day": 1.0, "week": 7.0}
STEPS: Final = 4
"""Parts of the horizon; what is ordered in one is discounted from its middle."""
SAMPLE: Final = 4000
"""Customers by whose values the relative standard error of a total is computed."""
_LIMITS = [
    "It is a forecast from past orders, without new customers or what the shop changes; it is not an effect.",
    "It has no costs but those that events state; the value after cost to serve takes today's cost per order.",
    "The interval is of the expected total, by the uncertainty of the parameters. What is ordered varies around it.",
    "A customer without a repeat order counts as alive with certainty, as the model (BG/NBD) has it.",
    "The model assumes that what customers spend per order does not depend on how often they order.",
]


class ClvOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The horizon and discount of a CLV report: days ahead, discount per year, and the unit of the model's times.

    With an `experiment` the value is compared between its variants, against `control`.
    """

    horizon: float = 365.0
    discount: float = 0.1
    unit: str = "week"
    experiment: str | None = None
    control: str | None = None


class CustomerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Customers by first channel: the expected number still active, and their worth in the horizon."""

    name: str
    customers: int
    alive: float
    orders: float
    value: float | None
    spent: float


class ClvReport(MeasureReport, frozen=True, kw_only=True):
    """The models, totals in the horizon and groups; `contracts` is the contracts' retention if requested."""

    options: ClvOptions
    orders_model: BgNbd | NotEstimable
    worth_model: GammaGamma | NotEstimable
    customers: int
    alive: float | NotEstimable
    expected_orders: MoneyFigure | NotEstimable
    """Orders expected in the horizon, with their interval; its unit is orders."""
    groups: list[CustomerGroup]
    deciles: list[float]
    """The value in the horizon of each tenth of the customers, the most valuable first."""
    contracts: ContractRetention | NotEstimable | None = None
    churn: Effect | NotEstimable
    """The share of customers who are expected to have left."""
    cost: CostToServe | NotEstimable
    variants: list[VariantValue] = msgspec.field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        """Customers by first channel, the tenths, and the models' parameters."""
        rows: list[list[ReportCell]] = [[g.name, g.customers, g.alive, g.orders, g.value, g.spent] for g in self.groups]
        columns = ["first channel", "customers", "expected alive", "expected orders", "expected value", "spent so far"]
        units = units_of("count", 2, 3) | units_of("money", 4, 5)
        found = [ReportTable(title="Customers by first channel", columns=columns, rows=rows, units=units)]
        for title, model in (("Orders: BG/NBD", self.orders_model), ("Worth: Gamma-Gamma", self.worth_model)):
            if isinstance(model, NotEstimable):
                continue
            fields = msgspec.structs.asdict(model)
            table: list[list[ReportCell]] = [[name.replace("_", "-"), float(value)] for name, value in fields.items()]
            note = f"Times are in {self.options.unit}s." if isinstance(model, BgNbd) else ""
            found.append(ReportTable(title=title, columns=["parameter", "value"], rows=table, note=note))
        if isinstance(self.contracts, ContractRetention):
            kept = zip(self.contracts.survival, self.contracts.retention, strict=True)
            stays: list[list[ReportCell]] = [[at, stay, keep, 1 - keep] for at, (stay, keep) in enumerate(kept, 1)]
            names = ["period", "survival", "retention", "churn"]
            found.append(ReportTable(title="Contracts", columns=names, rows=stays, units=units_of("share", 1, 2, 3)))
        found += value_tables(self.churn, self.cost, self.variants)
        return found

    def picture(self) -> Picture | None:
        """The value of each tenth of the customers."""
        if not self.deciles:
            return None
        marks = [
            PictureMark(name=f"{'top' if at == 1 else f'{at * 10 - 10} to'} {at * 10} %", value=value)
            for at, value in enumerate(self.deciles, 1)
        ]
        return Picture(shape="bars", title="Expected value of each tenth of the customers", marks=marks, unit="money")


@dataclass(frozen=True, kw_only=True)
class CustomerForecast:
    """The models' predictions for each customer (n,): the chance to be alive, orders and value in the horizon."""

    alive: Floats
    orders: Floats
    value: Floats | None


CustomerTraits = dict[str, dict[str, float]]
"""Values by trait, by customer."""


def measure_clv(
    source: EventSource, options: ClvOptions | None = None, *, with_traits: bool = True
) -> tuple[ClvReport, CustomerTraits]:
    """The report, and each customer's traits `clv`, `p_alive` and `expected_orders`, empty if not estimable.

    They are a dict per customer, so who needs the report alone asks for none.

    Raises:
        BadInput: if the source cannot be read, or an option is out of range.
    """
    options = options or ClvOptions()
    if options.unit not in DAYS:
        raise BadInput(f"--unit {options.unit}: is not a unit of time; use day or week")
    if not (0 < options.horizon < math.inf and -1 < options.discount < math.inf):
        raise BadInput(
            f"--horizon {options.horizon:g}, --discount {options.discount:g}: give days and a share per year"
        )
    contracts = read_contracts(source, options.discount)
    values = read_customer_values(source, DAYS[options.unit], of_contracts=contracts is not None)
    fitted, spending = fit_bg_nbd(values.history), _fit_worth(values)
    forecast = None
    if not isinstance(fitted, NotEstimable):
        worth = None if isinstance(spending, NotEstimable) else _worth(spending[1].theta, values)
        forecast = _forecast(fitted[1].theta, values.history, worth, options)
    report = _report(source, options, values, forecast, (fitted, spending, contracts))
    traits = _traits(values, forecast) if with_traits or options.experiment is not None else {}
    if options.experiment is not None:
        ahead = {name: one["clv"] for name, one in traits.items() if "clv" in one}
        if not ahead:
            raise BadInput(f"--experiment {options.experiment}: the customers' value cannot be estimated yet")
        variants = compare_values(source, options.experiment, options.control, ahead)
        report = msgspec.structs.replace(report, variants=variants)
    return report, traits


def _fit_worth(values: CustomerValues) -> tuple[GammaGamma, LikelihoodFit] | NotEstimable:
    return fit_gamma_gamma(values.history.x, values.worth, values.history.weight)


def _worth(theta: Floats, values: CustomerValues) -> Floats:
    return expected_order_worth(theta, values.history.x, values.worth)


def _forecast(theta: Floats, history: OrderHistory, worth: Floats | None, options: ClvOptions) -> CustomerForecast:
    """Each customer's expectations; each part of the horizon is discounted from its middle."""
    unit = DAYS[options.unit]
    ends = np.linspace(0, options.horizon, STEPS + 1)[1:]
    orders, discounted, before = np.zeros(history.x.size), np.zeros(history.x.size), np.zeros(history.x.size)
    for end in ends.tolist():
        orders = expected_orders(theta, history, end / unit)
        middle = end - options.horizon / STEPS / 2
        discounted += (orders - before) * (1 + options.discount) ** (-middle / 365)
        before = orders
    value = None if worth is None else discounted * worth
    return CustomerForecast(alive=chance_alive(theta, history), orders=orders, value=value)


def _interval(
    what: str,
    total: float,
    values: CustomerValues,
    fits: tuple[LikelihoodFit, LikelihoodFit | None],
    options: ClvOptions,
) -> MoneyFigure:
    """A total with its interval on the logarithmic scale; the models' parameters vary independently."""
    orders, spending = fits
    size = values.history.x.size
    at = np.random.default_rng(1).choice(size, min(size, SAMPLE), replace=False)
    past = values.history
    part = OrderHistory(x=past.x[at], t=past.t[at], observed=past.observed[at], weight=past.weight[at])
    some = CustomerValues(names=[], rows=at, channels=[], history=part, worth=values.worth[at], spent=values.spent[at])
    plain = None if spending is None else _worth(spending.theta, some)

    def by_orders(theta: Floats) -> float:
        found = _forecast(theta, part, plain, options)
        return float(np.log((found.orders if found.value is None else found.value).sum()))

    variance = orders.relative_se(by_orders) ** 2
    if spending is not None:
        expected = _forecast(orders.theta, part, np.ones(at.size), options).value
        weights = np.ones(at.size) if expected is None else expected
        variance += spending.relative_se(lambda theta: float(np.log(weights @ _worth(theta, some)))) ** 2
    reach = float(np.exp(1.959964 * variance**0.5))
    return MoneyFigure(what=what, estimate=total, low=total / reach, high=total * reach)


Fits = tuple[
    "tuple[BgNbd, LikelihoodFit] | NotEstimable",
    "tuple[GammaGamma, LikelihoodFit] | NotEstimable",
    ContractSample | None,
]


def _report(
    source: EventSource, options: ClvOptions, values: CustomerValues, forecast: CustomerForecast | None, fits: Fits
) -> ClvReport:
    fitted, spending, contracts = fits
    money: MoneyFigure | NotEstimable
    orders: MoneyFigure | NotEstimable
    if isinstance(fitted, NotEstimable) or forecast is None:
        orders = money = fitted if isinstance(fitted, NotEstimable) else NotEstimable("there are no customers")
        if contracts is not None and not values.names:
            orders = money = NotEstimable("contracts have no orders, and the table does not say what they pay")
    else:
        what = f"orders expected in {options.horizon:g} days"
        orders = _interval(what, float(forecast.orders.sum()), values, (fitted[1], None), options)
        if isinstance(spending, NotEstimable) or forecast.value is None:
            money = spending if isinstance(spending, NotEstimable) else NotEstimable("the orders have no revenue")
        else:
            what = (
                f"value of today's customers in {options.horizon:g} days, discounted by {options.discount:.0%} a year"
            )
            money = _interval(what, float(forecast.value.sum()), values, (fitted[1], spending[1]), options)
    costs = (
        NotEstimable("there are no customers")
        if not values.names
        else measure_costs(read_costs(source), values.names, values.history.x + 1, values.spent, ahead=(money, orders))
    )
    return ClvReport(
        report="clv",
        as_of=source.as_of if source.has_times else "",
        sentence=contract_sentence(contracts)
        if contracts is not None and not values.names
        else _customer_sentence(values, forecast, options, orders)
        + ("" if contracts is None else f" {contract_sentence(contracts)}"),
        money=money,
        standing="descriptive",
        limits=_LIMITS,
        currency=source.currency,
        options=options,
        orders_model=fitted if isinstance(fitted, NotEstimable) else fitted[0],
        worth_model=spending if isinstance(spending, NotEstimable) else spending[0],
        customers=len(values.names),
        alive=float(forecast.alive.sum()) if forecast is not None else NotEstimable("there is no model of orders"),
        expected_orders=orders,
        groups=_groups(values, forecast),
        deciles=_deciles(forecast),
        contracts=None if contracts is None else contracts.retention,
        churn=fitted if isinstance(fitted, NotEstimable) else churned_share(fitted[1], values.history),
        cost=costs,
    )


def _customer_sentence(
    values: CustomerValues, forecast: CustomerForecast | None, options: ClvOptions, orders: MoneyFigure | NotEstimable
) -> str:
    if forecast is None or isinstance(orders, NotEstimable):
        return f"The value of {count_of(len(values.names), 'customer')} cannot be estimated yet."
    alive = float(forecast.alive.sum())
    return (
        f"Of {len(values.names):,} customers, {alive:,.0f} are expected to be customers still, and to order "
        f"{orders.estimate:,.0f} times in {options.horizon:g} days."
    )


def _groups(values: CustomerValues, forecast: CustomerForecast | None) -> list[CustomerGroup]:
    if forecast is None:
        return []
    names, which = np.unique(np.array(values.channels, dtype=np.str_), return_inverse=True)

    def total(part: Floats) -> Floats:
        return np.bincount(which, weights=part, minlength=names.size).astype(np.float64)

    sums = [total(part) for part in (np.ones(which.size), forecast.alive, forecast.orders, values.spent)]
    worth = None if forecast.value is None else total(forecast.value)
    return [
        CustomerGroup(
            name=str(name),
            customers=round(float(sums[0][at])),
            alive=float(sums[1][at]),
            orders=float(sums[2][at]),
            value=None if worth is None else float(worth[at]),
            spent=float(sums[3][at]),
        )
        for at, name in enumerate(names)
    ]


def _deciles(forecast: CustomerForecast | None) -> list[float]:
    if forecast is None or forecast.value is None:
        return []
    return [float(part.sum()) for part in np.array_split(np.sort(forecast.value)[::-1], 10)]


def _traits(values: CustomerValues, forecast: CustomerForecast | None) -> CustomerTraits:
    if forecast is None:
        return {}
    columns = {"p_alive": forecast.alive, "expected_orders": forecast.orders}
    if forecast.value is not None:
        columns["clv"] = forecast.value
    rounded = {name: np.round(column, 4).tolist() for name, column in columns.items()}
    return {
        values.names[at]: {trait: cells[at] for trait, cells in rounded.items()}
        for at in np.argsort(values.rows).tolist()
    }
