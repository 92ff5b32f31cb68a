"""Virtual workers: named places in this process that hold tensors and the shares of secrets.

A virtual worker protects nothing, since all of them share one process; it shows who would hold what. Ids are unique:
making a worker with the id of a known one gives another name for the same worker.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from syft import notes
from syft.exceptions import NotHookedError, ObjectNotFoundError, WorkerNotFoundException
from syft.notes import Share
from syft.protocols import say_once
from syft.registry import registry

if TYPE_CHECKING:
    from syft.pointers import PointerTensor
    from syft.torch_hook import TorchHook


class ObjectStore:
    """What one worker holds: tensors by id, and the shares of secrets (listed while the secret is alive)."""

    __slots__ = ("_tensors", "shares")

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}
        self.shares: weakref.WeakValueDictionary[int, Share] = weakref.WeakValueDictionary()

    @property
    def _objects(self) -> dict[Hashable, Tensor | Share]:
        return {**self._tensors, **dict(self.shares.items())}

    def tensors(self) -> dict[Hashable, Tensor]:
        """The tensors, without shares."""
        return self._tensors

    def set_obj(self, identifier: Hashable, x: Tensor) -> None:
        self._tensors[identifier] = x

    def get_obj(self, identifier: Hashable, worker: VirtualWorker) -> Tensor:
        """The tensor of that id, or ``ObjectNotFoundError``."""
        try:
            return self._tensors[identifier]
        except KeyError:
            raise ObjectNotFoundError(identifier, worker) from None

    def rm_obj(self, identifier: Hashable) -> None:
        """Forget a tensor; nothing happens when it is gone already."""
        self._tensors.pop(identifier, None)

    def find_by_tag(self, tag: str) -> list[Tensor]:
        """Every tensor with the tag."""
        return [x for x in self._tensors.values() if tag in notes.note_of(x).tags]

    def clear(self) -> None:
        self._tensors.clear()


class VirtualWorker:
    """A worker of this process.

    ``data`` is a list of tensors to hold from the start. ``is_client_worker`` marks the worker of the program itself,
    ``auto_add=False`` keeps it out of the registry. ``log_msgs``, ``verbose`` and ``message_pending_time`` are accepted
    and do nothing: no messages are built in one process. Raises ``RuntimeError`` for an id of another type of worker.
    """

    def __init__(
        self,
        hook: TorchHook | None = None,
        id: Hashable = 0,
        data: Iterable[Tensor] | None = None,
        is_client_worker: bool = False,
        log_msgs: bool = False,
        verbose: bool | None = None,
        auto_add: bool = True,
        message_pending_time: float = 0,
    ) -> None:
        if hook is None and registry.hook is None:
            raise NotHookedError(
                "a worker needs the hook: hook = sy.TorchHook(torch), then sy.VirtualWorker(hook, id=...)"
            )
        if log_msgs or message_pending_time:
            say_once(
                "log_msgs and message_pending_time of a worker are accepted and do nothing: one process, no messages"
            )
        known = registry.workers.get(id)
        if known is not None and auto_add:
            if type(known) is not type(self):
                raise RuntimeError(
                    f"Worker initialized with the same id and different types. {id!r} is the id of a "
                    f"{type(known).__name__} already: call its remove_worker_from_local_worker_registry() first"
                )
            self.__dict__ = known.__dict__  # one worker under two names
        else:
            self.hook = hook or registry.hook
            self.id = id
            self.is_client_worker = is_client_worker
            self.object_store = self._new_store()
            if auto_add:
                registry.workers[id] = self
        if data is not None:
            self.load_data(data)

    def _new_store(self) -> ObjectStore:
        return ObjectStore()

    # --- other workers -----------------------------------------------------------------------------------------------

    def add_worker(self, worker: VirtualWorker) -> VirtualWorker:
        """Make a worker known by its id; returns this worker."""
        registry.workers[worker.id] = worker
        return self

    def add_workers(self, workers: Iterable[VirtualWorker]) -> VirtualWorker:
        """Make several workers known; returns this worker."""
        for worker in workers:
            self.add_worker(worker)
        return self

    def get_worker(self, id_or_worker: Any, fail_hard: bool = False) -> Any:
        """The worker of an id. An unknown id is returned as it is and remarked; ``fail_hard`` raises instead."""
        if isinstance(id_or_worker, VirtualWorker):
            return id_or_worker
        found = registry.workers.get(id_or_worker)
        if found is not None:
            return found
        if fail_hard:
            raise WorkerNotFoundException(
                f"no worker has the id {id_or_worker!r}; known: {sorted(map(str, registry.workers))}"
            )
        say_once(f"Worker {self.id} couldn't recognize worker {id_or_worker}")
        return id_or_worker

    def remove_worker_from_registry(self, worker_id: Hashable) -> None:
        """Forget a worker."""
        registry.workers.pop(worker_id, None)

    def remove_worker_from_local_worker_registry(self) -> None:
        """Forget this worker."""
        self.remove_worker_from_registry(self.id)

    # --- objects -----------------------------------------------------------------------------------------------------

    @property
    def _objects(self) -> dict[Hashable, Tensor | Share]:
        return self.object_store._objects

    @property
    def _tensors(self) -> dict[Hashable, Tensor | Share]:
        return self.object_store._objects

    def __getitem__(self, identifier: Hashable) -> Tensor:
        return self.object_store.get_obj(identifier, self)

    def register_obj(self, x: Tensor) -> None:
        """Hold a tensor under its id."""
        self.object_store.set_obj(notes.note_of(x).id, x)

    def load_data(self, data: Iterable[Tensor]) -> None:
        """Hold the tensors of a list, so that ``search`` finds them."""
        for x in data:
            self.register_obj(x)

    def get_obj(self, identifier: Hashable) -> Tensor:
        """The tensor of that id, or ``ObjectNotFoundError``."""
        return self.object_store.get_obj(identifier, self)

    def clear_objects(self, return_self: bool = True) -> VirtualWorker | None:
        """Forget every tensor (shares belong to their session and stay)."""
        self.object_store.clear()
        return self if return_self else None

    def list_objects(self) -> list[Hashable]:
        """The ids of everything held."""
        return list(self._objects)

    def objects_count(self) -> int:
        """How much is held: tensors and shares."""
        return len(self._objects)

    def list_tensors(self) -> list[Hashable]:
        """The ids of the tensors."""
        return list(self.object_store.tensors())

    def tensors_count(self) -> int:
        """How many tensors are held, without shares."""
        return len(self.object_store.tensors())

    def search(self, query: str | int | Iterable[str | int]) -> list[PointerTensor]:
        """Pointers to the tensors that have every tag of the query (or the id in it); ``[]`` finds all tagged ones."""
        from syft.pointers import point_to

        terms = [query] if isinstance(query, (str, int)) else list(query)
        found = []
        for identifier, x in self.object_store.tensors().items():
            tags = notes.note_of(x).tags
            if all(term in tags or term == identifier for term in terms) if terms else bool(tags):
                found.append(point_to(self, identifier, keep=True))
        return found

    def request_search(self, query: str | int | Iterable[str | int], location: VirtualWorker) -> list[PointerTensor]:
        """``location.search(query)``."""
        return location.search(query)

    @contextmanager
    def registration_enabled(self) -> Iterator[VirtualWorker]:
        """Within it the worker does not count as the program's own; kept for programs that ask for it."""
        before, self.is_client_worker = self.is_client_worker, False
        try:
            yield self
        finally:
            self.is_client_worker = before

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VirtualWorker) and self.object_store is other.object_store

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return f"<{type(self).__name__} id:{self.id} #objects:{self.objects_count()}>"

    def __repr__(self) -> str:
        return str(self)
