"""One user of the store per role, which may do what the role does and no more: a file for `aclfile` of Redis or Valkey.

The keys come from `keyspace.KEYSPACE` by their owner, so a new key is granted to the roles that use its room. Commands
that change or stop the store, or read every key's name, are nobody's. Passwords are stored as SHA-256.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from engine.errors import BadInput
from engine.keyspace import KEYSPACE, LEARNER_FIGURES, store_pattern

StoreRole = Literal["server", "learner", "collector", "dashboard", "operator"]
ROLES: tuple[StoreRole, ...] = get_args(StoreRole)
Access = Literal["RW", "R"]

ROOMS: Mapping[StoreRole, Mapping[str, Access]] = {
    "server": {
        "customers": "RW",
        "claims": "RW",
        "due": "RW",
        "service": "RW",
        "journal": "RW",
        "erasure": "RW",
        "snapshots": "R",
    },
    "learner": {"journal": "RW", "snapshots": "RW", "learn": "RW", "erasure": "RW", "claims": "R"},
    "collector": {"journal": "RW", "erasure": "RW"},
    "dashboard": {
        "customers": "R",
        "claims": "R",
        "due": "R",
        "service": "RW",
        "journal": "R",
        "erasure": "R",
        "snapshots": "RW",
    },
    "operator": {
        "customers": "RW",
        "claims": "RW",
        "due": "RW",
        "service": "RW",
        "journal": "RW",
        "erasure": "RW",
        "snapshots": "RW",
        "learn": "RW",
    },
}
"""Role -> room -> how the role uses the room's keys. `operator` is for verbs that people run, such as `erase`."""
ALSO: Mapping[StoreRole, Mapping[str, Access]] = {"collector": {LEARNER_FIGURES: "RW"}}
"""Single keys that a role uses of a room that is not its own."""
COMMANDS = (
    "-@all +@read +@write +@scripting +@transaction +@connection -@dangerous -@admin "
    "+info +time +config|get +cluster|slots +cluster|shards +cluster|nodes +cluster|info +readonly +readwrite +asking"
)
_USER = re.compile(r"^user counterpoint-(\w+) .*?#([0-9a-f]{64})", re.MULTILINE)


class StoreUsers(msgspec.Struct, frozen=True):
    """The text of an ACL file, and the passwords of the users that are new in it."""

    text: str
    passwords: dict[StoreRole, str]


def write_users(file: Path) -> StoreUsers:
    """Write the users of all roles into an ACL file; those that it has keep their passwords.

    Lines of other users stay. Without any the file ends access without a password: the user `default` is off.

    Raises:
        BadInput: if the file cannot be written.
    """
    try:
        before = file.read_text() if file.exists() else "user default off resetkeys resetchannels -@all\n"
        users = renew_users(before)
        file.write_text(users.text)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}; name a file that the store reads as its aclfile") from error
    return users


def renew_users(before: str) -> StoreUsers:
    """The ACL file with the rules of this version; a user that `before` does not have gets a new password."""
    digests = {role: digest for role, digest in _USER.findall(before) if role in ROLES}
    passwords: dict[StoreRole, str] = {}
    for role in ROLES:
        if role not in digests:
            passwords[role] = secrets.token_urlsafe(32)
            digests[role] = hashlib.sha256(passwords[role].encode()).hexdigest()
    others = [line for line in before.splitlines() if line and not re.match(r"user counterpoint-\w+ ", line)]
    lines = [f"user {user_of(role)} on #{digests[role]} {rules_of(role)}" for role in ROLES]
    return StoreUsers("\n".join([*others, *lines, ""]), passwords)


def user_of(role: StoreRole) -> str:
    """The name of a role's user."""
    return f"counterpoint-{role}"


def rules_of(role: StoreRole) -> str:
    """The access rules of a role's user."""
    granted = {key.pattern: ROOMS[role].get(key.owner) for key in KEYSPACE} | dict(ALSO.get(role, {}))
    keys = [f"%{access}~{store_pattern(pattern)}" for pattern, access in granted.items() if access is not None]
    return " ".join(["resetchannels", "resetkeys", *dict.fromkeys(keys), COMMANDS])
