"""Product with a public tensor: every party applies it to its own share.

Formula. [f(x, c)]_i = f([x]_i, c). The result has no opening: deriving one would make the provider apply c to its
mask, and the provider never receives public tensors. Views: nothing new. Cost: 0 rounds, 0 bytes.
"""

from __future__ import annotations

from torch import Tensor

from torchveil.gates.base import Gate, local
from torchveil.kernels import BILINEAR
from torchveil.program.instructions import PublicProduct
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider
from torchveil.roles.wires import Wire


def _apply(x: Tensor, i: PublicProduct) -> Tensor:
    function = BILINEAR[i.function]
    return function(i.value, x, **i.options) if i.left else function(x, i.value, **i.options)


def deal(provider: Provider, i: PublicProduct) -> None:
    provider.wires[i.out] = Wire(None)


def evaluate(party: Party, i: PublicProduct) -> None:
    party.wires[i.out] = Wire(party.reduce(_apply(party.wires[i.x].value(), i)))


def clear(plain: Plain, i: PublicProduct) -> None:
    plain.set(i.out, _apply(plain.value(i.x), i))


GATE = Gate("public_product", False, deal, evaluate, clear, local)
