"""The verb that serves agents over the Model Context Protocol."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.cli.app import RUN, Data, Folder, Redis, app
from engine.errors import BadInput, require_extras
from engine.settings import from_environment


@app.command(group=RUN)
def mcp(
    *,
    drafts: Annotated[Path, Parameter(help="The folder for drafts, the only one that is written; made if missing.")],
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
) -> int:
    """Serve agents over standard input and output (Model Context Protocol): check, plan, preview, simulate and report.

    An agent may read, ask what-ifs and write YAML drafts into one folder. It cannot change what runs.
    """
    require_extras("counterpoint mcp", "agents")
    from engine.cli.bridges.mcp_server import make_server

    settings = from_environment(experiments=experiments, data=data, redis=redis)
    if drafts.resolve() == settings.experiments.resolve():
        raise BadInput(f"--drafts {drafts}: is the folder that runs; name another one for drafts")
    drafts.mkdir(parents=True, exist_ok=True)
    make_server(settings, drafts, redis).run()
    return 0
