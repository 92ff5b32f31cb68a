"""Every loss of torch.nn on shares, for all reductions, with secret and with public targets, against float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchveil import EncryptedTensor, InvalidArgument, RevealRequired, Session, UnsupportedOperation, public

UNIT = 2.0**-16
SESSION = Session()
REDUCTIONS = ("none", "mean", "sum")
_generator = torch.Generator().manual_seed(11)


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    _generator.manual_seed(12)


def x(*shape: int, low: float = -3.0, high: float = 3.0) -> Tensor:
    out = torch.rand(shape, generator=_generator, dtype=torch.float64) * (high - low) + low
    return torch.round(out / UNIT) * UNIT


def signs(*shape: int) -> Tensor:
    return (torch.randint(0, 2, shape, generator=_generator) * 2 - 1).double()


def ones_and_zeros(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape, generator=_generator).double()


def classes(count: int, *shape: int) -> Tensor:
    return torch.randint(0, count, shape, generator=_generator)


def chances(*shape: int) -> Tensor:
    """Positive rows that sum to one."""
    return torch.round(torch.softmax(x(*shape), 1) / UNIT) * UNIT


@dataclass(frozen=True)
class Case:
    """``loss(reduction, weights)`` of ``inputs`` (differentiated) and ``targets``; weights are plain float64.

    ``units`` bound the error of values and gradients; an error may also be ``relative`` to the value.
    """

    loss: Callable[[str, Any], nn.Module]
    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...] = ()
    weights: Callable[[], dict[str, Tensor]] = dict
    units: float = 8.0
    relative: float = 2.0**-12
    secret_targets: bool = True


def plain(loss: Callable[..., nn.Module], **options: Any) -> Callable[[str, Any], nn.Module]:
    return lambda reduction, weights: loss(reduction=reduction, **options, **weights)


def weight(*values: float) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"weight": torch.tensor(values, dtype=torch.float64)}


class Gaussian(nn.GaussianNLLLoss):
    """The variances second, as an operand with a gradient; whether one is negative is not looked at."""

    def forward(self, x: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        return super().forward(x, target, variance)


W4 = weight(0.5, 2.0, 1.0, 0.25)
IGNORED = torch.tensor([1, -100, 3, 0, -100, 2])

CASES: dict[str, Case] = {
    "l1": Case(plain(nn.L1Loss), (x(3, 4),), (x(3, 4),)),
    "mse": Case(plain(nn.MSELoss), (x(3, 4),), (x(3, 4),)),
    "cross entropy": Case(plain(nn.CrossEntropyLoss), (x(6, 4),), (classes(4, 6),)),
    "cross entropy, one sample": Case(plain(nn.CrossEntropyLoss), (x(4),), (torch.tensor(2),)),
    "cross entropy, weights": Case(plain(nn.CrossEntropyLoss), (x(6, 4),), (classes(4, 6),), W4),
    "cross entropy, smoothed": Case(plain(nn.CrossEntropyLoss, label_smoothing=0.1), (x(6, 4),), (classes(4, 6),)),
    "cross entropy, smoothed, weights": Case(
        plain(nn.CrossEntropyLoss, label_smoothing=0.2), (x(6, 4),), (classes(4, 6),), W4
    ),
    "cross entropy, ignored": Case(plain(nn.CrossEntropyLoss), (x(6, 4),), (IGNORED,), secret_targets=False),
    "cross entropy, ignored by a number": Case(
        plain(nn.CrossEntropyLoss, ignore_index=-1), (x(6, 4),), (IGNORED.clamp(min=-1),)
    ),
    "cross entropy, ignored class": Case(plain(nn.CrossEntropyLoss, ignore_index=2), (x(6, 4),), (classes(4, 6),), W4),
    "cross entropy, ignored, smoothed": Case(
        plain(nn.CrossEntropyLoss, label_smoothing=0.1, ignore_index=2), (x(6, 4),), (classes(4, 6),), W4
    ),
    "cross entropy, probabilities": Case(plain(nn.CrossEntropyLoss), (x(5, 4),), (chances(5, 4),)),
    "cross entropy, probabilities, weights": Case(plain(nn.CrossEntropyLoss), (x(5, 4),), (chances(5, 4),), W4),
    "cross entropy, probabilities, smoothed": Case(
        plain(nn.CrossEntropyLoss, label_smoothing=0.1), (x(5, 4),), (chances(5, 4),)
    ),
    "cross entropy, images": Case(plain(nn.CrossEntropyLoss), (x(2, 4, 3, 2),), (classes(4, 2, 3, 2),)),
    "cross entropy, images, weights": Case(plain(nn.CrossEntropyLoss), (x(2, 4, 3, 2),), (classes(4, 2, 3, 2),), W4),
    "cross entropy, sequences": Case(plain(nn.CrossEntropyLoss), (x(2, 4, 3),), (classes(4, 2, 3),)),
    "cross entropy, image probabilities": Case(plain(nn.CrossEntropyLoss), (x(2, 4, 3, 2),), (chances(2, 4, 3, 2),)),
    "nll": Case(plain(nn.NLLLoss), (x(6, 4),), (classes(4, 6),)),
    "nll, one sample": Case(plain(nn.NLLLoss), (x(4),), (torch.tensor(2),), W4),
    "nll, weights": Case(plain(nn.NLLLoss), (x(6, 4),), (classes(4, 6),), W4),
    "nll, ignored": Case(plain(nn.NLLLoss, ignore_index=-7), (x(6, 4),), (torch.tensor([1, -7, 3, 0, -7, 2]),), W4),
    "nll, images": Case(plain(nn.NLLLoss), (x(2, 4, 3, 2),), (classes(4, 2, 3, 2),), W4),
    "poisson": Case(plain(nn.PoissonNLLLoss), (x(3, 4),), (x(3, 4, low=0, high=5),)),
    "poisson, full": Case(plain(nn.PoissonNLLLoss, full=True), (x(3, 4),), (x(3, 4, low=0, high=5),), units=12),
    "poisson, no log": Case(
        plain(nn.PoissonNLLLoss, log_input=False), (x(3, 4, low=0.25, high=4),), (x(3, 4, low=0, high=5),), units=16
    ),
    "gaussian": Case(
        lambda reduction, weights: Gaussian(reduction=reduction),
        (x(5, 3), x(5, 3, low=0.5, high=2)),
        (x(5, 3),),
        units=40,
        relative=2.0**-10,
    ),
    "gaussian, full": Case(
        lambda reduction, weights: Gaussian(full=True, eps=0.5, reduction=reduction),
        (x(5, 3), x(5, 1, low=0.5, high=2)),
        (x(5, 3),),
        units=40,
        relative=2.0**-10,
    ),
    "kl": Case(plain(nn.KLDivLoss), (x(3, 4),), (chances(3, 4),), units=12),
    "kl of logarithms": Case(plain(nn.KLDivLoss, log_target=True), (x(3, 4),), (x(3, 4, low=-4, high=0),)),
    "bce": Case(plain(nn.BCELoss), (x(3, 4, low=0.1, high=0.9),), (ones_and_zeros(3, 4),), units=30),
    "bce, weights": Case(plain(nn.BCELoss), (x(3, 4, low=0.1, high=0.9),), (x(3, 4, low=0, high=1),), W4, units=60),
    "bce with logits": Case(plain(nn.BCEWithLogitsLoss), (x(3, 4),), (ones_and_zeros(3, 4),)),
    "bce with logits, weights": Case(plain(nn.BCEWithLogitsLoss), (x(3, 4),), (x(3, 4, low=0, high=1),), W4),
    "bce with logits, positive weights": Case(
        plain(nn.BCEWithLogitsLoss),
        (x(3, 4),),
        (x(3, 4, low=0, high=1),),
        lambda: {"pos_weight": torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)},
        units=12,
    ),
    "margin ranking": Case(plain(nn.MarginRankingLoss, margin=0.5), (x(6), x(6)), (signs(6),)),
    "margin ranking without margin": Case(plain(nn.MarginRankingLoss), (x(6), x(6)), (signs(6),)),
    "hinge embedding": Case(plain(nn.HingeEmbeddingLoss), (x(3, 4),), (signs(3, 4),)),
    "hinge embedding, margin": Case(plain(nn.HingeEmbeddingLoss, margin=0.25), (x(3, 4),), (signs(3, 4),)),
    "multi label margin": Case(
        plain(nn.MultiLabelMarginLoss),
        (x(2, 4),),
        (torch.tensor([[3, 0, -1, 1], [2, -1, 0, 0]]),),
        secret_targets=False,
    ),
    "multi label margin, one sample": Case(
        plain(nn.MultiLabelMarginLoss), (x(4),), (torch.tensor([3, 0, -1, 1]),), secret_targets=False
    ),
    "huber": Case(plain(nn.HuberLoss), (x(3, 4),), (x(3, 4),)),
    "huber, delta": Case(plain(nn.HuberLoss, delta=0.3), (x(3, 4),), (x(3, 4),)),
    "smooth l1": Case(plain(nn.SmoothL1Loss), (x(3, 4),), (x(3, 4),)),
    "smooth l1, beta": Case(plain(nn.SmoothL1Loss, beta=0.3), (x(3, 4),), (x(3, 4),)),
    "smooth l1, beta 0": Case(plain(nn.SmoothL1Loss, beta=0.0), (x(3, 4),), (x(3, 4),)),
    "soft margin": Case(plain(nn.SoftMarginLoss), (x(3, 4),), (signs(3, 4),)),
    "multi label soft margin": Case(plain(nn.MultiLabelSoftMarginLoss), (x(3, 4),), (ones_and_zeros(3, 4),)),
    "multi label soft margin, weights": Case(
        plain(nn.MultiLabelSoftMarginLoss), (x(3, 4),), (ones_and_zeros(3, 4),), W4
    ),
    "cosine embedding": Case(
        plain(nn.CosineEmbeddingLoss, margin=0.2),
        (x(4, 5), x(4, 5)),
        (torch.tensor([1.0, -1, 1, -1]).double(),),
        # the gradient of a product of two norms' squares, about 1/1000, is multiplied by one of them and by the input
        units=150,
    ),
    "multi margin": Case(plain(nn.MultiMarginLoss), (x(5, 4),), (classes(4, 5),)),
    "multi margin, squares": Case(plain(nn.MultiMarginLoss, p=2, margin=0.5), (x(5, 4),), (classes(4, 5),), W4),
    "multi margin, one sample": Case(plain(nn.MultiMarginLoss), (x(4),), (torch.tensor(1),)),
    "triplet margin": Case(plain(nn.TripletMarginLoss), (x(4, 5), x(4, 5), x(4, 5)), units=16),
    "triplet margin, swapped": Case(
        plain(nn.TripletMarginLoss, swap=True, margin=0.5), (x(4, 5), x(4, 5), x(4, 5)), units=16
    ),
    "triplet margin, distance": Case(
        plain(nn.TripletMarginWithDistanceLoss, distance_function=lambda a, b: (a - b).abs().sum(-1)),
        (x(4, 5), x(4, 5), x(4, 5)),
    ),
    "triplet margin, pairwise distance": Case(
        plain(nn.TripletMarginWithDistanceLoss, swap=True), (x(4, 5), x(4, 5), x(4, 5)), units=16
    ),
}


def clear_of(t: Tensor) -> Tensor:
    return t.reveal(dtype=torch.float64) if isinstance(t, EncryptedTensor) else t.double()


def check(what: str, found: Tensor, wanted: Tensor, case: Case) -> None:
    assert isinstance(found, EncryptedTensor)
    assert found.shape == wanted.shape
    error = (clear_of(found) - wanted).abs() - case.relative * wanted.abs()
    assert float(error.max()) <= case.units * UNIT, f"{what}: {float(error.max()) / UNIT:.1f} units"


def as_public(t: Tensor) -> Tensor:
    """Plain whole numbers are indices; a float must be declared."""
    return public(t) if t.is_floating_point() else t


SECRECY = [
    pytest.param(name, secret, id=f"{name}-{'secret' if secret else 'public'}")
    for name, case in CASES.items()
    for secret in ((False, True) if case.secret_targets and case.targets else (False,))
]


@pytest.mark.parametrize(("name", "secret"), SECRECY)
def test_values_and_gradients(name: str, secret: bool) -> None:
    case = CASES[name]
    for reduction in REDUCTIONS:
        leaves = [t.clone().requires_grad_() for t in case.inputs]
        secrets = [SESSION.share(t).requires_grad_() for t in case.inputs]
        targets = [SESSION.share(t) if secret else as_public(t) for t in case.targets]
        weights = case.weights()
        declared = {key: public(value) for key, value in weights.items()}
        wanted = case.loss(reduction, weights)(*leaves, *case.targets)
        found = case.loss(reduction, declared)(*secrets, *targets)
        seed = torch.linspace(0.5, 1.5, wanted.numel(), dtype=torch.float64).reshape(wanted.shape)
        seed = torch.round(seed / UNIT) * UNIT
        if reduction == "none":
            wanted.backward(seed)
            found.backward(SESSION.share(seed))
        else:
            wanted.backward()
            found.backward()
        check(f"{reduction} value", found, wanted.detach(), case)
        for a, b in zip(leaves, secrets, strict=True):
            check(f"{reduction} gradient", b.grad, a.grad, case)


def test_secret_targets_are_taken_for_classes() -> None:
    """One that equals torch's default ignore_index adds nothing, and is counted by the mean."""
    logits = x(6, 4)
    found = F.cross_entropy(SESSION.share(logits), SESSION.share(IGNORED))
    wanted = F.cross_entropy(logits, IGNORED, reduction="sum") / 6
    assert abs(float(clear_of(found)) - float(wanted)) <= 8 * UNIT


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.0])])
def test_the_mean_of_nothing_is_refused(weight: Tensor | None) -> None:
    targets = torch.tensor([-100, -100]) if weight is None else torch.tensor([2, 2])
    with pytest.raises(InvalidArgument):
        F.cross_entropy(SESSION.share(x(2, 3)), targets, None if weight is None else public(weight))


def test_targets_out_of_range_are_refused() -> None:
    for targets in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(InvalidArgument):
            F.nll_loss(SESSION.share(x(2, 3)), targets)
        with pytest.raises(InvalidArgument):
            F.multi_margin_loss(SESSION.share(x(2, 3)), targets)
    with pytest.raises(InvalidArgument):
        F.multilabel_margin_loss(SESSION.share(x(1, 3)), torch.tensor([[3, -1, 0]]))
    with pytest.raises(UnsupportedOperation):
        F.multilabel_margin_loss(SESSION.share(x(1, 3)), SESSION.share(torch.tensor([[2, -1, 0]])))


def test_the_gradient_of_cross_entropy_needs_no_loss() -> None:
    """Neither loss nor logarithm is computed for a gradient: as many rounds as with the probabilities alone."""
    for weight in (None, public(torch.tensor([0.5, 2.0, 1.0, 0.25]))):
        session = Session()
        logits = session.share(x(6, 4)).requires_grad_()
        F.cross_entropy(logits, classes(4, 6), weight).backward()
        assert session.cost().total.rounds <= 12


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch 2.13")
def test_chunks_of_a_linear_cross_entropy_are_not_taken() -> None:
    options = nn.modules.linear_cross_entropy_options.LinearCrossEntropyOptions(batch_chunk_size=2)
    data, weights, targets = x(5, 3), x(4, 3), classes(4, 5)
    wanted = F.cross_entropy(data @ weights.t(), targets)
    secret = SESSION.share(weights).requires_grad_()
    found = F.linear_cross_entropy(SESSION.share(data), secret, targets, options=options)
    found.backward()
    assert float((clear_of(found) - wanted).abs()) <= 16 * UNIT
    assert secret.grad is not None


def test_a_negative_variance_counts_as_the_least() -> None:
    data, targets = x(3), x(3)
    found = F.gaussian_nll_loss(SESSION.share(data), SESSION.share(targets), SESSION.share(-torch.ones(3)), eps=0.25)
    wanted = F.gaussian_nll_loss(data, targets, torch.full((3,), 0.25, dtype=torch.float64))
    assert float((clear_of(found) - wanted).abs()) <= 16 * UNIT
    with pytest.raises(InvalidArgument):
        F.gaussian_nll_loss(SESSION.share(data), SESSION.share(targets), SESSION.share(torch.ones(2)))


def test_adaptive_softmax_of_public_classes() -> None:
    """Which cluster a class belongs to decides shapes: classes are public; the most likely one would show it."""
    torch.manual_seed(0)
    clear = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4, 8], div_value=2.0).double()
    secret = SESSION.encrypt(copy.deepcopy(clear).float())
    data, targets = x(6, 8), torch.tensor([0, 3, 5, 11, 8, 2])
    wanted, found = clear(data, targets), secret(SESSION.share(data), targets)
    wanted.loss.backward()
    found.loss.backward()
    assert float((clear_of(found.output) - wanted.output).abs().max()) <= 16 * UNIT
    for p, q in zip(clear.parameters(), secret.parameters(), strict=True):
        assert float((clear_of(q.grad) - p.grad).abs().max()) <= 32 * UNIT
    with pytest.raises(RevealRequired):
        secret.predict(SESSION.share(data))
    with pytest.raises(UnsupportedOperation):
        secret(SESSION.share(data), SESSION.share(targets))
