"""``sy.TorchHook(torch)``: makes PySyft's words available on tensors, modules and optimizers.

It adds the names of ``syft.methods`` that torch does not have and replaces nothing; ``unhook`` removes them. The core
(``torchveil``) works without it.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from syft import methods
from syft.registry import registry
from syft.workers import VirtualWorker

_log = logging.getLogger("syft")


class TorchHook:
    """The hook. Calling it again changes nothing and gives the same local worker.

    torch: the module ``torch``; local_worker: the worker of this program (default: one with the id ``me``);
    is_client: whether the local worker is the program's own; verbose: show remarks as warnings; seed: draw ids
    reproducibly.
    """

    _added: list[tuple[type, str, Any]]

    def __init__(
        self,
        torch: ModuleType,
        local_worker: VirtualWorker | None = None,
        is_client: bool = True,
        verbose: bool = False,
        seed: int | None = None,
    ) -> None:
        if getattr(torch, "__name__", None) != "torch":
            raise TypeError("TorchHook takes the module torch: import torch; hook = sy.TorchHook(torch)")
        self.torch = torch
        self.verbose = verbose
        if seed is not None:
            registry.ids.seed(seed)
        before = registry.hook
        if before is not None and before._added:
            _log.info("Torch was already hooked... skipping hooking process")
            self._added = before._added
        else:
            self._added = methods.attach()
        registry.hook = self
        registry.torch = torch
        if registry.local_worker is None:
            registry.local_worker = local_worker or VirtualWorker(self, id="me", is_client_worker=is_client)
        self.local_worker = registry.local_worker

    def unhook(self) -> None:
        """Remove everything that was added to torch. Workers, pointers and shared tensors stay."""
        methods.detach(self._added)
        self._added.clear()

    def __repr__(self) -> str:
        return f"<TorchHook local_worker:{self.local_worker.id} workers:{len(registry.workers)}>"
