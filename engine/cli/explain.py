"""`explain`: replays a logged decision and prints why it was answered so."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from engine.cli.app import REPORT, AsJson, Data, Redis, app, new_table, open_store, out, print_json, print_line
from engine.cli.catalog import as_yaml_line

if TYPE_CHECKING:
    from engine.rehearse.explain import ReplayedDecision


@app.command(group=REPORT)
def explain(
    decision_id: Annotated[str, Parameter(help="The decision_id of the answer.")],
    *,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Replay a logged decision from its record and show its reasons; exit 1 if the answer differs."""
    from engine.catalog.archive import Archive
    from engine.journal import stream
    from engine.rehearse.explain import explain_decision

    with (
        open_store(data, redis) as settings,
        stream.connect_stream(settings.redis) as client,
    ):
        replayed = explain_decision(settings.log, Archive(settings.plans), client, decision_id)
    if json:
        print_json(replayed)
    else:
        _print(decision_id, replayed)
    return 0 if replayed.same else 1


def _print(decision_id: str, replayed: "ReplayedDecision") -> None:
    same = "the same answer" if replayed.same else f"another answer: {'; '.join(replayed.differences)}"
    print_line(f"{decision_id}, plan {replayed.plan}: replayed with {same}.")
    headers = ("", "key", "got", "reason", "propensity", "policy")
    table = new_table(*headers, figures=["propensity"])
    for row in replayed.logged:
        cells = (row.kind, row.key, row.variant or "-", row.reason, f"{row.propensity:.4f}", row.policy or "")
        table.add_row(*cells)
    out.print(table)
    for version in replayed.recorded:
        print_line(f"{version} is no longer stored: its probabilities are those of the record.")
    for name, placement in replayed.explanation.placements.items():
        features = as_yaml_line(placement.features) if placement.features else "none"
        print_line(f"{name}: features {features}")
        for candidate in placement.candidates:
            factors = (
                f"policy {candidate.policy:.4f}, context {candidate.context:g}, value {candidate.value:g}, "
                f"lever {candidate.lever:g}"
            )
            factors += f", worth its price of {candidate.price:g}" if candidate.price else ""
            print_line(f"  {candidate.offer} {candidate.propensity:.4f} ({factors})")
        for offer, gate in placement.closed.items():
            print_line(f"  {offer} could not be shown: {gate}")
