"""`bisect`: finds the line of YAML or the snapshot that changed what one customer gets."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from engine.cli.app import REPORT, AsJson, Data, Redis, app, open_store, print_json, print_line
from engine.errors import require_extras

if TYPE_CHECKING:
    from engine.rehearse.bisect import FoundChange, SeenAnswer


@app.command(group=REPORT)
def bisect(
    customer: Annotated[str, Parameter(help="The customer's id in the log.")],
    *,
    key: Annotated[
        str | None, Parameter(help="An experiment or a placement; the first whose answer changed by default.")
    ] = None,
    before: Annotated[
        str | None, Parameter(help="The decision_id of an earlier answer; the last other one by default.")
    ] = None,
    after: Annotated[str | None, Parameter(help="The decision_id of the answer; the newest by default.")] = None,
    data: Data = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Find which line of YAML or which snapshot changed what a customer gets; exit 1 if neither did.

    The later decision is replayed under the plans, and with the snapshots, between the two.
    """
    require_extras("counterpoint bisect", "analysis")
    from engine.catalog.archive import Archive
    from engine.journal import stream
    from engine.rehearse.bisect import bisect_customer

    with (
        open_store(data, redis) as settings,
        stream.connect_stream(settings.redis) as client,
    ):
        found = bisect_customer(
            settings.log, Archive(settings.plans), client, customer, key=key, first=before, last=after
        )
    if json:
        print_json(found)
    else:
        _print(found)
    return 0 if found.cause in ("plan", "snapshot") else 1


def _print(found: "FoundChange") -> None:
    from engine.analysis.render.plan_value import describe_line

    print_line(f"{found.customer}, {found.key}:")
    for answer in (found.before, found.after):
        print_line(f"  {_answer(answer)}")
    since = f", since {_time(found.since)}" if found.since is not None else ""
    by = f", last changed by {found.author}" if found.author else ""
    print_line(f"{found.text}{since}{by}.")
    if found.lines:
        print_line("Each of these lines does so alone:" if found.is_alone else "No line does so alone; these changed:")
    for line in found.lines:
        print_line(f"  {describe_line(line)}")


def _answer(answer: "SeenAnswer") -> str:
    policy = f", {answer.policy}" if answer.policy else ""
    got = f"{answer.got or 'nothing'} ({answer.reason})"
    return f"{_time(answer.time)} {answer.decision_id}: {got}, plan {answer.plan}{policy}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
