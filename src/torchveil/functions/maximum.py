"""Maximum along a dimension: by a tournament, or from all pairs at once where the rounds saved are worth the bytes.

Equal entries: the first wins, as in torch. The choice depends on public shapes alone. All pairs of k entries are
k (k - 1) / 2 comparisons in place of k - 1, and 4 or 5 rounds in place of 4 ceil(log2 k): right for the rows of a
classifier (128 x 10: 11 rounds fewer for 0.3 MB more), wrong for the many windows of a pooling.
"""

from __future__ import annotations

from torchveil.functions import all_pairs, tournament
from torchveil.functions.comparison import NOT_BELOW
from torchveil.gates import GATES
from torchveil.gates.base import Cost
from torchveil.handle import Secret
from torchveil.program import instructions as ins

#: What either way leaves for gradient and index: ``distribute``, ``index``, and ``near`` where a reach was asked for.
Winners = all_pairs.AllPairs | tournament.Tournament

#: The bytes that one round is worth. In the time of a round a link carries 62 kB in a data centre (10 Gbit/s, 50 us)
#: and 250 kB between cities (100 Mbit/s, 20 ms); this is the number between them.
ROUND_BYTES = 2**17


def maximum(x: Secret, dim: int, reach: int | None = None) -> tuple[Secret, Winners]:
    """(max along dim with the dimension kept, the winners). A pending x is compared as it is, untruncated.

    A caller that needs to know which entries lie within ``reach`` (in units of x's scale) of the maximum says so;
    ``near`` of the winners has the bits if all pairs were compared, otherwise the caller compares.
    """
    size = x.shape[dim]
    if size > 1 and all_pairs_pay(size, x.numel // size, reach):
        return all_pairs.maximum(x, dim, reach)
    return tournament.maximum(x, dim)


def all_pairs_pay(size: int, rows: int, reach: int | None) -> bool:
    """Whether comparing all pairs saves rounds at no more than ``ROUND_BYTES`` for each."""
    one, other = all_pairs.cost(size, rows, reach), tournament.cost(size, rows)
    if reach is not None:
        other += _cost_of_reach(size, rows)
    extra = one.sent + one.dealt - other.sent - other.dealt
    return one.rounds < other.rounds and extra <= ROUND_BYTES * (other.rounds - one.rounds)


def _cost_of_reach(size: int, rows: int) -> Cost:
    """Comparing every entry with the maximum afterwards."""
    return GATES[ins.Compare].cost(ins.Compare((0,), 0, False, (0,), (NOT_BELOW,), (rows, size)), 2)
