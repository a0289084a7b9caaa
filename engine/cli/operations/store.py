"""`counterpoint store`: users of the store for the roles."""

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from engine.cli.app import RUN, AsJson, app, print_error, print_json, print_line
from engine.settings import keep_files_private

store = cyclopts.App(name="store", help="The store of a deployment.", group=RUN)
app.command(store)
AclFile = Annotated[Path, Parameter(help="The store's aclfile; it is written, and users in it keep their passwords.")]


@store.command
def acl(file: AclFile, /, *, json: AsJson = False) -> int:
    """Write one user per role into the store's ACL file; passwords of new users are shown once."""
    from engine.deployment.store_users import user_of, write_users

    keep_files_private()
    users = write_users(file)
    if json:
        print_json({"file": str(file), "passwords": {user_of(role): word for role, word in users.passwords.items()}})
        return 0
    for role, password in users.passwords.items():
        print_line(f"{user_of(role)} {password}")
    what = "The passwords above are shown once" if users.passwords else "All users keep their passwords"
    print_error(f"{file} has the users of every role. {what}. Load the file with ACL LOAD.")
    return 0
