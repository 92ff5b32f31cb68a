"""Maximum from all pairs of entries at once: more comparisons than a tournament, and as many rounds as one level.

For k entries, after the opening of x: k (k - 1) / 2 comparisons, 3 rounds for k = 2, 4 for k <= 10, 5 for k <= 17
(``gates.winner``). The maximum is the sum of the entries times their winner bits, whose openings exist: no round. The
same bits give the index without any communication, and the gradient for one opening of it. The entries within a reach
of the maximum are found on the way (for exponentials, which vanish elsewhere).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchveil.functions.arithmetic import multiply, round_shares, secret, select, select_raw
from torchveil.functions.structure import apply
from torchveil.gates import GATES
from torchveil.gates.base import Cost
from torchveil.handle import Bit, Public, Secret
from torchveil.program import instructions as ins


@dataclass(frozen=True, slots=True)
class AllPairs:
    """One-hot bits of the winners along ``dim``; ``near`` marks the entries within the reach that was asked for."""

    dim: int
    won: Bit
    near: Bit | None

    def distribute(self, value: Secret) -> Secret:
        """value (dimension kept, size 1) times the one-hot winner; a pending value is truncated on the way."""
        return select(self.won, value)

    def index(self, like: Secret, places: Tensor | None = None) -> Secret:
        """The index of the winner as a whole number (dimension kept, size 1); local.

        ``places`` are the numbers to tell in place of 0, 1, 2, ... (broadcast to the rows).
        """
        if places is None:
            shape = [1] * len(self.won.shape)
            shape[self.dim] = -1
            places = torch.arange(self.won.shape[self.dim]).reshape(shape)
        weighed = multiply(secret(self.won), Public(like.session, tuple(places.shape), tensor=places))
        return secret(apply(weighed, "sum", (self.dim,), True))

    def pick(self, entries: Secret) -> Secret:
        """Of other rows of the same shape the entry where the winner was (dimension kept, size 1)."""
        return secret(apply(select(self.won, entries), "sum", (self.dim,), True))


def maximum(x: Secret, dim: int, reach: int | None = None) -> tuple[Secret, AllPairs]:
    """(max along dim with the dimension kept, the winners). A pending x is compared as it is, untruncated.

    ``reach`` counts in units of x's own scale.
    """
    session = x.session
    session.open(x)
    outs = tuple(session.new_id() for _ in range(1 if reach is None else 2))
    session.submit(ins.Winner(outs, x.id, dim, reach, x.shape, x.zeros))
    won, *near = (Bit(session, out, x.shape) for out in outs)
    value = secret(apply(select_raw(won, x), "sum", (dim,), True))
    if x.zeros:
        value = round_shares(value, x.zeros)  # the value is such a multiple, so that nothing is lost
    value.nonnegative = x.nonnegative
    value.wide = x.wide
    return value, AllPairs(dim, won, near[0] if near else None)


def cost(size: int, rows: int, reach: int | None) -> Cost:
    """The cost for two parties of ``rows`` maxima of ``size`` opened entries, by the formulas of the gates."""
    outs = (0,) if reach is None else (0, 1)
    won = GATES[ins.Winner].cost(ins.Winner(outs, 0, 1, reach, (rows, size)), 2)
    return won + GATES[ins.Select].cost(ins.Select(0, 0, 0, (rows, size)), 2)
