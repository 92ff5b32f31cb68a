"""The printed forms, exactly."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import syft as sy
from syft.registry import registry


def form(x: Any) -> str:
    """What is printed, with every id as N."""
    return re.sub(r":\d{1,11}\b", ":N", str(x))


def shared(people: SimpleNamespace, *workers: Any, requires_grad: bool = False) -> Any:
    x = torch.tensor([1.0, 2.0]).fix_precision()
    return x.share(*workers, crypto_provider=people.james, requires_grad=requires_grad)


def test_shared_with_gradient(people: SimpleNamespace) -> None:
    assert form(shared(people, people.bob, people.alice, requires_grad=True)) == (
        "(Wrapper)>AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]\n"
        "\t-> [PointerTensor | me:N -> bob:N]\n"
        "\t-> [PointerTensor | me:N -> alice:N]\n"
        "\t*crypto provider: james*"
    )


def test_each_tensor_keeps_its_order_of_workers(people: SimpleNamespace) -> None:
    a, b = shared(people, people.bob, people.alice), shared(people, people.alice, people.bob)
    assert a.session is b.session
    assert form(a).index("bob") < form(a).index("alice")
    assert form(b).index("alice") < form(b).index("bob")


def test_whole_numbers_have_no_fixed_precision_and_me_is_the_default_provider(people: SimpleNamespace) -> None:
    x = torch.tensor([1, 2]).share(people.bob, people.alice, people.carl)
    assert form(x) == (
        "(Wrapper)>[AdditiveSharingTensor]\n"
        "\t-> [PointerTensor | me:N -> bob:N]\n"
        "\t-> [PointerTensor | me:N -> alice:N]\n"
        "\t-> [PointerTensor | me:N -> carl:N]\n"
        "\t*crypto provider: me*"
    )


def test_ids_stay(people: SimpleNamespace) -> None:
    x = shared(people, people.bob, people.alice)
    y = x * x
    assert str(x) == str(x)
    assert str(y) == str(y) == f"{y}"
    assert str(x) != str(y)


def test_a_seed_makes_ids_reproducible(people: SimpleNamespace) -> None:
    try:
        texts = []
        for _ in range(2):
            sy.TorchHook(torch, seed=3)
            texts.append(str(shared(people, people.bob, people.alice)))
        assert texts[0] == texts[1]
    finally:
        registry.ids.seed(None)


def test_results_print_without_being_computed_or_revealed(people: SimpleNamespace) -> None:
    x = shared(people, people.bob, people.alice, requires_grad=True)
    loss = ((x * x) ** 2).sum()
    before = x.session.cost().instructions, x.session.cost().reveals
    assert form(loss).startswith("(Wrapper)>AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]\n")
    assert form(x.detach() > 1).startswith("(Wrapper)>[AdditiveSharingTensor]\n")
    assert x.session.cost().reveals == before[1]
    assert form(loss) == form(loss)


def test_parameters(people: SimpleNamespace) -> None:
    model = nn.Linear(2, 1)
    structure = str(model)
    options = {"crypto_provider": people.james, "requires_grad": True}
    model.fix_precision().share(people.bob, people.alice, **options)
    assert form(model.bias) == (
        "Parameter containing:\n"
        "Parameter>AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]\n"
        "\t-> [PointerTensor | me:N -> bob:N]\n"
        "\t-> [PointerTensor | me:N -> alice:N]\n"
        "\t*crypto provider: james*"
    )
    assert str(model) == structure


def test_fixed_precision() -> None:
    x = torch.tensor([0.1, 0.2, 0.3]).fix_precision()
    assert str(x) == "(Wrapper)>FixedPrecisionTensor>tensor([100, 200, 300])"
    assert str(x.float_precision()) == "tensor([0.1000, 0.2000, 0.3000])"


def test_revealed_loss(people: SimpleNamespace) -> None:
    x = torch.tensor(2.097).fix_precision().share(people.bob, people.alice, requires_grad=True)
    assert str(x.get()) == "(Wrapper)>FixedPrecisionTensor>tensor(2097)"
    assert str((x * 1).get().float_precision()) == "tensor(2.0970)"


def test_pointers(people: SimpleNamespace) -> None:
    x = torch.tensor([1.0, 2.0]).send(people.bob)
    assert form(x) == "(Wrapper)>[PointerTensor | me:N -> bob:N]"
    y = torch.tensor([1.0, 2.0]).tag("#a", "#b").describe("The inputs\nand more").send(people.bob)
    assert form(y) == (
        "(Wrapper)>[PointerTensor | me:N -> bob:N]\n\tTags: #a #b \n\tShape: torch.Size([2])\n"
        "\tDescription: The inputs..."
    )
    assert form(torch.tensor([1]).send(people.bob, people.alice)) == (
        "(Wrapper)>[MultiPointerTensor]\n\t-> [PointerTensor | me:N -> bob:N]\n\t-> [PointerTensor | me:N -> alice:N]"
    )


def test_worker(people: SimpleNamespace) -> None:
    held = [torch.tensor([n]).send(people.dora) for n in range(3)]
    assert str(people.dora) == f"<VirtualWorker id:dora #objects:{len(held)}>"


def test_the_core_keeps_its_own_form() -> None:
    import torchveil

    x = torchveil.Session().share(torch.tensor([1.0]))
    assert str(x).startswith("EncryptedTensor(shape=(1,)")
