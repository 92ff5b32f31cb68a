"""torch's database of operators (``op_db``) as a generator of calls: which operators count, and their samples.

An operator is one *of floats* when its entry supports float32 and at least one of its samples holds a tensor of floats.
Samples are drawn with float64 where the entry has it (torch's reference is then exact), else with float32, always
from the same seed.
"""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

SEED = 20


@dataclass(frozen=True, eq=False)
class Sample:
    """One call of an operator; ``finish`` is what torch applies to the result before it differentiates."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    finish: Callable[[Any], Any] = field(repr=False)

    def tensors(self) -> list[Tensor]:
        return [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]


@dataclass(frozen=True, eq=False)
class Operator:
    """An entry of the database: its name there, the function, whether torch differentiates it."""

    name: str
    function: Callable[..., Any] = field(repr=False)
    differentiable: bool
    info: Any = field(repr=False)

    def samples(self) -> list[Sample]:
        """All samples of the entry that hold a tensor of floats."""
        supported = self.info.supported_dtypes("cpu")
        dtype = torch.float64 if torch.float64 in supported else torch.float32
        torch.manual_seed(SEED)
        random.seed(SEED)
        numpy.random.seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = self.info.sample_inputs("cpu", dtype, requires_grad=self.differentiable)
            found = [Sample((s.input, *s.args), dict(s.kwargs), s.output_process_fn_grad) for s in inputs]
        return [s for s in found if any(x.dtype.is_floating_point for x in s.tensors())]


@functools.cache
def operators() -> dict[str, Operator]:
    """Every entry that supports float32, by name, in the database's order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # torch's test helpers are imported only here: they are large, and pull in what torch's own tests need
        from torch.testing._internal.common_methods_invocations import op_db
    found = {}
    for info in op_db:
        if torch.float32 in info.supported_dtypes("cpu"):
            name = info.formatted_name
            found[name] = Operator(name, info.op, info.supports_autograd, info)
    return found
