"""What one process knows: the hook, the workers by id, the sessions that shares live in, the source of ids.

PySyft kept this in attributes of patched modules; here it is one object that every file of the package may import.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from syft.exceptions import NotHookedError
from syft.ids import IdProvider
from torchveil import Session

if TYPE_CHECKING:
    from syft.torch_hook import TorchHook
    from syft.workers import VirtualWorker

#: Process, ids of the workers as a set, id of the provider, the digest of their cluster (of virtual workers: nothing).
#: The process is part of it because a forked session is dead.
SessionKey = tuple[int, frozenset[str], str, bytes]


@dataclass(slots=True)
class Registry:
    """The state of the package."""

    hook: TorchHook | None = None
    torch: ModuleType | None = None
    local_worker: VirtualWorker | None = None
    workers: dict[Hashable, VirtualWorker] = field(default_factory=dict)
    sessions: dict[SessionKey, Session] = field(default_factory=dict)
    ids: IdProvider = field(default_factory=IdProvider)

    def me(self) -> VirtualWorker:
        """The worker of this program. Raises ``NotHookedError`` before there is one."""
        if self.local_worker is None:
            raise NotHookedError("there is no local worker yet: call hook = sy.TorchHook(torch) first")
        return self.local_worker


registry = Registry()
