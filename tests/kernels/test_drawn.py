"""Kernels that draw keystream themselves, against their twins on keystream that was made first; bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.test_native import KEY, LEVELS, SHAPES, TOP, bits, check, layouts, plane, ring
from torchveil.errors import ProtocolError
from torchveil.kernels import and_tree, curves, drawn, gate_steps, native, reference
from torchveil.kernels.drawn import DrawnBits, DrawnRing, DrawnWords
from torchveil.randomness import Stream

KEYS = [KEY, bytes(range(1, 17)), bytes(16)]
PLAIN = [Stream(key) for key in KEYS]
FAST = [native.NativeStream(key) for key in KEYS]
NUMBER = 2**48 - 3


@pytest.fixture(params=LEVELS, autouse=True)
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


def rings(streams: list, slot: int, shape: tuple[int, ...], width: int = 64) -> list[DrawnRing]:
    return [DrawnRing(stream, NUMBER, slot, shape, width) for stream in streams]


def all_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        check(one, other)


# --- naming and making -----------------------------------------------------------------------------------------------


def test_held_pieces_are_the_streams() -> None:
    piece = DrawnRing(PLAIN[0], 5, 6, (3, 4), 64)
    check(drawn.ring(piece), PLAIN[0].ring(5, 6, (3, 4), 64))
    check(drawn.bits(DrawnBits(PLAIN[0], 5, 6, (7,))), PLAIN[0].bits(5, 6, (7,)))
    check(drawn.words(DrawnWords(PLAIN[0], 5, 6, (7,), 15)), PLAIN[0].words(5, 6, (7,), 15))
    value = ring((3,))
    assert drawn.ring(value) is value


def test_a_piece_shows_no_keystream() -> None:
    piece = DrawnRing(FAST[0], 5, 6, (3,), 64)
    assert "<Stream>" in repr(piece)
    assert all(str(int(x)) not in repr(piece) for x in piece.held())


def test_what_the_module_cannot_draw_is_made_first(level: str) -> None:
    assert isinstance(native.keep_drawn(DrawnRing(PLAIN[0], 1, 2, (3,), 64)), Tensor)
    assert isinstance(native.keep_drawn(DrawnRing(FAST[0], 1, 2, (3,), 8)), Tensor)
    assert isinstance(native.keep_drawn(DrawnRing(FAST[0], 1, 2, (3,), 64)), Tensor) == (level == "portable")
    assert isinstance(native.keep_drawn_bits(DrawnBits(PLAIN[0], 1, 2, (3,))), np.ndarray)
    assert isinstance(native.keep_drawn_words(DrawnWords(PLAIN[0], 1, 2, (3,), 15)), np.ndarray)


def test_labels_out_of_range_raise(level: str) -> None:
    opened, zero = ring((3,)), torch.zeros(3, dtype=torch.int64)
    for number, slot in [(-1, 0), (2**48, 0), (0, -1), (0, 2**16)]:
        with pytest.raises(ProtocolError):
            native.selected_share(zero, opened, opened, DrawnRing(FAST[0], number, slot, (3,), 64), opened, 64)


# --- ring elements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 8])
@pytest.mark.parametrize("shape", [*SHAPES, (513,), (1025,)])
def test_steps_on_ring_elements(shape: tuple[int, ...], width: int) -> None:
    bit, flip = bits(shape, 1), bits(shape, 2)
    for layout in range(len(layouts(bit))):
        r, mask, share = (layouts(reference.reduce_ring(ring(shape, s), width))[layout] for s in (3, 4, 5))
        for n in (1, 3):
            plain, fast = (rings(streams[:n], 7, shape, width) for streams in (PLAIN, FAST))
            check(native.selection_masks(bit, mask, width, fast), gate_steps.selection_masks(bit, mask, width, plain))
            for fresh in (False, True):
                check(
                    native.less_pads(r.clone(), fast, width, fresh),
                    gate_steps.less_pads(r.clone(), plain, width, fresh),
                )
        for gate in (None, bit):
            count = 2 if gate is None else 4
            plain, fast = (
                [rings(streams[:2], slot, shape, width) for slot in range(count)] for streams in (PLAIN, FAST)
            )
            for divisor in (4, 10):
                all_equal(
                    native.mask_quotients(r, gate, divisor, width, fast),
                    gate_steps.mask_quotients(r, gate, divisor, width, plain),
                )
        found = native.selected_share(flip, r, share, rings(FAST, 3, shape, width)[0], mask, width)
        check(found, gate_steps.selected_share(flip, r, share, rings(PLAIN, 3, shape, width)[0], mask, width))
        for first in (False, True):
            for gate in (None, (flip, share)):
                half = 1 if gate is None else 2
                plain, fast = (
                    [rings(streams, slot, shape, width)[0] for slot in range(2 * half)] for streams in (PLAIN, FAST)
                )
                fast[0] = native.drawn.ring(fast[0])  # one of them in memory
                check(
                    native.truncated_share(r, fast[:half], fast[half:], gate, first, 1000, width),
                    gate_steps.truncated_share(r, plain[:half], plain[half:], gate, first, 1000, width),
                )
            arguments = (r, mask, share, r, first, {}, width)
            check(
                native.product_share("mul", rings(FAST, 3, shape, width)[0], *arguments),
                gate_steps.product_share("mul", rings(PLAIN, 3, shape, width)[0], *arguments),
            )


def test_products_into_a_drawn_piece() -> None:
    x, a, y, b = ring((40, 30), 1), ring((40, 30), 2), ring((30, 50), 3), ring((30, 50), 4)
    for first in (True, False):
        check(
            native.product_share("mm", rings(FAST, 3, (40, 50))[0], x, a, y, b, first, {}, 64),
            gate_steps.product_share("mm", rings(PLAIN, 3, (40, 50))[0], x, a, y, b, first, {}, 64),
        )


def test_long_operands_on_several_threads(threads: int) -> None:
    shape = (300_007,)
    r, bit, flip, share = ring(shape, 1), bits(shape, 2), bits(shape, 3), ring(shape, 4)
    plain, fast = ([rings(streams[:2], slot, shape) for slot in range(4)] for streams in (PLAIN, FAST))
    all_equal(native.mask_quotients(r, bit, 1000, 64, fast), gate_steps.mask_quotients(r, bit, 1000, 64, plain))
    check(native.selection_masks(bit, r, 64, fast[0]), gate_steps.selection_masks(bit, r, 64, plain[0]))
    one, other = [p[0] for p in plain], [p[0] for p in fast]
    check(
        native.truncated_share(r, other[:2], other[2:], (flip, share), True, 1000, 64),
        gate_steps.truncated_share(r, one[:2], one[2:], (flip, share), True, 1000, 64),
    )
    check(
        native.selected_share(flip, r, share, other[0], share, 64),
        gate_steps.selected_share(flip, r, share, one[0], share, 64),
    )
    check(native.sum_pieces([r, share, bit], 64), r + share + bit)
    packed = [plane((3, 2_000_003), seed) for seed in range(3)]
    check(native.xor_pieces(packed), packed[0] ^ packed[1] ^ packed[2])


@pytest.mark.parametrize("shape", [(), (0,), (5,), (5000,), (70, 80)])
def test_sums_of_messages(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_SMALL", -1)
    for width in (64, 8):
        for i in range(len(layouts(ring(shape)))):
            pieces = [reference.reduce_ring(layouts(ring(shape, 10 + j))[i], width) for j in range(4)]
            for n in (1, 2, 4):
                check(native.sum_pieces(pieces[:n], width), gate_steps.sum_pieces(pieces[:n], width))
    packed = [plane((2, *shape), seed) for seed in range(3)]
    for n in (1, 2, 3):
        check(native.xor_pieces(packed[:n]), gate_steps.xor_pieces(packed[:n]))
    turned = [x.T for x in packed]
    check(native.xor_pieces(turned), gate_steps.xor_pieces(turned))


@pytest.mark.parametrize("shape", [*SHAPES, (40_000,)])
def test_weighed_bits(threads: int, shape: tuple[int, ...]) -> None:
    for width in (64, 8):
        for n in (1, 2, 5):
            for layout in range(len(layouts(bits(shape)))):
                flips = [layouts(bits(shape, j))[layout] for j in range(n)]
                shares = [reference.reduce_ring(layouts(ring(shape, 9 + j))[layout], width) for j in range(n)]
                weights = [1 - (3 << 20) * j for j in range(n)]
                for first in (True, False):
                    arguments = (flips, shares, weights, -77, first, width)
                    check(native.weighed_bits(*arguments), gate_steps.weighed_bits(*arguments))


# --- series and exponentials -----------------------------------------------------------------------------------------

FREQUENCIES = [(1,), (1, 2, 3, 4, 5), (1, 3, 5, 7, 9, 11), (2, 4, 9), (7,), (1, 2, 11, 30), tuple(range(1, 24))]


@pytest.mark.parametrize("bits_of_turn", [3, 10, 11, 12, 22, 23, 39, 40, 41, 62])
def test_series_of_every_turn(bits_of_turn: int) -> None:
    series((700,), bits_of_turn, (1, 2, 5))


@pytest.mark.parametrize("frequencies", FREQUENCIES)
def test_series_of_every_walk(frequencies: tuple[int, ...]) -> None:
    series((300,), 30, frequencies)


@pytest.mark.parametrize("shape", SHAPES)
def test_series_of_every_shape(shape: tuple[int, ...]) -> None:
    series(shape, 24, (1, 2))


def test_series_on_several_threads(threads: int) -> None:
    series((30_011,), 24, (1, 3))


def series(shape: tuple[int, ...], turn: int, frequencies: tuple[int, ...]) -> None:
    bit, flip, share = bits(shape, 1), bits(shape, 2), ring(shape, 3)
    n = len(frequencies)
    cosines = tuple(int(x) >> 32 for x in ring((n,), 5))
    sines = tuple(0 if k % 3 == 0 else int(x) >> 32 for k, x in enumerate(ring((n,), 6)))
    cosines = tuple(0 if k % 3 == 1 else x for k, x in enumerate(cosines))
    for mask in layouts(ring(shape, 4)):
        for gate in (None, bit):
            count = n * (2 if gate is None else 4)
            plain, fast = ([rings(streams[:2], s, shape) for s in range(count)] for streams in (PLAIN, FAST))
            all_equal(
                native.series_masks(mask, gate, turn, frequencies, 64),
                curves.series_masks(mask, gate, turn, frequencies, 64),
            )
            all_equal(
                native.series_masks(mask, gate, turn, frequencies, 64, fast),
                curves.series_masks(mask, gate, turn, frequencies, 64, plain),
            )
            pieces, twins = [p[0] for p in fast], [p[0] for p in plain]
            pieces[-1] = pieces[-1].held()
            for first in (True, False):
                arguments = (None if gate is None else (flip, share), first, turn, frequencies, cosines, sines, -12345)
                check(native.series_share(mask, pieces, *arguments), curves.series_share(mask, twins, *arguments))


@pytest.mark.parametrize("unit", [1, 3, 1000, 1 << 16, 1 << 20, (1 << 26) + 5])
def test_exponentials_of_every_unit(unit: int) -> None:
    n_bits = max(2, (8 * unit).bit_length())
    exponentials((900,), n_bits, unit)


@pytest.mark.parametrize("shape", SHAPES)
def test_exponentials_of_every_shape(shape: tuple[int, ...]) -> None:
    exponentials(shape, 20, 1 << 16)


def test_exponentials_on_several_threads(threads: int) -> None:
    exponentials((30_011,), 20, 1 << 16)


def exponentials(shape: tuple[int, ...], n_bits: int, unit: int) -> None:
    bit, flip, share = bits(shape, 1), bits(shape, 2), ring(shape, 3)
    for mask in layouts(ring(shape, 4)):
        for gate in (None, bit):
            count = 2 if gate is None else 4
            plain, fast = ([rings(streams[:2], s, shape) for s in range(count)] for streams in (PLAIN, FAST))
            all_equal(
                native.exponential_masks(mask, gate, n_bits, unit, 40, 64, fast),
                curves.exponential_masks(mask, gate, n_bits, unit, 40, 64, plain),
            )
            pieces, twins = [p[0] for p in fast], [p[0] for p in plain]
            pieces[0] = pieces[0].held()
            pair = None if gate is None else (flip, share)
            check(
                native.exponential_share(mask, pieces, pair, n_bits, unit, 21),
                curves.exponential_share(mask, twins, pair, n_bits, unit, 21),
            )


# --- comparison ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 31, 100, 511, 512, 513, 1000, 1536])
def test_tables_and_look_ups(count: int) -> None:
    mask, opened = ring((count,), 1), ring((count,), 2)
    for width, valid in ((64, 15), (65, 15), (64, 16)):
        plain, fast = ([DrawnWords(s, NUMBER, 4, (16, count), valid) for s in x] for x in (PLAIN, FAST))
        for n in (0, 1, 3):
            check(native.unary_tables(mask, width, 4, fast[:n]), gate_steps.unary_tables(mask, width, 4, plain[:n]))
        for first in (True, False):
            arguments = ((5, -7), False, first, 64, 4, width > 64)
            for one, other in zip(
                native.unary_leaf(opened, fast[0], *arguments),
                gate_steps.unary_leaf(opened, plain[0], *arguments),
                strict=True,
            ):
                check(one, other)


def test_long_tables_on_several_threads(threads: int) -> None:
    count = 150_003
    mask = ring((count,), 1)
    plain, fast = ([DrawnWords(s, NUMBER, 4, (16, count), 15) for s in x] for x in (PLAIN, FAST))
    check(native.unary_tables(mask, 64, 4, fast), gate_steps.unary_tables(mask, 64, 4, plain))
    for one, other in zip(
        native.unary_leaf(mask, fast[0], (0,), True, True, 64, 4),
        gate_steps.unary_leaf(mask, plain[0], (0,), True, True, 64, 4),
        strict=True,
    ):
        check(one, other)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 2, 16), (1, 1, 511), (2, 1, 512), (1, 3, 1000), (2, 2, 0), (1, 1, 50_001)]
)
def test_trees(threads: int, shape: tuple[int, ...]) -> None:
    for plan in (and_tree.node(4, True), and_tree.node(4, False), and_tree.node(2, True), and_tree.node(1, False)):
        n, lt_top, opened = len(plan.variables), plane(shape, 1), plane((len(plan.variables), *shape), 2)
        plain, fast = ([DrawnBits(s, NUMBER, 4, (n, *shape)) for s in x] for x in (PLAIN, FAST))
        plain_pads, pads = ([DrawnBits(s, NUMBER, 5, (len(plan.monomials), *shape)) for s in x] for x in (PLAIN, FAST))
        for count in (1, 2):
            check(
                native.dealt_monomials(plan, fast, pads[:count]),
                and_tree.dealt_monomials(plan, plain, plain_pads[:count]),
            )
        for first in (True, False):
            found = native.evaluate_node(plan, lt_top, opened, fast[0], pads[0], first)
            expected = and_tree.evaluate_node(plan, lt_top, opened, plain[0], plain_pads[0], first)
            for one, other in zip(found, expected, strict=True):
                if other is None:
                    assert one is None
                else:
                    check(one, other)
    plan = and_tree.product_node(4)
    opened = plane((4, *shape), 2)
    for one, other in (
        (DrawnBits(FAST[1], NUMBER, 4, (4, *shape)), DrawnBits(PLAIN[1], NUMBER, 4, (4, *shape))),
        (plane((4, *shape), 3), plane((4, *shape), 3)),
    ):
        dealt = (len(plan.monomials), *shape)
        check(
            native.evaluate_product(plan, opened, one, DrawnBits(FAST[0], NUMBER, 9, dealt), True),
            and_tree.evaluate_product(plan, opened, other, DrawnBits(PLAIN[0], NUMBER, 9, dealt), True),
        )


@pytest.mark.parametrize("n_bytes", [0, 1, 9, 600])
def test_gathered_planes(n_bytes: int) -> None:
    lt, eq = plane((16, 2, n_bytes), 1), plane((16, 2, n_bytes), 2)
    for group in and_tree.levels(16, 4)[0]:
        shape = and_tree.gather(group, lt, eq).shape
        check(
            native.gather_masked(group, lt, eq, DrawnBits(FAST[0], 3, 4, shape)),
            and_tree.gather_masked(group, lt, eq, DrawnBits(PLAIN[0], 3, 4, shape)),
        )
