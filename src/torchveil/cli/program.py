"""Arguments that describe a program (a model of a file, its inputs, how it trains), and the check of it."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchveil.checking import Report, check
from torchveil.cli.usage import UsageError
from torchveil.fixedpoint import FixedPoint

_LOSSES: dict[str, Callable[..., Tensor]] = {
    name: getattr(nn.functional, name)
    for name in ("cross_entropy", "mse_loss", "l1_loss", "binary_cross_entropy_with_logits", "nll_loss")
}


MODEL = "file.py:Name, Name a module, a class or a function without arguments that makes one"


def add_program(parser: argparse.ArgumentParser) -> None:
    """All arguments but ``model``."""
    argument = parser.add_argument
    argument("--input", action="append", default=[], metavar="SHAPE", help="1x3x224x224, or 8x16:int64; once per input")
    argument("--target", action="append", default=[], metavar="SHAPE", help="as --input, for the loss")
    argument("--loss", help=f"one of {', '.join(_LOSSES)}, or the name of a function in the file")
    argument("--optimizer", help="a class of torch.optim, or the name of a function of parameters in the file")
    argument("--lr", type=float, help="its learning rate")
    argument("--train", action="store_true", help="check the forward pass in training mode too (default: eval mode)")
    argument("--steps", type=int, default=2, help="training steps to predict")
    argument("--plan", action="store_true", help="also predict a step as torchveil.compile runs it")
    argument("--digits", type=int, default=FixedPoint().digits, help="binary digits behind the point")


def checked(options: argparse.Namespace, parties: int) -> Report:
    """The report of the program that the arguments describe, between so many parties."""
    file, _, name = options.model.partition(":")
    names = _load(Path(file))
    with torch.device("meta"):
        model = _named(names, name or "model")
        if not isinstance(model, nn.Module) and callable(model):
            model = model()
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} of {file} is no nn.Module and makes none")
    loss = _loss(names, options.loss)
    training = loss is not None or options.train
    return check(
        model.train(training),
        *[_tensor(text) for text in options.input],
        targets=tuple(_tensor(text) for text in options.target),
        loss=loss,
        optimizer=_optimizer(names, options),
        steps=options.steps,
        plan=options.plan,
        parties=tuple(f"party{k}" for k in range(parties)),
        provider="provider",
        fixed_point=FixedPoint(2, options.digits),
    )


def _loss(names: dict[str, Any], name: str | None) -> Callable[..., Any] | None:
    if name is None:
        return None
    found: Any = _LOSSES.get(name)
    if found is None:
        found = _named(names, name)
    made: Any = found() if isinstance(found, type) else found
    loss: Callable[..., Any] = made
    return loss


def _optimizer(names: dict[str, Any], options: argparse.Namespace) -> Any:
    if options.optimizer is None:
        return None
    made = getattr(torch.optim, options.optimizer, None) or _named(names, options.optimizer)
    return made if options.lr is None else partial(made, lr=options.lr)


def _load(file: Path) -> dict[str, Any]:
    """The names of a program, which is run as a module would be imported."""
    spec = importlib.util.spec_from_file_location(file.stem, file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"there is no Python file {file}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return vars(module)


def _named(names: dict[str, Any], name: str) -> Any:
    if name not in names:
        raise UsageError(f"the file has no {name!r}")
    return names[name]


def _tensor(text: str) -> Tensor:
    """``1x3:int64`` as a tensor without numbers; float32 if no dtype is named, and ``scalar`` for no dimensions."""
    shape, _, dtype = text.partition(":")
    kind = getattr(torch, dtype or "float32", None)
    try:
        sizes = [] if shape == "scalar" else [int(size) for size in shape.split("x")]
    except ValueError:
        raise UsageError(f"{text!r} is no shape: write 1x3x224x224 or 8:int64") from None
    if not isinstance(kind, torch.dtype):
        raise UsageError(f"{dtype!r} is no dtype of torch")
    return torch.empty(sizes, dtype=kind, device="meta")
