"""Rounding on shares, short openings and lifts: the bytes that two parties save where a divisor is a multiple of
2^16."""

from __future__ import annotations

import pytest
import torch

from tests.enumeration import small_ring_driver
from tests.gates.test_truncation import LIMIT, below_one_unit, wide
from tests.support import SHAPES, Machine, between, real_driver, same
from torchveil.errors import ProtocolError
from torchveil.gates import GATES
from torchveil.gates.base import Cost
from torchveil.gates.exponential import RESULT_BITS
from torchveil.program import instructions as ins

BITS = 16
UNIT = 2**BITS


# --- rounding ---------------------------------------------------------------------------------------------------------


def test_a_rounded_value_is_next_to_the_value() -> None:
    z = wide(1001)
    m = Machine(2)
    out = m.round(m.input(z), BITS)
    rounded = m.value(out)
    assert bool((rounded % UNIT == 0).all())
    assert bool(((rounded - z).abs() < UNIT).all())
    for party in m.driver.parties:
        assert bool((party.wires[out].value() % UNIT == 0).all())
    m.check()
    m.check_costs()


def test_every_ring_element_rounds_to_one_of_its_neighbours() -> None:
    """All values and all shares of Z_2^6: there is no value for which a carry is lost."""
    m = Machine(driver=small_ring_driver(2, 6))
    values, shares = torch.arange(64).repeat_interleave(64), torch.arange(64).repeat(64)
    x = m.input(values)
    m.driver.parties[0].wires[x].share, m.driver.parties[1].wires[x].share = (values - shares) & 63, shares
    for bits in (1, 2, 3):
        out = m.round(x, bits)
        rounded, low = m.value(out) & 63, values >> bits << bits
        up = (rounded - low) & 63
        assert set(up.tolist()) == {0, 1 << bits}
        same(up[values % (1 << bits) == 0], torch.zeros_like(up[values % (1 << bits) == 0]))
        # unbiased: over all shares the upper neighbour comes as often as the remainder says
        ups = (up > 0).view(64, 64).sum(1)
        same(ups << bits, 64 * (torch.arange(64) % (1 << bits)))
        m.check()


def test_three_parties_do_not_round_shares() -> None:
    m = Machine(3)
    x = m.input(wide(4))
    with pytest.raises(ProtocolError):
        m.round(x, BITS)


# --- short openings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16, 3])
def test_a_short_opening_is_an_opening(bits: int) -> None:
    m = Machine(2)
    z = wide(97)
    x = m.rounded(z, bits)
    m.check()
    m.check_costs()
    assert m.driver.measured == Cost(1, 97 * (8 - bits // 8))
    m.product(x, x)
    m.truncate(x, 1000)
    doubled = m.combine((x, 2), (m.map(x, "flip", [0]), -1), constant=UNIT)
    assert m.driver.provider.wires[doubled].resolve()
    m.check()


def test_an_opening_of_too_few_bits_is_refused() -> None:
    m = Machine(2)
    x = m.round(m.input(wide(4)), BITS)
    with pytest.raises(ProtocolError):
        m.open(x, bits=(16,))
    m.open(x, bits=(48,))
    with pytest.raises(ProtocolError):
        m.open(x, bits=(48,))


def test_wires_of_all_kinds_open_in_one_round() -> None:
    m = Machine(2)
    half = m.lift(m.rounded(wide(3), BITS), BITS)
    whole, short = m.input(wide(5)), m.round(m.input(wide(7)), BITS)
    m.open(whole, half, short, bits=(64, 16, 48))
    assert m.driver.measured == Cost(1, 8 * 5 + 2 * 3 + 6 * 7)
    m.check()
    m.check_costs()


# --- comparison ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negate", [False, True])
def test_comparisons_leave_the_zeros_out(negate: bool) -> None:
    z = torch.cat([wide(500), between(-3, 4, 100) * UNIT, between(-UNIT, UNIT, 400)])
    m = Machine(2)
    x = m.rounded(z, BITS)
    thresholds = (0, 1, -1, UNIT, -UNIT, 5 * UNIT + 3)
    outs = m.compare(x, thresholds, [((j,), False) for j in range(6)], negate=negate, zeros=BITS)
    value = -m.value(x) if negate else m.value(x)
    for out, threshold in zip(outs, thresholds, strict=True):
        same(m.bit(out), (value < threshold).to(torch.int64))
    m.check()
    m.check_costs()


def test_a_comparison_of_48_bits_sends_and_is_dealt_less() -> None:
    m = Machine(2)
    x = m.rounded(wide(8), BITS)
    m.sign(x, zeros=BITS)
    assert m.driver.measured == Cost(rounds=3, sent=25, dealt=8 * 24 + 65 + 64)


# --- lifting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_lift_is_the_exact_quotient(shape: tuple[int, ...]) -> None:
    z = wide(*shape)
    m = Machine(2)
    x = m.rounded(z, BITS)
    bit = m.sign(x, zeros=BITS)
    out, gated = m.lift(x, BITS), m.lift(x, BITS, bit)
    same(m.value(out) * UNIT, m.value(x))
    assert below_one_unit(m.value(out), z, UNIT)
    same(m.value(gated), m.value(out) * (m.value(x) < 0))
    assert m.ulps(out) <= 1
    m.check()
    m.check_costs()


def test_every_value_and_mask_of_a_small_ring_lifts() -> None:
    """All t with |t| <= 2^(w-k-2), the upper end included, under all masks; Z_2^6 with k = 2."""
    width, bits = 6, 2
    values = [t << bits for t in range(-(1 << width - bits - 2), (1 << width - bits - 2) + 1)]
    for seed in range(40):
        m = Machine(driver=small_ring_driver(2, width, seed))
        x = m.round(m.input(torch.tensor(values * 64) & 63), bits)
        m.open(x, bits=(width - bits,))
        bit = m.sign(x, zeros=bits)
        out, gated = m.lift(x, bits), m.lift(x, bits, bit)
        same(m.value(out), torch.tensor(values * 64) >> bits)
        same(m.value(gated), torch.tensor([min(v, 0) for v in values * 64]) >> bits)
        m.open(out, bits=(bits,))
        m.check()


def test_what_is_out_of_range_goes_wrong_as_the_reference_says() -> None:
    m = Machine(driver=small_ring_driver(2, 5, 3))
    for value in range(32):
        x = m.rounded(torch.full((128,), value), 2)
        m.lift(x, 2, m.sign(x, zeros=2))
        m.open(m.lift(x, 2), bits=(2,))
    m.check()


def test_a_half_opening_is_completed_with_two_bytes() -> None:
    m = Machine(2)
    z = wide(1001)
    out = m.lift(m.rounded(z, BITS), BITS)
    assert not m.driver.provider.wires[out].resolve()
    m.open(out, bits=(16,))
    assert m.driver.measured == Cost(1, 2002)
    m.check()  # the opening is the same everywhere, and is value + mask in the whole ring
    m.product(out, out)
    m.truncate(out, 1000)
    m.check()


def test_a_half_opening_asks_for_what_it_lacks() -> None:
    m = Machine(2)
    x = m.rounded(wide(3), BITS)
    out = m.lift(x, BITS)
    with pytest.raises(ProtocolError):
        m.open(out)
    m.open(out, bits=(16,))
    with pytest.raises(ProtocolError):
        m.open(out, bits=(16,))
    again = m.lift(x, BITS)
    m.open(again, bits=(16,))
    m.check()


def test_a_lift_needs_a_short_opening_of_its_own() -> None:
    m = Machine(2)
    whole = m.opened(wide(3))
    with pytest.raises(ProtocolError):
        m.lift(whole, BITS)
    # of sums of elements the masks are sums: related to those of the elements, which may be completed as well
    total = m.map(m.rounded(wide(3), BITS), "sum", (0,), True)
    with pytest.raises(ProtocolError):
        m.lift(total, BITS)


def test_a_lift_takes_elements_of_a_wire_with_a_short_opening() -> None:
    m = Machine(2)
    x = m.rounded(wide(5), BITS)
    image = m.map(x, "flip", [0])
    for wire in (x, image):
        m.open(m.lift(wire, BITS), bits=(16,))
    m.check()


def test_a_sum_follows_the_half_opening_of_its_term() -> None:
    m = Machine(2)
    x = m.opened(between(-(2**40), 2**40, 5))
    step = m.lift(m.rounded(wide(5), BITS), BITS)
    out = m.combine((x, 10), (step, -1), constant=3, follow=True)
    image = m.map(out, "flip", [0])
    wires = m.driver.provider.wires
    assert not wires[image].resolve() and not wires[out].resolve()
    m.open(step, bits=(16,))
    assert wires[image].resolve() and wires[out].resolve()
    m.product(image, out)
    m.check()


def test_a_sum_that_is_opened_itself_follows_no_more() -> None:
    m = Machine(2)
    step = m.lift(m.rounded(wide(5), BITS), BITS)
    out = m.combine((m.opened(wide(5)), 1), (step, 1), follow=True)
    m.open(out)
    m.open(step, bits=(16,))
    m.check()


def test_an_exponent_that_ends_in_zeros() -> None:
    exponent = -between(0, 2**19, 500)
    m = Machine(2)
    x = m.rounded(exponent * UNIT, BITS)
    out = m.exponential(x, 2**15, 19, zeros=BITS)
    wanted = torch.exp(exponent.double() / 2**15)
    assert float((m.value(out).double() / 2**RESULT_BITS - wanted).abs().max()) < 2**-18
    m.check()
    m.check_costs()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_ten_million_values_by_two_parties() -> None:
    """10^7 values of magnitude up to 2^62 - 1, both signs: no error reaches one unit, the mean is near zero."""
    chunk, chunks = 500_000, 20
    m = Machine(driver=real_driver(2), follow=False)
    total = [0.0, 0.0]
    for seed in range(chunks):
        z = between(-LIMIT, LIMIT + 1, chunk, seed=seed)
        if seed % 2:
            z >>= torch.arange(chunk) % 62
        z[0], z[1] = LIMIT, -LIMIT
        x = m.rounded(z, BITS)
        for place, (divisor, out) in enumerate(((UNIT, m.lift(x, BITS)), (10 * UNIT, m.truncate(x, 10 * UNIT)))):
            error = m.value(out).mul_(divisor).sub_(z)
            assert -divisor < int(error.min()) and int(error.max()) < divisor
            total[place] += float(error.double().mean()) / divisor
        m.free_all()
    assert max(map(abs, total)) / chunks < 0.15


def test_costs_of_the_formulas() -> None:
    assert GATES[ins.Lift].cost(ins.Lift(1, 2, None, 16, (8,)), 2) == Cost(dealt=32)
    assert GATES[ins.Lift].cost(ins.Lift(1, 2, 3, 16, (8,)), 2) == Cost(dealt=112)
    assert GATES[ins.Open].cost(ins.Open((1, 2, 3), ((8,),) * 3, bits=(48, 16, 64)), 2) == Cost(1, 128)
