"""``sy.create_sandbox(globals())``: six workers, with data to play with, in one line."""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from syft import notes, pointers
from syft.exceptions import DependencyError, SyftError
from syft.pointers import PointerTensor
from syft.torch_hook import TorchHook
from syft.workers import VirtualWorker

NAMES = ("bob", "theo", "jason", "alice", "andy", "jon")

#: loader of scikit-learn -> tags of its data. The housing data of Boston were withdrawn by scikit-learn.
DATASETS: dict[str, tuple[str, ...]] = {
    "load_diabetes": ("#diabetes",),
    "load_breast_cancer": ("#breast_cancer", "#cancer"),
    "load_digits": ("#digits", "#mnist"),
    "load_iris": ("#iris",),
    "load_wine": ("#wine",),
    "load_linnerud": ("#linnerud",),
}


class PrivateGridNetwork:
    """Workers that are searched together."""

    def __init__(self, *workers: VirtualWorker) -> None:
        self.workers = list(workers)

    def search(self, *query: str) -> dict[Any, list[PointerTensor]]:
        """The pointers to what has every tag, per worker id; workers without a match are left out."""
        found = {worker.id: worker.search(list(query)) for worker in self.workers}
        return {identifier: hits for identifier, hits in found.items() if hits}

    def __repr__(self) -> str:
        return f"<PrivateGridNetwork of {', '.join(str(worker.id) for worker in self.workers)}>"


def create_sandbox(names: MutableMapping[str, Any], verbose: bool = True, download_data: bool = True) -> None:
    """Put a hook, six workers, ``workers`` and ``grid`` into ``names`` (pass ``globals()``).

    With ``download_data`` scikit-learn's bundled sets are spread evenly over the workers, tagged ``#data`` or
    ``#target`` and by name; nothing is fetched from a network. Raises ``SyftError`` when torch is not among the names,
    and ``DependencyError`` when data are asked for and scikit-learn is missing (the workers are there all the same).
    """
    library = names.get("torch", names.get("th"))
    if not isinstance(library, ModuleType):
        raise SyftError("create_sandbox needs torch among the names: import torch, then sy.create_sandbox(globals())")
    hook = TorchHook(library)
    workers = [VirtualWorker(hook, id=name) for name in NAMES]
    for worker in workers:
        worker.clear_objects()
    grid = PrivateGridNetwork(*workers)
    names.update(zip(NAMES, workers, strict=True))
    names.update(hook=hook, workers=workers, grid=grid)
    if download_data:
        load_data(workers)
    if verbose:
        print(f"Sandbox ready: hook, grid and the workers {', '.join(NAMES)}.")
        if download_data:
            print("Their data: grid.search('#iris', '#data'), or bob._objects.")


def make_hook(names: MutableMapping[str, Any]) -> TorchHook:
    """The sandbox without words and without data; returns the hook."""
    create_sandbox(names, verbose=False, download_data=False)
    hook: TorchHook = names["hook"]
    return hook


def load_data(workers: Sequence[VirtualWorker]) -> None:
    """Spread scikit-learn's bundled data sets over the workers."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise DependencyError(
            "the sandbox takes its data from scikit-learn, which is not installed: pip install scikit-learn, or "
            "sy.create_sandbox(globals(), download_data=False)"
        ) from None
    for loader, tags in DATASETS.items():
        data, target = getattr(datasets, loader)(return_X_y=True)
        spread(torch.tensor(data), workers, (*tags, "#data"), loader)
        spread(torch.tensor(target), workers, (*tags, "#target"), loader)


def spread(x: Tensor, workers: Sequence[VirtualWorker], tags: Sequence[str], origin: str) -> None:
    """Give every worker an equal part of the rows."""
    for part, worker in zip(torch.tensor_split(x.float(), len(workers)), workers, strict=True):
        held = part.clone()
        notes.tag(held, *tags)
        notes.describe(held, f"scikit-learn {origin}, part of {worker.id}")
        pointers.store_at(worker, held, keep=True)
