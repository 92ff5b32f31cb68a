"""The ResNet-18 example: its logits are those of the clear run, its cost what check says."""

from __future__ import annotations

import torch

import torchveil
from examples import resnet18


def test_a_small_image_and_a_narrow_network() -> None:
    result = resnet18.run(size=32, classes=10, width=8)
    assert result.error < 0.02
    with torch.device("meta"):
        report = torchveil.check(resnet18.ResNet18(10, 8).eval(), torch.empty(1, 3, 32, 32))
    predicted = report.phase("forward, first").cost + report.phase("reveal the output").cost
    assert (result.rounds, result.sent_bytes, result.dealt_bytes) == (predicted.rounds, predicted.sent, predicted.dealt)


def test_the_whole_network_at_64() -> None:
    assert resnet18.run(size=64).error < 0.02
