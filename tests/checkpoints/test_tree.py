"""What ``state_dict()`` of anything gives comes back the same; what could not is refused, with its place."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from torchveil.checkpoints.tree import Node, put_together, take_apart
from torchveil.errors import CheckpointInvalid, InvalidArgument


def there_and_back(state: Any) -> Any:
    kept: dict[str, torch.Tensor] = {}

    def leaf(x: torch.Tensor, _place: str) -> str:
        key = str(id(x))
        kept[key] = x
        return key

    written = msgspec.json.encode(take_apart(state, leaf))
    return put_together(msgspec.json.decode(written, type=Node), kept)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a is b
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(k, l) and same(x, y) for (k, x), (l, y) in pairs)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)


VALUES = [
    None,
    True,
    0,
    -1,
    2**63,
    -(2**70),
    0.1,
    -0.0,
    math.inf,
    -math.inf,
    math.nan,
    5e-324,
    "",
    "text \0 \U0001f600",
    b"\0\xff",
    torch.float32,
    torch.bool,
    torch.Size([2, 3]),
    (),
    [],
    {},
    {1: "a", "1": "b", None: 1, (1, "x"): [2], 2.5: True},
    OrderedDict([("z", 1), ("a", 2)]),
    Counter({3: 2, 1: 1}),
    [(1, [2, {"x": (3,)}])],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values(value: Any) -> None:
    back = there_and_back({"x": value})["x"]
    assert same(back, value)
    if isinstance(value, float):
        assert math.copysign(1, back) == math.copysign(1, value)


def schedulers(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [
        lr_scheduler.StepLR(optimizer, 2),
        lr_scheduler.MultiStepLR(optimizer, [1, 3]),
        lr_scheduler.OneCycleLR(optimizer, 0.1, 10),
        lr_scheduler.ReduceLROnPlateau(optimizer),
        lr_scheduler.CosineAnnealingLR(optimizer, 3),
        lr_scheduler.SequentialLR(
            optimizer, [lr_scheduler.StepLR(optimizer, 1), lr_scheduler.StepLR(optimizer, 1)], [2]
        ),
    ]


def test_states_of_torch() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    back = there_and_back(state)
    assert same(back, state) and same(back._metadata, state._metadata)  # type: ignore[attr-defined]
    assert same(there_and_back(optimizer.state_dict()), optimizer.state_dict())
    for scheduler in schedulers(optimizer):
        assert same(there_and_back(scheduler.state_dict()), scheduler.state_dict())


def test_numbers_of_numpy_that_are_floats() -> None:
    assert same(there_and_back([np.float64(0.1)]), [0.1])


class Odd:
    """Nothing that could be made again."""


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("value", [Odd(), {1}, defaultdict(int), np.int64(3), print, nn.Linear(1, 1), LOOP], ids=type)
def test_what_could_not_be_made_again_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"state\['a'\]\[1\]"):
        there_and_back({"a": [0, value]})


def test_a_dtype_that_is_none() -> None:
    for name in ("Tensor", "no_such_thing"):
        with pytest.raises(CheckpointInvalid):
            put_together(msgspec.json.decode(f'{{"type":"dtype","value":"{name}"}}', type=Node), {})
