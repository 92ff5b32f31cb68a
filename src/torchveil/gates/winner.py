"""The winner along a dimension from all pairs at once: which entry is the largest, and which lie within reach of it.

Theory of operation. Of an opened x the differences x_i - x_j, i < j, have derived openings (rules O2): one batch of
comparisons (``comparator``) gives XOR shares of [x_i < x_j] for every pair and no round is spent on openings. Entry e
wins iff it beats all others: not [x_e < x_j] for the later ones, [x_i < x_e] for the earlier ones. So exactly one entry
wins, among equals the first as in torch. Entry e is near iff x_e >= x_j - reach for all j, which is max - x_e <= reach:
the same tables read at the thresholds -reach and reach + 1. Each bit is a ``conjunction`` of k - 1 bits, up to nine of
them in one round (the 502 monomials weigh about as much as one comparison), otherwise in nodes of four. The bits are
opened as bit wires of the shape of x.

Exact while |x_i - x_j| + reach < 2^63. Views. As for the comparison: uniform pieces, openings under fresh bits.
Cost for rows of k entries, P = k (k - 1) / 2 pairs, J = 1 threshold and K = 1 bit (J = 3, K = 2 with a reach), M
monomials and V variables per conjunction: rounds 2 + 1 (2 for k > 10) + 1; per row sent (33 J P + (V + 1) K k) / 8
(n - 1) bytes, dealt 32 P + (96 J + 1) P / 8 + M K k / 8 + 8 K k bytes (rows counted in whole bytes of bits). Floor: a
tournament needs k - 1 comparisons, but ceil(log2 k) openings one after the other. Sources: those of the comparator; the
all-pairs maximum is folklore.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchveil.gates.base import Cost, Gate, Interaction
from torchveil.gates.bit_opening import cost_of_bits, deal_bits, open_bits
from torchveil.gates.comparator import cost_of_signs, deal_signs, geometry, signs
from torchveil.gates.conjunction import conjunction, cost_of_conjunction, deal_conjunction
from torchveil.kernels import reduce_ring, signed
from torchveil.program.instructions import Winner
from torchveil.roles.party import Party
from torchveil.roles.plain import Plain
from torchveil.roles.provider import Provider

#: Up to this many bits are multiplied in one round.
_ONE_ROUND = 9

Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which comparisons make which bit: factor f of bit b is row ``pairs[f, b]`` of threshold ``thresholds[f, b]``.

    ``flips[f, b]`` is 1 where the complement is meant. The bits are those of the winner, then those of the near ones.
    """

    thresholds: Places
    pairs: Places
    flips: npt.NDArray[np.int64]

    @property
    def n_factors(self) -> int:
        return len(self.pairs)

    @property
    def n_bits(self) -> int:
        return int(self.pairs.shape[1])


@cache
def _plan(size: int, outputs: int) -> Plan:
    place = {pair: row for row, pair in enumerate(combinations(range(size), 2))}
    #: per output: the threshold that an earlier entry reads flipped, and the one that a later entry reads as it is
    choices = ((0, 0), (1, 2))[:outputs]
    columns = []
    for low, high in choices:
        for e in range(size):
            others = [j for j in range(size) if j != e]
            columns.append([(low, place[e, j], 1) if e < j else (high, place[j, e], 0) for j in others])
    table = np.array(columns, dtype=np.intp).reshape(outputs * size, size - 1, 3)
    return Plan(*(np.ascontiguousarray(table[:, :, k].T) for k in range(3)))


def _fan_in(n_factors: int, width: int) -> int:
    if width < 64:
        return geometry(width).fan_in
    return n_factors if n_factors <= _ONE_ROUND else geometry(width).fan_in


def _thresholds(i: Winner) -> tuple[int, ...]:
    return (0,) if i.reach is None else (0, -i.reach, i.reach + 1)


def _rows(values: Tensor, dim: int) -> Tensor:
    """[k, rows], the rows filled up with zeros to whole bytes of bits."""
    rows = values.movedim(dim, 0).reshape(values.shape[dim], -1)
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8))


def _differences(values: Tensor, dim: int, width: int) -> Tensor:
    """[pairs, rows]: x_i - x_j for i < j."""
    rows = _rows(values, dim)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return reduce_ring(rows[first] - rows[second], width)


def _count(i: Winner) -> int:
    return math.prod(i.shape) // max(1, i.shape[i.dim])


def _as_wires(bits: Tensor, i: Winner) -> Tensor:
    """Bits [outs * k, rows] as [outs, *shape]."""
    others = (*i.shape[: i.dim], *i.shape[i.dim + 1 :])
    return bits.reshape(len(i.outs), i.shape[i.dim], *others).movedim(1, 1 + i.dim).contiguous()


def deal(provider: Provider, i: Winner) -> None:
    mask = _differences(provider.wires[i.x].total_mask(), i.dim, provider.width)
    plan = _plan(i.shape[i.dim], len(i.outs))
    deal_signs(provider, mask, len(_thresholds(i)), i.zeros)
    planes = (plan.n_bits, mask.shape[1] // 8)
    deal_conjunction(provider, plan.n_factors, _fan_in(plan.n_factors, provider.width), planes)
    deal_bits(provider, i.outs, plan.n_bits, _count(i), lambda bits: _as_wires(bits, i))


def evaluate(party: Party, i: Winner) -> Interaction:
    opened = party.wires[i.x].public()
    plan = _plan(i.shape[i.dim], len(i.outs))
    below = yield from signs(party, _differences(opened, i.dim, party.width), _thresholds(i), zeros=i.zeros)
    factors = below[plan.thresholds, plan.pairs]
    if party.first:
        factors ^= (plan.flips * 0xFF).astype(np.uint8)[:, :, None]
    won = yield from conjunction(party, factors, _fan_in(plan.n_factors, party.width))
    yield from open_bits(party, i.outs, won, _count(i), lambda bits: _as_wires(bits, i))


def clear(plain: Plain, i: Winner) -> None:
    differences = _differences(plain.value(i.x), i.dim, plain.width)
    limit = (1 << (plain.width - 2)) - 1 - (i.reach or 0)
    plain.require(differences, -limit, limit, "maximum", "compare values that are closer together, or use fewer digits")
    plan = _plan(i.shape[i.dim], len(i.outs))
    below = torch.stack(
        [signed(reduce_ring(differences - t, plain.width), plain.width) < 0 for t in _thresholds(i)]
    ).to(torch.int64)
    factors = below[torch.from_numpy(plan.thresholds), torch.from_numpy(plan.pairs)]
    won = (factors ^ torch.from_numpy(plan.flips).unsqueeze(2)).amin(0)
    for out, bits in zip(i.outs, _as_wires(won[:, : _count(i)], i), strict=True):
        plain.set_bit(out, bits)


def cost(i: Winner, n_parties: int) -> Cost:
    size, count = i.shape[i.dim], _count(i)
    n_bytes, pairs, n_bits = -(-count // 8), math.comb(size, 2), len(i.outs) * size
    compared = cost_of_signs(8 * n_bytes * pairs, n_bytes * pairs, len(_thresholds(i)), n_parties, i.zeros)
    trees = cost_of_conjunction(size - 1, _fan_in(size - 1, 64), n_bytes * n_bits, n_parties)
    return compared + trees + cost_of_bits(n_bits, count, n_parties)


GATE = Gate("winner", True, deal, evaluate, clear, cost)
