"""All of torch.optim: optimizers with their options, in lists and fused, schedulers, averaged models, clipping."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler, swa_utils

from tests.tensor.test_training import STEPS, batches, compare, fit, mlp, train_both
from torchveil import EncryptedTensor, InvalidArgument, PlainWrite, RevealRequired, Session, WouldBePublished

Make = Callable[[nn.Module], optim.Optimizer]


def made(kind: Callable[..., optim.Optimizer], **options: Any) -> Make:
    return lambda m: kind(m.parameters(), **options)


#: Options that tests/tensor/test_training.py does not have; an epsilon of 1/100 for the reason given there.
OPTIONS: dict[str, tuple[Make, float]] = {
    "sgd, everything": (made(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True), 2.0**-10),
    "sgd, a rate in a tensor": (made(optim.SGD, lr=torch.tensor(0.1)), 2.0**-10),
    "adam, decay and maximize": (made(optim.Adam, lr=0.01, eps=1e-2, weight_decay=0.1, maximize=True), 2.0**-9),
    "adam, a rate in a tensor": (made(optim.Adam, lr=torch.tensor(0.01), eps=1e-2), 2.0**-9),
    "adam, other betas": (made(optim.Adam, lr=0.01, eps=1e-2, betas=(0.8, 0.99)), 2.0**-9),
    "adamw, amsgrad": (made(optim.AdamW, lr=0.01, eps=1e-2, amsgrad=True), 2.0**-9),
    "adamax": (made(optim.Adamax, lr=0.01, eps=1e-2), 2.0**-9),
    "adamax, decay": (made(optim.Adamax, lr=0.01, eps=1e-2, weight_decay=0.1, maximize=True), 2.0**-9),
    "nadam, decoupled": (
        made(optim.NAdam, lr=0.01, eps=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
        2.0**-9,
    ),
    "radam": (made(optim.RAdam, lr=0.01, eps=1e-2), 2.0**-9),
    "adagrad": (made(optim.Adagrad, lr=0.01, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.1), 2.0**-9),
    "adadelta": (made(optim.Adadelta, lr=0.5, rho=0.8, eps=1e-2, weight_decay=0.01), 2.0**-9),
    "adadelta, torch's epsilon": (made(optim.Adadelta), 2.0**-9),
    "rmsprop, decay": (made(optim.RMSprop, lr=0.01, eps=1e-2, alpha=0.9, weight_decay=0.1), 2.0**-8),
    "asgd": (made(optim.ASGD, lr=0.05, t0=2, lambd=1e-2, alpha=0.5), 2.0**-10),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    make, tolerance = OPTIONS[name]
    train_both(make, tolerance=tolerance)


#: Lists (foreach) and fused steps; Adagrad's list form multiplies the gradient by the rate before it divides.
ARRANGED: dict[str, tuple[Make, float]] = {
    "sgd, lists": (made(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True, foreach=True), 2.0**-10),
    "sgd, fused": (made(optim.SGD, lr=0.1, fused=True), 2.0**-10),
    "sgd, fused, momentum": (
        made(optim.SGD, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01, fused=True, maximize=True),
        2.0**-10,
    ),
    "sgd, fused, nesterov": (made(optim.SGD, lr=0.1, momentum=0.9, nesterov=True, fused=True), 2.0**-10),
    "adam, lists": (made(optim.Adam, lr=0.01, eps=1e-2, weight_decay=0.1, foreach=True), 2.0**-9),
    "adam, lists, amsgrad": (made(optim.Adam, lr=0.01, eps=1e-2, amsgrad=True, foreach=True), 2.0**-9),
    "adam, fused": (made(optim.Adam, lr=0.01, eps=1e-2, weight_decay=0.1, fused=True), 2.0**-9),
    "adam, fused, amsgrad": (made(optim.Adam, lr=0.01, eps=1e-2, amsgrad=True, fused=True), 2.0**-9),
    "adamw, lists": (made(optim.AdamW, lr=0.01, eps=1e-2, foreach=True), 2.0**-9),
    "adamw, fused": (made(optim.AdamW, lr=0.01, eps=1e-2, weight_decay=0.1, fused=True), 2.0**-9),
    "adamax, lists": (made(optim.Adamax, lr=0.01, eps=1e-2, foreach=True), 2.0**-9),
    "nadam, lists": (made(optim.NAdam, lr=0.01, eps=1e-2, foreach=True), 2.0**-9),
    "adagrad, lists": (made(optim.Adagrad, lr=0.01, eps=1e-2, foreach=True), 2.0**-7),
    "adagrad, fused": (made(optim.Adagrad, lr=0.01, lr_decay=0.1, eps=1e-2, fused=True), 2.0**-9),
    "adadelta, lists": (made(optim.Adadelta, lr=0.5, eps=1e-2, foreach=True), 2.0**-9),
    "rmsprop, lists": (
        made(optim.RMSprop, lr=0.005, eps=1e-1, centered=True, momentum=0.5, foreach=True),
        2.0**-8,
    ),
    "asgd, lists": (made(optim.ASGD, lr=0.05, t0=2, foreach=True), 2.0**-10),
}


@pytest.mark.parametrize("name", ARRANGED)
def test_lists_and_fused_steps(name: str) -> None:
    make, tolerance = ARRANGED[name]
    train_both(make, tolerance=tolerance)


def test_radam_once_it_is_rectified() -> None:
    """From the sixth step on."""
    clear, secret = mlp().double(), (session := Session()).encrypt(mlp())
    make = made(optim.RAdam, lr=0.01, eps=1e-2)
    x, y = batches(16, 5)[0], batches(16, 3, seed=6)[0]
    fit(clear, make(clear), F.mse_loss, [x.double()] * 8, [y.double()] * 8)
    fit(secret, make(secret), F.mse_loss, [session.share(x)] * 8, [session.share(y)] * 8)
    compare(clear, secret, 2.0**-9)


@pytest.mark.parametrize("foreach", [False, True])
def test_rprop_follows_the_signs(foreach: bool) -> None:
    """Only signs count: where a gradient is about a unit its sign is a matter of rounding, elsewhere steps agree."""
    session = Session()
    clear, secret = mlp().double(), session.encrypt(mlp())
    x, y = batches(16, 5), batches(16, 3, seed=6)
    make = made(optim.Rprop, lr=0.01, foreach=foreach)
    fit(clear, make(clear), F.mse_loss, list(x.double()), list(y.double()))
    fit(secret, make(secret), F.mse_loss, [session.share(v) for v in x], [session.share(v) for v in y])
    errors = [
        (q.reveal(dtype=torch.float64) - p.detach()).abs().flatten()
        for p, q in zip(clear.parameters(), secret.parameters(), strict=True)
    ]
    assert float((torch.cat(errors) <= 2.0**-10).double().mean()) > 0.9


REFUSED: dict[str, tuple[Make, type[Exception]]] = {
    "a line search": (made(optim.LBFGS), RevealRequired),
    "a step of the size of its parameter": (made(optim.Adafactor), RevealRequired),
    "infinities in a list": (made(optim.RAdam, foreach=True), InvalidArgument),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_secrets_is_refused(name: str) -> None:
    make, error = REFUSED[name]
    session = Session()
    secret = session.encrypt(mlp())
    optimizer = make(secret)
    x, y = session.share(batches(16, 5)[0]), session.share(batches(16, 3)[0])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(secret(x), y)
        loss.backward()
        return loss

    with pytest.raises(error):
        optimizer.step(closure)
    assert session.reveals == ()


SCHEDULERS: dict[str, Callable[[optim.Optimizer], Any]] = {
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.5),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=3),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, STEPS, 2.0),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2, cycle_momentum=True),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "averaging": lambda o: swa_utils.SWALR(o, swa_lr=0.02, anneal_epochs=2),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about the epochs of nested schedulers
        train_both(made(optim.SGD, lr=0.1, momentum=0.9), make_scheduler=SCHEDULERS[name])


def test_a_scheduler_that_reads_the_loss_wants_it_revealed() -> None:
    session = Session()
    secret = session.encrypt(mlp())
    optimizer = optim.SGD(secret.parameters(), lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    loss = F.mse_loss(secret(session.share(batches(16, 5)[0])), session.share(batches(16, 3)[0]))
    with pytest.raises(RevealRequired):
        scheduler.step(loss)
    scheduler.step(loss.reveal())
    scheduler.step(loss.reveal() + 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


AVERAGES: dict[str, dict[str, Any]] = {
    "equal": {},
    "exponential": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)},
    "exponential, one by one": {"avg_fn": swa_utils.get_ema_avg_fn(0.9)},
    "equal, lists": {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averaged_models(name: str) -> None:
    session = Session()
    clear, secret = mlp().double(), session.encrypt(mlp())
    averaged = [swa_utils.AveragedModel(m, **AVERAGES[name]) for m in (clear, secret)]
    x, y = batches(16, 5), batches(16, 3, seed=6)
    for module, average, inputs, targets in (
        (clear, averaged[0], list(x.double()), list(y.double())),
        (secret, averaged[1], [session.share(v) for v in x], [session.share(v) for v in y]),
    ):
        optimizer = optim.SGD(module.parameters(), lr=0.2)
        fit(
            module,
            optimizer,
            F.mse_loss,
            inputs,
            targets,
            after_step=lambda average=average, module=module: average.update_parameters(module),
        )
    compare(averaged[0].module, averaged[1].module, 2.0**-9)
    found = averaged[1](session.share(x[0])).reveal(dtype=torch.float64)
    assert torch.allclose(found, averaged[0](x[0].double()), atol=2.0**-8)
    assert int(averaged[1].n_averaged) == STEPS


def test_statistics_of_an_averaged_model_are_taken_again() -> None:
    session = Session()
    torch.manual_seed(0)
    clear = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).double()
    secret = session.encrypt(copy.deepcopy(clear).float())
    x = batches(16, 5)
    swa_utils.update_bn(list(x.double()), clear)
    swa_utils.update_bn([session.share(v) for v in x], secret)
    assert torch.allclose(secret[1].running_mean.reveal(dtype=torch.float64), clear[1].running_mean, atol=1e-3)
    assert torch.allclose(secret[1].running_var.reveal(dtype=torch.float64), clear[1].running_var, atol=1e-3)


CLIPS: dict[str, Callable[[nn.Module], Any]] = {
    "norm, lists": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.25, foreach=True),
    "norm, which is finite": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.25, error_if_nonfinite=True),
    "norm of one parameter": lambda m: nn.utils.clip_grad_norm_(m[0].weight, 0.05),
    "value, lists": lambda m: nn.utils.clip_grad_value_(m.parameters(), 0.02, foreach=True),
    "norm by hand": lambda m: nn.utils.clip_grads_with_norm_(
        m.parameters(), 0.25, nn.utils.get_total_norm([p.grad for p in m.parameters()])
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clipping(name: str) -> None:
    train_both(made(optim.SGD, lr=0.5), before_step=CLIPS[name])


def test_gradients_accumulate_over_batches() -> None:
    """Four small batches before a step give the step of one large batch."""
    session = Session()
    clear, secret = mlp().double(), session.encrypt(mlp())
    x, y = batches(16, 5)[0], batches(16, 3, seed=6)[0]
    F.mse_loss(clear(x.double()), y.double()).backward()
    for part, wanted in zip(x.chunk(4), y.chunk(4), strict=True):
        (F.mse_loss(secret(session.share(part)), session.share(wanted)) / 4).backward()
    for p, q in zip(clear.parameters(), secret.parameters(), strict=True):
        assert isinstance(q.grad, EncryptedTensor)
        # the errors of four backward passes: 8.8 units in 250 runs; a batch too many or too few is thousands off
        assert float((q.grad.reveal(dtype=torch.float64) - p.grad).abs().max()) <= 24 * 2.0**-16


def test_lists_write_no_secret_into_a_plain_tensor() -> None:
    secret = Session().share(torch.ones(3))
    with pytest.raises((PlainWrite, WouldBePublished)):
        torch._foreach_add_([torch.ones(3)], [secret])
