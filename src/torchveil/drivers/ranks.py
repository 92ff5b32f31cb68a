"""Collectives: what the ranks of a session make together, each with one part of a batch.

A program that ``torchrun`` starts several times opens one session per process, all alike: same instructions, other
rows. A collective combines one value of each of them. Shares of a sum are sums of shares, so every party combines its
own shares of the ranks and nothing crosses between parties: 0 rounds, 0 bytes of the protocol, no new view for anybody.

Between machines each party's ranks are daemons that talk to each other (``network.group``). Where all roles of a rank
live in one process, shares travel over torch's default process group, here; that protects nothing, as nothing does
there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from torchveil.errors import Desynchronised

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Collective:
    """What to make of a value of each rank. All ranks have to mean the same.

    how: "sum", "broadcast" (the value of rank ``root``), "stack" (all values along a new first dimension). shape: of
    one value. format: scale and number format of the controllers' handles, as text.
    """

    how: str
    shape: Shape
    root: int
    format: str

    def result(self, ranks: int) -> Shape:
        """The shape of what is made."""
        return (ranks, *self.shape) if self.how == "stack" else self.shape


def world_size() -> int:
    """How many processes torch's default process group has; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_processes(collective: Collective, share: Tensor) -> Tensor:
    """What a collective makes of every process's share; called by all of them."""
    mine = share.contiguous()
    if collective.how == "stack":
        parts = [torch.empty_like(mine) for _ in range(world_size())]
        dist.all_gather(parts, mine)
        return torch.stack(parts)
    mine = mine.clone()
    if collective.how == "sum":
        dist.all_reduce(mine)
    else:
        dist.broadcast(mine, collective.root)
    return mine


def require_agreement(collective: Collective) -> None:
    """Raise ``Desynchronised`` in every process unless all of them mean the same collective."""
    digest = hashlib.sha256(repr(collective).encode()).digest()
    mine = torch.frombuffer(bytearray(digest), dtype=torch.int64)
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    if any(not part.equal(mine) for part in parts):
        raise Desynchronised(
            f"ranks came to different collectives; this one: {collective.how} of shape {collective.shape}",
            remedy="run the same program on every rank",
        )


__all__ = ["Collective", "over_processes", "require_agreement", "world_size"]
