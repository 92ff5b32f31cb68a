"""What is public: results of public operands alone. A plain tensor among them makes the result plain again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from torchveil import Session, WouldBePublished, public
from torchveil.public import PublicTensor

SESSION = Session(("alice", "bob"))
PRIVATE = torch.tensor([3.0, 4.0])
ONE = public(torch.tensor(1.0))

#: Programs that hide somebody's plain data among public operands.
PRIVATE_MIXED: dict[str, Callable[[], Tensor]] = {
    "difference": lambda: PRIVATE - public(torch.tensor([0.5, 0.5])),
    "reversed": lambda: public(torch.tensor([0.5, 0.5])) - PRIVATE,
    "concatenation": lambda: torch.cat([PRIVATE, public(torch.empty(0))]),
    "stack": lambda: torch.stack([PRIVATE, public(torch.zeros(2))])[0],
    "selection": lambda: torch.where(public(torch.tensor([True, False])), PRIVATE, PRIVATE),
    "layer": lambda: F.linear(PRIVATE, public(torch.eye(2))),
    "parameter": lambda: ONE * torch.nn.Parameter(PRIVATE),
    "number": lambda: ONE * PRIVATE.sum(),
    "labels": lambda: ONE * PRIVATE.long(),
    "written": lambda: PRIVATE.clone().add_(ONE),
    "keyword": lambda: torch.addcmul(public(torch.zeros(2)), tensor1=public(torch.ones(2)), tensor2=PRIVATE),
    "assignment": lambda: public(torch.zeros(2)).index_put((torch.tensor([0, 1]),), PRIVATE),
    "maximum": lambda: torch.maximum(public(torch.zeros(2)), PRIVATE),
}


@pytest.mark.parametrize("name", PRIVATE_MIXED)
def test_public_operands_do_not_declare_private_ones(name: str) -> None:
    secret = SESSION.share(torch.zeros(2))
    found = PRIVATE_MIXED[name]()
    assert not isinstance(found, PublicTensor)
    with pytest.raises(WouldBePublished):
        secret - found


def test_plain_data_are_not_written_into_public_tensors() -> None:
    for write in (
        lambda: public(torch.zeros(2)).add_(PRIVATE),
        lambda: public(torch.zeros(2)).copy_(PRIVATE),
        lambda: torch.add(PRIVATE, ONE, out=public(torch.zeros(2))),
        lambda: torch._foreach_add_([public(torch.zeros(2))], [PRIVATE]),
    ):
        with pytest.raises(WouldBePublished, match="into a public one"):
            write()


#: Results of public tensors, Python numbers, indices and masks.
STILL_PUBLIC: dict[str, Callable[[Tensor], Tensor]] = {
    "numbers": lambda x: 1 - 2 * x.clamp(min=0.5) ** 2,
    "index": lambda x: x[torch.tensor([1, 0])],
    "gather": lambda x: x.gather(0, torch.tensor([1, 0])),
    "mask": lambda x: x.masked_fill(torch.tensor([True, False]), 0.0),
    "condition": lambda x: torch.where(torch.tensor([True, False]), x, 0.0),
    "embedding": lambda x: F.embedding(torch.tensor([1, 0]), x.unsqueeze(1)).squeeze(1),
    "assigned": lambda x: _assigned(x.clone()),
    "dropout": lambda x: F.dropout(x, 0.5),
    "one_hot": lambda x: F.one_hot(x.long() * 0, 2)[0],
    "interpolation": lambda x: F.interpolate(x[None, None], scale_factor=2.0, mode="linear")[0, 0, :2],
    "loss": lambda x: F.mse_loss(x, x * 2, reduction="none"),
}


def _assigned(x: Tensor) -> Tensor:
    x[0] = 5.0
    return x


@pytest.mark.parametrize("name", STILL_PUBLIC)
def test_results_of_public_operands_stay_public(name: str) -> None:
    found = STILL_PUBLIC[name](public(torch.tensor([1.0, 2.0])))
    assert isinstance(found, PublicTensor)
    SESSION.share(torch.zeros(2)) + found


def test_a_gradient_hook_may_not_add_plain_zeros() -> None:
    """Zeros in a backward are torch's own only where a derivative is known to make them."""
    x = SESSION.share(torch.tensor([1.0, 2.0]), requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: grad + torch.zeros(2))
    with pytest.raises(WouldBePublished):
        y.sum().backward()


def test_zeros_and_ones_of_torch_pass_in_derivatives() -> None:
    x = SESSION.share(torch.tensor([1.0, 2.0, 3.0]), requires_grad=True)
    x.clone().index_put((torch.tensor([0]),), SESSION.share(torch.tensor([5.0]))).sum().backward()
    x.cummax(0).values.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad.reveal(), torch.tensor([1.0, 2.0, 2.0]), atol=1e-3)


def test_counts_of_a_public_mask_are_public_and_other_divisors_are_not() -> None:
    values, mask = torch.arange(6.0).reshape(2, 3), torch.tensor([[True, False, True], [True, True, True]])
    x = SESSION.share(values)
    for function in (torch.masked.mean, torch.masked.var):
        for options in ({}, {"mask": mask}):
            with torch.device("cpu"):  # a mode of torch's in between
                found = function(x, 1, **options)
            assert torch.allclose(found.reveal(), function(values, 1, **options), atol=1e-3)
    for divide in (torch.divide, torch.div, torch.Tensor.div, torch.true_divide):
        with pytest.raises(WouldBePublished):
            divide(x, torch.tensor([1, 2, 3]))
