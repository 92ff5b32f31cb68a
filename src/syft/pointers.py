"""Pointers: tensors that lie at a worker. What is done to a pointer happens there; the result is a pointer again.

A ``PointerTensor`` is a tensor for torch (shape and dtype, no numbers), and operations on it are executed by the
worker that holds the object, if they are on the list of what workers execute. torch's autograd works above it, so
models and optimizers work on pointers unchanged. All operands must lie at one worker. Deleting the last pointer deletes
the object.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from syft import notes
from syft.exceptions import CommandNotAllowedException, TensorsNotCollocatedException
from syft.printing import pointer_line, remarks
from syft.registry import registry
from torchveil import EncryptedTensor

if TYPE_CHECKING:
    from syft.workers import VirtualWorker

#: What a worker executes for others: the names of aten ops, without overload; in-place forms included.
ALLOWED = frozenset(
    """
    add sub rsub mul div neg abs pow square sqrt rsqrt exp log log1p reciprocal sign clamp clamp_min maximum minimum
    mm bmm addmm addmv mv dot matmul linear addcmul addcdiv lerp
    sum mean var std max min amax amin argmax argmin prod cumsum norm any all sort topk
    eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_or bitwise_xor bitwise_not
    where masked_fill
    relu sigmoid tanh gelu leaky_relu elu softplus _softmax _log_softmax dropout native_dropout
    threshold_backward sigmoid_backward tanh_backward gelu_backward leaky_relu_backward elu_backward softplus_backward
    _softmax_backward_data _log_softmax_backward_data native_dropout_backward
    mse_loss mse_loss_backward nll_loss nll_loss_forward nll_loss_backward binary_cross_entropy
    binary_cross_entropy_backward binary_cross_entropy_with_logits
    convolution convolution_backward max_pool2d_with_indices max_pool2d_with_indices_backward avg_pool2d
    avg_pool2d_backward _adaptive_avg_pool2d _adaptive_avg_pool2d_backward native_batch_norm native_batch_norm_backward
    _native_batch_norm_legit native_layer_norm native_layer_norm_backward embedding embedding_dense_backward
    t transpose permute view _unsafe_view reshape _reshape_alias alias detach expand squeeze unsqueeze slice select
    slice_backward select_backward index index_select gather scatter scatter_add cat stack split split_with_sizes
    unbind chunk flip roll repeat constant_pad_nd as_strided diagonal unfold tril triu
    clone copy zero fill zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_empty_strided
    new_full _to_copy contiguous one_hot
    """.split()  # noqa: SIM905  (a list of 130 quoted words reads worse)
)


class Reference:
    """The owner of one object at a worker: deletes it there when the last pointer is gone, unless ``keep``."""

    __slots__ = ("identifier", "keep", "worker")

    def __init__(self, worker: VirtualWorker, identifier: Hashable, keep: bool) -> None:
        self.worker = worker
        self.identifier = identifier
        self.keep = keep

    def value(self) -> Tensor:
        """The object, or ``ObjectNotFoundError``."""
        return self.worker.get_obj(self.identifier)

    def __del__(self) -> None:
        if not self.keep:
            self.worker.object_store.rm_obj(self.identifier)


class PointerTensor(torch.Tensor):
    """A tensor that lies at ``location`` under ``id_at_location``."""

    reference: Reference

    @staticmethod
    def __new__(cls, reference: Reference) -> PointerTensor:
        target = reference.value()
        out = torch.Tensor._make_wrapper_subclass(cls, target.shape, strides=target.stride(), dtype=target.dtype)
        out.reference = reference
        return out

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Everything happens in ``__new__``."""

    @property
    def location(self) -> VirtualWorker:
        """The worker that holds the object."""
        return self.reference.worker

    @property
    def id_at_location(self) -> Hashable:
        """The id of the object there."""
        return self.reference.identifier

    @property
    def garbage_collect_data(self) -> bool:
        """Whether the object goes when the last pointer does."""
        return not self.reference.keep

    @garbage_collect_data.setter
    def garbage_collect_data(self, value: bool) -> None:
        self.reference.keep = not value

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        start = "Parameter containing:\nParameter>" if isinstance(self, nn.Parameter) else "(Wrapper)>"
        line = pointer_line(notes.note_of(self).id, self.location.id, self.id_at_location)
        return f"{start}{line}{remarks(self)}"

    def __format__(self, spec: str) -> str:
        if spec:
            _refuse_item()
        return repr(self)

    def item(self) -> Any:
        _refuse_item()

    def tolist(self) -> Any:
        _refuse_item()

    def numpy(self, *_args: Any, **_kwargs: Any) -> Any:
        _refuse_item()

    def __array__(self, *_args: Any, **_kwargs: Any) -> Any:
        _refuse_item()

    def __bool__(self) -> bool:
        _refuse_item()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy: Tensor = self.detach().clone()
        if isinstance(self, nn.Parameter):
            copy = nn.Parameter(copy, requires_grad=self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError("a pointer cannot be pickled or saved; use .get() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        worker = common_location(func, tree_leaves((args, kwargs)))
        name = func._schema.name.split("::")[1]
        if name == "_local_scalar_dense":
            _refuse_item()
        if name not in ALLOWED and name.removesuffix("_") not in ALLOWED:
            raise CommandNotAllowedException(f"workers do not execute {func} for others; use .get() and do it here")

        def remote(x: Any) -> Any:
            return x.reference.value() if isinstance(x, PointerTensor) else x

        result = func(*tree_map(remote, args), **tree_map(remote, kwargs))

        def local(x: Any) -> Any:
            return store_at(worker, x) if isinstance(x, Tensor) else x

        return return_and_correct_aliasing(func, args, kwargs, tree_map(local, result))


def _refuse_item() -> NoReturn:
    raise RuntimeError(
        'Error, Please consider calling ".get" method instead of ".item" method, so you can be safely getting the item '
        "you need."
    )


def common_location(func: object, operands: list[Any]) -> VirtualWorker:
    """The one worker where all operands lie, or ``TensorsNotCollocatedException``. A plain 0-d tensor is a number."""
    workers: list[VirtualWorker] = []
    for x in operands:
        if isinstance(x, PointerTensor):
            if x.location not in workers:
                workers.append(x.location)
        elif isinstance(x, Tensor) and (x.dim() > 0 or isinstance(x, EncryptedTensor)):
            where = "shared between workers" if isinstance(x, EncryptedTensor) else "here, at the local worker"
            raise TensorsNotCollocatedException(
                f"You tried to call a method involving two tensors ({func}) where one is a pointer and the other lies "
                f"{where}. Send both to the same worker first: x.send(worker), or fetch the pointer: ptr.get()."
            )
    if len(workers) > 1:
        ids = " and ".join(str(worker.id) for worker in workers)
        raise TensorsNotCollocatedException(
            f"You tried to call a method involving two tensors ({func}) where the tensors are not located on the same "
            f"machine: they lie at {ids}. Use .move(worker) to bring them together, then call it again."
        )
    return workers[0]


def store_at(
    worker: VirtualWorker, x: Tensor, identifier: Hashable | None = None, *, keep: bool = False
) -> PointerTensor:
    """Let a worker hold ``x``, under a fresh id unless a free one is given; the pointer to it."""
    held = worker.object_store.tensors()
    while identifier is None or identifier in held:
        identifier = registry.ids.draw()
    worker.object_store.set_obj(identifier, x)
    return point_to(worker, identifier, keep=keep)


def point_to(worker: VirtualWorker, identifier: Hashable, *, keep: bool = False) -> PointerTensor:
    """A pointer to an object that a worker holds."""
    pointer = PointerTensor(Reference(worker, identifier, keep))
    notes.carry(pointer.reference.value(), pointer)
    return pointer


def send(
    x: Tensor, *workers: VirtualWorker, requires_grad: bool | None = None, garbage_collect_data: bool = True
) -> PointerTensor | MultiPointerTensor:
    """Give each worker a copy of a plain tensor; one pointer, or a ``MultiPointerTensor`` for several workers.

    The pointer requires gradients where the tensor did, unless told otherwise. Raises ``TypeError`` for pointers and
    shared tensors.
    """
    if isinstance(x, (PointerTensor, EncryptedTensor)):
        raise TypeError(
            "only a tensor that is here can be sent: use .move(worker) for a pointer; the shares of a secret stay with "
            "their workers"
        )
    if not workers:
        raise TypeError("send() needs a worker to send to")
    trainable = x.requires_grad if requires_grad is None else requires_grad
    known = notes.note_of(x)
    pointers: list[PointerTensor] = []
    for name in workers:
        worker = registry.me().get_worker(name, fail_hard=True)
        copy = x.detach().clone()
        notes.carry(x, copy)
        pointer = store_at(worker, copy, known.id, keep=not garbage_collect_data)
        notes.carry(x, pointer)
        if trainable and x.is_floating_point():
            pointer.requires_grad_()
        pointers.append(pointer)
    return pointers[0] if len(pointers) == 1 else MultiPointerTensor(pointers)


def get(pointer: PointerTensor, *, deregister_ptr: bool = True) -> Tensor:
    """Fetch the object, and its gradient; it is deleted at the worker (``pointer.copy().get()`` keeps it there)."""
    out = pointer.reference.value().detach()
    if deregister_ptr:
        pointer.location.object_store.rm_obj(pointer.id_at_location)
    else:
        out = out.clone()
    notes.carry(pointer, out)
    if pointer.requires_grad and pointer.is_leaf:
        out.requires_grad_()
        if isinstance(pointer.grad, PointerTensor):
            out.grad = get(pointer.grad, deregister_ptr=deregister_ptr)
    return out


def move(pointer: PointerTensor, worker: VirtualWorker) -> Tensor:
    """The object at another worker: a new pointer. The local worker means ``get``; the same worker changes nothing."""
    destination = registry.me().get_worker(worker, fail_hard=True)
    if destination == pointer.location:
        return pointer
    if destination == registry.me():
        return get(pointer)
    copy = pointer.reference.value().detach().clone()
    notes.carry(pointer, copy)
    moved = store_at(destination, copy)
    return moved.requires_grad_() if pointer.requires_grad and pointer.is_leaf else moved


def apply_at(pointer: PointerTensor, function: Callable[[Tensor], Tensor]) -> PointerTensor:
    """Let the worker apply a function of this package (``fix_precision``, ``share``) to its object."""
    return store_at(pointer.location, function(pointer.reference.value()))


class MultiPointerTensor:
    """One tensor at several workers: what ``send`` to several gives, and ``reconstruct``."""

    def __init__(self, pointers: list[PointerTensor]) -> None:
        self.pointers = list(pointers)

    def get(self, sum_results: bool = False) -> list[Tensor] | Tensor:
        """The values, in the order of the workers, or their sum."""
        values = [get(pointer) for pointer in self.pointers]
        if not sum_results:
            return values
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    @property
    def location(self) -> list[VirtualWorker]:
        """Where the copies lie."""
        return [pointer.location for pointer in self.pointers]

    @property
    def shape(self) -> torch.Size:
        return self.pointers[0].shape

    def __iter__(self) -> Iterator[PointerTensor]:
        return iter(self.pointers)

    def __len__(self) -> int:
        return len(self.pointers)

    def __repr__(self) -> str:
        lines = [f"\n\t-> {repr(pointer).removeprefix('(Wrapper)>')}" for pointer in self.pointers]
        return "(Wrapper)>[MultiPointerTensor]" + "".join(lines)


def combine_pointers(*pointers: PointerTensor) -> MultiPointerTensor:
    """Pointers at different workers as one ``MultiPointerTensor``. Raises ``ValueError`` for two at one worker."""
    workers = [pointer.location for pointer in pointers]
    if len(set(workers)) != len(workers):
        raise ValueError("two of the pointers lie at the same worker")
    return MultiPointerTensor(list(pointers))
