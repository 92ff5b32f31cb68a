"""Structure on handles of any kind: one linear map of the table, joining, and writing into views."""

from __future__ import annotations

import torch
from torch import Tensor

from torchveil.functions.arithmetic import align, constant, expand_to, map_bit, secret
from torchveil.handle import Bit, Deferred, Excluding, ExcludingAbove, Handle, Public, Secret
from torchveil.kernels.linear_maps import LinearMap
from torchveil.program import instructions as ins

#: Maps that add elements up: they cannot act on bits.
_SUMS = {"sum", "cumsum", "scatter_index", "scatter_gather", "scatter_windows", "taps"}
#: Maps of a filled constant that stay filled (no zeros enter, nothing is added up).
_KEEP_FILL = {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "select", "slice", "unsqueeze", "squeeze",
    "squeeze_dim", "squeeze_dims", "diagonal", "unfold", "alias", "clone", "contiguous", "flip", "roll", "repeat",
    "index", "index_select", "gather",
}  # fmt: skip

#: Maps that leave all elements in their order: places that a pooling left stay its places.
_KEEP_ORDER = {
    "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "squeeze_dim", "squeeze_dims", "alias", "clone",
    "contiguous",
}  # fmt: skip


def apply(x: Handle, name: str, *args: object) -> Handle:
    """The image of a handle under a map of the table.

    Index tensors are copied: a mask may take the map long after the share did, and the program may reuse its buffer.
    """
    return apply_map(x, LinearMap(name, tuple(_owned(arg) for arg in args)))


def _owned(arg: object) -> object:
    if isinstance(arg, Tensor):
        return arg.clone()
    return tuple(_owned(part) for part in arg) if isinstance(arg, tuple) else arg


def apply_map(x: Handle, linear_map: LinearMap) -> Handle:
    if isinstance(x, Secret):
        return x.session.map(x, linear_map)
    if isinstance(x, Bit):
        if linear_map.name in _SUMS:
            return apply_map(secret(x), linear_map)
        return map_bit(x, linear_map)
    if isinstance(x, Excluding):
        if not linear_map.picks:
            return x.force()
        return Excluding(apply_map(x.finite, linear_map), linear_map(x.excluded))
    if isinstance(x, ExcludingAbove):
        below = apply_map(x.below, linear_map)
        return ExcludingAbove(below) if isinstance(below, Excluding) else x.force()
    if isinstance(x, Deferred):
        shape = deferred_shape(x.shape, linear_map)
        # torch unsqueezes a winner's index to scatter a gradient to it; the scatter checks what it is given
        kept = dict(x.attachments) if linear_map.name == "unsqueeze" else {}
        if linear_map.name in _KEEP_ORDER and "pooled" in x.attachments:
            kept["pooled"] = x.attachments["pooled"]
        image = Deferred(x.session, shape, lambda: apply_map(x.force(), linear_map), kept)
        image.whole = x.whole
        return image
    if x.fill is not None:
        shape = deferred_shape(x.shape, linear_map)
        if linear_map.name in _KEEP_FILL:
            return Public(x.session, shape, fill=x.fill)
        if x.fill == 0:
            return Public(x.session, shape, fill=0.0)
        if linear_map.name == "sum":
            count = x.fill * (torch.Size(x.shape).numel() // max(1, torch.Size(shape).numel()))
            return Public(x.session, shape, fill=count)
    out = linear_map(x.dense())
    return Public(x.session, tuple(out.shape), tensor=out)


def deferred_shape(shape: tuple[int, ...], linear_map: LinearMap) -> tuple[int, ...]:
    """The shape of an image, found on a tensor without memory."""
    return tuple(linear_map(torch.empty((), dtype=torch.int64).expand(shape)).shape)


def concatenate(xs: list[Handle], dim: int) -> Handle:
    """cat along ``dim``; all at the largest scale among them."""
    first = next((x for x in xs if not isinstance(x, Public)), None)
    if first is None:
        fills = {x.fill for x in xs if isinstance(x, Public)}
        if len(fills) == 1 and None not in fills:
            shapes = [torch.empty((), dtype=torch.int8).expand(x.shape) for x in xs]
            return Public(xs[0].session, tuple(torch.cat(shapes, dim).shape), fill=fills.pop())
        out = torch.cat([x.dense() for x in xs if isinstance(x, Public)], dim)
        return Public(xs[0].session, tuple(out.shape), tensor=out)
    session = first.session
    wires = [x if isinstance(x, Public) else secret(x) for x in xs]
    scales = [x for x in wires if isinstance(x, Secret)]
    session.own(*scales)
    top = max(scales, key=lambda x: x.scale)
    aligned: list[Secret] = []
    for x in wires:
        if isinstance(x, Public):
            aligned.append(constant(x, top.scale, top.format))
        else:
            aligned.append(align(x, top)[0])
    out_id = session.new_id()
    session.submit(ins.Concatenate(out_id, tuple(x.id for x in aligned), dim))
    return session.wire(
        out_id,
        top.scale,
        top.format,
        wide=any(x.wide for x in aligned),
        nonnegative=all(x.nonnegative for x in aligned),
        opened=all([x.is_opened() for x in aligned]),
        zeros=min(x.zeros for x in aligned),
    )


def write(base: Handle, value: Handle, path: tuple[LinearMap, ...]) -> Secret:
    """base with the view ``path`` replaced by value: a new value, hence without an opening (rules O4)."""
    a = _materialise(base, value)
    b = secret(value)
    a, b = align(a, b)
    shape = a.shape
    for step in path:
        shape = deferred_shape(shape, step)
    b = secret(expand_to(b, shape))
    session = a.session
    out = session.new_id()
    session.submit(ins.Write(out, a.id, b.id, path))
    return session.wire(out, a.scale, b.format if b.format.scale > a.format.scale else a.format, wide=a.wide or b.wide)


def _materialise(base: Handle, value: Handle) -> Secret:
    if isinstance(base, Public) and isinstance(value, Secret):
        return constant(base, value.scale, value.format)
    return secret(base)
