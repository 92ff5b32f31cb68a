"""torch's autograd machinery on secrets: views, in-place writes, versions, hooks, higher order, checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from torchveil import EncryptedTensor, FixedPoint, Session, UnsupportedOperation, public

SESSION = Session(debug=True)


def share(*values: float, grad: bool = False) -> EncryptedTensor:
    return SESSION.share(torch.tensor(values), requires_grad=grad)


def close(found: Tensor, wanted: Tensor, atol: float = 1e-3) -> None:
    assert isinstance(found, EncryptedTensor)
    assert tuple(found.handle.shape) == tuple(found.shape)
    clear = found.reveal(dtype=torch.float64)
    assert clear.shape == wanted.shape == found.shape
    assert torch.allclose(clear, wanted.double(), atol=atol), (clear, wanted)


# --- in-place writes are seen through every alias ------------------------------------------------------------------

WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "add_ to a row": lambda t, v: t[0].add_(v[0]),
    "assign a row": lambda t, v: t.__setitem__(0, v[1]),
    "assign a number": lambda t, v: t.__setitem__((slice(None), 1), 2.5),
    "assign by indices": lambda t, v: t.__setitem__(torch.tensor([1, 0]), v),
    "write into a transpose": lambda t, v: t.t()[1].mul_(3),
    "write into a view of a view": lambda t, v: t.view(-1)[1:5].view(2, 2)[1].sub_(1),
    "write through detach": lambda t, v: t.detach().mul_(2),
    "write through data": lambda t, v: t.data.add_(v),
    "copy_": lambda t, v: t.copy_(v),
    "copy_ broadcasts": lambda t, v: t.copy_(v[0]),
    "zero_ a column": lambda t, v: t[:, 2].zero_(),
    "fill_ a diagonal": lambda t, v: t.diagonal().fill_(7),
    "clamp_": lambda t, v: t.clamp_(-0.5, 0.5),
    "lerp_": lambda t, v: t.lerp_(v, 0.25),
    "addcmul_": lambda t, v: t.addcmul_(v, v, value=0.5),
    "chunk": lambda t, v: t.chunk(3, 1)[2].mul_(-1),
    "unbind": lambda t, v: t.unbind(0)[1].add_(1),
    "masked_fill_": lambda t, v: t.masked_fill_(torch.tensor([[True, False, True]]), 9.0),
    "expanded source": lambda t, v: t.add_(v[:, :1].expand(2, 3)),
}


@pytest.mark.parametrize("name", WRITES)
def test_in_place_writes_reach_base_and_views(name: str) -> None:
    torch.manual_seed(1)
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    secret, value = SESSION.share(a), SESSION.share(b)
    (secret * secret).sum()  # leaves an opening behind that must not survive the write
    clear = a.clone()
    views = [t.t() for t in (clear, secret)], [t[0] for t in (clear, secret)], [t.detach() for t in (clear, secret)]
    WRITES[name](clear, b)
    WRITES[name](secret, value)
    close(secret, clear)
    for wanted, found in views:
        close(found, wanted)
    close(secret * secret, clear * clear, atol=4e-3)
    close(value, b)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["row", "column", "whole", "transpose"]), min_size=1, max_size=5), st.integers(0, 2**16)
)
def test_any_sequence_of_writes(places: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    a = torch.randn(3, 3)
    clear, secret = a.clone(), SESSION.share(a)
    early = clear.view(-1), secret.view(-1)
    take = {"row": lambda t: t[1], "column": lambda t: t[:, 2], "whole": lambda t: t, "transpose": lambda t: t.t()[:2]}
    for k, place in enumerate(places):
        for t in (clear, secret):
            view = take[place](t)
            (view.add_, view.mul_, view.sub_)[k % 3](2)
    close(secret, clear, atol=1e-2)
    close(early[1], early[0], atol=1e-2)


def test_a_write_does_not_reach_clones_or_results() -> None:
    x = share(1.0, 2.0)
    y, z, w, same = x.clone(), x + 1, x * 1, x.expand(2)
    x.mul_(3)
    for found, wanted in ((y, [1, 2]), (z, [2, 3]), (w, [1, 2]), (same, [3, 6]), (x, [3, 6])):
        close(found, torch.tensor(wanted))


def test_moving_average_of_parameters() -> None:
    model = SESSION.encrypt(nn.Linear(3, 2))
    start = [p.reveal() for p in model.parameters()]
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda old, new, _n: old + 0.25 * (new - old))
    average.update_parameters(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    average.update_parameters(model)
    for p, wanted in zip(average.module.parameters(), start, strict=True):
        close(p, wanted + 0.25)


def test_swapping_tensors_swaps_secrets() -> None:
    a, b = share(1.0, 2.0), share(3.0, 4.0)
    torch.utils.swap_tensors(a, b)
    close(a, torch.tensor([3.0, 4.0]))
    close(b, torch.tensor([1.0, 2.0]))


# --- autograd ------------------------------------------------------------------------------------------------------


def test_gradients_accumulate_and_can_be_set_to_none() -> None:
    x = share(1.0, -2.0, grad=True)
    for k in range(1, 4):
        (x * x).sum().backward()
        close(x.grad, k * torch.tensor([2.0, -4.0]))
    x.grad = None
    (3 * x).sum().backward()
    close(x.grad, torch.tensor([3.0, 3.0]))
    x.grad.zero_()
    close(x.grad, torch.zeros(2))


def test_gradients_are_secret_even_where_they_are_public_constants() -> None:
    x = share(1.0, 2.0, grad=True)
    x.sum().backward()
    assert isinstance(x.grad, EncryptedTensor)
    close(x.grad, torch.ones(2))


def test_retain_graph_and_a_freed_graph() -> None:
    x = share(2.0, grad=True)
    y = (x * x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    close(x.grad, torch.tensor([24.0]))
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_higher_derivatives() -> None:
    x = share(1.5, -0.5, grad=True)
    (first,) = torch.autograd.grad((x**3 - 2 * x * x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    clear = torch.tensor([1.5, -0.5])
    close(first, 3 * clear**2 - 4 * clear)
    close(second, 6 * clear - 4)
    close(third, torch.full((2,), 6.0))


def test_functional_gradients_and_jacobians() -> None:
    x = share(1.0, 2.0, 3.0)
    close(torch.func.grad(lambda t: (t * t).sum())(x), torch.tensor([2.0, 4.0, 6.0]))
    y = share(1.0, -1.0, grad=True)
    (grad,) = torch.autograd.grad(torch.sigmoid(y), y, share(1.0, 2.0))
    s = torch.sigmoid(torch.tensor([1.0, -1.0]))
    close(grad, torch.tensor([1.0, 2.0]) * s * (1 - s))


def test_no_grad_detach_and_requires_grad() -> None:
    x = share(1.0, 2.0, grad=True)
    with torch.no_grad():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad and not x.detach().requires_grad
    (x * x.detach()).sum().backward()
    close(x.grad, torch.tensor([1.0, 2.0]))
    with pytest.raises(RuntimeError, match="leaf"):
        x.add_(1)
    assert not (x > 1).requires_grad


def test_a_value_saved_for_backward_may_not_be_overwritten() -> None:
    x = share(1.0, 2.0, grad=True)
    y = x * 1.5
    z = (y * y).sum()
    with torch.no_grad():
        y.detach().mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        z.backward()


def test_an_intermediate_result_may_be_written_in_place() -> None:
    clear = torch.tensor([[1.0, 2.0], [3.0, -4.0]], requires_grad=True)
    secret = SESSION.share(clear).requires_grad_()
    for x in (clear, secret):
        y = x * 2
        y[0].mul_(3)
        y[:, 1] = x[:, 0]
        y.relu_().sum().backward()
    close(secret.grad, clear.grad)


def test_hooks_see_secrets() -> None:
    seen: list[Tensor] = []
    x = share(1.0, 2.0, grad=True)
    x.register_hook(lambda g: g * 2)
    x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad))
    layer = SESSION.encrypt(nn.Linear(2, 1, bias=False))
    layer.register_forward_hook(lambda _m, args, out: seen.extend([args[0], out]))
    layer.register_full_backward_hook(lambda _m, gi, go: seen.extend([gi[0], go[0]]))
    layer(x.unsqueeze(0)).sum().backward()
    assert len(seen) == 5 and all(isinstance(t, EncryptedTensor) for t in seen)
    close(x.grad, 2 * layer.weight.reveal()[0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant: bool) -> None:
    torch.manual_seed(0)
    clear = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    secret = SESSION.encrypt(copy.deepcopy(clear))
    x = torch.randn(2, 3)
    (clear(x) ** 2).sum().backward()
    (checkpoint(secret, SESSION.share(x, requires_grad=True), use_reentrant=reentrant) ** 2).sum().backward()
    for p, q in zip(clear.parameters(), secret.parameters(), strict=True):
        close(q.grad, p.grad, atol=2e-3)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


def test_functions_of_the_user() -> None:
    x = share(1.5, -1.0, grad=True)
    Cube.apply(x).sum().backward()
    close(x.grad, torch.tensor([6.75, 3.0]))


@pytest.mark.parametrize("wrap", [public, SESSION.share], ids=["public", "secret"])
def test_public_and_secret_factors_have_the_same_gradients(wrap: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    w, x, mask = torch.randn(3, 2), torch.randn(4, 3), torch.rand(4, 2)
    clear = w.clone().requires_grad_()
    secret = SESSION.share(w, requires_grad=True)
    ((x @ clear) * mask - mask / 2 + clear.sum()).pow(2).sum().backward()
    ((wrap(x) @ secret) * wrap(mask) - wrap(mask) / 2 + secret.sum()).pow(2).sum().backward()
    close(secret.grad, clear.grad, atol=6e-3)


def test_public_tensors_in_lists_and_keywords() -> None:
    x, clear = share(1.0, 2.0), torch.tensor([3.0, 4.5])
    close(torch.cat([x, public(clear)]), torch.tensor([1.0, 2.0, 3.0, 4.5]))
    close(torch.stack([public(clear), x]), torch.tensor([[3.0, 4.5], [1.0, 2.0]]))
    close(torch.where(x > 1.5, x, public(clear)), torch.tensor([3.0, 2.0]))
    close(torch.addcmul(x, x, public(clear), value=0.5), torch.tensor([2.5, 6.5]))
    close(F.linear(x, public(torch.eye(2)), bias=public(clear)), torch.tensor([4.0, 6.5]))
    assert type(public(clear) * 2 + 1) is type(public(clear))


def test_inference_mode_takes_composite_operations_apart() -> None:
    torch.manual_seed(0)
    clear = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(3, 2), nn.LogSoftmax(1)).eval()
    secret = SESSION.encrypt(copy.deepcopy(clear))
    x = torch.randn(5, 4)
    with torch.inference_mode():
        found = secret(SESSION.share(x))
        close(found, clear(x))
        close(found.argmax(1).float(), clear(x).argmax(1).float())
        close((found - 1).t() @ found, (clear(x) - 1).t() @ clear(x), atol=2e-2)


RESHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "squeeze_": lambda t: t.squeeze_(),
    "squeeze_ a dimension": lambda t: t.squeeze_(1),
    "unsqueeze_": lambda t: t.unsqueeze_(0),
    "transpose_": lambda t: t.transpose_(0, 2),
    "of a view": lambda t: t[1].t_(),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_reshaping_in_place_keeps_the_storage(name: str) -> None:
    clear = torch.arange(6.0).reshape(2, 1, 3)
    secret = SESSION.share(clear)
    aliases = clear.detach(), secret.detach()
    out = RESHAPES[name](clear), RESHAPES[name](secret)
    for t in out:
        t[0].mul_(2)
    close(out[1], out[0])
    close(secret, clear)
    close(aliases[1], aliases[0])
    close((out[1] * 2).sum(), (out[0] * 2).sum())


def test_one_dimensional_linear_layers_and_products() -> None:
    x, w, b = torch.randn(3), torch.randn(2, 3), torch.randn(2)
    clear, secret = w.clone().requires_grad_(), SESSION.share(w, requires_grad=True)
    for t, v in ((clear, lambda z: z), (secret, SESSION.share)):
        (F.linear(v(x), t, v(b)).sum() + (v(x) @ t.t()).pow(2).sum() + t @ v(x) @ v(b)).backward()
    close(secret.grad, clear.grad, atol=4e-3)


PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "einsum": lambda a, b: torch.einsum("bij,jk->bik", a, b),
    "tensordot": lambda a, b: torch.tensordot(a, b, 1),
    "broadcast matmul": lambda a, b: a.unsqueeze(1) @ b,
    "outer": lambda a, b: torch.outer(a[0, 0], b[0]),
    "cosine by hand": lambda a, b: (a[0] @ b).tanh().softmax(-1),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_composite_products(name: str) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 3), torch.randn(3, 5)
    close(PRODUCTS[name](SESSION.share(a), SESSION.share(b)), PRODUCTS[name](a, b))


def test_selections_of_nothing_are_refused() -> None:
    for choose in (torch.max, torch.argmax, torch.mean, lambda t: t.view(0, 3).max(0)):
        with pytest.raises(UnsupportedOperation):
            choose(SESSION.share(torch.zeros(0)))


# --- selections and whole numbers ------------------------------------------------------------------------------------


def test_accuracy_and_confusion_on_shares() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 3), torch.randint(0, 3, (20,))
    x, y = SESSION.share(logits), SESSION.share(labels)
    hits = x.argmax(1) == y
    assert hits.dtype == torch.bool
    wanted = logits.argmax(1) == labels
    assert int(hits.sum().reveal()) == int(wanted.sum())
    assert float(hits.float().mean().reveal()) == pytest.approx(float(wanted.float().mean()), abs=1e-3)
    rows, columns = F.one_hot(y, 3).float(), F.one_hot(x.argmax(1), 3).float()
    confusion = torch.zeros(3, 3).index_put_((labels, logits.argmax(1)), torch.ones(20), accumulate=True)
    close(rows.t() @ columns, confusion)
    precision = (rows.t() @ columns).diagonal() / (columns.sum(0) + 1e-3)
    close(precision, confusion.diagonal() / (confusion.sum(0) + 1e-3), atol=2e-3)


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "times a fraction": lambda k: k * 0.25,
    "plus a fraction": lambda k: k + 0.1,
    "divided by a number": lambda k: k / 3,
    "divided by itself": lambda k: k / (k + 1),
    "reciprocal": lambda k: 1 / (k + 1),
    "sigmoid": lambda k: torch.sigmoid(k.float()),
    "sqrt": lambda k: torch.sqrt(k.float()),
    "exp": lambda k: torch.exp(-k),
    "mean": lambda k: k.float().mean(),
    "clamp": lambda k: k.float().clamp(0.5, 1.5),
    "compared with a fraction": lambda k: (k.float() > 1.5).float(),
    "softmax": lambda k: torch.softmax(k.float(), 0),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_become_numbers_with_digits(name: str) -> None:
    clear = torch.tensor([0, 1, 2, 7])
    close(WHOLE[name](SESSION.share(clear)), WHOLE[name](clear))


def test_bits_times_fractions() -> None:
    x = share(-1.0, 2.0, 0.0)
    close((x > 0) * 0.3 + (x < 0) * -0.7, torch.tensor([-0.7, 0.3, 0.0]))
    close((x > 0).float().sub(0.5), torch.tensor([-0.5, 0.5, -0.5]))
    close(((x > 0) & ~(x > 3) | (x == 0)).float(), torch.tensor([0.0, 1.0, 1.0]))


def test_secrets_of_two_formats_meet() -> None:
    a = SESSION.share(torch.tensor([1.25, -2.5]), fixed_point=FixedPoint(10, 3))
    b = share(0.5, 3.0)
    close(a + b, torch.tensor([1.75, 0.5]))
    close(a * b, torch.tensor([0.625, -7.5]))
    close(torch.cat([a, b]), torch.tensor([1.25, -2.5, 0.5, 3.0]))
