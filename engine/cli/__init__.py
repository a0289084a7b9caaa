"""`counterpoint VERB …`: verbs parse arguments, call the engine and print. Exit codes: 0 done, 1 'no', 2 bad input."""

import sys

from cyclopts import CycloptsError

from engine.cli import catalog, customers, evaluate, explain, reports, roles, simulate
from engine.cli.app import app, print_error, print_problems
from engine.errors import CatalogError, CounterpointError, StoppedError

__all__ = ["app", "catalog", "customers", "evaluate", "explain", "main", "reports", "roles", "simulate"]


def main() -> None:
    """Run one verb and exit with its code."""
    try:
        code = app(result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print_error(f"{error} `counterpoint --help` lists the verbs, `counterpoint VERB --help` a verb's options.")
        code = 2
    except CatalogError as error:
        print_problems(error)
        code = 2
    except StoppedError:
        code = 0
    except CounterpointError as error:
        print_error(str(error))
        code = 2
    except BrokenPipeError:  # the reader of a pipe has enough: `counterpoint … | head`
        code = 0
    except OSError as error:
        print_error(f"{error.filename or 'this machine'}: {error.strerror or error}")
        code = 2
    sys.exit(code or 0)
