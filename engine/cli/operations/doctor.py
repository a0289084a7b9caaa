"""`counterpoint doctor`: finds the problems of a deployment and their remedies."""

from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, Data, Folder, Redis, app, new_table, out, print_json
from engine.settings import from_environment

Server = Annotated[
    list[str] | None, Parameter(name="--server", help="The address of a decision server, http://HOST:PORT; repeatable.")
]


@app.command(group=RUN)
def doctor(
    *, server: Server = None, experiments: Folder = None, data: Data = None, redis: Redis = None, json: AsJson = False
) -> int:
    """Look at settings, YAML, keys, disks, store, streams, spools, log and servers; 1 if something is wrong."""
    from engine.doctor.findings import examine

    findings = examine(from_environment(experiments=experiments, data=data, redis=redis), server or [])
    if json:
        print_json(findings)
    else:
        table = new_table("", "what", "found", "do")
        for one in findings:
            table.add_row(
                {"ok": "✓", "warning": "!", "problem": "✗"}[one.severity], one.subject, one.detail, one.remedy
            )
        out.print(table)
    return 1 if any(one.severity == "problem" for one in findings) else 0
