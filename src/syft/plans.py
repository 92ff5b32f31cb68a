"""Plans: ``@sy.func2plan()`` makes a function that is recorded once and then replayed, on shared tensors.

PySyft recorded a plan from dummy tensors of ``args_shape`` and sent it to workers. Here the recording is
``torchveil.compile``: it happens at the first call on shared tensors, again for other shapes, and the workers of those
tensors run it. On plain tensors and on pointers a plan is the function itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_iter

import torchveil
from torchveil import EncryptedTensor


class Plan:
    """A function with a recording. ``is_built`` says whether it was built; ``rounds`` of the last recording."""

    def __init__(self, function: Callable[..., Any], args_shape: Sequence[Sequence[int]] | None = None) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self.__doc__ = function.__doc__
        self.args_shape = args_shape
        self.is_built = False
        self._function = function
        self._compiled = torchveil.compile(function)
        if args_shape is not None:
            self.build(*(torch.zeros(tuple(shape)) for shape in args_shape))

    def build(self, *args: Any, trace_autograd: bool = False) -> None:
        """Try the function on these arguments, so that a mistake shows now. On shared tensors this records it."""
        self(*args)
        self.is_built = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, EncryptedTensor) for x in tree_iter((args, kwargs))):
            self.is_built = True
            return self._compiled(*args, **kwargs)
        return self._function(*args, **kwargs)

    @property
    def rounds(self) -> int:
        """Rounds of one run on shared tensors; 0 before the first one."""
        return self._compiled.rounds

    def send(self, *_workers: Any) -> Plan:
        """The plan itself: it runs at the workers that hold its arguments. An unbuilt plan raises, as in PySyft."""
        if not self.is_built:
            raise RuntimeError("A plan needs to be built before being sent to a worker.")
        return self

    def __repr__(self) -> str:
        return f"<Plan {self.name}{' built' if self.is_built else ''}>"


def func2plan(
    args_shape: Sequence[Sequence[int]] | None = None,
    state: Sequence[Any] | None = None,
    trace_autograd: bool = False,
    args_dtypes: Sequence[Any] = (),
) -> Callable[[Callable[..., Any]], Plan]:
    """The decorator that makes a plan of a function.

    args_shape: shapes of the arguments, to build it at once on zeros. The others are accepted for PySyft's programs:
    tensors that the function closes over are followed, gradients are recorded as they are.
    """
    if callable(args_shape):
        raise TypeError("write @sy.func2plan() with parentheses")
    return lambda function: Plan(function, args_shape)
