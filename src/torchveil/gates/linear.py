"""Linear and structural gates: local work on shares; openings and masks follow through the same public map.

Formula. For a linear map L with public entries: [L x]_i = L [x]_i, (L x)^ = L x^, mask L l (rules O2). A public
constant is added by the first party to its share and by everybody to the opening. Views: nothing new for anybody.
Cost: 0 rounds, 0 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from torchveil.gates.base import Gate, local
from torchveil.kernels import combination, reduce_ring
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program.instructions import AddPublic, Combine, Concatenate, Constant, Map, Write
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Follow, Wire

# --- constants -----------------------------------------------------------------------------------------------------


def _constant(i: Constant) -> Tensor:
    if isinstance(i.value, Tensor):
        return i.value
    return torch.tensor(i.value, dtype=torch.int64).expand(i.shape)


def _deal_constant(provider: Provider, i: Constant) -> None:
    provider.wires[i.out] = Wire(None, mask=torch.zeros((), dtype=torch.int64).expand(i.shape))


def _evaluate_constant(party: Party, i: Constant) -> None:
    value = party.reduce(_constant(i))
    zeros = torch.zeros((), dtype=torch.int64).expand(i.shape)
    # A public value is its own opening, under the mask 0.
    party.wires[i.out] = Wire(value if party.first else zeros, opening=value, mask=zeros)


def _clear_constant(plain: Plain, i: Constant) -> None:
    plain.set(i.out, _constant(i))


CONSTANT = Gate("constant", False, _deal_constant, _evaluate_constant, _clear_constant, local)

# --- one operand ---------------------------------------------------------------------------------------------------


def _deal_map(provider: Provider, i: Map) -> None:
    provider.wires[i.out] = Wire(None, parent=provider.wires[i.x], via=i.map, width=provider.width)


def _evaluate_map(party: Party, i: Map) -> None:
    source = party.wires[i.x]
    share = reduce_ring(i.map(source.value()), party.width)
    party.wires[i.out] = Wire(share, parent=source, via=i.map, width=party.width)


def _clear_map(plain: Plain, i: Map) -> None:
    if plain.strict and i.map.name == "taps":
        dim, index, weights = i.map.args
        magnitude = LinearMap("taps", (dim, index, weights.abs()))(plain.value(i.x).to(torch.float64).abs())
        plain.require_product(magnitude, "weighted sum")
    plain.set(i.out, i.map(plain.value(i.x)))


MAP = Gate("map", False, _deal_map, _evaluate_map, _clear_map, local)


def _add_public(wire_value: Tensor, value: Tensor) -> Tensor:
    return wire_value + value


def _deal_add_public(provider: Provider, i: AddPublic) -> None:
    wire = provider.wires[i.x]
    if wire.resolve():
        mask = wire.total_mask()
        shape = torch.broadcast_shapes(mask.shape, i.value.shape)
        provider.wires[i.out] = Wire(None, mask=mask.expand(shape))
    else:
        provider.wires[i.out] = Wire(None)


def _evaluate_add_public(party: Party, i: AddPublic) -> None:
    wire = party.wires[i.x]
    shape = torch.broadcast_shapes(wire.value().shape, i.value.shape)
    share = party.reduce(wire.value() + i.value) if party.first else wire.value().expand(shape)
    if wire.resolve():
        opening, mask = wire.faces()
        party.wires[i.out] = Wire(share, opening=party.reduce(opening + i.value), mask=mask.expand(shape))
    else:
        party.wires[i.out] = Wire(share)


def _clear_add_public(plain: Plain, i: AddPublic) -> None:
    plain.set(i.out, plain.value(i.x) + i.value)


ADD_PUBLIC = Gate("add_public", False, _deal_add_public, _evaluate_add_public, _clear_add_public, local)

# --- several operands ----------------------------------------------------------------------------------------------


def _faces(wires: Sequence[Wire], i: Combine, width: int) -> tuple[Tensor | None, Tensor] | None:
    """(opening, mask) of the combination, the opening None at the provider; None if a term has no mask yet."""
    if not all([wire.resolve() for wire in wires]):
        return None
    factors = [factor for _, factor in i.terms]
    mask = reduce_ring(combination([wire.total_mask() for wire in wires], factors, 0), width)
    if wires[0].opening is None:
        return None, mask
    return reduce_ring(combination([wire.public() for wire in wires], factors, i.constant), width), mask


def _combined(share: Tensor | None, wires: Sequence[Wire], i: Combine, width: int) -> Wire:
    faces = _faces(wires, i, width)
    if faces is not None:
        return Wire(share, *faces, width=width)
    return Wire(share, width=width, follow=Follow(wires, partial(_faces, wires, i, width)) if i.follow else None)


def _deal_combine(provider: Provider, i: Combine) -> None:
    provider.wires[i.out] = _combined(None, [provider.wires[x] for x, _ in i.terms], i, provider.width)


def _evaluate_combine(party: Party, i: Combine) -> None:
    wires = [party.wires[x] for x, _ in i.terms]
    factors = [factor for _, factor in i.terms]
    share = party.reduce(combination([wire.value() for wire in wires], factors, i.constant if party.first else 0))
    party.wires[i.out] = _combined(share, wires, i, party.width)


def _clear_combine(plain: Plain, i: Combine) -> None:
    if plain.strict:
        for x, factor in i.terms:
            if abs(factor) > 1:
                plain.require_product(plain.value(x).to(torch.float64) * factor, "product with a public number")
    plain.set(i.out, combination([plain.value(x) for x, _ in i.terms], [f for _, f in i.terms], i.constant))


COMBINE = Gate("combine", False, _deal_combine, _evaluate_combine, _clear_combine, local)


def _deal_concatenate(provider: Provider, i: Concatenate) -> None:
    wires = [provider.wires[x] for x in i.xs]
    mask = None
    if all([wire.resolve() for wire in wires]):
        mask = torch.cat([wire.total_mask() for wire in wires], i.dim)
    provider.wires[i.out] = Wire(None, mask=mask)


def _evaluate_concatenate(party: Party, i: Concatenate) -> None:
    wires = [party.wires[x] for x in i.xs]
    share = torch.cat([wire.value() for wire in wires], i.dim)
    if all([wire.resolve() for wire in wires]):
        faces = [wire.faces() for wire in wires]
        opening = torch.cat([face[0] for face in faces], i.dim)
        party.wires[i.out] = Wire(share, opening=opening, mask=torch.cat([face[1] for face in faces], i.dim))
    else:
        party.wires[i.out] = Wire(share)


def _clear_concatenate(plain: Plain, i: Concatenate) -> None:
    plain.set(i.out, torch.cat([plain.value(x) for x in i.xs], i.dim))


CONCATENATE = Gate("concatenate", False, _deal_concatenate, _evaluate_concatenate, _clear_concatenate, local)

# --- writing into a view -------------------------------------------------------------------------------------------


def _write(base: Tensor, value: Tensor, path: tuple[LinearMap, ...]) -> Tensor:
    out = base.clone(memory_format=torch.contiguous_format)
    view = out
    for step in path:
        # a reshape that had to copy would lose what is written
        view = view.view(*step.args) if step.name == "view" else step(view)
    view.copy_(value)
    return out


def _deal_write(provider: Provider, i: Write) -> None:
    # A new value: its mask, when one is needed, will be a new one (rules O4).
    provider.wires[i.out] = Wire(None)


def _evaluate_write(party: Party, i: Write) -> None:
    party.wires[i.out] = Wire(_write(party.wires[i.base].value(), party.wires[i.value].value(), i.path))


def _clear_write(plain: Plain, i: Write) -> None:
    plain.set(i.out, _write(plain.value(i.base), plain.value(i.value), i.path))


WRITE = Gate("write", False, _deal_write, _evaluate_write, _clear_write, local)
