"""What the workloads W1-W6 compute, and on what data: descriptions that a peer's process reads too.

This file needs torch only, not torchveil, so that the process of a peer (its own virtual environment) takes shapes,
ranges, nets and iterations from the very same table. How each system runs them is its own: ``workloads.py`` for
torchveil and plain torch, ``peers/*/workloads.py`` for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# --- nets ------------------------------------------------------------------------------------------------------------


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


def mlp() -> nn.Module:
    """784-128-128-10 with relu."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def lenet() -> nn.Module:
    """conv5x5x20, pool, relu, conv5x5x50, pool, relu, fc500, relu, fc10."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


# --- kinds of work ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tutorial:
    """Full-batch gradient descent of the tutorial's net on its four points; the loss is read every iteration."""

    name: str
    iterations: int = 20
    learning_rate: float = 0.1

    def batch(self) -> tuple[Tensor, Tensor]:
        """All four points and their targets."""
        return torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [0], [1], [1]])


@dataclass(frozen=True)
class Uniform:
    """A tensor of uniform values."""

    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0

    def draw(self) -> Tensor:
        return torch.empty(self.shape).uniform_(self.low, self.high)


@dataclass(frozen=True)
class Function:
    """One function of operands that are shared afresh in every run; ``function`` is a key of ``CLEAR``."""

    name: str
    function: str
    operands: tuple[Uniform, ...]


@dataclass(frozen=True)
class Training:
    """A step of stochastic gradient descent on a fresh batch with one-hot labels, both secret: cross-entropy."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    learning_rate: float = 0.1

    def batch(self) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 10, (self.shape[0],))
        return torch.rand(self.shape), functional.one_hot(labels, 10).float()


@dataclass(frozen=True)
class Inference:
    """The forward pass on a fresh secret batch, weights secret."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def batch(self) -> Tensor:
        return torch.rand(self.shape)


Work = Tutorial | Function | Training | Inference

#: The functions on plain tensors.
CLEAR: dict[str, Callable[..., Tensor]] = {
    "matmul": torch.matmul,
    "relu": torch.relu,
    "softmax": lambda x: torch.softmax(x, 1),
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "gelu": functional.gelu,
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
}

WORKS: tuple[Work, ...] = (
    Tutorial("W1 tutorial, 20 iterations"),
    Function("W2 matmul 128x784x128", "matmul", (Uniform((128, 784)), Uniform((784, 128)))),
    Function("W2 matmul 1024^3", "matmul", (Uniform((1024, 1024)), Uniform((1024, 1024)))),
    Function("W3 relu 2^16", "relu", (Uniform((2**16,)),)),
    Function("W3 relu 2^20", "relu", (Uniform((2**20,)),)),
    Training("W4 784-128-128-10 step, batch 128", mlp, (128, 784)),
    Inference("W5 LeNet inference, batch 32", lenet, (32, 1, 28, 28)),
    Training("W5 LeNet step, batch 32", lenet, (32, 1, 28, 28)),
    Function("W6 softmax 128x10", "softmax", (Uniform((128, 10), -4, 4),)),
    Function("W6 softmax 128x128", "softmax", (Uniform((128, 128), -4, 4),)),
    Function("W6 sigmoid 2^16", "sigmoid", (Uniform((2**16,), -8, 8),)),
    Function("W6 gelu 2^16", "gelu", (Uniform((2**16,), -8, 8),)),
    Function("W6 exp 2^16", "exp", (Uniform((2**16,), -10, 5),)),
    Function("W6 reciprocal 2^16", "reciprocal", (Uniform((2**16,), 0.1, 64),)),
    Function("W6 sqrt 2^16", "sqrt", (Uniform((2**16,), 0.01, 64),)),
)
