"""Masks of minus infinity: public places that a softmax or a maximum leaves out.

Theory of operation. A public mask meets a secret (``scores + mask``, ``masked_fill``, ``where``): nothing is computed,
an ``Excluding`` handle keeps both apart. Structure, sums and positive factors go through to the finite part. A softmax
or a maximum takes ``lowered``: 2^60 units are subtracted in the excluded places, so that any other entry of the row is
larger, and the exponential's own comparison gives exactly 0 there. Nothing overflows while the finite part stays below
2^59 units, 2^27 for an untruncated product of two numbers with 16 digits. 0 rounds, 0 bytes. Plus infinity, which a
minimum leaves out, is minus infinity in the negative (``ExcludingAbove``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions import comparison as cmp
from torchveil.handle import Deferred, Excluding, ExcludingAbove, Handle, Public, Secret
from torchveil.program import instructions as ins

#: What is subtracted from an excluded entry, in units of the value's own scale.
_FAR = 1 << 60


def infinite(x: Handle) -> Tensor | None:
    """The places of a public constant that are minus infinity; None if it has none."""
    if not isinstance(x, Public):
        return None
    if x.fill is not None:
        return torch.ones(x.shape, dtype=torch.bool) if x.fill == -torch.inf else None
    dense = x.dense()
    if not dense.dtype.is_floating_point:
        return None
    places = dense == -torch.inf
    return places if bool(places.any()) else None


def exclude(x: Handle, places: Tensor) -> Handle:
    """x with minus infinity in the places (broadcast to it, or it to them); a public x stays a constant."""
    if isinstance(x, Deferred) and not isinstance(x, Excluding):
        x = x.force()
    if not bool(places.any()):
        shape = ar.broadcast(x.shape, tuple(places.shape))
        return x if x.shape == shape or isinstance(x, Excluding) else ar.expand_to(x, shape)
    if isinstance(x, Public):
        dense = x.dense().to(torch.float64).masked_fill(places, -torch.inf)
        return Public(x.session, tuple(dense.shape), tensor=dense)
    shape = ar.broadcast(x.shape, tuple(places.shape))
    places = places.expand(shape)
    if isinstance(x, Excluding):
        return Excluding(ar.expand_to(x.finite, shape), x.excluded.expand(shape) | places)
    return Excluding(ar.expand_to(x, shape), places)


def add(x: Handle, y: Handle, factor: float = 1) -> Handle:
    """x + factor y, where either may have places of minus infinity."""
    if isinstance(x, Public) and isinstance(y, Public):
        return ar.add(x, y, factor)
    finite_x, places_x = split(x)
    # what is subtracted would be plus infinity: refused by whoever asks for its value
    finite_y, places_y = split(y) if factor > 0 else (y, None)
    out = ar.add(finite_x, finite_y, factor)
    for places in (places_x, places_y):
        out = out if places is None else exclude(out, places)
    return out


def split(x: Handle) -> tuple[Handle, Tensor | None]:
    """(the finite part, the places of minus infinity if there are any)."""
    if isinstance(x, Excluding):
        return x.finite, x.excluded
    places = infinite(x)
    if places is None or not isinstance(x, Public):
        return x, None
    return Public(x.session, x.shape, tensor=x.dense().masked_fill(places, 0.0)), places


def scale(x: Excluding, factor: float) -> Excluding:
    """x times a positive number; anything else is refused."""
    if not 0 < factor < float("inf"):
        x.force()
    return Excluding(ar.multiply(x.finite, Public(x.session, (), fill=factor)), x.excluded)


def sink(wire: Secret, places: Tensor) -> Secret:
    """The wire less 2^60 units in the places: below any number there. Nothing may be scaled up afterwards."""
    out = wire.session.new_id()
    wire.session.submit(ins.AddPublic(out, wire.id, places.to(torch.int64) * -_FAR))
    return wire.session.wire(out, wire.scale, wire.format, wide=wire.wide, opened=wire.is_opened(), zeros=wire.zeros)


def has_plus(x: Handle) -> bool:
    """Whether there are public places of plus infinity."""
    if isinstance(x, Public):
        dense = x.dense()
        return dense.dtype.is_floating_point and bool((dense == torch.inf).any())
    return isinstance(x, ExcludingAbove)


def negated(x: Handle) -> Handle:
    """-x, with infinities of the other sign."""
    if isinstance(x, Excluding):
        return ExcludingAbove(x)
    if isinstance(x, ExcludingAbove):
        return x.below
    if isinstance(x, Public) and x.fill is not None:
        return Public(x.session, x.shape, fill=-x.fill)
    if isinstance(x, Public):
        return Public(x.session, x.shape, tensor=-x.dense())
    return ar.negate(x)


def absolute(x: ExcludingAbove) -> ExcludingAbove:
    """|x|: plus infinity stays where it is."""
    size = cmp.absolute(x.below.finite)
    return ExcludingAbove(Excluding(ar.negate(size), x.below.excluded))


def difference(x: Excluding, y: Handle) -> Secret:
    """x - y for comparisons of it with 0: far below 0 where x is minus infinity."""
    wire = ar.secret(ar.add(x.finite, y, -1))
    shape = ar.broadcast(wire.shape, tuple(x.excluded.shape))
    return sink(ar.secret(ar.expand_to(wire, shape)), x.excluded.expand(shape))


def lowered(x: Handle, dim: int, *, empty_rows: bool = False) -> tuple[Secret, Tensor | None]:
    """(a wire whose excluded entries are below every other of their row along ``dim``; the rows that keep none).

    A row of which nothing is left has no softmax (torch: nan) and no maximum: refused before anything is computed,
    unless the caller takes such rows (``empty_rows``), of which nothing is subtracted then.
    """
    if not isinstance(x, Excluding):
        return ar.number(x), None
    empty = x.excluded.all(dim, keepdim=True)
    found = bool(empty.any())
    if found and not empty_rows:
        raise UnsupportedOperation(
            "a row of which the mask leaves nothing: torch gives nan, a share holds none",
            op=x.session.operation,
            remedy="leave at least one place of every row, or drop the row",
        )
    return sink(ar.number(x.finite), x.excluded & ~empty), empty if found else None
