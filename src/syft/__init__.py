"""PySyft 0.2's words for encrypted training, on top of ``torchveil``.

>>> import torch, syft as sy
>>> hook = sy.TorchHook(torch)
>>> alice, bob, james = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "james"))
>>> x = torch.tensor([0.1, 0.2]).fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
>>> x.get().float_precision()
tensor([0.1000, 0.2000])

The names are PySyft's, the machinery is not: ``share`` gives a ``torchveil.EncryptedTensor``, on which torch's own
modules, losses, optimizers and autograd work. ``sy.hook``, ``sy.local_worker`` and ``sy.torch`` are None until
``sy.TorchHook(torch)`` is called.
"""

from __future__ import annotations

from typing import Any

from syft import exceptions
from syft.network_worker import NetworkWorker
from syft.plans import Plan, func2plan
from syft.pointers import MultiPointerTensor, PointerTensor, combine_pointers
from syft.precision import FixedPrecisionTensor
from syft.protocols import PROTOCOLS, describe_protocol
from syft.registry import registry
from syft.sandbox import PrivateGridNetwork, create_sandbox, make_hook
from syft.torch_hook import TorchHook
from syft.workers import VirtualWorker
from torchveil import __version__

__all__ = [
    "PROTOCOLS",
    "FixedPrecisionTensor",
    "MultiPointerTensor",
    "NetworkWorker",
    "Plan",
    "PointerTensor",
    "PrivateGridNetwork",
    "TorchHook",
    "VirtualWorker",
    "__version__",
    "combine_pointers",
    "create_sandbox",
    "describe_protocol",
    "exceptions",
    "func2plan",
    "make_hook",
]

_LIVE = ("hook", "local_worker", "torch")


def __getattr__(name: str) -> Any:
    """``sy.hook``, ``sy.local_worker`` and ``sy.torch`` follow the last hook."""
    if name in _LIVE:
        return getattr(registry, name)
    raise AttributeError(f"module 'syft' has no attribute {name!r}")
