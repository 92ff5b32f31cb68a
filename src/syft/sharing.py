"""Sharing and opening: ``share``, ``get``, ``encrypt``, ``decrypt``, ``refresh``, ``reconstruct``.

Tensors that are shared between the same workers with the same crypto provider live in one session, whatever the order
in which the workers were named, so they can meet. A session is opened when first needed and kept in the registry.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from syft import network_worker, notes, pointers
from syft.exceptions import InvalidTensorForRemoteGet, NotEnoughWorkersError, WorkerNotFoundException
from syft.pointers import MultiPointerTensor, PointerTensor
from syft.precision import BASE, PRECISION_FRACTIONAL, FixedPrecisionTensor, float_precision
from syft.printing import label
from syft.protocols import check_protocol, say_once
from syft.registry import registry
from syft.surface import SyftSurface
from syft.workers import VirtualWorker
from torchveil import EncryptedTensor, FixedPoint, InvalidArgument, NetworkSession, Session
from torchveil.fixedpoint import encode

_DTYPES = ("long", "int64", "int", "int32", "custom")


def session_of(workers: Sequence[VirtualWorker], provider: VirtualWorker) -> Session:
    """The session of these workers (in any order) and this provider.

    A session of a cluster that ended with an error is followed by a new one. Raises the core's ``ConfigurationError``
    for a worker named twice, a provider that is one of the workers, and what ``network_worker.cluster_of`` raises.
    """
    names = [str(worker.id) for worker in workers]
    cluster = network_worker.cluster_of(workers, provider)
    key = (os.getpid(), frozenset(names), str(provider.id), cluster)
    session = registry.sessions.get(key)
    if isinstance(session, NetworkSession) and session.ended:
        session = None
    if session is None or len(set(names)) != len(names):
        fixed_point = FixedPoint(BASE, PRECISION_FRACTIONAL)
        session = (
            network_worker.open_session(workers, provider, fixed_point)
            if cluster
            else Session(names, str(provider.id), fixed_point=fixed_point)
        )
        session.surface = SyftSurface(session)
        registry.sessions[key] = session
    return session


def check_arguments(
    owners: Sequence[Any], crypto_provider: Any, protocol: str, dtype: str | None, field: int | None
) -> tuple[list[VirtualWorker], VirtualWorker]:
    """The workers and the provider that PySyft's arguments name, or the errors that its users know."""
    if len(owners) < 2 or not all(isinstance(worker, VirtualWorker) for worker in owners):
        raise NotEnoughWorkersError("Error, share must have > 1 arguments all of type syft.workers")
    check_protocol(protocol)
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"Invalid dtype value: {dtype}; known: {', '.join(_DTYPES)}")
    if dtype == "custom" and field is None:
        raise ValueError("Field cannot be None for custom dtype")
    if dtype in ("int", "int32", "custom") or field is not None:
        say_once("dtype and field of share are accepted and ignored: the ring is always that of 2**64")
    provider = registry.me() if crypto_provider is None else registry.me().get_worker(crypto_provider, fail_hard=True)
    return list(owners), provider


def share(
    x: Tensor,
    *owners: VirtualWorker,
    protocol: str = "snn",
    field: int | None = None,
    dtype: str | None = None,
    crypto_provider: VirtualWorker | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Split a fixed-precision or a whole-number tensor between the workers.

    The default provider is the local worker. Raises ``TypeError`` for floats without a fixed precision, and for
    gradients of whole numbers; ``NotEnoughWorkersError``; ``UnknownProtocolError``; the core's ``ConfigurationError``.
    """
    if isinstance(x, PointerTensor):
        options = dict(protocol=protocol, field=field, dtype=dtype, crypto_provider=crypto_provider)
        return pointers.apply_at(x, lambda y: share(y, *owners, requires_grad=requires_grad, **options))  # type: ignore[arg-type]
    workers, provider = check_arguments(owners, crypto_provider, protocol, dtype, field)
    if isinstance(x, EncryptedTensor):
        raise TypeError("the tensor is shared already; use .get() first to share it between others")
    if x.is_floating_point() and not isinstance(x, FixedPrecisionTensor):
        raise TypeError("FloatTensor cannot be additively shared, Use fix_precision.")
    if requires_grad and not isinstance(x, FixedPrecisionTensor):
        raise TypeError("whole numbers have no gradient: call .fix_precision() before .share(..., requires_grad=True)")
    session = session_of(workers, provider)
    if isinstance(x, FixedPrecisionTensor):
        if isinstance(session.surface, SyftSurface):
            session.surface.saw(x.fixed_point)
        out = session.share(x.decoded(), fixed_point=x.fixed_point, requires_grad=requires_grad)
    else:
        out = session.share(x)
    notes.carry(x, out)
    label(out, [str(worker.id) for worker in workers], str(provider.id))
    return out


def label_like(x: EncryptedTensor, twin: EncryptedTensor) -> None:
    """Let ``twin`` print in the order of workers in which ``x`` does."""
    known = notes.peek(x)
    if known is not None and known.shares:
        label(twin, [part.worker for part in known.shares], known.provider)


def get(x: Tensor) -> Tensor:
    """The value to this program: an explicit, counted reveal of a shared tensor, or the object behind a pointer.

    Shared numbers come back as a ``FixedPrecisionTensor``, whole numbers and results of comparisons as int64. The
    shares stay: ``get`` may be repeated. A pointer's object moves here. Raises ``InvalidTensorForRemoteGet`` for a
    tensor that is here.
    """
    if isinstance(x, PointerTensor):
        return pointers.get(x)
    if isinstance(x, FixedPrecisionTensor):
        return x
    if not isinstance(x, EncryptedTensor):
        raise InvalidTensorForRemoteGet("get() fetches what lies at workers; this tensor is here already")
    return _fixed(x, x.reveal(dtype=torch.float64))


def _fixed(x: EncryptedTensor, clear: Tensor) -> Tensor:
    """A revealed value in the form that ``get`` returns."""
    out: Tensor
    if x.dtype == torch.float32:
        fixed_point = x.fixed_point
        out = FixedPrecisionTensor(encode(clear, fixed_point.scale, op="get"), fixed_point)
    else:
        out = clear.round().to(torch.int64)
    notes.carry(x, out)
    return out


def decrypt(x: Tensor) -> Tensor:
    """The value as a plain tensor: ``get`` and ``float_precision``; whole numbers stay whole."""
    out = get(x)
    return float_precision(out) if isinstance(out, FixedPrecisionTensor) else out


def worker_named(name: str) -> VirtualWorker:
    """The known worker of that id; ``WorkerNotFoundException`` if it was removed."""
    for worker in registry.workers.values():
        if str(worker.id) == name:
            return worker
    raise WorkerNotFoundException(f"the worker {name} has been removed")


def refresh(x: Tensor) -> Tensor:
    """The same value under fresh shares: a sharing of zero is added. Never needed; kept for programs that do it."""
    if isinstance(x, PointerTensor):
        return pointers.apply_at(x, refresh)
    if not isinstance(x, EncryptedTensor):
        raise TypeError("only a shared tensor can be refreshed")
    session = x.session
    if not isinstance(session, Session):
        raise InvalidArgument("the tensor belongs to no session that can share", op="refresh")
    # whole zeros: adding them is exact and leaves the precision of x as it is
    zero = session.share(torch.zeros(x.shape, dtype=torch.int64))
    return x + zero


def reconstruct(x: Tensor) -> MultiPointerTensor:
    """Give every worker of a shared tensor the value; this program gets pointers. One reveal per worker."""
    if not isinstance(x, EncryptedTensor):
        raise TypeError("only a shared tensor can be reconstructed")
    found = []
    for name in x.session.parties:
        value = _fixed(x, x.reveal(to=name, dtype=torch.float64))
        found.append(pointers.store_at(worker_named(name), value))
    return MultiPointerTensor(found)
