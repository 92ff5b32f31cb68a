"""Several values for one place: at public places the last one stays, at secret ones the sum, nothing of the old."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from torchveil import Session

SESSION = Session(debug=True)
OLD = torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]], dtype=torch.float64)
NEW = torch.tensor([[5.0, 6.0, 8.0], [7.0, 1.0, 2.0]], dtype=torch.float64)
TWICE = torch.tensor([1, 1, 1])
GRID = torch.tensor([[2, 0, 2], [1, 1, 0]])


def put(x: Tensor, places: Any, values: Any) -> Tensor:
    x = x.clone()
    x[places] = values
    return x


WRITES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a number": lambda x, v: put(x, (slice(None), TWICE), 5.0),
    "columns": lambda x, v: put(x, (slice(None), TWICE), v),
    "a list": lambda x, v: put(x, [1, 1], v),
    "elements": lambda x, v: put(x, (TWICE, torch.tensor([0, 2, 0])), v[0]),
    "accumulated": lambda x, v: x.index_put((TWICE,), v[0], accumulate=True),
    "scatter": lambda x, v: x.scatter(1, GRID, v),
    "scatter of a part": lambda x, v: x.scatter(1, GRID[:1, :2] * 0, v.detach()),
    "index_copy": lambda x, v: x.index_copy(1, TWICE, v),
    "put": lambda x, v: x.put(torch.tensor([4, 0, 4]), v[1]),
    "distinct": lambda x, v: put(x, (slice(None), torch.tensor([2, 0])), v[:, :2]),
}


@pytest.mark.parametrize("name", WRITES)
def test_public_places_keep_the_last_value(name: str) -> None:
    write = WRITES[name]
    results = []
    for share in (lambda t: t.clone(), SESSION.share):
        old, new = share(OLD).requires_grad_(), share(NEW).requires_grad_()
        out = write(old, new)
        (out * 2).sum().backward()
        results.append([out, old.grad, new.grad])
    for wanted, found in zip(*results, strict=True):
        assert (wanted is None) == (found is None)
        if wanted is not None:
            assert torch.equal(found.reveal(dtype=torch.float64), wanted)


def test_secret_places_keep_the_sum() -> None:
    places = SESSION.share(TWICE)
    rows = SESSION.share(OLD).index_put((places,), SESSION.share(NEW[0]))
    assert torch.equal(rows.reveal(), torch.stack([OLD[0], 3 * NEW[0]]).float())
    grid = SESSION.share(OLD).scatter(1, SESSION.share(GRID), SESSION.share(NEW))
    assert torch.equal(grid.reveal(), torch.tensor([[6.0, -2.0, 13.0], [2.0, 8.0, -1.0]]))
    columns = SESSION.share(OLD).index_copy(1, places, SESSION.share(NEW))
    assert torch.equal(columns.reveal(), torch.tensor([[1.0, 19.0, 3.0], [0.5, 10.0, -1.0]]))
    one = SESSION.share(OLD).index_put((SESSION.share(torch.tensor([1])),), SESSION.share(NEW[0]))
    assert torch.equal(one.reveal(), torch.stack([OLD[0], NEW[0]]).float())


@pytest.mark.parametrize(("dim", "places"), [(1, [2, 0, 2]), (0, [1]), (-1, [1, 1])])
def test_secret_places_are_filled(dim: int, places: list[int]) -> None:
    index = torch.tensor(places)
    clear, secret = OLD.clone().requires_grad_(), SESSION.share(OLD).requires_grad_()
    results = [x.index_fill(dim, i, 7.0) for x, i in ((clear, index), (secret, SESSION.share(index)))]
    for out in results:
        (out * 2).sum().backward()
    assert torch.equal(results[1].reveal(dtype=torch.float64), results[0])
    assert torch.equal(secret.grad.reveal(dtype=torch.float64), clear.grad)


REDUCTIONS: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "index_reduce": lambda x, v, kept: torch.index_reduce(x, 0, torch.zeros(4).long(), v, "prod", include_self=kept),
    "scatter_reduce": lambda x, v, kept: x.scatter_reduce(0, torch.zeros(v.shape).long(), v, "prod", include_self=kept),
}


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_the_gradient_of_a_scattered_product_is_the_product_of_the_others(name: str, kept: bool) -> None:
    """Two small factors among large ones: the whole product divided by one of them is off by thousands of units."""
    factors = torch.tensor([[8.685], [0.0768], [8.705], [-6.189]], dtype=torch.float64).repeat(1, 64)
    small = torch.full((2, 64), -0.0862, dtype=torch.float64)
    results = []
    for share in (lambda t: (t * 65536).round() / 65536, SESSION.share):
        x, v = (share(t).requires_grad_() for t in (small, factors))
        out = REDUCTIONS[name](x, v, kept)
        (out * 0.823).sum().backward()
        results.append([out, x.grad, v.grad])
    for wanted, found in zip(*results, strict=True):
        units = (found.reveal(dtype=torch.float64) - wanted).abs().max() * 65536
        assert float(units) < 600  # a rounded product of two times what is left: 8.685 * 8.705 * 6.189
