"""The house keeps its shape: names stand once, functions and files stay small, events and keys have one home."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from engine import vocabulary

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("engine", "policies")
GROUND = {"engine/vocabulary.py", "engine/keyspace.py"}
MOST_LINES, MOST_FILES, MOST_PARAMETERS, MOST_POSITIONAL, LONGEST = 400, 18, 8, 5, 60

SHARED_NAMES: dict[str, str] = {}
"""Public names that stand in several modules because they are one concept through a Protocol, each with its reason."""


@cache
def modules() -> dict[str, ast.Module]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in found}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file, node


def public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("__"):
            if isinstance(node, ast.ClassDef) or not node.name.startswith("_"):
                yield node.name.lstrip("_") if isinstance(node, ast.ClassDef) else node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):  # an alias of a type is a class to its readers
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][a-z]\w*", target.id):
                    yield target.id


def test_a_public_name_stands_in_one_module() -> None:
    homes = defaultdict(list)
    for file, tree in modules().items():
        for name in public_names(tree):
            # A verb of the command line is named for what it runs; overloads of one function are one name.
            if ("/cli/" not in file or not name.islower()) and file not in homes[name]:
                homes[name].append(file)
    twice = {name: files for name, files in homes.items() if len(files) > 1 and name not in SHARED_NAMES}
    assert len(SHARED_NAMES) <= 10
    found = [f"{name}: {', '.join(files)}" for name, files in sorted(twice.items())]
    assert not found, "\n".join(found)


def test_functions_fit_a_page() -> None:
    long = []
    for file, node in functions():
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > LONGEST:
            long.append(f"{file}:{node.lineno} {node.name}: {length} lines")
    assert not long, "\n".join(long)


def test_functions_take_few_parameters() -> None:
    many = []
    for file, node in functions():
        arguments = node.args
        count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)][:1]
        count -= names in (["self"], ["cls"])
        if count > MOST_PARAMETERS and "/cli/" not in file:
            many.append(f"{file}:{node.lineno} {node.name}: {count} parameters")
    assert not many, "\n".join(many)


def test_calls_name_their_arguments() -> None:
    many = []
    for file, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not any(isinstance(one, ast.Starred) for one in node.args):
                callee = ast.unparse(node.func)
                if len(node.args) > MOST_POSITIONAL and not callee.endswith(
                    (".send", ".eval", "print", "zip", "gather", "TypeVar")
                ):
                    many.append(f"{file}:{node.lineno} {callee}: {len(node.args)} positional arguments")
    assert not many, "\n".join(many)


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of constants that are statements of their own: docstrings of modules, classes, functions and fields."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def literals(file: str) -> Iterator[ast.Constant]:
    tree = modules()[file]
    apart = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield node


EVENTS = {
    *vocabulary.PURCHASES,
    *vocabulary.REFUNDS,
    *vocabulary.ANSWERS,
    *vocabulary.CONFIRMS,
    *vocabulary.COMPLAINTS,
    *(set(vocabulary.CONSENTS) - {"consent"}),  # also the name of a gate and of a tree of traits
    vocabulary.POINTS_REDEEMED,
    vocabulary.CART_UPDATED,
    vocabulary.CART_CLEARED,
    vocabulary.CONVERSATION_CLOSED,
    vocabulary.MERGED,
}
EXAMPLES = {
    "engine/traffic/demo.py": "plays a storefront, which sends events by name",
    "engine/traffic/obd_replay.py": "plays a storefront and reads the columns of the Open Bandit Dataset",
    "engine/service/endpoints/operations.py": "examples of the API's documentation",
    "engine/customer.py": "`complaint` is a field of the profile",
    "engine/analysis/offpolicy/logged_choices.py": "`click` is a column of the Open Bandit Dataset",
}
"""Files in which a word that is also an event's name stands for something else."""


def test_event_names_stand_in_the_vocabulary_alone() -> None:
    assert len(EXAMPLES) <= 10
    found = [
        f"{file}:{node.lineno} {node.value!r}"
        for file in modules()
        if file not in GROUND and file not in EXAMPLES
        for node in literals(file)
        if node.value in EVENTS
    ]
    assert not found, "\n".join(found)


def test_keys_of_redis_stand_in_the_keyspace_alone() -> None:
    found = [
        f"{file}:{node.lineno} {node.value!r}"
        for file in modules()
        if file not in GROUND
        for node in literals(file)
        if re.match(r"cp:", node.value)
    ]
    assert not found, "\n".join(found)


def test_files_are_short_and_rooms_are_small() -> None:
    rooms: dict[Path, int] = defaultdict(int)
    long = []
    for file in modules():
        rooms[Path(file).parent] += 1
        lines = (ROOT / file).read_text(encoding="utf-8").count("\n")
        if lines > MOST_LINES:
            long.append(f"{file}: {lines} lines")
    crowded = [f"{room}: {count} files" for room, count in rooms.items() if count > MOST_FILES]
    found = long + crowded
    assert not found, "\n".join(found)


WORDS = re.compile(r"\b(told|said|anew|whom|heard|had better|be had)\b", re.IGNORECASE)
QUOTED: dict[str, str] = {}
"""Lines in which such a word is a person's or a stored field's, by file, with the reason."""


def test_words_are_the_fields_own() -> None:
    folders = ("engine", "policies", "loadtests", "docs")
    kinds = (".py", ".md", ".lua", ".sql", ".html", ".toml", ".yaml")
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            name = str(path.relative_to(ROOT))
            if path.suffix in kinds and name not in QUOTED:
                lines = path.read_text(encoding="utf-8").splitlines()
                found += [f"{name}:{at} {line.strip()}" for at, line in enumerate(lines, 1) if WORDS.search(line)]
    assert len(QUOTED) <= 10
    assert not found, "\n".join(found)
