"""Workers, the hook, the sandbox."""

from __future__ import annotations

import builtins
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import syft as sy
from syft import methods
from syft.exceptions import DependencyError, ObjectNotFoundError, SyftError, WorkerNotFoundException


def test_a_known_id_is_the_same_worker(people: SimpleNamespace, hook: sy.TorchHook) -> None:
    again = sy.VirtualWorker(id="bob", hook=hook)
    held = torch.ones(1).send(again)
    assert again == people.bob and again is not people.bob
    assert people.bob[held.id_at_location].tolist() == [1.0]

    class Other(sy.VirtualWorker):
        pass

    with pytest.raises(RuntimeError, match=r"Worker initialized with the same id and different types."):
        Other(hook, id="bob")


def test_lookup(people: SimpleNamespace) -> None:
    assert sy.local_worker.get_worker("bob") is sy.local_worker.get_worker(people.bob).get_worker("bob")
    assert sy.local_worker.get_worker("nobody") == "nobody"
    with pytest.raises(WorkerNotFoundException, match="nobody"):
        sy.local_worker.get_worker("nobody", fail_hard=True)


def test_objects(people: SimpleNamespace, hook: sy.TorchHook) -> None:
    data = [torch.tensor([n]).tag("#n") for n in range(2)]
    worker = sy.VirtualWorker(hook, id="store", data=data)
    assert worker.tensors_count() == worker.objects_count() == 2
    assert worker.list_tensors() == [x.id for x in data] == list(worker._objects) == list(worker._tensors)
    assert worker.object_store._objects[data[0].id] is data[0] is worker[data[0].id]
    assert len(worker.object_store.find_by_tag("#n")) == 2
    assert worker.clear_objects() is worker and worker.objects_count() == 0
    assert worker.clear_objects(return_self=False) is None
    with pytest.raises(ObjectNotFoundError):
        worker[data[0].id]


def test_search(people: SimpleNamespace) -> None:
    sent = torch.tensor([1, 2]).tag("#fun", "#data").describe("numbers").send(people.bob)
    other = torch.tensor([3]).tag("#fun").send(people.bob)
    found = people.bob.search(["#fun", "#data"])
    assert [pointer.id_at_location for pointer in found] == [sent.id_at_location]
    assert found[0].tags == {"#fun", "#data"} and found[0].description == "numbers"
    assert len(people.bob.search("#fun")) == len(people.bob.search([])) == 2
    assert people.bob.search(["#none"]) == []
    del found
    assert people.bob.tensors_count() == 2
    assert other.get().item() == 3


def test_the_hook_is_idempotent_and_can_be_undone(hook: sy.TorchHook) -> None:
    share = torch.Tensor.share
    again = sy.TorchHook(torch)
    assert torch.Tensor.share is share and again.local_worker is hook.local_worker is sy.local_worker
    assert sy.hook is again and sy.torch is torch and sy.local_worker.id == "me"
    again.unhook()
    for cls, names in ((torch.Tensor, methods.TENSOR), (nn.Module, methods.MODULE)):
        assert not [name for name in names if hasattr(cls, name)]
    hook.unhook()
    sy.TorchHook(torch)
    assert torch.tensor([1.0]).fix_precision().raw.item() == 1000


def test_the_hook_replaces_nothing() -> None:
    sy.hook.unhook()
    try:
        torch.Tensor.refresh = "somebody else's"
        taken = sy.TorchHook(torch)
        assert torch.Tensor.refresh == "somebody else's"
        taken.unhook()
        assert torch.Tensor.refresh == "somebody else's"
    finally:
        del torch.Tensor.refresh
        sy.TorchHook(torch)
    with pytest.raises(TypeError, match="takes the module torch"):
        sy.TorchHook(object())


def test_a_saved_tensor_knows_nothing_of_this_package(tmp_path: Any) -> None:
    x = torch.ones(2).tag("#a")
    assert x.id
    torch.save(x, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True).tolist() == [1.0, 1.0]


def test_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names)
    assert [worker.id for worker in names["workers"]] == ["bob", "theo", "jason", "alice", "andy", "jon"]
    assert names["bob"] == names["workers"][0]
    found = names["grid"].search("#iris", "#data")
    assert sorted(found) == ["alice", "andy", "bob", "jason", "jon", "theo"]
    assert sum(len(pointers[0]) for pointers in found.values()) == 150
    assert "Sandbox ready" in capsys.readouterr().out
    for worker in names["workers"]:
        worker.clear_objects()


def test_sandbox_without_data_or_torch(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"th": torch}
    assert sy.make_hook(names) is names["hook"]
    assert names["jon"].tensors_count() == 0 and capsys.readouterr().out == ""
    with pytest.raises(SyftError, match="import torch"):
        sy.create_sandbox({})


def test_sandbox_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def missing(name: str, *args: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    names: dict[str, Any] = builtins.dict(torch=torch)
    with pytest.raises(DependencyError, match="scikit-learn"):
        sy.create_sandbox(names)
    assert names["bob"].id == "bob"


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sy.nothing  # noqa: B018
