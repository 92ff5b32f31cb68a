"""A profile: listens to a session while a block runs, and tells what its instructions took.

It holds names of operations, modules and gates, lines (without their text, in which a program may write a value), times
and costs. No value, share, mask or key ever reaches it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from torchveil.drivers.clock import RoleClock
from torchveil.engine import Engine
from torchveil.errors import InvalidArgument, SessionStateError
from torchveil.gates.base import Cost
from torchveil.profiling.network import LAN, WAN, Estimate, Network, estimate
from torchveil.profiling.rows import Figures, Place, grouped
from torchveil.profiling.units import duration
from torchveil.where import user_frame

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


@dataclass(slots=True)
class _Sums:
    """``Figures`` while they grow."""

    instructions: int = 0
    seconds: float = 0.0
    provider_s: float = 0.0
    parties_s: float = 0.0
    slowest_s: float = 0.0
    rounds: int = 0
    sent: int = 0
    dealt: int = 0
    outside: int = 0

    def figures(self) -> Figures:
        cost = Cost(self.rounds, self.sent, self.dealt, self.outside)
        return Figures(self.instructions, self.seconds, self.provider_s, self.parties_s, self.slowest_s, cost)


class Profile:
    """Time, rounds and bytes of a block, by operation, module, gate and line.

    >>> with session.profile() as profile:
    ...     loss.backward()
    >>> print(profile)

    It may be started and stopped several times, and read at any time; what it measured adds up. The time of an
    instruction includes freeing what was dropped before it. What of the block is no instruction - Python, plain torch,
    an instruction that failed - is ``python_s``; what the profile itself takes is ``profiler_s``. So

        wall_s = total.seconds + python_s + profiler_s
    """

    def __init__(self, session: Engine, *, lines: bool = True) -> None:
        self._session = session
        self._lines = lines
        self._clock = RoleClock()
        self._rows: dict[tuple[str, str, str, str, int], _Sums] = {}
        self._wall_s = 0.0
        self._profiler_s = 0.0
        self._started: float | None = None

    # --- listening ---------------------------------------------------------------------------------------------------

    def start(self) -> Profile:
        """Listen from here on. Raises ``SessionStateError`` when a profile of the session runs, or it is closed."""
        self._session.observe(self, self._clock)
        self._clock.forget()
        self._started = perf_counter()
        return self

    def stop(self) -> Profile:
        """Listen no longer. Raises ``SessionStateError`` when the profile does not run."""
        if self._started is None:
            raise SessionStateError("this profile does not run", remedy="start it first")
        self._wall_s += perf_counter() - self._started
        self._started = None
        self._session.observe(None)
        return self

    def __enter__(self) -> Profile:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def record(self, operation: str, module: str, gate: str, cost: Cost, seconds: float) -> None:
        """One instruction that was done. Times per role are those that the driver put on the clock for it, if any."""
        start = perf_counter()
        provider_s, slowest_s, parties_s = self._clock.take()
        frame = user_frame() if self._lines else None
        line = ("", 0) if frame is None else (frame[0].co_filename, frame[1])
        key = (operation, module, gate, *line)
        sums = self._rows.get(key)
        if sums is None:
            sums = self._rows[key] = _Sums()
        sums.instructions += 1
        sums.seconds += seconds
        sums.provider_s += provider_s
        sums.parties_s += parties_s
        sums.slowest_s += slowest_s
        sums.rounds += cost.rounds
        sums.sent += cost.sent
        sums.dealt += cost.dealt
        sums.outside += cost.outside
        self._profiler_s += perf_counter() - start

    # --- figures -----------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Engine:
        """The session that was listened to."""
        return self._session

    @property
    def running(self) -> bool:
        """Whether it listens now."""
        return self._started is not None

    @property
    def remote(self) -> bool:
        """Whether the roles are on machines of their own, where nobody times them for this program.

        Times are then those of this program: it does not wait for the roles but at reveals, where their work shows.
        There are no times per role and no estimates of networks: this is one.
        """
        return self._session.backend == "network"

    @property
    def wall_s(self) -> float:
        """Seconds between start and stop, all blocks together."""
        return self._wall_s + (0.0 if self._started is None else perf_counter() - self._started)

    @property
    def took(self) -> str:
        """How long it took, and whose time that is."""
        if not self.remote:
            return f"{duration(self.wall_s)} in one process ({self._session.backend})."
        return (
            f"{duration(self.wall_s)} at this program, with the roles on machines of their own. It waits for them at "
            "reveals alone, so their work shows there; how long each role works is not known here."
        )

    @property
    def profiler_s(self) -> float:
        """Seconds that the profile itself took to note instructions."""
        return self._profiler_s

    @property
    def python_s(self) -> float:
        """Seconds in no instruction: Python, torch's dispatch, plain torch, waiting, instructions that failed."""
        return max(0.0, self.wall_s - self.total.seconds - self.profiler_s)

    @property
    def rows(self) -> list[tuple[Place, Figures]]:
        """Every (operation, module, gate, line) that occurred, in the order of its first instruction."""
        out = []
        for (operation, module, gate, path, number), sums in self._rows.items():
            place = Place(operation, module, gate, f"{_shown(path)}:{number}" if path else "")
            out.append((place, sums.figures()))
        return out

    @property
    def total(self) -> Figures:
        """All instructions. Its cost is exactly what ``session.cost()`` grew by."""
        return sum((figures for _, figures in self.rows), Figures())

    def figures(self, by: str | Sequence[str] = "modules") -> dict[tuple[str, ...], Figures]:
        """Figures by "modules", "operations", "gates" or "lines", or by several of these; the slowest first.

        Raises ``InvalidArgument`` for another word.
        """
        return grouped(self.rows, by)

    def estimate(self, network: Network) -> Estimate:
        """What the block would take between machines: ``profiling/network.py`` has the model and its limits.

        Python is the controller's and counts once. In debug mode the clear run that follows is part of the time. Raises
        ``InvalidArgument`` for a session between machines, whose roles were not timed.
        """
        if self.remote:
            raise InvalidArgument(
                "the roles are on machines of their own, and only they know how long they work",
                op="profile",
                remedy="profile the program in a local session; torchveil doctor measures this network",
            )
        total = self.total
        return estimate(network, total.cost, total.compute_s + self.python_s, total.provider_s)

    # --- telling -----------------------------------------------------------------------------------------------------

    def table(
        self,
        by: str | Sequence[str] = "modules",
        *,
        limit: int = 30,
        networks: Sequence[Network] = (LAN, WAN),
    ) -> Table:
        """A rich table by "modules", "operations", "gates", "lines" or several of these, the slowest rows first."""
        from torchveil.profiling.table import table

        return table(self, by, limit=limit, networks=networks)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The profile as JSON text, also written to ``path`` if there is one. ``profiling/export.py`` has its form."""
        from torchveil.profiling.export import to_json

        text = to_json(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """One page that loads nothing, also written to ``path`` if there is one; its text.

        A nested view (session, module path, operation, gate) as wide as time, rounds or bytes, and the tables.
        """
        from torchveil.profiling.page import page

        text = page(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def __rich__(self) -> Group:
        from rich.console import Group

        modules, operations = self.table("modules"), self.table("operations")
        modules.caption = None  # the same one stands below
        return Group(modules, operations)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=StringIO(), color_system=None, width=1000)
        width = console.measure(self.__rich__()).maximum
        out = StringIO()
        Console(file=out, color_system=None, width=width).print(self)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def __repr__(self) -> str:
        total = self.total
        cost = total.cost
        return (
            f"<Profile {'running, ' if self.running else ''}{self.wall_s:.3f} s, {total.instructions} instructions, "
            f"{cost.rounds} rounds, {cost.sent} bytes sent, {cost.dealt} dealt>"
        )


def _shown(path: str) -> str:
    """A file as seen from the working directory when it lies in it, else as it is."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here)
