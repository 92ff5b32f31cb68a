"""All joint assignments of a program's random variables at once: the tool of the tests that can see a leak.

Theory of operation. Roles run on random sources that belong to a ``World``. The last axis of every tensor of the
program is the *world axis*: element i of it is what happens in world i, and the worlds are all joint assignments of the
random variables, in mixed radix. A variable is one element that some role reads from one stream under one label and
row. A first pass learns which variables there are and which parties read them; then the worlds are run in blocks.

A coalition's view is: the variables its members read, the corrections they received, every message of another party,
and, if the receiver takes part, the revealed pieces. The view of a whole world is hashed to 64 bits, and the multiset
of the views to the sum of their hashes modulo 2^64: equal sums mean equal distributions but for odds of 2^-64.

If there are too many variables, those that the coalition itself reads are fixed to several assignments instead. They
are independent of everything else, so for each assignment the rest of the view must have the same distribution for
all secrets: a leak that shows for the tested assignments is found, and each test is complete in all other variables.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tests.support import Machine
from torchveil.drivers.lockstep import Lockstep
from torchveil.gates.base import Exchange
from torchveil.kernels import Packed, add_packed, pack_bits, unpack_bits
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider

_BLOCK_BITS = 15
_LEARNING_SIZE = 64
#: Above this many bits a coalition's own variables are fixed to sampled assignments.
_FULL_BITS = 16
#: How many worlds are run for one coalition and one tuple of secrets, over all samples, if one sample allows.
_WORLDS = 1 << 17
_MAX_SAMPLES = 32

#: Readers of streams that are no party; a party is its rank.
PROVIDER, OWNER = -1, -2

Key = tuple[Hashable, ...]


@dataclass
class Variable:
    """One uniform variable of ``bits`` bits; it sits at ``offset`` of a world's number, or has a fixed value."""

    bits: int
    readers: set[int] = field(default_factory=set)
    offset: int | None = None
    value: int = 0


class World:
    """A block of worlds and the registry of the variables that span them."""

    def __init__(self) -> None:
        self.variables: dict[Key, Variable] = {}
        self.learning = True
        self.size = _LEARNING_SIZE
        self.index = torch.zeros(_LEARNING_SIZE, dtype=torch.int64)

    def column(self, key: Key, bits: int, reader: int | None) -> Tensor:
        """The variable's value in every world of the block."""
        if self.learning:
            variable = self.variables.setdefault(key, Variable(bits))
            if reader is not None:
                variable.readers.add(reader)
            return torch.zeros(self.size, dtype=torch.int64)
        variable = self.variables[key]
        if variable.offset is None:
            return torch.full((self.size,), variable.value, dtype=torch.int64)
        return (self.index >> variable.offset) & ((1 << variable.bits) - 1)

    def enumerate(self, fixed: dict[Key, int]) -> int:
        """Lay out all variables but the fixed ones; the number of bits that are enumerated."""
        self.learning = False
        total = 0
        for key, variable in self.variables.items():
            if key in fixed:
                variable.offset, variable.value = None, fixed[key]
            else:
                variable.offset = total
                total += variable.bits
        return total

    def block(self, start: int, size: int) -> None:
        self.size = size
        self.index = torch.arange(start, start + size)


class EnumeratedStream:
    """A random source whose every element is a variable of a world. ``reader`` is a rank, ``PROVIDER`` or ``OWNER``."""

    def __init__(self, world: World, identity: Hashable, reader: int) -> None:
        self.world, self.identity, self.reader = world, identity, reader

    def key(self, number: int, slot: int, row: int) -> Key:
        return (self.identity, number, slot, row)

    def _rows(self, number: int, slot: int, count: int, bits: int) -> Tensor:
        rows = [self.world.column(self.key(number, slot, row), bits, self.reader) for row in range(count)]
        return rows[0] if count == 1 else torch.stack(rows)

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor:
        lead = self._lead(shape, self.world.size)
        return self._rows(number, slot, lead, width).reshape(shape)

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        lead = self._lead(shape, -(-self.world.size // 8))
        if lead == 0:
            return np.empty(shape, dtype=np.uint8)
        return pack_bits(self._rows(number, slot, lead, 1).numpy().astype(np.uint8)).reshape(shape)

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> npt.NDArray[np.uint16]:
        lead = self._lead(shape, self.world.size)
        return self._rows(number, slot, lead, valid).numpy().astype(np.uint16).reshape(shape)

    @staticmethod
    def _lead(shape: tuple[int, ...], last: int) -> int:
        if not shape or shape[-1] != last:
            raise ValueError(f"the last axis of {shape} is not the world axis")
        return int(np.prod(shape[:-1], dtype=np.int64))


class RecordingParty(Party):
    """A party that remembers the corrections it received."""

    __slots__ = ("received",)

    def deliver(self, corrections: dict[tuple[str, int], Any]) -> None:
        self.received: list[tuple[tuple[str, int], Any]]
        self.received.extend(corrections.items())
        super().deliver(corrections)


class RecordingLockstep(Lockstep):
    """A driver that remembers every message: (kind, the pieces of all parties)."""

    __slots__ = ("messages",)

    def _totals(self, sent: list[Exchange]) -> tuple[Any, ...]:
        self.messages: list[tuple[str, list[Any]]]
        self.messages += [(sent[0].kind, [m.pieces[k] for m in sent]) for k in range(len(sent[0].pieces))]
        return super()._totals(sent)


PURPOSES = ("mask", "mask-bits", "dealt", "dealt-bits")
StreamFactory = Callable[[World, Hashable, int], Any]


def recording_driver(n: int, width: int, make: Callable[[Hashable, int], Any]) -> RecordingLockstep:
    """Parties 0..n-1, provider and owner on the sources ``make(identity, reader)``."""
    parties = []
    for rank in range(n):
        streams = {purpose: make((purpose, rank), rank) for purpose in PURPOSES}
        streams["input"] = make(("input", rank), rank)
        zero = {peer: make(("zero", min(rank, peer), max(rank, peer)), rank) for peer in range(n) if peer != rank}
        party = RecordingParty(f"p{rank}", rank, n, streams, zero, width)
        party.received = []
        parties.append(party)
    dealer = [{purpose: make((purpose, rank), PROVIDER) for purpose in PURPOSES} for rank in range(n)]
    driver = RecordingLockstep(
        parties, Provider("crypto", dealer, width), [make(("input", rank), OWNER) for rank in range(n)]
    )
    driver.messages = []
    return driver


def small_ring_driver(n: int, width: int, seed: int = 0) -> RecordingLockstep:
    """Roles in Z_2^width on a generator of the tests: for correctness, not for enumeration."""
    return recording_driver(n, width, lambda identity, reader: _Seeded(crc32(repr((seed, identity)).encode())))


class _Seeded:
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _draw(self, number: int, slot: int, shape: tuple[int, ...], high: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, number, slot])
        return np.asarray(rng.integers(0, high, shape, dtype=np.uint64)).view(np.int64)

    def ring(self, number: int, slot: int, shape: tuple[int, ...], width: int) -> Tensor:
        return torch.from_numpy(self._draw(number, slot, shape, 1 << width))

    def bits(self, number: int, slot: int, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        return self._draw(number, slot, shape, 256).astype(np.uint8)

    def words(self, number: int, slot: int, shape: tuple[int, ...], valid: int) -> npt.NDArray[np.uint16]:
        return self._draw(number, slot, shape, 1 << valid).astype(np.uint16)


# --- views -----------------------------------------------------------------------------------------------------------

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


class _Digest:
    """A hash per world, fed column by column."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.key = np.zeros(size, dtype=np.uint64)

    def feed(self, column: npt.NDArray[Any]) -> None:
        self.key ^= column.astype(np.uint64)
        self.key += np.uint64(1)
        self.key *= _ODD
        self.key ^= self.key >> np.uint64(29)

    def feed_piece(self, piece: Any) -> None:
        """A tensor, some bits of its elements, or packed bits, [..., worlds]."""
        if isinstance(piece, Tensor):
            rows = piece.reshape(-1, self.size).numpy()
        elif isinstance(piece, Packed):
            rows = add_packed([piece]).reshape(-1, self.size).numpy()
        elif piece.dtype == np.uint8:
            rows = unpack_bits(piece.reshape(-1, piece.shape[-1]), self.size)
        else:
            rows = piece.reshape(-1, self.size)
        for row in rows:
            self.feed(row)

    def total(self) -> int:
        key = (self.key ^ (self.key >> np.uint64(30))) * _MIX
        key ^= key >> np.uint64(27)
        key *= _ODD
        return int((key ^ (key >> np.uint64(31))).sum())


Program = Callable[["Bench", tuple[int, ...]], None]


class Bench(Machine):
    """The machine of one block of worlds: ``secret`` shares the same value in all of them."""

    def __init__(self, world: World, driver: Lockstep) -> None:
        super().__init__(driver=driver, follow=False)
        self.world = world

    def secret(self, *rows: int) -> int:
        """One value, or a column of values, the same in every world."""
        value = torch.tensor(rows, dtype=torch.int64).unsqueeze(1).expand(len(rows), self.world.size)
        return self.input((value[0] if len(rows) == 1 else value).contiguous())


@dataclass(frozen=True)
class Coalition:
    """Party ranks, and whether the receiver of reveals and the provider or the owner (their streams) take part."""

    ranks: tuple[int, ...]
    receiver: bool = False
    others: tuple[int, ...] = ()

    def reads(self, variable: Variable) -> bool:
        return not variable.readers.isdisjoint((*self.ranks, *self.others))


def coalitions(n: int) -> list[Coalition]:
    """All coalitions of n - 1 parties."""
    return [Coalition(ranks) for ranks in combinations(range(n), n - 1)]


def _view(world: World, driver: RecordingLockstep, coalition: Coalition) -> int:
    digest = _Digest(world.size)
    for key, variable in world.variables.items():
        if variable.offset is not None and coalition.reads(variable):
            digest.feed(world.column(key, variable.bits, None).numpy())
    for rank in coalition.ranks:
        party = driver.parties[rank]
        if isinstance(party, RecordingParty):
            for _, piece in party.received:
                digest.feed_piece(piece)
    for kind, pieces in driver.messages:
        visible = coalition.receiver if kind == "reveal" else bool(coalition.ranks)
        for rank, piece in enumerate(pieces):
            if visible and rank not in coalition.ranks:
                digest.feed_piece(piece)
    return digest.total()


def _driver(world: World, n: int, width: int, factory: StreamFactory) -> RecordingLockstep:
    return recording_driver(n, width, lambda identity, reader: factory(world, identity, reader))


def _assignments(world: World, coalition: Coalition) -> list[dict[Key, int]]:
    """What the coalition's own variables are fixed to: nothing, or zeros, then ones, then random values."""
    total = sum(v.bits for v in world.variables.values())
    own = {key: v.bits for key, v in world.variables.items() if coalition.reads(v)}
    if total <= _FULL_BITS or not own:
        return [{}]
    rest = 1 << (total - sum(own.values()))
    rng = np.random.default_rng(total)
    samples = [dict.fromkeys(own, 0), {key: (1 << bits) - 1 for key, bits in own.items()}]
    samples += [{key: int(rng.integers(0, 1 << bits)) for key, bits in own.items()} for _ in range(_MAX_SAMPLES - 2)]
    # One sample of a large enumeration: a random one says more than zeros.
    count = max(1, min(_MAX_SAMPLES, _WORLDS // rest))
    return samples[:count] if count > 2 else samples[-count:]


def leaks(
    program: Program,
    secrets: Sequence[tuple[int, ...]],
    *,
    n: int = 2,
    width: int = 3,
    among: Iterable[Coalition] | None = None,
    factory: StreamFactory = EnumeratedStream,
) -> list[tuple[Coalition, tuple[int, ...]]]:
    """The (coalition, secrets) whose view differs in distribution from that of the first secrets."""
    world = World()
    program(Bench(world, _driver(world, n, width, factory)), secrets[0])
    out = []
    for coalition in coalitions(n) if among is None else among:
        differing: dict[tuple[int, ...], None] = {}
        for fixed in _assignments(world, coalition):
            bits = world.enumerate(fixed)
            wanted = _views(program, secrets[0], world, bits, coalition, n, width, factory)
            for secret in secrets[1:]:
                if _views(program, secret, world, bits, coalition, n, width, factory) != wanted:
                    differing[secret] = None
        out += [(coalition, secret) for secret in differing]
    return out


def _views(
    program: Program,
    secret: tuple[int, ...],
    world: World,
    bits: int,
    coalition: Coalition,
    n: int,
    width: int,
    factory: StreamFactory,
) -> int:
    """The multiset of the coalition's views over 2^bits worlds, hashed."""
    total = 0
    step = 1 << min(bits, _BLOCK_BITS)
    for start in range(0, 1 << bits, step):
        world.block(start, step)
        driver = _driver(world, n, width, factory)
        program(Bench(world, driver), secret)
        total += _view(world, driver, coalition)
    return total % 2**64
