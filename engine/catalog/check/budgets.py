"""Checks budgets: of one offer, and of `campaigns.yaml` that several offers share."""

from collections.abc import Iterator

from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.spec.fields import Span, seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.limits.stock import BudgetSpec, SharedBudgetSpec
from engine.catalog.spec.offer import OfferSpec
from engine.vocabulary import DAY

LONGEST_REFUND = 90 * DAY


def check_budget(specs: Specs, offer: OfferSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of an offer's budget: an amount that is too small or missing, a pace without a time."""
    budget = offer.budget
    if budget is None:
        return
    amount = budget.amount
    if budget.of is not None:
        yield from check_defined("budget.of", budget.of, known.budgets, "the budgets of campaigns.yaml")
        for name in ("amount", "per", "pace", "refunds"):
            if getattr(budget, name):
                message = (
                    f"is that of the budget {budget.of!r} in campaigns.yaml, which the offer shares; remove it here"
                )
                yield f"budget.{name}", message
        amount = specs.budgets[budget.of].amount if budget.of in specs.budgets else None
    elif amount is None:
        yield "budget.amount", "is missing; give an amount, or name a budget of campaigns.yaml with 'of'"
    else:
        yield from _check_pace(offer, budget)
        yield from _check_refunds("budget.refunds", budget.refunds)
    if amount is not None and budget.cost > amount:
        yield "budget.cost", f"{budget.cost:g} is more than the whole amount, so it is never shown; lower the cost"
    for channel, cost in budget.costs.items():
        path = f"budget.costs.{channel}"
        if channel not in offer.renderings:
            yield path, f"the offer has no rendering for {channel!r}; add one, or remove its cost"
        elif amount is not None and cost > amount:
            yield path, f"{cost:g} is more than the whole amount, so it is never shown there; lower it"


def check_shared_budget(specs: Specs, shared: SharedBudgetSpec) -> Iterator[FieldProblem]:
    """Yield the problems of a budget that offers share."""
    if any(offer.key == shared.key for offer in specs.every_offer()):
        yield "key", f"{shared.key!r} is the key of an offer too, whose own budget has that name; give it another"
    if shared.pace and shared.per is None:
        missing = [name for name in ("end", "start") if getattr(shared, name) is None]
        if missing:
            yield "pace", f"needs a time over which to spread it; give the budget an {' and a '.join(missing)}, or per"
    if shared.start and shared.end and shared.end <= shared.start:
        yield "end", f"{shared.end.isoformat()} is not after the start; move one of them"
    yield from _check_refunds("refunds", shared.refunds)


def _check_pace(offer: OfferSpec, budget: BudgetSpec) -> Iterator[FieldProblem]:
    """Yield a pace without a period for the amount."""
    if budget.pace is True and budget.per is not None:
        yield "budget.pace", "true lasts until the offer's end, and the budget is by period; write even, or remove per"
    elif budget.pace and budget.per is None:
        missing = ["end"] if offer.end is None else []
        if budget.pace == "even" and offer.start is None:
            missing.append("start")
        if missing:
            yield "budget.pace", f"needs a time over which to spread it; give the offer an {' and a '.join(missing)}"


def _check_refunds(path: str, refunds: Span | None) -> Iterator[FieldProblem]:
    """Yield a span for refunds that is longer than claims are stored."""
    if refunds is not None and not DAY <= seconds(refunds) <= LONGEST_REFUND:
        yield path, f"{refunds!r} is not a span for which redemptions are stored; give 1d to 90d"
