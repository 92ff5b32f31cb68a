"""The loss of connectionist temporal classification for public targets, value and gradient, against torch's kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchveil import EncryptedTensor, InvalidArgument, Session, UnsupportedOperation

UNIT = 2.0**-16
SESSION = Session()
FRAMES = 7

#: targets, their lengths, frames: repeated labels, padding, an impossible target, an empty one.
TARGETS: dict[str, tuple[list[list[int]], tuple[int, ...], tuple[int, ...]]] = {
    "repeated": ([[1, 2, 3], [4, 1, 1]], (3, 3), (7, 6)),
    "padded": ([[1, 2, 3], [4, 0, 0]], (3, 1), (7, 5)),
    "impossible": ([[1, 1, 1], [2, 0, 0]], (3, 1), (4, 5)),
    "empty": ([[1, 1, 1], [2, 0, 0]], (3, 0), (6, 5)),
}


def logits(*shape: int) -> torch.Tensor:
    return torch.linspace(0, 40, torch.Size(shape).numel(), dtype=torch.float64).sin().mul(2).reshape(shape)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_values_and_gradients(name: str, reduction: str) -> None:
    rows, lengths, frames = TARGETS[name]
    x, targets = logits(FRAMES, 2, 5), torch.tensor(rows)
    clear, secret = x.clone().requires_grad_(), SESSION.share(x).requires_grad_()
    options = {"reduction": reduction, "zero_infinity": True}
    wanted = F.ctc_loss(clear.log_softmax(2), targets, frames, lengths, **options)
    found = F.ctc_loss(secret.log_softmax(2), targets, frames, lengths, **options)
    wanted.sum().backward()
    found.sum().backward()
    assert isinstance(found, EncryptedTensor)
    assert float((found.reveal(dtype=torch.float64) - wanted).abs().max()) <= 3 * FRAMES * UNIT
    assert float((secret.grad.reveal(dtype=torch.float64) - clear.grad).abs().max()) <= 16 * UNIT


def test_other_forms_of_the_arguments() -> None:
    """A blank elsewhere, joined targets, lengths in tensors, one sample alone."""
    module = torch.nn.CTCLoss(blank=4)
    lengths, frames = torch.tensor([2, 1]), torch.tensor([7, 6])
    x = logits(FRAMES, 2, 5)
    wanted = module(x.log_softmax(2), torch.tensor([1, 2, 3]), frames, lengths)
    found = module(SESSION.share(x).log_softmax(2), torch.tensor([1, 2, 3]), frames, lengths)
    assert float(found.reveal(dtype=torch.float64) - wanted) == pytest.approx(0, abs=3 * FRAMES * UNIT)
    x = logits(FRAMES, 5)
    wanted = module(x.log_softmax(1), torch.tensor([1, 2]), torch.tensor(7), torch.tensor(2))
    found = module(SESSION.share(x).log_softmax(1), torch.tensor([1, 2]), torch.tensor(7), torch.tensor(2))
    assert found.shape == wanted.shape
    assert float(found.reveal(dtype=torch.float64) - wanted) == pytest.approx(0, abs=3 * FRAMES * UNIT)


def test_what_is_refused() -> None:
    x = SESSION.share(logits(3, 1, 5))
    with pytest.raises(UnsupportedOperation):
        F.ctc_loss(x, SESSION.share(torch.tensor([[1, 2]])), (3,), (2,))
    with pytest.raises(InvalidArgument):
        F.ctc_loss(x, torch.tensor([[1, 1, 2]]), (3,), (3,))
    with pytest.raises(InvalidArgument):
        F.ctc_loss(x, torch.tensor([[1, 5]]), (3,), (2,))
