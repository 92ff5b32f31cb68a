"""No coalition of n - 1 parties learns anything: joint views enumerated in small rings, gate by gate and pair by pair.

A gate alone being safe says nothing of two gates that share an operand, a mask or an opened bit; hence the pairs.
Every program runs on the real gates, roles and driver; only the random source and the ring are small.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.enumeration import OWNER, PROVIDER, Bench, Coalition, Program, leaks
from torchveil.kernels.linear_maps import LinearMap
from torchveil.roles.wires import Short

ALL8 = [(x,) for x in range(8)]
PAIRS4 = list(product(range(4), repeat=2))
PAIRS8 = [(0, 0), (0, 1), (1, 0), (3, 5), (4, 4), (7, 2), (7, 7)]
TRIPLES = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 3, 2), (2, 2, 3), (3, 3, 3)]


# --- programs of one secret ------------------------------------------------------------------------------------------


def opened(m: Bench, s: tuple[int, ...]) -> None:
    m.open(m.secret(s[0]))


def opened_again_after_refresh(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.open(m.refresh(x))


def square(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.open(m.product(x, x))


def truncate(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.open(m.truncate(x, 2))


def truncate_by_three_twice(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.truncate(x, 3)
    m.truncate(x, 3)


def truncate_a_derived_value(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.open(m.truncate(m.combine((x, 2), constant=1), 3))
    m.truncate(m.combine((x, -1)), 2)


def exponential(m: Bench, s: tuple[int, ...]) -> None:
    # Z_8 holds the reduced mask of b + 1 = 3 bits; what is dealt is reduced to three bits as well.
    x = m.secret(s[0])
    m.open(x)
    m.open(m.exponential(x, 1, 2))


def series(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.open(m.series(x, 3, (1,), (3,), (5,), 2))


def series_and_truncate(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.series(x, 3, (1,), (3,), (5,), 2)
    m.truncate(x, 2)


def compare(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.sign(x)


def equal(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.equal(x, 5)


def equal_to_two_values(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.equal(x, 0, 3)


def equal_and_compare(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.equal(x, 2)
    m.sign(x)


def compare_with_two_thresholds(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.compare(x, (0, 3), [((0, 1), True)], negate=True)


def compare_with_two_results(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.compare(x, (5,), [((0,), False), ((0,), True)])


def compare_twice(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.sign(x)
    m.compare(x, (1,), negate=True)


def compare_and_select(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.open(m.select(m.sign(x), x))


def compare_and_select_twice(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    bit = m.sign(x)
    y = m.select(bit, x)
    z = m.select(m.map_bit(bit, "alias", flip=True), x)
    m.open(y, z)


def compare_and_truncate(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.sign(x)
    m.truncate(x, 3)


def gated_truncate(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    bit = m.sign(x)
    m.open(m.truncate(x, 2, bit))


def gated_truncate_and_select(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    bit = m.sign(x)
    m.truncate(x, 2, bit)
    m.select(bit, x)


def gated_exponential(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.exponential(x, 1, 2, m.sign(x))


def gated_series(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    m.series(x, 3, (1,), (3,), (5,), 2, m.sign(x))


def bit_to_arithmetic(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    bit = m.sign(x)
    m.open(m.combine((m.arithmetic(bit), 1), (m.weigh([bit], [2], 1), 1)))


def a_bit_times_its_value(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    bit = m.arithmetic(m.sign(x))
    m.open(bit)
    m.product(bit, x)


ONE_SECRET: list[Program] = [
    opened,
    opened_again_after_refresh,
    square,
    truncate,
    truncate_by_three_twice,
    truncate_a_derived_value,
    exponential,
    series,
    series_and_truncate,
    compare,
    equal,
    compare_with_two_thresholds,
    compare_with_two_results,
    compare_twice,
    compare_and_select,
    compare_and_select_twice,
    compare_and_truncate,
    gated_truncate,
    gated_truncate_and_select,
    gated_exponential,
    gated_series,
    bit_to_arithmetic,
    a_bit_times_its_value,
]


#: What also means something in Z_4: no angles, no exponents.
SHORT = [program for program in ONE_SECRET if not {"series", "exponential"} & set(program.__name__.split("_"))]


@pytest.mark.parametrize("program", ONE_SECRET, ids=lambda program: program.__name__)
def test_one_secret_in_z8(program: Program) -> None:
    assert not leaks(program, ALL8, width=3)


@pytest.mark.parametrize(
    "program", [*SHORT, equal_to_two_values, equal_and_compare], ids=lambda program: program.__name__
)
def test_one_secret_in_z4(program: Program) -> None:
    assert not leaks(program, ALL8[:4], width=2)


@pytest.mark.parametrize("program", [opened, square, truncate, compare], ids=lambda program: program.__name__)
def test_one_secret_in_z16(program: Program) -> None:
    assert not leaks(program, [(x,) for x in (0, 5, 8)], width=4)


# --- programs of several secrets -------------------------------------------------------------------------------------


def product_of_two(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.open(m.product(x, y))


def two_products_of_one_pair(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.product(x, y)
    m.product(x, y)


def product_and_square(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.open(m.combine((m.product(x, y), 1), (m.product(x, x), 1)))


def product_then_truncate(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    z = m.product(x, y)
    m.open(z)
    m.truncate(z, 2)


def product_and_truncate(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.product(x, y)
    m.truncate(x, 3)


def product_of_a_sum_of_opened_values(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    total = m.combine((x, 1), (y, -1), constant=3)
    m.product(total, x)
    m.truncate(total, 2)


def half_opened_sum(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x)
    total = m.combine((x, 1), (y, 1))
    m.open(total)
    m.product(total, x)


def structure(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0], s[1]), m.secret(s[1])
    m.open(x)
    row = m.map(x, "select", 0, 0)
    pair = m.cat([m.map(y, "unsqueeze", 0), m.map(row, "unsqueeze", 0)])
    m.open(pair)
    m.open(m.product(row, m.map(pair, "select", 0, 1)))
    m.product(m.map(x, "sum", (0,), False), row)


def writing_over_an_opened_value(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x)
    m.open(m.write(x, m.combine((x, 1), (y, 1)), LinearMap("alias")))


def public_product(m: Bench, s: tuple[int, ...]) -> None:

    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x)
    z = m.public_product(x, torch.tensor([2]))
    m.open(m.combine((z, 1), (y, 1)))


def select_another_value(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.select(m.sign(x), y)


def two_values_selected_by_one_bit(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    bit = m.sign(x)
    m.select(bit, x)
    m.select(bit, y)


def winner_of_two(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0], s[1])
    m.open(x)
    m.winner(x, 0)


def winner_and_near_of_two(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0], s[1])
    m.open(x)
    m.winner(x, 0, 1)


def winner_and_select(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0], s[1])
    m.open(x)
    (won,) = m.winner(x, 0)
    m.open(m.map(m.select(won, x), "sum", (0,), True))


def winner_twice(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0], s[1])
    m.open(x)
    m.winner(x, 0)
    m.winner(x, 0)


def winner_of_three(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(*s)
    m.open(x)
    m.winner(x, 0)


TWO_SECRETS: list[Program] = [
    product_of_two,
    two_products_of_one_pair,
    product_and_square,
    product_then_truncate,
    product_and_truncate,
    product_of_a_sum_of_opened_values,
    half_opened_sum,
    structure,
    writing_over_an_opened_value,
    public_product,
]


@pytest.mark.parametrize("program", TWO_SECRETS, ids=lambda program: program.__name__)
def test_all_pairs_of_secrets_in_z4(program: Program) -> None:
    assert not leaks(program, PAIRS4, width=2)


@pytest.mark.parametrize(
    "program",
    [*(p for p in TWO_SECRETS if p is not structure), select_another_value, two_values_selected_by_one_bit],
    ids=lambda program: program.__name__,
)
def test_pairs_of_secrets_in_z8(program: Program) -> None:
    assert not leaks(program, PAIRS8, width=3)


@pytest.mark.parametrize(
    "program",
    [winner_of_two, winner_and_near_of_two, winner_and_select, winner_twice],
    ids=lambda program: program.__name__,
)
def test_winners_of_pairs_in_z4(program: Program) -> None:
    assert not leaks(program, [*PAIRS4[:5], (3, 2)], width=2)


@pytest.mark.parametrize(
    ("program", "secrets", "width"),
    [(winner_of_two, PAIRS8, 3), (winner_and_near_of_two, PAIRS8[:4], 3), (winner_of_three, TRIPLES, 2)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_trees_and_products_of_winners(program: Program, secrets: list[tuple[int, ...]], width: int) -> None:
    """For the party that receives no corrections; what the other one receives leaves too much to enumerate."""
    assert not leaks(program, secrets, width=width, among=[Coalition((1,))])


def two_products_with_one_operand(m: Bench, s: tuple[int, ...]) -> None:
    x, y, z = (m.secret(value) for value in s)
    m.open(x, y, z)
    m.product(x, y)
    m.product(x, z)


def chained_products(m: Bench, s: tuple[int, ...]) -> None:
    x, y, z = (m.secret(value) for value in s)
    m.open(x, y, z)
    w = m.product(x, y)
    m.open(w)
    m.product(w, z)


@pytest.mark.parametrize(
    "program", [two_products_with_one_operand, chained_products], ids=lambda program: program.__name__
)
def test_three_secrets_in_z4(program: Program) -> None:
    assert not leaks(program, TRIPLES, width=2)


# --- rounded shares, short and half openings -------------------------------------------------------------------------


def _short(m: Bench, value: int, bits: int = 1) -> int:
    x = m.round(m.secret(value), bits)
    m.open(x, bits=(m.driver.width - bits,))
    return x


def short_opening(m: Bench, s: tuple[int, ...]) -> None:
    _short(m, s[0])


def lifted(m: Bench, s: tuple[int, ...]) -> None:
    m.lift(_short(m, s[0]), 1)


def lifted_and_completed(m: Bench, s: tuple[int, ...]) -> None:
    m.open(m.lift(_short(m, s[0]), 1), bits=(1,))


def two_bits_lifted_and_completed(m: Bench, s: tuple[int, ...]) -> None:
    m.open(m.lift(_short(m, s[0], 2), 2), bits=(2,))


def lifted_twice_and_completed_twice(m: Bench, s: tuple[int, ...]) -> None:
    x = _short(m, s[0])
    first, second = m.lift(x, 1), m.lift(x, 1)
    m.open(first, second, bits=(1, 1))


def lifted_completed_and_used(m: Bench, s: tuple[int, ...]) -> None:
    out = m.lift(_short(m, s[0]), 1)
    m.open(out, bits=(1,))
    m.product(out, m.combine((out, -1), constant=1))


def compare_rounded(m: Bench, s: tuple[int, ...]) -> None:
    x = _short(m, s[0])
    m.compare(x, (1,), [((0,), True)], negate=True, zeros=1)


def relu_of_rounded(m: Bench, s: tuple[int, ...]) -> None:
    x = _short(m, s[0])
    m.open(m.lift(x, 1, m.sign(x, zeros=1)))


def lifted_with_and_without_a_bit(m: Bench, s: tuple[int, ...]) -> None:
    x = _short(m, s[0])
    bit = m.sign(x, zeros=1)
    m.lift(x, 1, bit)
    m.open(m.lift(x, 1), bits=(1,))


def rounded_and_opened_whole(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    short = m.round(x, 1)
    m.open(short, bits=(m.driver.width - 1,))
    m.open(m.lift(short, 1), bits=(1,))


def rounded_and_truncated(m: Bench, s: tuple[int, ...]) -> None:
    m.open(m.truncate(_short(m, s[0]), 2))


ROUNDED: list[Program] = [
    short_opening,
    lifted,
    lifted_and_completed,
    lifted_twice_and_completed_twice,
    lifted_completed_and_used,
    compare_rounded,
    relu_of_rounded,
    lifted_with_and_without_a_bit,
    rounded_and_opened_whole,
    rounded_and_truncated,
]


@pytest.mark.parametrize("program", ROUNDED, ids=lambda program: program.__name__)
def test_rounded_in_z8(program: Program) -> None:
    assert not leaks(program, ALL8, width=3)


@pytest.mark.parametrize(
    "program", [lifted_and_completed, two_bits_lifted_and_completed, compare_rounded], ids=lambda p: p.__name__
)
def test_rounded_in_z16(program: Program) -> None:
    assert not leaks(program, [(x,) for x in (0, 1, 5, 8, 11)], width=4)


def update_that_follows(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    step = m.lift(_short(m, s[1]), 1)
    out = m.combine((x, 2), (step, -1), follow=True)
    m.open(step, bits=(1,))
    m.product(out, x)


def sum_that_follows_and_is_opened_itself(m: Bench, s: tuple[int, ...]) -> None:
    x = m.secret(s[0])
    m.open(x)
    step = m.lift(_short(m, s[1]), 1)
    m.open(m.combine((x, 1), (step, 1), follow=True))
    m.open(step, bits=(1,))


def product_then_rounded(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    z = m.round(m.product(x, y), 1)
    m.open(z, bits=(m.driver.width - 1,))
    m.open(m.lift(z, 1), bits=(1,))


@pytest.mark.parametrize(
    "program",
    [update_that_follows, sum_that_follows_and_is_opened_itself, product_then_rounded],
    ids=lambda program: program.__name__,
)
def test_rounded_pairs_in_z8(program: Program) -> None:
    assert not leaks(program, PAIRS8, width=3)


def completed_under_a_reduced_mask(m: Bench, s: tuple[int, ...]) -> None:
    """What must not happen: two quotients of related roundings completed, so that an overflow shows."""
    x = _short(m, s[0])
    wires = [m.driver.provider.wires, *(party.wires for party in m.driver.parties)]
    doubled = m.combine((x, 2))
    for table in wires:
        wire, source = table[doubled], table[x]
        wire.resolve()
        wire.short = Short(source.short_mask(1) * 2 & 7, 1)
    m.open(m.lift(x, 1), m.lift(doubled, 1), bits=(1, 1))


def test_related_quotients_that_are_both_completed_would_leak() -> None:
    """Why a lift wants a short opening of its own: a derived one tells whether the value left its range."""
    assert leaks(completed_under_a_reduced_mask, ALL8, width=3)


# --- three parties ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "secrets", "width"),
    [
        (opened, ALL8, 3),
        (opened_again_after_refresh, [(x,) for x in range(4)], 2),
        (square, [(x,) for x in range(4)], 2),
        (truncate, ALL8, 3),
        (product_of_two, PAIRS4, 2),
        (two_products_of_one_pair, PAIRS4, 2),
        (half_opened_sum, PAIRS4, 2),
        (compare, ALL8, 3),
        (compare_and_select, ALL8, 3),
        (winner_of_two, PAIRS4[:5], 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_two_of_three_parties(program: Program, secrets: list[tuple[int, ...]], width: int) -> None:
    assert not leaks(program, secrets, n=3, width=width)


# --- the receiver ----------------------------------------------------------------------------------------------------


def reveal_product(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.open(x, y)
    m.reveal(m.product(x, y))


def reveal_twice(m: Bench, s: tuple[int, ...]) -> None:
    x, y = m.secret(s[0]), m.secret(s[1])
    m.reveal(m.combine((x, 1), (y, 1)))
    m.reveal(m.combine((x, 2), (y, 2)))


@pytest.mark.parametrize(
    ("program", "n", "width"),
    [(reveal_product, 2, 2), (reveal_product, 3, 1), (reveal_twice, 2, 3), (reveal_twice, 3, 2)],
)
def test_a_receiver_alone_learns_the_value_and_nothing_of_its_making(program: Program, n: int, width: int) -> None:
    size = 1 << width
    by_result: dict[int, list[tuple[int, ...]]] = {}
    for x, y in product(range(size), repeat=2):
        by_result.setdefault((x * y if program is reveal_product else x + y) % size, []).append((x, y))
    for secrets in by_result.values():
        assert not leaks(program, secrets[:4], n=n, width=width, among=[Coalition((), True)])


@pytest.mark.parametrize("n", [2, 3])
def test_a_receiver_with_all_but_one_party_learns_no_more_than_the_value(n: int) -> None:
    ranks = [Coalition(tuple(r for r in range(n) if r != left), True) for left in range(n)]
    for total in range(4):
        secrets = [(x, (total - x) % 4) for x in range(4)]
        assert not leaks(reveal_twice, secrets, n=n, width=2, among=ranks)


@pytest.mark.parametrize("other", [PROVIDER, OWNER])
@pytest.mark.parametrize("program", [reveal_product, reveal_twice], ids=lambda program: program.__name__)
def test_a_receiver_with_the_provider_or_the_owner_sees_only_the_value(program: Program, other: int) -> None:
    """Not promised against the provider, but the zero sharing gives it: the provider knows all pieces that it dealt."""
    by_result: dict[int, list[tuple[int, ...]]] = {}
    for x, y in PAIRS4:
        by_result.setdefault((x * y if program is reveal_product else x + y) % 4, []).append((x, y))
    for secrets in by_result.values():
        assert not leaks(program, secrets, width=2, among=[Coalition((), True, (other,))])


def test_a_receiver_does_learn_the_value() -> None:
    assert leaks(reveal_twice, [(0, 0), (0, 1)], width=2, among=[Coalition((), True)])
