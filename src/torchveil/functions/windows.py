"""Windows of a pooling: which entries each window sees, and the largest of them with its place.

Public shapes say where windows lie. A place outside the input is replaced by the nearest one inside that the same
window sees: a repeated entry changes no maximum, so padding needs no smallest number. Windows are a local map; the
maximum is a tournament (``maximum``), whose bits serve index, gradient and unpooling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torchveil.errors import UnsupportedOperation
from torchveil.functions import arithmetic as ar
from torchveil.functions.maximum import Winners
from torchveil.functions.structure import apply
from torchveil.functions.taps import apply_axes, apply_taps, picking
from torchveil.handle import Handle, Secret, Shape


@dataclass(frozen=True, eq=False)
class Axis:
    """The windows along one dimension of ``size``: ``table[k, o]`` is the place of entry k of window o.

    ``regular`` is (kernel, stride, dilation) if the windows are slices of the places ``padded`` (None: of all places).
    """

    size: int
    table: Tensor
    regular: tuple[int, int, int] | None
    padded: Tensor | None = None

    @property
    def kernel(self) -> int:
        return self.table.shape[0]

    @property
    def out(self) -> int:
        return self.table.shape[1]

    @property
    def disjoint(self) -> bool:
        """Whether no place is seen by two windows."""
        pairs = torch.unique(torch.stack([self.table, torch.arange(self.out).expand_as(self.table)]).flatten(1), dim=1)
        return bool((torch.bincount(pairs[0], minlength=1) <= 1).all())


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """torch's number of windows: with ``ceil_mode`` also the last, if it starts in the input or the padding before."""
    rest = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (rest + (stride - 1 if ceil_mode else 0)) // stride + 1
    return out - 1 if ceil_mode and (out - 1) * stride >= size + padding else out


def sliding(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Axis:
    """Windows at equal distances. Raises ``UnsupportedOperation`` if one of them sees nothing of the input."""
    out = output_size(size, kernel, stride, padding, dilation, ceil_mode)
    if out < 1 or 2 * padding > dilation * (kernel - 1) + 1:
        raise UnsupportedOperation(
            f"a pooling with windows of {kernel} over {size} entries", op="max_pool", remedy="check kernel and padding"
        )
    entries = torch.arange(kernel).unsqueeze(1)
    places = torch.arange(out) * stride - padding + entries * dilation
    inside = (places >= 0) & (places < size)
    if not bool(inside.any(0).all()):
        raise UnsupportedOperation(
            "a pooling window that sees padding alone", op="max_pool", remedy="use less padding or dilation"
        )
    first = torch.where(inside, entries, kernel).amin(0)
    last = torch.where(inside, entries, -1).amax(0)
    table = places.gather(0, torch.minimum(torch.maximum(entries, first), last))
    end = (out - 1) * stride - padding + dilation * (kernel - 1) + 1
    if padding == 0 and end <= size and output_size(size, kernel, stride, 0, dilation, False) == out:
        return Axis(size, table, (kernel, stride, dilation))
    if dilation == 1:
        return Axis(size, table, (kernel, stride, 1), torch.arange(-padding, end).clamp(0, size - 1))
    return Axis(size, table, None)


def adaptive(size: int, out: int) -> Axis:
    """torch's adaptive windows: number o starts at floor(o size / out) and ends before ceil((o + 1) size / out)."""
    if size % out == 0:
        return sliding(size, size // out, size // out, 0, 1, False)
    starts = torch.arange(out) * size // out
    ends = -(-(torch.arange(1, out + 1) * size) // out)
    entries = torch.arange(int((ends - starts).max())).unsqueeze(1)
    return Axis(size, torch.minimum(starts + entries, ends - 1), None)


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows over the last dimensions of [N, C, *sizes]."""

    axes: tuple[Axis, ...]

    @property
    def sizes(self) -> Shape:
        return tuple(axis.size for axis in self.axes)

    @property
    def kernels(self) -> Shape:
        return tuple(axis.kernel for axis in self.axes)

    @property
    def outs(self) -> Shape:
        return tuple(axis.out for axis in self.axes)

    @property
    def disjoint(self) -> bool:
        return all(axis.disjoint for axis in self.axes)

    def _slices(self) -> tuple[Shape, Shape, Shape] | None:
        found = [axis.regular for axis in self.axes]
        if any(regular is None for regular in found):
            return None
        kernel, stride, dilation = zip(*(regular for regular in found if regular is not None), strict=True)
        return kernel, stride, dilation

    def gather(self, x: Handle) -> Handle:
        """[N, C, *sizes] -> [entries, N, C, *outs]; local."""
        slices = self._slices()
        if slices is not None:
            for k, axis in enumerate(self.axes):
                if axis.padded is not None:
                    x = apply(x, "index_select", 2 + k, axis.padded)
            return apply(x, "windows", *slices)
        for k, axis in enumerate(self.axes):
            x = apply(x, "index_select", 2 + k, axis.table.reshape(-1))
        n = len(self.axes)
        split = [size for axis in self.axes for size in (axis.kernel, axis.out)]
        x = apply(x, "reshape", (*x.shape[:2], *split))
        x = apply(x, "permute", (*range(2, 2 + 2 * n, 2), 0, 1, *range(3, 3 + 2 * n, 2)))
        return apply(x, "reshape", (math.prod(self.kernels), *x.shape[n:]))

    def scatter(self, entries: Handle) -> Handle:
        """The transpose of ``gather``; local."""
        slices = self._slices()
        if slices is not None:
            ends = [axis.size if axis.padded is None else axis.padded.numel() for axis in self.axes]
            x = apply(entries, "scatter_windows", tuple(ends), *slices)
            for k, axis in enumerate(self.axes):
                if axis.padded is not None:
                    x = apply_taps(x, 2 + k, picking(axis.padded, axis.size).transposed())
            return x
        n = len(self.axes)
        x = apply(entries, "reshape", (*self.kernels, *entries.shape[1:]))
        x = apply(x, "permute", (n, n + 1, *(d for k in range(n) for d in (k, n + 2 + k))))
        x = apply(x, "reshape", (*x.shape[:2], *(axis.kernel * axis.out for axis in self.axes)))
        return apply_axes(x, 2, [picking(axis.table.reshape(-1), axis.size).transposed() for axis in self.axes])

    @cached_property
    def places(self) -> Tensor:
        """[entries, 1, 1, *outs]: where each entry lies in the input, its spatial dimensions counted as one."""
        n = len(self.axes)
        flat = torch.zeros((), dtype=torch.int64)
        for k, axis in enumerate(self.axes):
            shape = [1] * (2 * n)
            shape[k], shape[n + k] = axis.kernel, axis.out
            flat = flat * axis.size + axis.table.reshape(shape)
        return flat.reshape(-1, 1, 1, *self.outs)


@dataclass(frozen=True, eq=False)
class PlaneWindows:
    """Windows that lie differently in every plane of [N, C, *sizes]: ``table`` [N, C, entries, *outs] says where."""

    table: Tensor
    sizes: Shape

    @property
    def outs(self) -> Shape:
        return tuple(self.table.shape[3:])

    @property
    def disjoint(self) -> bool:
        """Whether no place is seen twice."""
        planes = self.table.flatten(2).flatten(0, 1)
        return all(plane.unique().numel() == plane.numel() for plane in planes)

    def gather(self, x: Handle) -> Handle:
        """[N, C, *sizes] -> [entries, N, C, *outs]; local."""
        planes = apply(x, "reshape", (*x.shape[:2], math.prod(self.sizes)))
        entries = apply(apply(planes, "gather", 2, self.table.flatten(2)), "reshape", tuple(self.table.shape))
        return apply(entries, "permute", (2, 0, 1, *range(3, self.table.dim())))

    def scatter(self, entries: Handle) -> Handle:
        """The transpose of ``gather``; local."""
        n, c = self.table.shape[:2]
        back = apply(entries, "permute", (1, 2, 0, *range(3, self.table.dim())))
        flat = apply(back, "reshape", (n, c, math.prod(self.table.shape[2:])))
        planes = apply(flat, "scatter_gather", (n, c, math.prod(self.sizes)), 2, self.table.flatten(2))
        return apply(planes, "reshape", (n, c, *self.sizes))

    @cached_property
    def places(self) -> Tensor:
        """[entries, N, C, *outs]: where each entry lies in its plane."""
        return self.table.permute(2, 0, 1, *range(3, self.table.dim()))


def fractional(sizes: Shape, kernels: Shape, outs: Shape, samples: Tensor) -> PlaneWindows:
    """torch's windows of pseudo-random distances, from public ``samples`` [N, C, dimensions] between 0 and 1."""
    n, c, dimensions = samples.shape
    # torch gives the samples of an image to its width first
    order = (1, 0) if dimensions == 2 else tuple(range(dimensions))
    table = torch.zeros((n, c, *[1] * (2 * dimensions)), dtype=torch.int64)
    for k, (size, kernel, out) in enumerate(zip(sizes, kernels, outs, strict=True)):
        sample = samples[:, :, order[k]].unsqueeze(2)
        alpha = (size - kernel) / max(1, out - 1)
        starts = ((torch.arange(out) + sample) * alpha).to(torch.int64) - (sample * alpha).to(torch.int64)
        starts[:, :, -1] = size - kernel
        shape = [n, c, *[1] * (2 * dimensions)]
        shape[2 + k], shape[2 + dimensions + k] = kernel, out
        places = torch.arange(kernel).unsqueeze(1) + starts.unsqueeze(2)
        table = table * size + places.reshape(shape)
    return PlaneWindows(table.reshape(n, c, math.prod(kernels), *outs), sizes)


@dataclass(frozen=True, eq=False)
class Pooled:
    """What a max pooling of [N, C, *sizes] left behind: its windows and which entry of each was the largest."""

    windows: Windows | PlaneWindows
    winners: Winners
    batch: Shape

    def index(self, like: Secret) -> Secret:
        """The place of each maximum in its plane, as torch counts it; like: the maxima, [1, N, C, *outs]."""
        return self.winners.index(like, self.windows.places)

    def distribute(self, value: Handle) -> Handle:
        """Each number to the place of its maximum, the sum where two windows chose the same; [N, C, *outs] -> sizes."""
        spread = self.winners.distribute(ar.secret(apply(value, "unsqueeze", 0)))
        return self.windows.scatter(spread)

    def pick(self, x: Handle) -> Handle:
        """What lies at the places of the maxima; [N, C, *sizes] -> [N, C, *outs]."""
        return apply(self.winners.pick(ar.secret(self.windows.gather(x))), "squeeze_dim", 0)

    def serves(self, shape: Shape, length: int) -> bool:
        """Whether indices of this ``shape`` are those of the pooling, in order, and all lie in planes of ``length``."""
        whole = (*self.batch, *self.windows.outs)
        return math.prod(shape) == math.prod(whole) and int(self.windows.places.max()) < length

    def resized(self, planes: Handle, length: int) -> Handle:
        """[.., n] -> [N, C, length]: planes as one dimension, cut or filled with zeros."""
        planes = apply(planes, "reshape", (*self.batch, -1))
        size = planes.shape[-1]
        if size > length:
            return apply(planes, "slice", len(self.batch), 0, length, 1)
        return apply(planes, "pad", (0, length - size)) if size < length else planes
