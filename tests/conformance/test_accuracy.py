"""The promised errors, on some ten thousand points of every function's range, edges included; and the page of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from conformance.accuracy import COSTED, PAGE, RECORD, TESTED, Error, backward, chunks, forward, measure
from conformance.functions import FUNCTIONS, Bar, Function, even
from conformance.operations import page
from torchveil import FixedPoint, Session

POINTS = 10_000
RECORDED = json.loads(RECORD.read_text())
BARS = [name for name, function in FUNCTIONS.items() if function.bar]
PEERS = [name for name, function in FUNCTIONS.items() if function.peer]
UNIT = 2.0**-16


@pytest.mark.parametrize("name", BARS)
def test_errors_stay_below_the_bars(name: str) -> None:
    torch.manual_seed(1)
    function, number_format = FUNCTIONS[name], FixedPoint(2, 16)
    assert function.bar is not None
    found, wanted = forward(function, Session(), function.points(number_format, POINTS))
    assert function.bar.holds(found, wanted), float((found - wanted).abs().max())


@pytest.mark.parametrize("name", PEERS)
def test_errors_stay_below_those_of_other_systems(name: str) -> None:
    torch.manual_seed(1)
    function = FUNCTIONS[name]
    peer = function.peer
    assert peer is not None
    number_format = FixedPoint(2, peer.bits)
    found, wanted = forward(function, Session(fixed_point=number_format), peer.points(number_format, POINTS))
    assert float((found - wanted).abs().max()) < peer.error


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_as_published(name: str) -> None:
    """The published errors are the largest of 400 runs of these points, among others."""
    for line in [line for line in RECORDED["lines"] if line["name"] == name and "raises" not in line]:
        found = measure(name, line["bits"], TESTED)
        slack = 2.0 ** (1 - line["bits"])
        for way in ("forward", "backward"):
            if way in line:
                assert found[way][0] <= 2 * line[way][0] + slack
        for cost in ("cost", "gradient_cost"):
            assert found.get(cost) == line.get(cost)


def test_the_page_is_that_of_the_record() -> None:
    assert {(line["name"], line["bits"]) for line in RECORDED["lines"]} == {(n, b) for n in FUNCTIONS for b in (16, 20)}
    assert PAGE.read_text() == page(RECORDED, COSTED)


def test_points_hold_the_edges_and_lie_on_the_grid() -> None:
    (x,) = even(-60, 60)(FixedPoint(2, 16), 1000)
    assert torch.equal(torch.round(x / UNIT) * UNIT, x)
    assert {-60.0, -60.0 + UNIT, 0.0, -UNIT, UNIT, 60.0} <= set(x.tolist())
    assert x.numel() == 1000


def test_a_planted_error_is_seen() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) if type(x) is torch.Tensor else torch.tanh(x) + 3 * UNIT

    wrong = replace(FUNCTIONS["tanh"], call=call)
    operands = wrong.points(FixedPoint(), 1000)
    found, wanted = forward(wrong, Session(), operands)
    assert not Bar(2.5 * UNIT).holds(found, wanted)
    assert Error.of([(found, wanted)]).absolute > 2.5 * UNIT
    slope = Function(lambda x: x * x if type(x) is torch.Tensor else x * x * 1.01, even(-5, 5), "", "")
    ((found, wanted),) = backward(slope, Session(), slope.points(FixedPoint(), 1000))
    assert Error.of([(found, wanted)]).absolute > 0.09


def test_chunks_keep_every_number() -> None:
    x = torch.arange(3 * 70_000).reshape(-1, 3)
    assert torch.equal(torch.cat([piece for (piece,) in chunks((x,))]), x)
