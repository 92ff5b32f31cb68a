"""A program may overwrite its index, label and mask buffers after an operation has used them."""

from __future__ import annotations

import torch
from torch.nn import functional

import torchveil


def test_an_index_buffer_may_be_reused() -> None:
    session = torchveil.Session(debug=True)
    x, w = session.share(torch.arange(1.0, 7.0).reshape(6, 1)), session.share(torch.tensor([[1.0]]))
    places = torch.tensor([0, 1])
    rows = x[places]
    places.copy_(torch.tensor([4, 5]))
    assert torch.equal((rows @ w).reveal(), torch.tensor([[1.0], [2.0]]))


def test_labels_may_be_reused_before_the_loss_is_read() -> None:
    session = torchveil.Session()
    logits, labels = torch.tensor([[2.0, -1.0], [0.5, 1.5]]), torch.tensor([0, 1])
    wanted = functional.cross_entropy(logits, labels)
    loss = functional.cross_entropy(session.share(logits), labels)
    labels.copy_(torch.tensor([1, 0]))
    assert torch.allclose(loss.reveal(), wanted, atol=1e-3)


def test_a_public_target_may_be_reused_before_the_loss_is_read() -> None:
    session = torchveil.Session()
    logits, target = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.0])
    wanted = functional.binary_cross_entropy_with_logits(logits, target)
    loss = functional.binary_cross_entropy_with_logits(session.share(logits), torchveil.public(target))
    target.zero_()
    assert torch.allclose(loss.reveal(), wanted, atol=1e-3)
