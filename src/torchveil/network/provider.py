"""A provider's session: deals for the stream as far ahead of the parties as their links take what it sends.

It gets instructions without public tensors, and nothing from the parties. What is dealt for an instruction goes to one
party, in one frame with the instruction's number and the digest of the stream so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchveil.drivers.replay import deals, playing
from torchveil.errors import ProtocolError
from torchveil.network import messages as m
from torchveil.network.links import Link
from torchveil.network.pieces import dealt_of
from torchveil.network.role_session import RoleSession
from torchveil.program import instructions as ins
from torchveil.program.plan import Plan
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


class ProviderSession(RoleSession):
    """One session of the provider. ``links``: to the parties by rank."""

    def __init__(self, provider: Provider, links: Mapping[int, Link], **common: Any) -> None:
        super().__init__(f"provider/{provider.name}", provider.n_parties, provider, **common)
        self.provider = provider
        self._links = links

    def _do(self, item: m.Do, buffers: Sequence[memoryview]) -> None:
        self._deal(self._decoded(item.structure, buffers), item.structure, buffers)

    def _share(self, item: m.Share, buffers: Sequence[memoryview]) -> None:
        if buffers:
            raise ProtocolError("a share went to the provider")
        self._deal(self._input_of(item), item.structure, ())

    def _deal(self, i: ins.Instruction, structure: bytes, buffers: Sequence[memoryview]) -> None:
        number = self._begin(i)
        self._view.update(structure, buffers)
        provider = self.provider
        provider.begin(number)
        provider.tie(self._view.full)
        gate = self._gates[type(i)]
        if isinstance(i, ins.Free):
            provider.free(i.xs)
        else:
            gate.deal(provider, i)
            self._send(number, provider.collect())
        self.metrics.instruction(gate.name)

    def _deliver(self, item: m.Deliver, _buffers: Sequence[memoryview]) -> None:
        self._deal(self._decoded(item.structure), item.structure, ())

    def _dataset(self, item: m.Dataset, _buffers: Sequence[memoryview]) -> None:
        self._note(item)
        self.provider.wires[item.out] = Wire(None)

    def _save(self, item: m.Save, _buffers: Sequence[memoryview]) -> None:
        self._note(item)

    def _load(self, item: m.Load, _buffers: Sequence[memoryview]) -> None:
        self._note(item)
        for x in item.wires.values():
            self.provider.wires[x] = Wire(None)

    def _combine(self, item: m.Collect, number: int) -> None:
        self.provider.begin(number)
        self.provider.wires[item.out] = Wire(None)

    def _play(self, plan: Plan, item: m.RunPlan, first: int) -> None:
        provider = self.provider
        provider.tie(self._view.full)
        order = [k for stage in plan.stages for k in (*stage.local, *stage.starts)]
        with (
            self.holdings.run_of(item.key, item.inputs, self._gates) as gates,
            playing([provider], [provider], plan, first, item.inputs, item.outputs),
        ):
            for position, pieces in zip(order, deals(provider, plan, first, gates), strict=True):
                relative = plan.numbers[position]
                if relative is not None:
                    self._send(first + relative, pieces)

    def _send(self, number: int, pieces: Mapping[tuple[str, int], Any]) -> None:
        """Send what was dealt to the receiver of the instruction; it may wait there as long as the session lasts."""
        if not pieces:
            return
        if any(purpose not in ("dealt", "dealt-bits") for purpose, _ in pieces):
            raise ProtocolError("a purpose that nothing is dealt for")
        description, body = dealt_of(pieces)
        link = self._links[number % self.n_parties]
        frame = m.message_of(m.Kind.DEALT, description, number=number, digest=self._view.value, body=body)
        self.hub.post(link, frame, f"what is dealt for instruction {number}")
        self.tick()
        n_bytes = sum(len(part) for part in body)
        self.metrics.dealt(n_bytes)
        self.metrics.sent(str(link.peer), n_bytes)
