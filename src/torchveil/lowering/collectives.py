"""``torch.distributed`` on secrets: collectives between the ranks of a program, as a training on several machines uses.

    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()

Each party combines the shares of its own ranks (``drivers.ranks``): nothing crosses between parties, nothing is opened.
Extremes and products of all ranks are gates on the stacked values, of every rank. A collective is finished, as far as
this program can tell, when the call returns; the ``Work`` of ``async_op=True`` is done.

Only the default process group is known to the roles, so a collective of a part of the ranks is refused, as is what is
not here: messages between two ranks, and collectives whose results differ between ranks. ``DistributedDataParallel``
copies gradients into plain buffers, so it is refused when it is given a module with secrets; average as above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

from torchveil.errors import InvalidArgument, ShapeMismatch, UnsupportedOperation, WouldBePublished
from torchveil.functions.arithmetic import as_number, narrow, secret
from torchveil.handle import Bit
from torchveil.lowering.table import composes

#: Where torch keeps its collectives.
NAMESPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd")

_REMEDY = "call init_process_group before the session is opened, and use the default group"


def none_called(func: Any) -> UnsupportedOperation:
    """The refusal of a collective that is not here."""
    return UnsupportedOperation(
        f"no {'functional ' if 'functional' in func.namespace else ''}collective {func._opname.strip('_')} of secrets",
        op=str(func),
        remedy="use one of torch.distributed's all_reduce, reduce, broadcast, all_gather and all_gather_into_tensor",
    )


def _refuse_wrapping(module: nn.Module, _name: str, inner: nn.Module | None) -> None:
    """A hook of torch's, called when a module becomes part of another one."""
    if isinstance(module, DistributedDataParallel) and any(hasattr(x, "handle") for x in _tensors(inner)):
        raise UnsupportedOperation(
            "DistributedDataParallel copies gradients into plain buffers, which a secret is never written into",
            op="DistributedDataParallel",
            remedy="use the encrypted module as it is, and average gradients after backward(): "
            "dist.all_reduce(p.grad, op=dist.ReduceOp.AVG) for every parameter p",
        )


def _tensors(module: nn.Module | None) -> Iterator[Tensor]:
    if module is not None:
        yield from module.parameters()
        yield from module.buffers()


def _made(x: Any, how: str, operation: str, root: int = 0) -> Tensor:
    """What all ranks make of x, as a tensor of its own."""
    if not hasattr(x, "handle"):
        raise WouldBePublished(
            f"a plain tensor of shape {tuple(x.shape)} would be combined with secrets of other ranks",
            op=operation,
            remedy="share it first",
        )
    if isinstance(x.handle, Bit):
        raise UnsupportedOperation("bits of several ranks", op=operation, remedy="make numbers of them: x.float()")
    if _ranks(x) == 1:
        return x.unsqueeze(0).clone() if how == "stack" else x.clone()  # type: ignore[no-any-return]
    number = secret(x.handle)
    if how == "mean":
        number = secret(as_number(number))
        if number.scale not in (number.format.scale, number.format.scale**2):
            number = narrow(number)  # else the scale would grow with every mean of a mean
    if how == "broadcast" and number.pending and not (number.wide or number.stretched):
        number = narrow(number)  # the others' values need not have come about as this one did
    handle = x.session.collect(number, how, root, operation)
    out: Any = x.new_zeros(handle.shape)
    out.assign(handle)
    return out  # type: ignore[no-any-return]


def _require_output(target: Any, numel: int, shape: tuple[int, ...], operation: str) -> None:
    """Raise unless an output is secret and has room; before anything is sent, on every rank alike."""
    if not hasattr(target, "handle"):
        raise WouldBePublished(
            "secrets of all ranks would be written into a plain tensor",
            op=operation,
            remedy="make the outputs of secrets: [torch.zeros_like(x) for _ in range(world_size)]",
        )
    if target.numel() != numel:
        raise ShapeMismatch(
            f"an output of shape {tuple(target.shape)} for {numel} elements of values of shape {shape}",
            op=operation,
            remedy="give outputs of the shape of the input",
        )


def _write(target: Tensor, value: Tensor) -> None:
    target.copy_(value.reshape(target.shape))


def _ranks(x: Any) -> int:
    return int(x.session.ranks)


def _mean(x: Any, operation: str) -> Tensor:
    if not x.is_floating_point():
        raise UnsupportedOperation(
            "a mean of whole numbers of several ranks", op=operation, remedy="make fractions of them: x.float()"
        )
    handle = secret(as_number(x.handle))
    if handle.wide:  # it has no room for the number of ranks
        total = _made(x, "sum", operation)
        return total / _ranks(x)
    return _made(x, "mean", operation)


#: How to reduce, by the name of torch's ReduceOp.
_REDUCERS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "SUM": lambda x, op: _made(x, "sum", op),
    "AVG": _mean,
    "MAX": lambda x, op: _made(x, "stack", op).amax(0),
    "MIN": lambda x, op: _made(x, "stack", op).amin(0),
    "PRODUCT": lambda x, op: _made(x, "stack", op).prod(0),
}


def _reduced(x: Tensor, name: str, operation: str) -> Tensor:
    reduce = _REDUCERS.get(name.upper())
    if reduce is None:
        raise UnsupportedOperation(
            f"no reduction {name.lower()} of secrets", op=operation, remedy=f"use one of {', '.join(_REDUCERS)}"
        )
    return reduce(x, operation)


def _require_group(x: Any, group: Any, operation: str) -> None:
    """Raise unless the process group is that of the session: all ranks."""
    size, ranks = group.size(), getattr(getattr(x, "session", None), "ranks", 1)
    if size != ranks or size != dist.get_world_size():
        raise InvalidArgument(
            f"a group of {size} of {dist.get_world_size()} rank(s), where the session has {ranks}",
            op=operation,
            remedy=_REMEDY,
        )


def _group(boxed: Any) -> Any:
    return dist.ProcessGroup.unbox(boxed)


def _done() -> Any:
    """A ``Work`` that is finished, as the ops of c10d give it back."""
    from torch._C._distributed_c10d import PythonCallbackWork, Work

    return Work.boxed(PythonCallbackWork(lambda _timeout: True))


def _name(boxed: Any) -> str:
    """SUM, AVG, ... of a ReduceOp in its box."""
    return str(dist.ReduceOp.RedOpType(boxed.op()).name)


if dist.is_available():
    register_module_module_registration_hook(_refuse_wrapping)

    c10d = torch.ops.c10d

    @composes(c10d.allreduce_.default)
    def _all_reduce(
        tensors: Sequence[Tensor], group: Any, op: Any, sparse: Any = None, _async: bool = True, _timeout: int = -1
    ) -> Any:
        for x in tensors:
            _require_group(x, _group(group), "all_reduce")
            _write(x, _reduced(x, _name(op), "all_reduce"))
        return list(tensors), _done()

    @composes(c10d.reduce_.default)
    def _reduce(tensors: Sequence[Tensor], group: Any, op: Any, root: int, _tensor: int = 0, *_how: Any) -> Any:
        """Parties cannot combine shares for one rank alone without the others' help; the others drop the result."""
        for x in tensors:
            _require_group(x, _group(group), "reduce")
            made = _reduced(x, _name(op), "reduce")
            if dist.get_rank() == root:
                _write(x, made)
        return _done()

    @composes(c10d.broadcast_.default)
    def _broadcast(
        tensors: Sequence[Tensor], group: Any, root: int, _tensor: int = 0, _async: bool = True, _timeout: int = -1
    ) -> Any:
        for x in tensors:
            _require_group(x, _group(group), "broadcast")
            _write(x, _made(x, "broadcast", "broadcast", root))
        return list(tensors), _done()

    @composes(c10d.allgather_.default)
    def _all_gather(
        outputs: Sequence[Sequence[Tensor]],
        inputs: Sequence[Tensor],
        group: Any,
        _async: bool = True,
        _timeout: int = -1,
    ) -> Any:
        for row, x in zip(outputs, inputs, strict=True):
            _require_group(x, _group(group), "all_gather")
            if len(row) != dist.get_world_size():
                raise InvalidArgument(
                    f"{len(row)} outputs for the values of {dist.get_world_size()} ranks",
                    op="all_gather",
                    remedy="make one for each: [torch.zeros_like(x) for _ in range(world_size)]",
                )
            for out in row:
                _require_output(out, x.numel(), tuple(x.shape), "all_gather")
            for out, value in zip(row, _made(x, "stack", "all_gather").unbind(), strict=True):
                _write(out, value)
        return [list(row) for row in outputs], _done()

    @composes(c10d._allgather_base_.default)
    def _all_gather_into(output: Tensor, x: Tensor, group: Any, _async: bool = True, _timeout: int = -1) -> Any:
        _require_group(x, _group(group), "all_gather_into_tensor")
        _require_output(output, dist.get_world_size() * x.numel(), tuple(x.shape), "all_gather_into_tensor")
        _write(output, _made(x, "stack", "all_gather_into_tensor"))
        return output, _done()
