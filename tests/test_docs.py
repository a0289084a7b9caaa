"""What README, docs, compose and the image's recipe say of commands, settings, keys and files is so."""

import json
import re
import shlex
import shutil
import subprocess
import sys
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
from engine.decision.offers import OfferReason
from engine.errors import BadInput
from engine.hashing import bucket, bucket_ranges, choose_variant
from engine.journal.log.parquet import SCHEMAS
from engine.service.auth import read_keys_file
from engine.settings import RULES, Settings, from_environment

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "loadtests/README.md",
]
OPERATING = (ROOT / "docs/operating.md").read_text()
VARIABLES = {f"COUNTERPOINT_{name.upper()}" for name in Settings.__struct_fields__}
DEPLOYMENT = (ROOT / "compose.yaml", ROOT / "Dockerfile")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [*PAGES, *DEPLOYMENT], ids=name_of)
def test_variables_are_settings(page: Path) -> None:
    assert set(re.findall(r"COUNTERPOINT_[A-Z][A-Z_]*", page.read_text())) <= VARIABLES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_verbs_with_these_options(page: Path) -> None:
    told = re.findall(r"(?:^|`)counterpoint ([a-z][^`#\n]*)", page.read_text(), flags=re.MULTILINE)
    for words in (shlex.split(line) for line in told):
        verb = app
        while words and words[0] in verb:
            verb = verb[words.pop(0)]
        assert verb is not app, page
        known = {name for argument in verb.assemble_argument_collection() for name in argument.names}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, page


def test_every_setting_is_told_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(COUNTERPOINT_\w+)` \|.*\| (.*) \|$", OPERATING, flags=re.MULTILINE))
    assert rows.keys() == VARIABLES
    for field in msgspec.structs.fields(Settings):
        if field.default is not None:
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert rows[f"COUNTERPOINT_{field.name.upper()}"].startswith(f"`{shown}`")


def test_the_glossary_has_every_reason() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    assert [r for r in (*get_args(AssignmentReason), *get_args(OfferReason)) if f"`{r}`" not in glossary] == []


def test_the_keys_that_are_shown_can_be_used(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(keys:.*?)```", OPERATING, flags=re.DOTALL)
    (tmp_path / "keys.yaml").write_text(example)
    assert [key.role for key in read_keys_file(tmp_path / "keys.yaml")] == ["server", "client", "admin"]


def test_compose_runs_verbs_on_what_the_image_has() -> None:
    compose = msgspec.yaml.decode((ROOT / "compose.yaml").read_bytes())
    roles = {name: service for name, service in compose["services"].items() if service.get("build")}
    assert {name: service["command"] for name, service in roles.items()} == {
        "server": ["serve"],
        "learner": ["learn"],
        "collector": ["collect"],
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
def test_a_wrong_setting_is_told_with_its_rule(name: str, value: str) -> None:
    with pytest.raises(BadInput) as told:
        from_environment({f"COUNTERPOINT_{name.upper()}": value})
    assert str(told.value) == f"COUNTERPOINT_{name.upper()} {value}: is not {RULES[name]}"


def test_a_wrong_option_is_told_as_it_was_given() -> None:
    with pytest.raises(BadInput, match=r"^--port 99999: is not a whole number from 0 to 65535$"):
        from_environment({}, port=99999)


def test_the_readme_s_python_runs_against_a_dead_engine() -> None:
    """Its storefront shows what it shows without an answer."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        script = block.replace(":8080", ":9")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_migrated_experiment_keeps_its_assignments(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/migrating.md").read_text(), flags=re.DOTALL)
    folder = shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (folder / "checkout.yaml").write_text(example)
    plan = load_plan(folder)
    experiment = plan.experiments["checkout"]
    told = json.loads("".join(line[1:] for line in example.splitlines() if line[0] == "#").partition(":")[2])
    assert experiment.spec.audience == told["condition"]
    assert [variant.payload["value"] for variant in experiment.spec.variants] == told["variations"]
    ranges = bucket_ranges(2, coverage=told["coverage"], weights=told["weights"])
    for unit in (f"u-{number}" for number in range(500)):
        subject = Subject({"customer": unit}, frozenset(), {"country": "DE"}, {})
        got = assign(plan, experiment, subject, now=0.0)
        assert got.index == choose_variant(bucket(told["key"], unit, 1), ranges)


def test_the_log_s_columns_are_told_and_its_query_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/log.md").read_text()
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
