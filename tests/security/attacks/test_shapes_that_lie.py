"""An instruction that states another shape than its operands have: no pad may hide two values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchveil import Session
from torchveil.errors import ProtocolError
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.roles.provider import Provider

SHAPE = (4, 4)
Attack = Callable[[int, int], ins.Instruction]


def truncated(x: int, bit: int) -> ins.Instruction:
    return ins.Truncate(902, x, None, 1 << 8, (1,))


def truncated_by_a_bit(x: int, bit: int) -> ins.Instruction:
    return ins.Truncate(902, x, bit, 1 << 8, (1, 4))


def selected(x: int, bit: int) -> ins.Instruction:
    return ins.Select(902, bit, x, (1,))


def exponential(x: int, bit: int) -> ins.Instruction:
    return ins.Exponential(902, x, None, 1 << 16, 20, 30, 30, (1,))


def series(x: int, bit: int) -> ins.Instruction:
    return ins.Series(902, x, None, 20, (1,), (1,), (1,), 0, (1,))


ATTACKS = [truncated, truncated_by_a_bit, selected, exponential, series]


def record(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the provider sends from here on."""
    sent: list[object] = []
    send = Provider._send

    def sending(provider: Provider, purpose: str, slot: int, piece: Any) -> None:
        send(provider, purpose, slot, piece)
        sent.append(piece)

    monkeypatch.setattr(Provider, "_send", sending)
    return sent


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_is_dealt_is_hidden_element_by_element(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A party that gets what is dealt would see differences of masks, and knows the openings: of values, therefore."""
    session = Session()
    x = session.share(torch.arange(16.0).view(SHAPE))
    wire = x.handle.id
    session.submit(ins.Open((wire,), (SHAPE,)))
    session.submit(ins.Compare((900,), wire, False, (0,), (((0,), False),), SHAPE))
    session.submit(ins.MapBit(901, 900, LinearMap("unsqueeze", (0,))))
    sent = record(monkeypatch)
    with pytest.raises(ProtocolError):
        session.submit(attack(wire, 901))
    assert sent == []


def test_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    x = session.share(torch.arange(16.0).view(SHAPE))
    session.submit(ins.Round(900, x.handle.id, 12, SHAPE))
    session.submit(ins.Open((900,), (SHAPE,), False, (52,)))
    sent = record(monkeypatch)
    with pytest.raises(ProtocolError):
        session.submit(ins.Lift(901, 900, None, 12, (1,)))
    assert sent == []
