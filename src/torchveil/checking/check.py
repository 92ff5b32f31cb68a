"""``torchveil.check``: what of a model runs encrypted and what it will cost, before anything is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from torchveil import public_randomness
from torchveil.checking.findings import Findings
from torchveil.checking.report import Report
from torchveil.checking.walk import Program, in_the_clear, inference, planned, training
from torchveil.errors import InvalidArgument
from torchveil.fixedpoint import FixedPoint


def check(
    model: nn.Module,
    *example_inputs: Any,
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    targets: Any = (),
    keywords: Mapping[str, Any] | None = None,
    steps: int = 2,
    plan: bool = False,
    parties: Sequence[str] = ("alice", "bob"),
    provider: str = "james",
    fixed_point: FixedPoint | None = None,
) -> Report:
    """Everything of a model that would not run encrypted, numbers that may leave their range, and the exact cost.

    No session is opened, nothing is shared and no number is needed: model and example may be on the meta device.

    model: as ``session.encrypt`` would get it, in the mode (``train()``, ``eval()``) in which it is to run.
    example_inputs, keywords: what the model is called with; every tensor in them counts as shared, unless it is wrapped
    in ``public(...)``. Only shapes and dtypes matter, but where model and example have numbers, they also run once in
    the clear for warnings about ranges.
    loss: called with the model's output and ``targets`` (a tensor or a tuple of them, shared as well); optimizer: a
    function of parameters, such as ``torch.optim.Adam``, or an optimizer. With a loss, ``steps`` training steps are
    predicted: the first shows openings that later ones need not repeat; with ``plan`` also a step as
    ``torchveil.compile`` would run it.

    The model, its gradients and torch's random state stay as they are. Exact: rounds and bytes of each phase, if
    nothing is unsupported. Raises ``InvalidArgument`` for something that is no module, or an optimizer without a loss.
    """
    if not isinstance(model, nn.Module):
        raise InvalidArgument("only an nn.Module can be checked", op="check", remedy="wrap the function in a module")
    if optimizer is not None and loss is None:
        raise InvalidArgument("an optimizer without a loss", op="check", remedy="pass loss= as well")
    program = Program(
        model,
        example_inputs,
        dict(keywords or {}),
        tuple(targets) if isinstance(targets, (tuple, list)) else (targets,),
        loss,
        optimizer,
        tuple(parties),
        provider,
        fixed_point,
    )
    found = Findings()
    no_plan = ""
    with ExitStack() as stack:
        # modes of the caller (a meta device, fake tensors) are for making tensors, not for ours
        stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(public_randomness.unchanged_state())
        stack.enter_context(torch.enable_grad())
        phases = list(inference(program, found))
        if loss is not None:
            phases += training(program, found, steps)
            if plan and not _errors(found):
                phase, no_plan = planned(program)
                phases += [] if phase is None else [phase]
        if program.has_data:
            in_the_clear(program, found)
    warnings = tuple(x for x in found.all() if x.code == "range")
    return Report(type(model).__name__, program.parties, _errors(found), warnings, tuple(phases), no_plan)


def _errors(found: Findings) -> tuple[Any, ...]:
    return tuple(x for x in found.all() if x.code != "range")
