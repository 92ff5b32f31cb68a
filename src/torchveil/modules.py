"""Encrypting ``nn.Module``s in place, and knowing which module an operation belongs to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from torchveil.engine import Engine
from torchveil.errors import InvalidArgument
from torchveil.tensor import EncryptedTensor
from torchveil.where import MODULE_KEY

M = TypeVar("M", bound=nn.Module)

_tracked: weakref.WeakKeyDictionary[nn.Module, tuple[Engine, str]] = weakref.WeakKeyDictionary()


def replace_tensors(module: nn.Module, convert: Callable[[Tensor], Tensor | None]) -> None:
    """Replace parameters and buffers by ``convert(x)`` (None keeps them); shared tensors stay shared."""
    done: dict[int, tuple[Tensor, Tensor]] = {}

    def converted(x: Tensor) -> Tensor | None:
        if id(x) not in done:
            new = convert(x)
            if new is None:
                return None
            if isinstance(x, nn.Parameter):
                new = nn.Parameter(new, requires_grad=x.requires_grad)
            done[id(x)] = (x, new)
        return done[id(x)][1]

    for part in module.modules():
        tables: list[dict[str, Any]] = [part._parameters, part._buffers]
        for table in tables:
            for name, x in table.items():
                if x is not None:
                    new = converted(x)
                    if new is not None:
                        table[name] = new


def _require_module(given: Any, operation: str, of_tensors: str) -> None:
    if not isinstance(given, nn.Module):
        raise InvalidArgument(
            f"a module is due, and this is of type {type(given).__name__}",
            op=operation,
            remedy=f"pass one torch.nn.Module (several in a Sequential or ModuleList); of a tensor: {of_tensors}",
        )


def encrypt(module: M, share: Callable[[Tensor], EncryptedTensor], session: Engine) -> M:
    """Share all float parameters and buffers in place."""
    _require_module(module, "encrypt", "session.share(x)")

    def convert(x: Tensor) -> Tensor | None:
        if isinstance(x, EncryptedTensor) or not x.dtype.is_floating_point:
            return None
        return share(x.detach())

    replace_tensors(module, convert)
    track(module, session)
    return module


def decrypt(module: M, to: str) -> M:
    """Reveal all encrypted parameters and buffers in place."""
    _require_module(module, "decrypt", "x.reveal()")

    def convert(x: Tensor) -> Tensor | None:
        return x.reveal(to) if isinstance(x, EncryptedTensor) else None

    replace_tensors(module, convert)
    return module


# --- module paths -----------------------------------------------------------------------------------------------------


def track(module: nn.Module, session: Engine) -> None:
    """Account operations inside a module's forward, and their gradients, under the module's path."""
    for name, part in module.named_modules():
        path = f"{type(module).__name__}.{name}" if name else type(module).__name__
        if _enter not in part._forward_pre_hooks.values():
            part.register_forward_pre_hook(_enter)
            part.register_forward_hook(_leave, always_call=True)
        _tracked[part] = (session, path)


def _enter(module: nn.Module, _args: Any) -> None:
    known = _tracked.get(module)  # a copy of a module has its hooks, not its entry
    if known is not None:
        known[0].module_path.append(known[1])


def _leave(module: nn.Module, _args: Any, output: Any) -> None:
    known = _tracked.get(module)
    if known is None:
        return
    session, path = known
    if session.module_path and session.module_path[-1] == path:
        session.module_path.pop()
    if isinstance(output, Tensor) and output.grad_fn is not None:
        _stamp(output.grad_fn, path)


def _stamp(node: Any, path: str) -> None:
    """Note the path on the graph's nodes back to those of an inner module."""
    todo = [node]
    while todo:
        current = todo.pop()
        if current is None or MODULE_KEY in current.metadata or "AccumulateGrad" in current.name():
            continue
        current.metadata[MODULE_KEY] = path
        todo.extend(following for following, _ in current.next_functions)
