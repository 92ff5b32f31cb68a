"""Watching a program on a shadow: every operation that would raise is noted, and the program goes on.

Theory of operation. A mode of torch's stands above ``EncryptedTensor``, below autograd. Where the rule of an operation
raises, or there is none, the mode notes it and gives torch a result of the right shape, found by torch's own kernel for
the meta device. So the rest of the program is seen, and so is the gradient of what has no rule: torch differentiates
before the mode.

A second mode, above autograd, notes the program's line on the nodes of the graph, for findings in backward passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_any, tree_leaves, tree_map

from torchveil.checking.findings import Finding, Findings, first_line
from torchveil.checking.instead import INSTEAD
from torchveil.checking.shadow import Shadow
from torchveil.errors import TorchveilError, WouldBePublished
from torchveil.lowering import TABLE
from torchveil.public import PublicTensor
from torchveil.tensor import EncryptedTensor
from torchveil.where import backward_module_path, user_line

#: The key under which the program's line is noted on the nodes of the autograd graph.
_LINE_KEY = "torchveil.line"


class CannotGoOn(Exception):
    """torch itself cannot say what shape comes next."""


class Place:
    """Where the program is: its phase, the module, the line."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.phase = "forward"
        self.shadow: Shadow | None = None
        #: paths of the modules that are running, where no session follows them
        self.running: list[str] = []

    def module(self) -> str:
        """The path of the module, without the model's own name."""
        if self.running:
            return self.running[-1]
        shadow = self.shadow
        path = shadow.module_path[-1] if shadow is not None and shadow.module_path else backward_module_path()
        return path.removeprefix(self._root).removeprefix(".")

    def line(self) -> str:
        node: Any = torch._C._current_autograd_node()
        return user_line() if node is None else str(node.metadata.get(_LINE_KEY, "")) or user_line()


class Reporter:
    """Turns errors into findings at the present place."""

    def __init__(self, place: Place) -> None:
        self.findings = Findings()
        self.place = place

    def error(self, error: TorchveilError, op: str = "") -> None:
        """What a run would raise here."""
        self.note(error.code, op or error.op, first_line(error), INSTEAD.get(op or error.op, error.remedy))

    def note(self, code: str, op: str, message: str, instead: str) -> None:
        place = self.place
        self.findings.add(Finding(code, op, place.module(), place.line(), place.phase, message, instead))


def _secret(x: Any) -> bool:
    return isinstance(x, EncryptedTensor)


class Watch(TorchDispatchMode):
    """Runs every operation; notes those that raise and gives a stand-in for their result."""

    def __init__(self, shadow: Shadow, reporter: Reporter, seen: Callable[[Any, Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shadow = shadow
        self._reporter = reporter
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not tree_any(_secret, (args, kwargs)):
            return func(*args, **kwargs)
        if func not in TABLE and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        self._seen(func, args)
        try:
            return func(*args, **kwargs)
        except WouldBePublished as error:
            self._reporter.error(error)
            args, kwargs = tree_map(self._adopted, (args, kwargs))
        except TorchveilError as error:
            return self._stand_in(error, func, args, kwargs)
        try:
            return func(*args, **kwargs)
        except TorchveilError as error:
            return self._stand_in(error, func, args, kwargs)

    def _stand_in(self, error: TorchveilError, func: Any, args: Any, kwargs: Any) -> Any:
        if func._schema.returns:  # what returns nothing looks at the result of another operation, which was noted
            self._reporter.error(error)
        return stand_in(self._shadow, func, args, kwargs)

    def _adopted(self, x: Any) -> Any:
        """A plain tensor as if it had been shared."""
        return self._shadow.invent(x) if isinstance(x, Tensor) and not isinstance(x, EncryptedTensor) else x


def _meta(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return torch.device("meta") if isinstance(x, torch.device) else x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def stand_in(shadow: Shadow, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A result of the shape that torch says; what the operation would write into is written.

    Raises ``CannotGoOn`` when the shape depends on values.
    """
    if func in _NUMBERS:
        return _NUMBERS[func]
    try:
        out = func(*tree_map(_meta, args), **tree_map(_meta, kwargs))
    except (RuntimeError, NotImplementedError, IndexError, ValueError, TypeError) as error:
        raise CannotGoOn(f"{func}: {error}") from error
    written = _written(func, args, kwargs)
    for x in written:
        if isinstance(x, EncryptedTensor):
            x.assign(shadow.invent(_meta(x)).handle)
    returned = [entry.alias_info is not None and entry.alias_info.is_write for entry in func._schema.returns]
    if written and all(returned):
        return written[0] if len(returned) == 1 else tuple(written)
    out = tree_map(lambda x: shadow.invent(x) if isinstance(x, Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


#: What reading one of these gives.
_NUMBERS: dict[Any, Any] = {
    torch.ops.aten._local_scalar_dense.default: 0.0,
    torch.ops.aten.equal.default: False,
    torch.ops.aten.allclose.default: False,
}


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that the schema says are written."""
    arguments = func._schema.arguments
    pairs = [*zip(arguments, args, strict=False), *((a, kwargs[a.name]) for a in arguments if a.name in kwargs)]
    return [x for a, value in pairs if a.alias_info is not None and a.alias_info.is_write for x in tree_leaves(value)]


class Lines(TorchFunctionMode):
    """Notes the program's line on the graph."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor) and not isinstance(x, PublicTensor) and x.grad_fn is not None:
                _stamp(x.grad_fn)
        return out


def _stamp(node: Any) -> None:
    todo, line = [node], ""
    while todo:
        current = todo.pop()
        if current is None or _LINE_KEY in current.metadata or "AccumulateGrad" in current.name():
            continue
        line = line or user_line()
        current.metadata[_LINE_KEY] = line
        todo.extend(following for following, _ in current.next_functions)
