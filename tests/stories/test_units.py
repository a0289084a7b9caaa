"""Units of `units.yaml` from YAML and HTTP to the log, the report and the verbs that rehearse."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.catalog.check.load import load_specs
from engine.catalog.diff.experiments import compare_specs
from engine.catalog.plan.compile import compile_plan
from engine.errors import CatalogError
from engine.rehearse.customers import read_sample
from engine.rehearse.dry_run import dry_run, visits_of_sample
from engine.rehearse.generated_customers import make_customers
from engine.rehearse.preview import preview
from engine.rehearse.trait_names import text_traits, unread_traits
from engine.rehearse.variant_moves import count_moves
from tests.stories.conftest import write_shop

HALVES = [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}]
SHOP = {
    "offers": {"a": {}},
    "placements": {},
    "units": {"company": {"trait": "company.id"}, "region": {"trait": "region"}},
    "experiments": {
        "pricing": {
            "unit": "company",
            "variants": HALVES,
            "metrics": {"primary": "revenue"},
            "analysis": {"method": "fixed", "min_days": 1},
        },
        "areas": {
            "unit": "region",
            "variants": HALVES,
            "filters": [{"seed": "f", "unit": "company", "ranges": [[0, 1]]}],
        },
    },
    "layers": {"holdouts": [{"key": "q4", "share": 0.3, "unit": "company", "metrics": {"primary": "revenue"}}]},
}


def analyze(shop: Any, key: str) -> Any:
    question, metrics = build_question(load_plan(shop.settings.experiments), key)
    return analyze_experiment(question, metrics, shop.settings.log)


def test_a_company_is_hashed_logged_and_the_unit_of_its_report(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    variants: dict[str, set[str | None]] = {}
    batch = []
    for n in range(0, 72, 2):  # half of them have it in their profile, the others in the request
        traits = {"company.id": f"acme-{(n + 1) % 24}"}
        batch.append({"type": "identify", "message_id": f"i{n}", "user_id": f"u{n + 1}", "traits": traits})
    for n in range(72):
        properties = {"revenue": 10.0 + n % 24, "order_id": f"o{n}"}
        item = {"type": "track", "message_id": f"m{n}", "user_id": f"u{n}", "event": "purchase"}
        batch.append({**item, "properties": properties})
    assert shop.client().post("/v1/events", json={"batch": batch[:36]}).status_code == 200
    for n in range(72):
        context = {} if n % 2 else {"company": {"id": f"acme-{n % 24}"}}
        answer = shop.decide("web", experiments=["pricing"], context=context, user_id=f"u{n}")["experiments"]["pricing"]
        variants.setdefault(f"acme-{n % 24}", set()).add(answer["variant"])
        assert answer["reason"] in {"assigned", "holdout"}
    assert shop.client().post("/v1/events", json={"batch": batch[36:]}).status_code == 200
    assert all(len(had) == 1 for had in variants.values())
    assert {next(iter(had)) for had in variants.values()} == {"x", "y", None}

    for n, company in enumerate(("undefined", "", True, None)):
        context = {"company": {"id": company}}
        answer = shop.decide("web", experiments=["pricing"], context=context, user_id=f"none{n}")
        assert answer["experiments"]["pricing"] == {"variant": None, "payload": None, "reason": "unit"}
    one, two = (shop.client().get(f"/v1/profiles/u{n}").json() for n in (1, 25))
    assert one["traits"]["company.id"] == two["traits"]["company.id"]
    assert one["customer"] != two["customer"]

    for company, had in sorted(variants.items())[:6]:
        key = {"targetingKey": "someone"} if company.endswith("1") else {}
        body = {"context": {**key, "company": {"id": company}}}
        flags = shop.client().post("/ofrep/v1/evaluate/flags", json=body).json()["flags"]
        [seen] = [flag for flag in flags if flag["key"] == "pricing"]
        assert (seen["variant"] or None) == next(iter(had)), seen
    needs = shop.client().post("/ofrep/v1/evaluate/flags/pricing", json={"context": {}})
    assert needs.json()["errorCode"] == "TARGETING_KEY_MISSING"
    explained = (
        shop.client()
        .post("/v1/explain", json={"customer": {"user_id": "u3"}, "channel": "web", "experiments": ["pricing"]})
        .json()["experiments"]["pricing"]
    )
    assert explained["unit"] in {"acme-3", None}

    shop.collect()
    contexts = f"SELECT DISTINCT context->>'$.\"company.id\"' FROM '{shop.settings.log}/decisions/**/*.parquet'"
    assert {name for (name,) in duckdb.sql(contexts).fetchall() if name} == set(variants)
    report = analyze(shop, "pricing")
    let_in = [company for company, had in variants.items() if had != {None}]
    assert sum(report.units.values()) == len(let_in)
    revenue = {company: 10.0 + int(company[5:]) for company in variants}
    for variant in ("x", "y"):
        own = [revenue[company] for company in let_in if variants[company] == {variant}]
        assert report.metrics[0].mean[variant] == pytest.approx(sum(own) / len(own))
    assert analyze(shop, "q4").units == {"held out": len(variants) - len(let_in), "let in": len(let_in)}


def test_what_rehearses_knows_units(tmp_path: Path) -> None:
    specs = load_specs(write_shop(tmp_path / "experiments", SHOP))
    plan, now = compile_plan(specs), 1_790_000_000.0
    sample = tmp_path / "people.csv"
    rows = [f"u{n},{'' if n == 9 else f'00{n % 3}'}" for n in range(10)]
    sample.write_text("user_id,company.id\n" + "\n".join(rows) + "\n")
    people = read_sample(sample, text_traits(specs))
    assert not unread_traits(people, specs)
    by_unit: dict[int, set[Any]] = {}
    for row in preview(plan, "pricing", people, now):
        n = int(row.customer[1:])
        by_unit.setdefault(9 if n == 9 else n % 3, set()).add((row.gets, row.reason))
    assert all(len(found) == 1 for found in by_unit.values())
    assert by_unit[9] == {(None, "unit")}
    customers = make_customers(400, specs, now=now)
    run = dry_run(plan, "pricing", visits_of_sample(plan, "pricing", customers, now))
    assert {one.outcome for one in run.outcomes} == {"x", "y", "(unit)", "(holdout)"}

    changed = {"company": {"trait": "employer"}, "region": {"trait": "region"}}
    after = load_specs(write_shop(tmp_path / "after", {**SHOP, "units": changed}))
    found = {(one.key, one.path, one.verdict) for one in compare_specs(specs, after, now)}
    assert found == {("company", "units", "unsafe")}
    moved = count_moves(plan, compile_plan(after), [one.profile for one in customers], now)
    assert {one.target for one in moved if one.experiment == "pricing"} == {"(unit)"}


def problems_of(folder: Path, units: Any) -> str:
    with pytest.raises(CatalogError) as refused:
        load_specs(write_shop(folder, {**SHOP, "units": units}))
    return "\n".join(f"{one.file} {one.path}: {one.message}" for one in refused.value.problems)


def test_wrong_units_are_named(tmp_path: Path) -> None:
    units = {"companie": {"trait": "company.id"}, "region": {"trait": "region"}}
    wrong = problems_of(tmp_path / "one", units | {"store": {"trait": "shop"}, "you": {"trait": "id"}})
    assert "pricing.yaml unit: 'company' is not in units.yaml; did you mean 'companie'?" in wrong
    assert "layers.yaml holdouts[0].unit: 'company'" in wrong
    assert "areas.yaml filters[0].unit: 'company'" in wrong
    assert "units.yaml store: 'store' is a unit already" in wrong
    assert "units.yaml you.trait: 'id' is set by the engine" in wrong
    unreadable = problems_of(tmp_path / "two", {"region": {"trat": "x"}})
    assert "units.yaml region.trat: 'trat' is not a known key; did you mean 'trait'?" in unreadable
    assert "pricing.yaml" not in unreadable  # whether its unit is defined is not known
