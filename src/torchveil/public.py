"""``public(x)``: the explicit word that a plain tensor may be known to all parties.

A wrapper below torch's autograd, like the secret one, so that what torch derives from it stays public: the transpose in
the gradient of ``public(x) @ w`` is made in C++, where a mere subclass would get lost.

A result is public only if all its operands are: what is made of public tensors and a plain one (``y - public(mean)``)
is plain again, and is refused where it meets a secret. Public by themselves are Python numbers and, as everywhere,
plain tensors of integers and bools at the place of an index or a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from torchveil.errors import InvalidArgument, WouldBePublished

_aten = torch.ops.aten
#: Ops to which torch gives a Python number as a plain tensor without dimensions: t[0] = 5.0, torch.where(b, x, 0.0).
TAKE_NUMBERS = (
    _aten.fill_.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
    _aten.where.self,
    _aten.clamp_min_.Tensor,
)
#: What the schemas of torch call an operand that says where, not what.
_PLACES = ("index", "indices", "mask", "condition")


class PublicTensor(torch.Tensor):
    """A plain tensor (``plain``) that may meet secrets: every party learns it; of the provider see ``public``."""

    plain: Tensor

    @staticmethod
    def __new__(cls, plain: Tensor) -> PublicTensor:
        out = torch.Tensor._make_wrapper_subclass(
            cls, plain.shape, strides=plain.stride(), dtype=plain.dtype, device=plain.device
        )
        out.plain = plain
        return out

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Everything happens in ``__new__``."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"public({self.plain!r})"

    def numpy(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.plain.numpy()

    def tolist(self) -> Any:
        return self.plain.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        if not all(issubclass(t, (PublicTensor, torch.nn.Parameter)) or t is torch.Tensor for t in types):
            return NotImplemented  # a secret is among the operands: it decides
        kwargs = kwargs or {}
        known = _all_known(func, args, kwargs)
        out = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_declared, out) if known else out)


def _all_known(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether no operand is the user's plain tensor. Raises where one would be written into a public tensor."""
    rows = func._schema.arguments
    named = [*zip(rows, args, strict=False), *((row, kwargs[row.name]) for row in rows if row.name in kwargs)]
    known, written = True, False
    for row, value in named:
        writes = row.alias_info is not None and row.alias_info.is_write
        for x in tree_leaves(value):
            if isinstance(x, PublicTensor):
                written = written or writes
            elif isinstance(x, Tensor):
                known = known and not writes and _says_nothing(func, row.name, x)
    if written and not known:
        raise WouldBePublished(
            "a plain tensor would be written into a public one: every party would learn it",
            op=str(func),
            remedy="wrap it in torchveil.public(...) as well if it may be known",
        )
    return known


def _says_nothing(func: Any, name: str, x: Tensor) -> bool:
    """Indices, masks, and the tensors that torch makes of Python numbers and for ``one_hot``."""
    if name in _PLACES and not (x.is_floating_point() or x.is_complex()):
        return True
    return counts_up(func, x) or (x.dim() == 0 and (func in TAKE_NUMBERS or func is _aten.copy_.default))


def counts_up(func: Any, x: Tensor) -> bool:
    """Whether ``x`` is 0, 1, 2, ... with which ``one_hot`` compares."""
    return func is _aten.eq.Tensor and x.dtype is torch.int64 and x.equal(torch.arange(x.numel()))


def _plain(x: Any) -> Any:
    return x.plain if isinstance(x, PublicTensor) else x


def _declared(x: Any) -> Any:
    return PublicTensor(x) if type(x) is torch.Tensor else x


def public(x: Tensor) -> PublicTensor:
    """Declare that every party may know ``x``.

    The provider does not, with two exceptions. What says where is an index, which every role sees: a mask, the grid of
    ``grid_sample`` with its weights, the samples of a fractional pooling. A public tensor that is used as one number
    counts as a public number, which every role sees: an operand without dimensions of an operation on lists, a bound of
    ``clamp``, the sum of class weights that divides a loss, the scale of public target probabilities. See SECURITY.md.

    Raises ``InvalidArgument`` for something that is not a plain tensor.
    """
    if isinstance(x, PublicTensor):
        return x
    if not isinstance(x, Tensor) or type(x) not in (torch.Tensor, torch.nn.Parameter):
        raise InvalidArgument(
            "only a plain tensor can be declared public", remedy="reveal a secret first if it may be known"
        )
    return PublicTensor(x.detach())
