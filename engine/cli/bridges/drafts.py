"""The folder of drafts: the only folder that agents write, with YAML files only."""

import re
from pathlib import Path

from engine.errors import BadInput

_NAME = re.compile(r"(offers/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.yaml")
MOST_BYTES = 1_000_000


class DraftFolder:
    """The drafts of a folder, by their names in the shop: `checkout.yaml`, `offers/coffee.yaml`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def names(self) -> list[str]:
        """The drafts' names, sorted."""
        found = [path for pattern in ("*.yaml", "offers/*.yaml") for path in self.folder.glob(pattern)]
        return sorted(path.relative_to(self.folder).as_posix() for path in found if path.is_file())

    def check_name(self, name: str) -> str:
        """The name, if a file of the shop may have it; else an error.

        Raises:
            BadInput: for any other: a draft is a YAML file in the folder or its offers.
        """
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"{name!r} is not a name of a draft; use letters, digits, _ . and -, as in offers/coffee.yaml"
            )
        return name

    def read(self, name: str) -> str | None:
        """The text of a draft; None if there is none. Errors as in `check_name`."""
        path = self._path(name)
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def write(self, name: str, text: str) -> None:
        """Write a draft. Errors as in `check_name`; also if the text is too long."""
        path = self._path(name)
        if len(text.encode()) > MOST_BYTES:
            raise BadInput(f"{name}: has more than {MOST_BYTES:,} bytes; split it")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def delete(self, name: str) -> bool:
        """Delete a draft; False if there is none. Errors as in `check_name`."""
        path = self._path(name)
        is_there = path.is_file()
        path.unlink(missing_ok=True)
        return is_there

    def _path(self, name: str) -> Path:
        """The path of a draft, checked so that no link leads out of the folder."""
        path = self.folder / self.check_name(name)
        if not path.resolve().is_relative_to(self.folder) or path.is_symlink():
            raise BadInput(f"{name!r} leads out of the folder of drafts; remove the link")
        return path
