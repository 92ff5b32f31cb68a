"""Names of roles: ``kind/name``, as users write them, as certificates carry them, as files are called.

A name is safe in a path, a URI, a log line and a label of a metric, because it holds nothing but ASCII letters, digits,
``.``, ``_`` and ``-``. There is no ``Role`` with another name: making one raises. Names tell letters of different case
apart, everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torchveil.errors import ConfigurationError

#: The kinds of roles. A new kind is a new word here; what it may do is said where it is asked for.
KINDS = ("party", "provider", "owner", "controller")
MAX_NAME = 64  # characters
_NAME = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")


def check_name(text: str, what: str) -> str:
    """``text`` itself if it may name something (a role, a cluster); raises ``ConfigurationError`` otherwise."""
    if not _NAME.fullmatch(text) or ".." in text:
        raise ConfigurationError(
            f"{text[:MAX_NAME]!r} cannot be the name of a {what}",
            remedy=f"use 1 to {MAX_NAME} letters, digits, '.', '_' and '-', not starting with a dot, without '..'",
        )
    return text


@dataclass(frozen=True, slots=True, order=True)
class Role:
    """A role of a cluster, such as ``Role("party", "alice")``; raises ``ConfigurationError`` if there can be none."""

    kind: str
    name: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(
                f"{self.kind[:MAX_NAME]!r} is no kind of role", remedy=f"the kinds are {', '.join(KINDS)}"
            )
        check_name(self.name, "role")

    @classmethod
    def parse(cls, text: str) -> Role:
        """``party/alice`` as a role; raises ``ConfigurationError`` for anything else."""
        kind, slash, name = text.partition("/")
        if not slash:
            raise ConfigurationError(f"{text[:MAX_NAME]!r} is no role", remedy="write kind and name, as in party/alice")
        return cls(kind, name)

    @property
    def stem(self) -> str:
        """``party-alice``: what the role's files are called. No two roles share it, since kinds have no hyphen."""
        return f"{self.kind}-{self.name}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"
