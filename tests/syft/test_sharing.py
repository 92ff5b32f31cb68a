"""Sharing, computing, opening; and everything PySyft users met as an error or as garbage."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import syft as sy
import torchveil
from syft.exceptions import (
    InvalidTensorForRemoteGet,
    NotEnoughWorkersError,
    UnknownProtocolError,
    WorkerNotFoundException,
)


@pytest.fixture(params=[2, 3, 4])
def share(request: pytest.FixtureRequest, people: SimpleNamespace) -> Any:
    """``share(values, precision)`` between 2, 3 or 4 workers."""

    def share(values: Any, precision: int = 3, requires_grad: bool = False) -> Any:
        x = torch.tensor(values)
        if x.is_floating_point():
            x = x.fix_precision(precision_fractional=precision)
        return x.share(*people.parties[: request.param], crypto_provider=people.james, requires_grad=requires_grad)

    return share


def near(x: Any, expected: Any, ulps: float = 3, digits: int = 3) -> None:
    found = x.get().float_precision()
    assert torch.allclose(found, torch.tensor(expected), atol=ulps * 10.0**-digits), found


def test_get_gives_the_value_and_does_not_destroy(share: Any) -> None:
    x = share([0.5, -1.25])
    for _ in range(2):
        assert x.get().float_precision().tolist() == [0.5, -1.25]
    assert (x + x).get().float_prec().tolist() == [1.0, -2.5]
    assert type(x.get()) is sy.FixedPrecisionTensor


def test_gets_are_counted(share: Any) -> None:
    x = share([1.0])
    before = len(x.session.reveals)
    x.get()
    x.decrypt()
    assert [record.receiver for record in x.session.reveals[before:]] == ["controller"] * 2


def test_whole_numbers(share: Any) -> None:
    x, y = share([25, 3]), share([5, 3])
    assert x.get().dtype is torch.int64
    for result, expected in (
        (x + y, [30, 6]),
        (x - y, [20, 0]),
        (x * y, [125, 9]),
        (x > y, [1, 0]),
        (x <= y, [0, 1]),
        (x == y, [0, 1]),
        (x.sum(), 28),
        (x.max(), 25),
        (share([[1, 2], [3, 4]]) @ share([[2, 0], [0, 2]]), [[2, 4], [6, 8]]),
        (x + 1, [26, 4]),
        (-x, [-25, -3]),
    ):
        assert result.get().tolist() == expected


def test_fractions_of_whole_numbers_keep_their_digits(share: Any) -> None:
    near(share([25, 3]) * 0.5, [12.5, 1.5])
    near(share([25, 3]) + 0.25, [25.25, 3.25])
    near(share([25, 3]) / 2, [12.5, 1.5])
    near((share([25, 3]) > 4) * 0.5, [0.5, 0.0])


def test_float_scalars(share: Any) -> None:
    x = share([1.0, -2.5])
    near(x * 0.5, [0.5, -1.25])
    near(x / 4, [0.25, -0.625])
    near(0.1 - x, [-0.9, 2.6])
    near(x + 0.125, [1.125, -2.375])


def test_mixed_precision(share: Any) -> None:
    x, y = share([1.5, 2.0], precision=3), share([0.1234, -1.0001], precision=4)
    near(x * y, [0.1851, -2.0002], digits=4, ulps=10)
    near(x + y, [1.6234, 0.9999], digits=4)
    near(y - x, [-1.3766, -3.0001], digits=4)


def test_a_plain_tensor_is_shared_when_it_meets_a_secret(share: Any) -> None:
    x = share([1.0, 2.0])
    plain = torch.tensor([0.25, 4.0])
    near(x + plain, [1.25, 6.0])
    near(plain * x, [0.25, 8.0])
    near(torch.ones(1, 2) @ x.view(2, 1), [[3.0]])
    near(x + plain.fix_precision(), [1.25, 6.0])
    near(plain.fix_precision() - x, [-0.75, 2.0])
    near(x * torch.tensor([2, 3]), [2.0, 6.0])
    assert (share([1, 2]) + torch.tensor([1, 1])).get().tolist() == [2, 3]
    near(share([1, 2]) * plain, [0.25, 8.0])


def test_the_core_still_refuses_a_plain_tensor() -> None:
    x = torchveil.Session().share(torch.tensor([1.0]))
    with pytest.raises(torchveil.WouldBePublished):
        x + torch.tensor([1.0])
    with pytest.raises(torchveil.RevealRequired, match="would read a secret"):
        bool(x)


def test_things_that_gave_garbage(share: Any) -> None:
    x = share([[1.5, -2.0], [0.5, 3.0]], precision=4)
    clear = torch.tensor([[1.5, -2.0], [0.5, 3.0]])
    for function in (torch.square, torch.mean, torch.abs, torch.sigmoid, torch.tanh, torch.exp):
        near(function(x), function(clear).tolist(), digits=4, ulps=30)
    near(x.softmax(1), clear.softmax(1).tolist(), digits=4, ulps=30)
    assert x.argmax(1).get().tolist() == [0, 1]


def test_gradients(share: Any) -> None:
    x, y = share([1.0, 2.0], requires_grad=True), share([3.0, -1.0], requires_grad=True)
    ((x * y) ** 2).sum().backward()
    near(x.grad, [18.0, 4.0], ulps=20)
    near(y.grad, [6.0, -8.0], ulps=20)


def test_encrypt_and_decrypt(people: SimpleNamespace) -> None:
    workers = [people.bob, people.alice, people.carl]
    x = torch.tensor([1.5, 0.1234]).encrypt(
        workers=workers, crypto_provider=people.james, requires_grad=True, protocol="fss", precision_fractional=4
    )
    assert x.requires_grad
    assert torch.allclose(x.decrypt(), torch.tensor([1.5, 0.1234]))
    y = torch.tensor([2.0])
    y.encrypt(workers=workers, inplace=True)
    assert type(y) is torchveil.EncryptedTensor
    y.decrypt(inplace=True)
    assert type(y) is torch.Tensor and y.tolist() == [2.0]


def test_in_place(people: SimpleNamespace) -> None:
    x = torch.tensor([1.5]).tag("#mine")
    identifier = x.id
    x.fix_prec_()
    x.share_(people.bob, people.alice)
    assert type(x) is torchveil.EncryptedTensor and x.id == identifier
    x.get_()
    x.float_precision_()
    assert x.tolist() == [1.5] and x.id == identifier and x.tags == {"#mine"}


def test_copy_and_refresh(share: Any) -> None:
    x = share([1.0, 2.0])
    y = x.copy()
    y.zero_()
    assert x.get().tolist() == [1.0, 2.0] and y.get().tolist() == [0.0, 0.0]
    near(x.refresh(), [1.0, 2.0], ulps=0)
    near(x.sum().refresh() / 2, 1.5)
    assert share([3]).refresh().get().tolist() == [3]


def test_reconstruct_gives_the_value_to_the_workers(people: SimpleNamespace) -> None:
    x = torch.tensor([1.5]).fix_prec().share(people.bob, people.alice, crypto_provider=people.james)
    before = len(x.session.reveals)
    pointers = x.reconstruct()
    assert [record.receiver for record in x.session.reveals[before:]] == list(x.session.parties)
    assert sorted(worker.id for worker in pointers.location) == ["alice", "bob"]
    assert [value.float_prec().tolist() for value in pointers.get()] == [[1.5], [1.5]]


def test_workers_list_their_shares_without_showing_them(people: SimpleNamespace) -> None:
    before = people.bob.objects_count()
    x = torch.tensor([4242424242, 1]).share(people.bob, people.alice)
    assert people.bob.objects_count() == before + 1
    assert "4242424242" not in str(people.bob._objects)
    del x
    assert people.bob.objects_count() == before


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_float_is_not_shared(people: SimpleNamespace) -> None:
    with pytest.raises(TypeError) as caught:
        torch.tensor([1.0]).share(people.bob, people.alice)
    assert str(caught.value) == "FloatTensor cannot be additively shared, Use fix_precision."


def test_a_secret_has_no_truth_value(people: SimpleNamespace) -> None:
    x = torch.tensor([1]).share(people.bob, people.alice)
    with pytest.raises(
        ValueError, match=r"Additive shared tensors can't be converted boolean values. You should decrypt"
    ):
        if x:
            pass
    with pytest.raises(torchveil.RevealRequired):
        float(x)
    with pytest.raises(torchveil.RevealRequired, match=r"x\.get\(\)\.float_precision\(\)"):
        x.float_precision()


def test_workers_and_providers_that_make_no_session(people: SimpleNamespace) -> None:
    x = torch.tensor([1])
    for workers in ((), (people.bob,), (people.bob, "alice")):
        with pytest.raises(RuntimeError) as caught:
            x.share(*workers)
        assert str(caught.value) == "Error, share must have > 1 arguments all of type syft.workers"
        assert type(caught.value) is NotEnoughWorkersError
    with pytest.raises(torchveil.ConfigurationError, match="is a party and the provider"):
        x.share(people.bob, people.alice, crypto_provider=people.alice)
    with pytest.raises(torchveil.ConfigurationError, match="named twice"):
        x.share(people.bob, people.alice, people.bob)
    with pytest.raises(WorkerNotFoundException):
        x.share(people.bob, people.alice, crypto_provider="nobody")
    assert x.share(people.bob, people.alice).get().tolist() == [1]


def test_arguments_that_mean_nothing(people: SimpleNamespace) -> None:
    x = torch.tensor([1])
    pair = people.bob, people.alice
    with pytest.raises(UnknownProtocolError, match="fss, mpc, snn"):
        x.share(*pair, protocol="falcon")
    with pytest.raises(ValueError, match="Invalid dtype value: float"):
        x.share(*pair, dtype="float")
    with pytest.raises(ValueError, match="Field cannot be None for custom dtype"):
        x.share(*pair, dtype="custom")
    with pytest.raises(TypeError, match="no gradient"):
        x.share(*pair, requires_grad=True)
    with pytest.raises(TypeError, match="shared already"):
        x.share(*pair).share(*pair)
    with pytest.raises(TypeError, match="shared already"):
        x.share(*pair).fix_precision()
    assert x.share(*pair, field=2**32).get().tolist() == [1]


def test_get_of_what_is_here() -> None:
    with pytest.raises(InvalidTensorForRemoteGet):
        torch.tensor([1.0]).get()
    x = torch.tensor([1.0]).fix_precision()
    assert x.get() is x


def test_secrets_of_other_workers_do_not_meet(people: SimpleNamespace) -> None:
    x = torch.tensor([1]).share(people.bob, people.alice)
    y = torch.tensor([1]).share(people.bob, people.carl)
    with pytest.raises(torchveil.SessionMismatch):
        x + y


def test_protocol_names_say_what_runs() -> None:
    for name in ("snn", "fss"):
        assert "Instead: additive shares" in sy.describe_protocol(name)
