"""Running a recorded plan in lockstep: round by round, all independent exchanges in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchveil.drivers.exchange import Flight
from torchveil.errors import ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import Cost, n_bytes
from torchveil.program.plan import Plan, Stage

if TYPE_CHECKING:
    from torchveil.drivers.lockstep import Lockstep


def replay(driver: Lockstep, plan: Plan, first: int, inputs: Sequence[int], outputs: Sequence[int]) -> Cost:
    """Run ``plan`` under the numbers from ``first`` on; returns what it cost."""
    roles: list[Any] = [driver.provider, *driver.parties]
    last = first + len(plan.instructions) - 1
    failed = True
    try:
        for slot, wire in zip(plan.inputs, inputs, strict=True):
            driver.alias(slot, wire)
        for role in roles:
            role.ledger.claim(first, len(plan.instructions))
        cost = _Run(driver, plan, first).stages()
        for slot, wire in zip(plan.outputs, outputs, strict=True):
            driver.alias(wire, slot)
        failed = False
        return cost
    finally:
        if failed:
            driver.forget_half_openings(tuple(plan.opens))
        driver.release(plan.slots if failed else (*plan.inputs, *plan.outputs))
        for role in roles:
            role.leave(last, failed=failed)


class _Run:
    """One run of a plan."""

    __slots__ = ("cost", "driver", "first", "flights", "plan")

    def __init__(self, driver: Lockstep, plan: Plan, first: int) -> None:
        self.driver = driver
        self.plan = plan
        self.first = first
        self.flights: list[Flight] = []
        self.cost = [0, 0, 0]

    def stages(self) -> Cost:
        for stage in self.plan.stages:
            self._stage(stage)
        if self.flights:
            raise ProtocolError("a plan ended while an instruction was under way")
        return Cost(*self.cost)

    def _stage(self, stage: Stage) -> None:
        driver, plan, first = self.driver, self.plan, self.first
        parties = driver.parties
        for position in stage.local:
            i = plan.instructions[position]
            self._deal(position)
            evaluate = GATES[type(i)].evaluate
            for party in parties:
                evaluate(party, i)
            self._finish(position)
        for position in stage.starts:
            i = plan.instructions[position]
            self._deal(position)
            evaluate = GATES[type(i)].evaluate
            flight = Flight([evaluate(party, i) for party in parties], first + position, position)
            for rank in range(len(parties)):
                flight.launch(rank)
            self.flights.append(flight)
        if self.flights:
            self._exchange()
        if stage.frees:
            driver.release(stage.frees)

    def _deal(self, position: int) -> None:
        """Let the provider deal for an instruction, and everybody start it."""
        driver = self.driver
        provider = driver.provider
        number = self.first + position
        i = self.plan.instructions[position]
        provider.start(number)
        GATES[type(i)].deal(provider, i)
        provider.ledger.finish(number)
        for party in driver.parties:
            party.start(number)
        dealt = provider.collect()
        if dealt:
            self.cost[2] += sum(n_bytes(piece) for piece in dealt.values())
            driver.parties[provider.receiver].deliver(dealt)

    def _exchange(self) -> None:
        """One round for everything that is under way."""
        driver = self.driver
        self.cost[0] += 1
        flying: list[Flight] = []
        for flight in self.flights:
            before = flight.sent
            totals = flight.totals(driver.width)
            self.cost[1] += flight.sent - before
            for rank, party in enumerate(driver.parties):
                party.resume(flight.number)
                flight.answer(rank, totals)
            if flight.landed:
                self._finish(flight.position)
            else:
                flying.append(flight)
        self.flights = flying

    def _finish(self, position: int) -> None:
        driver = self.driver
        for party in driver.parties:
            party.ledger.finish(self.first + position)
        if driver.plain is not None:
            i = self.plan.instructions[position]
            driver.follow_plain(GATES[type(i)], i)
