"""Writes the end of an experiment into its YAML file, without changing other lines and comments."""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import msgspec
import yaml
from msgspec.structs import asdict

from engine.catalog.check.load import build_specs, read_folder
from engine.catalog.spec.conclusion import ConclusionSpec
from engine.catalog.spec.flags import RULE, rule_names
from engine.catalog.spec.folder import Specs
from engine.errors import BadInput


def write_conclusion(folder: Path, specs: Specs, key: str, *, ship: str | None, decided: ConclusionSpec) -> Path:
    """Set `status`, `ship` and `decided` in an experiment's file or a flag's rule; returns the file's path.

    Args:
        folder: the folder of YAML.
        specs: its specs.
        key: the experiment, or `FLAG#RULE`.
        ship: the variant that everyone gets; None stops the experiment.
        decided: the day, the person and the reason.

    Raises:
        BadInput: if there is no such experiment, or its file is not written line by line.
        CatalogError: if the folder would have problems; then nothing is written.
    """
    flag, has_rule, rule = key.partition(RULE)
    if flag not in specs.experiments:
        raise BadInput(f"{key!r} is not an experiment of {folder}; name one of {', '.join(sorted(specs.experiments))}")
    names = rule_names(specs.experiments[flag].rules)
    if has_rule and rule not in names:
        raise BadInput(f"{key!r} is not a rule of the flag {flag}; name one of {', '.join(names) or 'none'}")
    name = specs.files[flag].partition("/")[2]
    path = folder / name
    text = path.read_bytes().decode()
    if not re.search(r"^key:", text, re.MULTILINE):
        raise BadInput(f"{path}: is not written key by key from the line's start; set status, ship and decided by hand")
    known = {field: value for field, value in asdict(decided).items() if value is not None}
    end: dict[str, str | Mapping[str, object]] = {"status": "shipped", "ship": ship} if ship else {"status": "stopped"}
    end["decided"] = known
    if has_rule:
        changed = _end_rule(path, text, names.index(rule), end)
    else:
        changed = text if ship else drop_key(text, "ship")
        for field, value in end.items():
            changed = set_key(changed, field, value)
    files, problems = read_folder(folder)
    build_specs(folder.name, {**files, name: changed.encode()}, problems)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(changed.encode())
    draft.replace(path)
    return path


def set_key(text: str, key: str, value: str | Mapping[str, object]) -> str:
    """The YAML with a top-level key set, in its place or at the end."""
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{key}: {_flow(value)}{end}"
    changed, count = re.subn(_block(key), lambda _: line, text, count=1)
    return changed if count else text.rstrip("\r\n") + end + line


def drop_key(text: str, key: str) -> str:
    """The YAML without a top-level key."""
    return re.sub(_block(key), "", text, count=1)


def _end_rule(path: Path, text: str, place: int, end: Mapping[str, str | Mapping[str, object]]) -> str:
    """The YAML of a flag with the keys of an end in one of its rules, after the rule's first key.

    Raises:
        BadInput: if the file is not laid out as rules are.
    """
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    rules = _value_of(document, "rules")
    rule = rules.value[place] if isinstance(rules, yaml.SequenceNode) and place < len(rules.value) else None
    if not isinstance(rule, yaml.MappingNode):
        raise BadInput(f"{path}: has no rule at place {place + 1} under rules; set status, ship and decided by hand")
    newline = "\r\n" if "\r\n" in text else "\n"
    between = ", " if rule.flow_style else newline + " " * rule.start_mark.column
    starts = [key.start_mark.index for key, _ in rule.value]
    stays = [at for at, (key, _) in enumerate(rule.value) if key.value not in {"status", "ship", "decided"}]
    if len(stays) < 2 or stays[-1] != len(starts) - 1:  # the end stands between two keys
        raise BadInput(f"{path}: a rule ends with status, ship or decided; set them there by hand")
    parts = [text[starts[at] : starts[at + 1]] for at in stays[:-1]]
    parts.insert(1, "".join(f"{name}: {_flow(value)}{between}" for name, value in end.items()))
    return text[: starts[0]] + "".join(parts) + text[starts[-1] :]


def _value_of(document: yaml.Node | None, key: str) -> yaml.Node | None:
    """The value of a key of a mapping."""
    pairs = document.value if isinstance(document, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _block(key: str) -> str:
    """A top-level key with all lines of its value: indented lines, list items, and blank lines between."""
    return rf"(?m)^{key}:[^\n]*(?:\n|\Z)(?:(?:[ \t]+[^\n]*|- [^\n]*|-)(?:\n|\Z)|\n(?=[ \t]+\S))*"


def _flow(value: str | Mapping[str, object]) -> str:
    """A value on one line: JSON texts are valid YAML, dates are written plain."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) else msgspec.json.encode(value).decode()
    parts = [
        f"{name}: {one.isoformat() if isinstance(one, date) else msgspec.json.encode(one).decode()}"
        for name, one in value.items()
    ]
    return "{" + ", ".join(parts) + "}"
