"""Pointers: what is done to them happens at the worker."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import syft as sy
import torchveil
from syft.exceptions import CommandNotAllowedException, ObjectNotFoundError, TensorsNotCollocatedException


def test_send_moves_there_and_get_back(people: SimpleNamespace) -> None:
    x = torch.tensor([1.0, 2.0])
    pointer = x.send(people.bob)
    assert pointer.location == people.bob and pointer.owner is sy.local_worker
    assert people.bob[pointer.id_at_location].tolist() == [1.0, 2.0]
    assert pointer.shape == (2,) and pointer.is_wrapper and not x.is_wrapper
    assert pointer.get().tolist() == [1.0, 2.0]
    assert people.bob.tensors_count() == 0
    with pytest.raises(ObjectNotFoundError, match="not found on worker! You just tried to interact with an object ID"):
        pointer.get()


def test_arithmetic_happens_at_the_worker(people: SimpleNamespace) -> None:
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    x, y = a.send(people.bob), b.send(people.bob)
    for function in (
        lambda p, q: p + q,
        lambda p, q: 2 - p * q / 4,
        lambda p, q: p @ q,
        lambda p, q: p.mm(q).matmul(q.t()),
        lambda p, q: (p > q) & (q <= 0),
        lambda p, q: torch.add(p, q).sum(0),
        lambda p, q: F.relu(q).reshape(4).mean(),
        lambda p, q: torch.cat([p, q])[1:3],
        lambda p, q: F.cross_entropy(p, q.argmax(1)),
    ):
        result = function(x, y)
        assert type(result) is sy.PointerTensor
        assert torch.equal(result.get(), function(a, b))


def test_in_place_operations_change_the_object(people: SimpleNamespace) -> None:
    x = torch.tensor([1.0, 2.0]).send(people.bob)
    x.add_(1)
    x[0] = 7
    assert x.copy().get().tolist() == x.get().tolist() == [7.0, 3.0]


def test_gradients_stay_at_the_worker(people: SimpleNamespace) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(people.bob)
    y = torch.tensor([3.0, 4.0], requires_grad=True).send(people.bob)
    (x * y).sum().backward()
    assert type(x.grad) is sy.PointerTensor
    x = x.get()
    assert x.requires_grad and x.grad.tolist() == [3.0, 4.0]


def test_operands_must_lie_together(people: SimpleNamespace) -> None:
    x, y = torch.ones(2).send(people.bob), torch.ones(2).send(people.alice)
    with pytest.raises(TensorsNotCollocatedException, match="they lie at bob and alice"):
        x + y
    with pytest.raises(TensorsNotCollocatedException, match="here, at the local worker"):
        x + torch.ones(2)
    secret = torch.ones(2).fix_prec().share(people.bob, people.alice)
    for function in (lambda: x + secret, lambda: secret + x):
        with pytest.raises(TensorsNotCollocatedException, match="shared between workers"):
            function()
    assert (x.move(people.alice) + y).get().tolist() == [2.0, 2.0]


def test_move(people: SimpleNamespace) -> None:
    x = torch.ones(2).send(people.bob)
    assert x.move(people.bob) is x
    moved = x.move(people.alice)
    assert moved.location == people.alice and people.bob.tensors_count() == 1
    assert moved.move(sy.local_worker).tolist() == [1.0, 1.0]
    with pytest.raises(TypeError, match="move"):
        torch.ones(1).move(people.bob)


def test_in_place_forms(people: SimpleNamespace) -> None:
    x = torch.ones(2)
    before = x
    assert x.send_(people.bob) is before
    assert type(x) is sy.PointerTensor
    assert x.get_() is before
    assert type(x) is torch.Tensor and x.tolist() == [1.0, 1.0]
    with pytest.raises(NotImplementedError):
        x.send_(people.bob, people.alice)


def test_the_last_pointer_deletes_the_object(people: SimpleNamespace) -> None:
    x = torch.ones(2).send(people.bob)
    y = x + 1
    assert people.bob.tensors_count() == 2
    del x
    assert people.bob.tensors_count() == 1
    del y
    assert people.bob.tensors_count() == 0
    kept = torch.ones(2).send(people.bob, garbage_collect_data=False)
    del kept
    assert people.bob.tensors_count() == 1


def test_nothing_is_read_by_accident(people: SimpleNamespace) -> None:
    x = torch.tensor(1.0).send(people.bob)
    for read in (lambda: x.item(), lambda: float(x), lambda: bool(x > 0), lambda: x.numpy(), lambda: x.tolist()):
        with pytest.raises(RuntimeError, match=r'Please consider calling ".get" method instead of ".item" method'):
            read()


def test_only_listed_commands_are_executed(people: SimpleNamespace) -> None:
    x = torch.eye(2).send(people.bob)
    with pytest.raises(CommandNotAllowedException, match="linalg_inv"):
        torch.linalg.inv(x)
    with pytest.raises(CommandNotAllowedException):
        torch.rand_like(x)


def test_several_workers(people: SimpleNamespace) -> None:
    x = torch.tensor([1.0]).send(people.bob, people.alice)
    assert len(x) == 2 and x.location == [people.bob, people.alice]
    assert x.get(sum_results=True).tolist() == [2.0]
    both = sy.combine_pointers(torch.tensor([1]).send(people.bob), torch.tensor([2]).send(people.alice))
    assert [value.item() for value in both.get()] == [1, 2]
    with pytest.raises(ValueError, match="same worker"):
        sy.combine_pointers(torch.tensor([1]).send(people.bob), torch.tensor([2]).send(people.bob))


def test_a_worker_fixes_and_shares_what_it_holds(people: SimpleNamespace) -> None:
    x = torch.tensor([0.5, 2.0]).send(people.bob)
    secret = x.fix_precision().share(people.bob, people.alice, crypto_provider=people.james).get()
    assert type(secret) is torchveil.EncryptedTensor
    assert secret.get().float_precision().tolist() == [0.5, 2.0]


def test_what_cannot_be_sent(people: SimpleNamespace) -> None:
    secret = torch.ones(2).fix_prec().share(people.bob, people.alice)
    for x in (secret, torch.ones(2).send(people.bob)):
        with pytest.raises(TypeError, match="only a tensor that is here can be sent"):
            x.send(people.alice)
    with pytest.raises(TypeError, match="needs a worker"):
        torch.ones(1).send()
