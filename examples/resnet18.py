"""ResNet-18 on an encrypted image: neither the picture nor the weights can be read by who computes.

    python examples/resnet18.py                 # 224 x 224, as in the paper
    python examples/resnet18.py --size 64       # smaller and quicker

The network is the one of He et al., "Deep Residual Learning for Image Recognition" (2015), with random weights. It runs
in evaluation mode, once in the clear and once on shares; the example prints how far the logits are apart and what the
encrypted run took. ``torchveil.check`` says rounds and bytes before anything is shared.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import torchveil


class Block(nn.Module):
    """Two 3 x 3 convolutions and the way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu(out + self.around(x))
        return result


class ResNet18(nn.Module):
    """[N, 3, H, W] -> [N, classes] logits."""

    def __init__(self, classes: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(4):
            outputs = width << stage
            blocks += [Block(inputs, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


@dataclass(frozen=True, slots=True)
class Result:
    """What one encrypted forward pass took, and how far its logits are from those of the clear run."""

    error: float
    seconds: float
    rounds: int
    sent_bytes: int
    dealt_bytes: int


def model(size: int, classes: int, width: int, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode, whose running statistics have seen a few random images, and an image."""
    torch.manual_seed(seed)
    net = ResNet18(classes, width)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, size, size))
    return net.eval(), torch.randn(1, 3, size, size)


def run(size: int = 224, classes: int = 1000, width: int = 64) -> Result:
    """The same image in the clear and encrypted."""
    net, image = model(size, classes, width)
    with torch.no_grad():
        clear = net(image)
        session = torchveil.Session(parties=("alice", "bob"), provider="james")
        session.encrypt(net)
        secret = session.share(image)
        before, start = session.cost(), time.perf_counter()
        logits = net(secret).reveal()
        seconds = time.perf_counter() - start
    cost = session.cost()
    return Result(
        float((logits - clear).abs().max()),
        seconds,
        cost.rounds - before.rounds,
        cost.sent_bytes - before.sent_bytes,
        cost.dealt_bytes - before.dealt_bytes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=224, help="height and width of the image")
    size = parser.parse_args().size
    with torch.device("meta"):
        net, image = ResNet18().eval(), torch.empty(1, 3, size, size)
    print(torchveil.check(net, image))
    result = run(size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"largest difference of a logit from the clear run: {result.error:.4f}")
    print(
        f"{result.seconds:.1f} s, {result.rounds} rounds, {result.sent_bytes / 1e6:.0f} MB sent by each party, "
        f"{result.dealt_bytes / 1e6:.0f} MB dealt; peak memory of the process {peak:.1f} GiB"
    )


if __name__ == "__main__":
    main()
