"""The native kernels behind the names of their reference twins.

Theory of operation. ``torchveil_native`` is a distribution of its own, and optional: ``core`` is None without it. Every
function here takes and returns what its twin of the same name does, bit for bit, and hands over to the twin whatever
the native module does not cover: small rings, other devices and types (shapes are inferred on ``meta``, debug mode
estimates magnitudes in float64), broadcasting, chunks of another size. It allocates the result, makes
arrays contiguous where a kernel wants them so (the module does it for tensors), and passes torch's number of threads
on. Keystream that a role only named (``drawn``) goes to the module as a key and a label, and is drawn there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from torchveil.errors import ProtocolError
from torchveil.kernels import and_tree, curves, drawn, gate_steps, reference, short, tables, threads
from torchveil.kernels.drawn import (
    BitsPads,
    BitsPiece,
    DrawnBits,
    DrawnRing,
    DrawnWords,
    RingPads,
    RingPiece,
    Source,
    WordsPads,
    WordsPiece,
)
from torchveil.kernels.volumes import volume_functions
from torchveil.randomness import Bits, Stream, Words

#: The interface of the native module that this file was written for.
INTERFACE = 3


def _load() -> Any:
    try:
        module = importlib.import_module("torchveil_native")
    except ImportError:
        return None
    return module if module.INTERFACE == INTERFACE else None


core: Any = _load()
#: Without AVX-512 torch's own integer product is the faster one: the processor's level as it was found.
_FAST_PRODUCTS = core is not None and core.level() == "avx512"
_RING = 2**64 - 1
_SMALL = 1 << 12  # multiplications
_LARGE = 1 << 19  # bytes of a buffer whose pages are worth keeping
_FILL, _ADD, _SUBTRACT, _XOR = range(4)
_threads = threads.count


def _empty(shape: tuple[int, ...]) -> Tensor:
    """A tensor of int64 whose elements are to be written; a large one in memory that is used again."""
    n = prod(shape)
    if n < _LARGE // 8:
        return torch.empty(shape, dtype=torch.int64)
    return torch.frombuffer(core.Block(8 * n), dtype=torch.int64).view(shape)


def empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return like.new_empty(shape) if _foreign(like) else _empty(shape)


def _array_of(shape: tuple[int, ...], dtype: Any) -> Any:
    """As ``_empty``, a numpy array."""
    n = prod(shape) * np.dtype(dtype).itemsize
    if n < _LARGE:
        return np.empty(shape, dtype)
    return np.frombuffer(core.Block(n), dtype).reshape(shape)


def _packed(shape: tuple[int, ...]) -> Bits:
    out: Bits = _array_of(shape, np.uint8)
    return out


def _words(shape: tuple[int, ...]) -> Words:
    out: Words = _array_of(shape, np.uint16)
    return out


def _array(x: Any) -> Any:
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)


def _same(shape: tuple[int, ...], *others: RingPiece) -> bool:
    return all([x.shape == shape for x in others])


def _require_label(number: int, slot: int) -> None:
    if not (0 <= number < 2**48 and 0 <= slot < 2**16):
        raise ProtocolError("a label is outside its 48 + 16 bits", remedy="start a new session")


# --- keystream ------------------------------------------------------------------------------------------------------


class NativeStream(Stream):
    """A ``Stream`` of the same bytes that can combine them with a buffer on the way."""

    __slots__ = ("_native",)

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._native = core.Keystream(key)

    def _fill(self, number: int, slot: int, out: memoryview) -> None:
        if not self.combine(_FILL, number, slot, out, None):
            super()._fill(number, slot, out)

    def combine(
        self, how: int, number: int, slot: int, out: Any, value: Any, kept: Any = None, keep: int = _RING
    ) -> bool:
        """out = value (+, -, ^) keystream; whether it was done (there may be no AES at this level)."""
        _require_label(number, slot)
        done: bool = self._native.combine(number << 16 | slot, how, out, value, kept, keep, _threads())
        return done

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor:
        out = _empty(shape)
        if self.combine(_FILL, number, slot, out, None, keep=(1 << width) - 1):
            return out
        return super().ring(number, slot, shape, width)

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> Bits:
        out = _packed(shape)
        return out if self.combine(_FILL, number, slot, out, None) else super().bits(number, slot, shape)

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> Words:
        out = _words(shape)
        if self.combine(_FILL, number, slot, out, None, keep=_word_mask(valid)):
            return out
        return super().words(number, slot, shape, valid)


def _word_mask(valid: int) -> int:
    return ((1 << valid) - 1) * 0x0001000100010001


def add_stream(total: Tensor, stream: Source, number: int, slot: int, width: int) -> Tensor:
    if (
        width == 64
        and isinstance(stream, NativeStream)
        and total.is_contiguous()
        and stream.combine(_ADD, number, slot, total, total)
    ):
        return total
    return gate_steps.add_stream(total, stream, number, slot, width)


def subtract_stream(value: Tensor, stream: Source, number: int, slot: int, width: int) -> Tensor:
    if width == 64 and isinstance(stream, NativeStream):
        out = _empty(value.shape)
        if stream.combine(_SUBTRACT, number, slot, out, value):
            return out
    return gate_steps.subtract_stream(value, stream, number, slot, width)


def mask_value(value: Tensor, stream: Source, number: int, slot: int, width: int) -> tuple[Tensor, Tensor]:
    if width == 64 and isinstance(stream, NativeStream):
        out, mask = _empty(value.shape), _empty(value.shape)
        if stream.combine(_ADD, number, slot, out, value, mask):
            return out, mask
    return gate_steps.mask_value(value, stream, number, slot, width)


def xor_bits(value: Bits, stream: Source, number: int, slot: int) -> Bits:
    if isinstance(stream, NativeStream):
        out = _packed(value.shape)
        if stream.combine(_XOR, number, slot, out, _array(value)):
            return out
    return gate_steps.xor_bits(value, stream, number, slot)


def xor_words(value: Words, stream: Source, number: int, slot: int, valid: int) -> Words:
    if isinstance(stream, NativeStream):
        out = _words(value.shape)
        if stream.combine(_XOR, number, slot, out, _array(value), keep=_word_mask(valid)):
            return out
    return gate_steps.xor_words(value, stream, number, slot, valid)


# --- keystream that a kernel draws itself ---------------------------------------------------------------------------

_Pair = tuple[Any, int]


def _drawable(piece: DrawnRing | DrawnBits | DrawnWords) -> bool:
    return type(piece.stream) is NativeStream and core.has_aes() and (type(piece) is not DrawnRing or piece.width == 64)


def _pair(piece: Any) -> _Pair:
    """(key, label) of a drawable piece, as the module takes it."""
    number, slot = piece.number, piece.slot
    _require_label(number, slot)
    return piece.stream._native, number << 16 | slot


def keep_drawn(piece: DrawnRing) -> RingPiece:
    return piece if _drawable(piece) else piece.held()


def keep_drawn_bits(piece: DrawnBits) -> BitsPiece:
    return piece if _drawable(piece) else piece.held()


def keep_drawn_words(piece: DrawnWords) -> WordsPiece:
    return piece if _drawable(piece) else piece.held()


def _source(piece: Any) -> Any:
    """A piece as the module takes it: memory, or a pair."""
    if isinstance(piece, (DrawnRing, DrawnBits, DrawnWords)):
        return _pair(piece) if _drawable(piece) else piece.held()
    return piece


def _pairs(pads: Sequence[Any]) -> tuple[_Pair, ...] | None:
    """All pads as pairs, or None if the module cannot draw one of them."""
    return tuple([_pair(pad) for pad in pads]) if all(_drawable(pad) for pad in pads) else None


def _all_pairs(pads: Sequence[Sequence[Any]], n: int) -> tuple[tuple[_Pair, ...], ...] | None:
    """Pads of n values; none at all if ``pads`` is empty."""
    if not pads:
        return ((),) * n
    found = [_pairs(each) for each in pads]
    return None if None in found else tuple(each or () for each in found)


def less_pads(value: Tensor, pads: RingPads, width: int, fresh: bool) -> Tensor:
    if width != 64 or _foreign(value):
        return gate_steps.take_off(value, pads, width)
    for pad in pads:
        stream = pad.stream
        if not (fresh and value.is_contiguous() and isinstance(stream, NativeStream)):
            value = subtract_stream(value, stream, pad.number, pad.slot, width)
        elif not stream.combine(_SUBTRACT, pad.number, pad.slot, value, value):
            value.sub_(pad.held())
        fresh = True
    return value


def _less_pads(values: Sequence[Tensor], pads: Sequence[RingPads]) -> tuple[Tensor, ...]:
    return tuple(less_pads(v, p, 64, True) for v, p in zip(values, pads, strict=True))


# --- sums of messages -----------------------------------------------------------------------------------------------


def sum_pieces(pieces: Sequence[Tensor], width: int) -> Tensor:
    first = pieces[0]
    if width != 64 or len(pieces) < 2 or first.numel() < _SMALL or any(map(_foreign, pieces)):
        return gate_steps.sum_pieces(pieces, width)
    if not _same(first.shape, *pieces[1:]):
        return gate_steps.sum_pieces(pieces, width)
    out = _empty(first.shape)
    core.add_pieces(out, pieces, _threads())
    return out


def xor_pieces(pieces: Sequence[Bits]) -> Bits:
    first = pieces[0]
    if (
        len(pieces) < 2
        or first.nbytes < 8 * _SMALL
        or first.dtype != np.uint8
        or any(x.shape != first.shape for x in pieces)
    ):
        return gate_steps.xor_pieces(pieces)
    out = _packed(first.shape)
    core.xor_pieces(out, [_array(x) for x in pieces], _threads())
    return out


def combination(values: Sequence[Tensor], factors: Sequence[int], constant: int) -> Tensor:
    first = values[0]
    if (
        first.numel() < _SMALL
        or (len(values) == 1 and factors[0] == 1 and not constant)
        or any(map(_foreign, values))
        or not _same(first.shape, *values[1:])
        or not first.is_contiguous()
    ):
        return gate_steps.combination(values, factors, constant)
    out = _empty(first.shape)
    if not all([x.is_contiguous() for x in values[1:]]):
        # an expanded bias, for one: torch reads it as it lies
        if len(values) > 2 or factors[0] != 1 or constant:
            return gate_steps.combination(values, factors, constant)
        return torch.add(first, values[1], alpha=factors[1], out=out)
    core.linear(out, values, [factor & _RING for factor in factors], constant & _RING, _threads())
    return out


# --- products -------------------------------------------------------------------------------------------------------

_Term = tuple[Tensor, Tensor, Tensor | None, bool]


def _product(terms: Sequence[_Term]) -> Tensor:
    x, y = terms[0][:2]
    out = _empty((*x.shape[:-1], y.shape[-1]))
    core.matmul(out, terms, False, _threads())
    return out


def _foreign(x: Tensor) -> bool:
    """Whether x is no tensor for these kernels: on another device, or (in debug mode) real magnitudes."""
    return not x.is_cpu or x.dtype is not torch.int64


def _leave_to_torch(x: Tensor, y: Tensor) -> bool:
    """Whether the operands are foreign, or looking at them would take longer than torch's product."""
    return not _FAST_PRODUCTS or x.numel() * y.shape[-1] <= _SMALL or _foreign(x)


def mm(x: Tensor, y: Tensor) -> Tensor:
    return torch.mm(x, y) if _leave_to_torch(x, y) else _product(((x, y, None, False),))


def bmm(x: Tensor, y: Tensor) -> Tensor:
    return torch.bmm(x, y) if _leave_to_torch(x, y) else _product(((x, y, None, False),))


def _columns(x: Tensor, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any, middle: bool) -> Tensor:
    """im2col without groups in one copy: [N, K, P], or [K, N P] with ``middle``."""
    if tuple(padding) != (0, 0):
        x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    n, c, h, w = x.shape
    oh = (h - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    ow = (w - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    sn, sc, sh, sw = x.stride()
    view = x.as_strided(
        (n, c, kernel[0], kernel[1], oh, ow),
        (sn, sc, sh * dilation[0], sw * dilation[1], sh * stride[0], sw * stride[1]),
    )
    depth = c * kernel[0] * kernel[1]
    if middle:
        view = view.permute(1, 2, 3, 0, 4, 5)
    columns = _empty(tuple(view.shape)).copy_(view)
    return columns.view(depth, n * oh * ow) if middle else columns.view(n, depth, oh * ow)


def _conv2d(out: Tensor | None, x: Tensor, w: Tensor, negative: bool, **options: Any) -> Tensor:
    """[out +] (+-) conv2d(x, w) without groups."""
    shape = reference.conv2d_output_shape(
        tuple(x.shape), tuple(w.shape), options["stride"], options["padding"], options["dilation"], 1
    )
    columns = _columns(x, (w.shape[2], w.shape[3]), options["stride"], options["padding"], options["dilation"], False)
    flat = w.reshape(1, w.shape[0], -1).expand(shape[0], -1, -1)
    result = _empty(shape) if out is None else out
    core.matmul(result.view(shape[0], shape[1], -1), ((flat, columns, None, negative),), out is not None, _threads())
    return result


def conv2d(x: Tensor, w: Tensor, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    if groups != 1 or 0 in (*x.shape, *w.shape) or _foreign(x):
        return reference.conv2d(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _conv2d(None, x, w, False, stride=stride, padding=padding, dilation=dilation)


def conv2d_weight_grad(
    x: Tensor, grad: Tensor, *, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    n, o, oh, ow = grad.shape
    if groups != 1 or 0 in (*x.shape, *grad.shape) or _foreign(x):
        return reference.conv2d_weight_grad(
            x, grad, kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
    columns = _columns(x, kernel, stride, padding, dilation, True)
    flat = grad.permute(1, 0, 2, 3).reshape(o, n * oh * ow)
    return mm(flat, columns.t()).view(o, x.shape[1], kernel[0], kernel[1])


def conv2d_input_grad(
    grad: Tensor, w: Tensor, *, size: tuple[int, int], stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    if groups != 1 or 0 in (*grad.shape, *w.shape) or _foreign(grad):
        return reference.conv2d_input_grad(
            grad, w, size=size, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
    n, o, oh, ow = grad.shape
    c, kh, kw = w.shape[1:]
    flat = w.reshape(1, o, c * kh * kw).expand(n, -1, -1).transpose(1, 2)
    columns = bmm(flat, grad.reshape(n, o, oh * ow)).view(n, c, kh, kw, oh, ow)
    padded = torch.zeros((n, c, size[0] + 2 * padding[0], size[1] + 2 * padding[1]), dtype=torch.int64)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
            places = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
            padded[:, :, rows, places] += columns[:, :, i, j]
    return padded[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]].contiguous()


BILINEAR: dict[str, Callable[..., Tensor]] = {
    **reference.BILINEAR,
    "mm": mm,
    "bmm": bmm,
    "conv2d": conv2d,
    "conv2d_weight_grad": conv2d_weight_grad,
    "conv2d_input_grad": conv2d_input_grad,
    **volume_functions(conv2d, conv2d_weight_grad, conv2d_input_grad),
}


def product_share(
    function: str,
    dealt: RingPiece,
    x_open: Tensor,
    a: Tensor,
    y_open: Tensor,
    b: Tensor,
    first: bool,
    options: dict[str, Any],
    width: int,
) -> Tensor:
    if width != 64 or _foreign(x_open):
        return gate_steps.product_share(function, dealt, x_open, a, y_open, b, first, options, width)
    if function == "mul" and _same(dealt.shape, x_open, a, y_open, b):
        out = _empty(dealt.shape)
        core.multiply(out, _source(dealt), x_open, a, y_open, b, first, _threads())
        return out
    # the product is accumulated into the dealt piece
    out = drawn.ring(dealt)
    if function in ("mm", "bmm") and _FAST_PRODUCTS:
        out = out.contiguous()
        opened: _Term = (x_open, y_open, b, False) if first else (x_open, b, None, True)
        core.matmul(out, (opened, (a, y_open, None, True)), True, _threads())
        return out
    if function == "conv2d" and options["groups"] == 1 and 0 not in (*x_open.shape, *y_open.shape):
        out = out.contiguous()
        _conv2d(out, x_open, y_open - b if first else b, not first, **options)
        return _conv2d(out, a, y_open, True, **options)
    f = BILINEAR[function]
    if first:
        out = out + f(x_open, y_open - b, **options)
    else:
        out = out - f(x_open, b, **options)
    return out.sub_(f(a, y_open, **options))


# --- truncation -----------------------------------------------------------------------------------------------------


def divide_unsigned(x: Tensor, divisor: int, width: int) -> Tensor:
    if not x.is_cpu:
        return reference.divide_unsigned(x, divisor, width)
    out = _empty(x.shape)
    core.divide(out, x, divisor, _threads())
    return out


def mask_quotients(
    r: Tensor, bit: Tensor | None, divisor: int, width: int, pads: Sequence[RingPads] = ()
) -> tuple[Tensor, ...]:
    if width != 64 or not r.is_cpu or (bit is not None and bit.shape != r.shape):
        return gate_steps.mask_quotients(r, bit, divisor, width, pads)
    n = 2 if bit is None else 4
    pairs = _all_pairs(pads, n)
    if pairs is None:
        return _less_pads(mask_quotients(r, bit, divisor, width), pads)
    outs = tuple([_empty(r.shape) for _ in range(n)])
    core.mask_quotients(outs, pairs, r, bit, divisor, _threads())
    return outs


def truncated_share(
    opened: Tensor,
    quotients: Sequence[RingPiece],
    tops: Sequence[RingPiece],
    gate: tuple[Tensor, Tensor] | None,
    first: bool,
    divisor: int,
    width: int,
) -> Tensor:
    if width != 64 or not opened.is_cpu or not _same(opened.shape, *quotients, *tops, *(gate or ())):
        return gate_steps.truncated_share(opened, quotients, tops, gate, first, divisor, width)
    out = _empty(opened.shape)
    flip, bit = gate or (None, None)
    pieces = [_source(x) for x in quotients], [_source(x) for x in tops]
    core.truncate(out, opened, *pieces, flip, bit, first, divisor, _threads())
    return out


# --- series and exponentials ----------------------------------------------------------------------------------------


@cache
def _trigonometry(bits: int, frequencies: tuple[int, ...]) -> Any:
    walk = tables.harmonics_walk(frequencies)
    found = tables.trig_tables(torch.device("cpu"))
    return core.Trigonometry(found, tables.trig_slope(), bits, *walk)


@cache
def _exponential(unit: int, fraction_bits: int, high: int) -> Any:
    low = -tables.EXPONENT_LIMIT
    tables.check_exponential(unit, fraction_bits, low, high)
    found = tables.exp_tables(unit, fraction_bits, low, high, torch.device("cpu"))
    return core.Exponential(*found, tables.exp_slope(unit), low * unit, high * unit)


def series_masks(
    mask: Tensor, bit: Tensor | None, bits: int, frequencies: tuple[int, ...], width: int, pads: Sequence[RingPads] = ()
) -> tuple[Tensor, ...]:
    if width != 64 or not mask.is_cpu or not 3 <= bits <= 62 or (bit is not None and bit.shape != mask.shape):
        return curves.series_masks(mask, bit, bits, frequencies, width, pads)
    n = len(frequencies) * (2 if bit is None else 4)
    pairs = _all_pairs(pads, n)
    if pairs is None:
        return _less_pads(series_masks(mask, bit, bits, frequencies, width), pads)
    outs: tuple[Tensor, ...] = _empty((n, *mask.shape)).unbind(0)
    _trigonometry(bits, frequencies).masks(outs, pairs, mask, bit, _threads())
    return outs


def series_share(
    opened: Tensor,
    pieces: Sequence[RingPiece],
    gate: curves.Gating | None,
    first: bool,
    bits: int,
    frequencies: tuple[int, ...],
    cosines: Sequence[int],
    sines: Sequence[int],
    constant: int,
) -> Tensor:
    if not opened.is_cpu or not 3 <= bits <= 62 or not _same(opened.shape, *pieces, *(gate or ())):
        return curves.series_share(opened, pieces, gate, first, bits, frequencies, cosines, sines, constant)
    out = _empty(opened.shape)
    flip, bit = gate or (None, None)
    coefficients = [a & _RING for a in cosines], [b & _RING for b in sines], constant & _RING
    _trigonometry(bits, frequencies).share(
        out, opened, [_source(x) for x in pieces], flip, bit, first, *coefficients, _threads()
    )
    return out


def exponential_masks(
    mask: Tensor,
    bit: Tensor | None,
    bits: int,
    unit: int,
    mask_bits: int,
    width: int,
    pads: Sequence[RingPads] = (),
) -> tuple[Tensor, ...]:
    if width != 64 or not mask.is_cpu or (bit is not None and bit.shape != mask.shape):
        return curves.exponential_masks(mask, bit, bits, unit, mask_bits, width, pads)
    n = 2 if bit is None else 4
    pairs = _all_pairs(pads, n)
    if pairs is None:
        return _less_pads(exponential_masks(mask, bit, bits, unit, mask_bits, width), pads)
    outs = tuple([_empty(mask.shape) for _ in range(n)])
    _exponential(unit, mask_bits, 0).masks(outs, pairs, mask, bit, bits, _threads())
    return outs


def exponential_share(
    opened: Tensor,
    pieces: Sequence[RingPiece],
    gate: curves.Gating | None,
    bits: int,
    unit: int,
    factor_bits: int,
) -> Tensor:
    if not opened.is_cpu or not _same(opened.shape, *pieces, *(gate or ())):
        return curves.exponential_share(opened, pieces, gate, bits, unit, factor_bits)
    out = _empty(opened.shape)
    flip = None if gate is None else gate[0]
    kernel = _exponential(unit, factor_bits, curves.exponential_reach(bits, unit))
    kernel.share(out, opened, [_source(x) for x in pieces], flip, bits, _threads())
    return out


# --- short openings -------------------------------------------------------------------------------------------------


def _plain_short(x: Tensor, bits: int, width: int) -> bool:
    """Whether words of ``bits`` bits are not what the module knows: lanes of 16 bits in the ring of 64."""
    return bits != 16 or width != 64 or _foreign(x)


def round_share(share: Tensor, bits: int, up: bool, width: int) -> Tensor:
    if width != 64 or _foreign(share):
        return short.round_share(share, bits, up, width)
    out = _empty(share.shape)
    core.round_share(out, share, bits, up, _threads())
    return out


def mask_short(
    value: Tensor, stream: Source, number: int, slot: int, missing: int, width: int
) -> tuple[short.Packed, Tensor]:
    piece = DrawnRing(stream, number, slot, value.shape, width)
    if _plain_short(value, missing, width) or not _drawable(piece):
        return short.mask_short(value, stream, number, slot, missing, width)
    count = value.numel()
    low, high, mask = _words((count,)), _array_of((count,), np.uint32), _empty(value.shape)
    core.mask_short(low, high, mask, value, _pair(piece), _threads())
    return short.Packed((low, high), 48, 16, tuple(value.shape)), mask


def add_packed(pieces: Sequence[short.Packed] | Sequence[Words]) -> Tensor | Words:
    first = pieces[0]
    if not isinstance(first, short.Packed) or (first.bits, first.shift) != (48, 16):
        return short.add_packed(pieces)
    out = _empty(first.shape)
    core.add_short(out, [piece.planes for piece in pieces if isinstance(piece, short.Packed)], _threads())
    return out


def lift_rows(
    mask: Tensor, bit: Tensor | None, bits: int, width: int, pads: WordsPads = ()
) -> tuple[Words, Tensor | None]:
    pairs = _pairs(pads)
    if _plain_short(mask, bits, width) or pairs is None or (bit is not None and bit.shape != mask.shape):
        return short.lift_rows(mask, bit, bits, width, pads)
    rows = _words((2 if bit is None else 3, mask.numel()))
    gated = None if bit is None else _empty(mask.shape)
    core.lift_rows(rows, pairs, gated, mask, bit, _threads())
    return rows, gated


def lifted_share(
    opened: Tensor, rows: WordsPiece, mask: Tensor, first: bool, bits: int, width: int
) -> tuple[Tensor, Words]:
    if _plain_short(opened, bits, width) or rows.shape[0] != 2 or mask.shape != opened.shape:
        return short.lifted_share(opened, rows, mask, first, bits, width)
    out, upper = _empty(opened.shape), _words((opened.numel(),))
    core.lift(out, upper, opened, _word_source(rows), mask, first, _threads())
    return out, upper


def gated_lift(
    opened: Tensor,
    rows: WordsPiece,
    mask: Tensor,
    dealt: RingPiece,
    flip: Tensor,
    bit: Tensor,
    first: bool,
    bits: int,
    width: int,
) -> Tensor:
    if _plain_short(opened, bits, width) or not _same(opened.shape, mask, dealt, flip, bit):
        return short.gated_lift(opened, rows, mask, dealt, flip, bit, first, bits, width)
    out = _empty(opened.shape)
    core.lift_gated(out, opened, _word_source(rows), mask, _source(dealt), flip, bit, first, _threads())
    return out


def complete(opened: Tensor, upper: Words, bits: int, width: int) -> Tensor:
    if _plain_short(opened, bits, width):
        return short.complete(opened, upper, bits, width)
    out = _empty(opened.shape)
    core.complete(out, opened, _array(upper), _threads())
    return out


def _word_source(rows: WordsPiece) -> Any:
    """All bits of words as the module takes them."""
    found = _source(rows)
    return _array(found) if isinstance(found, np.ndarray) else found


# --- comparison -----------------------------------------------------------------------------------------------------


def unary_tables(mask: Tensor, width: int, chunk: int, pads: WordsPads = (), n_chunks: int | None = None) -> Words:
    if chunk != 4 or width < 64:
        return gate_steps.unary_tables(mask, width, chunk, pads, n_chunks)
    out = _words((16, mask.numel()))
    upper = out[16 - (n_chunks or 16) :]
    pairs = _pairs(pads) if len(upper) == 16 else None
    keep = _word_mask(pads[0].valid) if pads else _RING
    core.unary_tables(out, pairs or (), None, mask, False, width > 64, keep, _threads())
    if pairs is None:
        for pad in pads:
            np.bitwise_xor(upper, pad.held().reshape(upper.shape), out=upper)
    return upper


def unary_leaf(
    opened: Tensor,
    tables: WordsPiece,
    thresholds: Sequence[int],
    negate: bool,
    first: bool,
    width: int,
    chunk: int,
    whole: bool = False,
) -> tuple[Bits, Bits, Bits]:
    if chunk != 4 or width != 64:
        return gate_steps.unary_leaf(opened, tables, thresholds, negate, first, width, chunk, whole)
    n_bytes = -(-opened.numel() // 8)
    less = _packed((16, len(thresholds), n_bytes))
    equal = _packed(less.shape)
    tops = _packed((len(thresholds), n_bytes))
    values = [t & _RING for t in thresholds]
    left_out = 16 - tables.shape[0]
    if left_out:
        # the kernel reads all rows; what it makes of the lower ones is not used
        held = drawn.words(tables).reshape(16 - left_out, -1)
        tables = np.concatenate([np.zeros((left_out, held.shape[1]), dtype=np.uint16), held])
    keep = _word_mask(tables.valid) if isinstance(tables, DrawnWords) else _RING
    table = _source(tables)
    table = _array(table) if isinstance(table, np.ndarray) else table
    core.unary_leaf(less, equal, tops, opened, table, keep, values, negate, whole, first, _threads())
    return less[left_out:], equal[left_out:], tops


def pack_bits(bits: np.ndarray[Any, Any]) -> Bits:
    if bits.dtype.itemsize != 1 or bits.ndim == 0:
        return reference.pack_bits(bits)
    count = bits.shape[-1]
    rows = bits.size // max(count, 1)
    out = _packed((*bits.shape[:-1], -(-count // 8)))
    if out.size:
        core.pack_bits(out, _array(bits), rows, count, _threads())
    return out


def unpack_bits(packed: Bits, count: int) -> Bits:
    if packed.ndim == 0 or -(-count // 8) != packed.shape[-1]:
        return reference.unpack_bits(packed, count)
    rows = packed.size // max(packed.shape[-1], 1)
    out = _packed((*packed.shape[:-1], count))
    if out.size:
        core.unpack_bits(out, _array(packed), rows, count, _threads())
    return out


def pack_top_bits(x: Tensor, width: int) -> Bits:
    if width != 64 or x.dim() != 1:
        return gate_steps.pack_top_bits(x, width)
    out = _packed((-(-x.numel() // 8),))
    core.pack_top_bits(out, x, 1, x.numel(), _threads())
    return out


def unpack_to_ring(packed: Bits, count: int, shape: tuple[int, ...]) -> Tensor:
    if packed.ndim != 2 or -(-count // 8) != packed.shape[-1]:
        return gate_steps.unpack_to_ring(packed, count, shape)
    out = _empty((len(packed), *shape))
    core.unpack_to_ring(out, _array(packed), len(packed), count, _threads())
    return out


# --- trees of ANDs --------------------------------------------------------------------------------------------------

_AND, _TO_XOR, _ADD_AND, _ADD_XOR, _COPY = range(5)
_Steps = list[tuple[int, int, int, int]]


class _Builder:
    """Writes the steps of a program on planes: inputs, then outputs, then temporaries, which it numbers itself."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        self.steps: _Steps = []
        self.n_inputs = n_inputs
        self.n_outputs = n_outputs
        self.temporaries = 0
        self._written: set[int] = set()
        self._products: dict[tuple[int, ...], int] = {}

    def output(self, place: int) -> int:
        return self.n_inputs + place

    def product(self, planes: tuple[int, ...]) -> int:
        """The plane that holds the AND of ``planes`` (at least one), computed once."""
        if len(planes) == 1:
            return planes[0]
        if planes not in self._products:
            left = self.product(planes[:-1])
            place = self.n_inputs + self.n_outputs + self.temporaries
            self.temporaries += 1
            self.steps.append((_AND, place, left, planes[-1]))
            self._products[planes] = place
        return self._products[planes]

    def add(self, to: int, a: int, b: int | None = None) -> None:
        """to ^= a, or a & b; the first time, to = that."""
        fresh = to not in self._written
        self._written.add(to)
        if b is None:
            self.steps.append((_COPY if fresh else _ADD_XOR, to, a, a))
        else:
            self.steps.append((_AND if fresh else _ADD_AND, to, a, b))

    def program(self) -> Any:
        return core.Program(self.steps, self.n_inputs, self.n_outputs, self.temporaries)


@cache
def _monomial_program(plan: and_tree.Node) -> Any:
    n_masks = len(plan.variables)
    build = _Builder(n_masks, len(plan.monomials))
    place: dict[frozenset[int], int] = {frozenset((v,)): v for v in range(n_masks)}
    for row, subset in enumerate(plan.monomials):
        ordered = sorted(subset)
        rest = frozenset(ordered[:-1])
        # a smaller product comes first in every plan; if not, it becomes a temporary
        left = place[rest] if rest in place else build.product(tuple(ordered[:-1]))
        build.add(build.output(row), left, ordered[-1])
        place[subset] = build.output(row)
    return build.program()


def _planes(piece: BitsPiece) -> Any:
    """Input planes as the module takes them: an array, or (how many, keystreams)."""
    if isinstance(piece, DrawnBits):
        if _drawable(piece):
            return piece.shape[0], (_pair(piece),)
        piece = piece.held()
    return _array(piece)


def monomials(plan: and_tree.Node, masks: Bits) -> Bits:
    out = _packed((len(plan.monomials), *masks.shape[1:]))
    if out.size:
        _monomial_program(plan).run((_array(masks),), (out,), (), out[0].size, _threads())
    return out


def dealt_monomials(plan: and_tree.Node, masks: BitsPads, pads: BitsPads) -> Bits:
    pairs = _pairs([*masks, *pads])
    if pairs is None:
        return and_tree.dealt_monomials(plan, masks, pads)
    shape = masks[0].shape
    out = _packed((len(plan.monomials), *shape[1:]))
    if out.size:
        drawn_masks = shape[0], pairs[: len(masks)]
        _monomial_program(plan).run((drawn_masks,), (out,), (pairs[len(masks) :],), out[0].size, _threads())
    return out


def _add_product(
    build: _Builder, to: int, term: frozenset[int], plan: and_tree.Node, first: bool, offsets: tuple[int, int, int]
) -> None:
    """to ^= this party's share of the product of ``term``, as in ``and_tree``."""
    opened, masks, dealt = offsets
    place = {subset: row for row, subset in enumerate(plan.monomials)}
    ordered = sorted(term)
    for count in range(len(ordered) + 1):
        for outside in combinations(ordered, count):
            inside = term - frozenset(outside)
            if not inside:
                if first:
                    build.add(to, build.product(tuple(opened + v for v in outside)))
                continue
            share = masks + next(iter(inside)) if len(inside) == 1 else dealt + place[inside]
            if outside:
                build.add(to, build.product(tuple(opened + v for v in outside)), share)
            else:
                build.add(to, share)


@cache
def _node_program(plan: and_tree.Node, first: bool, product_alone: bool) -> Any:
    """Inputs: [the upper lt,] openings, masks, monomials; outputs: [less,] [equal]."""
    head = 0 if product_alone else 1
    n = len(plan.variables)
    build = _Builder(head + 2 * n + len(plan.monomials), head + (plan.equal is not None))
    offsets = (head, head + n, head + 2 * n)
    if not product_alone:
        build.add(build.output(0), 0)
        for term in plan.less:
            _add_product(build, build.output(0), term, plan, first, offsets)
    if plan.equal is not None:
        _add_product(build, build.output(head), plan.equal, plan, first, offsets)
    return build.program()


def evaluate_node(
    plan: and_tree.Node, lt_top: Bits, opened: Bits, masks: BitsPiece, dealt: BitsPiece, first: bool
) -> tuple[Bits, Bits | None]:
    less = _packed(lt_top.shape)
    equal = None if plan.equal is None else _packed(lt_top.shape)
    if less.size:
        inputs = (_array(lt_top), _array(opened), _planes(masks), _planes(dealt))
        outputs = (less,) if equal is None else (less, equal)
        _node_program(plan, first, False).run(inputs, outputs, (), less.size, _threads())
    return less, equal


def evaluate_product(plan: and_tree.Node, opened: Bits, masks: BitsPiece, dealt: BitsPiece, first: bool) -> Bits:
    out = _packed(opened.shape[1:])
    if out.size:
        inputs = (_array(opened), _planes(masks), _planes(dealt))
        _node_program(plan, first, True).run(inputs, (out,), (), out.size, _threads())
    return out


@cache
def _gather_program(group: and_tree.Group, n_chunks: int) -> Any:
    n_groups = len(group.chunks)
    n = len(group.plan.variables) * n_groups
    build = _Builder(2 * n_chunks + n, n)
    for row, (kind, k) in enumerate(group.plan.variables):
        for g, members in enumerate(group.chunks):
            source = members[k] + (n_chunks if kind == "e" else 0)
            place = row * n_groups + g
            build.steps.append((_TO_XOR, build.output(place), source, 2 * n_chunks + place))
    return build.program()


def gather_masked(group: and_tree.Group, lt: Bits, eq: Bits, mask: BitsPiece) -> Bits:
    """``and_tree.gather(group, lt, eq) ^ mask`` in one pass."""
    out = _packed(mask.shape)
    if out.size:
        inputs = (_array(lt), _array(eq), _planes(mask))
        size = lt[0].size
        count = out.size // size
        if isinstance(mask, DrawnBits) and isinstance(inputs[2], tuple):
            inputs = (*inputs[:2], (count, inputs[2][1]))
        _gather_program(group, len(lt)).run(inputs, (out,), (), size, _threads())
    return out


# --- bits -----------------------------------------------------------------------------------------------------------


def bit_share(flip: Tensor, bit: Tensor, first: bool) -> Tensor:
    if flip.shape != bit.shape or not flip.is_cpu:
        return gate_steps.bit_share(flip, bit, first)
    out = _empty(flip.shape)
    core.bit_to_ring(out, flip, bit, first, _threads())
    return out


def weighed_bits(
    flips: Sequence[Tensor], bits: Sequence[Tensor], weights: Sequence[int], constant: int, first: bool, width: int
) -> Tensor:
    shape = flips[0].shape
    if width != 64 or not flips[0].is_cpu or not _same(shape, *flips[1:], *bits):
        return gate_steps.weighed_bits(flips, bits, weights, constant, first, width)
    out = _empty(shape)
    core.weigh_bits(out, flips, bits, [w & _RING for w in weights], constant & _RING, first, _threads())
    return out


def selection_masks(bit: Tensor, mask: Tensor, width: int, pads: RingPads = ()) -> Tensor:
    if width != 64 or not mask.is_cpu or bit.shape != mask.shape:
        return gate_steps.selection_masks(bit, mask, width, pads)
    pairs = _pairs(pads)
    out = _empty(mask.shape)
    core.select_masks(out, pairs or (), bit, mask, _threads())
    return less_pads(out, pads, 64, True) if pairs is None else out


def selected_share(flip: Tensor, opened: Tensor, bit: Tensor, dealt: RingPiece, share: Tensor, width: int) -> Tensor:
    if width != 64 or not opened.is_cpu or not _same(opened.shape, flip, bit, dealt, share):
        return gate_steps.selected_share(flip, opened, bit, dealt, share, width)
    out = _empty(opened.shape)
    core.select(out, flip, opened, bit, _source(dealt), share, _threads())
    return out
