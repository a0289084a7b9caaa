"""`counterpoint quarantine`: lists records that could not be counted, and sends them again."""

from datetime import UTC, datetime
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, Data, app, format_count, new_table, out, print_error, print_json
from engine.errors import BadInput, require_extras
from engine.settings import Settings, from_environment, keep_files_private

quarantine = cyclopts.App(
    name="quarantine", help="Records that could not be counted or learnt, with the reason.", group=RUN
)
app.command(quarantine)
Reason = Annotated[str, Parameter(help="Only records whose reason begins with this text, such as `unknown decision`.")]


@quarantine.command(name="list")
def list_records(*, reason: Reason = "", data: Data = None, json: AsJson = False) -> int:
    """Show how many records are in quarantine for which reason, and whether a replay would take them."""
    require_extras("counterpoint quarantine list", "analysis")
    from engine.journal.log.quarantine import QuarantinedRecord, list_quarantine

    records = list_quarantine(_settings_of(data).log, reason)
    if json:
        print_json(records)
        return 0
    groups: dict[tuple[str, str], list[QuarantinedRecord]] = {}
    for record in records:
        groups.setdefault((record.reason.partition(":")[0], record.kind or "unreadable"), []).append(record)
    table = new_table("reason", "kind", "records", "since", "for example", figures=("records",))
    for (name, kind), found in sorted(groups.items(), key=lambda item: -len(item[1])):
        since = f"{datetime.fromtimestamp(found[0].time, UTC):%Y-%m-%d %H:%M}"
        table.add_row(name, kind, f"{len(found):,}", since, found[-1].reason.partition(": ")[2])
    out.print(table if records else "Nothing is in quarantine.")
    return 0


@quarantine.command
def replay(*, reason: Reason = "", data: Data = None, json: AsJson = False) -> int:
    """Send the records of a reason again, once its cause is mended; 1 if some cannot be read and stay."""
    require_extras("counterpoint quarantine replay", "analysis")
    from engine.journal.log.quarantine import replay_quarantine

    keep_files_private()
    settings = _settings_of(data)
    summary = replay_quarantine(settings.log, settings.spool, settings.partitions, reason)
    if json:
        print_json(summary)
    else:
        print_error(
            f"{format_count(summary.replayed, 'record')} spooled again: a server of this machine ships them, or "
            f"`counterpoint collect --drain`."
        )
        if summary.unreadable:
            print_error(f"{format_count(summary.unreadable, 'record')} cannot be read by this version and stay.")
    return 1 if summary.unreadable else 0


def _settings_of(data: Data) -> Settings:
    """The settings of an existing data folder, since a mistyped one would have an empty quarantine."""
    settings = from_environment(data=data)
    if not settings.data.is_dir():
        raise BadInput(f"{settings.data}: no such folder; give the --data of `counterpoint up`")
    return settings
