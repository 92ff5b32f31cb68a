"""Models: what ``fix_precision``, ``share``, ``get``, ``send`` and the others do to an ``nn.Module``, always in place.

Every parameter stays the same object, so that an optimizer made before keeps working, and ties between parameters stay.
Buffers of floats (running statistics) are converted like parameters, those of whole numbers (counters) stay plain.
"""

from __future__ import annotations

import copy as copying
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

from syft import notes, pointers, precision, sharing
from syft.inplace import become
from syft.pointers import PointerTensor
from syft.precision import FixedPrecisionTensor
from syft.workers import VirtualWorker
from torchveil import EncryptedTensor, FixedPoint
from torchveil.modules import track

M = TypeVar("M", bound=nn.Module)
Convert = Callable[[Tensor], Tensor | None]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every parameter and buffer, tied ones once."""
    seen: set[int] = set()
    for part in module.modules():
        for table in _tables(part):
            for name, x in table.items():
                if x is not None and id(x) not in seen:
                    seen.add(id(x))
                    yield name, x


def _trainable(x: Tensor) -> bool:
    """Whether a parameter requires gradients, or did before it was shared without them."""
    note = notes.peek(x)
    return x.requires_grad if note is None or note.trainable is None else note.trainable


def convert(module: M, function: Convert, *, gradients: bool = True) -> M:
    """Replace parameters and buffers by ``function`` of them (None leaves one); ``gradients=False`` freezes them."""
    for name, x in list(_tensors(module)):
        new = function(x)
        if new is None or new is x:
            continue
        if isinstance(x, nn.Parameter):
            trainable, grad = _trainable(x), new.grad
            keep = notes.take_note(new)
            new = nn.Parameter(new.detach(), requires_grad=trainable and gradients)
            new.grad = grad
            if keep is not None:
                notes.put_note(new, keep)
            notes.note_of(x).trainable = None if gradients else trainable
        try:
            become(x, new)
        except RuntimeError:  # torch still needs the old value: another object takes its place
            notes.note_of(new).trainable = notes.note_of(x).trainable
            _substitute(module, x, new)
            if not isinstance(x, nn.Parameter):
                continue
            text = f"parameter {name!r} is in use by a graph or a view; an optimizer made before must be made again"
            warnings.warn(text, UserWarning, stacklevel=3)
    return module


def _tables(part: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return part._parameters, part._buffers


def _substitute(module: nn.Module, x: Tensor, new: Tensor) -> None:
    """Put ``new`` wherever the module holds ``x``."""
    for part in module.modules():
        for table in _tables(part):
            for name, held in list(table.items()):
                if held is x:
                    table[name] = new


def fix_precision(module: M, fixed_point: FixedPoint) -> M:
    """Give every float parameter and buffer a fixed precision."""

    def fixed(x: Tensor) -> Tensor | None:
        return precision.fix_precision(x, fixed_point) if x.is_floating_point() else None

    return convert(module, fixed)


def float_precision(module: M) -> M:
    """Turn every fixed-precision parameter and buffer into floats."""

    def floats(x: Tensor) -> Tensor | None:
        plain = not isinstance(x, (FixedPrecisionTensor, EncryptedTensor))
        return None if plain else precision.float_precision(x)

    return convert(module, floats)


def share(module: M, *owners: VirtualWorker, requires_grad: bool = False, **options: Any) -> M:
    """Share every parameter and float buffer. Without ``requires_grad`` the model is for inference only.

    With it, parameters that required no gradient before stay frozen. Options as for tensors.
    """
    sharing.check_arguments(
        owners,
        options.get("crypto_provider"),
        options.get("protocol", "snn"),
        options.get("dtype"),
        options.get("field"),
    )

    def shared(x: Tensor) -> Tensor | None:
        if isinstance(x, EncryptedTensor) or not x.is_floating_point():
            return None
        return sharing.share(x, *owners, **options)

    convert(module, shared, gradients=requires_grad)
    for _, x in _tensors(module):
        if isinstance(x, EncryptedTensor):
            track(module, x.session)
            break
    return module


def get(module: M) -> M:
    """Reveal every shared parameter and buffer, fetch every one that lies at a worker."""

    emptied: list[PointerTensor] = []

    def fetched(x: Tensor) -> Tensor | None:
        if isinstance(x, PointerTensor):
            emptied.append(pointers.point_to(x.location, x.id_at_location))
            return pointers.get(x, deregister_ptr=False)
        return sharing.get(x) if isinstance(x, EncryptedTensor) else None

    # the objects go when everything has arrived and `emptied` is dropped
    return convert(module, fetched)


def decrypt(module: M) -> M:
    """``get`` and ``float_precision``: a plain model."""
    return float_precision(get(module))


def send(module: M, *workers: VirtualWorker, **options: Any) -> M:
    """Send every parameter and buffer to one worker."""
    if len(workers) != 1:
        raise TypeError("a model can be sent to one worker; copy it to send it to several")

    def sent(x: Tensor) -> Tensor | None:
        return pointers.send(x, *workers, **options)  # type: ignore[return-value]

    return convert(module, sent)


def move(module: M, worker: VirtualWorker) -> M:
    """Move every parameter and buffer that lies at a worker to another."""
    return convert(module, lambda x: pointers.move(x, worker) if isinstance(x, PointerTensor) else None)


def copy(module: M) -> M:
    """A model of the same kind with parameters of its own: equal values, shared between the same workers."""
    out = copying.deepcopy(module)
    for (_, x), (_, twin) in zip(_tensors(module), _tensors(out), strict=True):
        known = notes.peek(x)
        if known is not None:
            notes.carry(x, twin)
            notes.note_of(twin).trainable = known.trainable
        if isinstance(x, EncryptedTensor) and isinstance(twin, EncryptedTensor):
            sharing.label_like(x, twin)
            track(out, twin.session)
    return out


def location(module: nn.Module) -> VirtualWorker:
    """Where the parameters lie. Raises ``AttributeError`` for a model that is here."""
    for x in module.parameters():
        if isinstance(x, PointerTensor):
            return x.location
    raise AttributeError("Module has no attribute location, did you already send it to some location?")
