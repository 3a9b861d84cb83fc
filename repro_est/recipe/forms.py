"""Texts in a recipe that have a form of their own: requirements (PEP 508), Python versions (PEP 440), dates (RFC 3339),
addresses that hold a credential, and names of secrets.

A pattern lets the usual ones pass; only what it does not know is given to packaging, which takes 20 ms to import, so
that a hit does not pay for it.
"""

from __future__ import annotations

import re

NETRC = "put it into ~/.netrc"
"""Where a credential belongs, as a hint."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_RELEASE = r"[0-9]+(?:\.[0-9]+)*"
_CLAUSE = rf"(?:(?:<=|>=|<|>)\s*{_RELEASE}|(?:==|!=)\s*{_RELEASE}(?:\.\*)?|~=\s*{_RELEASE}\.[0-9]+)"
_CLAUSES = rf"{_CLAUSE}(?:\s*,\s*{_CLAUSE})*"
_REQUIREMENT = rf"{_NAME}\s*(?:\[\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\])?\s*(?:{_CLAUSES})?"
_PYTHON = rf"{_RELEASE}|{_CLAUSES}"
_CONFIDENTIAL = r"(^|[^a-z])(token|secret|password|passwd|api[-_]?key|access[-_]?key)s?$"
_HARMLESS = r"(max|num|n|new|min)[-_]?(new[-_]?)?tokens?$"
_DATE = r"([0-9]{4}-[0-9]{2}-[0-9]{2})(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2}))?"


def requirement_problem(text: str) -> str | None:
    """Returns why a text is no requirement, or None when it is one."""
    if re.fullmatch(_REQUIREMENT, text):
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        Requirement(text)
    except InvalidRequirement as error:
        what = str(error).splitlines()[0]
        return f"not a requirement (PEP 508): {what[:1].lower()}{what[1:]}"
    return None


def credential(text: str) -> str | None:
    """Returns what an address, or a text with one, holds that may be secret, or None; repro writes such a text nowhere.

    A query counts, for a token is often there; so does conda's `/t/TOKEN`. Directories of this machine have none.
    """
    _, separator, rest = text.partition("://")
    if not separator or text.startswith("file:"):
        return None
    host, _, path = rest.partition("/")
    if "@" in host:
        return "holds a user name or password"
    if re.search(r"(?:^|/)t/[^/?#]", path):
        return "holds a token"
    return "has a query, which may be a token" if "?" in rest else None


def without_addresses(text: str) -> str:
    """Returns a text as it may be shown: of its addresses only what they start with."""
    return re.sub(r"://\S*", "://...", text)


def looks_secret(name: str) -> bool:
    """Whether a flag or a variable of this name holds what no file should."""
    return bool(re.search(_CONFIDENTIAL, name, re.IGNORECASE)) and not re.search(_HARMLESS, name, re.IGNORECASE)


def is_python(text: str) -> bool:
    """Whether a text is a version (`3.11`) or a specifier (`>=3.11,<3.13`)."""
    if re.fullmatch(_PYTHON, text):
        return True
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    for read, error in ((SpecifierSet, InvalidSpecifier), (Version, InvalidVersion)):
        try:
            read(text)
            return bool(text.strip())
        except error:
            continue
    return False


def is_date(text: str) -> bool:
    """Whether a text is a date, or a date and a time with its zone, of the calendar."""
    match = re.fullmatch(_DATE, text)
    if match is None:
        return False
    from datetime import datetime

    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
