"""One sample on shares against the same sample in float64: PASS, UNSUPPORTED, SKIPPED, or something that is a bug.

Every tensor of floats is put on the grid of the number format, so that clear and secret start from the same numbers and
only our own error counts, and is encrypted. Tensors of whole numbers and of truth values are plain, as indices and
masks are; where an operator refuses that, they are declared public.

What is skipped is decided from the clear run alone, before anything is encrypted: see ``reason_to_skip``.

A number passes when |found - wanted| <= TOLERANCE (1 + |wanted|) + STEPS * spread. The spread is how far float64 moves
when every operation's result is off by up to a unit of the format, at random (stochastic arithmetic, Vignes 1993):
where torch's own formula takes a small difference of large numbers, fixed point of that many digits knows no more. It
is taken from MOVES such runs, and only if the fixed part does not do; before a number counts as wrong, from MORE of
them. The spread is the largest distance of a few random runs, and the largest of 4 is on average half of the largest of
64. What is wrong by more than roundings explain stays wrong for any number of runs. Whole numbers and truth values must
be equal.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from conformance.opinfo import SEED, Operator, Sample
from torchveil import EncryptedTensor, Session, public
from torchveil.errors import TorchveilError, WouldBePublished
from torchveil.fixedpoint import FixedPoint

TOLERANCE = 2.0**-9
STEPS = 8
#: How many disturbed runs say how far a number moves, at first and before it counts as wrong.
MOVES, MORE = 4, 64


class Outcome(Enum):
    """How a sample ended. The last two are bugs."""

    PASS = "PASS"  # forward and, where torch differentiates, backward are right
    UNSUPPORTED = "UNSUPPORTED"  # a typed error of ours
    SKIPPED = "SKIPPED"  # says nothing: the reason is known from the clear run
    BROKE = "BROKE"  # an error that is not of ours
    DIFFERS = "DIFFERS"  # another result, silently


@dataclass(frozen=True, slots=True)
class Verdict:
    """``what``: the aten operation that is missing, the reason to skip, or what differs. Never a tensor."""

    outcome: Outcome
    what: str = ""
    error: str = ""


@dataclass(slots=True)
class Result:
    """The leaves of what an operator gave and the gradients of its inputs (None: not asked for)."""

    outputs: list[Any]
    gradients: list[Tensor] | None


class Magnitude(TorchDispatchMode):
    """What torch's own computation passes through: the largest finite magnitude, and whether it draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0
        self.drew = False

    def see(self, value: Any) -> None:
        for x in tree_leaves(value):
            # a zero tensor of autograd's has no memory to read
            if is_float(x) and x.layout is torch.strided and x.numel() and not torch._is_zerotensor(x):
                finite = x.detach().abs()
                finite = finite[torch.isfinite(finite)]
                self.largest = max(self.largest, float(finite.max()) if finite.numel() else 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drew = self.drew or torch.Tag.nondeterministic_seeded in func.tags
        out = func(*args, **(kwargs or {}))
        self.see(out)
        return out


@contextmanager
def unwritten_memory_is_nan() -> Iterator[None]:
    """What memory held before is no number of the computation: tensors begin as nan, inside of kernels too.

    Otherwise a slice of a tensor that is written piece by piece, or rows of a result that nobody uses, would show
    numbers of the program before, and what is skipped would depend on them.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills what it allocates
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


#: Operations that take a matrix apart into vectors that are not continuous where two numbers are equal.
FACTORING = (torch.ops.aten._linalg_svd.default, torch.ops.aten._linalg_eigh.default)


class Noise(TorchDispatchMode):
    """Every number that an operation computes is off by up to ``unit``, at random; views and writes are left alone.

    So are the matrices that are taken apart, before they are: any way to compute singular vectors is no better than
    those of a matrix that is off by a unit, and their error is that unit over the gap between two numbers.
    """

    def __init__(self, unit: float, seed: int) -> None:
        super().__init__()
        self.unit = unit
        self.generator = torch.Generator().manual_seed(seed)

    def disturb(self, x: Any) -> Any:
        if not (is_float(x) and x.layout is torch.strided and x.numel()) or torch._is_zerotensor(x):
            return x
        return x + (torch.rand(x.shape, generator=self.generator, dtype=x.dtype) * 2 - 1) * self.unit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTORING:
            args = tree_map(self.disturb, args)
        out = func(*args, **(kwargs or {}))
        schema = func._schema
        computes = not schema.is_mutable and all(r.alias_info is None for r in schema.returns)
        if not computes or not any(is_float(x) for x in tree_leaves((args, kwargs))):
            return out
        return tree_map(self.disturb, out)


def is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype.is_floating_point


def on_grid(x: Tensor, scale: int) -> Tensor:
    return torch.round(x.detach().double() * scale) / scale


def replace(sample: Sample, how: Callable[[Any], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with every tensor replaced, in one order."""
    args, kwargs = tree_map(lambda x: how(x) if isinstance(x, Tensor) else x, (sample.args, sample.kwargs))
    return args, kwargs


def differentiable(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.requires_grad


def run(
    operator: Operator,
    sample: Sample,
    prepare: Callable[[Tensor], Tensor],
    cotangent: Callable[[Tensor], Tensor],
    leaves: list[Tensor],
    mode: AbstractContextManager[Any],
) -> Result:
    """The operator forward and, where torch differentiates, backward, under a mode."""
    args, kwargs = replace(sample, prepare)
    with mode:
        out = operator.function(*args, **kwargs)
        if operator.differentiable and leaves:
            out = sample.finish(out)
    outputs = tree_leaves(out)
    ends = [x for x in outputs if differentiable(x)]
    if not (operator.differentiable and leaves and ends):
        return Result(outputs, None)
    cotangents = [cotangent(x) for x in ends]
    with mode:
        gradients = torch.autograd.grad(ends, leaves, cotangents, allow_unused=True)
    return Result(outputs, [_or_zeros(g, x) for g, x in zip(gradients, leaves, strict=True)])


def _or_zeros(gradient: Tensor | None, leaf: Tensor) -> Tensor:
    return torch.zeros(leaf.shape, dtype=torch.float64) if gradient is None else gradient


class Cotangents:
    """The same random numbers of the grid for every run of a sample."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.generator = torch.Generator()
        self.restart()

    def restart(self) -> None:
        self.generator.manual_seed(SEED)

    def __call__(self, like: Tensor) -> Tensor:
        return on_grid(torch.rand(like.shape, generator=self.generator, dtype=torch.float64) * 2 - 1, self.scale)


def clear_run(
    operator: Operator,
    sample: Sample,
    scale: int,
    cotangents: Cotangents,
    mode: AbstractContextManager[Any],
) -> Result:
    """In float64 on the grid, under a mode that watches or disturbs."""
    leaves: list[Tensor] = []
    cotangents.restart()

    def prepare(x: Tensor) -> Tensor:
        if not is_float(x):
            return x.clone()
        clear = on_grid(x, scale)
        if x.requires_grad and operator.differentiable:
            leaves.append(clear.requires_grad_())
        return clear

    return run(operator, sample, prepare, cotangents, leaves, mode)


def secret_run(
    operator: Operator, sample: Sample, session: Session, cotangents: Cotangents, declare: Callable[[Tensor], Tensor]
) -> Result:
    """On shares; ``declare`` is what becomes of tensors that hold no floats."""
    scale = session.fixed_point.scale
    leaves: list[Tensor] = []
    cotangents.restart()

    def prepare(x: Tensor) -> Tensor:
        if not is_float(x):
            return declare(x.clone())
        secret: Tensor = session.share(on_grid(x, scale))
        if x.requires_grad and operator.differentiable:
            leaves.append(secret.requires_grad_())
        return secret

    def encrypted(like: Tensor) -> Tensor:
        return session.share(cotangents(like))

    return run(operator, sample, prepare, encrypted, leaves, nullcontext())


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def limit(number_format: FixedPoint) -> float:
    """The magnitude up to which a product of two values fits the ring before it is truncated."""
    return 2.0**31 / number_format.scale


#: Entries whose results torch does not define.
UNDEFINED = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"})

#: Entries that draw numbers of the input's type from a seed of their own: of float64 others than of float32.
DRAWING = frozenset({"nn_functional_fractional_max_pool2d", "nn_functional_fractional_max_pool3d"})

#: Entries whose second argument may be edges of bins. torch searches them by halves, which says nothing if they do not
#: ascend; some of its samples do not.
EDGES = frozenset({"histogram", "histogramdd"})


def ascends(edges: Any) -> bool:
    return not isinstance(edges, Tensor) or bool((edges.diff() >= 0).all())


def reason_to_skip(wanted: Result, magnitude: Magnitude, number_format: FixedPoint) -> str:
    """Why a sample says nothing about us, from the clear run; empty when it does."""
    values = [x for x in (*wanted.outputs, *(wanted.gradients or [])) if isinstance(x, Tensor)]
    if magnitude.drew:
        return "draws random numbers"
    if any(x.is_complex() for x in values):
        return "complex result"
    if any(is_float(x) and not bool(torch.isfinite(x).all()) for x in values):
        return "the result is not finite"
    if magnitude.largest > limit(number_format):
        return f"numbers beyond 2^{math.log2(limit(number_format)):.0f}"
    return ""


def reason_before_running(operator: Operator, sample: Sample) -> str:
    """The same, from the sample alone."""
    if operator.name in UNDEFINED:
        return "the result is not defined"
    if operator.name in DRAWING:
        return "draws random numbers"
    if operator.name in EDGES and not all(ascends(x) for x in tree_leaves(sample.args[1:2])):
        return "edges of bins out of order"
    tensors = sample.tensors()
    if any(x.layout is not torch.strided for x in tensors):
        return "sparse layout"
    if any(x.is_complex() for x in tensors):
        return "complex numbers"
    if any(x.is_nested or x.is_quantized for x in tensors):
        return "nested or quantised tensors"
    if any(is_float(x) and not bool(torch.isfinite(x).all()) for x in tensors):
        return "inputs that are not finite"
    return ""


def judge(operator: Operator, sample: Sample, session: Session) -> Verdict:
    """What becomes of one sample in this session."""
    reason = reason_before_running(operator, sample)
    if reason:
        return Verdict(Outcome.SKIPPED, reason)
    number_format = session.fixed_point
    cotangents = Cotangents(number_format.scale)
    with quiet():
        magnitude = Magnitude()
        try:
            magnitude.see((sample.args, sample.kwargs))
            with unwritten_memory_is_nan():
                wanted = clear_run(operator, sample, number_format.scale, cotangents, magnitude)
        except Exception as error:
            return Verdict(Outcome.SKIPPED, "torch refuses it in float64", type(error).__name__)
        reason = reason_to_skip(wanted, magnitude, number_format)
        if reason:
            return Verdict(Outcome.SKIPPED, reason)
        try:
            try:
                found = secret_run(operator, sample, session, cotangents, lambda x: x)
            except WouldBePublished:
                found = secret_run(operator, sample, session, cotangents, public)
            difference = compare(operator, sample, session, cotangents, wanted, found)
        except TorchveilError as error:
            return Verdict(Outcome.UNSUPPORTED, error.op or type(error).__name__, type(error).__name__)
        except Exception as error:
            return Verdict(Outcome.BROKE, f"{error}".splitlines()[0][:160] if f"{error}" else "", type(error).__name__)
    return Verdict(Outcome.DIFFERS, difference) if difference else Verdict(Outcome.PASS)


def compare(
    operator: Operator, sample: Sample, session: Session, cotangents: Cotangents, wanted: Result, found: Result
) -> str:
    """What differs, in words; empty when nothing does."""
    if len(wanted.outputs) != len(found.outputs):
        return f"{len(found.outputs)} results in place of {len(wanted.outputs)}"
    if (wanted.gradients is None) != (found.gradients is None):
        return "torch differentiates this and we do not, or the other way round"
    scale = session.fixed_point.scale
    moved: list[Result] = []

    def spread(which: Callable[[Result], Tensor], around: Tensor, runs: int) -> Tensor:
        """How far float64 itself moves."""
        for move in range(len(moved), runs):
            moved.append(clear_run(operator, sample, scale, cotangents, Noise(1 / scale, move)))
        changes = [(which(other) - around).abs() for other in moved]
        return torch.stack(changes).amax(0)

    for k, (a, b) in enumerate(zip(wanted.outputs, found.outputs, strict=True)):
        difference = differs(a, b, lambda *at, k=k: spread(lambda r: r.outputs[k].detach().double(), *at))
        if difference:
            return f"result {k}: {difference}"
    for k, (a, b) in enumerate(zip(wanted.gradients or [], found.gradients or [], strict=True)):
        difference = differs(a, b, lambda *at, k=k: spread(lambda r: (r.gradients or [])[k].double(), *at))
        if difference:
            return f"gradient {k}: {difference}"
    return ""


def clear(x: Tensor) -> Tensor:
    plain = getattr(x, "plain", x)
    if not isinstance(plain, EncryptedTensor):
        return plain.detach()
    return plain.detach().reveal(dtype=torch.float64 if plain.is_floating_point() else None)


def differs(wanted: Any, found: Any, spread: Callable[[Tensor, int], Tensor]) -> str:
    """What differs; ``spread(around, runs)`` is how far the numbers move in so many disturbed runs."""
    if not isinstance(wanted, Tensor):
        return "" if wanted == found else f"{found!r} in place of {wanted!r}"
    if not isinstance(found, Tensor):
        return "no tensor"
    if tuple(wanted.shape) != tuple(found.shape):
        return f"shape {tuple(found.shape)} in place of {tuple(wanted.shape)}"
    kinds = [(x.is_floating_point(), x.dtype is torch.bool) for x in (wanted, found)]
    if kinds[0] != kinds[1]:
        return f"{found.dtype} in place of {wanted.dtype}"
    value, reference = clear(found), wanted.detach()
    if not wanted.is_floating_point():
        wrong = int((value != reference).sum())
        return f"{wrong} of {wanted.numel()} are not equal" if wrong else ""
    value, reference = value.double(), reference.double()
    error = (value - reference).abs()
    allowed = TOLERANCE + TOLERANCE * reference.abs()
    wrong = ~(error <= allowed)
    for runs in (MOVES, MORE):
        if not bool(wrong.any()):
            return ""
        wrong = ~(error <= allowed + STEPS * spread(reference, runs))
    if not bool(wrong.any()):
        return ""
    return f"{int(wrong.sum())} of {wanted.numel()} are wrong, the worst by {float(error[wrong].max()):.3g}"
