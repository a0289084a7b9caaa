"""`counterpoint VERB …`: verbs parse and call. 0 done, 1 the answer is 'no', 2 unusable input."""

import sys

from cyclopts import CycloptsError

from engine.cli import catalog, customers, evaluate, reports, roles, simulate
from engine.cli.app import app, complain, complain_of
from engine.errors import CatalogError, CounterpointError, StoppedError

__all__ = ["app", "catalog", "customers", "evaluate", "main", "reports", "roles", "simulate"]


def main() -> None:
    """Run one verb and end the process with its exit code."""
    try:
        code = app(result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        complain(f"{error} `counterpoint --help` lists the verbs, `counterpoint VERB --help` a verb's options.")
        code = 2
    except CatalogError as error:
        complain_of(error)
        code = 2
    except StoppedError:
        code = 0
    except CounterpointError as error:
        complain(str(error))
        code = 2
    except BrokenPipeError:
        code = 0
    except OSError as error:
        complain(f"{error.filename or 'this machine'}: {error.strerror or error}")
        code = 2
    sys.exit(code or 0)
