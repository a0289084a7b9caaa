"""A folder of files: every mistake at once, each with its place, value, rule and remedy; nothing hangs or raises."""

import shutil
from pathlib import Path

import pytest

from engine.catalog import load_plan
from engine.catalog.check.load import build_specs
from engine.errors import CatalogError, Problem
from tests.catalog.folder import Json, experiment, specs

CHANNELS = "channels: [{key: web}]\n"
METRICS = "metrics: [{key: revenue, event: purchase}]\n"
GOOD = "key: x\nvariants: [{key: a}, {key: b}]\n"


def problems(tmp_path: Path, **files: str | bytes) -> list[Problem]:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, text in {"channels": CHANNELS, "metrics": METRICS, "x": GOOD, **files}.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / f"{name}.yaml").write_bytes(data)
    try:
        load_plan(folder)
    except CatalogError as error:
        return error.problems
    return []


def refused(*experiments: Json, **files: Json) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        specs(*experiments, **files)
    return [str(problem) for problem in caught.value.problems]


def test_three_mistakes_are_three_lines_with_file_path_value_rule_and_remedy(tmp_path: Path) -> None:
    wrong = (
        "key: x\nstatus: runing\nvariants: [{key: a, weight: 0.5}, {key: b, weight: 1.4}]\nmetrics: {primary: revnue}\n"
    )
    assert [str(problem) for problem in problems(tmp_path, x=wrong)] == [
        "shop/x.yaml metrics.primary: 'revnue' is not in metrics.yaml; did you mean 'revenue'?",
        "shop/x.yaml status: 'runing' is not one of draft, running, paused, stopped, shipped; did you mean 'running'?",
        "shop/x.yaml variants[1].weight: 1.4 is not between 0 and 1; weights of the variants sum to 1",
    ]


def test_a_placement_without_fallback_and_operators_without_dollar_are_reported(tmp_path: Path) -> None:
    hero = "key: hero\nplacement: hero\noffers: [a]\npolicy: {kind: uniform}\nreward: {metric: revenue}\n"
    wrong = (
        GOOD + "start: 2026-12-01\ncoverage: half\naudience: {country: {in: [DE]}, order: {type: gift}}\ntags: new\n"
    )
    found = [str(problem) for problem in problems(tmp_path, hero=hero, x=wrong)]
    missing = "shop/hero.yaml fallback: is missing; add it (use letters, digits, _ and - only, 64 at most)"
    assert [line for line in found if line.startswith("shop/hero.yaml")] == [missing]
    assert [line for line in found if line.startswith("shop/x.yaml")] == [
        "shop/x.yaml audience.country.in: 'in' is a key of a value to match, not the operator '$in'; write '$in'",
        "shop/x.yaml coverage: 'half' is not a number; give a share such as 0.5",
        "shop/x.yaml start: '2026-12-01' is not a time with its zone; write 2026-12-01T00:00:00Z",
        "shop/x.yaml tags: 'new' is not a list; write '[…, …]', or lines that begin with '- '",
    ]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD: dict[str, tuple[str | bytes, str]] = {
    "alias bomb": (BOMB, "is not allowed"),
    "ten megabytes": (b"# " + b"x" * 10_000_000, "bytes long; a file may have"),
    "binary": (bytes(range(256)) * 40, "UTF-8"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(2000), "UTF-8"),
    "a key twice": (GOOD + "key: x\n", "was already given on line 1"),
    "deep": ("key: " + "[" * 5000, "nested more than"),
    "a tab": ("key: x\n\tvariants: []\n", "tab"),
    "two documents": (GOOD + "---\n" + GOOD, "second document"),
    "a list": ("- a\n", "is not a mapping"),
    "empty": ("", "is empty"),
    "a tag": ("key: !!python/object:os.system x\n", "is not allowed"),
    "another name": (GOOD.replace("key: x", "key: y"), "is not the file's name"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_clear_line(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    found = problems(tmp_path, x=content)
    assert found
    assert all(problem.file == "shop/x.yaml" for problem in found)
    assert any(words in problem.message for problem in found)
    assert all("\n" not in str(problem) and len(str(problem)) < 400 for problem in found)


def test_a_missing_folder_and_stray_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="is not a folder"):
        load_plan(tmp_path / "nothing")
    (tmp_path / "x.yml").write_text(GOOD)
    with pytest.raises(CatalogError, match=r"only \.yaml files are"):
        load_plan(tmp_path)


def test_a_cycle_of_prerequisites_is_reported_once() -> None:
    names = ["a", "b", "c"]
    ring = [
        experiment(name, prerequisites=[{"experiment": names[(at + 1) % 3], "variants": ["a"]}])
        for at, name in enumerate(names)
    ]
    (line,) = refused(*ring)
    assert line == "shop/a.yaml prerequisites: a → b → c → a leads back to itself; break the cycle"


def test_a_cycle_of_segments_is_reported_once() -> None:
    segments = [{"key": "a", "condition": {"$or": [{"$segment": "b"}]}}, {"key": "b", "condition": {"$segment": "a"}}]
    (line,) = refused(experiment("x"), segments={"segments": segments})
    assert line == "shop/segments.yaml a: a → b → a leads back to itself; break the cycle"


REFERENCES: dict[str, tuple[Json, str]] = {
    "segment": ({"audience": {"$segment": "goood"}}, "conditions of segments.yaml; did you mean 'good'?"),
    "group": ({"audience": {"id": {"$inGroup": "good"}}}, "'good' is not in the lists of values"),
    "a segment of values": ({"audience": {"$segment": "staff"}}, "'staff' is not in the conditions"),
    "layer": ({"layer": "l"}, "'l' is not in layers.yaml"),
    "channel": ({"channels": ["wep"]}, "did you mean 'web'?"),
    "prerequisite": ({"prerequisites": [{"experiment": "y", "variants": ["a"]}]}, "'y' is not in this folder"),
    "forced variant": ({"force": [{"customers": ["qa"], "variant": "c"}]}, "'c' is not in the variants"),
    "one variant": ({"variants": [{"key": "a"}]}, "write 'kind: flag'"),
    "weights": ({"variants": [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.4}]}, "sum to 0.9"),
    "some ranges": ({"variants": [{"key": "a", "range": [0, 1]}, {"key": "b"}]}, "1 of 2 variants have a range"),
    "ranges overlap": ({"variants": [{"key": k, "range": [0, 0.6]} for k in "ab"]}, "overlap"),
    "a range backwards": ({"variants": [{"key": k, "range": [0.4, 0.2]} for k in "ab"]}, "is empty"),
    "ranges and coverage": ({"coverage": 0, "variants": [{"key": k, "range": [0, 0]} for k in "ab"]}, "ranges exclude"),
    "a sticky store": ({"unit": "store", "sticky": True}, "a store is not one"),
    "coverage down": ({"coverage": 0.5, "ramp": [{"at": "2027-01-01T00:00:00Z", "coverage": 0.1}]}, "only rise"),
    "end before start": ({"start": "2027-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, "is not after the start"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_inconsistent_specs_are_reported(name: str) -> None:
    fields, words = REFERENCES[name]
    segments = [{"key": "good", "condition": {"vip": True}}, {"key": "staff", "values": ["u-1"]}]
    lines = refused(experiment("x", **fields), segments={"segments": segments})
    assert any(words in line for line in lines)
    assert all(line.startswith("shop/x.yaml ") for line in lines)


SHIPPED = Path(__file__).parents[2] / "experiments"
NAMES = sorted(
    path.relative_to(SHIPPED).as_posix() for path in [*SHIPPED.glob("*.yaml"), *SHIPPED.glob("offers/*.yaml")]
)


def all_problems(files: dict[str, bytes]) -> list[Problem]:
    try:
        build_specs("shop", files)
    except CatalogError as error:
        return error.problems
    return []


@pytest.mark.parametrize("how", ["key: [\n", "key: 12\nwhat: ever\n"], ids=["no-yaml", "no-spec"])
def test_a_broken_file_causes_no_problems_in_others(how: str) -> None:
    files = {each: (SHIPPED / each).read_bytes() for each in NAMES}
    for name in NAMES:
        found = all_problems(files | {name: how.encode()})
        assert {problem.file for problem in found} == {f"shop/{name}"}, found


def test_mistakes_in_other_files_are_reported_beside_a_broken_file() -> None:
    files = {each: (SHIPPED / each).read_bytes() for each in NAMES}
    changes = {
        "till_prompt.yaml": (b"offers: [", b"offers: [last_bagg, "),
        "checkout_layout.yaml": (b"primary: ", b"primary: not_"),
        "moments.yaml": (b"offers: [birthday_drink]", b"offers: [birthday_drinks]"),
        "home_hero.yaml": (b"fallback: generic_banner", b"fallback: generic_baner"),
        "layers.yaml": (b"reserve: {", b"reserve: {nobody: [0, 0.01], "),
    }
    for name, (right, wrong) in changes.items():
        assert right in files[name] or name == "layers.yaml", name
        files[name] = files[name].replace(right, wrong)
    broken = files | {"offers/tasting_set.yaml": b"key: [\n"}
    messages = [str(problem) for problem in all_problems(broken)]
    for part in ("'last_bagg'", "'not_", "'birthday_drinks'", "'generic_baner'"):
        assert sum(part in problem for problem in messages) == 1, (part, messages)
    assert not any("tasting_set'" in problem for problem in messages)  # it may be in the file that cannot be read
    assert sum("offers/tasting_set.yaml" in problem for problem in messages) == 1


def test_a_file_with_another_key_than_its_name_defines_both() -> None:
    files = {each: (SHIPPED / each).read_bytes() for each in NAMES}
    files["offers/tasting.yaml"] = files.pop("offers/tasting_set.yaml")
    assert [(problem.file, problem.path) for problem in all_problems(files)] == [("shop/offers/tasting.yaml", "key")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("start: 20270101", "20270101 is not a time with its zone; write 2027-01-01T00:00:00Z"),
        ("end: 20261231", "20261231 is not a time with its zone; write 2026-12-31T00:00:00Z"),
        ("end: '20261231'", "'20261231' is not a time with its zone; write 2026-12-31T00:00:00Z"),
        ("end: 2026-12-31", "'2026-12-31' is not a time with its zone; write 2026-12-31T00:00:00Z"),
        ("end: 1798675200", "1798675200 is not a time with its zone; write 2026-12-31T00:00:00Z"),
        ("end: 1798675200.5", "1798675200.5 is not a time with its zone; write 2026-12-31T00:00:00Z"),
        ("audience: {id: {$in: [1001]}}", "1001 is a number, and this trait is text; quote it: '1001'"),
        ("audience: {id: {$nin: [7, '8']}}", "7 is a number, and this trait is text; quote it: '7'"),
        ("audience: {customer_id: 1001}", "1001 is a number, and this trait is text; quote it: '1001'"),
        ("audience: {app_version: 1.10}", "1.1 is a number, and this trait is text; quote it: '1.10'"),
        ("audience: {$or: [{app.version: {$gte: 2.0}}]}", "2.0 is a number, and this trait is text; quote it: '2.0'"),
        (
            "audience: {address.zip: {$not: {$in: [1e5]}}}",
            "100000.0 is a number, and this trait is text; quote it: '1e5'",
        ),
        ("audience: {consent.marketing: 'yes'}", "'yes' is neither true nor false, which this trait is; write true"),
        ("audience: {consent.sms: {$ne: 'No'}}", "'No' is neither true nor false, which this trait is; write false"),
        ("audience: {complaint_open: {$in: [0]}}", "0 is neither true nor false, which this trait is; write false"),
    ],
)
def test_times_ids_versions_and_consents_have_their_type(tmp_path: Path, line: str, message: str) -> None:
    shutil.copytree(SHIPPED, tmp_path / "shop")
    file = tmp_path / "shop/checkout_layout.yaml"
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(CatalogError) as error:
        load_plan(tmp_path / "shop")
    assert [problem.message for problem in error.value.problems] == [message]
