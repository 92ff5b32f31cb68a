"""Guards: what public facts a recording depended on, noted while it runs and compared before each later run.

A ``Witness`` watches one recording through torch's own hooks: which modules ran and with which settings, which
optimizers stepped and with which hyperparameters and state, which gradients were there, which plain tensors were read.
It also keeps the plain effects that a run must repeat (the batch count of BatchNorm), and refuses, with the line, what
nothing can repeat: random numbers, and plain tensors that are changed and then read (the step count of Adam).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from torchveil.errors import PlanError
from torchveil.public import PublicTensor
from torchveil.recording import Recorder, is_gradient
from torchveil.tensor import EncryptedTensor

_SIMPLE = (bool, int, float, str, type(None))


#: Containers are compared by what is in them down to this depth and up to this length, below and beyond as objects.
_DEPTH, _LENGTH = 3, 64

#: What torch keeps in a module and a forward pass does not read.
_UNREAD = frozenset(
    f"_{name}"
    for name in (
        "state_dict_hooks",
        "state_dict_pre_hooks",
        "load_state_dict_pre_hooks",
        "load_state_dict_post_hooks",
        "non_persistent_buffers_set",
    )
)


class _Same:
    """An object that is equal to itself alone; it is kept, so that its identity is not given to another one."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    __hash__ = None  # type: ignore[assignment]


def _fact(value: Any, depth: int = _DEPTH) -> Any:
    """What of a value a recording can depend on: two facts are equal if it cannot tell the values apart."""
    if isinstance(value, _SIMPLE):
        return type(value), value
    if isinstance(value, EncryptedTensor):
        return "secret", _Same(value._cell), value.requires_grad
    if isinstance(value, Tensor):
        return "tensor", _Same(value)  # what is read of plain tensors is guarded on its own
    if depth and isinstance(value, (list, tuple)) and len(value) <= _LENGTH:
        return type(value), [_fact(x, depth - 1) for x in value]
    if depth and isinstance(value, dict) and len(value) <= _LENGTH:
        return type(value), [(_fact(k, 0), _fact(x, depth - 1)) for k, x in value.items()]
    return _Same(value)


def _settings(values: Iterator[tuple[str, Any]]) -> list[Any]:
    return [(name, _fact(value)) for name, value in values if name not in _UNREAD]


def _module_facts(module: nn.Module) -> list[Any]:
    """Settings, hooks, tables of parameters, buffers and modules, and attributes of any other kind."""
    return _settings(iter(module.__dict__.items()))


def function_facts(function: Any) -> list[Any]:
    """What a function finds outside its arguments, by name: what it closes over, its globals, its own settings."""
    inner = getattr(function, "__func__", function)
    code = getattr(inner, "__code__", None)
    if code is None:
        return [_fact(function)]
    found = [(name, inner.__globals__[name]) for name in code.co_names if name in inner.__globals__]
    for name, cell in zip(code.co_freevars, inner.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # nothing in it yet
            found.append((name, cell.cell_contents))
    found += [("defaults", inner.__defaults__), ("keywords", inner.__kwdefaults__)]
    return [(name, _fact(value)) for name, value in found]


def _state_fact(value: Any) -> Any:
    if isinstance(value, EncryptedTensor):
        return id(value._cell)
    if isinstance(value, Tensor):
        return id(value), value._version
    return value if isinstance(value, _SIMPLE) else id(value)


def _optimizer_facts(optimizer: Optimizer) -> tuple[Any, ...]:
    groups = tuple(
        (_settings(iter(group.items())), tuple(id(p) for p in group["params"])) for group in optimizer.param_groups
    )
    state = tuple(
        (id(p), tuple((name, _state_fact(value)) for name, value in entry.items()))
        for p, entry in optimizer.state.items()
    )
    return groups, state


def _plain_of(x: Any) -> Tensor | None:
    if isinstance(x, PublicTensor):
        return x.plain
    return x if isinstance(x, Tensor) and not isinstance(x, EncryptedTensor) else None


def _storage(x: Tensor) -> int:
    """What a tensor and its views have in common."""
    return int(x.untyped_storage()._cdata)


#: Tagged as random for a dropout that they do not have on a CPU.
_DRAW_NOTHING = frozenset((torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,))


class _Watch(TorchDispatchMode):
    """Sees every operation of the recorded function on plain tensors."""

    def __init__(self, witness: Witness) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._witness = witness

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._witness.before(func, args, kwargs)
        out = func(*args, **kwargs)
        self._witness.after(out)
        return out


class Witness:
    """The public facts of one recording; a context manager around it. ``misfit`` compares them with the present."""

    def __init__(self, recorder: Recorder, arguments: Sequence[Tensor], function: Any = None) -> None:
        self._recorder: Recorder | None = recorder
        self._modules: dict[int, tuple[nn.Module, list[Any]]] = {}
        self._optimizers: dict[int, tuple[Optimizer, tuple[Any, ...]]] = {}
        self._read: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._effects: list[Callable[[], Any]] = []
        self._changed: dict[int, Tensor] = {}
        self._own: dict[int, Tensor] = {}
        self._arguments = {id(x): x for x in arguments}
        self._outside: set[int] = {_storage(x) for x in arguments}
        self._gradients: list[tuple[Any, Any]] = []
        self._handles: list[Any] = []
        self._watch = _Watch(self)
        self._function = function
        self._outside_function = function_facts(function)

    def __enter__(self) -> Witness:
        self._handles = [
            register_module_forward_pre_hook(self._see_module),
            register_optimizer_step_pre_hook(self._see_optimizer),
        ]
        self._watch.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *failure: Any) -> None:
        self._watch.__exit__(*failure)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def settle(self) -> None:
        """The recording is over: keep what a later run is compared with, drop what dies with it."""
        if self._recorder is not None:
            self._gradients = self._recorder.leaves()
        # the recording holds every intermediate value
        self._recorder = None
        self._read = {key: (ref, version) for key, (ref, version) in self._read.items() if ref() is not None}
        self._own = {}

    def misfit(self) -> str:
        """Which fact is different now; empty if none is."""
        if function_facts(self._function) != self._outside_function:
            return "something that the function closes over, or a global that it uses, is another object or number"
        for module, facts in self._modules.values():
            if _module_facts(module) != facts:
                return f"a setting or parameter of {type(module).__name__} changed"
        for optimizer, state in self._optimizers.values():
            if _optimizer_facts(optimizer) != state:
                return f"a hyperparameter or the state of {type(optimizer).__name__} changed"
        for leaf, had in self._gradients:
            if not leaf.requires_grad:
                return "a tensor does not require a gradient any more"
            if had is not None and not is_gradient(leaf, had):
                return "a parameter has another gradient tensor, or had one once and once none"
        for ref, version in self._read.values():
            tensor = ref()
            if tensor is None or tensor._version != version:
                return "a plain tensor that the function reads changed"
        return ""

    def repeat_effects(self) -> None:
        """Change plain tensors as the recorded run did."""
        for effect in self._effects:
            effect()

    # --- while recording -------------------------------------------------------------------------------------------

    def _see_module(self, module: nn.Module, _args: Any) -> None:
        if id(module) not in self._modules:
            self._modules[id(module)] = module, _module_facts(module)

    def _see_optimizer(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if id(optimizer) not in self._optimizers:
            self._optimizers[id(optimizer)] = optimizer, _optimizer_facts(optimizer)

    def before(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """An operation is about to run."""
        if torch.Tag.nondeterministic_seeded in func.tags and func not in _DRAW_NOTHING:
            raise PlanError(
                "a compiled function draws random numbers, which would be the same in every run",
                op=str(func),
                remedy="draw them outside and pass them as an argument, or do not compile this function",
            )
        written = self._written(func, args, kwargs)
        foreign = [x for x in map(_plain_of, tree_iter((args, kwargs))) if x is not None and id(x) not in self._own]
        for x in foreign:
            self._outside.add(_storage(x))
            if id(x) in self._changed and not (written and all(y is x for y in foreign)):
                raise PlanError(
                    "a compiled function reads a plain tensor that it changes (a step count): in a plan its value "
                    "would be the same in every run",
                    op=str(func),
                    remedy="do this outside: the compiled function leaves gradients, call optimizer.step() after it",
                )
            if id(x) not in written and id(x) not in self._read and id(x) not in self._arguments:
                self._read[id(x)] = weakref.ref(x), x._version
        if written:
            secret = any(isinstance(x, EncryptedTensor) for x in tree_iter((args, kwargs)))
            temporary = any(x is not None and id(x) in self._own for x in map(_plain_of, tree_iter((args, kwargs))))
            if secret or temporary or any(id(x) in self._arguments for x in written.values()):
                raise PlanError(
                    "a compiled function changes a plain tensor by something it computed",
                    op=str(func),
                    remedy="do this outside of the compiled function",
                )
            self._changed.update(written)
            self._effects.append(lambda: func(*args, **kwargs))

    def _written(self, func: Any, args: Any, kwargs: dict[str, Any]) -> dict[int, Tensor]:
        """The plain tensors that an operation writes and that the function did not make."""
        out: dict[int, Tensor] = {}
        if not func._schema.is_mutable:
            return out
        arguments = func._schema.arguments
        for argument, value in [*zip(arguments, args, strict=False), *((a, kwargs.get(a.name)) for a in arguments)]:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in tree_iter(value):
                    plain = _plain_of(x)
                    if plain is not None and id(plain) not in self._own:
                        out[id(plain)] = plain
        return out

    def after(self, out: Any) -> None:
        """An operation gave these results: plain ones are the function's own."""
        for x in tree_iter(out):
            plain = _plain_of(x)
            if plain is not None and _storage(plain) not in self._outside:
                self._own[id(plain)] = plain
