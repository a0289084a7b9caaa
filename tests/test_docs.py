"""README, docs, compose and the image's recipe agree with the code in commands, settings, keys and files."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.catalog import load_plan
from engine.cli import app
from engine.decision.assign import AssignmentReason, Subject, assign
from engine.decision.gating.gates import GATES
from engine.decision.offers import OfferReason
from engine.errors import BadInput
from engine.hashing import bucket, bucket_ranges, choose_variant
from engine.journal.log.parquet import SCHEMAS
from engine.service.access.keys_file import read_keys_file
from engine.settings import RULES, Settings, from_environment

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "loadtests/README.md"]
OPERATING = (ROOT / "docs/how-to/operate.md").read_text()
VARIABLES = {f"COUNTERPOINT_{name.upper()}" for name in Settings.__struct_fields__}
MOST_CHARACTERS, MOST_WORDS = 120, 25
DEPLOYMENT = (ROOT / "compose.yaml", ROOT / "Dockerfile")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links_of(page: Path) -> list[tuple[Path, str]]:
    """The relative links of a page: each the file it leads to and the anchor in it."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [
        ((page.parent / path).resolve() if path else page, anchor)
        for path, _, anchor in (link.partition("#") for link in links if "://" not in link)
    ]


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in links_of(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors_of(target), f"{name_of(target)}#{anchor}"


def test_the_index_leads_to_every_page() -> None:
    linked = {target for target, _ in links_of(ROOT / "docs/README.md")}
    assert [page for page in (ROOT / "docs").rglob("*.md") if page not in linked] == [ROOT / "docs/README.md"]


def prose_of(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page outside of code and tables, with their numbers; empty ones separate paragraphs."""
    is_code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        is_code ^= line.startswith("```")
        yield number, "" if is_code or line.startswith(("```", "|", "#")) else line


def sentences_of(page: Path) -> Iterator[str]:
    """The sentences of a page, cut at the marks that end a thought; an item of a list begins one."""
    text = "\n".join(line for _, line in prose_of(page))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        yield from re.split(r"(?<=[.:;?!])\*?\s+", " ".join(paragraph.split()))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_lines_and_sentences_are_short(page: Path) -> None:
    """In prose: a table's row cannot be broken."""
    assert [number for number, line in prose_of(page) if len(line) > MOST_CHARACTERS] == []
    assert [sentence for sentence in sentences_of(page) if len(sentence.split()) > MOST_WORDS] == []


def file_of(example: str) -> str | None:
    """The name of the file that an example shows whole, None for a fragment of a file."""
    value = msgspec.yaml.decode(example)
    if not isinstance(value, dict):
        return None
    if "key" in value:
        return f"offers/{value['key']}.yaml" if "renderings" in value else f"{value['key']}.yaml"
    if example.startswith("# experiments/units.yaml\n"):
        return "units.yaml"
    named = {"channels", "layers", "metrics", "moments", "places", "segments", "sources"} & value.keys()
    return f"{named.pop()}.yaml" if named else None


def test_whole_files_among_the_examples_pass_the_check(tmp_path: Path) -> None:
    """A page that defines its own channels is a shop of its own; the files of any other join the shipped shop."""
    checked = set()
    for page in PAGES:
        examples = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        files = {name: example for example in examples if (name := file_of(example))}
        if not files:
            continue
        folder = tmp_path / "_".join(page.relative_to(ROOT).parts)
        if "channels.yaml" not in files:
            shutil.copytree(ROOT / "experiments", folder)
        (folder / "offers").mkdir(parents=True, exist_ok=True)
        for name, example in files.items():
            (folder / name).write_text(example)
        load_plan(folder)
        checked.add(page.stem)
    assert {"first-experiment", "migrate", "start-an-experiment", "add-an-offer"} <= checked


@pytest.mark.parametrize("page", [*PAGES, *DEPLOYMENT], ids=name_of)
def test_variables_are_settings(page: Path) -> None:
    assert set(re.findall(r"COUNTERPOINT_[A-Z][A-Z_]*", page.read_text())) <= VARIABLES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_verbs_with_these_options(page: Path) -> None:
    lines = re.findall(r"(?:^|`)counterpoint ([a-z][^`#\n]*)", page.read_text().replace("\\\n", ""), flags=re.MULTILINE)
    for words in (shlex.split(line) for line in lines):
        verb = app
        while words and words[0] in verb:
            verb = verb[words.pop(0)]
        assert verb is not app, page
        known = {name for argument in verb.assemble_argument_collection() for name in argument.names}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, page


def test_formulas_name_code_and_tests_that_exist() -> None:
    """The last two columns of the statistics' tables: modules, functions of a module, and files of tests."""
    page = (ROOT / "docs/reference/statistics/reports.md").read_text()
    estimators = page.partition("## Estimators")[2].partition("## Checks")[0]
    cells = re.findall(r"^\|.*\| ([^|]*`) \| ([^|]*`) \|$", estimators, flags=re.MULTILINE)
    assert len(cells) > 15
    sources = {path.stem: path.read_text() for path in (ROOT / "engine/analysis").rglob("*.py")}
    for code, tests in cells:
        for module, _, function in (name.partition(".") for name in re.findall(r"`([^`]+)`", code)):
            assert module in sources, code
            assert f"def {function}" in sources[module], code
        for test in re.findall(r"`(\w+)`", tests):
            assert list((ROOT / "tests").rglob(f"{test}.py")), tests


def test_the_bounds_name_tests_that_exist() -> None:
    page = (ROOT / "docs/explanation/limits.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 15
    assert {name for name in named if not list((ROOT / "tests").rglob(f"{name}.py"))} == set()


def test_every_setting_is_listed_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(COUNTERPOINT_\w+)` \|.*\| (.*) \|$", OPERATING, flags=re.MULTILINE))
    assert rows.keys() == VARIABLES
    for field in msgspec.structs.fields(Settings):
        if field.default is not None:
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert rows[f"COUNTERPOINT_{field.name.upper()}"].startswith(f"`{shown}`")


def test_the_glossary_has_every_reason() -> None:
    glossary = (ROOT / "docs/reference/glossary.md").read_text()
    assert [r for r in (*get_args(AssignmentReason), *get_args(OfferReason)) if f"`{r}`" not in glossary] == []


def test_the_glossary_has_every_gate_and_its_meaning() -> None:
    glossary = (ROOT / "docs/reference/glossary.md").read_text()
    rows = [f"| `{gate}` | {rule.meaning} |" for gate, rule in GATES.items()]
    assert "\n".join(rows) in glossary, "the table under 'Gates' is:\n" + "\n".join(rows)


def test_the_keys_that_are_shown_can_be_used(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(keys:.*?)```", OPERATING, flags=re.DOTALL)
    (tmp_path / "keys.yaml").write_text(example)
    shown = read_keys_file(tmp_path / "keys.yaml")
    assert [key.role for key in shown] == ["server", "client", "admin"]
    assert read_keys_file(ROOT / "keys.example.yaml") == shown


def test_compose_runs_verbs_on_what_the_image_has() -> None:
    compose = msgspec.yaml.decode((ROOT / "compose.yaml").read_bytes())
    roles = {name: service for name, service in compose["services"].items() if service.get("build")}
    assert {name: service["command"] for name, service in roles.items()} == {
        "server": ["serve"],
        "learner": ["learn"],
        "collector": ["collect"],
        "dashboard": ["dashboard", "--port", "8080"],
        "supervisor": ["supervise"],
    }
    recipe = (ROOT / "Dockerfile").read_text()
    image = dict(re.findall(r"(COUNTERPOINT_\w+)=(\S+)", recipe))
    settings = from_environment(image | roles["server"]["environment"])
    assert f"data:{settings.data}" in roles["collector"]["volumes"]
    assert f"./experiments:{settings.experiments}:ro" in roles["server"]["volumes"]
    assert settings.api_keys == Path("/run/secrets", *roles["server"]["secrets"])
    assert f"EXPOSE {settings.port}" in recipe
    copied = {
        source for line in re.findall(r"^COPY (?!--)(.*)$", recipe, flags=re.MULTILINE) for source in line.split()[:-1]
    }
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis", "localhost:6379"),
        ("port", "abc"),
        ("workers", "0"),
        ("partitions", "1.5"),
        ("store_timeout", "-1"),
        ("event_timeout", "2s"),
        ("body_limit", "1MB"),
        ("fsync", "maybe"),
    ],
)
def test_a_wrong_setting_is_reported_with_its_rule(name: str, value: str) -> None:
    with pytest.raises(BadInput) as refused:
        from_environment({f"COUNTERPOINT_{name.upper()}": value})
    assert str(refused.value) == f"COUNTERPOINT_{name.upper()} {value}: is not {RULES[name]}"


def test_a_wrong_option_is_reported_as_it_was_given() -> None:
    with pytest.raises(BadInput, match=r"^--port 99999: is not a whole number from 0 to 65535$"):
        from_environment({}, port=99999)


def test_the_readme_s_python_runs_against_a_dead_engine() -> None:
    """Its storefront shows what it shows without an answer."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        script = block.replace(":8080", ":9")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr


def test_the_migrated_experiment_keeps_its_assignments(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/how-to/migrate.md").read_text(), flags=re.DOTALL)
    folder = shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (folder / "checkout.yaml").write_text(example)
    plan = load_plan(folder)
    experiment = plan.experiments["checkout"]
    source = json.loads("".join(line[1:] for line in example.splitlines() if line[0] == "#").partition(":")[2])
    assert experiment.spec.audience == source["condition"]
    assert [variant.payload["value"] for variant in experiment.spec.variants] == source["variations"]
    ranges = bucket_ranges(2, coverage=source["coverage"], weights=source["weights"])
    for unit in (f"u-{number}" for number in range(500)):
        subject = Subject({"customer": unit}, frozenset(), {"country": "DE"}, {})
        got = assign(plan, experiment, subject, now=0.0)
        assert got.index == choose_variant(bucket(source["key"], unit, 1), ranges)


def test_the_log_s_columns_are_listed_and_its_query_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/reference/log.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .* \| (`.*`) \|$", page, flags=re.MULTILINE)
    assert {table: re.findall(r"\w+", columns) for table, columns in rows} == {
        table: schema.names for table, schema in SCHEMAS.items()
    }
    (query,) = re.findall(r"```sql\n(.*?)```", page, flags=re.DOTALL)
    seen: dict[str, list[dict[str, object]]] = {
        "decisions": [
            {"decision_id": one, "kind": "offer", "key": "home_hero", "variant": "second_coffee"} for one in "abc"
        ],
        "exposures": [{"decision_id": one, "key": "home_hero"} for one in "aab"],
        "rewards": [
            {"decision_id": "a", "key": "home_hero", "reward": reward, "time": datetime.fromtimestamp(at, UTC)}
            for at, reward in enumerate((1.0, 0.5))
        ],
    }
    for table, written in seen.items():
        folder = tmp_path / table / "day=1970-01-01"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(written, SCHEMAS[table]), folder / "1.parquet")  # type: ignore[index]
    with duckdb.connect() as connection:
        found = connection.execute(query.replace(".data/demo/log", str(tmp_path))).fetchall()
    assert found == [("second_coffee", 2, 0.25)]
