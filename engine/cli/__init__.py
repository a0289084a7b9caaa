"""`counterpoint VERB …`: verbs parse arguments, call the engine and print. Exit codes: 0 done, 1 'no', 2 bad input."""

import os
import sys

from cyclopts import CycloptsError

from engine.cli import (
    bridges,
    catalog,
    conclude,
    customers,
    evaluate,
    explain,
    measure,
    reports,
    roles,
    simulate,
    status,
    supervise,
    traits,
)
from engine.cli.app import app, print_error, print_problems
from engine.cli.design import assertions, changes, interactions, rent, starter_folder
from engine.cli.encoding import adapt_streams
from engine.cli.operations import backup, bisect, coupons, doctor, keys, log, migrate, quarantine, store
from engine.errors import CatalogError, CounterpointError, StoppedError, missing_extra

__all__ = [
    "app",
    "assertions",
    "backup",
    "bisect",
    "bridges",
    "catalog",
    "changes",
    "conclude",
    "coupons",
    "customers",
    "doctor",
    "evaluate",
    "explain",
    "interactions",
    "keys",
    "log",
    "main",
    "measure",
    "migrate",
    "quarantine",
    "rent",
    "reports",
    "roles",
    "simulate",
    "starter_folder",
    "status",
    "store",
    "supervise",
    "traits",
]

for _name in app:
    app[_name].help_format = "markdown"
GROUPS = ("measure", "policy", "quarantine", "traits", "coupons", "keys", "log", "store")
"""Verbs that have verbs of their own."""
DESTRUCTIVE = ("erase",)
"""Verbs that a misspelled word must not suggest: what they delete does not come back."""


def main() -> None:
    """Run one verb and exit with its code."""
    adapt_streams()
    if sys.argv[1:2] == ["measure"]:  # read when numpy is imported; its arrays are small, and waiting threads cost CPU
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        code = app(result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        for verb in DESTRUCTIVE:  # the message, which is made now, suggests and lists what is shown
            app[verb].show = False
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
    except ImportError as error:
        missing = missing_extra(f"counterpoint {_verb()}", error)
        if missing is None:
            raise
        print_error(str(missing))
        code = 2
    except BrokenPipeError:  # the reader of a pipe has enough: `counterpoint … | head`
        code = 0
    except OSError as error:
        print_error(f"{error.filename or 'this machine'}: {error.strerror or error}")
        code = 2
    sys.exit(code or 0)


def _verb() -> str:
    """The verb of this process's command line: `analyze`, `policy warm-start`, `measure clv`."""
    words = sys.argv[1:3]
    return " ".join(words if words and words[0] in GROUPS else words[:1])
