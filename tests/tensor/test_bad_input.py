"""Everything that can be asked wrongly: a typed error, the user's line, a remedy, no value told, the session usable."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchveil
from torchveil import EncryptedTensor, FixedPoint, Session, public

CANARY = 1234.5625
SESSION = Session()
OTHER = Session()


def canary(*shape: int, grad: bool = False) -> EncryptedTensor:
    return SESSION.share(torch.full(shape, CANARY), requires_grad=grad)


def plain(*shape: int) -> Tensor:
    return torch.full(shape, CANARY)


def tells_nothing(text: str) -> None:
    raw = round(CANARY * SESSION.fixed_point.scale)
    for secret in (str(CANARY), "1234.6", "1234.5", str(raw), str(raw * 2**16), "1.2346e"):
        assert secret not in text


def refused(error: type[Exception], attempt: Callable[[], Any], *, op: bool = True) -> str:
    """The attempt raises ``error`` with line and remedy, tells no value, and the session works as before."""
    witness = canary(2)
    with pytest.raises(error) as caught:
        attempt()
    raised = caught.value
    assert isinstance(raised, torchveil.TorchveilError)
    assert f"{__file__}:" in raised.line or "test_bad_input.py" in raised.line, raised.line
    assert raised.remedy and raised.remedy in str(raised) and raised.code in str(raised)
    tells_nothing(str(raised))
    if op:
        assert raised.op
    if not SESSION._closed:
        assert witness.reveal().tolist() == [CANARY] * 2
        assert (witness * 2).reveal().tolist() == [2 * CANARY] * 2
    return str(raised)


T = torchveil

ENCODING: dict[str, Callable[[], Any]] = {
    "nan": lambda: SESSION.share(torch.tensor([CANARY, float("nan")])),
    "inf": lambda: SESSION.share(torch.tensor([CANARY, float("inf")])),
    "too large": lambda: SESSION.share(torch.tensor([CANARY * 1e15])),
    "too large a whole number": lambda: SESSION.share(torch.tensor([2**62])),
    "a scalar that is nan": lambda: canary(2) + float("nan"),
    "a factor that is inf": lambda: canary(2) * float("inf"),
    "a public tensor with nan": lambda: canary(2) + public(torch.tensor([float("nan"), 0.0])),
    "a comparison with nan": lambda: canary(2) > float("nan"),
}

SHAPES: dict[str, Callable[[], Any]] = {
    "add": lambda: canary(3) + canary(4),
    "sub in place": lambda: canary(3).sub_(canary(4)),
    "in place would broadcast the target": lambda: canary(3).add_(canary(2, 3)),
    "mul": lambda: canary(2, 3) * canary(2, 4),
    "compare": lambda: canary(3) < canary(4),
    "mm": lambda: canary(2, 3) @ canary(2, 3),
    "bmm": lambda: torch.bmm(canary(2, 3, 4), canary(2, 3, 4)),
    "matrix times vector": lambda: canary(2, 3) @ canary(2),
    "dot": lambda: torch.dot(canary(2), canary(3)),
    "linear": lambda: F.linear(canary(2, 3), canary(4, 2)),
    "cat": lambda: torch.cat([canary(2, 3), canary(2, 4)]),
    "stack": lambda: torch.stack([canary(2), canary(3)]),
    "view": lambda: canary(2, 3).view(4),
    "index": lambda: canary(2, 3)[torch.tensor([7])],
    "convolution": lambda: F.conv2d(canary(1, 2, 4, 4), canary(3, 1, 2, 2)),
    "where": lambda: torch.where(canary(2) > 0, canary(3), canary(3)),
    "copy": lambda: canary(2).copy_(canary(3)),
}

PUBLISHED: dict[str, Callable[[], Any]] = {
    "add": lambda: canary(2) + plain(2),
    "add, plain first": lambda: plain(2) + canary(2),
    "mul in place": lambda: canary(2).mul_(plain(2)),
    "one number in a tensor": lambda: canary(2) * plain(),
    "matmul": lambda: plain(2, 2) @ canary(2, 2),
    "cat": lambda: torch.cat([canary(2), plain(2)]),
    "where": lambda: torch.where(canary(2) > 0, canary(2), plain(2)),
    "where with whole numbers": lambda: torch.where(canary(2) > 0, canary(2), torch.tensor([1, 2])),
    "compare": lambda: canary(2) == plain(2),
    "compare with whole numbers": lambda: canary(2) == torch.tensor([5, 7]),
    "copy_": lambda: canary(2).copy_(plain(2)),
    "loss": lambda: F.mse_loss(canary(2), plain(2)),
    "a gradient": lambda: (canary(2, grad=True) * canary(2)).backward(plain(2)),
    "a plain model": lambda: nn.Linear(2, 2)(canary(3, 2)),
    "a plain batch norm": lambda: nn.BatchNorm1d(2, affine=False)(canary(3, 2)),
    "a plain embedding": lambda: nn.Embedding(3, 2)(SESSION.share(torch.tensor([1]))),
    "scatter": lambda: canary(3).scatter(0, torch.tensor([0]), plain(1)),
    "scatter of whole numbers": lambda: canary(3).scatter(0, torch.tensor([0]), torch.tensor([3])),
    "index_put": lambda: canary(3).index_put_((torch.tensor([0]),), plain(1)),
    "assign a row": lambda: canary(3, 2).__setitem__(0, plain(2)),
    "plain table, secret index": lambda: plain(3)[SESSION.share(torch.tensor([1]))],
    "load_state_dict": lambda: SESSION.encrypt(nn.Linear(2, 2)).weight.data.copy_(plain(2, 2)),
}

READING: dict[str, Callable[[], Any]] = {
    "item": lambda: canary(1).item(),
    "float": lambda: float(canary(1)),
    "int": lambda: int(canary(1)),
    "bool": lambda: bool(canary(1)),
    "if": lambda: 1 if canary(1) > 0 else 2,
    "while a bit": lambda: not (canary(1) > 0),
    "tolist": lambda: canary(2).tolist(),
    "numpy": lambda: canary(2).numpy(),
    "np.asarray": lambda: np.asarray(canary(2)),
    "np.float64": lambda: np.float64(canary(1)),
    "format": lambda: f"{canary(1):.3f}",
    "in": lambda: 3.0 in canary(2),
    "in a list": lambda: canary(1) in [canary(1)],
    "index": lambda: [1, 2, 3][SESSION.share(torch.tensor(1))],
    "range": lambda: range(SESSION.share(torch.tensor(3))),
    "is_nonzero": lambda: torch.is_nonzero(canary(1)),
    "dlpack": lambda: torch.from_dlpack(canary(2)),
    "to_dlpack": lambda: torch.utils.dlpack.to_dlpack(canary(2)),
    "torch.to_dlpack": lambda: torch.to_dlpack(canary(2)),  # type: ignore[attr-defined]
    "_to_dlpack": lambda: torch._C._to_dlpack(canary(2)),
    "_to_dlpack_versioned": lambda: torch._C._to_dlpack_versioned(canary(2)),  # type: ignore[attr-defined]
    "Tensor.__dlpack__": lambda: torch.Tensor.__dlpack__(canary(2)),
    "Tensor.tolist": lambda: torch.Tensor.tolist(canary(2)),
    "Tensor.numpy": lambda: torch.Tensor.numpy(canary(2)),
    "data_ptr": lambda: canary(2).data_ptr(),
    "untyped_storage": lambda: canary(2).untyped_storage(),
    "storage": lambda: canary(2).storage(),
    "one_hot without classes": lambda: F.one_hot(SESSION.share(torch.tensor([1]))),
    "plateau": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    ).step(canary()),
}


def test_torch_itself_finds_no_memory_behind_a_secret() -> None:
    """Whatever goes past the refusals by name meets an error of torch's: a null pointer would end the interpreter."""
    for x in (canary(2, 2), canary(2, 2).view(4), canary(2, 2)[0], canary(2, 2) * 2):
        with torch._C.DisableTorchFunctionSubclass(), pytest.raises(RuntimeError):
            x.data_ptr()


def test_the_cpu_is_where_a_secret_is() -> None:
    x = canary(2)
    for same in (x.cpu(), x.to("cpu"), x.to(torch.device("cpu")), x.to(torch.float32), x.to(torch.ones(1))):
        assert same.reveal().tolist() == [CANARY] * 2  # type: ignore[attr-defined]
    assert x.device.type == "cpu" and not x.is_pinned()
    assert isinstance(SESSION.encrypt(nn.Linear(2, 2)).cpu().weight, EncryptedTensor)


def test_class_numbers_with_a_fraction_are_converted() -> None:
    scores, classes = torch.tensor([[0.5, 1.0, -1.0], [2.0, 0.0, 1.0]]), torch.tensor([1, 0])
    loss = F.cross_entropy(SESSION.share(scores), SESSION.share(classes.float()).long())
    assert abs(float(loss.reveal()) - float(F.cross_entropy(scores, classes))) < 1e-3  # type: ignore[attr-defined]


def test_plain_tensors_still_become_capsules() -> None:
    assert torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(plain(2))).tolist() == [CANARY] * 2
    assert torch.from_dlpack(plain(2)).tolist() == [CANARY] * 2


def _with_gradient() -> Tensor:
    x = canary(2, grad=True)
    (x * x * 0.001).sum().backward()
    return x


PRECISION: dict[str, Callable[[], Any]] = {
    "a factor": lambda: canary(2) * 1e-30,
    "a factor in place": lambda: canary(2).mul_(1e-30),
    "a summand": lambda: canary(2) + 1e-30,
    "a divisor": lambda: canary(2) / 1e30,
    "a learning rate": lambda: canary(2).add_(canary(2), alpha=1e-30),
}

WRITTEN: dict[str, Callable[[], Any]] = {
    "copy_": lambda: plain(2).copy_(canary(2)),
    "add_": lambda: plain(2).add_(canary(2)),
    "mul_ by a bit": lambda: plain(2).mul_(canary(2) > 0),
    "out=": lambda: torch.add(canary(2), canary(2), out=torch.zeros(2)),
    "out= of a product": lambda: torch.mm(canary(2, 2), canary(2, 2), out=torch.zeros(2, 2)),
    "assign": lambda: plain(2).__setitem__(0, canary()),
    "assign by a mask": lambda: plain(2).__setitem__(torch.tensor([True, False]), canary(1)),
    "addcmul_": lambda: plain(2).addcmul_(canary(2), canary(2)),
    "fill_": lambda: plain(2).fill_(canary()),
    "load_state_dict": lambda: _load_without_wrapping(),
}


def _load_without_wrapping() -> None:
    with torch.no_grad():
        nn.Linear(2, 2).weight.copy_(canary(2, 2))


ARGUMENTS: dict[str, Callable[[], Any]] = {
    "assign data": lambda: setattr(canary(2), "data", plain(2)),
    "assign a parameter's data": lambda: setattr(nn.Parameter(canary(2)), "data", canary(2)),
    "share a secret": lambda: SESSION.share(canary(2)),
    "share a list": lambda: SESSION.share([1.0]),  # type: ignore[arg-type]
    "share complex": lambda: SESSION.share(torch.ones(2, dtype=torch.complex64)),
    "public of a secret": lambda: public(canary(2)),
    "public of a number": lambda: public(3.0),  # type: ignore[arg-type]
    "reveal to the provider": lambda: canary(2).reveal("james"),
    "divide by the public zero": lambda: canary(2) / 0,
    "classes with a fraction": lambda: F.cross_entropy(canary(2, 3) / 1000, SESSION.share(torch.tensor([1.0, 0.0]))),
    "margins of classes with a fraction": lambda: F.multi_margin_loss(
        canary(2, 3) / 1000, SESSION.share(torch.tensor([1.0, 0.0]))
    ),
    "encrypt a tensor": lambda: SESSION.encrypt(torch.ones(2)),  # type: ignore[type-var]
    "encrypt nothing": lambda: SESSION.encrypt(None),  # type: ignore[type-var]
    "encrypt a list": lambda: SESSION.encrypt([nn.Linear(1, 1)]),  # type: ignore[type-var]
    "decrypt a tensor": lambda: SESSION.decrypt(canary(2)),  # type: ignore[type-var]
    "decrypt to the provider": lambda: SESSION.decrypt(SESSION.encrypt(nn.Linear(1, 1)), "james"),
}


def _autocast() -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return canary(2, 2) @ canary(2, 2)


UNSUPPORTED: dict[str, Callable[[], Any]] = {
    "in a model": lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))[0] and _model_with_eigenvalues(),
    "mode": lambda: canary(3).mode(),
    "eigenvalues of any matrix": lambda: torch.linalg.eigvals(canary(2, 2)),
    "nonzero": lambda: canary(3).nonzero(),
    "unique": lambda: canary(3).unique(),
    "masked_select": lambda: canary(3)[canary(3) > 0],
    "secret masks and indices": lambda: canary(3, 3)[
        SESSION.share(torch.tensor([1])), SESSION.share(torch.tensor([1]))
    ],
    "as_strided": lambda: canary(4).as_strided((2, 2), (1, 1)),
    "matrix exponential": lambda: torch.linalg.matrix_exp(canary(3, 3)),
    "power": lambda: canary(3) ** 100,
    "negative base": lambda: (-2.0) ** canary(3),
    "remainder": lambda: canary(3) % canary(3),
    "random fill": lambda: canary(3).normal_(),
    "Fourier transform": lambda: torch.fft.rfft(canary(4)),
    "LDL factors": lambda: torch.linalg.ldl_factor(canary(3, 3)),
    "secret grid": lambda: F.grid_sample(canary(1, 1, 2, 2), canary(1, 2, 2, 2), align_corners=False),
    "unpooling of windows that overlap": lambda: F.max_unpool2d(
        *F.max_pool2d(canary(1, 1, 3, 3), 2, 1, return_indices=True), 2, 1
    ),
    "half": lambda: canary(2).half(),
    "double": lambda: canary(2).double(),
    "bfloat16": lambda: canary(2).to(torch.bfloat16),
    "module.half": lambda: SESSION.encrypt(nn.Linear(2, 2)).half(),
    "module.double": lambda: SESSION.encrypt(nn.Linear(2, 2)).double(),
    "autocast": lambda: _autocast(),
    "to bytes": lambda: canary(2).to(torch.uint8),
    "another device": lambda: canary(2).to("meta"),
    "cuda": lambda: canary(2).cuda(),
    "xpu": lambda: canary(2).xpu(),
    "to cuda": lambda: canary(2).to("cuda"),
    "to a number": lambda: canary(2).to(0),
    "to device=": lambda: canary(2).to(device=torch.device("cuda:0"), dtype=torch.float32),
    "to mps": lambda: canary(2).to("mps"),
    "to the device of a tensor": lambda: canary(2).to(torch.ones(1, device="meta")),
    "module.to cuda": lambda: SESSION.encrypt(nn.Linear(2, 2)).to("cuda"),
    "module.cuda": lambda: SESSION.encrypt(nn.Linear(2, 2)).cuda(),
    "apply_": lambda: canary(2).apply_(lambda number: number),
    "map_": lambda: canary(2).map_(canary(2), lambda a, b: a),
    "pin_memory": lambda: canary(2).pin_memory(),
    "equal": lambda: torch.equal(canary(2), canary(2)),
    "allclose": lambda: torch.allclose(canary(2), canary(2)),
    "a median under a mask": lambda: torch.masked.median(canary(2), 0, mask=torch.tensor([True, False])),
    "secret sets of labels": lambda: F.multilabel_margin_loss(canary(1, 2), SESSION.share(torch.tensor([[1, -1]]))),
}


def _model_with_eigenvalues() -> Tensor:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(x @ x.t())

    return nn.Sequential(SESSION.encrypt(nn.Linear(2, 2)), Model())(canary(3, 2))


STATE: dict[str, Callable[[], Any]] = {
    "deepcopy": lambda: copy.deepcopy(SESSION),
    "copy": lambda: copy.copy(SESSION),
    "pickle": lambda: pickle.dumps(SESSION),
    "pickle a secret": lambda: pickle.dumps(canary(2)),
    "torch.save": lambda: torch.save(canary(2), io.BytesIO()),
    "torch.save a state_dict": lambda: torch.save(SESSION.encrypt(nn.Linear(1, 1)).state_dict(), io.BytesIO()),
    "share_memory_": lambda: canary(2).share_memory_(),
    "Tensor.share_memory_": lambda: torch.Tensor.share_memory_(canary(2)),
    "module.share_memory": lambda: SESSION.encrypt(nn.Linear(1, 1)).share_memory(),
}

CONFIGURATION: dict[str, Callable[[], Any]] = {
    "one party": lambda: Session(["alice"]),
    "no party": lambda: Session([]),
    "twice the same": lambda: Session(["alice", "alice"]),
    "provider is a party": lambda: Session(["alice", "bob"], "bob"),
    "a number of parties": lambda: Session(parties=2),  # type: ignore[arg-type]
    "a text of parties": lambda: Session(parties="ab"),
    "parties without names": lambda: Session(parties=("alice", "")),
    "parties that are numbers": lambda: Session(parties=[1, 2]),  # type: ignore[list-item]
    "a provider without a name": lambda: Session(provider=None),  # type: ignore[arg-type]
    "a number as format": lambda: Session(fixed_point=16),  # type: ignore[arg-type]
    "a number as format of a tensor": lambda: SESSION.share(plain(2), fixed_point=16),  # type: ignore[arg-type]
    "base 1": lambda: FixedPoint(1, 4),
    "too many digits": lambda: FixedPoint(10, 9),
    "negative digits": lambda: FixedPoint(2, -1),
}


def table(error: type[Exception], rows: dict[str, Callable[[], Any]], op: bool = True) -> list[Any]:
    return [pytest.param(error, attempt, op, id=f"{error.__name__}: {name}") for name, attempt in rows.items()]


CASES = [
    *table(T.EncodingError, ENCODING),
    *table(T.ShapeMismatch, SHAPES),
    *table(T.SessionMismatch, {
        "add": lambda: canary(2) + OTHER.share(plain(2)),
        "matmul": lambda: canary(2, 2) @ OTHER.share(plain(2, 2)),
        "cat": lambda: torch.cat([canary(2), OTHER.share(plain(2))]),
        "copy": lambda: canary(2).copy_(OTHER.share(plain(2))),
        "loss": lambda: F.mse_loss(canary(2), OTHER.share(plain(2))),
    }),
    *table(T.WouldBePublished, PUBLISHED),
    *table(T.RevealRequired, READING),
    *table(T.PrecisionLoss, PRECISION),
    *table(T.PlainWrite, WRITTEN),
    *table(T.InvalidArgument, ARGUMENTS, op=False),
    *table(T.UnsupportedOperation, UNSUPPORTED),
    *table(T.SessionStateError, STATE, op=False),
    *table(T.ConfigurationError, CONFIGURATION, op=False),
]  # fmt: skip


@pytest.mark.parametrize(("error", "attempt", "op"), CASES)
def test_refusals(error: type[Exception], attempt: Callable[[], Any], op: bool) -> None:
    refused(error, attempt, op=op)


@pytest.mark.smoke
def test_a_message_says_what_where_and_what_to_do() -> None:
    text = refused(T.WouldBePublished, lambda: canary(2) + plain(2))
    assert "[TV104]" in text and "aten.add.Tensor" in text and "public(" in text
    assert "canary(2) + plain(2)" in text, "the source line"


def test_nothing_prints_a_secret() -> None:
    x = canary(2, 3, grad=True)
    y = (x * 2 > 3, x.argmax(), (x * x).sum(), x[0].detach(), nn.Parameter(canary(1)))
    model = SESSION.encrypt(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = [
        x,
        *y,
        x.handle,
        x._cell,
        SESSION,
        model,
        optimizer,
        model.state_dict(),
        SESSION.cost(),
        SESSION.describe(),
    ]
    shown += [x.grad_fn, (x * 2).grad_fn, x._cell.handle, vars(x), SESSION._driver, *SESSION._driver.parties]
    shown += [SESSION._driver.provider, SESSION.reveals, list(SESSION._driver.parties[0].wires.values())[:3]]
    for thing in shown:
        tells_nothing(repr(thing))
        tells_nothing(str(thing))
    assert "EncryptedTensor(shape=(2, 3)" in repr(x) and "alice" in repr(x)


def test_an_error_in_the_middle_of_a_step_loses_nothing() -> None:
    model = SESSION.encrypt(nn.Linear(2, 1))
    before = [p.reveal() for p in model.parameters()]
    x = SESSION.share(torch.ones(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    refused(T.WouldBePublished, lambda: F.mse_loss(model(x), torch.ones(3, 1)).backward())
    refused(T.UnsupportedOperation, lambda: torch.linalg.matrix_exp(model(x) @ model(x).t()).sum().backward())
    assert all(torch.equal(p.reveal(), q) for p, q in zip(model.parameters(), before, strict=True))
    F.mse_loss(model(x), SESSION.share(torch.ones(3, 1))).backward()
    optimizer.step()
    assert not torch.equal(model.weight.reveal(), before[0])


def test_debug_mode_names_the_operation_that_leaves_its_range() -> None:
    session = Session(debug=True)
    x = session.share(torch.full((2, 64), 5_000.0))
    with pytest.raises(T.RangeExceeded) as caught:
        torch.relu(x @ x.t())
    tells_nothing(str(caught.value))
    assert session.share(torch.ones(2)).reveal().tolist() == [1.0, 1.0]


def test_a_closed_session_refuses() -> None:
    with Session() as session:
        x = session.share(torch.ones(2))
    with pytest.raises(T.SessionStateError):
        x + x
    with pytest.raises(T.SessionStateError):
        x.reveal()


FORKED = """
import os, sys, torch, torchveil
session = torchveil.Session()
x = session.share(torch.ones(2))
child = os.fork()
if child == 0:
    code = 1
    for attempt in (lambda: x + x, lambda: x * x, lambda: x.reveal(), lambda: session.share(torch.ones(1))):
        try:
            attempt()
            os._exit(2)
        except torchveil.SessionStateError as error:
            code = 0 if "fork" in str(error) and "num_workers=0" in str(error) else 3
    os._exit(code)
_, status = os.waitpid(child, 0)
assert (x + x).reveal().tolist() == [2.0, 2.0]
sys.exit(os.waitstatus_to_exitcode(status))
"""

LOADED = """
import torch, torchveil
from torch.utils.data import DataLoader, TensorDataset
session = torchveil.Session()
data = TensorDataset(session.share(torch.ones(4, 2)), session.share(torch.arange(4)))
try:
    list(DataLoader(data, batch_size=2, num_workers=1))
except torchveil.SessionStateError as error:
    assert "num_workers=0" in str(error), error
else:
    raise SystemExit("a worker gave batches")
for x, y in DataLoader(data, batch_size=2, num_workers=0):
    assert x.reveal().tolist() == [[1.0, 1.0]] * 2 and y.dtype == torch.int64
"""


@pytest.mark.parametrize("program", [FORKED, LOADED], ids=["os.fork", "DataLoader"])
def test_forked_processes_refuse(program: str) -> None:
    source = os.path.dirname(os.path.dirname(torchveil.__file__))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_loader_without_workers_and_with_shuffling() -> None:
    data = TensorDataset(SESSION.share(torch.arange(6).float()), SESSION.share(torch.arange(6)))
    seen = []
    for x, y in DataLoader(data, batch_size=4, shuffle=True):
        assert torch.equal(x.reveal(), y.reveal().float())
        seen += x.reveal().tolist()
    assert sorted(seen) == list(range(6))


def test_public_tensors_may_meet_secrets() -> None:
    x, t = canary(2, grad=True), plain(2)
    ((x - public(t)) * public(t)).sum().backward()
    assert torch.allclose(x.grad.reveal(), t, atol=1e-3)
