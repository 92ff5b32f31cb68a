"""Measure every function of the table over its range: ``python -m conformance.accuracy --page``.

Errors are against float64 of the same numbers of the grid. Costs are those of one call on ``COSTED`` numbers, between
two parties: rounds, bytes that each party sends, bytes that the provider deals, per number of the (first) operand.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conformance.functions import FUNCTIONS, Function
from conformance.operations import page
from torchveil import EncryptedTensor, FixedPoint, Session
from torchveil.errors import TorchveilError
from torchveil.functions.arithmetic import narrow, secret
from torchveil.gates.base import Cost

POINTS = 10**6
#: Points that every test run measures, the same each time; what is published holds for ``AGAIN`` times them too.
TESTED = 2_500
AGAIN = 400
CHUNK = 2**16
COSTED = 2**14
FORMATS = (16, 20)

_REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
RECORD = _REFERENCE / "operations.json"
PAGE = _REFERENCE / "operations.md"


@dataclass(frozen=True, slots=True)
class Error:
    """The largest errors: absolute, and relative where the result is at least 1 in magnitude."""

    absolute: float
    relative: float

    @classmethod
    def of(cls, pairs: list[tuple[Tensor, Tensor]]) -> Error:
        found = torch.cat([a.reshape(-1).double() for a, _ in pairs])
        wanted = torch.cat([b.reshape(-1).double() for _, b in pairs])
        error, size = (found - wanted).abs(), wanted.abs()
        large = size >= 1
        relative = float((error[large] / size[large]).max()) if bool(large.any()) else 0.0
        return cls(float(error.max()), relative)


def forward(function: Function, session: Session, operands: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(found, wanted) on grid numbers."""
    wanted = function.call(*operands)
    return read(function.call(*[session.share(x) for x in operands])), wanted.double()


def read(x: Tensor) -> Tensor:
    """The value as the next operation would take it: a product that still waits for its truncation is truncated."""
    if not isinstance(x, EncryptedTensor):
        raise TypeError("a result on shares is an EncryptedTensor")
    if x.dtype is torch.bool:
        return x.reveal().double()
    return x.session.reveal(narrow(secret(x.handle)))


def backward(function: Function, session: Session, operands: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """The same for the gradient of every operand, with an encrypted cotangent of ones."""
    clear = [x.clone().requires_grad_() for x in operands]
    secret = [session.share(x, requires_grad=True) for x in operands]
    out = function.call(*clear)
    wanted = torch.autograd.grad(out, clear, torch.ones_like(out))
    seed = session.share(torch.ones(out.shape, dtype=torch.float64))
    found = torch.autograd.grad(function.call(*secret), secret, seed)
    return [(read(a), b) for a, b in zip(found, wanted, strict=True)]


def inside(found: Tensor, wanted: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Only where the wanted number fits a product: the derivative of a root at 0 does not."""
    fits = wanted.abs() <= 2.0**31 / scale
    return found[fits], wanted[fits]


def chunks(operands: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Pieces of at most ``CHUNK`` numbers, along the first dimension."""
    per_row = max(1, operands[0].numel() // max(1, operands[0].shape[0]))
    step = max(1, CHUNK // per_row)
    return list(zip(*(x.split(step) for x in operands), strict=True))


def spread(function: Function, number_format: FixedPoint, count: int) -> list[tuple[Tensor, ...]]:
    """``count`` points in chunks; if that is more than a test measures, then a test's points again and again.

    Rounding is random: the root of one unit is off by a unit in 1 of 7,000 calls, and its derivative then by .5.
    """
    torch.manual_seed(0)
    pieces = chunks(function.points(number_format, count))
    if count > TESTED:
        torch.manual_seed(0)
        tested = function.points(number_format, TESTED)
        pieces += chunks(tuple(torch.cat([x] * AGAIN) for x in tested))
    return pieces


def measure(name: str, bits: int, count: int = POINTS) -> dict[str, Any]:
    """Errors and costs of one function at one format; ``raises`` where it has no encrypted form yet."""
    function, number_format = FUNCTIONS[name], FixedPoint(2, bits)
    scale = number_format.scale
    pieces = spread(function, number_format, count)
    line: dict[str, Any] = {"name": name, "bits": bits}
    try:
        line["cost"] = cost(function, number_format)
        pairs = []
        for piece in pieces:
            pairs.append(forward(function, Session(fixed_point=number_format), piece))
    except TorchveilError as error:
        return {"name": name, "bits": bits, "raises": error.op}
    forwards = Error.of(pairs)
    line["forward"] = [forwards.absolute, forwards.relative]
    if not function.gradient:
        return line
    try:
        line["gradient_cost"] = cost(function, number_format, gradient=True)
        slopes = []
        for piece in pieces:
            session = Session(fixed_point=number_format)
            slopes += [inside(a, b, scale) for a, b in backward(function, session, piece)]
    except TorchveilError as error:
        return {**line, "gradient_raises": error.op}
    backwards = Error.of(slopes)
    line["backward"] = [backwards.absolute, backwards.relative]
    return line


def cost(function: Function, number_format: FixedPoint, *, gradient: bool = False) -> list[float]:
    """[rounds, bytes sent per party, bytes dealt] of the function, or of its gradient after it."""
    session = Session(fixed_point=number_format)
    operands = function.points(number_format, COSTED)
    secrets = [session.share(x, requires_grad=gradient) for x in operands]
    out = function.call(*secrets)
    seed = session.share(torch.ones(out.shape, dtype=torch.float64)) if gradient else None
    before = session.cost().total if gradient else Cost()
    results = torch.autograd.grad(out, secrets, seed) if gradient else [out]
    for result in results:
        if result.dtype is not torch.bool:
            narrow(secret(result.handle))
    after, n = session.cost().total, operands[0].numel()
    return [after.rounds - before.rounds, (after.sent - before.sent) / n, (after.dealt - before.dealt) / n]


def _task(task: tuple[str, int, int]) -> dict[str, Any]:
    torch.set_num_threads(1)
    return measure(*task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help=f"write {RECORD.name} and {PAGE.name}")
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("names", nargs="*", help="functions; all when none is named")
    options = parser.parse_args()
    tasks = [(name, bits, options.points) for name in options.names or FUNCTIONS for bits in FORMATS]
    if options.workers == 1:
        lines = []
        for task in tasks:
            lines.append(_task(task))
            print(lines[-1], flush=True)
    else:
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            lines = pool.map(_task, tasks, chunksize=1)
    if options.page:
        text = ",\n".join(json.dumps(line) for line in lines)
        counts = f'"points": {options.points}, "tested": {TESTED}, "again": {AGAIN}'
        RECORD.write_text(f'{{{counts}, "lines": [\n{text}\n]}}\n')
        PAGE.write_text(page(json.loads(RECORD.read_text()), COSTED))


if __name__ == "__main__":
    main()
