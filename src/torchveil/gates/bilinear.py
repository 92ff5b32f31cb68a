"""Product: one gate for every bilinear function (elementwise, matrix, batched, convolution and its two gradients).

Formula. With x^ = x + a and y^ = y + b open: [f(x,y)] = f(x^, y^) - f(x^, [b]) - f([a], y^) + [f(a, b)], the first
term added by the first party only. The provider deals f(a, b).
Views. party: its piece of f(a, b), uniform; nothing is sent. provider: nothing. Cost: 0 rounds after the openings,
8 bytes dealt per *output* element; two functions f per party and one at the provider. Floors: bytes, the same (a
product of two masks is independent of what the parties hold); arithmetic, 2 per party (party 0 folds the first term
in).
Source: Beaver, CRYPTO'91; reuse of openings: ABY2.0, eprint 2020/1225, sec. 3.1; Orca, eprint 2023/206.
"""

from __future__ import annotations

import math

import torch

from torchveil.gates.base import Cost, Gate
from torchveil.kernels import BILINEAR, product_share, reference
from torchveil.program.instructions import Bilinear
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def deal(provider: Provider, i: Bilinear) -> None:
    a, b = provider.wires[i.x].total_mask(), provider.wires[i.y].total_mask()
    provider.deal(0, provider.reduce(BILINEAR[i.function](a, b, **i.options)), fresh=True)
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: Bilinear) -> None:
    x_open, a = party.wires[i.x].faces()
    y_open, b = party.wires[i.y].faces()
    dealt = party.dealt_piece(0, i.shape)
    out = product_share(i.function, dealt, x_open, a, y_open, b, party.first, i.options, party.width)
    party.wires[i.out] = Wire(out)


def clear(plain: Plain, i: Bilinear) -> None:
    # the reference twins: debug mode then compares the kernels in use with them
    x, y = plain.value(i.x), plain.value(i.y)
    if plain.strict:
        magnitude = reference.BILINEAR[i.function](x.to(torch.float64).abs(), y.to(torch.float64).abs(), **i.options)
        plain.require_product(magnitude, f"product ({i.function})")
    plain.set(i.out, reference.BILINEAR[i.function](x, y, **i.options))


def cost(i: Bilinear, n_parties: int) -> Cost:
    return Cost(dealt=8 * math.prod(i.shape))


GATE = Gate("product", False, deal, evaluate, clear, cost)
