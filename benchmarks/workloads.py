"""The workloads: each builds an encrypted and a clear callable that do the same work, all roles in one process.

W1  the tutorial's 2-2-1 net, 20 full-batch iterations, the loss revealed every iteration (base 10, 3 digits)
W2  a product of two secret matrices with truncation: 1024^3 and 128 x 784 x 128
W3  relu on 2^16 and 2^20 elements
W4  a training step of 784-128-128-10, batch 128, cross-entropy with secret one-hot labels, SGD; a fresh batch each time
W5  LeNet on 28 x 28, batch 32: inference and training step
W6  softmax of 128 x 10 and 128 x 128; sigmoid, gelu, exp, reciprocal and square root of 2^16 elements
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import torchveil
from torchveil import FixedPoint, Session

Run = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """``prepare(session)`` makes one encrypted run; ``clear()`` makes the same run on plain tensors."""

    name: str
    prepare: Callable[[Session], Run]
    clear: Callable[[], Run]
    fixed_point: FixedPoint | None = None


def _resolve(x: Tensor) -> Tensor:
    """Make sure that a lazily truncated result exists at its format's scale."""
    if isinstance(x, torchveil.EncryptedTensor):
        from torchveil.functions.arithmetic import narrow, secret

        narrow(secret(x.handle))
    return x


# --- W1 ------------------------------------------------------------------------------------------------------------


class TutorialNet(nn.Module):
    """The net of the tutorial with its deterministic initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.fc2 = nn.Linear(2, 1)
        with torch.no_grad():
            self.fc1.weight.copy_(torch.tensor([[0.0738, -0.2109], [-0.1579, 0.3174]]))
            self.fc1.bias.copy_(torch.tensor([0.0, 0.1]))
            self.fc2.weight.copy_(torch.tensor([[-0.5368, 0.7050]]))
            self.fc2.bias.copy_(torch.tensor([-0.0343]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.relu(self.fc1(x)))


_DATA = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]])
_TARGET = torch.tensor([[0], [0], [1], [1.0]])


def _train_tutorial(net: nn.Module, data: Tensor, target: Tensor, read: Callable[[Tensor], object]) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        loss = ((net(data) - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        read(loss)


def _w1(session: Session) -> Run:
    def run() -> None:
        net = session.encrypt(TutorialNet())
        _train_tutorial(net, session.share(_DATA), session.share(_TARGET), lambda loss: loss.reveal())

    return run


def _w1_clear() -> Run:
    return lambda: _train_tutorial(TutorialNet(), _DATA, _TARGET, lambda loss: loss.item())


# --- W2, W3, W6: functions of fresh operands -----------------------------------------------------------------------


def _function(name: str, function: Callable[..., Tensor], *operands: Callable[[], Tensor]) -> Workload:
    def prepare(session: Session) -> Run:
        def run() -> Tensor:
            # sharing is the owner's work and outside the timed call; a fresh handle has no opening to reuse
            return _resolve(function(*[session.share(x) for x in clear_values]))

        clear_values = [operand() for operand in operands]
        return run

    def clear() -> Run:
        values = [operand() for operand in operands]
        return lambda: function(*values)

    return Workload(name, prepare, clear)


def _uniform(*shape: int, low: float = -1.0, high: float = 1.0) -> Callable[[], Tensor]:
    return lambda: torch.empty(*shape).uniform_(low, high)


# --- W4, W5 ----------------------------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    """784-128-128-10 with relu."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def lenet() -> nn.Module:
    """conv5x5x20, pool, relu, conv5x5x50, pool, relu, fc500, relu, fc10."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = functional.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _training(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Workload:
    def batch() -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 10, (shape[0],))
        return torch.rand(shape), functional.one_hot(labels, 10).float()

    def prepare(session: Session) -> Run:
        net = session.encrypt(build())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def run() -> None:
            x, y = batch()
            _step(net, optimizer, session.share(x), session.share(y))

        return run

    def clear() -> Run:
        net = build()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        return lambda: _step(net, optimizer, *batch())

    return Workload(name, prepare, clear)


def _inference(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Workload:
    def prepare(session: Session) -> Run:
        net = session.encrypt(build())

        def run() -> Tensor:
            with torch.no_grad():
                return _resolve(net(session.share(torch.rand(shape))))

        return run

    def clear() -> Run:
        net = build()

        def run() -> Tensor:
            with torch.no_grad():
                return net(torch.rand(shape))

        return run

    return Workload(name, prepare, clear)


WORKLOADS: tuple[Workload, ...] = (
    Workload("W1 tutorial, 20 iterations", _w1, _w1_clear, FixedPoint(10, 3)),
    _function("W2 matmul 128x784x128", torch.matmul, _uniform(128, 784), _uniform(784, 128)),
    _function("W2 matmul 1024^3", torch.matmul, _uniform(1024, 1024), _uniform(1024, 1024)),
    _function("W3 relu 2^16", torch.relu, _uniform(2**16)),
    _function("W3 relu 2^20", torch.relu, _uniform(2**20)),
    _training("W4 784-128-128-10 step, batch 128", mlp, (128, 784)),
    _inference("W5 LeNet inference, batch 32", lenet, (32, 1, 28, 28)),
    _training("W5 LeNet step, batch 32", lenet, (32, 1, 28, 28)),
    _function("W6 softmax 128x10", lambda x: torch.softmax(x, 1), _uniform(128, 10, low=-4, high=4)),
    _function("W6 softmax 128x128", lambda x: torch.softmax(x, 1), _uniform(128, 128, low=-4, high=4)),
    _function("W6 sigmoid 2^16", torch.sigmoid, _uniform(2**16, low=-8, high=8)),
    _function("W6 gelu 2^16", functional.gelu, _uniform(2**16, low=-8, high=8)),
    _function("W6 exp 2^16", torch.exp, _uniform(2**16, low=-10, high=5)),
    _function("W6 reciprocal 2^16", torch.reciprocal, _uniform(2**16, low=0.1, high=64)),
    _function("W6 sqrt 2^16", torch.sqrt, _uniform(2**16, low=0.01, high=64)),
)
