"""``public(x)``: the explicit word that a plain tensor may be known to all parties.

A wrapper below torch's autograd, like the secret one, so that what torch derives from it stays public: the transpose in
the gradient of ``public(x) @ w`` is made in C++, where a mere subclass would get lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_map

from torchveil.errors import InvalidArgument


class PublicTensor(torch.Tensor):
    """A plain tensor (``plain``) that may meet secrets: every party learns it, the provider does not."""

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
        out = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_declared, out))


def _plain(x: Any) -> Any:
    return x.plain if isinstance(x, PublicTensor) else x


def _declared(x: Any) -> Any:
    return PublicTensor(x) if type(x) is torch.Tensor else x


def public(x: Tensor) -> PublicTensor:
    """Declare that every party may know ``x``. Raises ``InvalidArgument`` for something that is not a plain tensor."""
    if isinstance(x, PublicTensor):
        return x
    if not isinstance(x, Tensor) or type(x) not in (torch.Tensor, torch.nn.Parameter):
        raise InvalidArgument(
            "only a plain tensor can be declared public", remedy="reveal a secret first if it may be known"
        )
    return PublicTensor(x.detach())
