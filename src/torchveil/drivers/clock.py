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


class _Times:
    """Seconds of the provider, and of each party by rank, for one instruction."""

    __slots__ = ("parties", "provider")

    def __init__(self) -> None:
        self.provider = 0.0
        self.parties: dict[int, float] = {}


class RoleClock:
    """Seconds of the provider and of each party for every instruction under way; no value of any wire."""

    __slots__ = ("_chosen", "_times")

    def __init__(self) -> None:
        self._times: dict[int, _Times] = {}
        self._chosen: int | None = None

    def select(self, i: Any) -> float:
        """Let ``take`` tell of this instruction of a plan; the seconds of all roles together."""
        self._chosen = id(i)
        times = self._times.get(id(i))
        return 0.0 if times is None else times.provider + sum(times.parties.values())

    def take(self) -> tuple[float, float, float]:
        """(provider, slowest party, all parties together) in seconds, of the selected or the last instruction."""
        key = self._chosen if self._chosen is not None else next(reversed(self._times), None)
        times = _Times() if key is None else self._times.pop(key, _Times())
        self._chosen = None
        seconds = times.parties.values()
        return times.provider, max(seconds, default=0.0), sum(seconds)

    def forget(self) -> None:
        """Drop what was never taken: instructions that failed."""
        self._times.clear()
        self._chosen = None

    def timed(self, gates: Mapping[type, Gate]) -> dict[type, Gate]:
        """The same gates; their work is added to this clock, under the role that does it."""
        return {
            instruction: replace(gate, deal=self._deal(gate.deal), evaluate=self._evaluate(gate))
            for instruction, gate in gates.items()
        }

    def _deal(self, deal: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def timed(provider: Any, i: Any) -> None:
            times = self._times[id(i)] = _Times()
            start = perf_counter()
            deal(provider, i)
            times.provider = perf_counter() - start

        return timed

    def _evaluate(self, gate: Gate) -> Callable[[Any, Any], Any]:
        evaluate, interactive = gate.evaluate, gate.interactive

        def timed(party: Any, i: Any) -> Any:
            if interactive:
                return self._steps(id(i), party.rank, evaluate(party, i))
            start = perf_counter()
            evaluate(party, i)
            self._add(id(i), party.rank, start)
            return None

        return timed

    def _steps(self, key: int, rank: int, steps: Interaction) -> Interaction:
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
                self._add(key, rank, start)
            received = yield exchange

    def _add(self, key: int, rank: int, start: float) -> None:
        times = self._times.get(key)
        if times is not None:
            times.parties[rank] = times.parties.get(rank, 0.0) + perf_counter() - start
