"""The verb that imports the flags of another system."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cyclopts import Parameter

from engine.cli.app import DESIGN, AsJson, app, format_count, new_table, out, print_error, print_json, print_line
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.imports.growthbook_proof import Proof
    from engine.imports.model import ImportResult

System = Literal["growthbook", "unleash", "launchdarkly", "flagd", "flagsmith", "eppo", "confidence"]
IDS = 10_000


@app.command(name="import", group=DESIGN)
def import_flags_of(
    system: Annotated[System, Parameter(help="The system that the file is from.")],
    file: Annotated[Path, Parameter(help="Its export or data file, JSON or YAML.")],
    *,
    to: Annotated[Path, Parameter(help="The folder to write; made if it does not exist.")],
    ids: Annotated[int, Parameter(help="Customers whose values a GrowthBook import compares; 0 for none.")] = IDS,
    json: AsJson = False,
) -> int:
    """Write another system's flags as YAML that passes `check`, and report what could not be kept and why.

    Nothing is overwritten. Of GrowthBook the values of 10,000 customers are compared with GrowthBook's own rules, one
    by one; the exit code is 1 if one of them differs.
    """
    from engine.catalog.check.load import read_folder
    from engine.imports.growthbook_proof import prove_growthbook
    from engine.imports.import_flags import import_flags, write_import

    document = _read(file, system)
    existing = read_folder(to)[0] if to.is_dir() else {}
    result = import_flags(system, document, existing)
    proof = None
    if system == "growthbook" and ids > 0:
        proof = prove_growthbook(document, result, ids, existing)
    write_import(result, to)
    if json:
        print_json(
            {
                "system": system,
                "folder": str(to),
                "files": sorted(result.files),
                "flags": result.flags,
                "notes": result.notes,
                "proof": proof,
            }
        )
    else:
        _print(result, proof, to)
    return int(proof is not None and proof.equal < proof.compared)


def _read(file: Path, system: str) -> dict[str, object]:
    """The document of a file; Flagsmith's export of features is a list."""
    data = file.read_bytes()
    try:
        found = msgspec.yaml.decode(data) if file.suffix in {".yaml", ".yml"} else msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise BadInput(f"{file}: is neither JSON nor YAML that can be read ({error}); export it again") from None
    if system == "flagsmith" and isinstance(found, list):
        return {"features": found}
    if not isinstance(found, dict):
        raise BadInput(f"{file}: is a {type(found).__name__}, not a mapping; give an export of the system")
    return found


def _print(result: "ImportResult", proof: "Proof | None", to: Path) -> None:
    """Print the notes as a table, and the summary."""
    table = new_table("flag", "place", "kept", "why")
    for note in result.notes:
        table.add_row(note.flag, note.place, note.kept, note.why)
    if result.notes:
        out.print(table)
    kept = sum(key is not None for key in result.flags.values())
    print_line(f"{kept} of {format_count(len(result.flags), 'flag')} of {result.system} written to {to}.")
    if proof is None:
        return
    if proof.equal == proof.compared:
        customers = format_count(proof.customers, "customer")
        print_line(f"{customers} compared one by one: all {proof.compared:,} values are GrowthBook's.")
        return
    print_error(f"{proof.compared - proof.equal:,} of {proof.compared:,} values are not GrowthBook's:")
    for one in proof.differences:
        print_error(f"{one.feature}: {one.customer} has {one.here!r} here, {one.growthbook!r} there")
