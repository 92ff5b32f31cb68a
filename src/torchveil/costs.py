"""The account of a session: rounds and bytes in total, per operation and per ``nn.Module`` path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from torchveil.errors import ProtocolError
from torchveil.gates.base import Cost


@dataclass(frozen=True, slots=True)
class CostReport:
    """What a session has cost so far.

    ``total``: rounds between parties, bytes each party sent, bytes the provider dealt, bytes of inputs and reveals;
    ``operations`` and ``modules``: the same per torch operation and per module path; ``reveals``: how many.
    """

    total: Cost
    operations: dict[str, Cost]
    modules: dict[str, Cost]
    gates: dict[str, Cost]
    instructions: int
    reveals: int

    @property
    def rounds(self) -> int:
        return self.total.rounds

    @property
    def sent_bytes(self) -> int:
        return self.total.sent

    @property
    def dealt_bytes(self) -> int:
        return self.total.dealt

    def table(self, by: str = "operations", limit: int = 30) -> str:
        """A text table per "operations", "modules" or "gates", the largest senders first."""
        rows: dict[str, Cost] = {"operations": self.operations, "modules": self.modules, "gates": self.gates}[by]
        lines = [f"{by:<52}{'rounds':>8}{'sent B':>14}{'dealt B':>14}"]
        ordered = sorted(rows.items(), key=lambda row: (row[1].sent + row[1].dealt, row[1].rounds), reverse=True)
        for name, cost in ordered[:limit]:
            lines.append(f"{name or '(outside modules)':<52}{cost.rounds:>8}{cost.sent:>14}{cost.dealt:>14}")
        total = self.total
        lines.append(f"{'total':<52}{total.rounds:>8}{total.sent:>14}{total.dealt:>14}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


#: (operation, module path, gate): to what a cost belongs.
Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class PlanCosts:
    """What one run of a plan costs: ``each`` per instruction, in the plan's order, and ``rows`` added up per key."""

    each: tuple[tuple[Key, Cost], ...]
    rows: dict[Key, Cost]

    @staticmethod
    def of(each: Iterable[tuple[Key, Cost]]) -> PlanCosts:
        """Add up."""
        listed = tuple(each)
        rows: dict[Key, Cost] = {}
        for key, cost in listed:
            if cost != Cost():
                rows[key] = rows.get(key, Cost()) + cost
        return PlanCosts(listed, rows)

    @property
    def total(self) -> Cost:
        return sum(self.rows.values(), Cost())


class Observer(Protocol):
    """Who is told of each instruction as it is done (a profile)."""

    def record(self, operation: str, module: str, gate: str, cost: Cost, seconds: float) -> None:
        """One instruction: torch operation, module path, gate, what it cost, how long it took. Never a value."""
        ...


@dataclass(slots=True)
class Account:
    """Adds up costs as instructions run."""

    rows: dict[Key, list[int]] = field(default_factory=dict)
    instructions: int = 0
    reveals: int = 0

    def add(self, operation: str, module: str, gate: str, cost: Cost) -> None:
        self.instructions += 1
        if cost.rounds or cost.sent or cost.dealt or cost.outside:
            self._add((operation, module, gate), cost)

    def add_plan(self, costs: PlanCosts, measured: Cost) -> None:
        """A run of a plan. Raises ``ProtocolError`` unless its costs add up to what was measured."""
        if costs.total != measured:
            raise ProtocolError(f"a plan cost {measured}, its gates' formulas say {costs.total}")
        for key, cost in costs.rows.items():
            self._add(key, cost)
        self.instructions += len(costs.each)

    def _add(self, key: Key, cost: Cost) -> None:
        row = self.rows.setdefault(key, [0, 0, 0, 0])
        row[0] += cost.rounds
        row[1] += cost.sent
        row[2] += cost.dealt
        row[3] += cost.outside

    def report(self) -> CostReport:
        total = Cost()
        tables: tuple[dict[str, Cost], dict[str, Cost], dict[str, Cost]] = ({}, {}, {})
        for key, row in self.rows.items():
            cost = Cost(*row)
            total += cost
            for table, name in zip(tables, key, strict=True):
                table[name] = table.get(name, Cost()) + cost
        operations, modules, gates = tables
        return CostReport(total, operations, modules, gates, self.instructions, self.reveals)
