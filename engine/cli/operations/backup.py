"""`counterpoint backup` and `restore`: copies a running installation, and restores it elsewhere."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, Data, Folder, app, print_error, print_json
from engine.errors import require_extras
from engine.settings import from_environment, keep_files_private

BackupTarget = Annotated[Path, Parameter(help="A new folder for the backup, on another disk.")]
BackupFolder = Annotated[Path, Parameter(help="The folder of a backup.")]


@app.command(group=RUN)
def backup(target: BackupTarget, /, *, experiments: Folder = None, data: Data = None, json: AsJson = False) -> int:
    """Copy a whole installation of `up`, which may run meanwhile: spools, store, learner, log and YAML."""
    require_extras("counterpoint backup", "embedded", "analysis")
    from engine.backup.installation import back_up

    keep_files_private()
    manifest = back_up(from_environment(experiments=experiments, data=data), target)
    size = sum(file.size for file in manifest.files.values())
    if json:
        print_json({"target": str(target), "files": len(manifest.files), "bytes": size})
    else:
        print_error(f"{len(manifest.files):,} files, {size / 1e6:,.1f} MB in {target}. The file of keys is not in it.")
    return 0


@app.command(group=RUN)
def restore(source: BackupFolder, /, *, experiments: Folder = None, data: Data = None, json: AsJson = False) -> int:
    """Check a backup, and copy it into a new data folder; with --experiments its YAML too. Then start `up` there."""
    require_extras("counterpoint restore", "analysis")
    from engine.backup.installation import restore_backup

    keep_files_private()
    settings = from_environment(data=data)
    manifest = restore_backup(source, settings.data, experiments)
    if json:
        print_json({"data": str(settings.data), "files": len(manifest.files), "began": manifest.began})
    else:
        print_error(
            f"{len(manifest.files):,} files of version {manifest.version} are in {settings.data}. "
            f"Start `counterpoint up --data {settings.data}`."
        )
    return 0
