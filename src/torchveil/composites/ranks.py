"""What depends on the rank of a matrix: the rank itself and the pseudoinverse, by singular values on shares.

A singular value counts as zero when it is at most ``max(atol, rtol * largest)``, and always when it is at most 2^-11 (1
+ largest): below that it is noise of fixed point (at 16 bits; use no coarser format), where torch's own default would
be an epsilon of floats. Nobody learns the rank. Thresholds that are plain tensors have to be declared public. Gradients
are torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.public import public

#: Singular values up to this times (1 + the largest) are noise.
NOISE = 2.0**-11

#: A number that exceeds a limit by no more than this counts as equal to it.
EQUAL = 2.0**-14


def numbers_above(s: Tensor, atol: Any, rtol: Any) -> Tensor:
    """Which of the singular values (..., k) count; ``s`` in any order, not negative."""
    largest = s.amax(-1, keepdim=True)
    limit = NOISE + NOISE * largest
    for given, unit in ((atol, 1 + 0 * largest), (rtol, largest)):
        if given is None or (isinstance(given, float | int) and given <= 0):
            continue
        limit = torch.maximum(limit, unit * (given.unsqueeze(-1) if isinstance(given, Tensor) else given))
    return s - limit > EQUAL


def tolerance(given: Any) -> Any:
    """A declared number of no dimensions as a Python number."""
    plain = getattr(given, "plain", given)
    return float(plain) if type(plain) is Tensor and not plain.dim() and plain is not given else given


@replaces(torch.linalg.matrix_rank)
def matrix_rank(A: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Tensor:
    """The rank (...), a secret whole number."""
    numbers = torch.linalg.eigvalsh(A).abs() if hermitian else torch.linalg.svdvals(A)
    if not numbers.shape[-1] or not numbers.numel():
        return torch.zeros(A.shape[:-2], dtype=torch.int64)
    return numbers_above(numbers, tolerance(atol if tol is None else tol), tolerance(rtol)).sum(-1)


@replaces(torch.linalg.pinv)
def pinv(A: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Tensor:
    """The pseudoinverse (..., n, m) of (..., m, n), with the gradient that holds while the rank does not change."""
    atol, rtol = tolerance(atol), tolerance(rtol if rcond is None else rcond)
    # torch's operator takes tensors; one that is given says that singular values decide, unlike in lstsq's gradient
    tensors = [public(torch.tensor(float(t or 0.0))) if not isinstance(t, Tensor) else t for t in (atol, rtol)]
    out: Tensor = torch.ops.aten.linalg_pinv.atol_rtol_tensor(A, atol=tensors[0], rtol=tensors[1], hermitian=hermitian)
    return out


@replaces(torch.pinverse, torch.Tensor.pinverse)
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    return pinv(input, rcond)


@replaces(torch.linalg.lstsq)
def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """``gels``, and without a driver: for full rank, see ``lowering``; the others by the pseudoinverse, at any rank.

    Their rank is a secret whole number. Residuals are given for every rank: when torch leaves them out would tell it.
    """
    if driver in (None, "gels"):
        return torch.linalg.lstsq(A, B, rcond, driver=driver)
    right = B if B.dim() == A.dim() else B.unsqueeze(-1)
    solution = pinv(A, rtol=rcond) @ right
    numbers = torch.linalg.svdvals(A.detach())
    residuals = torch.empty(0)
    if driver != "gelsy" and A.shape[-2] > A.shape[-1]:
        residuals = ((A @ solution - right) ** 2).sum(-2)
    told = torch.empty(0) if driver == "gelsy" else numbers
    rank = numbers_above(numbers, None, rcond).sum(-1)
    solution = solution if right is B else solution.squeeze(-1)
    return torch.return_types.linalg_lstsq((solution, residuals, rank, told))  # type: ignore[attr-defined]
