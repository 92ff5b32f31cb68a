"""Logic on truth values; the bits of whole numbers and plain numbers beside secrets are refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from torchveil import Session, UnsupportedOperation, WouldBePublished, public

SESSION = Session(debug=True)
NUMBERS = torch.tensor([1.0, -2.0, 3.0])
WHOLE, OTHER = torch.tensor([6, 3, 0]), torch.tensor([5, 5, 1])
MASK = torch.tensor([True, True, False])
BITWISE = [operator.and_, operator.or_, operator.xor]
LOGICAL = [torch.logical_and, torch.logical_or, torch.logical_xor]


@pytest.mark.parametrize("function", BITWISE)
def test_the_bits_of_whole_numbers_are_refused(function: Callable[..., Tensor]) -> None:
    whole, bits = SESSION.share(WHOLE), SESSION.share(NUMBERS) > 0
    place = SESSION.share(NUMBERS).argmax()
    before = SESSION.cost()
    for x, y in ((whole, SESSION.share(OTHER)), (bits, whole), (whole, bits), (bits, public(WHOLE)), (whole, MASK)):
        with pytest.raises(UnsupportedOperation, match="logical_and"):
            function(x, y)
    with pytest.raises(UnsupportedOperation, match="logical_not"):
        operator.invert(whole)
    with pytest.raises(UnsupportedOperation, match="logical_and"):
        function(place, bits)
    assert SESSION.cost().rounds == before.rounds


@pytest.mark.parametrize("function", [*BITWISE, *LOGICAL])
def test_logic_on_truth_values(function: Callable[..., Tensor]) -> None:
    bits, clear = SESSION.share(NUMBERS) > 0, NUMBERS > 0
    other = SESSION.share(NUMBERS) < 2
    none = torch.zeros(3, dtype=torch.bool)
    for y, exact in ((MASK, MASK), (public(MASK), MASK), (other, NUMBERS < 2), (torch.zeros_like(bits), none)):
        assert torch.equal(function(bits, y).reveal(), function(clear, exact))
        assert torch.equal(function(y, bits).reveal(), function(exact, clear))
    assert torch.equal((~bits).reveal(), ~clear)


@pytest.mark.parametrize("function", BITWISE)
def test_truth_values_beside_one_of_python(function: Callable[..., Tensor]) -> None:
    bits, clear = SESSION.share(NUMBERS) > 0, NUMBERS > 0
    for one in (True, False):
        assert torch.equal(function(bits, one).reveal(), function(clear, one))
        assert torch.equal(function(one, bits).reveal(), function(one, clear))
    for x, y in ((bits, 1), (SESSION.share(WHOLE), True), (SESSION.share(WHOLE), 3)):
        with pytest.raises(UnsupportedOperation, match="whole numbers"):
            function(x, y)


@pytest.mark.parametrize("function", LOGICAL)
def test_logic_on_whole_numbers(function: Callable[..., Tensor]) -> None:
    assert torch.equal(function(SESSION.share(WHOLE), SESSION.share(OTHER)).reveal(), function(WHOLE, OTHER))
    assert torch.equal(torch.logical_not(SESSION.share(WHOLE)).reveal(), torch.logical_not(WHOLE))


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8])
def test_plain_whole_numbers_are_no_masks(kind: torch.dtype) -> None:
    x, plain = SESSION.share(NUMBERS), MASK.to(kind)
    calls: list[Callable[[], Any]] = [
        *(lambda f=f: f(x > 0, plain) for f in (*BITWISE, *LOGICAL)),  # type: ignore[misc]
        lambda: torch.where(x > 0, x, plain),
        lambda: torch.where(plain, x, x + 1),
        lambda: x.masked_fill(plain, 0.0),
        lambda: x.masked_fill(MASK, plain[0]),
    ]
    for call in calls:
        with pytest.raises(WouldBePublished):
            call()
    assert torch.equal(torch.where(MASK, x, 2).reveal(), torch.where(MASK, NUMBERS, 2))
    assert torch.equal(torch.where(x > 0, x, 2).reveal(), torch.where(NUMBERS > 0, NUMBERS, 2))
    assert torch.equal(x.masked_fill(MASK, 2).reveal(), NUMBERS.masked_fill(MASK, 2))


def test_infinities_under_a_mask_are_found_or_refused() -> None:
    mask = torch.zeros(3).masked_fill(MASK, -torch.inf)
    x = SESSION.share(NUMBERS) + mask
    clear = NUMBERS + mask
    for function in (torch.isinf, torch.isnan, torch.isneginf, torch.isposinf):
        assert torch.equal(function(x).reveal(), function(clear))
        assert torch.equal(function(-x).reveal(), function(-clear))
    with pytest.raises(UnsupportedOperation):
        torch.isfinite(x)
