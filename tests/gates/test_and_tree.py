"""The AND tree against a comparison of digit strings, over all digit patterns."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from torchveil.kernels import and_tree


def _reference(less: tuple[int, ...], equal: tuple[int, ...]) -> tuple[int, int]:
    """(LT, E) of chunks given lowest first: the highest chunk that is not equal decides."""
    for lt, eq in zip(reversed(less), reversed(equal), strict=True):
        if not eq:
            return lt, 0
    return 0, 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("with_equal", [False, True])
@pytest.mark.parametrize("n", [2, 3])
def test_a_node_over_all_patterns(size: int, with_equal: bool, n: int) -> None:
    plan = and_tree.node(size, with_equal)
    # a chunk is less, equal or greater
    patterns = list(product([(1, 0), (0, 1), (0, 0)], repeat=size))
    less = np.array([[p[k][0] for p in patterns] for k in range(size)], dtype=np.uint8)[:, None, :]
    equal = np.array([[p[k][1] for p in patterns] for k in range(size)], dtype=np.uint8)[:, None, :]
    group = and_tree.Group(plan, (tuple(range(size)),), (size - 1,), slice(0, 1))
    rng = np.random.default_rng(size)
    variables = and_tree.gather(group, less[:, 0], equal[:, 0])
    pieces = [rng.integers(0, 2, variables.shape, dtype=np.uint8) for _ in range(n)]
    masks = np.bitwise_xor.reduce(pieces) if len(plan.variables) else variables
    dealt = and_tree.monomials(plan, masks)
    dealt_pieces = [rng.integers(0, 2, dealt.shape, dtype=np.uint8) for _ in range(n - 1)]
    dealt_pieces.append(np.bitwise_xor.reduce([dealt, *dealt_pieces]))
    top = less[-1]
    tops = [rng.integers(0, 2, top.shape, dtype=np.uint8) for _ in range(n - 1)]
    tops.append(np.bitwise_xor.reduce([top, *tops]))
    outs = [
        and_tree.evaluate_node(plan, tops[rank], variables ^ masks, pieces[rank], dealt_pieces[rank], rank == 0)
        for rank in range(n)
    ]
    found_less = np.bitwise_xor.reduce([out[0] for out in outs])[0]
    wanted = [_reference(tuple(c[0] for c in p), tuple(c[1] for c in p)) for p in patterns]
    assert found_less.tolist() == [lt for lt, _ in wanted]
    if with_equal:
        found_equal = np.bitwise_xor.reduce([out[1] for out in outs if out[1] is not None])[0]
        assert found_equal.tolist() == [eq for _, eq in wanted]
    else:
        assert all(out[1] is None for out in outs)


def test_monomials_are_the_products_they_name() -> None:
    plan = and_tree.node(4, True)
    masks = np.random.default_rng(0).integers(0, 256, (len(plan.variables), 1, 50), dtype=np.uint8)
    found = and_tree.monomials(plan, masks)
    for row, subset in enumerate(plan.monomials):
        assert np.array_equal(found[row], np.bitwise_and.reduce(masks[sorted(subset)], axis=0))


def test_the_real_tree_has_two_levels_and_opens_33_bits() -> None:
    assert and_tree.bits_per_comparison(16, 4) == (2, 33, 96)


@pytest.mark.parametrize("chunks", range(1, 20))
@pytest.mark.parametrize("fan_in", [2, 4])
def test_every_chunk_is_in_one_group_and_the_lowest_needs_no_equality(chunks: int, fan_in: int) -> None:
    count = chunks
    for level in and_tree.levels(chunks, fan_in):
        members = sorted(chunk for group in level for part in group.chunks for chunk in part)
        assert members == list(range(count))
        assert all((group.plan.equal is None) == (0 in group.chunks[0]) for group in level)
        count = sum(len(group.chunks) for group in level)
    assert count == 1
