"""Session: what a user holds. Shares tensors and modules, reveals results, saves and loads, tells costs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchveil import checkpoints, modules
from torchveil.engine import Engine
from torchveil.errors import InvalidArgument
from torchveil.fixedpoint import FixedPoint
from torchveil.participants import check_format
from torchveil.profiling.profile import Profile
from torchveil.public import PublicTensor
from torchveil.tensor import EncryptedTensor, wrap

M = TypeVar("M", bound=nn.Module)


class Session(Engine):
    """One controller, two or more parties, a provider, in one process (lockstep). Arguments are those of ``Engine``.

    >>> session = Session(parties=("alice", "bob"), provider="james")
    >>> x = session.share(torch.tensor([1.0, 2.0]))
    >>> (x * x).reveal()
    tensor([1., 4.])
    """

    def share(
        self, x: Tensor, *, requires_grad: bool = False, fixed_point: FixedPoint | None = None
    ) -> EncryptedTensor:
        """Split a clear tensor between the parties.

        x: any shape, float, integer or bool. Floats are encoded with ``fixed_point`` (default: the session's), whole
        numbers (labels) exactly, with scale 1. 0 rounds between parties, 8 bytes per element from the owner. Raises
        ``EncodingError`` for nan, infinities and values of 2**61 / scale and more.
        """
        if not isinstance(x, Tensor) or isinstance(x, EncryptedTensor):
            raise InvalidArgument("only a plain tensor can be shared", op="share", remedy="pass a torch.Tensor")
        check_format(fixed_point)
        clear = x.plain if isinstance(x, PublicTensor) else x.detach()
        if clear.dtype.is_floating_point:
            handle = self.input(clear, fixed_point)
        elif clear.dtype.is_complex:
            raise InvalidArgument(
                "complex numbers have no fixed-point form", op="share", remedy="share real and imaginary parts"
            )
        else:
            handle = self.input(clear.to(torch.int64), fixed_point or FixedPoint(2, 0))
        out = wrap(handle)
        if requires_grad:
            out.requires_grad_()
        return out

    def share_state(self, state: Mapping[str, Tensor], *, fixed_point: FixedPoint | None = None) -> dict[str, Tensor]:
        """A plain ``state_dict`` with its float tensors shared, for ``load_state_dict`` of an encrypted module.

        What is no float (a count of batches) and what is secret already stays. Costs what sharing each tensor costs;
        tensors that are one object are shared once.
        """
        done: dict[int, Tensor] = {}
        for x in state.values():
            if id(x) not in done:
                plain = isinstance(x, EncryptedTensor) or not x.dtype.is_floating_point
                done[id(x)] = x if plain else self.share(x, fixed_point=fixed_point)
        return {name: done[id(x)] for name, x in state.items()}

    def encrypt(self, module: M, *, fixed_point: FixedPoint | None = None) -> M:
        """Share every parameter and float buffer of a module, in place; returns the module.

        Ties stay ties, ``requires_grad`` stays. Costs are accounted per module path from here on.
        """
        return modules.encrypt(module, lambda x: self.share(x, fixed_point=fixed_point), self)

    def decrypt(self, module: M, to: str = "controller") -> M:
        """Reveal every parameter and buffer of a module to ``to``, in place: an explicit reveal of the whole model."""
        return modules.decrypt(module, to)

    def save(self, path: str | os.PathLike[str], state: Any, *, keys: str | os.PathLike[str] | None = None) -> None:
        """Write ``state`` to disk: each party its shares, this process the rest. Nothing is revealed.

        path: a folder of this checkpoint; a later save into it takes the place of the one before when all parts are
        complete. state: dictionaries, lists, numbers, texts, plain and secret tensors, as ``state_dict()`` of models,
        optimizers and schedulers gives them. keys: the folder of the keys, ``path/keys`` if not given, made when
        missing; parties on machines of their own have theirs there. See docs/how-to/checkpoints.md.

        0 rounds and 0 bytes, but for values that nobody had asked for yet. Raises ``InvalidArgument`` for what cannot
        be saved, ``StorageError`` when a disk refuses, somebody else saves there, or with backend="plain", and
        ``CheckpointInvalid`` when ``path`` holds a checkpoint of others.
        """
        checkpoints.save(self, path, state, keys)

    def load(self, path: str | os.PathLike[str], *, keys: str | os.PathLike[str] | None = None) -> Any:
        """The state that was saved at ``path``, its secrets as values of this session, under masks of its own.

        Nothing is revealed or opened. Raises ``CheckpointInvalid`` when a part is missing, damaged, under another key,
        or not of this save, these parties in this order, this cluster.
        """
        return checkpoints.load(self, path, keys)

    def profile(self, *, lines: bool = True) -> Profile:
        """Where a block spends time, rounds and bytes: ``with session.profile() as profile: ...``, ``print(profile)``.

        lines: note the program's line of every instruction too (some microseconds each). Nothing is measured outside
        of a profile. Starting raises ``SessionStateError`` while another profile of this session runs.
        """
        return Profile(self, lines=lines)
