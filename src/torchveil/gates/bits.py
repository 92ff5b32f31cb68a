"""Bit wires: structure, complement, and the way into the ring. All local.

Formula. d = d^ ^ r with d^ public and [r] dealt when the bit was made: [d] = d^ + (1 - 2 d^) [r], the first d^ added by
the first party. Views: nothing new. Cost: 0 rounds, 0 bytes. Source: daBits, eprint 2019/207.
"""

from __future__ import annotations

from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.gates.base import Gate, local, require_shape
from torchveil.kernels import bit_share, weighed_bits
from torchveil.program.instructions import BitToArithmetic, MapBit, WeighBits
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import BitWire, Wire


def arithmetic_share(party: Party, bit: BitWire) -> Tensor:
    """This party's share of the bit as a ring element."""
    return bit_share(bit.public_flip(), bit.secret(), party.first)


def _deal_map(provider: Provider, i: MapBit) -> None:
    provider.bits[i.out] = BitWire(None, i.map(provider.bits[i.bit].secret()))


def _evaluate_map(party: Party, i: MapBit) -> None:
    source = party.bits[i.bit]
    flip = i.map(source.public_flip())
    party.bits[i.out] = BitWire(1 - flip if i.flip else flip, i.map(source.secret()))


def _clear_map(plain: Plain, i: MapBit) -> None:
    value = i.map(plain.bit(i.bit))
    plain.set_bit(i.out, 1 - value if i.flip else value)


MAP_BIT = Gate("map_bit", False, _deal_map, _evaluate_map, _clear_map, local)


def _deal_arithmetic(provider: Provider, i: BitToArithmetic) -> None:
    provider.wires[i.out] = Wire(None)


def _evaluate_arithmetic(party: Party, i: BitToArithmetic) -> None:
    party.wires[i.out] = Wire(party.reduce(arithmetic_share(party, party.bits[i.bit])))


def _clear_arithmetic(plain: Plain, i: BitToArithmetic) -> None:
    plain.set(i.out, plain.bit(i.bit))


BIT_TO_ARITHMETIC = Gate("bit_to_arithmetic", False, _deal_arithmetic, _evaluate_arithmetic, _clear_arithmetic, local)


def _deal_weigh(provider: Provider, i: WeighBits) -> None:
    provider.wires[i.out] = Wire(None)


def _evaluate_weigh(party: Party, i: WeighBits) -> None:
    if not i.bits:
        raise ProtocolError("a weighted sum of no bits")
    wires = [party.bits[bit] for bit in i.bits]
    flips, masks = [wire.public_flip() for wire in wires], [wire.secret() for wire in wires]
    for flip in flips[1:]:
        require_shape(flip, tuple(flips[0].shape))
    out = weighed_bits(flips, masks, i.weights, i.constant, party.first, party.width)
    party.wires[i.out] = Wire(out)


def _clear_weigh(plain: Plain, i: WeighBits) -> None:
    total: Tensor | int = i.constant
    for bit, weight in zip(i.bits, i.weights, strict=True):
        total = plain.bit(bit) * weight + total
    plain.set(i.out, _tensor(total))


def _tensor(total: Tensor | int) -> Tensor:
    if isinstance(total, int):
        raise ProtocolError("a weighted sum of no bits")
    return total


WEIGH_BITS = Gate("weigh_bits", False, _deal_weigh, _evaluate_weigh, _clear_weigh, local)
