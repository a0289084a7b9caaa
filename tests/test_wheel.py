"""What `pip install counterpoint` and each of its extras bring is enough for the verbs that need no more.

The wheel is built and unpacked, and run in a process that can import nothing but what its requirements name: a finder
refuses every module of a distribution that is installed here and is not among them.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from engine.errors import EXTRAS
from engine.journal.log import parquet

ROOT = Path(__file__).resolve().parents[1]
SHOP = ROOT / "experiments"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REFUSE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(*extras: str) -> set[str]:
    """The distributions that the wheel's requirements name, with the requirements of those."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    waiting, found = [Requirement(line) for line in lines], set[tuple[str, str]]()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            if (canonical(wanted.name), extra) not in found:
                found.add((canonical(wanted.name), extra))
                needs = (Requirement(line) for line in metadata.requires(wanted.name) or ())
                waiting += [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, as pip would lay it out."""
    built, unpacked = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("site")
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(built), str(ROOT))
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(unpacked)
    return unpacked


def environment(wheel: Path, folder: Path, *extras: str) -> dict[str, str]:
    """The environment of an interpreter that has the wheel and what its requirements bring, and nothing else."""
    brought = closure(*extras)
    refused = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not brought & {canonical(owner) for owner in owners} and module not in {"engine", "policies"}
    }
    assert set(EXTRAS["analysis"]) <= refused or "analysis" in extras
    (folder / "sitecustomize.py").write_text(f"REFUSED = {sorted(refused)!r}\n{REFUSE}")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COUNTERPOINT_", "PYTEST_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join((str(folder), str(wheel)))}


def run(env: dict[str, str], *words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "engine", *words]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=240)


@contextmanager
def serving(env: dict[str, str], cwd: Path, *words: str) -> Iterator[str]:
    """The base URL of a started `serve` or `up`, which SIGTERM ends."""
    command = [sys.executable, "-m", "engine", *words, "--experiments", str(SHOP), "--data", "data", "--port", "0"]
    with subprocess.Popen(command, env=env, cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"http://[\d.:]+", line):
                    break
            else:
                pytest.fail("".join(lines))
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    if httpx.get(f"{found[0]}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield found[0]
        finally:
            process.terminate()
            process.stderr.read()
        assert process.wait(30) in {0, -signal.SIGTERM}


CLIENT = """
import sys
from engine.client import Client, Customer
import engine, policies
shop = Client(sys.argv[1], channel="web", timeout=5.0)
answer = shop.decide(Customer(user_id="u-1"), placements=["home_hero"], experiments=["checkout_layout"])
print(answer.decision_id, answer.degraded, engine.__file__)
"""


def test_extras_are_those_of_the_distribution() -> None:
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"])
    assert "sqlglot" not in closure()


def test_the_lock_of_decision_servers_has_what_the_wheel_requires() -> None:
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements-serve.lock").read_text(), re.MULTILINE))
    assert closure() <= {canonical(name) for name in locked}


def test_a_bare_installation_serves_checks_and_explains(wheel: Path, redis_url: str, tmp_path: Path) -> None:
    env = environment(wheel, tmp_path)
    checked = run(env, "check", str(SHOP), "--json", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
    with serving(env, tmp_path, "serve", "--redis", redis_url) as base:
        asked = subprocess.run(
            [sys.executable, "-c", CLIENT, base], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0, asked.stderr
        decision, degraded, module = asked.stdout.split()
        assert degraded == "False"
        assert Path(module).is_relative_to(wheel)
        body = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}
        assert httpx.post(f"{base}/v1/explain", json=body).status_code == 200
        assert httpx.get(f"{base}/v1/profiles/u-1/export").status_code == 501
        explained = run(env, "explain", decision, "--data", "data", "--redis", redis_url, "--json", cwd=tmp_path)
        assert explained.returncode == 0, explained.stderr
        assert json.loads(explained.stdout)["same"]
        assert httpx.delete(f"{base}/v1/profiles/u-1").json()["rows"] == 0


ANALYSIS = "needs the analysis libraries: install counterpoint[analysis]"
LACKING = [
    (("analyze", "checkout_layout"), ANALYSIS),
    (("analyze", "--table", "t.csv", "--variant", "v", "--control", "a", "--metric", "mean:y"), ANALYSIS),
    (("power", "checkout_layout", "--mde", "0.1"), ANALYSIS),
    (("aa", "--table", "t.csv", "--metric", "mean:y"), ANALYSIS),
    (("evaluate", "--log", "log", "--policy", "p.yaml"), ANALYSIS),
    (("report", "home_hero"), ANALYSIS),
    (("status",), ANALYSIS),
    (("collect", "--drain", "--redis", "redis://127.0.0.1:1"), ANALYSIS),
    (("export", "u-1", "--redis", "redis://127.0.0.1:1"), ANALYSIS),
    (("erase", "u-1", "--redis", "redis://127.0.0.1:1", "--data", "data"), ANALYSIS),
    (("up",), "needs the embedded store: install counterpoint[embedded]"),
    (("demo",), "needs the embedded store: install counterpoint[embedded]"),
    (("replay", "obd"), "needs the embedded store: install counterpoint[embedded]"),
]


@pytest.mark.parametrize(("words", "message"), LACKING, ids=[" ".join(words[:2]) for words, _ in LACKING])
def test_a_verb_names_the_extra_that_it_lacks(
    wheel: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    env = environment(wheel, tmp_path)
    (tmp_path / "experiments").symlink_to(SHOP)
    (tmp_path / "t.csv").write_text("v,y\na,1\nb,2\na,2\nb,3\n")
    (tmp_path / "p.yaml").write_text("kind: uniform\n")
    for log in (tmp_path / "data" / "log", tmp_path / ".data" / "log", tmp_path / "log"):
        (log / "decisions" / "day=2026-01-01").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = run(env, *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before


EACH_VERB = """
import json, sys
from engine.cli import GROUPS, app, main
def answer(words):
    sys.argv = ["counterpoint", *words]
    try:
        main()
    except SystemExit as end:
        return end.code
def words_of(tree):
    return [name for name in tree if not name.startswith("-")]
verbs = [[verb, *more] for verb in words_of(app) for more in ([[one] for one in words_of(app[verb])] or [[]])]
codes = [answer(words) for words in json.loads(sys.argv[1])]
print(json.dumps([verbs, codes]))
"""
"""Runs many verbs in one process, which saves the start of an interpreter for each."""
PLAN = ("plan", "experiments", "experiments")
LACKING_TOO = [
    *((*PLAN, "--value"), (*PLAN, "--evidence"), ("simulate", "home_hero")),
    *(("interactions",), ("rent",), ("bisect", "u-1"), ("balance", "checkout_layout", "--covariates", "t.csv")),
    ("conclude", "checkout_layout", "--ship", "one_page", "--why", "It is better."),
    ("due", "--channel", "push", "--out", "due.parquet"),
    *(("supervise",), ("dashboard", "--port", "0"), ("mcp", "--drafts", "drafts")),
    *(("backup", "copy"), ("restore", "data", "--data", "new"), ("migrate",)),
    *(("log", "copy", "s3://bucket/prefix"), ("log", "pull", "s3://bucket/prefix", "pulled")),
    *(("quarantine", "list"), ("quarantine", "replay"), ("traits", "backfill")),
    ("policy", "warm-start", "home_hero", "t.csv"),
    *(("measure", one) for one in ("all", "attribution", "channels", "clv", "cohorts", "journeys", "kpis", "ledger")),
    *(("measure", one) for one in ("opportunity", "programme", "rfm", "satisfaction")),
    ("measure", "funnel", "--step", "view", "--step", "purchase"),
]
RUN_BARE = {
    *(("serve",), ("learn",), ("explain",), ("check",), ("init",), ("schema",), ("preview",), ("coverage",), ("plan",)),
    ("test",),
    *(("import",), ("doctor",), ("keys", "new"), ("keys", "rotate"), ("keys", "list")),
    *(("store", "acl"), ("feeds",)),
    *(("coupons", "import"), ("coupons", "list"), ("coupons", "revoke")),
    *(("policy", "versions"), ("policy", "rollback"), ("policy", "close")),
}
"""The verbs that need no extra."""


def test_every_verb_runs_bare_or_names_the_extra_that_it_lacks(wheel: Path, tmp_path: Path) -> None:
    env = environment(wheel, tmp_path)
    (tmp_path / "experiments").symlink_to(SHOP)
    (tmp_path / "t.csv").write_text("v,y\na,1\nb,2\na,2\nb,3\n")
    (tmp_path / ".data" / "log" / "decisions" / "day=2026-01-01").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", EACH_VERB, json.dumps(LACKING_TOO)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verbs, codes = json.loads(done.stdout)
    lines = done.stderr.splitlines()
    assert [line for line in lines if not re.search(r" needs .+: install counterpoint\[\w+\]$", line)] == []
    assert codes == [2] * len(LACKING_TOO)
    assert len(lines) == len(LACKING_TOO)
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before
    tried = [words for words, _ in LACKING] + LACKING_TOO
    untried = [verb for verb in verbs if not any(words[: len(verb)] == tuple(verb) for words in tried)]
    assert {tuple(verb) for verb in untried} == RUN_BARE - {("plan",)}


def test_a_bare_installation_judges_every_assertion_but_powers(wheel: Path, tmp_path: Path) -> None:
    env = environment(wheel, tmp_path)
    shutil.copytree(SHOP, tmp_path / "experiments")
    done = run(env, "test", "experiments", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["failed"], found["not_judged"]) == (2, False, 0, 1), done.stderr
    power = next(one for one in found["results"] if not one["judged"])
    assert power["why"] == "the power of an experiment needs the analysis libraries: install counterpoint[analysis]"
    assert found["passed"] == len(found["results"]) - 1
    wrong = "{tests: [{given: {}, expect: {till_prompt: birthday_drink}}]}"
    (tmp_path / "experiments" / "tests" / "wrong.yaml").write_text(wrong)
    done = run(env, "test", "experiments", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["failed"], found["not_judged"]) == (1, 1, 1), done.stderr


def test_the_analysis_extra_analyzes_a_table_and_names_the_next_extra(wheel: Path, tmp_path: Path) -> None:
    env = environment(wheel, tmp_path, "analysis")
    (tmp_path / "t.csv").write_text("v,y\na,1\nb,2\na,2\nb,3\n")
    table = ("analyze", "--table", "t.csv", "--variant", "v", "--control", "a", "--metric", "mean:y")
    assert json.loads(run(env, *table, "--json", cwd=tmp_path).stdout)["units"] == {"a": 2, "b": 2}
    for words, message in (
        ((*table, "--html", "page.html"), "needs the chart libraries: install counterpoint[dashboard]"),
        ((*table, "--engine", "spark"), "needs Spark: install counterpoint[spark]"),
        (("up",), "needs the embedded store: install counterpoint[embedded]"),
    ):
        done = run(env, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr


def test_up_runs_on_the_embedded_and_analysis_extras_alone(wheel: Path, tmp_path: Path) -> None:
    env = environment(wheel, tmp_path, "embedded", "analysis")
    with serving(env, tmp_path, "up") as base:
        body = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}
        decision = httpx.post(f"{base}/v1/decide", json=body).json()["decision_id"]
    assert run(env, "collect", "--drain", "--data", "data", cwd=tmp_path).returncode == 0
    files = (tmp_path / "data" / "log" / "decisions").glob("*/*.parquet")
    assert decision in [one for file in files for one in parquet.read_table(file)["decision_id"].to_pylist()]
    page = (ROOT / "docs/reference/log.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    script = example.replace(".data/demo", "data")
    command = [sys.executable, "-c", script]
    read = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stdout.split()[1]) == (0, "u-1"), read.stderr


def test_the_dashboard_extra_draws_the_report_of_a_table(wheel: Path, tmp_path: Path) -> None:
    env = environment(wheel, tmp_path, "analysis", "dashboard")
    (tmp_path / "t.csv").write_text("v,y\na,1\nb,2\na,2\nb,3\n")
    table = ("analyze", "--table", "t.csv", "--variant", "v", "--control", "a", "--metric", "mean:y")
    done = run(env, *table, "--html", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vegaEmbed" in (tmp_path / "page.html").read_text()
