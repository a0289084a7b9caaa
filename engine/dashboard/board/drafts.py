"""Drafts of the editor: checks them, rehearses their effects, and writes them to the folder.

A draft is checked together with the files that are in the folder now, by the same code as `check`, `plan` and
`preview`, and nothing is written until `write_draft`. Forms change line ends, so a draft has line feeds only, and a
file is compared by its bytes.
"""

import re
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from engine.catalog.archived_plan import read_kept_plans
from engine.catalog.check.load import build_specs, read_folder
from engine.catalog.check.warnings import find_warnings
from engine.catalog.diff.experiments import compare_specs
from engine.catalog.diff.offers import Change
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.folder import Specs
from engine.dashboard.board.compute import MOST_SAMPLED
from engine.dashboard.board.desk import Desk
from engine.dashboard.board.results import Job
from engine.errors import BadInput, CatalogError, Problem
from engine.rehearse.customers import SampledCustomer
from engine.rehearse.generated_customers import make_customers
from engine.rehearse.preview import PreviewRow, placement_of, preview, with_draft
from engine.rehearse.variant_moves import VariantMove, count_moves

FILE_NAME = re.compile(r"(offers/)?[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,120}\.yaml")
MOST_BYTES = 200_000
PREVIEWED = 12
"""Customers of a preview."""
MOST_ASSIGNMENTS = 4_000
"""Assignments that are computed to count who moves: customers times experiments."""

_writing = threading.Lock()
"""Taken from the check of a draft until its file is in place: of two writers of one file, the second is refused."""


@dataclass(frozen=True, kw_only=True)
class DraftCheck:
    """A draft and its effects; `is_real` states whether its sample comes from the log."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    moves: list[VariantMove] = field(default_factory=list)
    sample: int = 0
    is_real: bool = False
    key: str = ""
    preview: list[PreviewRow] = field(default_factory=list)

    @property
    def is_unsafe(self) -> bool:
        """Whether a part of the change is unsafe."""
        return any(change.verdict == "unsafe" for change in self.changes)


def folder_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the folder's YAML files, by name."""
    files, _ = read_folder(folder)
    return {name: data for name, data in files.items() if name.endswith(".yaml")}


def text_of(data: bytes) -> str:
    """The text of a file in the editor, with line feeds only."""
    return data.decode(errors="replace").replace("\r\n", "\n")


def digest_of(data: bytes | None) -> str:
    """The SHA-256 by which an opened file is recognized; empty for a missing file."""
    return "" if data is None else sha256(data).hexdigest()


def check_draft(desk: Desk, name: str, text: str) -> DraftCheck:
    """Check a draft and rehearse it on customers of the log.

    Raises:
        BadInput: if the name is no name of a file in the folder, or the text is too long.
    """
    _require_name(name, text)
    folder, now = desk.settings.experiments, time.time()
    files, _ = read_folder(folder, desk.settings.plans)
    files[name] = text.encode()
    kept, missing = read_kept_plans(folder.name, files, desk.settings.plans)
    running = desk.worker.watch.specs
    try:
        specs = build_specs(folder.name, {**files, **kept}, missing)
    except CatalogError as error:
        own = f"{folder.name}/{name}"
        return DraftCheck(problems=sorted(error.problems, key=lambda problem: (problem.file != own, problem)))
    changes = compare_specs(running, specs, now)
    plans = (desk.worker.watch.plan, compile_plan(specs))
    before, after = (replace(plan, ramped=desk.plan.ramped) for plan in plans)
    most = min(MOST_SAMPLED, max(20, MOST_ASSIGNMENTS // max(1, len(after.experiments))))
    sample, is_real = _sample(desk, specs, now, most)
    key = _key_of(specs, f"{folder.name}/{name}")
    rows = []
    if key:
        started = with_draft(specs, key)
        rehearsed = after if started is specs else replace(compile_plan(started), ramped=desk.plan.ramped)
        rows = preview(rehearsed, key, _on_channels(rehearsed, key, sample), now, desk.worker.snapshots)
    return DraftCheck(
        warnings=[problem for problem in find_warnings(specs, now) if problem.file == f"{folder.name}/{name}"],
        changes=sorted(changes, key=lambda change: change.verdict != "unsafe"),
        moves=count_moves(before, after, [one.profile for one in sample], now) if changes else [],
        sample=len(sample),
        is_real=is_real,
        key=key,
        preview=rows,
    )


def write_draft(desk: Desk, name: str, text: str, *, seen: str, accepts_unsafe: bool) -> DraftCheck:
    """Write a valid draft to the folder, which the servers then run; returns its changes.

    A file with the line ends of Windows retains them.

    Args:
        desk: of the dashboard.
        name: of the file.
        text: of the draft.
        seen: the digest of the file when it was opened.
        accepts_unsafe: whether the person accepts unsafe changes.

    Raises:
        BadInput: if it has problems, the file was changed meanwhile or is not UTF-8, something unsafe was not accepted,
            or the folder cannot be written.
    """
    with _writing:
        return _write_draft(desk, name, text, seen=seen, accepts_unsafe=accepts_unsafe)


def _write_draft(desk: Desk, name: str, text: str, *, seen: str, accepts_unsafe: bool) -> DraftCheck:
    checked = check_draft(desk, name, text)
    if checked.problems:
        raise BadInput(f"{name}: has {len(checked.problems)} problems and was not written; correct them first")
    if checked.is_unsafe and not accepts_unsafe:
        raise BadInput(f"{name}: has unsafe changes and was not written; read them and tick the box that accepts them")
    path = desk.settings.experiments / name
    try:
        found = path.read_bytes() if path.exists() else None
        if digest_of(found) != seen:
            raise BadInput(f"{name}: it was changed while you wrote; open it again and repeat your change")
        require_utf8(name, found or b"")
        _replace_file(path, _with_line_ends(text, found or b""))
    except OSError as error:
        reason = f"{error.strerror}; download the draft, and put it there another way"
        raise BadInput(f"{name}: cannot be written ({reason})") from error
    return checked


def require_utf8(name: str, data: bytes) -> None:
    """Refuse a file that is not UTF-8, since writing it would replace its other characters.

    Raises:
        BadInput: if it is not UTF-8.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8, so the editor would damage it"
        raise BadInput(f"{name}: {reason}; save it as UTF-8 with a text editor first") from error


def _with_line_ends(text: str, found: bytes) -> bytes:
    """The bytes of a draft, with the line ends of Windows if the file that it replaces has no others."""
    lines = found.count(b"\n")
    ends = b"\r\n" if lines and found.count(b"\r\n") == lines else b"\n"
    return text.encode().replace(b"\n", ends)


def _replace_file(path: Path, data: bytes) -> None:
    """Write a temporary file beside `path` and rename it, so that readers see the old or the new one."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        draft.write_bytes(data)
        draft.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def _require_name(name: str, text: str) -> None:
    if not FILE_NAME.fullmatch(name):
        raise BadInput(f"{name!r}: is not a name of a file here; write key.yaml, or offers/key.yaml for an offer")
    if len(text.encode()) > MOST_BYTES:
        raise BadInput(f"{name}: has more than {MOST_BYTES:,} bytes; split it")


def _key_of(specs: Specs, file: str) -> str:
    """The experiment or the placement that a file defines; empty for another file."""
    experiment = next((key for key in specs.experiments if specs.files.get(key) == file), "")
    placed = next((one.placement for key, one in specs.selections.items() if specs.files.get(key) == file), "")
    return experiment or placed


def _sample(desk: Desk, specs: Specs, now: float, most: int) -> tuple[list[SampledCustomer], bool]:
    """Customers of the log's newest decisions, or generated ones if there are none."""
    result = desk.results.read(Job("sample", ""))
    found = result.value if result is not None and isinstance(result.value, tuple) else ()
    if not found:
        return make_customers(most, specs, now=now), False
    return list(found[-most:]), True


def _on_channels(plan: Plan, key: str, sample: list[SampledCustomer]) -> list[SampledCustomer]:
    """A few customers of the sample on alternating channels; on the first channel of `key` if theirs lacks it."""
    placement = placement_of(plan, key)
    shown = plan.placements[placement] if placement else plan.experiments[key].spec.channels or plan.channels
    sample = [one if one.channel in shown else SampledCustomer(one.profile, one.context) for one in sample]
    by_channel: dict[str | None, list[SampledCustomer]] = {}
    for one in sample:
        by_channel.setdefault(one.channel, []).append(one)
    rounds = max((len(group) for group in by_channel.values()), default=0)
    return [group[at] for at in range(rounds) for group in by_channel.values() if at < len(group)][:PREVIEWED]
