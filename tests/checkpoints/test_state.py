"""Checkpoints of sessions: training goes on where it was, nothing is opened, nothing secret lies in a file."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchveil
from torchveil.checking.shadow import Shadow
from torchveil.drivers.lockstep import Lockstep
from torchveil.errors import (
    CheckpointInvalid,
    InvalidArgument,
    PlanError,
    SessionMismatch,
    StorageError,
    UnsupportedOperation,
)
from torchveil.handle import Secret
from torchveil.roles.tables import Tables
from torchveil.session import Session
from torchveil.storage import ShareStore, load_key
from torchveil.storage.files import alone

#: In the 16 digits after the point as in the raw integers, so that no file holds it by chance.
CANARY = 12345.678910


def driver(session: Session) -> Lockstep:
    found = session._driver
    assert isinstance(found, Lockstep)
    return found


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and "keys" not in file.parts)


def payload(path: Path, party: str) -> dict[str, Tensor]:
    """What one party has on disk, as whoever has its key reads it; of the last save."""
    store = ShareStore(path / party, load_key(path / "keys" / f"{party}.key"))
    last = max(store.names(), key=lambda name: int(name.rpartition("/")[2]))
    return store.read(last)[0]


# --- training ---------------------------------------------------------------------------------------------------------

GENERATOR = torch.Generator().manual_seed(3)
FEATURES = torch.randn(96, 5, generator=GENERATOR)
LABELS = (FEATURES @ torch.tensor([1.0, -2.0, 0.5, 0.0, 1.5]) > 0).long()


def start(
    session: Session, optimizer: Callable[[Any], torch.optim.Optimizer]
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(5)
    model = session.encrypt(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)))
    return model, optimizer(model.parameters())


def epochs(session: Session, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, count: int) -> None:
    x, y = session.share(FEATURES), session.share(LABELS)
    for _ in range(count):
        for at in range(0, len(LABELS), 32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[at : at + 32]), y[at : at + 32]).backward()
            optimizer.step()
        schedule.step()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, optimizer: Callable[[Any], torch.optim.Optimizer]
) -> None:
    first = Session()
    model, steps = start(first, optimizer)
    schedule = torch.optim.lr_scheduler.MultiStepLR(steps, [2, 5])
    epochs(first, model, steps, schedule, 3)
    before = first.cost().total
    first.save(
        tmp_path / "run",
        {"model": model.state_dict(), "optimizer": steps.state_dict(), "lr": schedule.state_dict(), "epoch": 3},
    )
    assert first.cost().total == before and not first.reveals
    epochs(first, model, steps, schedule, 3)

    second = Session()
    state = second.load(tmp_path / "run")
    assert not second.reveals and not second.cost().total.rounds
    assert all(wire.opening is None for wire in driver(second).parties[0].wires.values())
    assert state["epoch"] == 3 and second.epoch == 1
    other, other_steps = start(second, optimizer)
    other_schedule = torch.optim.lr_scheduler.MultiStepLR(other_steps, [2, 5])
    other.load_state_dict(state["model"])
    other_steps.load_state_dict(state["optimizer"])
    other_schedule.load_state_dict(state["lr"])
    epochs(second, other, other_steps, other_schedule, 3)

    assert other_steps.param_groups[0]["lr"] == steps.param_groups[0]["lr"]
    outputs = [trained(session.share(FEATURES)).reveal() for session, trained in ((first, model), (second, other))]
    right = [int((output.argmax(1) == LABELS).sum()) for output in outputs]
    assert min(right) > 0.9 * len(LABELS) and abs(right[0] - right[1]) <= 1
    assert float((outputs[0] - outputs[1]).abs().max()) < 0.05
    # a start without the state is somewhere else: the comparison would see it
    fresh, fresh_steps = start(second, optimizer)
    fresh.load_state_dict(state["model"])
    epochs(second, fresh, fresh_steps, torch.optim.lr_scheduler.MultiStepLR(fresh_steps, [2, 5]), 3)
    assert float((fresh(second.share(FEATURES)).reveal() - outputs[0]).abs().max()) > 0.05


# --- values -----------------------------------------------------------------------------------------------------------


def exactly(x: Any) -> Tensor:
    """All digits of a secret, or a plain tensor."""
    return x.reveal(dtype=torch.float64) if isinstance(x, torchveil.EncryptedTensor) else x.double()


def every_kind(session: Session) -> dict[str, torchveil.EncryptedTensor]:
    x = session.share(torch.tensor([[1.5, -2.25, 0.0], [3.0, 0.125, -1.0]]))
    step = x.detach().clone()
    step.add_(x * (x + 1), alpha=-1 / 10)
    whole = session.share(torch.tensor([1, 2, 3]))
    return {
        "input": x,
        "scalar": session.share(torch.tensor(2.5)),
        "empty": session.share(torch.zeros(0, 3)),
        "whole": whole,
        "product": x * (x + 1),
        "square": torch.zeros_like(x).mul_(0.9).addcmul_(x, x, value=0.1),
        "step": step,
        "view": x.t()[1:],
        "transposed": x.t(),
        "digits": session.share(torch.tensor([0.123456]), fixed_point=torchveil.FixedPoint(10, 6)),
        "nonnegative": F.relu(x),
        "bit": x > 0,
        "no bit": x <= 0,
        "index": x.argmax(1),
        "constant": torch.zeros_like(x),
        "filled": torch.full_like(x, 0.75),
        "deferred": F.mse_loss(x, torch.zeros_like(x)),
    }


@pytest.mark.parametrize("n", [2, 3])
def test_every_kind_of_value_keeps_its_digits(tmp_path: Path, n: int) -> None:
    names = ("alice", "bob", "carol")[:n]
    session = Session(names)
    kinds = every_kind(session)
    handles = {name: kinds[name].handle for name in ("product", "square", "step")}
    assert {name: (h.pending, h.wide, h.stretched) for name, h in handles.items() if isinstance(h, Secret)} == {
        "product": (True, False, False),
        "square": (True, True, False),
        "step": (n == 2, False, n == 2),
    }
    session.save(tmp_path / "run", kinds)
    other = Session(names, debug=n == 2)
    back = other.load(tmp_path / "run")
    assert back.keys() == kinds.keys()
    for name, x in kinds.items():
        y = back[name]
        assert (y.shape, y.dtype, y.requires_grad, y.session) == (x.shape, x.dtype, x.requires_grad, other), name
        assert y.fixed_point == x.fixed_point, name
        assert torch.equal(exactly(y), exactly(x)), name
        before, after = x.handle, y.handle
        if isinstance(before, Secret):
            assert isinstance(after, Secret) and not after.opened and not after.zeros
            for fact in ("scale", "format", "wide", "nonnegative", "stretched", "is_input"):
                assert getattr(after, fact) == getattr(before, fact), (name, fact)


def test_loaded_values_compute(tmp_path: Path) -> None:
    session = Session()
    kinds = every_kind(session)
    session.save(tmp_path / "run", kinds)
    other = Session(debug=True)
    back = other.load(tmp_path / "run")
    x = kinds["input"].reveal()
    close = {"rtol": 0.0, "atol": 1e-3}
    torch.testing.assert_close((back["product"] @ back["transposed"]).reveal(), (x * x + x) @ x.t(), **close)
    torch.testing.assert_close((back["step"] * back["input"]).reveal(), (x - (x * x + x) / 10) * x, **close)
    torch.testing.assert_close(
        torch.where(back["bit"], back["input"], 7.0).reveal(), torch.where(x > 0, x, 7.0), **close
    )
    assert torch.equal((back["bit"] | back["no bit"]).reveal(), torch.ones_like(x, dtype=torch.bool))
    assert torch.equal((back["whole"] + back["whole"]).reveal(), torch.tensor([2, 4, 6]))
    torch.testing.assert_close((back["filled"] + back["input"]).reveal(), x + 0.75, **close)
    # and once more to disk and back
    other.save(tmp_path / "again", back)
    third = Session().load(tmp_path / "again")
    for name in ("input", "product", "step", "bit", "filled"):
        assert torch.equal(exactly(third[name]), exactly(kinds[name])), name


def test_plain_beside_secret(tmp_path: Path) -> None:
    session = Session()
    plain = torch.arange(6.0).view(2, 3).t()
    tied = session.share(torch.ones(2), requires_grad=True)
    parameter = nn.Parameter(session.share(torch.ones(3)), requires_grad=False)
    state = {
        "plain": plain,
        "public": torchveil.public(torch.tensor([1, 2])),
        "plain parameter": nn.Parameter(torch.ones(2)),
        "tied": [tied, tied, tied.detach()],
        "parameter": parameter,
        "count": torch.tensor(7),
        3: ("x", None, float("-inf")),
    }
    session.save(tmp_path / "run", state)
    back = Session().load(tmp_path / "run")
    assert torch.equal(back["plain"], plain) and type(back["plain"]) is Tensor
    assert isinstance(back["public"], type(state["public"])) and back["public"].tolist() == [1, 2]
    assert isinstance(back["plain parameter"], nn.Parameter) and back["plain parameter"].requires_grad
    assert back["tied"][0] is back["tied"][1] and back["tied"][0].requires_grad and back["tied"][0].is_leaf
    assert not back["tied"][2].requires_grad and back["tied"][2].handle is back["tied"][0].handle
    assert isinstance(back["parameter"], nn.Parameter) and not back["parameter"].requires_grad
    assert back["count"].dtype == torch.int64 and back[3] == ("x", None, float("-inf"))


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    session, other = Session(), Session()
    x = session.share(torch.ones(2))
    infinite = x.masked_fill(torch.tensor([True, False]), float("-inf"))
    for state, error in (
        ({"x": x, "f": print}, InvalidArgument),
        ({"x": x, "m": torch.ones(2, device="meta")}, InvalidArgument),
        ({"x": x, "other": other.share(torch.ones(1))}, SessionMismatch),
        ({"x": infinite}, UnsupportedOperation),
    ):
        with pytest.raises(error):
            session.save(tmp_path / "run", state)
    assert not files(tmp_path)
    for without in (Session(backend="plain"), Shadow(("alice", "bob"), "james", None, lambda _: None)):
        with pytest.raises(StorageError):
            without.save(tmp_path / "run", {"x": without.share(torch.ones(2))})
        assert not files(tmp_path)
    session.save(tmp_path / "run", {"x": x})
    with pytest.raises(StorageError):
        Session(backend="plain").load(tmp_path / "run")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_names_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session()
    for call in (
        lambda: session.save(path, {}),
        lambda: session.save("run", {}, keys=path),
        lambda: session.load(path),
        lambda: session.load("run", keys=path),
    ):
        with pytest.raises(InvalidArgument, match="names no folder"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_path_below_a_file_or_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text("here")
    for path, remedy in (
        (file, "there is a file where a folder has to be: name another folder"),
        (file / "run", "there is a file where a folder has to be: name another folder"),
        (Path("/proc/none"), "check the path: nothing is there, or nothing can be made there"),
    ):
        with pytest.raises(StorageError, match=f"saving to {path} failed: ") as caught:
            Session().save(path, {})
        assert caught.value.remedy == remedy
    assert file.read_text() == "here"


def test_a_compiled_function_neither_saves_nor_loads(tmp_path: Path) -> None:
    session = Session()
    x = session.share(torch.ones(2))
    session.save(tmp_path / "run", {"x": x})
    for use in (lambda: session.save(tmp_path / "run", {"x": x}), lambda: session.load(tmp_path / "run")):

        @torchveil.compile
        def function(y: Tensor, use: Callable[[], object] = use) -> Tensor:
            use()
            return y * 2

        with pytest.raises(PlanError):
            function(x)


# --- what lies in the files -------------------------------------------------------------------------------------------


def noise(session: Session) -> Iterator[Tensor]:
    """Everything that roles hold: shares, openings, masks."""
    lockstep = driver(session)
    tables: list[Tables] = [*lockstep.parties, lockstep.provider]
    for role in tables:
        for wire in role.wires.values():
            yield from (x for x in (wire.share, wire.opening, wire.mask) if x is not None)
        for bit in role.bits.values():
            yield from (x for x in (bit.flip, bit.mask) if x is not None)


def test_no_file_holds_a_value_or_anything_that_crossed(tmp_path: Path) -> None:
    session = Session()
    values = torch.full((64,), CANARY, dtype=torch.float64)
    x = session.share(values)
    product = x * 3.0
    kept = (x * x).sum()  # opens x
    session.save(tmp_path / "run", {"x": x, "product": product, "kept": kept})
    assert session.n_wires  # what was made for the files is freed
    needles = [struct.pack(form, CANARY) for form in ("<d", "<f", ">d", ">f")]
    for scale in (1, 2**16, 3 * 2**16, 2**32):
        needles += [struct.pack(order + "q", round(CANARY * scale)) for order in "<>"]
    needles += [str(CANARY).encode(), str(round(CANARY * 2**16)).encode(), b"12345.67"]
    held = {value for tensor in noise(session) for value in tensor.reshape(-1).tolist()} - {0, 1}
    assert len(files(tmp_path)) == 3 and len(held) > 64
    for file in (*files(tmp_path), *(tmp_path / "run" / "keys").iterdir()):
        content = file.read_bytes()
        for needle in needles:
            assert needle not in content, file
    shares = [payload(tmp_path / "run", party) for party in ("alice", "bob")]
    for share in shares:
        stored = {value for tensor in share.values() for value in tensor.reshape(-1).tolist()}
        # neither a share of the session, an opening nor a mask: fresh ones, made for the file
        assert len(stored) >= 129 and not stored & held
    total = shares[0]["w0"] + shares[1]["w0"]
    assert torch.equal(total, torch.full((64,), round(CANARY * 2**16)))
    controllers = ShareStore(tmp_path / "run", load_key(tmp_path / "run" / "keys" / "controller.key"))
    tensors, manifest = controllers.read("controller")
    assert not tensors and not any(needle in manifest.attached for needle in needles)


def test_files_of_two_times_do_not_fit_together(tmp_path: Path) -> None:
    """The value never changed, its sharing did: two thefts from two parties at two times are worth nothing."""
    session = Session()
    x = session.share(torch.full((8,), CANARY))
    stolen = []
    for _ in range(2):
        session.save(tmp_path / "run", {"x": x})
        stolen.append([payload(tmp_path / "run", party)["w0"] for party in ("alice", "bob")])
    (a1, b1), (a2, b2) = stolen
    assert torch.equal(a1 + b1, a2 + b2)
    assert not (a1 + b2 == a1 + b1).any() and not (a2 + b1 == a1 + b1).any()


def test_the_sharing_in_a_file_is_not_that_of_the_session(tmp_path: Path) -> None:
    session = Session()
    x = session.share(torch.ones(8))
    handle = x.handle
    assert isinstance(handle, Secret)
    wires = session.n_wires
    session.save(tmp_path / "run", {"x": x})
    assert session.n_wires == wires  # what was refreshed for the file is gone
    assert not (driver(session).share_of(handle.id) == payload(tmp_path / "run", "alice")["w0"]).any()


# --- who may load -----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    session = Session()
    session.save(tmp_path / "run", {"x": session.share(torch.tensor([1.0, 2.0])), "plain": torch.ones(3)})
    return tmp_path / "run"


def loads(path: Path, session: Session | None = None) -> list[float]:
    out: list[float] = (session or Session()).load(path)["x"].reveal().tolist()
    return out


def test_a_checkpoint_may_move_but_not_change_hands(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "moved")
    assert loads(tmp_path / "moved") == [1.0, 2.0]
    for parties in (("bob", "alice"), ("alice", "bob", "carol"), ("alice", "carol")):
        with pytest.raises(CheckpointInvalid, match="belongs to the parties alice, bob"):
            loads(saved, Session(parties))
    elsewhere = Session()
    elsewhere.home = "elsewhere"
    with pytest.raises(CheckpointInvalid, match="cluster"):
        loads(saved, elsewhere)
    with pytest.raises(CheckpointInvalid, match="no checkpoint"):
        loads(tmp_path)


def test_shares_of_one_party_in_the_others_place(saved: Path) -> None:
    (alice,), (bob,) = ([*(saved / party).iterdir()] for party in ("alice", "bob"))
    shutil.copy(alice, bob)
    with pytest.raises(CheckpointInvalid):
        loads(saved)
    # even under one key
    shutil.copy(saved / "keys" / "alice.key", saved / "keys" / "bob.key")
    with pytest.raises(CheckpointInvalid, match="belongs to the party 'alice'"):
        loads(saved)


@pytest.mark.parametrize("part", ["controller.sealed", "alice", "bob", "keys/bob.key", "keys/controller.key"])
def test_a_part_that_is_missing_or_damaged(saved: Path, part: str) -> None:
    path = saved / part
    if path.is_dir():
        (path,) = path.iterdir()
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    session = Session()
    with pytest.raises(CheckpointInvalid):
        loads(saved, session)
    assert session.n_wires == 0 and session.epoch == 0
    path.unlink()
    with pytest.raises(CheckpointInvalid):
        loads(saved)
    path.write_bytes(good)
    path.chmod(0o600)
    assert loads(saved) == [1.0, 2.0]


def test_a_damaged_checkpoint_is_not_written_over(saved: Path) -> None:
    """Its number would start anew; whoever wants to drop it removes the folder."""
    (saved / "controller.sealed").write_bytes(b"damaged")
    session = Session()
    with pytest.raises(CheckpointInvalid):
        session.save(saved, {"x": session.share(torch.ones(1))})


def test_a_party_that_fell_back(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "bob", tmp_path / "backup")
    session = Session()
    for value in (3.0, 4.0):
        session.save(saved, {"x": session.share(torch.tensor([value]))})
    assert loads(saved) == [4.0]
    shutil.rmtree(saved / "bob")
    shutil.copytree(tmp_path / "backup", saved / "bob")
    with pytest.raises(CheckpointInvalid, match=r"bob is behind: .* is of generation 3, bob holds generations \[1\]"):
        loads(saved)


def test_the_parts_of_two_runs_with_the_same_number(saved: Path, tmp_path: Path) -> None:
    session = Session()
    session.save(tmp_path / "other", {"x": session.share(torch.tensor([1.0, 2.0])), "plain": torch.ones(3)})
    (old,), (new,) = (list((path / "bob").iterdir()) for path in (saved, tmp_path / "other"))
    shutil.copy(new, old)
    shutil.copy(tmp_path / "other" / "keys" / "bob.key", saved / "keys" / "bob.key")
    with pytest.raises(CheckpointInvalid):
        loads(saved)


def test_keys_elsewhere(tmp_path: Path) -> None:
    session = Session()
    session.save(tmp_path / "run", {"x": session.share(torch.ones(1))}, keys=tmp_path / "safe")
    assert not (tmp_path / "run" / "keys").exists()
    with pytest.raises(CheckpointInvalid, match="key"):
        Session().load(tmp_path / "run")
    assert Session().load(tmp_path / "run", keys=tmp_path / "safe")["x"].reveal().tolist() == [1.0]
    (tmp_path / "safe" / "bob.key").chmod(0o644)
    with pytest.raises(StorageError, match="others may read"):
        Session().load(tmp_path / "run", keys=tmp_path / "safe")


def test_two_saves_at_a_time(saved: Path) -> None:
    session = Session()
    state = session.load(saved)
    with alone(saved), pytest.raises(StorageError, match="somebody else"):
        session.save(saved, state)
    session.save(saved, state)


def test_a_state_without_secrets(tmp_path: Path) -> None:
    Session().save(tmp_path / "run", {"epoch": 3, "plain": torch.ones(2)})
    back = Session().load(tmp_path / "run")
    assert back["epoch"] == 3 and back["plain"].tolist() == [1.0, 1.0]


def test_going_back_in_the_same_session(tmp_path: Path) -> None:
    session = Session()
    model = session.encrypt(nn.Linear(2, 1))
    before = model.weight.reveal()
    session.save(tmp_path / "run", model.state_dict())
    with torch.no_grad():
        model.weight.add_(1.0)
    model.load_state_dict(session.load(tmp_path / "run"))
    assert torch.equal(model.weight.reveal(), before)


def test_a_program_that_is_only_checked_loads_shapes(saved: Path) -> None:
    shadow = Shadow(("alice", "bob"), "james", None, lambda _: None)
    x = shadow.load(saved)["x"]
    assert (x * x).shape == (2,) and isinstance(x, torchveil.EncryptedTensor)


def test_epochs_count_up(tmp_path: Path) -> None:
    session = Session()
    session.save(tmp_path / "run", {"x": session.share(torch.ones(1))})
    for epoch in (1, 2, 3):
        session = Session()
        state = session.load(tmp_path / "run")
        assert session.epoch == epoch
        session.save(tmp_path / "run", state)


def test_masks_are_new_after_a_load(saved: Path) -> None:
    """Two sessions go on from one file: what they open has nothing in common."""
    openings = []
    for _ in range(2):
        session = Session()
        x = session.load(saved)["x"]
        (x * x).reveal()
        handle = x.handle
        assert isinstance(handle, Secret)
        opening = driver(session).parties[0].wires[handle.id].opening
        assert opening is not None
        openings.append(set(opening.tolist()))
    assert not openings[0] & openings[1]
