"""Finds the secret texts of an address, so that no error prints them.

A driver that misreads an address names the parts that it found. In `postgresql://u:p@ss@db/shop` libpq looks for a host
`ss@db`. So a secret can be cut out of an error only where the address has one reading.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, unquote_plus

_HOST = r"(?:\[[0-9A-Fa-f:.%]*\]|[^\s:/?#@,\[\]]*)(?::\d*)?"
_URL = re.compile(
    r"[A-Za-z][\w+.-]*://"
    r"(?:[^\s:/?#@]*(?::(?P<password>[^\s:/?#@]*))?@)?"
    rf"{_HOST}(?:,{_HOST})*"
    r"(?:/[^\s@?#]*)?(?:\?(?P<query>[^\s@#]*))?"
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SETTING = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s'\\]+))(?=\s|$)")
_SECRET_KEY = re.compile(r"pass|pwd|secret|token|key|cred|auth", re.IGNORECASE)


def find_secrets(address: str) -> set[str] | None:
    """The passwords and keys in an address, as written and decoded; None if it is ambiguous.

    An address is a URL, or settings such as `host=db password=x`.
    """
    found = _URL.fullmatch(address)
    if found is None:
        return _find_secret_settings(address)
    if _BAD_ESCAPE.search(address):
        return None
    password, query = found["password"] or "", found["query"] or ""
    secrets = {password, unquote(password), unquote_plus(password)}
    for key, value in parse_qsl(query):
        if _SECRET_KEY.search(key):
            secrets.add(value)
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if _SECRET_KEY.search(key):
            secrets |= {value, unquote(value)}
    return secrets - {""}


def _find_secret_settings(address: str) -> set[str] | None:
    secrets, at = set(), 0
    while at < len(address.rstrip()):
        found = _SETTING.match(address, at)
        if found is None:
            return None
        key, quoted, plain = found.groups()
        if _SECRET_KEY.search(key):
            value = plain if quoted is None else quoted
            secrets |= {value, re.sub(r"\\(.)", r"\1", value)}
        at = found.end()
    return secrets - {""}
