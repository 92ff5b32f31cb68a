"""What several test files share: a machine that runs instructions one by one on shares and on clear values at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchveil.drivers.lockstep import Lockstep, make_roles
from torchveil.gates import GATES
from torchveil.gates.base import Cost
from torchveil.gates.exponential import split
from torchveil.kernels import BILINEAR, conv2d_output_shape, reduce_ring, signed
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins
from torchveil.program.wiring import defines as outputs
from torchveil.roles.plain import Plain

PARTIES = (2, 3, 4)
#: 0-d, empty, odd, more than one byte of bits, large.
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (3, 0), (1,), (7,), (2, 3, 5), (1009,))


def real_driver(n: int, *, plain: bool = False) -> Lockstep:
    """A lockstep driver with real keys; with ``plain`` in debug mode."""
    parties, provider, inputs, _ = make_roles([f"p{rank}" for rank in range(n)], "crypto")
    return Lockstep(parties, provider, inputs, plain=Plain(provider) if plain else None)


def ring(*shape: int, seed: int = 0) -> Tensor:
    """Elements of Z_2^64 over the whole range; the first ones are the edge values."""
    edges = [0, 1, -1, 2**63 - 1, -(2**63), 2**62, -(2**62), 2**62 - 1]
    out = torch.randint(-(2**63), 2**63 - 1, shape, generator=torch.Generator().manual_seed(seed))
    flat = out.view(-1)
    count = min(len(edges), flat.numel())
    flat[:count] = torch.tensor(edges[:count], dtype=torch.int64)
    return out


def between(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    """Integers of [low, high), always the same ones."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int64)


def unsigned(x: Tensor) -> list[int]:
    """The elements of Z_2^64 as Python integers in [0, 2^64)."""
    return [value % 2**64 for value in x.reshape(-1).tolist()]


def bilinear_shape(function: str, x: Tensor, y: Tensor, options: dict[str, Any]) -> tuple[int, ...]:
    if function == "mul":
        return tuple(torch.broadcast_shapes(x.shape, y.shape))
    if function == "conv2d":
        return conv2d_output_shape(tuple(x.shape), tuple(y.shape), **options)
    return tuple(BILINEAR[function](torch.zeros_like(x), torch.zeros_like(y), **options).shape)


class Machine:
    """Builds one instruction per method call and runs it.

    ``exact`` is the clear reference that follows the provider's masks, ``nearest`` the one that does not; both execute
    the same stream (unless ``follow`` is off). ``log`` holds every instruction with its measured cost.
    """

    def __init__(self, n: int = 2, *, driver: Lockstep | None = None, follow: bool = True) -> None:
        self.driver = real_driver(n) if driver is None else driver
        width = self.driver.width
        last_share = partial(self.driver.share_of, rank=self.driver.n_parties - 1)
        self.exact = Plain(self.driver.provider, width=width, last_share=last_share) if follow else None
        self.nearest = Plain(None, width=width) if follow else None
        self.log: list[tuple[ins.Instruction, Cost]] = []
        self._next = 0

    def new(self) -> int:
        self._next += 1
        return self._next

    def shape(self, x: int) -> tuple[int, ...]:
        return tuple(self.driver.share_of(x).shape)

    def run(self, i: ins.Instruction, clear: Tensor | None = None) -> Tensor | None:
        revealed = self.driver.run(i, clear)
        self.log.append((i, self.driver.measured))
        for plain in (self.exact, self.nearest):
            if plain is not None:
                if clear is not None:
                    plain.inputs.append(clear.clone())
                GATES[type(i)].clear(plain, i)
        return revealed

    # --- instructions ----------------------------------------------------------------------------------------------

    def input(self, value: Any) -> int:
        clear, out = as_tensor(value), self.new()
        self.run(ins.Input(out, tuple(clear.shape)), clear)
        return out

    def opened(self, value: Any) -> int:
        """An input with an opening."""
        x = self.input(value)
        self.open(x)
        return x

    def constant(self, value: Tensor | int, shape: Sequence[int]) -> int:
        out = self.new()
        self.run(ins.Constant(out, tuple(shape), value))
        return out

    def open(self, *xs: int, bits: Sequence[int] = ()) -> None:
        self.run(ins.Open(xs, tuple(self.shape(x) for x in xs), bits=tuple(bits)))

    def round(self, x: int, bits: int) -> int:
        """x as a multiple of 2^bits, unopened."""
        out = self.new()
        self.run(ins.Round(out, x, bits, self.shape(x)))
        return out

    def rounded(self, value: Any, bits: int) -> int:
        """An input, rounded, with a short opening."""
        out = self.round(self.input(value), bits)
        self.open(out, bits=(self.driver.width - bits,))
        return out

    def lift(self, x: int, bits: int, bit: int | None = None) -> int:
        out = self.new()
        self.run(ins.Lift(out, x, bit, bits, self.shape(x)))
        return out

    def map(self, x: int, name: str, *args: Any) -> int:
        out = self.new()
        self.run(ins.Map(out, x, LinearMap(name, args)))
        return out

    def cat(self, xs: Sequence[int], dim: int = 0) -> int:
        out = self.new()
        self.run(ins.Concatenate(out, tuple(xs), dim))
        return out

    def combine(self, *terms: tuple[int, int], constant: int = 0, follow: bool = False) -> int:
        """Terms are (wire, factor)."""
        out = self.new()
        self.run(ins.Combine(out, terms, constant, follow))
        return out

    def add_public(self, x: int, value: Tensor) -> int:
        out = self.new()
        self.run(ins.AddPublic(out, x, value))
        return out

    def write(self, base: int, value: int, *path: LinearMap) -> int:
        out = self.new()
        self.run(ins.Write(out, base, value, path))
        return out

    def product(self, x: int, y: int, function: str = "mul", **options: Any) -> int:
        out = self.new()
        shape = bilinear_shape(function, self.driver.share_of(x), self.driver.share_of(y), options)
        self.run(ins.Bilinear(out, x, y, function, options, shape))
        return out

    def public_product(
        self, x: int, value: Tensor, function: str = "mul", *, left: bool = False, **options: Any
    ) -> int:
        out = self.new()
        self.run(ins.PublicProduct(out, x, value, function, options, left))
        return out

    def truncate(self, x: int, divisor: int, bit: int | None = None) -> int:
        out = self.new()
        self.run(ins.Truncate(out, x, bit, divisor, self.shape(x)))
        return out

    def compare(
        self,
        x: int,
        thresholds: Sequence[int] = (0,),
        wanted: Sequence[tuple[tuple[int, ...], bool]] = (((0,), False),),
        *,
        negate: bool = False,
        zeros: int = 0,
    ) -> tuple[int, ...]:
        outs = tuple(self.new() for _ in wanted)
        self.run(ins.Compare(outs, x, negate, tuple(thresholds), tuple(wanted), self.shape(x), zeros))
        return outs

    def sign(self, x: int, zeros: int = 0) -> int:
        """[x < 0]."""
        return self.compare(x, zeros=zeros)[0]

    def equal(self, x: int, *values: int) -> tuple[int, ...]:
        outs = tuple(self.new() for _ in values)
        self.run(ins.Equal(outs, x, values, self.shape(x)))
        return outs

    def winner(self, x: int, dim: int, reach: int | None = None) -> tuple[int, ...]:
        outs = tuple(self.new() for _ in range(1 if reach is None else 2))
        self.run(ins.Winner(outs, x, dim, reach, self.shape(x)))
        return outs

    def map_bit(self, bit: int, name: str, *args: Any, flip: bool = False) -> int:
        out = self.new()
        self.run(ins.MapBit(out, bit, LinearMap(name, args), flip))
        return out

    def arithmetic(self, bit: int) -> int:
        out = self.new()
        self.run(ins.BitToArithmetic(out, bit))
        return out

    def weigh(self, bits: Sequence[int], weights: Sequence[int], constant: int = 0) -> int:
        out = self.new()
        self.run(ins.WeighBits(out, tuple(bits), tuple(weights), constant))
        return out

    def select(self, bit: int, x: int) -> int:
        out = self.new()
        self.run(ins.Select(out, bit, x, self.shape(x)))
        return out

    def exponential(self, x: int, unit: int, bits: int, bit: int | None = None, zeros: int = 0) -> int:
        out = self.new()
        mask_bits, factor_bits = split((1 << bits) / unit)
        self.run(ins.Exponential(out, x, bit, unit, bits, mask_bits, factor_bits, self.shape(x), zeros))
        return out

    def series(
        self,
        x: int,
        bits: int,
        frequencies: Sequence[int],
        cosines: Sequence[int],
        sines: Sequence[int],
        constant: int,
        bit: int | None = None,
        factor: int = 1,
    ) -> int:
        out, shape = self.new(), self.shape(x)
        terms = (tuple(frequencies), tuple(cosines), tuple(sines))
        self.run(ins.Series(out, x, bit, bits, *terms, constant, shape, factor))
        return out

    def refresh(self, x: int) -> int:
        out = self.new()
        self.run(ins.Refresh(out, x, self.shape(x)))
        return out

    def free(self, *xs: int) -> None:
        self.run(ins.Free(xs))

    def free_all(self) -> None:
        """Forget all wires: one machine may serve many examples, under ever new labels."""
        self.free(*range(1, self._next + 1))

    def reveal(self, x: int, receiver: str = "owner") -> Tensor:
        value = self.run(ins.Reveal(x, receiver, self.shape(x)))
        if value is None:
            raise LookupError("a reveal returned nothing")
        return value

    # --- reading -----------------------------------------------------------------------------------------------------

    def value(self, x: int) -> Tensor:
        """The sum of all shares, as signed integers."""
        width = self.driver.width
        total = sum((party.wires[x].value() for party in self.driver.parties), torch.zeros((), dtype=torch.int64))
        return signed(reduce_ring(total, width), width)

    def bit(self, b: int) -> Tensor:
        """The secret bit: flip XOR the sum of all mask pieces."""
        flips = [party.bits[b].public_flip() for party in self.driver.parties]
        for flip in flips[1:]:
            same(flip, flips[0])
        total = sum((party.bits[b].secret() for party in self.driver.parties), torch.zeros((), dtype=torch.int64))
        return flips[0] ^ reduce_ring(total, self.driver.width)

    def check(self) -> None:
        """The clear reference that follows the masks equals the shares bit for bit, on every wire that exists.

        So do the openings at all parties, and value + mask is the opening.
        """
        if self.exact is None:
            raise LookupError("this machine does not follow")
        width = self.driver.width
        for x, wire in self.exact.wires.items():
            same(self.value(x), signed(wire.value(), width))
            wires = [party.wires[x] for party in self.driver.parties]
            mask = self.driver.provider.wires[x]
            has_mask = mask.resolve()
            for other in wires:
                if other.resolve() != has_mask:
                    raise AssertionError("roles disagree on which wires are opened")
            if has_mask:
                faces = [other.faces() for other in wires]
                for opening, _ in faces:
                    same(opening, faces[0][0])
                same(reduce_ring(sum((piece for _, piece in faces), torch.tensor(0)), width), mask.total_mask())
                same(reduce_ring(wire.value() + mask.total_mask(), width), faces[0][0])
        for b in self.exact.bits:
            same(self.bit(b), self.exact.bit(b))

    def check_costs(self) -> None:
        """Every instruction cost what its formula says."""
        for i, measured in self.log:
            formula = GATES[type(i)].cost(i, self.driver.n_parties)
            if measured != formula:
                raise AssertionError(f"{type(i).__name__}: measured {measured}, formula {formula}")

    def ulps(self, x: int) -> int:
        """The largest distance between the shares' value and the reference that rounds to nearest, in units."""
        if self.nearest is None:
            raise LookupError("this machine does not follow")
        distance = (self.value(x) - self.nearest.value(x)).abs()
        return int(distance.max()) if distance.numel() else 0


def same(found: Tensor, wanted: Tensor) -> None:
    """Equal in shape and in every bit."""
    if found.shape != wanted.shape:
        raise AssertionError(f"shape {tuple(found.shape)} is not {tuple(wanted.shape)}")
    if not torch.equal(found, wanted):
        wrong = (found != wanted).reshape(-1)
        raise AssertionError(f"{int(wrong.sum())} of {wrong.numel()} elements differ")


__all__ = ["PARTIES", "SHAPES", "Machine", "between", "outputs", "real_driver", "ring", "same", "unsigned"]
