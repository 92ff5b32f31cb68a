"""What the values of a session take at a role: never more than was asked for, and refused before it is made."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchveil
from torchveil import Session
from torchveil.errors import LimitExceeded
from torchveil.kernels.linear_maps import MAPS, LinearMap
from torchveil.network import holdings
from torchveil.network.connect import connect
from torchveil.network.holdings import Holdings, held_bytes, image_elements
from torchveil.network.metrics import resident_bytes
from torchveil.program import instructions as ins
from torchveil.roles.tables import Tables
from torchveil.roles.wires import BitWire, Wire
from torchveil.testing.clusters import LocalCluster, local_cluster
from torchveil.testing.training import step_of

MIB = 1 << 20
LIMIT = 2 * MIB


# --- counting --------------------------------------------------------------------------------------------------------


def test_a_tensor_that_several_wires_hold_counts_once() -> None:
    tables, x = Tables(), torch.ones(100, dtype=torch.int64)
    tables.wires[1] = Wire(x, opening=x.clone(), mask=x.clone())
    tables.wires[2] = Wire(x.view(10, 10))
    tables.wires[3] = Wire(x[:1].expand(1 << 20))
    tables.bits[4] = BitWire(x.clone(), x.clone())
    assert held_bytes(tables) == 5 * 800


def test_what_a_wire_follows_counts_when_its_own_name_is_gone() -> None:
    tables, x = Tables(), torch.ones(100, dtype=torch.int64)
    source = Wire(x, mask=x.clone())
    tables.wires[1] = Wire(x[:50], parent=source, via=LinearMap("slice", (0, 0, 50, 1)))
    assert held_bytes(tables) == 2 * 800


def test_memory_that_was_let_go_of_is_found_when_it_is_needed() -> None:
    tables = Tables()
    room = Holdings(tables, 1000)
    for _ in range(50):
        room.take(800)
        tables.wires[1] = Wire(torch.ones(100, dtype=torch.int64))
        tables.free((1,))
    tables.wires[1] = Wire(torch.ones(100, dtype=torch.int64))
    room.take(200)
    with pytest.raises(LimitExceeded, match="more than 1000 bytes"):
        room.take(201)


def test_what_is_kept_counts_for_ever() -> None:
    room = Holdings(Tables(), 1000)
    room.keep(600)
    room.take(400)
    with pytest.raises(LimitExceeded):
        room.take(401)


PLACES = torch.tensor([0, 3, 1, 1, 2])
EXAMPLES: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {
    "gather": ((5, 4), (0, PLACES.view(5, 1).expand(5, 4).contiguous())),
    "index": ((5, 4), ((PLACES.view(5, 1), PLACES[:3]),)),
    "index_select": ((5, 4), (0, PLACES.repeat(10))),
    "pad": ((5, 4), ([10, 10, 3, 0],)),
    "repeat": ((5, 4), ((100, 2),)),
    "scatter_gather": ((5, 4), ((50, 4), 0, PLACES.view(5, 1).expand(5, 4).contiguous())),
    "scatter_index": ((5, 4), ((50, 4), (PLACES,))),
    "scatter_select": ((4,), ((50, 4), 0, 3)),
    "scatter_slice": ((5, 4), ((50, 4), 0, 10, 15, 1)),
    "scatter_windows": ((4, 1, 2, 4, 4), ((9, 9), (2, 2), (2, 2), (1, 1))),
    "taps": ((5, 4), (0, PLACES.repeat(20).view(50, 2), torch.arange(100).view(50, 2))),
    "windows": ((1, 2, 9, 9), ((3, 3), (1, 1), (1, 1))),
    "reshape": ((5, 4), ((20,),)),
    "sum": ((5, 4), ((0,), False)),
    "flip": ((5, 4), ((0,),)),
    "transpose": ((5, 4), (0, 1)),
    "expand": ((5, 1), ((5, 1 << 20),)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_map_makes_no_more_than_is_said(name: str) -> None:
    shape, args = EXAMPLES[name]
    x = torch.ones(shape, dtype=torch.int64)
    linear_map = LinearMap(name, args)
    made = 0 if linear_map.aliases else linear_map(x).numel()
    assert made <= image_elements(linear_map, x) <= max(made, x.numel())


def test_every_map_that_may_grow_has_an_example() -> None:
    assert EXAMPLES.keys() >= holdings._GROWING
    assert MAPS.keys() >= holdings._GROWING


def test_a_view_that_has_to_copy_counts() -> None:
    x = torch.ones(5, 4, dtype=torch.int64)
    assert image_elements(LinearMap("view", ((20,),)), x) == 0
    assert image_elements(LinearMap("view", ((20,),)), x.t()) == 20
    assert image_elements(LinearMap("view", ((5 << 20,),)), x[:, :1].expand(5, 1 << 20)) == 5 << 20


# --- what comes later ------------------------------------------------------------------------------------------------


def numbers(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.int64)


def provider(*masks: Tensor | None) -> Any:
    """As much of a provider as linear gates look at, with wires 1, 2, ..."""
    return SimpleNamespace(wires={k + 1: Wire(None, mask=mask) for k, mask in enumerate(masks)}, bits={}, width=64)


def test_a_mask_that_follows_by_a_map_is_refused_when_it_is_made() -> None:
    role = provider(None)
    room = Holdings(role, MIB)
    gate = room.asking()[ins.Map]
    gate.deal(role, room.watched(ins.Map(2, 1, LinearMap("repeat", ((1 << 30,),)))))
    role.wires[1].open(None, numbers(2))
    with pytest.raises(LimitExceeded):
        role.wires[2].resolve()


def test_a_mask_that_follows_in_a_sum_is_refused_when_it_is_made() -> None:
    role = provider(None, numbers(1, 1 << 15))
    gate = Holdings(role, MIB).asking()[ins.Combine]
    gate.deal(role, ins.Combine(3, ((1, 1), (2, 1)), follow=True))
    role.wires[1].open(None, numbers(1 << 15, 1))
    with pytest.raises(LimitExceeded):
        role.wires[3].resolve()


def test_a_sum_of_opened_values_takes_three_tensors() -> None:
    for limit, fits in ((9 * 800, True), (9 * 800 - 1, False)):
        wires = {k: Wire(numbers(100), numbers(100), numbers(100)) for k in (1, 2)}
        role: Any = SimpleNamespace(wires=wires, bits={}, width=64, first=True, reduce=lambda x: x)
        room = Holdings(role, limit)
        gate = room.asking()[ins.Combine]
        room._fits(0)  # counts what lies there
        with nullcontext() if fits else pytest.raises(LimitExceeded):
            gate.evaluate(role, ins.Combine(3, ((1, 1), (2, 1))))
            assert held_bytes(role) == limit


def test_a_plan_that_ran_on_these_shapes_is_asked_for_as_a_whole() -> None:
    role = provider(numbers(100), numbers(100), numbers(50))
    room = Holdings(role, 1 << 20)
    asking, asked = room.asking(), []
    for inputs in ((1,), (2,), (3,), (1,)):
        made = room._made
        with room.run_of(7, inputs, asking) as gates:
            asked.append(gates is asking)
            gates[ins.Combine].deal(role, ins.Combine(9, ((inputs[0], 1),)))
        assert room._made - made >= held_bytes(provider(role.wires[9]._mask))
    assert asked == [True, False, True, False]


def test_a_plan_is_asked_for_one_by_one_where_it_may_not_fit_as_a_whole() -> None:
    role = provider(numbers(100))
    room = Holdings(role, 5000)
    asking, asked = room.asking(), []
    for _ in range(3):
        with room.run_of(7, (1,), asking) as gates:
            asked.append(gates is asking)
            gates[ins.Combine].deal(role, ins.Combine(9, ((1, 1),)))
    assert asked == [True, False, True]


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    limits = {"deadline_s": 10, "session_bytes": LIMIT}
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=limits) as running:
        yield running


def several(session: Session) -> list[Tensor]:
    """Convolutions, pooling, comparisons, exponentials, indices, broadcasts, plans: what roles keep of values."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4))
    model = session.encrypt(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.5)
    x = session.share(torch.randn(5, 1, 6, 6))
    y = session.share(F.one_hot(torch.arange(5) % 4, 4).float())

    step = step_of(model, optimizer)
    run = torchveil.compile(step)
    kept = [step(x, y), *[run(x, y) for _ in range(3)]]
    flat: Any = model(x)
    kept += [flat[PLACES[:4]].repeat(3, 2), torch.cat([flat, flat * 2]), flat.t().reshape(20), flat.sum(0) + flat]
    kept += [
        F.pad(flat, (1, 2)),
        (flat > 0).float(),
        flat[:, :1] * flat[:1],
        flat @ flat.t(),
        flat + torchveil.public(torch.ones(3, 5, 4)),
    ]
    return [value.reveal() for value in kept]


def test_no_role_ever_holds_more_than_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take, seen, wrong = Holdings.take, [], []

    def taking(room: Holdings, n_bytes: int) -> None:
        held = held_bytes(room._tables)
        seen.append(held)
        if held > room._known + room._made:
            wrong.append((held, room._known + room._made))
        take(room, n_bytes)

    monkeypatch.setattr(Holdings, "take", taking)
    with local_cluster(tmp_path, limits={"deadline_s": 20}) as cluster, connect(cluster.file) as session:
        several(session)
    assert not wrong, wrong[:5]
    assert max(seen) > 10_000 and len(seen) > 1000


def many_values(session: Session) -> Any:
    x: Any = session.share(torch.ones(10_000))
    return [x + k for k in range(40)][-1]


def many_openings(session: Session) -> Any:
    """Few enough shares, but every one is opened: share, opening and mask."""
    xs: Any = [session.share(torch.ones(10_000)) for _ in range(20)]
    return [x * x for x in xs][-1]


def an_input(session: Session) -> Any:
    return session.share(torch.ones(LIMIT // 8 + 1))


def a_repetition(session: Session) -> Any:
    x: Any = session.share(torch.ones(1000))
    return x.repeat(200_000)


def indices(session: Session) -> Any:
    x: Any = session.share(torch.ones(10, 100))
    return x[torch.zeros(20_000, 1, dtype=torch.long), torch.zeros(1, 10_000, dtype=torch.long)]


def a_sum(session: Session) -> Any:
    x: Any = session.share(torch.ones(20_000, 1))
    return x + x.t()


def a_sum_with_public(session: Session) -> Any:
    x: Any = session.share(torch.ones(20_000, 1))
    return x + torchveil.public(torch.ones(1, 10_000))


def a_product(session: Session) -> Any:
    x: Any = session.share(torch.ones(20_000, 1))
    return x @ x.t()


def a_public_product(session: Session) -> Any:
    x: Any = session.share(torch.ones(20_000, 1))
    return x @ torchveil.public(torch.ones(1, 10_000))


def a_convolution(session: Session) -> Any:
    x: Any = session.share(torch.ones(1, 1, 2, 2))
    return F.conv2d(x, torchveil.public(torch.ones(1, 1, 1, 1)), padding=7000)


def a_mask_that_follows(session: Session) -> Any:
    """The provider knows no shape before something is opened."""
    x: Any = session.share(torch.ones(1000))
    y = x.repeat(200_000)
    return (x * x).sum() + (y * y).sum()


def a_plan(session: Session) -> Any:
    x: Any = session.share(torch.ones(1000, 1))
    outer = torchveil.compile(lambda x: x @ x.t())
    outer(x[:2])
    outer(x[:2])
    return torchveil.compile(lambda x: x.repeat(200_000, 1))(x)


def a_plan_again_and_again(session: Session) -> Any:
    x: Any = session.share(torch.ones(250, 1))
    outer = torchveil.compile(lambda x: x @ x.t())
    return [outer(x) for _ in range(8)][-1]


@pytest.mark.parametrize(
    "program",
    [
        many_values,
        many_openings,
        an_input,
        a_repetition,
        indices,
        a_sum,
        a_sum_with_public,
        a_product,
        a_public_product,
        a_convolution,
        a_mask_that_follows,
        a_plan,
        a_plan_again_and_again,
    ],
)
def test_a_session_that_would_hold_too_much_is_ended_before_it_does(
    cluster: LocalCluster, program: Callable[[Session], Any]
) -> None:
    """Those with one large value would take 1.6 GB or more; all roles are in this process."""
    gc.collect()
    before = resident_bytes()
    session = connect(cluster.file)
    with pytest.raises(LimitExceeded, match=f"more than {LIMIT} bytes here") as caught:
        program(session).sum().reveal()
    assert caught.value.at_fault == "controller/scientist"  # who asked for it; the role did what its file says
    assert "session_bytes" in caught.value.remedy
    assert resident_bytes() - before < 256 * MIB
    with connect(cluster.file) as session:
        assert session.share(torch.ones(2)).reveal().tolist() == [1.0, 1.0]


def test_a_session_that_lets_go_of_its_values_goes_on(cluster: LocalCluster) -> None:
    with connect(cluster.file) as session:
        x: Any = session.share(torch.ones(10_000))
        for _ in range(100):
            x = x * 1.0 + x.flip(0) - x
        assert x.sum().reveal() == 10_000
