"""Changes of the running shop by people and the supervisor: pauses, ramp positions, open breakers.

The store has them. Where none is at hand, the audit events of the log say what they were when it was written.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from engine.catalog.plan.plan import Plan
from engine.errors import StoreUnavailable, has_extra
from engine.journal import stream
from engine.keyspace import PAUSED_EXPERIMENTS
from engine.service.kill_switch import Pause
from engine.settings import STORE_ADDRESS_FILE, Settings
from engine.snapshots.publish import open_breakers, ramp_positions, store_errors
from engine.vocabulary import EXPERIMENT_PAUSED, EXPERIMENT_RESUMED, RAMP_MOVED


@dataclass(frozen=True, kw_only=True)
class RunningState:
    """Pauses and ramp coverages by experiment, breakers' reasons by selection, and their source.

    `source` is empty where neither the store nor the log has them: every ramp is then taken at its first step.
    """

    paused: Mapping[str, Pause] = field(default_factory=dict)
    ramped: Mapping[str, float] = field(default_factory=dict)
    breakers: Mapping[str, str] = field(default_factory=dict)
    source: Literal["store", "log", ""] = ""


class _Moved(msgspec.Struct):
    """The properties of an audit event of a ramp, a pause or a resume."""

    experiment: str
    coverage: float = 0.0
    by: str = ""
    reason: str = ""


def read_running_state(settings: Settings, log_dir: Path, *, is_named: bool) -> RunningState:
    """The state from the store, if one is named or runs on the data directory; else from the log.

    Raises:
        StoreUnavailable: if the store was named and does not answer.
    """
    if is_named or (settings.data / STORE_ADDRESS_FILE).is_file():
        try:
            with stream.connect_stream(settings.redis) as client, store_errors("reading what runs"):
                return RunningState(
                    paused=read_pauses(client),
                    ramped=ramp_positions(client),
                    breakers=open_breakers(client),
                    source="store",
                )
        except StoreUnavailable:
            if is_named:
                raise
    if (log_dir / "decisions").is_dir() and has_extra("analysis"):
        return _read_from_log(log_dir)
    return RunningState()


def read_pauses(client: stream.StreamClient) -> dict[str, Pause]:
    """The experiments that the kill switch pauses; a damaged value pauses without an author."""
    found: dict[str, Pause] = {}
    for key, value in client.hgetall(PAUSED_EXPERIMENTS).items():
        name = key.decode(errors="replace") if isinstance(key, bytes) else key
        try:
            found[name] = msgspec.json.decode(value, type=Pause)
        except msgspec.DecodeError:
            found[name] = Pause("", 0.0)
    return found


def _read_from_log(log_dir: Path) -> RunningState:
    """The state by the last audit event of each experiment."""
    from engine.analysis.measure.activity import read_audit_events  # noqa: PLC0415 # slow to import

    paused: dict[str, Pause] = {}
    ramped: dict[str, float] = {}
    for record in read_audit_events(log_dir, (EXPERIMENT_PAUSED, EXPERIMENT_RESUMED, RAMP_MOVED)):
        with suppress(msgspec.DecodeError):  # an event of another release
            moved = msgspec.json.decode(record.properties, type=_Moved)
            if record.event == RAMP_MOVED:
                ramped[moved.experiment] = moved.coverage
            elif record.event == EXPERIMENT_PAUSED:
                paused[moved.experiment] = Pause(moved.by, record.time, moved.reason)
            else:
                paused.pop(moved.experiment, None)
    return RunningState(paused=paused, ramped=ramped, source="log")


def assumed_steps(plan: Plan, state: RunningState) -> Iterator[str]:
    """Yield a line for each held ramp with an unknown step, with the assumed step."""
    flags = plan.experiments.values()
    for one in (found for flag in flags for found in (flag, *(rule.experiment for rule in flag.rules))):
        if one.held_steps and one.key not in state.ramped and one.spec.status == "running":
            where = f"the {state.source} has no step of its ramp" if state.source else "no store or log is at hand"
            yield f"{one.key}: {where}, so its first one is assumed, {one.held_steps[0][0]:.3g} of its audience"
