"""Who takes part in a session, checked: the names of parties and provider, and the number format they agree on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchveil.errors import ConfigurationError
from torchveil.fixedpoint import FixedPoint


def check_participants(parties: Any, provider: Any) -> tuple[tuple[str, ...], str]:
    """The parties' names and the provider's. Raises ``ConfigurationError`` for what cannot share a secret."""
    names = tuple(parties) if isinstance(parties, Iterable) and not isinstance(parties, str | bytes) else None
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f"parties are a list of names, and not {_kind(parties)}", remedy='write parties=("alice", "bob")'
        )
    if not isinstance(provider, str) or not provider:
        raise ConfigurationError(
            f"a provider is a name, and not {_kind(provider)}", remedy='write provider="james", or leave it out'
        )
    if len(names) < 2:
        raise ConfigurationError(
            f"a value cannot be split between {len(names)} parties",
            remedy="name at least two parties: with one, that one would read everything",
        )
    if len(set(names)) != len(names):
        raise ConfigurationError("a party is named twice", remedy="give every party a name of its own")
    if provider in names:
        raise ConfigurationError(
            f"{provider!r} is a party and the provider; it would know shares and masks, that is everything",
            remedy="let somebody who is not a party deal the correlated randomness",
        )
    return names, provider


def check_format(given: Any) -> None:
    """Raises ``ConfigurationError`` for a number format that is none; None stands for the session's."""
    if given is not None and not isinstance(given, FixedPoint):
        raise ConfigurationError(
            f"a number format is a FixedPoint, and not {_kind(given)}",
            remedy="write fixed_point=torchveil.FixedPoint(2, 16): base and digits after the point",
        )


def _kind(given: Any) -> str:
    """What was given, by its type alone."""
    return "an empty text" if given == "" else f"a {type(given).__name__}"
