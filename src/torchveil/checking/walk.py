"""Walking through a program on a shadow: share the model and a batch, run it forward, train steps; phase by phase.

The model is copied without its numbers: parameters and float buffers become shadow tensors, and the rest of the modules
is copied as it is. The user's model, its gradients and torch's random numbers stay as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from torchveil.checking.findings import Finding, Findings, first_line
from torchveil.checking.ranges import Clear, Notes
from torchveil.checking.shadow import Shadow
from torchveil.checking.watch import CannotGoOn, Lines, Place, Reporter, Watch
from torchveil.compiling import compile
from torchveil.errors import TorchveilError
from torchveil.fixedpoint import FixedPoint
from torchveil.gates.base import Cost
from torchveil.modules import track
from torchveil.profiling.network import Estimate, Network, estimate
from torchveil.profiling.profile import Profile
from torchveil.profiling.rows import Figures, grouped
from torchveil.profiling.rows import Place as Row
from torchveil.public import PublicTensor
from torchveil.tensor import EncryptedTensor
from torchveil.where import line_of


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be checked, as the user gave it."""

    model: nn.Module
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    targets: tuple[Any, ...]
    loss: Callable[..., Any] | None
    optimizer: Any
    parties: tuple[str, ...]
    provider: str
    fixed_point: FixedPoint | None

    @property
    def has_data(self) -> bool:
        """Whether the model and the example have numbers, so that they can run in the clear."""
        given = (self.inputs, self.keywords, self.targets)
        tensors = [x for x, _ in tensors_of(self.model)] + [x for x in tree_iter(given) if isinstance(x, Tensor)]
        return all(has_data(x) for x in tensors)


def _nothing(_func: Any, _args: Any) -> None:
    """Where numbers are looked at, there is nothing to say without them."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What one part of the program would cost: exactly what ``session.cost()`` of a run grows by in it.

    ``name``; ``rows``: cost by torch operation, module path, gate and line.
    """

    name: str
    rows: tuple[tuple[Row, Figures], ...]

    @staticmethod
    def of(name: str, profile: Profile) -> Phase:
        """What a profile of a session without values counted; its times mean nothing."""
        rows = ((place, Figures(figures.instructions, cost=figures.cost)) for place, figures in profile.rows)
        return Phase(name, tuple(rows))

    @property
    def total(self) -> Figures:
        return sum((figures for _, figures in self.rows), Figures())

    @property
    def cost(self) -> Cost:
        """Rounds, bytes that each party sends, bytes dealt, bytes in and out."""
        return self.total.cost

    @property
    def instructions(self) -> int:
        return self.total.instructions

    def figures(self, by: str | Sequence[str] = "modules") -> dict[tuple[str, ...], Figures]:
        """Cost by "modules", "operations", "gates" or "lines", or several of these; what sends most comes first."""
        found = grouped(self.rows, by)
        order = sorted(found.items(), key=lambda row: (row[1].cost.sent + row[1].cost.dealt, row[1].cost.rounds))
        return dict(reversed(order))

    def estimate(self, network: Network) -> Estimate:
        """Seconds on a network, without the work of the machines."""
        return estimate(network, self.cost, 0.0, 0.0)


def has_data(x: Tensor) -> bool:
    """Whether a tensor has numbers: not on the meta device, not fake, not encrypted."""
    plain = x.plain if isinstance(x, PublicTensor) else x
    return type(plain) in (Tensor, nn.Parameter) and not plain.is_meta


def _public_numbers(x: Tensor) -> Tensor:
    """A plain tensor with numbers: zeros where it has none."""
    if isinstance(x, PublicTensor):
        return x if has_data(x) else PublicTensor(torch.zeros(tuple(x.shape), dtype=x.dtype))
    return x if has_data(x) else torch.zeros(tuple(x.shape), dtype=x.dtype)


def tensors_of(model: nn.Module) -> Iterator[tuple[Tensor, bool]]:
    """Every parameter, buffer and tensor attribute of the modules, and whether ``encrypt`` would share it."""
    for part in model.modules():
        tables: list[dict[str, Any]] = [part._parameters, part._buffers]
        for table in tables:
            for x in table.values():
                if x is not None:
                    yield x, x.dtype.is_floating_point
        for x in part.__dict__.values():
            if isinstance(x, Tensor):
                yield x, False


def shadow_copy(model: nn.Module, shadow: Shadow) -> tuple[nn.Module, dict[int, Any]]:
    """A copy with shadow tensors for all that ``session.encrypt`` shares, and what became of each tensor."""
    memo: dict[int, Any] = {}
    for x, shared in tensors_of(model):
        if id(x) in memo:
            continue
        if shared:
            new: Tensor = shadow.share(torch.empty(tuple(x.shape), dtype=x.dtype, device="meta"))
            memo[id(x)] = nn.Parameter(new, x.requires_grad) if isinstance(x, nn.Parameter) else new
        elif not has_data(x) and not isinstance(x, EncryptedTensor):
            memo[id(x)] = _public_numbers(x)
    twin = copy.deepcopy(model, memo)
    track(twin, shadow)
    return twin, memo


class Walk:
    """One shadow session with the program on it. Stops, and says so in a finding, where torch cannot go on."""

    def __init__(self, program: Program, findings: Findings) -> None:
        self._program = program
        self._findings = findings
        self._place = Place(type(program.model).__name__)
        self._reporter = Reporter(self._place)
        self.shadow = Shadow(program.parties, program.provider, program.fixed_point, self._reporter.error)
        self._place.shadow = self.shadow
        ranges = Notes(self._reporter, self.shadow.fixed_point)
        self._notes = _nothing if program.has_data else ranges
        self.phases: list[Phase] = []
        self.stopped = False
        self._model: nn.Module = program.model
        self._memo: dict[int, Any] = {}

    def run(self, name: str, part: Callable[[], Any], *, listed: bool = True) -> Any:
        """Run one part of the program; its cost becomes a phase if ``listed``. Nothing once the walk has stopped."""
        if self.stopped:
            return None
        found = self._reporter.findings = Findings()
        profile = self.shadow.profile()
        out = None
        with ExitStack() as stack:
            stack.enter_context(Lines())
            stack.enter_context(Watch(self.shadow, self._reporter, self._notes))
            stack.enter_context(profile)
            try:
                out = part()
            except Exception as error:  # the user's program may raise anything
                self._stop(error)
        self._findings.merge(found)
        if listed and not self.stopped:
            self.phases.append(Phase.of(name, profile))
        return out

    def _stop(self, error: Exception) -> None:
        self.stopped = True
        if isinstance(error, TorchveilError):
            self._reporter.error(error)
            return
        text = str(error) if isinstance(error, CannotGoOn) else f"{type(error).__name__}: {error}"
        place = self._place
        self._reporter.findings.add(
            Finding(
                "stopped",
                "",
                place.module(),
                line_of(error),
                place.phase,
                f"the check stops here: {text}",
                "mend this, or what was found before it, and check again",
            )
        )

    # --- the parts ---------------------------------------------------------------------------------------------------

    def share_model(self) -> None:
        def part() -> None:
            self._model, self._memo = shadow_copy(self._program.model, self.shadow)

        self.run("share the model", part)

    def batch(self, name: str = "share a batch", *, listed: bool = True) -> Any:
        """Inputs, keywords and targets, freshly shared; public tensors and what is no tensor as they are."""

        def shared(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            if isinstance(x, PublicTensor):
                return _public_numbers(x)
            return self.shadow.share(torch.empty(tuple(x.shape), dtype=x.dtype, device="meta"))

        program = self._program
        given = (program.inputs, program.keywords, program.targets)
        return self.run(name, lambda: tree_map(shared, given), listed=listed)

    def forward(self, name: str) -> Any:
        """The model on a batch of its own, without gradients."""
        batch = self.batch(listed=not self.phases[1:])

        def part() -> Any:
            inputs, keywords, _ = batch
            self._place.phase = "forward"
            with torch.no_grad():
                return self._model(*inputs, **keywords)

        return self.run(name, part)

    def reveal(self, name: str, output: Any) -> None:
        def part() -> None:
            for x in tree_iter(output):
                if isinstance(x, EncryptedTensor):
                    x.reveal()

        self.run(name, part)

    def optimizer(self) -> Any:
        """The optimizer on the shadow's parameters: made by a function of them, or a copy of an optimizer."""
        made = self._program.optimizer
        if not isinstance(made, torch.optim.Optimizer):
            return made(self._model.parameters())
        return copy.deepcopy(made, self._memo)

    def step(self, optimizer: Any, inputs: Any, keywords: Any, targets: Any) -> Any:
        """One training step, as the user would write it; the loss."""
        loss_of = self._program.loss
        self._place.phase = "forward"
        if optimizer is not None:
            optimizer.zero_grad()
        out = self._model(*inputs, **keywords)
        self._place.phase = "loss"
        loss = loss_of(out, *targets) if loss_of is not None else out
        self._place.phase = "backward"
        loss.backward()
        if optimizer is not None:
            self._place.phase = "optimizer"
            optimizer.step()
        return loss.detach()


def inference(program: Program, findings: Findings) -> tuple[Phase, ...]:
    """Sharing, the first forward pass, revealing its result, and a pass on another batch."""
    walk = Walk(program, findings)
    walk.share_model()
    output = walk.forward("forward, first")
    walk.reveal("reveal the output", output)
    walk.forward("forward, further")
    return tuple(walk.phases)


def training(program: Program, findings: Findings, steps: int) -> tuple[Phase, ...]:
    """``steps`` training steps, each on a batch of its own."""
    walk = Walk(program, findings)
    walk.share_model()
    optimizer = walk.run("", walk.optimizer, listed=False) if program.optimizer is not None else None
    walk.phases.clear()
    for number in range(1, steps + 1):
        batch = walk.batch(listed=False)
        loss = walk.run(f"training step {number}", partial(walk.step, optimizer, *(batch or ())))
    walk.reveal("reveal the loss", loss)
    return tuple(walk.phases)


#: Calls of a compiled step after which it must have run as a plan: it is recorded anew while openings change.
_CALLS = 5


def planned(program: Program) -> tuple[Phase | None, str]:
    """One training step as a recorded plan (``torchveil.compile``), or why there is none.

    For a program in which nothing was found: nothing is noted here.
    """
    walk = Walk(program, Findings())
    try:
        walk.share_model()
        optimizer = None if program.optimizer is None else walk.optimizer()
        step = compile(partial(_step, walk, optimizer))
        for _ in range(_CALLS):
            before = step.recordings
            batch = walk.batch(listed=False)
            with walk.shadow.profile() as profile:
                step(*batch)
            if step.recordings == before:
                return Phase.of("training step as a plan", profile), ""
    except TorchveilError as error:
        return None, first_line(error)
    return None, "it is recorded anew at every call"


def _step(walk: Walk, optimizer: Any, inputs: Any, keywords: Any, targets: Any) -> Any:
    return walk.step(optimizer, inputs, keywords, targets)


def in_the_clear(program: Program, findings: Findings) -> None:
    """Run forward, loss and backward once on the example's own numbers and note what leaves a range.

    On a copy that has parameters of its own with the same storage, and copies of the buffers.
    """
    place = Place(type(program.model).__name__)
    reporter = Reporter(place)
    memo: dict[int, Any] = {id(x): nn.Parameter(x.detach(), x.requires_grad) for x in program.model.parameters()}
    model = copy.deepcopy(program.model, memo)
    handles = [part.register_forward_pre_hook(partial(_entered, place, name)) for name, part in model.named_modules()]
    handles += [part.register_forward_hook(partial(_left, place)) for part in model.modules()]
    inputs, keywords, targets = tree_map(_plain, (program.inputs, program.keywords, program.targets))
    number_format = program.fixed_point or FixedPoint()
    try:
        with Lines(), Clear(reporter, number_format):
            out = model(*inputs, **keywords)
            if program.loss is not None:
                place.phase = "loss"
                loss = program.loss(out, *targets)
                place.phase = "backward"
                loss.backward()
    except Exception as error:  # the user's program may raise anything
        text = f"the example does not run in the clear: {type(error).__name__}: {error}"
        reporter.note("range", "", text, "mend this to have ranges looked at")
    findings.merge(reporter.findings)


def _plain(x: Any) -> Any:
    return x.plain if isinstance(x, PublicTensor) else x


def _entered(place: Place, name: str, _module: nn.Module, _args: Any) -> None:
    place.running.append(name)


def _left(place: Place, _module: nn.Module, _args: Any, _output: Any) -> None:
    if place.running:
        place.running.pop()
