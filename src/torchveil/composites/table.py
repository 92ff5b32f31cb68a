"""The table: which of torch's functions another composition of torch's own operations stands in for.

Everything else of torch is taken apart by torch itself, above ``lowering``. A function has a row here only if torch
would choose a fused kernel without an encrypted form, write a secret into a plain tensor that it makes itself, or spend
rounds that another arrangement of the same operations saves. The replacements call torch on whatever tensors they are
given, so that autograd sees them; they know nothing of shares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

COMPOSITES: dict[Any, Callable[..., Any]] = {}


def replaces(*functions: Any) -> Callable[[F], F]:
    """Register the function that runs in place of torch's when one of the arguments is secret."""

    def register(function: F) -> F:
        for replaced in functions:
            COMPOSITES[replaced] = function
        return function

    return register
