"""`counterpoint log`: the log on an object store, and back."""

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, Data, app, format_count, print_error, print_json
from engine.errors import BadInput, require_extras
from engine.settings import from_environment, keep_files_private

log = cyclopts.App(name="log", help="The log's copy on an object store.", group=RUN)
app.command(log)
Prefix = Annotated[
    str | None, Parameter(help="The prefix of the copy, such as s3://BUCKET/counterpoint; COUNTERPOINT_LOG_COPY.")
]
CopiedPrefix = Annotated[str, Parameter(help="The prefix of a copy, such as s3://BUCKET/counterpoint.")]
NewFolder = Annotated[Path, Parameter(help="A new folder for the log.")]


@log.command
def copy(url: Prefix = None, /, *, data: Data = None, json: AsJson = False) -> int:
    """Copy the log to an object store, and bring its Iceberg tables up to date where COUNTERPOINT_ICEBERG is set."""
    require_extras("counterpoint log copy", "analysis")
    from engine.lake.follow import LogFollower

    settings = from_environment(data=data)
    target = url or settings.log_copy
    if target is None:
        raise BadInput("no object store is named; give its prefix, or set COUNTERPOINT_LOG_COPY=s3://BUCKET/PREFIX")
    summary = LogFollower(settings, target).copy()
    if json:
        print_json(summary)
    elif summary is not None:
        files = f"{format_count(summary.uploaded, 'object')} uploaded, {summary.deleted:,} deleted"
        print_error(f"{files}, {summary.bytes / 1e6:,.1f} MB. The copy has commit {summary.commit:,}.")
    return 0


@log.command
def pull(url: CopiedPrefix, target: NewFolder, /, *, json: AsJson = False) -> int:
    """Write the log that an object store has the copy of into a new folder, which every verb reads by --log."""
    require_extras("counterpoint log pull", "analysis")
    from engine.lake.log_copy import ObjectStore, pull_log

    keep_files_private()
    manifest = pull_log(ObjectStore(url), target)
    size = sum(one.size for one in manifest.files.values())
    if json:
        print_json({"log": str(target), "files": len(manifest.files), "bytes": size, "commit": manifest.commit})
    else:
        print_error(f"{format_count(len(manifest.files), 'file')}, {size / 1e6:,.1f} MB in {target}.")
    return 0
