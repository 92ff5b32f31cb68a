"""The figures of a profile, and how rows are put together by module, operation, gate or line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torchveil.errors import InvalidArgument
from torchveil.gates.base import FREE, Cost
from torchveil.profiling.network import Estimate, Network, estimate


class Place(NamedTuple):
    """What a row is about: torch operation, module path, gate, ``file:line`` of the program. Each may be empty."""

    operation: str
    module: str
    gate: str
    line: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What some instructions took.

    seconds      wall time, all roles of one process one after another
    provider_s   the provider's part of it
    parties_s    all parties' part of it
    slowest_s    of every instruction the slowest party's part, added up
    cost         rounds and bytes, exact

    Where roles could not be timed apart (the plain backend) the last three times are zero.
    """

    instructions: int = 0
    seconds: float = 0.0
    provider_s: float = 0.0
    parties_s: float = 0.0
    slowest_s: float = 0.0
    cost: Cost = FREE

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.instructions + other.instructions,
            self.seconds + other.seconds,
            self.provider_s + other.provider_s,
            self.parties_s + other.parties_s,
            self.slowest_s + other.slowest_s,
            self.cost + other.cost,
        )

    @property
    def compute_s(self) -> float:
        """Seconds on a party's own machine: without the provider and without the parties that work beside it."""
        return self.seconds - self.provider_s - (self.parties_s - self.slowest_s)

    def estimate(self, network: Network) -> Estimate:
        """What these instructions alone would take on a network."""
        return estimate(network, self.cost, self.compute_s, self.provider_s)


#: What ``by`` may say -> (the field of ``Place``, what an empty one is called).
GROUPS: Mapping[str, tuple[str, str]] = {
    "modules": ("module", "(outside modules)"),
    "operations": ("operation", "(no torch operation)"),
    "gates": ("gate", "(no gate)"),
    "lines": ("line", "(no line)"),
}


def groups(by: str | Sequence[str]) -> tuple[str, ...]:
    """``by`` as a tuple of words of ``GROUPS``; raises ``InvalidArgument`` for others."""
    words = (by,) if isinstance(by, str) else tuple(by)
    unknown = [word for word in words if word not in GROUPS]
    if unknown or not words:
        raise InvalidArgument(
            f"a profile has no rows by {unknown or by}", op="profile", remedy=f"choose from {', '.join(GROUPS)}"
        )
    return words


def name_of(place: Place, word: str) -> str:
    """What a row is called in a group; an empty name says so."""
    field, empty = GROUPS[word]
    return str(getattr(place, field)) or empty


def grouped(rows: Iterable[tuple[Place, Figures]], by: str | Sequence[str]) -> dict[tuple[str, ...], Figures]:
    """Rows added up under their names in the groups ``by``, the slowest first."""
    words = groups(by)
    sums: dict[tuple[str, ...], Figures] = {}
    for place, figures in rows:
        key = tuple(name_of(place, word) for word in words)
        sums[key] = sums.get(key, Figures()) + figures
    return dict(sorted(sums.items(), key=lambda row: row[1].seconds, reverse=True))
