"""EncryptedTensor: what torch sees of a secret. A wrapper subclass below torch's autograd engine.

Theory of operation. torch keeps a facade (shape, strides, dtype, no storage); behind it a ``Cell`` holds the current
handle. Views share their base's cell and carry the path of maps that leads to them, so a write through a view gives the
base, and every other view of it, a new value. Handles are immutable, cells may share them: ``clone`` costs nothing.
Caches (openings, signs, probabilities) live on handles, never on tensors, because torch replaces tensor objects when it
saves them for backward.

``__torch_dispatch__`` looks the aten op up in ``lowering.table``; an op without an entry raises
``UnsupportedOperation``. Plain tensors may not meet a secret unless declared public, and a secret is never written into
a plain tensor.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves

from torchveil.composites import COMPOSITES, attention
from torchveil.engine import Engine, reading_refused
from torchveil.errors import (
    InvalidArgument,
    PlainWrite,
    SessionStateError,
    UnsupportedOperation,
    WouldBePublished,
)
from torchveil.fixedpoint import FixedPoint
from torchveil.functions import structure
from torchveil.handle import (
    Bit,
    Deferred,
    Excluding,
    ExcludingAbove,
    Handle,
    Public,
    Secret,
    facade_dtype,
    facade_strides,
)
from torchveil.kernels.linear_maps import LinearMap
from torchveil.lowering import COMPOSED, TABLE, Kind, Rule, Updated, collectives
from torchveil.public import TAKE_NUMBERS, PublicTensor, counts_up
from torchveil.recording import ACTIVE

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


#: torch's own descriptor of ``.grad``.
_GRAD: Any = torch.Tensor.grad

#: Whoever asks this tensor's storage for memory in C++ gets an error of torch's, and no null pointer to follow.
_NO_MEMORY: Any = torch._C._set_throw_on_mutable_data_ptr


class Cell:
    """The storage of a secret tensor: its current handle, and how often it was replaced."""

    __slots__ = ("generation", "handle")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.generation = 0
        recorder = ACTIVE.recorder
        if recorder is not None:
            recorder.made(self)

    def replace(self, handle: Handle) -> None:
        """A new value; views of this storage follow when they are read."""
        self.handle = handle
        self.generation += 1


class EncryptedTensor(torch.Tensor):
    """A tensor that nobody can read. Use it wherever torch expects a float tensor; ``reveal()`` opens it."""

    _cell: Cell
    _path: tuple[LinearMap, ...]
    _cached: Handle
    _generation: int

    @staticmethod
    def __new__(
        cls, cell: Cell, path: tuple[LinearMap, ...], handle: Handle, dtype: torch.dtype | None = None
    ) -> EncryptedTensor:
        out: EncryptedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            handle.shape,
            strides=facade_strides(handle),
            dtype=dtype or facade_dtype(handle),
            device=torch.device("cpu"),
        )
        _NO_MEMORY(out)
        out._cell = cell
        out._path = path
        if path:
            # a tensor without a path has nothing of its own: it must not keep an old value alive
            out._cached = handle
            out._generation = cell.generation
        return out

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        """Everything happens in ``__new__``."""

    @property
    def handle(self) -> Handle:
        """The current handle: the cell's, taken along this view's path when the base was written to."""
        cell = self._cell
        recorder = ACTIVE.recorder
        if recorder is not None:
            recorder.read(self)
        if not self._path:
            return cell.handle
        if self._generation != cell.generation:
            handle = cell.handle
            for step in self._path:
                handle = structure.apply_map(handle, step)
            self._cached = handle
            self._generation = cell.generation
        return self._cached

    @property
    def session(self) -> Engine:
        """The session that holds the shares."""
        return self._cell.handle.session

    @property
    def fixed_point(self) -> FixedPoint:
        """The number format of the value; 0 digits for whole numbers and bits. Evaluates a deferred value."""
        handle = self.handle
        handle = handle.force() if isinstance(handle, Deferred) else handle
        if isinstance(handle, Secret):
            return handle.format
        return self.session.fixed_point if isinstance(handle, Public) else FixedPoint(2, 0)

    def reveal(self, to: str = "controller", dtype: torch.dtype | None = None) -> Tensor:
        """The clear value, sent to ``to`` and counted by the session: 1 round, 8 bytes per element and party.

        float32 for numbers (``dtype=torch.float64`` for all digits), int64 for indices, bool for bits.
        """
        clear = self.session.reveal(self.handle, to)
        return clear.to(dtype or self.dtype)

    def assign(self, handle: Handle) -> None:
        """Give this tensor (and its base and all views) a new value."""
        cell = self._cell
        recorder = ACTIVE.recorder
        if recorder is not None:
            recorder.read(self)
        if handle.shape != tuple(self.shape):
            from torchveil.functions.arithmetic import expand_to

            handle = expand_to(handle, tuple(self.shape))
        if not self._path:
            cell.replace(handle)
            return
        cell.replace(structure.write(cell.handle, handle, self._path))
        self._cached = handle
        self._generation = cell.generation

    # --- what would read a secret --------------------------------------------------------------------------------

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        surface = self.session.surface
        if surface is not None:
            return surface.show(self)
        names = ", ".join(self.session.parties)
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"EncryptedTensor(shape={tuple(self.shape)}, dtype={self.dtype}, parties=[{names}]{grad})"

    def __format__(self, spec: str) -> str:
        if spec:
            self.session.refuse_reading("format")
        return repr(self)

    # What follows a refusal is reached in a session without values alone: ``checking.shadow`` notes it and goes on.

    def __bool__(self) -> bool:
        handle = self.handle
        if isinstance(handle, Public):
            # torch asks whether a square is negative: everybody knows
            return bool(handle.dense())
        surface = self.session.surface
        self.session.refuse_reading("bool()", "" if surface is None else surface.boolean_text)
        return False

    def __float__(self) -> float:
        self.session.refuse_reading("float()")
        return 0.0

    def __int__(self) -> int:
        self.session.refuse_reading("int()")
        return 0

    def __index__(self) -> int:
        self.session.refuse_reading("as an index")
        return 0

    def __contains__(self, _item: Any) -> bool:
        self.session.refuse_reading("in")
        return False

    def item(self) -> Any:
        self.session.refuse_reading(".item()")
        return _zeros(self).sum().item()

    def tolist(self) -> Any:
        self.session.refuse_reading(".tolist()")
        return _zeros(self).tolist()

    def numpy(self, *_args: Any, **_kwargs: Any) -> Any:
        self.session.refuse_reading(".numpy()")
        return _zeros(self).numpy()

    def __array__(self, *_args: Any, **_kwargs: Any) -> Any:
        self.session.refuse_reading("numpy conversion")
        return _zeros(self).numpy()

    def __dlpack__(self, *_args: Any, **_kwargs: Any) -> Any:
        self.session.refuse_reading("DLPack")
        return _zeros(self).__dlpack__()

    def __dlpack_device__(self) -> Any:
        self.session.refuse_reading("DLPack")
        return _zeros(self).__dlpack_device__()

    def share_memory_(self) -> Any:
        raise SessionStateError(
            "a secret cannot be moved to shared memory", remedy="use DataLoader(num_workers=0) and one process"
        )

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise SessionStateError(
            "a secret tensor cannot be pickled or saved: this process holds no clear value",
            remedy="keep its shares: session.save(path, x); or reveal it first: torch.save(x.reveal())",
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A tensor of its own with the same value and gradient; the shares are not copied, handles are immutable."""
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise InvalidArgument(
                "only leaves can be copied with their gradients", op="deepcopy", remedy="use x.detach().clone()"
            )
        out: Tensor = wrap(self.handle, self.dtype)
        if isinstance(self, torch.nn.Parameter):
            out = torch.nn.Parameter(out, requires_grad=self.requires_grad)
        else:
            out.requires_grad_(self.requires_grad)
        memo[id(self)] = out
        if self.grad is not None:
            out.grad = copy.deepcopy(self.grad, memo)
        return out

    @property
    def data(self) -> Tensor:
        """An alias without gradient, as in torch."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        if isinstance(value, EncryptedTensor) and value._cell is self._cell and value._path == self._path:
            return  # the end of x.data += y: it was written where it is
        raise InvalidArgument(
            "assigning .data would change what torch sees and not the secret",
            op=".data = ...",
            remedy="use torch.no_grad() and x.copy_(value)",
        )

    @property
    def grad(self) -> Tensor | None:
        """The gradient, as in torch."""
        found: Tensor | None = _GRAD.__get__(self)
        return found

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        recorder = ACTIVE.recorder
        if recorder is not None:
            recorder.gradient_set(self)
        _GRAD.__set__(self, value)

    # --- the way down ----------------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Above autograd: a few composite functions are arranged otherwise; torch takes the rest apart itself."""
        with torch._C.DisableTorchFunctionSubclass():
            return COMPOSITES.get(func, func)(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        rule = TABLE.get(func)
        if rule is None:
            return _without_rule(func, args, kwargs or {})
        if rule.kind is Kind.VIEW:
            return _view(func, rule, args, kwargs or {})
        if rule.kind is Kind.RESHAPE:
            return _reshape_in_place(func, rule, args, kwargs or {})
        return _run(func, rule, args, kwargs or {})


def _zeros(like: Tensor) -> Tensor:
    """A plain tensor without anything of ``like`` but shape and dtype."""
    return torch.zeros(tuple(like.shape), dtype=like.dtype)


def wrap(handle: Handle, dtype: torch.dtype | None = None) -> EncryptedTensor:
    """A new tensor (a new cell) for a handle."""
    return EncryptedTensor(Cell(handle), (), handle, dtype)


def _wrap_result(out: Any) -> Any:
    if isinstance(out, (Secret, Bit, Deferred, Public)):
        return wrap(out)
    if isinstance(out, tuple):
        return tuple(_wrap_result(x) for x in out)
    if isinstance(out, list):
        return [_wrap_result(x) for x in out]
    return out


class _Unwrap:
    """Tensors to handles, noting the session and whether something is deferred; plain tensors by the op's policy."""

    __slots__ = ("args", "deferred", "func", "rule", "session")

    def __init__(self, func: Any, rule: Rule, args: Any) -> None:
        self.args = args
        self.func = func
        self.rule = rule
        self.session: Engine | None = None
        self.deferred = False

    def all(self, args: Any) -> list[Any]:
        return [self.one(x) for x in args]

    def one(self, x: Any) -> Any:
        if isinstance(x, EncryptedTensor):
            handle = x.handle
            if self.session is None:
                self.session = handle.session
                self.session.operation = str(self.func)
            elif handle.session is not self.session:
                self.session.own(handle)
            if isinstance(handle, Deferred) and not isinstance(handle, (Excluding, ExcludingAbove)):
                self.deferred = True
            return handle
        if isinstance(x, Tensor):
            return self.plain(x)
        if isinstance(x, (list, tuple)):
            return type(x)(self.one(y) for y in x) if isinstance(x, tuple) else [self.one(y) for y in x]
        return x

    def plain(self, x: Tensor) -> Any:
        like = next(y for y in tree_leaves(self.args) if isinstance(y, EncryptedTensor))
        declared = isinstance(x, PublicTensor)
        x = x.plain if isinstance(x, PublicTensor) else x
        if (self.rule.indices and x.dtype not in _FLOATS) or (self.rule.masks and x.dtype is torch.bool):
            # a copy: what is evaluated later must not see the program reuse its buffer
            return x.clone()
        surface = like.session.surface
        if declared or _from_torch(self.func, x, surface is not None):
            return Public(like.session, tuple(x.shape), tensor=x.clone())
        if surface is not None:
            return self.one(surface.adopt(x, like))
        raise WouldBePublished(
            f"a plain tensor of shape {tuple(x.shape)} meets a secret: every party would learn it",
            op=str(self.func),
            remedy="wrap it in torchveil.public(...) if it may be known, or share it with session.share(...)",
        )


_aten = torch.ops.aten
#: Ops whose plain floats are public random numbers, as the mask of a dropout is: torch draws them from the shapes.
_TAKE_SAMPLES = (_aten.fractional_max_pool2d.default, _aten.fractional_max_pool3d.default)
#: Derivatives in which torch makes plain tensors from shapes alone: the points of a grid.
_DERIVED = ("AffineGridGeneratorBackward0",)
#: Derivatives in which torch makes plain zeros, and the operation that takes them: grad.index_put(places, zeros).
_ZEROS = {
    "BatchNormWithUpdateBackward0": _aten.batch_norm_backward.default,
    "CummaxBackward0": _aten.scatter_add.default,
    "CumminBackward0": _aten.scatter_add.default,
    "CumprodBackward0": _aten.where.self,
    "DiagonalScatterBackward0": _aten.copy_.default,
    "IndexPutBackward0": _aten.index_put.default,
    "PutBackward0": _aten.index_put.default,
    "SelectScatterBackward0": _aten.copy_.default,
    "SliceScatterBackward0": _aten.copy_.default,
    "TraceBackward0": _aten.masked_fill.Tensor,
}
#: Derivatives in which torch makes plain ones, before a running product.
_ONES = {"ProdBackward0": _aten.cat.default, "ProdBackward1": _aten.cat.default}


def _from_torch(func: Any, x: Tensor, shared: bool) -> bool:
    """Whether torch made this plain tensor, not the user, or it is a mask: it says what the program and indices say.

    ``shared``: a front end shares what is refused otherwise. Then no zero and no one is looked for, as what runs would
    depend on numbers that are meant to stay secret; torch's own are shared like the user's.
    """
    if type(x) not in (Tensor, torch.nn.Parameter):
        return False  # numbers elsewhere (a pointer of the syft surface), which nobody may look at
    if x.dim() == 0:
        # cross_entropy divides by how many plain targets it was given, a dropout of everything multiplies by zero;
        # optimizers keep step counts and rates in tensors, which only their operations on lists take as they are
        if (
            func in TAKE_NUMBERS
            or func._schema.name.startswith("aten::_foreach_")
            or (func is _aten.div.Tensor and x.dtype not in _FLOATS)
            or (not shared and func in (_aten.mul.Tensor, _aten.mul_.Tensor) and not bool(x))
        ):
            return True
    elif func in _TAKE_SAMPLES:
        return True
    elif func is _aten.eq.Tensor:
        return counts_up(func, x)
    elif x.dtype in _FLOATS and bool((x == -torch.inf).any()):
        # not torch's, but a mask: it says which places are excluded, as a tensor of bools would
        return attention.excludes(x)
    node = torch._C._current_autograd_node()
    if node is None:
        return False
    name = node.name()
    zeros, ones = _ZEROS.get(name) is func, _ONES.get(name) is func
    if shared:
        return name in _DERIVED or (zeros and x.numel() == 0)
    return name in _DERIVED or (zeros and not bool(x.any())) or (ones and bool((x == 1).all()))


def _run(func: Any, rule: Rule, args: Any, kwargs: dict[str, Any]) -> Any:
    target = None
    if rule.kind is Kind.INPLACE:
        target = args[0]
    elif "out" in kwargs:
        kwargs = dict(kwargs)
        target = kwargs.pop("out")
    if target is not None:
        target = _require_secret(target, func)
    unwrap = _Unwrap(func, rule, (args, kwargs))
    values = unwrap.all(args)
    named = {key: unwrap.one(value) for key, value in kwargs.items()} if kwargs else kwargs
    session = unwrap.session
    if session is None:
        raise UnsupportedOperation("an operation on no secret", op=str(func))
    if unwrap.deferred and rule.deferrable:
        out: Any = _defer(func, rule, args, kwargs, values, named, session)
    else:
        out = rule.function(*values, **named)
    if isinstance(out, Updated):
        for position, written in out.writes.items():
            many = isinstance(written, list)
            targets = [_require_secret(x, func) for x in (args[position] if many else [args[position]])]
            for one, handle in zip(targets, written if many else [written], strict=True):
                one.assign(handle)
        out = out.result
    if target is not None:
        target.assign(out)
        return target
    return _wrap_result(out)


def _require_secret(target: Any, func: Any) -> EncryptedTensor:
    """A written argument must be secret (rule R1: a secret is never written into a plain tensor)."""
    if isinstance(target, EncryptedTensor):
        return target
    raise PlainWrite(
        "a secret would be written into a plain tensor",
        op=str(func),
        remedy="encrypt the model or the buffer as well, or reveal the value first",
    )


def _refuse_plain_writes(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Every argument that the schema says is written must be secret, also of an op without a row."""
    arguments = func._schema.arguments
    for argument, value in [*zip(arguments, args, strict=False), *((a, kwargs.get(a.name)) for a in arguments)]:
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
            _require_secret(value, func)


def _defer(
    func: Any, rule: Rule, args: Any, kwargs: dict[str, Any], values: list[Any], named: dict[str, Any], session: Engine
) -> Deferred:
    """A result that is computed when somebody asks; its shape comes from torch's meta device."""

    def meta(x: Any) -> Any:
        return torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x

    like = func(*[meta(x) for x in args], **{key: meta(x) for key, x in kwargs.items()})
    operation = session.operation

    def make() -> Handle:
        before, session.operation = session.operation, operation
        try:
            result: Handle = rule.function(*values, **named)
            return result
        finally:
            session.operation = before

    out = Deferred(session, tuple(like.shape), make)
    out.whole = like.dtype is torch.int64
    return out


def _view(func: Any, rule: Rule, args: Any, kwargs: dict[str, Any]) -> Any:
    base = args[0]
    if not isinstance(base, EncryptedTensor):
        raise WouldBePublished("a plain tensor would be indexed by a secret", op=str(func), remedy="share it first")
    handle = base.handle
    handle.session.operation = str(func)
    if rule.function is _alias:
        out = EncryptedTensor(base._cell, base._path, handle, base.dtype)
        return return_and_correct_aliasing(func, args, kwargs, out)
    steps = rule.function(handle, *args[1:], **kwargs)
    many = isinstance(steps, list)
    outs = []
    for step in steps if many else [steps]:
        image = structure.apply_map(handle, step)
        outs.append(EncryptedTensor(base._cell, (*base._path, step), image, base.dtype))
    return return_and_correct_aliasing(func, args, kwargs, outs if many else outs[0])


def _reshape_in_place(func: Any, rule: Rule, args: Any, kwargs: dict[str, Any]) -> Any:
    """squeeze_, t_ and the like: the same storage seen another way, by this tensor object alone."""
    base = _require_secret(args[0], func)
    handle = base.handle
    handle.session.operation = str(func)
    step = rule.function(handle, *args[1:], **kwargs)
    base._cached = structure.apply_map(handle, step)
    base._generation = base._cell.generation
    base._path = (*base._path, step)
    return return_and_correct_aliasing(func, args, kwargs, base)


def _alias(_handle: Handle) -> None:
    """Marks the ops whose result is the same value in the same storage."""


#: Operations whose result is a Python truth value: they would reveal, and have no encrypted form.
_COMPARING = {
    _aten.equal.default: "(a == b).all()",
    _aten.allclose.default: "((a - b).abs() <= tolerance).all()",
}


def _without_rule(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Composed ops, and composite ones (which inference mode lets through), are taken apart; the rest is refused."""
    composed = COMPOSED.get(func)
    if composed is not None:
        _refuse_plain_writes(func, args, kwargs)
        return composed(*args, **kwargs)
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
    _refuse_plain_writes(func, args, kwargs)
    if func is _aten._local_scalar_dense.default:
        raise reading_refused(str(func))
    if func in _COMPARING:
        raise UnsupportedOperation(
            "a truth value in Python would reveal what was compared",
            op=str(func),
            remedy=f"compute {_COMPARING[func]}, and reveal it where it may be known",
        )
    if func.namespace in collectives.NAMESPACES:
        raise collectives.none_called(func)
    shapes = [tuple(x.shape) for x in args if isinstance(x, Tensor)]
    raise UnsupportedOperation(
        f"no encrypted form of {func} is known (operands of shape {shapes})",
        op=str(func),
        remedy="express it by supported operations, or compute this part in the clear on values that may be known",
    )


def _export_refused(export: Any) -> Any:
    @functools.wraps(export)
    def to_dlpack(x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, EncryptedTensor):
            return x.__dlpack__()
        return export(x, *args, **kwargs)

    return to_dlpack


# torch's functions in C++ that make a capsule of any tensor ask neither ``__torch_function__`` nor ``__dlpack__``
for _place, _name in ((torch, "to_dlpack"), (torch.utils.dlpack, "to_dlpack"), (torch._C, "_to_dlpack")):
    setattr(_place, _name, _export_refused(getattr(_place, _name)))
if hasattr(torch._C, "_to_dlpack_versioned"):
    torch._C._to_dlpack_versioned = _export_refused(torch._C._to_dlpack_versioned)


TABLE[torch.ops.aten.detach.default] = Rule(Kind.VIEW, _alias)
TABLE[torch.ops.aten.alias.default] = Rule(Kind.VIEW, _alias)
