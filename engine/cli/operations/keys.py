"""`counterpoint keys`: make, rotate and list the API keys of an installation."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, app, new_table, out, print_error, print_json, print_line
from engine.errors import BadInput
from engine.service.access.keys_file import KeyRole, KeySpec, key_digest, read_keys_file
from engine.settings import from_environment

keys = cyclopts.App(name="keys", help="API keys: make one, rotate one, list them without showing any.", group=RUN)
app.command(keys)
File = Annotated[Path | None, Parameter(help="The file of keys; COUNTERPOINT_API_KEYS by default.")]
LifeDays = Annotated[float | None, Parameter(help="Days until the new key ends; without it never.")]
_MOST_DAYS = 36_500
_PREFIX: dict[KeyRole, str] = {"client": "pk", "server": "sk", "admin": "ak"}


@keys.command
def new(name: str, *, role: KeyRole, days: LifeDays = None, json: AsJson = False) -> int:
    """Make a key: it is shown once, and its entry for the file of keys, which has its digest alone."""
    return _show(_make_key(role), _entry(name, role, days), json=json)


@keys.command
def rotate(
    name: str,
    *,
    overlap: Annotated[float, Parameter(help="Days for which the key of before is good beside the new one.")] = 7.0,
    days: LifeDays = None,
    file: File = None,
    json: AsJson = False,
) -> int:
    """Make a key in place of one in the file; that stays good for some days, so that callers can change over."""
    spec = next((one for one in _read(file) if one.name == name), None)
    if spec is None:
        raise BadInput(f"{name}: is not a key of the file; `counterpoint keys list` shows their names")
    until = _after(overlap, "--overlap")
    if spec.expires is not None:
        until = min(until, spec.expires)  # the rotation of a key that ends does not lengthen its life
    before = {"until": _write_time(until), "sha256": key_digest(spec).hex()}
    if spec.secret is not None:
        before["secret"] = spec.secret
    entry = _entry(name, spec.role, days)
    if spec.per_second is not None:
        entry["per_second"] = spec.per_second
    if spec.origins:
        entry["origins"] = spec.origins
    if spec.client_may_say:
        entry["client_may_say"] = spec.client_may_say
    if spec.dashboard is not None:
        entry["dashboard"] = spec.dashboard
    return _show(_make_key(spec.role), {**entry, "previous": before}, json=json)


@keys.command(name="list")
def list_keys(*, file: File = None, json: AsJson = False) -> int:
    """List names, roles and ends; 1 if a key ended or ends within a week."""
    now, rows, due = datetime.now(UTC), [], False
    for spec in _read(file):
        until = None if spec.previous is None else spec.previous.until
        state = _state(spec, now)
        due |= state != "live"
        rows.append({"name": spec.name, "role": spec.role, "state": state, "expires": spec.expires, "previous": until})
    if json:
        print_json(rows)
    else:
        table = new_table("name", "role", "state", "expires", "previous until")
        for row in rows:
            shown = [_write_time(row[field]) for field in ("expires", "previous")]  # type: ignore[arg-type]
            table.add_row(str(row["name"]), str(row["role"]), str(row["state"]), *shown)
        out.print(table)
    return 1 if due else 0


def _state(spec: KeySpec, now: datetime) -> str:
    if spec.expires is None or spec.expires > now + timedelta(days=7):
        return "live"
    return "ends within a week" if spec.expires > now else "ended"


def _read(file: Path | None) -> list[KeySpec]:
    path = file or from_environment().api_keys
    if path is None:
        raise BadInput("--file: is missing, and COUNTERPOINT_API_KEYS names no file of keys; name one")
    return read_keys_file(path)


def _make_key(role: KeyRole) -> str:
    return f"{_PREFIX[role]}-{secrets.token_urlsafe(32)}"


def _entry(name: str, role: KeyRole, days: float | None) -> dict[str, object]:
    """The fields of a new entry except its digest."""
    entry: dict[str, object] = {"name": name, "role": role}
    if role == "client":
        entry["secret"] = secrets.token_urlsafe(32)
    if days is not None:
        entry["expires"] = _write_time(_after(days, "--days"))
    return entry


def _after(days: float, option: str) -> datetime:
    """The time `days` from now.

    Raises:
        BadInput: if they are fewer than none, or more than a hundred years.
    """
    if not 0 <= days <= _MOST_DAYS:
        raise BadInput(f"{option}: {days:g} is not between 0 and {_MOST_DAYS:,}; give the days of the key's life")
    return datetime.now(UTC) + timedelta(days=days)


def _show(key: str, entry: dict[str, object], *, json: bool) -> int:
    """Print a key for the one time, and its entry."""
    name, role, *_ = entry
    entry = {name: entry[name], role: entry[role], "sha256": hashlib.sha256(key.encode()).hexdigest(), **entry}
    if json:
        print_json({"key": key, "entry": entry})
        return 0
    print_error("The key, which is shown this once; give it to its caller:")
    print_line(key)
    print_error("Its entry of `keys:` in the file of keys, in place of one of that name; then restart the servers:")
    print_line(f"  - {_as_yaml(entry)}")
    return 0


def _as_yaml(value: object) -> str:
    """A value in YAML's flow style; every text is in quotes, as JSON has them."""
    import json as encoding

    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_as_yaml(one)}" for name, one in value.items()) + "}"
    return encoding.dumps(value)


def _write_time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
