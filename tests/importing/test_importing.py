"""Trained models from elsewhere: state dicts, safetensors files, exported programs, ONNX."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchveil
from torchveil.errors import ConfigurationError, InvalidArgument, SessionStateError
from torchveil.tensor import EncryptedTensor


class Net(nn.Module):
    """Convolution, batch norm, tied linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.second(self.first(self.conv(x))))
        return out


@pytest.fixture
def trained() -> Net:
    """A module in evaluation mode whose running statistics are not those of a fresh one."""
    torch.manual_seed(1)
    net = Net()
    net(torch.randn(16, 1, 6, 6))
    return net.eval()


X = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(2))


def test_a_state_is_loaded_before_or_after_encrypting(trained: Net) -> None:
    session = torchveil.Session()
    before = Net().eval()
    before.load_state_dict(trained.state_dict())
    after = session.encrypt(Net().eval())
    weight = after.first.weight
    after.load_state_dict(session.share_state(trained.state_dict()))
    assert after.first.weight is weight and after.second.weight is weight and weight.requires_grad
    clear = trained(X)
    for net in (session.encrypt(before), after):
        assert (net(session.share(X)).reveal() - clear).abs().max() < 1e-3
    after(session.share(X)).sum().backward()
    assert isinstance(weight.grad, EncryptedTensor)
    copy = session.encrypt(Net().eval())
    copy.load_state_dict(after.state_dict())  # secret into secret: nothing is shared again
    assert (copy(session.share(X)).reveal() - clear).abs().max() < 1e-3


def test_a_plain_state_does_not_become_secret_unasked(trained: Net) -> None:
    net = torchveil.Session().encrypt(Net())
    with pytest.raises(RuntimeError, match="TV104"):
        net.load_state_dict(trained.state_dict())


def test_safetensors(trained: Net, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    torchveil.save_weights(trained.state_dict(), tmp_path / "net.safetensors")
    state = torchveil.load_weights(tmp_path / "net.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
    session = torchveil.Session()
    net = session.encrypt(Net().eval())
    net.load_state_dict(session.share_state(state))
    assert (net(session.share(X)).reveal() - trained(X)).abs().max() < 1e-3
    with pytest.raises(SessionStateError, match=r"session\.decrypt"):
        torchveil.save_weights(net.state_dict(), tmp_path / "secret.safetensors")
    assert not (tmp_path / "secret.safetensors").exists()
    torchveil.save_weights(session.decrypt(net).state_dict(), tmp_path / "again.safetensors")
    torch.save(trained.state_dict(), tmp_path / "pickled.pt")
    with pytest.raises(InvalidArgument, match="never read"):
        torchveil.load_weights(tmp_path / "pickled.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("decomposed", [False, True])
def test_an_exported_program(trained: Net, decomposed: bool) -> None:
    program = torch.export.export(trained, (X,))
    program = program.run_decompositions() if decomposed else program
    assert torchveil.check(program.module(), X).ok
    session = torchveil.Session()
    net = session.encrypt(program.module())
    out = net(session.share(X))
    assert (out.reveal() - trained(X)).abs().max() < 1e-3
    out.sum().backward()
    trained(X).sum().backward()
    theirs = trained.first.bias.grad
    ours: Any = dict(net.named_parameters())["first.bias"].grad
    assert theirs is not None and (ours.reveal() - theirs).abs().max() < 1e-2


def test_without_onnx2torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(ConfigurationError, match=r"torchveil\[onnx\]"):
        torchveil.from_onnx("model.onnx")


def test_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        # built for another torch: onnx2torch needs it for operations that are not in this model
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            monkeypatch.delitem(sys.modules, name)
        stub = ModuleType("torchvision")
        stub.ops = ModuleType("torchvision.ops")  # type: ignore[attr-defined]
        stub.ops.roi_align = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchvision", stub)
        monkeypatch.setitem(sys.modules, "torchvision.ops", stub.ops)  # type: ignore[attr-defined]
    pytest.importorskip("onnx2torch")
    linear = nn.Linear(4, 3)
    h, tensor = onnx.helper, onnx.numpy_helper.from_array
    graph = h.make_graph(
        [h.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), h.make_node("Relu", ["y"], ["z"])],
        "net",
        [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4])],
        [h.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2, 3])],
        [tensor(linear.weight.detach().numpy(), "w"), tensor(linear.bias.detach().numpy(), "b")],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)])
    onnx.save(model, str(tmp_path / "net.onnx"))
    x = torch.randn(2, 4)
    session = torchveil.Session()
    for source in (tmp_path / "net.onnx", model):
        net = torchveil.from_onnx(source)
        assert torchveil.check(net, x).ok
        assert (session.encrypt(net)(session.share(x)).reveal() - torch.relu(linear(x))).abs().max() < 1e-3
    strange = h.make_graph([h.make_node("NoSuchOperation", ["x"], ["z"])], "net", graph.input, graph.output)
    with pytest.raises(InvalidArgument, match="onnx2torch"):
        torchveil.from_onnx(h.make_model(strange, opset_imports=[h.make_opsetid("", 13)]))
