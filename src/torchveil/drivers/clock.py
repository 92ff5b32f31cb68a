"""How long each role of a lockstep run works, by gates that time their own ``deal`` and ``evaluate``.

In lockstep the provider and the parties work one after another; on machines of their own they would work at the same
time. So a profile wants the time per role. It is measured by another gate table, which a driver uses only while it is
watched: without a clock nothing is added to any instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from torchveil.gates.base import Gate, Interaction


class RoleClock:
    """Seconds of the provider and of each party for the last instruction; no value of any wire."""

    __slots__ = ("_parties", "_provider")

    def __init__(self) -> None:
        self._provider = 0.0
        self._parties: dict[int, float] = {}

    def take(self) -> tuple[float, float, float]:
        """(provider, slowest party, all parties together) in seconds; zero when read again."""
        seconds = self._parties.values()
        taken = self._provider, max(seconds, default=0.0), sum(seconds)
        self._reset()
        return taken

    def _reset(self) -> None:
        self._provider = 0.0
        self._parties.clear()

    def timed(self, gates: Mapping[type, Gate]) -> dict[type, Gate]:
        """The same gates; their work is added to this clock, under the role that does it."""
        return {
            instruction: replace(gate, deal=self._deal(gate.deal), evaluate=self._evaluate(gate))
            for instruction, gate in gates.items()
        }

    def _deal(self, deal: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def timed(provider: Any, i: Any) -> None:
            self._reset()  # every instruction begins here: an earlier one may have failed and was never taken
            start = perf_counter()
            deal(provider, i)
            self._provider = perf_counter() - start

        return timed

    def _evaluate(self, gate: Gate) -> Callable[[Any, Any], Any]:
        evaluate, interactive = gate.evaluate, gate.interactive

        def timed(party: Any, i: Any) -> Any:
            if interactive:
                return self._steps(party.rank, evaluate(party, i))
            start = perf_counter()
            evaluate(party, i)
            self._add(party.rank, start)
            return None

        return timed

    def _steps(self, rank: int, steps: Interaction) -> Interaction:
        """The same exchanges; what a party computes between them is timed, waiting for the others is not."""
        received: tuple[Any, ...] | None = None
        while True:
            start = perf_counter()
            try:
                # a generator that has not started is sent None
                exchange = steps.send(received)  # type: ignore[arg-type]
            except StopIteration:
                return
            finally:
                self._add(rank, start)
            received = yield exchange

    def _add(self, rank: int, start: float) -> None:
        self._parties[rank] = self._parties.get(rank, 0.0) + perf_counter() - start
