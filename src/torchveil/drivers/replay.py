"""Running a recorded plan: round by round, all independent exchanges in one, the provider working ahead.

The provider never waits for the parties: what it deals depends on masks only. In a run that deals much it has a thread
of its own and may be up to ``AHEAD`` instructions in front; its kernels and those of the parties then have half of the
threads each. Runs of small instructions take turns in one thread, whose kernels use all threads, since handing over
costs more than it gains. Both give the same bytes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from torchveil.drivers.exchange import Flight, Swap
from torchveil.errors import ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import Gate, n_bytes
from torchveil.kernels.threads import Kernels
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan, Stage
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.tables import Tables

if TYPE_CHECKING:
    from torchveil.drivers.lockstep import Lockstep

#: How many instructions the provider may be in front of the parties, so that what it dealt stays bounded.
AHEAD = 32

#: From so many dealt bytes per instruction on the provider has its own thread. Below that the time goes into Python, of
#: which two threads do no more than one.
THREAD_FROM = 1 << 17

Dealt = dict[tuple[str, int], Any]


def replay(driver: Lockstep, plan: Plan, first: int, inputs: Sequence[int], outputs: Sequence[int]) -> tuple[int, int]:
    """Run ``plan`` in lockstep under the numbers from ``first`` on; (rounds, bytes dealt)."""
    parties, provider = driver.parties, driver.provider
    tables: list[Tables] = [*parties, provider, *([] if driver.plain is None else [driver.plain])]
    # debug mode looks at the provider's masks after every instruction, a profile at who works when
    alone = driver.plain is None and driver.gates is GATES
    try:
        with playing(tables, [provider, *parties], plan, first, inputs, outputs):
            dealing = deals(provider, plan, first, driver.gates)
            run = Run(parties, plan, first, driver.swap, driver.gates, driver)
            with Kernels() as kernels:
                if alone and plan.dealt >= THREAD_FROM * len(plan.instructions):
                    with _Ahead(dealing, kernels) as ahead:
                        run.stages(iter(ahead))
                else:
                    run.stages(dealing)
    except BaseException:
        driver.forget_half_openings(tuple(plan.opens))
        for table in tables:
            table.free(plan.slots)
        raise
    return run.rounds, run.dealt


@contextmanager
def playing(
    tables: Sequence[Tables],
    roles: Sequence[Party | Provider],
    plan: Plan,
    first: int,
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> Iterator[None]:
    """Around a run: inputs under the plan's names, labels claimed; afterwards results under theirs, nothing else left.

    After an error the plan's own names are left, for whoever has to look at them before they go.
    """
    last = first + plan.n_labels - 1
    failed = True
    try:
        # the same value given twice, or given back twice, is one wire each time: opening one must not open the other
        given: set[int] = set()
        for slot, wire in zip(plan.inputs, inputs, strict=True):
            for table in tables:
                table.alias(slot, wire, apart=wire in given)
            given.add(wire)
        for role in roles:
            role.ledger.claim(first, plan.n_labels)
        yield
        taken = set(plan.inputs)
        for slot, wire in zip(plan.outputs, outputs, strict=True):
            for table in tables:
                table.alias(wire, slot, apart=slot in taken)
            taken.add(slot)
        failed = False
        for table in tables:
            table.free((*plan.inputs, *plan.outputs))
    finally:
        for role in roles:
            role.leave(last, failed=failed)


def deals(provider: Provider, plan: Plan, first: int, gates: Mapping[type, Gate]) -> Iterator[Dealt]:
    """The provider's run of a plan: what it deals for one instruction after the other, in the order of execution."""
    for stage in plan.stages:
        for position in (*stage.local, *stage.starts):
            i = plan.instructions[position]
            relative = plan.numbers[position]
            if relative is None:
                gates[type(i)].deal(provider, i)
                yield {}
                continue
            provider.start(first + relative)
            gates[type(i)].deal(provider, i)
            provider.ledger.finish(first + relative)
            yield provider.collect()
        provider.free(stage.frees)


class _Ahead:
    """Runs an iterator in a thread, at most ``AHEAD`` items in front of its reader. An error of one side ends both.

    While it runs, each side's kernels have half of the threads; afterwards the reader's have all of them again.
    """

    def __init__(self, items: Iterator[Dealt], kernels: Kernels) -> None:
        self._items = items
        self._kernels = kernels
        self._half = max(1, kernels.threads // 2)
        self._queue: queue.Queue[Dealt | BaseException | None] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="torchveil provider", daemon=True)

    def _work(self) -> None:
        end: BaseException | None = None
        try:
            with Kernels(self._half):
                for item in self._items:
                    if not self._put(item):
                        return
        except BaseException as error:  # whatever happened belongs to the caller of the plan
            end = error
        self._put(end)

    def _put(self, item: Dealt | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Dealt]:
        while True:
            item = self._queue.get()
            if item is None:
                self._kernels.share(self._kernels.threads)
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> _Ahead:
        self._kernels.share(max(1, self._kernels.threads - self._half))
        self._thread.start()
        return self

    def __exit__(self, *_failure: Any) -> None:
        self._stop.set()
        self._thread.join()


class Follower(Protocol):
    """Debug mode: whoever carries a plan out in the clear, instruction by instruction."""

    plain: Plain | None

    def follow_plain(self, gate: Gate, i: ins.Instruction) -> None: ...


class Run:
    """One run of a plan by the parties of a driver: all of them, or the one of this machine.

    ``swap`` makes one exchange of everything that is under way; ``rounds`` and ``dealt`` (bytes) are counted.
    """

    __slots__ = ("_dealing", "_debug", "_flights", "dealt", "first", "gates", "parties", "plan", "rounds", "swap")

    def __init__(
        self,
        parties: Sequence[Party],
        plan: Plan,
        first: int,
        swap: Swap,
        gates: Mapping[type, Gate],
        debug: Follower | None = None,
    ) -> None:
        self.parties = parties
        self.plan = plan
        self.first = first
        self.swap = swap
        self.gates = gates
        self.rounds = self.dealt = 0
        self._debug = None if debug is None or debug.plain is None else debug
        self._flights: list[Flight] = []
        self._dealing: Iterator[Dealt] = iter(())

    def stages(self, dealing: Iterator[Dealt]) -> None:
        """Run it, fed with what the provider deals for each instruction (empty where parties fetch it themselves)."""
        self._dealing = dealing
        for stage in self.plan.stages:
            self._stage(stage)
        if self._flights or next(dealing, None) is not None:
            raise ProtocolError("a plan ended while something of it was left")

    def _stage(self, stage: Stage) -> None:
        instructions, parties, gates = self.plan.instructions, self.parties, self.gates
        for position in stage.local:
            i = instructions[position]
            gate = gates[type(i)]
            evaluate = gate.evaluate
            number = self._begin(position)
            for party in parties:
                evaluate(party, i)
            if number is not None:
                for party in parties:
                    party.ledger.finish(number)
            if self._debug is not None:
                self._debug.follow_plain(gate, i)
        for position in stage.starts:
            i = instructions[position]
            number = self._begin(position)
            evaluate = gates[type(i)].evaluate
            flight = Flight([evaluate(party, i) for party in parties], number or 0, position)
            for place in range(len(parties)):
                flight.launch(place)
            self._flights.append(flight)
        if self._flights:
            self._exchange()
        for party in parties:
            party.free(stage.frees)
        if self._debug is not None and self._debug.plain is not None:
            self._debug.plain.free(stage.frees)

    def _begin(self, position: int) -> int | None:
        """Everybody starts an instruction with what the provider dealt for it; its number, if it uses labels."""
        dealt = next(self._dealing)
        relative = self.plan.numbers[position]
        if relative is None:
            return None
        number = self.first + relative
        parties = self.parties
        for party in parties:
            party.start(number)
        if dealt:
            self.dealt += sum([n_bytes(piece) for piece in dealt.values()])
            parties[number % len(parties)].deliver(dealt)
        return number

    def _exchange(self) -> None:
        """One round for everything that is under way."""
        self.rounds += 1
        flying: list[Flight] = []
        for flight, totals in zip(self._flights, self.swap(self._flights), strict=True):
            for place, party in enumerate(self.parties):
                party.resume(flight.number)
                flight.answer(place, totals)
            if not flight.landed:
                flying.append(flight)
                continue
            for party in self.parties:
                party.ledger.finish(flight.number)
            if self._debug is not None:
                i = self.plan.instructions[flight.position]
                self._debug.follow_plain(self.gates[type(i)], i)
        self._flights = flying
