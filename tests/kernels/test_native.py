"""Every native kernel against its reference twin, bit for bit, at every level that this processor has."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from torchveil.errors import ProtocolError
from torchveil.kernels import and_tree, chunks, drawn, gate_steps, native, reference, short
from torchveil.randomness import Stream

if native.core is None:
    message = "torchveil_native is not installed: NO NATIVE KERNEL IS TESTED (pip install ./native)"
    warnings.warn(message, stacklevel=1)
    pytest.skip(message, allow_module_level=True)

TOP = native.core.level()
LEVELS = ["portable", "avx2", "avx512"][: ["portable", "avx2", "avx512"].index(TOP) + 1]
SHAPES = [(), (0,), (1,), (7,), (8,), (9,), (31,), (33,), (64,), (257,), (3, 0, 2), (5, 13), (2, 3, 37)]
DIVISORS = [1, 2, 3, 7, 10, 1000, 1 << 16, (1 << 16) + 1, 3 << 20, 641, (1 << 32) - 1, (1 << 32) + 1, 1 << 61]
DIVISORS += [(1 << 62) - 1, (1 << 61) + 1, 0xFFFFFFFFFFFF]
KEY = bytes(range(16))


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    assert native.core.set_level(request.param)
    yield request.param
    native.core.set_level(TOP)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


EDGES = torch.tensor(
    [0, 1, -1, 2, 7, 8, 15, 16, 1 << 62, -(1 << 62), (1 << 63) - 1, -(1 << 63), 1 << 32, (1 << 32) - 1]
)


def ring(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Ring elements over the whole range, the corners among them."""
    generator = torch.Generator().manual_seed(seed)
    high, low = (torch.randint(-(1 << 31), 1 << 31, shape, generator=generator) for _ in range(2))
    x = (high << 32) + low
    corner = EDGES[torch.randint(0, len(EDGES), shape, generator=generator)]
    return torch.where(torch.randint(0, 4, shape, generator=generator) == 0, corner, x)


def bits(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed))


def plane(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def layouts(x: Tensor) -> list[Tensor]:
    """x in several memory layouts: contiguous, transposed, every other element, backwards in steps, offset."""
    out = [x.contiguous()]
    if x.dim() >= 2:
        out.append(x.transpose(-1, -2).contiguous().transpose(-1, -2))
        spread = torch.zeros((*x.shape[:-1], 2 * x.shape[-1] + 1), dtype=x.dtype)
        spread[..., 1::2] = x
        out.append(spread[..., 1::2])
        out.append(spread[..., 1::2].transpose(-1, -2).contiguous().transpose(-1, -2))
    return out


def check(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> None:
    assert tuple(found.shape) == tuple(expected.shape)
    assert found.dtype == expected.dtype
    if isinstance(found, Tensor):
        assert torch.equal(found, expected)
    else:
        assert np.array_equal(found, expected)


# --- matmul ----------------------------------------------------------------------------------------------------------

PRODUCTS = [
    *itertools.product([1, 3, 8, 25], [1, 8, 19], [1, 7, 24, 41]),
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (128, 784, 10),
    (10, 128, 100),
    (200, 333, 50),
    (50, 161, 500),
]


@pytest.mark.parametrize("size", PRODUCTS)
def test_mm(level: str, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    m, k, n = size
    monkeypatch.setattr(native, "_SMALL", -1)
    x, y = ring((m, k), 1), ring((k, n), 2)
    expected = torch.mm(x, y)
    for left, right in itertools.product(layouts(x), layouts(y)):
        check(native.mm(left, right), expected)
    check(native.mm(x[:1].expand(m, k), y) if m else expected, torch.mm(x[:1].expand(m, k), y) if m else expected)


@pytest.mark.parametrize("size", [(0, 2, 3, 4), (1, 5, 6, 7), (3, 9, 17, 26), (7, 1, 30, 1), (2, 70, 170, 30)])
def test_bmm(level: str, threads: int, size: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    b, m, k, n = size
    monkeypatch.setattr(native, "_SMALL", -1)
    x, y = ring((b, m, k), 1), ring((b, k, n), 2)
    expected = torch.bmm(x, y)
    for left, right in itertools.product(layouts(x), layouts(y)):
        check(native.bmm(left, right), expected)
    shared = y[:1].expand(b, k, n)
    check(native.bmm(x, shared), torch.bmm(x, shared))


def test_large_products_on_several_threads(level: str, threads: int) -> None:
    for m, k, n in [(300, 301, 302), (1000, 40, 30), (30, 40, 1000), (128, 784, 128)]:
        x, y = ring((m, k), 1), ring((k, n), 2)
        check(native.mm(x, y), torch.mm(x, y))
        check(native.mm(y.t(), x.t()), torch.mm(y.t(), x.t()))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("function", ["mm", "bmm", "mul", "broadcast"])
def test_product_share(level: str, function: str, first: bool) -> None:
    shapes = {
        "mm": ((33, 20), (20, 11), (33, 11)),
        "bmm": ((3, 9, 20), (3, 20, 11), (3, 9, 11)),
        "mul": ((5, 7), (5, 7), (5, 7)),
        "broadcast": ((5, 7), (7,), (5, 7)),
    }
    sx, sy, so = shapes[function]
    name = "mul" if function == "broadcast" else function
    x, a, y, b, dealt = ring(sx, 1), ring(sx, 2), ring(sy, 3), ring(sy, 4), ring(so, 5)
    expected = gate_steps.product_share(name, dealt, x, a, y, b, first, {}, 64)
    for piece in layouts(dealt):  # which may be overwritten
        check(native.product_share(name, piece.clone(), x, a, y, b, first, {}, 64), expected)
    for i in range(len(layouts(x))):
        # opening and mask of one wire need not lie in memory alike
        mixed = [layouts(t)[(i + j) % len(layouts(t))] for j, t in enumerate((x, a, y, b))]
        check(native.product_share(name, dealt.clone(), *mixed, first, {}, 64), expected)


CONVOLUTIONS = [
    # x, w, stride, padding, dilation, groups
    ((2, 3, 8, 9), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 1, 28, 28), (6, 1, 5, 5), (1, 1), (2, 2), (1, 1), 1),
    ((3, 2, 9, 8), (5, 2, 3, 2), (2, 3), (0, 1), (1, 2), 1),
    ((2, 4, 7, 7), (6, 2, 3, 3), (2, 2), (1, 1), (1, 1), 2),
    ((2, 4, 5, 5), (4, 1, 1, 1), (1, 1), (0, 0), (1, 1), 4),
    ((0, 3, 8, 8), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(level: str, case: tuple) -> None:
    sx, sw, stride, padding, dilation, groups = case
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x, w = ring(sx, 1), ring(sw, 2)
    out = reference.conv2d(x, w, **options)
    check(native.conv2d(x, w, **options), out)
    check(native.conv2d(x.to(memory_format=torch.channels_last), w, **options), out)
    grad = ring(tuple(out.shape), 3)
    spread = grad.to(memory_format=torch.channels_last)
    weight = reference.conv2d_weight_grad(x, grad, kernel=sw[2:], **options)
    for g in (grad, spread):
        check(native.conv2d_weight_grad(x, g, kernel=sw[2:], **options), weight)
        check(
            native.conv2d_input_grad(g, w, size=sx[2:], **options),
            reference.conv2d_input_grad(grad, w, size=sx[2:], **options),
        )
    a, b = ring(sx, 4), ring(sw, 5)
    for first in (True, False):
        check(
            native.product_share("conv2d", grad.clone(), x, a, w, b, first, options, 64),
            gate_steps.product_share("conv2d", grad, x, a, w, b, first, options, 64),
        )
        gradient = {**options, "kernel": sw[2:]}
        check(
            native.product_share("conv2d_weight_grad", b.clone(), x, a, grad, spread, first, gradient, 64),
            gate_steps.product_share("conv2d_weight_grad", b, x, a, grad, spread, first, gradient, 64),
        )


def test_real_magnitudes_pass_through() -> None:
    x, w = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(4, 3, 3, 3, dtype=torch.float64)
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    for name, operands, more in [
        ("conv2d", (x, w), {}),
        ("conv2d_weight_grad", (x, torch.rand(2, 4, 8, 8, dtype=torch.float64)), {"kernel": (3, 3)}),
        ("conv2d_input_grad", (torch.rand(2, 4, 8, 8, dtype=torch.float64), w), {"size": (8, 8)}),
    ]:
        check(
            native.BILINEAR[name](*operands, **options, **more), reference.BILINEAR[name](*operands, **options, **more)
        )
    large = torch.rand(3, 50, 50, dtype=torch.float64)
    check(native.mm(large[0], large[1]), torch.mm(large[0], large[1]))
    check(native.bmm(large, large), torch.bmm(large, large))


def test_shapes_are_inferred_on_meta() -> None:
    x, w = (torch.empty(shape, dtype=torch.int64, device="meta") for shape in [(2, 3, 8, 8), (4, 3, 3, 3)])
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    out = native.BILINEAR["conv2d"](x, w, **options)
    assert out.shape == (2, 4, 8, 8)
    assert native.BILINEAR["conv2d_weight_grad"](x, out, kernel=(3, 3), **options).shape == w.shape
    assert native.BILINEAR["conv2d_input_grad"](out, w, size=(8, 8), **options).shape == x.shape
    assert native.mm(x[0, 0].repeat(9, 9), x[0, 0].repeat(9, 9)).shape == (72, 72)
    assert native.bmm(x[0].repeat(1, 9, 9), x[0].repeat(1, 9, 9)).shape == (3, 72, 72)


def test_operands_that_do_not_fit_are_refused(level: str) -> None:
    with pytest.raises(ValueError, match="shapes do not fit"):
        native.core.matmul(ring((2, 5)), [(ring((2, 3)), ring((4, 5)), None, False)], False, 1)
    with pytest.raises(TypeError, match="int64"):
        native.core.matmul(ring((2, 5)), [(ring((2, 3)).to(torch.int32), ring((3, 5)), None, False)], False, 1)
    with pytest.raises(TypeError, match="plain torch"):
        parameter = torch.nn.Parameter(ring((2, 3)), requires_grad=False)
        native.core.matmul(ring((2, 5)), [(parameter, ring((3, 5)), None, False)], False, 1)
    with pytest.raises(ValueError, match="another size"):
        native.core.divide(ring((3,)), ring((4,)), 3, 1)
    with pytest.raises(ValueError, match="divisor"):
        native.divide_unsigned(ring((3,)), 0, 64)
    with pytest.raises(ValueError, match="contiguous"):
        native.core.divide(ring((6,))[::2], ring((3,)), 3, 1)
    with pytest.raises(TypeError, match="int64"):
        native.core.divide(ring((3,)), ring((3,)).to(torch.int32), 3, 1)
    with pytest.raises(ValueError, match="two pieces"):
        native.core.add_pieces(ring((3,)), (ring((3,)),), 1)


# --- keystream -------------------------------------------------------------------------------------------------------

LABELS = [(0, 0), (1, 0), (0, 1), (2**48 - 1, 2**16 - 1), (0x0102030405, 0x0607)]
COUNTS = [0, 1, 2, 3, 63, 64, 65, 127, 129, 1000]


@pytest.mark.parametrize("label", LABELS)
def test_streams_are_the_same_bytes(level: str, label: tuple[int, int]) -> None:
    plain, fast = Stream(KEY), native.NativeStream(KEY)
    for count in COUNTS:
        check(fast.ring(*label, (count,), 64), plain.ring(*label, (count,), 64))
        check(fast.ring(*label, (count,), 5), plain.ring(*label, (count,), 5))
        check(fast.bits(*label, (count,)), plain.bits(*label, (count,)))
        check(fast.words(*label, (count,), 16), plain.words(*label, (count,), 16))
        check(fast.words(*label, (count,), 15), plain.words(*label, (count,), 15))
    check(fast.ring(*label, (), 64), plain.ring(*label, (), 64))
    check(fast.bits(*label, (3, 0, 2)), plain.bits(*label, (3, 0, 2)))
    check(fast.bits(*label, (3, 5, 7)), plain.bits(*label, (3, 5, 7)))


def test_key_schedules(level: str) -> None:
    """The zero block under the zero key is the hash key of GCM test case 1; other keys against ``cryptography``."""
    zero = native.NativeStream(bytes(16)).bits(0, 0, (16,))
    assert zero.tobytes().hex() == "66e94bd4ef8a2c3b884cfa59ca342b2e"
    generator = np.random.default_rng(5)
    for key in [b"\xff" * 16, *(generator.bytes(16) for _ in range(50))]:
        check(native.NativeStream(key).bits(9, 9, (100,)), Stream(key).bits(9, 9, (100,)))


def test_long_streams_on_several_threads(level: str, threads: int) -> None:
    plain, fast = Stream(KEY), native.NativeStream(KEY)
    check(fast.ring(3, 4, (200_003,), 64), plain.ring(3, 4, (200_003,), 64))
    check(fast.bits(3, 4, (1_500_001,)), plain.bits(3, 4, (1_500_001,)))
    value = ring((200_003,))
    check(native.subtract_stream(value, fast, 1, 2, 64), gate_steps.subtract_stream(value, plain, 1, 2, 64))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [64, 5])
def test_streams_combined_with_values(level: str, shape: tuple[int, ...], width: int) -> None:
    plain, fast = Stream(KEY), native.NativeStream(KEY)
    for stream in (plain, fast):
        for value in layouts(reference.reduce_ring(ring(shape), width)):
            check(
                native.subtract_stream(value, stream, 1, 2, width),
                gate_steps.subtract_stream(value, plain, 1, 2, width),
            )
            for found, expected in zip(
                native.mask_value(value, stream, 1, 2, width),
                gate_steps.mask_value(value, plain, 1, 2, width),
                strict=True,
            ):
                check(found, expected)
            total = value.clone(memory_format=torch.contiguous_format)
            expected = gate_steps.add_stream(total.clone(), plain, 1, 2, width)
            check(native.add_stream(total, stream, 1, 2, width), expected)
        packed = plane((3, *shape))
        check(native.xor_bits(packed, stream, 1, 2), gate_steps.xor_bits(packed, plain, 1, 2))
        words = plane((2, *shape)).astype(np.uint16)
        check(native.xor_words(words, stream, 1, 2, 15), gate_steps.xor_words(words, plain, 1, 2, 15))


def test_labels_out_of_range_raise() -> None:
    stream = native.NativeStream(KEY)
    for number, slot in [(-1, 0), (2**48, 0), (0, -1), (0, 2**16)]:
        with pytest.raises(ProtocolError):
            stream.ring(number, slot, (3,), 64)
        with pytest.raises(ProtocolError):
            native.subtract_stream(ring((3,)), stream, number, slot, 64)


def test_streams_show_and_copy_nothing() -> None:
    stream = native.NativeStream(KEY)
    assert repr(stream) == "<Stream>"
    assert repr(native.core.Keystream(KEY)) == "<Keystream>"
    with pytest.raises(ProtocolError):
        stream.__reduce_ex__(4)
    with pytest.raises(TypeError):
        native.core.Keystream(KEY).__reduce_ex__(4)
    with pytest.raises(ValueError, match="16 bytes"):
        native.core.Keystream(bytes(15))


# --- truncation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", DIVISORS)
def test_divide_unsigned(level: str, divisor: int) -> None:
    multiples = (torch.arange(-200, 200) * divisor).repeat_interleave(3) + torch.tensor([-1, 0, 1]).repeat(400)
    for x in [ring((5000,)), multiples, EDGES]:
        check(native.divide_unsigned(x, divisor, 64), reference.divide_unsigned(x, divisor, 64))


def test_divide_unsigned_by_many_divisors(level: str) -> None:
    x = torch.cat([ring((500,)), EDGES])
    draws = torch.randint(0, 62, (300,), generator=torch.Generator().manual_seed(3)).tolist()
    for place, n_bits in enumerate(draws):
        divisor = max(1, int(ring((1,), place).item()) % (1 << (n_bits + 1)) % ((1 << 62) - 1))
        check(native.divide_unsigned(x, divisor, 64), reference.divide_unsigned(x, divisor, 64))


@pytest.mark.parametrize("width", [64, 8])
@pytest.mark.parametrize("divisor", [1, 2, 3, 10])
@pytest.mark.parametrize("shape", SHAPES)
def test_truncation_of_every_shape(level: str, shape: tuple[int, ...], divisor: int, width: int) -> None:
    truncation(shape, divisor, width)


@pytest.mark.parametrize("divisor", DIVISORS)
def test_truncation_by_every_divisor(level: str, divisor: int) -> None:
    truncation((4000,), divisor, 64)


def test_truncation_on_several_threads(level: str, threads: int) -> None:
    truncation((150_001,), 1000, 64)


def truncation(shape: tuple[int, ...], divisor: int, width: int) -> None:
    def value(seed: int) -> Tensor:
        return reference.reduce_ring(ring(shape, seed), width)

    bit, flip = bits(shape, 9), bits(shape, 10)
    for layout in range(len(layouts(value(0)))):
        r = layouts(value(1))[layout]
        for gate in (None, bit):
            found = native.mask_quotients(r, gate, divisor, width)
            expected = gate_steps.mask_quotients(r, gate, divisor, width)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                check(one, other)
        pieces = [layouts(value(2 + i))[(layout + i) % len(layouts(value(0)))] for i in range(4)]
        share = value(7)
        for first in (True, False):
            plain = (r, pieces[:1], pieces[1:2], None, first, divisor, width)
            check(native.truncated_share(*plain), gate_steps.truncated_share(*plain))
            gated = (r, pieces[:2], pieces[2:], (flip, share), first, divisor, width)
            check(native.truncated_share(*gated), gate_steps.truncated_share(*gated))


# --- comparison ------------------------------------------------------------------------------------------------------

ELEMENTS = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 1000]
THRESHOLDS = [(0,), (1, -1), (-(1 << 63), (1 << 63) - 1, 12345), ((1 << 64) - 5,)]


@pytest.mark.parametrize(("width", "chunk"), [(64, 4), (65, 4), (8, 1)])
@pytest.mark.parametrize("count", ELEMENTS)
def test_unary_tables(level: str, count: int, width: int, chunk: int) -> None:
    mask = reference.reduce_ring(ring((count,)), min(width, 64))
    for x in (mask, torch.stack([mask, mask], 1)[:, 0]):
        check(native.unary_tables(x, width, chunk), chunks.unary_tables(x, width, chunk))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("count", ELEMENTS)
def test_unary_leaf(level: str, count: int, negate: bool, first: bool, whole: bool) -> None:
    opened = ring((count,), 1)
    tables = plane((16, count, 2), 2).view(np.uint16)[..., 0] & np.uint16(0x7FFF)
    for thresholds in THRESHOLDS:
        signed = tuple((t + (1 << 63)) % (1 << 64) - (1 << 63) for t in thresholds)
        arguments = (negate, first, 64, 4, whole)
        found = native.unary_leaf(opened, tables, thresholds, *arguments)
        for one, other in zip(found, gate_steps.unary_leaf(opened, tables, signed, *arguments), strict=True):
            check(one, other)


def test_unary_leaf_of_other_layouts(level: str, threads: int) -> None:
    opened = ring((40_000, 2), 1)
    tables = plane((80_000, 16, 2), 2).view(np.uint16)[..., 0].T & np.uint16(0x7FFF)
    found = native.unary_leaf(opened.t(), tables, (5, 6), False, True, 64, 4)
    expected = gate_steps.unary_leaf(opened.t(), tables, (5, 6), False, True, 64, 4)
    for one, other in zip(found, expected, strict=True):
        check(one, other)
    check(native.unary_tables(opened.view(-1), 64, 4), chunks.unary_tables(opened.view(-1), 64, 4))
    small = reference.reduce_ring(ring((9,), 1), 8)
    table = chunks.unary_tables(small, 8, 1)
    found = native.unary_leaf(small, table, (3,), False, True, 8, 1)
    for one, other in zip(found, gate_steps.unary_leaf(small, table, (3,), False, True, 8, 1), strict=True):
        check(one, other)


# --- trees of ANDs ---------------------------------------------------------------------------------------------------

PLANE_SHAPES = [(1, 1, 1), (3, 1, 5), (3, 2, 16), (1, 1, 511), (2, 1, 512), (1, 3, 1000), (2, 2, 0), (3, 1, 20_000)]
NODES = [and_tree.node(size, equal) for size in (1, 2, 3, 4) for equal in (False, True)]


@pytest.mark.parametrize("shape", PLANE_SHAPES)
def test_nodes(level: str, threads: int, shape: tuple[int, ...]) -> None:
    for plan in NODES:
        n = len(plan.variables)
        opened, masks, dealt = plane((n, *shape), 1), plane((n, *shape), 2), plane((len(plan.monomials), *shape), 3)
        lt_top = plane(shape, 4)
        check(native.monomials(plan, masks), and_tree.monomials(plan, masks))
        for first in (True, False):
            found = native.evaluate_node(plan, lt_top, opened, masks, dealt, first)
            expected = and_tree.evaluate_node(plan, lt_top, opened, masks, dealt, first)
            check(found[0], expected[0])
            if expected[1] is None:
                assert found[1] is None
            else:
                assert found[1] is not None
                check(found[1], expected[1])
    for size in (2, 3, 4, 6):
        plan = and_tree.product_node(size)
        opened, masks = plane((size, *shape), 1), plane((size, *shape), 2)
        dealt = plane((len(plan.monomials), *shape), 3)
        check(native.monomials(plan, masks), and_tree.monomials(plan, masks))
        for first in (True, False):
            check(
                native.evaluate_product(plan, opened, masks, dealt, first),
                and_tree.evaluate_product(plan, opened, masks, dealt, first),
            )


@pytest.mark.parametrize("chunk_count", [2, 5, 7, 16])
@pytest.mark.parametrize("fan_in", [2, 4])
def test_gathered_planes(level: str, chunk_count: int, fan_in: int) -> None:
    for n_bytes in (0, 1, 9, 600):
        lt, eq = plane((chunk_count, 2, n_bytes), 1), plane((chunk_count, 2, n_bytes), 2)
        for group in and_tree.levels(chunk_count, fan_in)[0]:
            values = and_tree.gather(group, lt, eq)
            mask = plane(values.shape, 3)
            check(native.gather_masked(group, lt, eq, mask), values ^ mask)


def test_programs_are_checked() -> None:
    program = native.core.Program
    with pytest.raises(ValueError, match="writes to an input"):
        program([(0, 0, 0, 0)], 1, 1, 0)
    with pytest.raises(ValueError, match="reads no plane"):
        program([(0, 1, 0, 2)], 1, 1, 0)
    with pytest.raises(ValueError, match="a step is"):
        program([(5, 1, 0, 0)], 1, 1, 0)
    ready = program([(4, 1, 0, 0)], 1, 1, 0)
    with pytest.raises(ValueError, match="input planes"):
        ready.run((plane((2, 8)),), (plane((1, 8)),), (), 8, 1)
    with pytest.raises(ValueError, match="output planes"):
        ready.run((plane((1, 8)),), (plane((2, 8)),), (), 8, 1)
    with pytest.raises(ValueError, match="whole planes"):
        ready.run((plane((1, 9)),), (plane((1, 8)),), (), 8, 1)
    frozen = plane((1, 8))
    frozen.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        ready.run((plane((1, 8)),), (frozen,), (), 8, 1)
    ready.run((frozen,), (plane((1, 8)),), (), 8, 1)
    key = native.core.Keystream(KEY)
    with pytest.raises(ValueError, match="without a keystream"):
        ready.run(((1, ()),), (plane((1, 8)),), (), 8, 1)
    with pytest.raises(ValueError, match="a pair" if native.core.has_aes() else "no AES"):
        ready.run(((1, ((key, 1, 2),)),), (plane((1, 8)),), (), 8, 1)
    with pytest.raises(ValueError, match="some outputs only"):
        ready.run((frozen,), (plane((1, 8)),), ((), ()), 8, 1)


# --- bits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [*ELEMENTS, 70_001])
def test_packing(level: str, threads: int, count: int) -> None:
    n_bytes = -(-count // 8)
    for lead in [(), (1,), (3,), (2, 2)]:
        unpacked = plane((*lead, count), 1) & np.uint8(1)
        check(native.pack_bits(unpacked), reference.pack_bits(unpacked))
        check(native.pack_bits(unpacked.astype(bool)), reference.pack_bits(unpacked.astype(bool)))
        packed = plane((*lead, n_bytes), 2)
        check(native.unpack_bits(packed, count), reference.unpack_bits(packed, count))
    packed = plane((3, n_bytes), 3)
    check(native.unpack_to_ring(packed, count, (count,)), gate_steps.unpack_to_ring(packed, count, (count,)))
    check(native.unpack_to_ring(packed, count, (1, count)), gate_steps.unpack_to_ring(packed, count, (1, count)))
    for x in (ring((count,)), torch.stack([ring((count,))] * 2, 1)[:, 1]):
        check(native.pack_top_bits(x, 64), gate_steps.pack_top_bits(x, 64))


def test_zero_dimensional_bits() -> None:
    packed = np.array([[5]], dtype=np.uint8)
    check(native.unpack_to_ring(packed, 1, ()), gate_steps.unpack_to_ring(packed, 1, ()))


@pytest.mark.parametrize("shape", SHAPES)
def test_selection_and_bits(level: str, shape: tuple[int, ...]) -> None:
    flip = bits(shape, 1)
    for i in range(len(layouts(flip))):
        pieces = [layouts(ring(shape, 2 + j))[(i + j) % len(layouts(flip))] for j in range(4)]
        f = layouts(flip)[i]
        check(native.selected_share(f, *pieces, 64), gate_steps.selected_share(f, *pieces, 64))
        small = [reference.reduce_ring(x, 8) for x in pieces]
        check(native.selected_share(f, *small, 8), gate_steps.selected_share(f, *small, 8))
        for first in (True, False):
            check(native.bit_share(f, pieces[0], first), gate_steps.bit_share(f, pieces[0], first))


# --- the module ------------------------------------------------------------------------------------------------------


def test_the_environment_lowers_the_level() -> None:
    for name in LEVELS:
        code = "import torchveil_native as n; print(n.level(), n.has_aes(), n.has_vaes())"
        environment = {**os.environ, "TORCHVEIL_CPU": name}
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert found.stdout.split()[0] == name
        if name == "portable":
            assert found.stdout.split() == ["portable", "False", "False"]


def test_threads_survive_a_fork() -> None:
    # torch's own threads do not survive one, so nothing here may start them
    code = """
import os, sys, torch
from torchveil.kernels import native
torch.set_num_threads(2)
x = torch.arange(500 * 500).view(500, 500)
expected = native.mm(x, x).numpy()
child = os.fork()
if child == 0:
    os._exit(0 if (native.mm(x, x).numpy() == expected).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_many_callers_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    x = ring((300, 300))
    expected = torch.mm(x, x)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: native.mm(x, x), range(64)))
    torch.set_num_threads(before)
    assert all(torch.equal(found, expected) for found in results)


# --- short openings --------------------------------------------------------------------------------------------------

ROWS = [(), (0,), (1,), (7,), (33,), (511,), (512,), (1029,), (3, 0, 2), (5, 13), (40, 3000)]


def words_of(rows: int, count: int) -> np.ndarray:
    found = np.random.default_rng(rows + count).integers(0, 1 << 16, (rows, count), dtype=np.uint16)
    return np.where(found % 5 == 0, np.uint16(65535), found)


def same_packed(found: short.Packed, expected: short.Packed) -> None:
    assert (found.bits, found.shift, found.shape) == (expected.bits, expected.shift, expected.shape)
    for a, b in zip(found.planes, expected.planes, strict=True):
        check(a, b)


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("n_bits", [0, 1, 16, 40, 63])
def test_round_share(level: str, threads: int, shape: tuple[int, ...], up: bool, n_bits: int) -> None:
    for x in layouts(ring(shape)):
        check(native.round_share(x, n_bits, up, 64), short.round_share(x, n_bits, up, 64))


@pytest.mark.parametrize("shape", ROWS)
def test_short_pieces(level: str, threads: int, shape: tuple[int, ...]) -> None:
    pieces = []
    for seed in range(3):
        stream, value = native.NativeStream(KEY), short.round_share(ring(shape, seed), 16, False, 64)
        found, mask = native.mask_short(value, stream, 7, seed, 16, 64)
        expected, wanted_mask = short.mask_short(value, Stream(KEY), 7, seed, 16, 64)
        same_packed(found, expected)
        check(mask, wanted_mask)
        pieces.append(found)
        check(native.add_packed(pieces), short.add_packed(pieces))


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("n_pads", [0, 1, 2])
@pytest.mark.parametrize("gated", [True, False])
def test_lift_rows(level: str, threads: int, shape: tuple[int, ...], n_pads: int, gated: bool) -> None:
    mask, bit = ring(shape, 1), bits(shape, 2) if gated else None
    size = (3 if gated else 2, mask.numel())
    found, expected = (
        [drawn.DrawnWords(kind(KEY), 3, slot, size, 16) for slot in range(n_pads)]
        for kind in (native.NativeStream, Stream)
    )
    (rows, product), (wanted, wanted_product) = (
        native.lift_rows(mask, bit, 16, 64, found), short.lift_rows(mask, bit, 16, 64, expected)
    )  # fmt: skip
    check(rows, wanted)
    assert (product is None) == (wanted_product is None) == (not gated)
    if product is not None and wanted_product is not None:
        check(product, wanted_product)


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_lift(level: str, threads: int, shape: tuple[int, ...], first: bool, in_memory: bool) -> None:
    opened, mask, dealt = short.round_share(ring(shape), 16, False, 64), ring(shape, 1), ring(shape, 2)
    flip, bit, count = bits(shape, 3), ring(shape, 4), mask.numel()
    for rows in (2, 3):
        words: drawn.WordsPiece = words_of(rows, count)
        piece: drawn.RingPiece = dealt
        if not in_memory:
            words = drawn.DrawnWords(native.NativeStream(KEY), 1, 2, (rows, count), 16)
            piece = drawn.DrawnRing(native.NativeStream(KEY), 1, 3, shape, 64)
        if rows == 2:
            (out, upper), (wanted, wanted_upper) = (
                module.lifted_share(opened, words, mask, first, 16, 64) for module in (native, short)
            )
            check(out, wanted)
            check(upper, wanted_upper)
            check(native.complete(opened, upper, 16, 64), short.complete(opened, upper, 16, 64))
        else:
            found, expected = (
                module.gated_lift(opened, words, mask, piece, flip, bit, first, 16, 64) for module in (native, short)
            )
            check(found, expected)


@pytest.mark.parametrize("n_bits", [5, 15])
@pytest.mark.parametrize("width", [20, 64])
def test_other_short_openings_take_the_plain_way(n_bits: int, width: int) -> None:
    value = ring((9,)) & ((1 << width) - 1 if width < 64 else -1)
    rows = words_of(2, 9) & np.uint16((1 << n_bits) - 1)
    arguments = (value, rows, value, True, n_bits, width)
    for found, expected in zip(native.lifted_share(*arguments), short.lifted_share(*arguments), strict=True):
        check(found, expected)
    check(native.round_share(value, n_bits, True, width), short.round_share(value, n_bits, True, width))


@pytest.mark.parametrize(
    ("factors", "constant"),
    [
        ((1,), 5),
        ((3,), 0),
        ((-1,), 0),
        ((1, 1), 0),
        ((1, -1), 7),
        ((1, 2), 0),
        ((-1, 1), 1),
        ((5, -7), -1),
        ((1, 1, 1), 0),
    ],
)
@pytest.mark.parametrize("shape", [(70, 70), (5000,), (3, 0), (12,)])
def test_combination(level: str, threads: int, factors: tuple[int, ...], constant: int, shape: tuple[int, ...]) -> None:
    values = [ring(shape, seed) for seed in range(len(factors))]
    check(native.combination(values, factors, constant), gate_steps.combination(values, factors, constant))
    turned = [x.t() for x in values] if len(shape) == 2 else [x.double() for x in values]
    found, expected = (module.combination(turned, factors, constant) for module in (native, gate_steps))
    check(found, expected)
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("factors", [(1, 1), (1, -3), (2, 1)])
def test_combination_with_an_expanded_value(level: str, factors: tuple[int, int]) -> None:
    x, bias = ring((40, 3, 5, 25), 1), ring((3, 1, 1), 2).expand(40, 3, 5, 25)
    for values in ((x, bias), (bias, x)):
        found, expected = (module.combination(values, factors, 0) for module in (native, gate_steps))
        check(found, expected)
        assert found.stride() == expected.stride()


def test_buffers_of_any_kind() -> None:
    for like in (ring((3,)), torch.zeros(2, dtype=torch.float64), torch.empty(2, dtype=torch.int64, device="meta")):
        for shape in ((4, 5), (1 << 10, 1 << 8), (0,)):
            found = native.empty(like, shape)
            assert (tuple(found.shape), found.dtype, found.device) == (shape, like.dtype, like.device)
            assert found.is_contiguous()
