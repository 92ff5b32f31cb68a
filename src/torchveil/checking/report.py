"""What a check says: findings, warnings and predicted costs; as text, as tables, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from torchveil.checking.findings import Finding
from torchveil.checking.walk import Phase
from torchveil.errors import InvalidArgument, UnsupportedOperation
from torchveil.profiling.network import LAN, WAN, Network
from torchveil.profiling.units import duration, size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

FORMAT = "torchveil.check"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What ``torchveil.check`` found.

    ``unsupported``  what a run would raise, in the order of the program; empty: it runs
    ``warnings``     numbers that may leave their range
    ``phases``       predicted cost, part by part; exact where nothing is unsupported
    ``no_plan``      why a training step cannot be a recorded plan, if it cannot and one was asked for
    """

    model: str
    parties: tuple[str, ...]
    unsupported: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    phases: tuple[Phase, ...]
    no_plan: str = ""

    @property
    def ok(self) -> bool:
        """Whether the program runs as it is."""
        return not self.unsupported

    def phase(self, name: str) -> Phase:
        """The phase of this name. Raises ``InvalidArgument`` when there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise InvalidArgument(
            f"the check has no phase {name!r}", op="check", remedy=f"choose from {[p.name for p in self.phases]}"
        )

    def require(self) -> Report:
        """The report itself; raises ``UnsupportedOperation``, naming all of them, unless it is ``ok``."""
        if not self.unsupported:
            return self
        rows = "\n".join(f"  {f.op or f.code} in {f.module or self.model}: {f.message}" for f in self.unsupported)
        raise UnsupportedOperation(
            f"{len(self.unsupported)} things in {self.model} do not run:\n{rows}",
            op=self.unsupported[0].op,
            remedy="print the report: it says for each of them what to use in its place",
        )

    # --- telling -----------------------------------------------------------------------------------------------------

    def costs(self, networks: Sequence[Network] = (LAN, WAN)) -> Table:
        """The phases as a rich table."""
        from rich.table import Table

        caption = "seconds of the network alone, without the work of the machines; the provider deals first"
        if not self.ok:
            caption = "without what does not run; " + caption
        out = Table(title="predicted cost", caption=caption, caption_justify="left")
        out.add_column("phase", no_wrap=True)
        for column in ("rounds", "sent/party", "dealt", "in and out", *(network.name for network in networks)):
            out.add_column(column, justify="right", no_wrap=True)
        for phase in self.phases:
            cost = phase.cost
            amounts = (str(cost.rounds), size(cost.sent), size(cost.dealt), size(cost.outside))
            times = (duration(phase.estimate(network).sequential_s) for network in networks)
            out.add_row(phase.name, *amounts, *times)
        return out

    def modules(self, phase: str, by: str | Sequence[str] = "modules", *, limit: int = 30) -> Table:
        """One phase by "modules", "operations", "gates" or "lines", what sends most first."""
        from rich.table import Table
        from rich.text import Text

        words = (by,) if isinstance(by, str) else tuple(by)
        out = Table(title=f"{phase}, by {', '.join(words)}")
        for word in words:
            out.add_column(word, overflow="fold")
        for column in ("rounds", "sent/party", "dealt"):
            out.add_column(column, justify="right", no_wrap=True)
        for names, figures in [*self.phase(phase).figures(by).items()][:limit]:
            cost = figures.cost
            out.add_row(*(Text(name) for name in names), str(cost.rounds), size(cost.sent), size(cost.dealt))
        return out

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        n = len(self.unsupported)
        verdict = f"{self.model} runs as it is." if self.ok else f"{self.model}: {n} of its operations do not run."
        parts: list[Any] = [Text(verdict, style="bold")]
        if self.unsupported:
            parts.append(_table("does not run", self.unsupported))
        if self.warnings:
            parts.append(_table("may leave its range", self.warnings))
        parts.append(self.costs())
        if self.no_plan:
            parts.append(Text(f"no recorded plan of a step: {self.no_plan}"))
        return Group(*parts)

    def __str__(self) -> str:
        from rich.console import Console

        out = StringIO()
        Console(file=out, color_system=None, width=160).print(self)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def to_json(self) -> str:
        """The report as JSON text: ``format``, ``version``, ``model``, ``parties``, ``unsupported``, ``warnings``,
        ``phases`` (rounds, bytes, seconds by network) and ``no_plan``. Fields may be added under the same version."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "parties": list(self.parties),
            "unsupported": [asdict(found) for found in self.unsupported],
            "warnings": [asdict(found) for found in self.warnings],
            "phases": [_phase(phase) for phase in self.phases],
            "no_plan": self.no_plan,
        }
        return json.dumps(document, indent=1)


def _phase(phase: Phase) -> dict[str, Any]:
    cost = phase.cost
    return {
        "name": phase.name,
        "instructions": phase.instructions,
        "rounds": cost.rounds,
        "sent_bytes": cost.sent,
        "dealt_bytes": cost.dealt,
        "outside_bytes": cost.outside,
        "seconds": {network.name: phase.estimate(network).sequential_s for network in (LAN, WAN)},
    }


def _table(title: str, found: Iterable[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    out = Table(title=title, show_lines=True)
    for column in ("operation", "where", "what", "instead"):
        out.add_column(column, overflow="fold")
    for row in found:
        module = row.module or "(outside modules)"
        times = f", {row.times} times" if row.times > 1 else ""
        where = f"{module}\n{row.phase}{times}\n{row.line}".rstrip()
        out.add_row(*(Text(text) for text in (row.op or row.code, where, row.message, row.instead)))
    return out
