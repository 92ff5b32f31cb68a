"""The methods that ``sy.TorchHook(torch)`` adds to tensors, modules and optimizers: three tables, nothing else.

Each entry is a name and a function of this package. A name that torch has already is never replaced. A module's own
submodule, parameter or buffer of one of the names goes before the added method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from syft import modules, notes, pointers, precision, sharing
from syft.inplace import become
from syft.pointers import PointerTensor
from syft.registry import registry
from syft.workers import VirtualWorker
from torchveil import EncryptedTensor

# --- tensors ---------------------------------------------------------------------------------------------------------


def _fix_precision(self: Tensor, *_: Any, no_wrap: bool = False, **options: Any) -> Tensor:
    """Round to a fixed number of digits: ``base=10, precision_fractional=3``. See ``syft.precision``."""
    fixed_point = precision.number_format(**options)
    if isinstance(self, PointerTensor):
        return pointers.apply_at(self, lambda x: precision.fix_precision(x, fixed_point))
    return precision.fix_precision(self, fixed_point)


def _float_precision(self: Tensor) -> Tensor:
    """The numbers as floats."""
    if isinstance(self, PointerTensor):
        return pointers.apply_at(self, precision.float_precision)
    return precision.float_precision(self)


def _share(self: Tensor, *owners: VirtualWorker, no_wrap: bool = False, **options: Any) -> Tensor:
    """Split between workers: ``x.share(bob, alice, crypto_provider=james, requires_grad=False)``."""
    return sharing.share(self, *owners, **options)


def _get(self: Tensor, *_: Any, user: Any = None, reason: str = "", deregister_ptr: bool = True) -> Tensor:
    """Reveal a shared tensor, or fetch what a pointer points to."""
    if isinstance(self, PointerTensor):
        return pointers.get(self, deregister_ptr=deregister_ptr)
    return sharing.get(self)


def _encrypt(
    self: Tensor,
    protocol: str = "mpc",
    inplace: bool = False,
    *,
    workers: Any = (),
    crypto_provider: VirtualWorker | None = None,
    requires_grad: bool = False,
    no_wrap: bool = False,
    **options: Any,
) -> Tensor:
    """``fix_precision`` and ``share`` in one; whole numbers too become fixed-precision numbers."""
    fixed = _fix_precision(self, **options)
    out = sharing.share(
        fixed, *workers, protocol=protocol, crypto_provider=crypto_provider, requires_grad=requires_grad
    )
    return become(self, out) if inplace else out


def _decrypt(self: Tensor, inplace: bool = False) -> Tensor:
    """``get`` and ``float_precision`` in one."""
    out = sharing.decrypt(self)
    return become(self, out) if inplace else out


def _send(
    self: Tensor,
    *workers: VirtualWorker,
    inplace: bool = False,
    requires_grad: bool | None = None,
    garbage_collect_data: bool = True,
    no_wrap: bool = False,
) -> Any:
    """Give a worker a copy; the pointer to it."""
    options: dict[str, Any] = {"requires_grad": requires_grad, "garbage_collect_data": garbage_collect_data}
    out = pointers.send(self, *workers, **options)
    if not inplace:
        return out
    if not isinstance(out, Tensor):
        raise NotImplementedError("in place a tensor can be sent to one worker only")
    return become(self, out)


def _move(self: Tensor, worker: VirtualWorker, requires_grad: bool = False) -> Tensor:
    """The object of a pointer at another worker."""
    if not isinstance(self, PointerTensor):
        raise TypeError("move() is for pointers: send the tensor to a worker first")
    moved = pointers.move(self, worker)
    return moved.requires_grad_() if requires_grad and moved is not self else moved


def _copy(self: Tensor) -> Tensor:
    """An equal tensor of its own; of a shared tensor, shared between the same workers."""
    out = self.clone()
    notes.carry(self, out)
    if isinstance(self, EncryptedTensor) and isinstance(out, EncryptedTensor):
        sharing.label_like(self, out)
    return out


def _in_place(function: Callable[..., Any]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        out = function(self, *args, **options)
        return self if out is self else become(self, out)

    method.__doc__ = f"In place: {function.__doc__}"
    return method


def _send_in_place(self: Tensor, *workers: VirtualWorker, **options: Any) -> Tensor:
    """In place: give a worker the tensor; the tensor becomes the pointer."""
    out: Tensor = _send(self, *workers, inplace=True, **options)
    return out


def _set_id(self: Tensor, value: Any) -> None:
    notes.note_of(self).id = value


def _set_tags(self: Tensor, tags: Any) -> None:
    notes.note_of(self).tags = tuple(tags)


def _location(self: Tensor) -> VirtualWorker:
    raise AttributeError("only a pointer has a location; this tensor is here, or shared between workers")


TENSOR: dict[str, Any] = {
    "fix_precision": _fix_precision,
    "fix_prec": _fix_precision,
    "fix_precision_": _in_place(_fix_precision),
    "fix_prec_": _in_place(_fix_precision),
    "float_precision": _float_precision,
    "float_prec": _float_precision,
    "float_precision_": _in_place(_float_precision),
    "float_prec_": _in_place(_float_precision),
    "share": _share,
    "share_": _in_place(_share),
    "get": _get,
    "get_": _in_place(_get),
    "encrypt": _encrypt,
    "decrypt": _decrypt,
    "send": _send,
    "send_": _send_in_place,
    "move": _move,
    "move_": _in_place(_move),
    "copy": _copy,
    "refresh": lambda self: sharing.refresh(self),
    "reconstruct": lambda self: sharing.reconstruct(self),
    "tag": lambda self, *tags: notes.tag(self, *tags),
    "describe": lambda self, description: notes.describe(self, description),
    "id": property(lambda self: notes.note_of(self).id, _set_id, doc="The id of the tensor."),
    "tags": property(lambda self: set(notes.note_of(self).tags), _set_tags, doc="The tags of the tensor."),
    "description": property(lambda self: notes.note_of(self).description, doc="The description of the tensor."),
    "owner": property(lambda self: registry.me(), doc="The worker of the program that holds the tensor or pointer."),
    "location": property(_location, doc="Where the object of a pointer lies."),
    "is_wrapper": property(
        lambda self: type(self) not in (Tensor, nn.Parameter) and not isinstance(self, nn.Parameter),
        doc="Whether the numbers are somewhere else, or in another form, than torch would hold them.",
    ),
}

# --- modules ---------------------------------------------------------------------------------------------------------


def _fix_module(self: nn.Module, *_: Any, no_wrap: bool = False, **options: Any) -> nn.Module:
    """Give the model a fixed precision, in place."""
    return modules.fix_precision(self, precision.number_format(**options))


def _share_module(self: nn.Module, *owners: VirtualWorker, no_wrap: bool = False, **options: Any) -> nn.Module:
    """Share the model between workers, in place."""
    return modules.share(self, *owners, **options)


def _encrypt_module(
    self: nn.Module,
    protocol: str = "mpc",
    inplace: bool = True,
    *,
    workers: Any = (),
    crypto_provider: VirtualWorker | None = None,
    requires_grad: bool = False,
    no_wrap: bool = False,
    **options: Any,
) -> nn.Module:
    """``fix_precision`` and ``share`` in one, in place."""
    sharing.check_arguments(workers, crypto_provider, protocol, None, None)
    modules.fix_precision(self, precision.number_format(**options))
    return modules.share(
        self, *workers, protocol=protocol, crypto_provider=crypto_provider, requires_grad=requires_grad
    )


def _send_module(self: nn.Module, *workers: VirtualWorker, force_send: bool = False, **options: Any) -> nn.Module:
    """Send the model to a worker, in place."""
    return modules.send(self, *workers, **options)


def _get_module(self: nn.Module) -> nn.Module:
    """Reveal or fetch the model, in place."""
    return modules.get(self)


def _float_module(self: nn.Module) -> nn.Module:
    """Turn fixed precision into floats, in place."""
    return modules.float_precision(self)


MODULE: dict[str, Any] = {
    "fix_precision": _fix_module,
    "fix_precision_": _fix_module,
    "fix_prec": _fix_module,
    "fix_prec_": _fix_module,
    "float_precision": _float_module,
    "float_precision_": _float_module,
    "float_prec": _float_module,
    "float_prec_": _float_module,
    "share": _share_module,
    "share_": _share_module,
    "get": _get_module,
    "get_": _get_module,
    "encrypt": _encrypt_module,
    "decrypt": lambda self, inplace=True: modules.decrypt(self),
    "send": _send_module,
    "send_": _send_module,
    "move": lambda self, worker: modules.move(self, worker),
    "copy": lambda self: modules.copy(self),
    "owner": property(lambda self: registry.me()),
    "location": property(lambda self: modules.location(self)),
}

# --- optimizers ------------------------------------------------------------------------------------------------------


def _as_it_is(self: torch.optim.Optimizer, *_: Any, **_options: Any) -> torch.optim.Optimizer:
    """The optimizer itself: its learning rate and other numbers are public and used exactly, at any precision."""
    return self


OPTIMIZER: dict[str, Any] = {
    name: _as_it_is
    for name in ("fix_precision", "fix_precision_", "fix_prec", "fix_prec_", "float_precision", "float_precision_")
} | {"float_prec": _as_it_is, "float_prec_": _as_it_is}

# --- attaching -------------------------------------------------------------------------------------------------------


class _Yielding:
    """A method of modules that gives way to a submodule, parameter or buffer of the same name."""

    def __init__(self, name: str, attribute: Any) -> None:
        self._name = name
        self._attribute = attribute

    def __get__(self, module: nn.Module | None, owner: type) -> Any:
        if module is not None:
            for table in (module._modules, module._parameters, module._buffers):
                if self._name in table:
                    return table[self._name]
        return self._attribute.__get__(module, owner)


def attach() -> list[tuple[type, str, Any]]:
    """Add what is missing; (class, name, attribute) of everything that was added."""
    added: list[tuple[type, str, Any]] = []
    tables: tuple[tuple[type, dict[str, Any]], ...] = (
        (Tensor, TENSOR),
        (nn.Module, MODULE),
        (torch.optim.Optimizer, OPTIMIZER),
    )
    for cls, table in tables:
        for name, attribute in table.items():
            if not hasattr(cls, name):
                entry = _Yielding(name, attribute) if cls is nn.Module else attribute
                setattr(cls, name, entry)
                added.append((cls, name, entry))
    return added


def detach(added: list[tuple[type, str, Any]]) -> None:
    """Remove what ``attach`` added, unless somebody has replaced it since."""
    for cls, name, attribute in added:
        if cls.__dict__.get(name) is attribute:
            delattr(cls, name)
