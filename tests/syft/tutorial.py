"""Part 12 of the PySyft tutorials: its code cells as a user types them, and its net with the given initialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import syft as sy

CELLS = (
    """
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import syft as sy
""",
    """
# 设置好所需
hook = sy.TorchHook(torch) 

alice = sy.VirtualWorker(id="alice", hook=hook)
bob = sy.VirtualWorker(id="bob", hook=hook)
james = sy.VirtualWorker(id="james", hook=hook)
""",  # noqa: W291  (as in the tutorial)
    """
# 一个玩具数据集
data = torch.tensor([[0,0],[0,1],[1,0],[1,1.]])
target = torch.tensor([[0],[0],[1],[1.]])

# 一个玩具模型
class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.fc1 = nn.Linear(2, 2)
        self.fc2 = nn.Linear(2, 1)

    def forward(self, x):
        x = self.fc1(x)
        x = F.relu(x)
        x = self.fc2(x)
        return x
model = Net()
""",
    """
# We encode everything
data = data.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
target = target.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
model = model.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
""",
    """
print(data)
""",
    """
opt = optim.SGD(params=model.parameters(),lr=0.1).fix_precision()

for iter in range(20):
    # 1) erase previous gradients (if they exist)
    opt.zero_grad()

    # 2) make a prediction
    pred = model(data)

    # 3) calculate how much we missed
    loss = ((pred - target)**2).sum()

    # 4) figure out which weights caused us to miss
    loss.backward()

    # 5) change those weights
    opt.step()

    # 6) print our progress
    print(loss.get().float_precision())
""",
)

#: The last lines of the net's ``__init__`` for the deterministic run; the tutorial's text gives them.
INITIALISATION = """
        with torch.no_grad():
            self.fc1.weight.set_(torch.tensor([[ 0.0738, -0.2109],[-0.1579,  0.3174]], requires_grad=True))
            self.fc1.bias.set_(torch.tensor([0.,0.1], requires_grad=True))
            self.fc2.weight.set_(torch.tensor([[-0.5368,  0.7050]], requires_grad=True))
            self.fc2.bias.set_(torch.tensor([-0.0343], requires_grad=True))
"""


class Net(nn.Module):
    """The tutorial's net with its deterministic initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.fc2 = nn.Linear(2, 1)
        with torch.no_grad():
            self.fc1.weight.set_(torch.tensor([[0.0738, -0.2109], [-0.1579, 0.3174]], requires_grad=True))
            self.fc1.bias.set_(torch.tensor([0.0, 0.1], requires_grad=True))
            self.fc2.weight.set_(torch.tensor([[-0.5368, 0.7050]], requires_grad=True))
            self.fc2.bias.set_(torch.tensor([-0.0343], requires_grad=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


def toy_data() -> tuple[Tensor, Tensor]:
    """The four samples: the target is the first coordinate."""
    return torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]]), torch.tensor([[0], [0], [1], [1.0]])


def clear_losses() -> list[float]:
    """The 20 losses of training in the clear."""
    return _train(Net(), *toy_data(), lambda optimizer: optimizer, lambda loss: loss.detach())


def encrypted_losses(workers: Sequence[Any], provider: Any, precision: int) -> list[float]:
    """The 20 losses of training on shares."""
    options: dict[str, Any] = {"crypto_provider": provider, "requires_grad": True}
    data, target = (x.fix_precision(precision_fractional=precision).share(*workers, **options) for x in toy_data())
    model = Net().fix_precision(precision_fractional=precision).share(*workers, **options)
    return _train(
        model,
        data,
        target,
        lambda optimizer: optimizer.fix_precision(precision_fractional=precision),
        lambda loss: loss.get().float_precision(),
    )


def deviation(losses: Sequence[float], reference: Sequence[float]) -> float:
    """The largest difference between two sequences of losses."""
    return max(abs(a - b) for a, b in zip(losses, reference, strict=True))


def workers_named(hook: Any, count: int) -> list[Any]:
    """``count`` workers."""
    return [sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "carl", "dora")[:count]]


def _train(
    model: Any, data: Any, target: Any, prepare: Callable[[Any], Any], reveal: Callable[[Any], Tensor]
) -> list[float]:
    optimizer = prepare(torch.optim.SGD(params=model.parameters(), lr=0.1))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = ((model(data) - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(float(reveal(loss)))
    return losses
