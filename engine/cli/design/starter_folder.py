"""The verb that writes a small folder to start from."""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import DESIGN, app, print_line
from engine.errors import BadInput

STARTER = Path(__file__).with_name("starter")
"""The files of the folder, in which `FOLDER` stands for its name."""


@app.command(group=DESIGN)
def init(folder: Annotated[Path, Parameter(help="The folder to make; it is new or empty.")]) -> int:
    """Write a small, commented folder of experiments to start from, and say what to do next."""
    name = shlex.quote(str(folder))
    try:
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        if not is_free:
            raise BadInput(f"{folder}: is there already and not empty; name a new folder")
        for source in sorted(STARTER.rglob("*.*")):
            target = folder / source.relative_to(STARTER)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8").replace("FOLDER", name)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror}); name a folder that can") from error
    print_line(f"{folder} is ready, and {folder}/README.md describes it. Next:")
    print_line(f"counterpoint check {name}")
    print_line(f"counterpoint up --experiments {name}")
    return 0
