"""The workloads: each runs one description of ``inputs.py`` encrypted (all roles in one process) and in plain torch.

W1  the tutorial's 2-2-1 net, 20 full-batch iterations, the loss revealed every iteration (base 10, 3 digits)
W2  a product of two secret matrices with truncation: 1024^3 and 128 x 784 x 128
W3  relu on 2^16 and 2^20 elements
W4  a training step of 784-128-128-10, batch 128, cross-entropy with secret one-hot labels, SGD; a fresh batch each time
W5  LeNet on 28 x 28, batch 32: inference and training step
W6  softmax of 128 x 10 and 128 x 128; sigmoid, gelu, exp, reciprocal and square root of 2^16 elements

Training also runs compiled (``torchveil.compile``), recorded before anything is timed; W1 then starts every run by
sharing its parameters anew.

What is timed: sharing the fresh operands, the computation, and truncating its result to its format. In W1 encrypting
the net and revealing 20 losses as well. In W4 and W5 the net is encrypted before, and drawing the batch is timed in the
encrypted and in the clear run alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import torchveil
from benchmarks.inputs import CLEAR, WORKS, Function, Inference, Training, Tutorial, TutorialNet, Work
from torchveil import FixedPoint, Session

Run = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """``prepare(session)`` makes one encrypted run; ``clear()`` makes the same run on plain tensors.

    ``work`` describes what is computed: variants of one work (eager, compiled) share it, and a peer runs it by its
    name. ``error(session)`` is the largest absolute error of one function against float64, where that says something.
    """

    name: str
    work: Work
    prepare: Callable[[Session], Run]
    clear: Callable[[], Run]
    fixed_point: FixedPoint | None = None
    error: Callable[[Session], float] | None = None


def resolve(x: Tensor) -> Tensor:
    """Make sure that a lazily truncated result exists at its format's scale."""
    if isinstance(x, torchveil.EncryptedTensor):
        from torchveil.functions.arithmetic import narrow, secret

        narrow(secret(x.handle))
    return x


# --- W1 ------------------------------------------------------------------------------------------------------------


def _tutorial(work: Tutorial) -> Workload:
    data, target = work.batch()

    def train(net: nn.Module, data: Tensor, target: Tensor, read: Callable[[Tensor], object]) -> None:
        optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
        for _ in range(work.iterations):
            optimizer.zero_grad()
            loss = ((net(data) - target) ** 2).sum()
            loss.backward()
            optimizer.step()
            read(loss)

    def prepare(session: Session) -> Run:
        def run() -> None:
            net = session.encrypt(TutorialNet())
            train(net, session.share(data), session.share(target), lambda loss: loss.reveal())

        return run

    def clear() -> Run:
        return lambda: train(TutorialNet(), data, target, lambda loss: loss.item())

    return Workload(work.name, work, prepare, clear, FixedPoint(10, 3))


# --- W2, W3, W6: functions of fresh operands -----------------------------------------------------------------------


def _function(work: Function) -> Workload:
    function = CLEAR[work.function]  # an EncryptedTensor takes torch's own functions

    def prepare(session: Session) -> Run:
        def run() -> Tensor:
            # a fresh handle has no opening to reuse
            return resolve(function(*[session.share(x) for x in clear_values]))

        clear_values = [operand.draw() for operand in work.operands]
        return run

    def clear() -> Run:
        values = [operand.draw() for operand in work.operands]
        return lambda: function(*values)

    def error(session: Session) -> float:
        values = [operand.draw() for operand in work.operands]
        found = function(*[session.share(x) for x in values]).reveal()
        return float((found.double() - function(*[x.double() for x in values])).abs().max())

    return Workload(work.name, work, prepare, clear, error=error)


# --- W4, W5 ----------------------------------------------------------------------------------------------------------


def _compiled_tutorial(work: Tutorial) -> Workload:
    data, target = work.batch()
    start = [parameter.detach().clone() for parameter in TutorialNet().parameters()]

    def prepare(session: Session) -> Run:
        net = session.encrypt(TutorialNet())
        optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)

        @torchveil.compile
        def step(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = ((net(x) - y) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        def run() -> None:
            with torch.no_grad():
                for parameter, value in zip(net.parameters(), start, strict=True):
                    parameter.copy_(session.share(value))
            x, y = session.share(data), session.share(target)
            for _ in range(work.iterations):
                step(x, y).reveal()

        return run

    return Workload(f"{work.name}, compiled", work, prepare, _tutorial(work).clear, FixedPoint(10, 3))


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = functional.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _training(work: Training, *, compiled: bool = False) -> Workload:
    def prepare(session: Session) -> Run:
        net = session.encrypt(work.build())
        optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)

        def step(x: Tensor, y: Tensor) -> None:
            _step(net, optimizer, x, y)

        chosen = torchveil.compile(step) if compiled else step

        def run() -> None:
            x, y = work.batch()
            chosen(session.share(x), session.share(y))

        return run

    def clear() -> Run:
        net = work.build()
        optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
        return lambda: _step(net, optimizer, *work.batch())

    return Workload(f"{work.name}, compiled" if compiled else work.name, work, prepare, clear)


def _compiled_training(work: Training) -> Workload:
    return _training(work, compiled=True)


def _inference(work: Inference) -> Workload:
    def prepare(session: Session) -> Run:
        net = session.encrypt(work.build())

        def run() -> Tensor:
            with torch.no_grad():
                return resolve(net(session.share(work.batch())))

        return run

    def clear() -> Run:
        net = work.build()

        def run() -> Tensor:
            with torch.no_grad():
                return net(work.batch())

        return run

    return Workload(work.name, work, prepare, clear)


#: kind of work -> its variants
_KINDS: dict[type, tuple[Callable[..., Workload], ...]] = {
    Tutorial: (_tutorial, _compiled_tutorial),
    Function: (_function,),
    Training: (_training, _compiled_training),
    Inference: (_inference,),
}


def variants(work: Work) -> tuple[Workload, ...]:
    """The ways to run a work: eager, and compiled where that is another way."""
    return tuple(make(work) for make in _KINDS[type(work)])


WORKLOADS: tuple[Workload, ...] = tuple(workload for work in WORKS for workload in variants(work))
