"""The kernels under pytest-benchmark: each native kernel beside its reference twin, as groups.

    make bench-kernels        or        pytest benchmarks/test_kernels.py --benchmark-only

Not among the tests: nothing here can fail but by an error. ``--benchmark-autosave`` and ``--benchmark-compare`` keep
and compare runs; the cases are those of ``benchmarks/kernels.py``, which alternates the two instead.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from benchmarks import kernels
from torchveil.kernels import native

if native.core is None:
    pytest.skip("torchveil_native is not installed: pip install ./native", allow_module_level=True)

torch.manual_seed(0)
GROUPS = (
    kernels.products,
    kernels.keystreams,
    kernels.shorts,
    kernels.truncations,
    kernels.comparisons,
    kernels.curves_,
)
CASES = list(itertools.chain.from_iterable(group() for group in GROUPS))


@pytest.mark.parametrize("implementation", ["native", "reference"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernel(benchmark: Any, case: kernels.Case, implementation: str) -> None:
    benchmark.group = case.name
    benchmark.extra_info |= {"level": native.core.level(), "threads": torch.get_num_threads()}
    benchmark(getattr(case, implementation))
