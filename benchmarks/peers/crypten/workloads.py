"""The workloads of ``benchmarks/inputs.py`` on CrypTen, one party's side of them.

Every party runs this same code. Operands are drawn by every party, because CrypTen wants tensors of the right shape
everywhere, and those of party 0 count (``src=0``). What is timed is what ``benchmarks/workloads.py`` times for
torchveil: sharing the operands, the computation, in W1 encrypting the net and revealing the losses too, in W4 and W5
drawing the batch. Results stay shared. Tracing a net with ``crypten.nn.from_pytorch`` (an ONNX export) is done before
and not timed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import crypten
from torch import Tensor, nn

from benchmarks.inputs import CLEAR, WORKS, Function, Inference, Training, Tutorial, TutorialNet, Work

Run = Callable[[], object]


def _gelu(x: Any) -> Any:
    return x * (1 + (x / math.sqrt(2)).erf()) * 0.5


#: function -> the same on a CrypTensor
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "matmul": lambda x, y: x.matmul(y),
    "relu": lambda x: x.relu(),
    "softmax": lambda x: x.softmax(1),
    "sigmoid": lambda x: x.sigmoid(),
    "exp": lambda x: x.exp(),
    "gelu": _gelu,
    "reciprocal": lambda x: x.reciprocal(),
    "sqrt": lambda x: x.sqrt(),
}

#: What a reader has to know about one workload: by function or by kind of work.
NOTES: dict[object, str] = {
    "gelu": "composed from erf: CrypTen has no gelu",
    Tutorial: "16 binary digits (CrypTen has no base 10)",
    Training: "without the value of the loss (skip_forward), which torchveil does not compute unless it is read either",
}


def _share(x: Tensor) -> Any:
    return crypten.cryptensor(x, src=0)


def _net(net: nn.Module, example: Tensor) -> Any:
    return crypten.nn.from_pytorch(net, example)


def _tutorial(work: Tutorial) -> Run:
    data, target = work.batch()
    traced = _net(TutorialNet(), data)

    def run() -> None:
        net = copy.deepcopy(traced).encrypt()
        net.train()
        optimizer = crypten.optim.SGD(net.parameters(), lr=work.learning_rate)
        x, y = _share(data), _share(target)
        for _ in range(work.iterations):
            optimizer.zero_grad()
            loss = (net(x) - y).square().sum()
            loss.backward()
            optimizer.step()
            loss.get_plain_text()

    return run


def _function(work: Function) -> Run:
    function = FUNCTIONS[work.function]
    values = [operand.draw() for operand in work.operands]

    def run() -> Any:
        with crypten.no_grad():
            return function(*[_share(x) for x in values])

    return run


def _training(work: Training) -> Run:
    net = _net(work.build(), work.batch()[0]).encrypt()
    net.train()
    optimizer = crypten.optim.SGD(net.parameters(), lr=work.learning_rate)
    criterion = crypten.nn.CrossEntropyLoss(skip_forward=True)

    def run() -> None:
        x, y = (_share(t) for t in work.batch())
        loss = criterion(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def _inference(work: Inference) -> Run:
    net = _net(work.build(), work.batch()).encrypt()
    net.eval()

    def run() -> Any:
        with crypten.no_grad():
            return net(_share(work.batch()))

    return run


_KINDS: dict[type, Callable[..., Run]] = {
    Tutorial: _tutorial,
    Function: _function,
    Training: _training,
    Inference: _inference,
}

_BY_NAME: dict[str, Work] = {work.name: work for work in WORKS}


def _unavailable(work: Work) -> str | None:
    if type(work) not in _KINDS:
        return f"CrypTen has nothing for {type(work).__name__}"
    if isinstance(work, Function) and work.function not in FUNCTIONS:
        return f"CrypTen has no {work.function}"
    return None


def catalogue() -> dict[str, dict[str, str]]:
    """name -> {"note": ...} or {"unavailable": the reason}, for every workload."""
    found = {}
    for name, work in _BY_NAME.items():
        reason = _unavailable(work)
        note = NOTES.get(work.function if isinstance(work, Function) else type(work), "")
        found[name] = {"unavailable": reason} if reason else {"note": note}
    return found


def prepare(name: str) -> Run:
    """A run of the workload; raises ``KeyError`` for a name that does not exist."""
    work = _BY_NAME[name]
    return _KINDS[type(work)](work)


def error(name: str) -> float | None:
    """The largest absolute error of a function against float64 on fresh operands; None for other workloads."""
    work = _BY_NAME[name]
    if not isinstance(work, Function):
        return None
    values = [operand.draw() for operand in work.operands]
    with crypten.no_grad():
        found = FUNCTIONS[work.function](*[_share(x) for x in values]).get_plain_text()
    return float((found.double() - CLEAR[work.function](*[x.double() for x in values])).abs().max())
