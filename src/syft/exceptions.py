"""Errors of the ``syft`` surface, under the names that PySyft users know.

    SyftError
    ├── ObjectNotFoundError               a pointer to something that its worker no longer holds
    ├── WorkerNotFoundException           an id that no worker has
    ├── TensorsNotCollocatedException     two operands that lie in different places
    ├── CommandNotAllowedException        an operation that workers do not execute for others
    ├── InvalidTensorForRemoteGet         ``get`` of something that is already here
    ├── NotEnoughWorkersError             a value cannot be split between fewer than two workers
    ├── UnknownProtocolError              a protocol name that means nothing here
    ├── NotHookedError                    ``sy.TorchHook(torch)`` has not been called
    └── DependencyError                   a package that is needed is not installed

What goes wrong on shares (a provider that is also a party, an unsupported operation, nan in the data) raises the core's
errors, ``torchveil.TorchveilError``. No message holds a value or a share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from syft.workers import VirtualWorker


class SyftError(Exception):
    """Base of the errors of this package."""


class ObjectNotFoundError(SyftError, KeyError):
    """A worker was asked for an object that it does not hold."""

    def __init__(self, identifier: object, worker: VirtualWorker) -> None:
        self.identifier = identifier
        self.message = (
            f'Object "{identifier}" not found on worker! You just tried to interact with an object ID: {identifier} on '
            f"{worker} which does not exist!!! Use .send() and .get() in turn: .get() moves the object to you and "
            "deletes it there (ptr.copy().get() keeps it), and deleting the last pointer deletes it too."
        )
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class WorkerNotFoundException(SyftError, LookupError):
    """No worker of that id is known."""


class TensorsNotCollocatedException(SyftError, RuntimeError):
    """An operation on tensors that do not lie at the same worker."""


class CommandNotAllowedException(SyftError, NotImplementedError):
    """An operation that is not on the list of what workers execute."""


class InvalidTensorForRemoteGet(SyftError, TypeError):
    """``get`` on a tensor that points nowhere and is not shared."""


class NotEnoughWorkersError(SyftError, RuntimeError):
    """``share`` needs two workers or more."""


class UnknownProtocolError(SyftError, NotImplementedError):
    """A protocol name that this library does not know."""


class NotHookedError(SyftError, RuntimeError):
    """Something needs the hook and there is none yet."""


class DependencyError(SyftError, ImportError):
    """An optional package is needed."""
