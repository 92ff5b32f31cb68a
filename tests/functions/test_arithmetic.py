"""Lazy truncation: what is truncated together, and public divisors that cost nothing."""

from __future__ import annotations

import pytest
import torch

from torchveil import EncryptedTensor, FixedPoint, Session
from torchveil.functions.arithmetic import narrow, secret
from torchveil.handle import Secret


def wire_of(x: torch.Tensor) -> Secret:
    assert isinstance(x, EncryptedTensor)
    return secret(x.handle)


def rounds(session: Session) -> int:
    return session.cost().rounds


@pytest.mark.parametrize("view_first", [False, True])
def test_a_product_and_its_view_are_truncated_once(view_first: bool) -> None:
    session = Session(debug=True)
    product = session.share(torch.randn(5, 4)) @ session.share(torch.randn(4, 3))
    wires = [wire_of(product), wire_of(product.t())]
    before = rounds(session)
    for wire in reversed(wires) if view_first else wires:
        narrow(wire)
    assert rounds(session) - before == 1
    values = [session.reveal(narrow(wire)) for wire in wires]
    assert torch.equal(values[0].t(), values[1])
    # the view has the opening of the value
    session.open(narrow(wires[0]))
    before = rounds(session)
    session.open(narrow(wires[1]))
    assert rounds(session) == before


def test_a_part_of_a_product_is_truncated_alone() -> None:
    session = Session(debug=True)
    product = session.share(torch.randn(50, 4)) @ session.share(torch.randn(4, 3))
    before = session.cost().dealt_bytes
    narrow(wire_of(product[:2]))
    assert session.cost().dealt_bytes - before == 4 * 6
    # once the whole is truncated, a part is a part of that
    narrow(wire_of(product))
    before = session.cost().dealt_bytes
    narrow(wire_of(product[2:4]))
    assert session.cost().dealt_bytes == before


def test_a_sum_of_a_product_is_truncated_after_the_sum() -> None:
    session = Session(debug=True)
    x, w = torch.randn(64, 4), torch.randn(4, 3)
    product = session.share(x) @ session.share(w)
    narrow(wire_of(product))
    exact = (torch.round(x.double() * 2**16) / 2**16) @ (torch.round(w.double() * 2**16) / 2**16)
    found = narrow(wire_of(product.sum(0)))
    assert bool(((session.reveal(found) - exact.sum(0)).abs() < 2.0**-16).all())


@pytest.mark.parametrize(
    ("number_format", "factor"),
    [(FixedPoint(), 1 / 128), (FixedPoint(), -0.375), (FixedPoint(10, 3), 0.05), (FixedPoint(10, 3), -1 / 8)],
)
def test_a_divisor_of_the_scale_costs_nothing_and_loses_nothing(number_format: FixedPoint, factor: float) -> None:
    session = Session(debug=True, fixed_point=number_format)
    values = torch.tensor([[1.0, -3.0, 0.125], [7.0, 0.25, -0.5]], dtype=torch.float64)
    x = session.share(values)
    before = session.cost().total
    y = x * factor
    assert session.cost().total == before
    assert torch.allclose(y.reveal(dtype=torch.float64), values * factor, rtol=0, atol=1e-15)
    # a sum with a product takes it as it is; a product with it truncates it first, once
    before = session.cost().total
    total = x * x + y
    assert session.cost().total.rounds == before.rounds + 1
    exact = values * values + values * factor
    assert torch.allclose(total.reveal(dtype=torch.float64), exact, rtol=0, atol=1e-12)
    found = (x * y).reveal(dtype=torch.float64)
    assert float((found - values * values * factor).abs().max()) <= 7 / number_format.scale


@pytest.mark.parametrize("factor", [0.3, 1 / 100, 2.0**-17, 1.5])
def test_other_fractions_are_truncated_at_once(factor: float) -> None:
    session = Session(debug=True)
    y = session.share(torch.tensor([1.0, -3.0])) * factor
    assert not wire_of(y).pending
    expected = torch.tensor([1.0, -3.0], dtype=torch.float64) * factor
    assert float((y.reveal(dtype=torch.float64) - expected).abs().max()) <= 2.0**-16


def test_a_selected_zero_is_zero() -> None:
    """Also beside a product that waits for its truncation: what is compared afterwards finds 0, and a sign of 0."""
    session = Session(debug=True)
    x = session.share(torch.linspace(-1, 1, 64))
    product = x * session.share(torch.linspace(0.3, 0.7, 64))
    for chosen in (torch.where(x > 0, 0, product), torch.where(x > 0, product, 0), product.masked_fill(x > 0, 0)):
        zero = chosen.reveal() == 0
        assert 31 <= int(zero.sum()) <= 33
        assert torch.equal((chosen == 0).reveal(), zero)
        assert torch.equal(chosen.sign().reveal() == 0, zero)
