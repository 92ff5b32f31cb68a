"""Real programs on decoded instructions: shares, masks, corrections and reveals are those of the original ones.

Two drivers with the same keys run side by side: one what the program submits; the other what was encoded and decoded,
and there the provider has seen no public number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import torchveil
from tests.lowering.samples import SAMPLES
from tests.lowering.test_lowering import backward, forward
from torchveil import Session, public
from torchveil.drivers.clock import RoleClock
from torchveil.drivers.lockstep import Lockstep, make_roles
from torchveil.gates import GATES, Nature
from torchveil.gates.base import Cost, Gate
from torchveil.program import instructions as ins
from torchveil.program.encoding import (
    StreamDigest,
    decode,
    decode_plan,
    encode,
    encode_plan,
    plan_digest,
    plan_without_public,
    without_public,
)
from torchveil.program.plan import Plan
from torchveil.program.wiring import WIRING, defines
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider


def _as_bytes(piece: Any) -> bytes:
    return bytes((piece if isinstance(piece, Tensor) else torch.as_tensor(piece)).contiguous().numpy().tobytes())


def _same(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and (a is None or (a.stride() == b.stride() and torch.equal(a, b)))


class Twins:
    """A driver that runs every instruction twice: as it is, and as it comes out of its bytes at other roles."""

    def __init__(self, n_parties: int) -> None:
        parties, provider, inputs, _ = make_roles([f"p{rank}" for rank in range(n_parties)], "crypto")
        again = [Party(p.name, p.rank, n_parties, p._streams, p._zero) for p in parties]
        self.corrections: tuple[list[Any], list[Any]] = ([], [])
        self.one = Lockstep(parties, provider, inputs)
        self.other = Lockstep(again, Provider(provider.name, provider._streams), inputs)
        self.one.gates = {kind: self._listening(gate, 0) for kind, gate in GATES.items()}
        self.other.gates = {kind: self._listening(gate, 1) for kind, gate in GATES.items()}
        self.digests = StreamDigest(), StreamDigest()
        self.kinds: Counter[type] = Counter()
        self.plans: list[Plan] = []

    def _listening(self, gate: Gate, which: int) -> Gate:
        def deal(provider: Provider, i: Any) -> None:
            gate.deal(provider, without_public(i) if which else i)
            dealt = {label: _as_bytes(piece) for label, piece in provider._outbox.items()}
            self.corrections[which].append((provider.ledger.number, dealt))

        return replace(gate, deal=deal)

    @property
    def measured(self) -> Cost:
        return self.one.measured

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        self.kinds[type(i)] += 1
        structure, buffers = encode(i)
        back = decode(structure, [bytearray(b) for b in buffers])
        again, _ = encode(back)
        self.digests[0].update(structure, buffers)
        self.digests[1].update(*encode(back))
        assert again == structure and self.digests[0].full == self.digests[1].full
        revealed = self.one.run(i, clear)
        assert _same(revealed, self.other.run(back, clear))
        self.compare(defines(i))
        return revealed

    def run_plan(self, plan: Plan, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        nature = Nature(self.one.n_parties)
        structure, buffers = encode_plan(plan)
        back = decode_plan(structure, buffers, nature)
        blank = decode_plan(*encode_plan(plan_without_public(plan)), nature)
        assert [(s.local, s.starts) for s in back.stages] == [(s.local, s.starts) for s in plan.stages]
        for name in ("numbers", "n_labels", "rounds", "dealt"):
            assert getattr(back, name) == getattr(plan, name) == getattr(blank, name)
        assert (len(back.opens), len(back.slots)) == (len(plan.opens), len(plan.slots))
        assert plan_digest(back) == plan_digest(plan) == plan_digest(blank) == plan_digest(blank, public=True)
        self.plans.append(plan)
        self.one.run_plan(plan, inputs, outputs)
        self.other.run_plan(back, inputs, outputs)
        assert self.one.measured == self.other.measured
        self.compare(outputs)

    def is_open(self, wire: int) -> bool:
        assert self.one.is_open(wire) == self.other.is_open(wire)
        return self.one.is_open(wire)

    def compare(self, wires: Sequence[int]) -> None:
        """The roles of both hold the same; so they do after what they dealt and sent was the same."""
        assert self.corrections[0] == self.corrections[1]
        for x in wires:
            for a, b in zip(self.one.parties, self.other.parties, strict=True):
                if x in a.bits:
                    assert _same(a.bits[x].public_flip(), b.bits[x].public_flip())
                    assert _same(a.bits[x].secret(), b.bits[x].secret())
                else:
                    assert _same(a.wires[x].value(), b.wires[x].value())
                    assert _same(a.wires[x].opening, b.wires[x].opening) and _same(a.wires[x].mask, b.wires[x].mask)

    def alias(self, new: int, old: int, *, apart: bool = False) -> None:
        for driver in (self.one, self.other):
            driver.alias(new, old, apart=apart)

    def clear(self) -> None:
        for driver in (self.one, self.other):
            driver.clear()

    def watch(self, clock: RoleClock | None) -> None:
        raise NotImplementedError

    def share_of(self, wire: int) -> Tensor:
        return self.one.share_of(wire)

    def shape_of_bit(self, bit: int) -> tuple[int, ...]:
        return self.one.shape_of_bit(bit)

    def n_wires(self) -> int:
        return self.one.n_wires()


class TwinSession(Session):
    twins: Twins

    def _make_driver(self, backend: str, debug: bool) -> Any:
        self.twins = Twins(len(self.parties))
        return self.twins


def _images() -> Tensor:
    return torch.linspace(-1, 1, 2 * 2 * 8 * 8).reshape(2, 2, 8, 8)


def train_images(session: Session) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 3)
    )
    encrypted = session.encrypt(model)
    optimizer = torch.optim.Adam(encrypted.parameters(), lr=0.01)
    x, y = session.share(_images()), session.share(torch.tensor([0, 2]))
    for _ in range(2):
        optimizer.zero_grad()
        loss = functional.cross_entropy(encrypted(x), y)
        loss.backward()
        optimizer.step()
    loss.reveal()


def train_volumes(session: Session) -> None:
    torch.manual_seed(1)
    model = session.encrypt(nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = (model(session.share(torch.linspace(-1, 1, 27).reshape(1, 1, 3, 3, 3))) ** 2).mean()
    loss.backward()
    optimizer.step()
    loss.reveal()


def attend(session: Session) -> None:
    torch.manual_seed(1)
    model = session.encrypt(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True))
    model(session.share(torch.linspace(-1, 1, 48).reshape(2, 3, 8))).sum().reveal()


def recur(session: Session) -> None:
    torch.manual_seed(1)
    model = session.encrypt(nn.LSTM(3, 4))
    out, _ = model(session.share(torch.linspace(-1, 1, 18).reshape(3, 2, 3)))
    out.sum().backward()
    out.reveal()


def public_tensors(session: Session) -> None:
    x = session.share(torch.linspace(-1, 1, 12).reshape(3, 4), requires_grad=True)
    table = public(torch.linspace(0, 2, 24).reshape(6, 4))
    y = x @ table.t() + public(torch.arange(6.0))
    y = y * public(torch.tensor([0.5, 1, 2])).unsqueeze(1) + public(torch.ones(1)).expand(3, 6)
    z = torch.cat([y, y[:, torch.tensor([5, 0])], y[torch.tensor([True, False, True])].new_zeros(3, 1)], 1)
    z[:, 1] = x[:, 0]
    z = functional.interpolate(z.reshape(1, 3, 9), size=5, mode="linear")
    (z.abs().sum() + torch.where(x > 0, x, 0 * x).sum() + (x == 1).sum()).backward()
    x.grad.reveal()


PROGRAMS: list[Callable[[Session], None]] = [train_images, train_volumes, attend, recur, public_tensors]


@pytest.mark.parametrize("n_parties", [2, 3])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_programs(program: Callable[[Session], None], n_parties: int) -> None:
    program(TwinSession([f"p{rank}" for rank in range(n_parties)]))


SESSION = TwinSession(["a", "b"])
CALLED = [
    "sort.default", "topk.default", "linalg_inv_ex.default", "_log_softmax.default", "div.Tensor", "erf.default",
    "exp.default", "sin.default", "gather.default", "scatter_add.default", "index_put.default", "cumsum.default",
    "max_pool2d_with_indices.default", "avg_pool2d.default", "upsample_bicubic2d.default", "embedding.default",
    "median.dim", "clamp.default", "eq.Scalar", "var.correction", "unfold.default", "roll.default", "tril.default",
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CALLED if name in SAMPLES])
def test_operations(name: str) -> None:
    for call in SAMPLES[name][:3]:
        forward(name, call, SESSION)
        if call.gradient:
            backward(name, call, SESSION)


def test_every_kind_was_run() -> None:
    """Last of this file's: what the tests above ran."""
    session = TwinSession(["a", "b"])
    for program in PROGRAMS:
        program(session)
    session.n_wires  # noqa: B018  frees what is left
    run = session.twins.kinds + SESSION.twins.kinds
    assert set(WIRING) - set(run) <= {ins.Refresh}
    assert any(dealt for _, dealt in session.twins.corrections[0])


@pytest.mark.parametrize("n_parties", [2, 3])
def test_plans(n_parties: int) -> None:
    session = TwinSession([f"p{rank}" for rank in range(n_parties)])
    torch.manual_seed(1)
    model = session.encrypt(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    shift = public(torch.linspace(0, 1, 6))

    @torchveil.compile
    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = functional.cross_entropy(model(x + shift), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    for k in range(4):
        x = torch.linspace(-1, 1, 24).reshape(4, 6) * (k + 1)
        y = functional.one_hot(torch.arange(4) % 3, 3).float()
        step(session.share(x), session.share(y)).reveal()
    assert len(session.twins.plans) >= 2
    assert len({plan_digest(plan) for plan in session.twins.plans}) == 1
