"""Attention and transformers against float64; masks of minus infinity, which exclude places and overflow nothing."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tensor.sequences import Called, check_compiled, compare
from torchveil import EncodingError, Session, UnsupportedOperation, WouldBePublished, public

TWO_PARTIES = Session(debug=True)
THREE_PARTIES = Session(["a", "b", "c"], debug=True)

CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
CAUSAL_BITS = torch.ones(5, 5, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
NO_PADDING = torch.zeros(2, 5, dtype=torch.bool)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    # torch's own words about masks of different kinds and nested tensors
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


class Attend(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, *operands: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*operands, **self.options)


# --- scaled dot-product attention ------------------------------------------------------------------------------------

ATTENTION = {
    "plain": {},
    "causal": {"is_causal": True},
    "its own scale": {"scale": 0.3},
    "mask of bools": {"attn_mask": torch.rand(4, 5, generator=torch.Generator().manual_seed(2)) < 0.6},
    "mask of infinities": {"attn_mask": torch.triu(torch.full((4, 5), -torch.inf), 1)},
    "mask that excludes nothing": {"attn_mask": torch.zeros(4, 5)},
    "a row without any place": {"attn_mask": torch.tensor([[True] * 5, [False] * 5, [True] * 5, [True] * 5])},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_scaled_dot_product_attention(name: str) -> None:
    compare(TWO_PARTIES, Attend(**ATTENTION[name]), torch.randn(2, 2, 4, 6), *torch.randn(2, 2, 2, 5, 6).unbind(0))


@pytest.mark.parametrize("name", ["plain", "causal", "a row without any place"])
def test_attention_with_three_parties(name: str) -> None:
    compare(THREE_PARTIES, Attend(**ATTENTION[name]), torch.randn(2, 4, 3), *torch.randn(2, 2, 5, 3).unbind(0))


def test_attention_with_grouped_queries() -> None:
    operands = torch.randn(2, 4, 4, 6), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 6)
    mask = ATTENTION["mask of bools"]["attn_mask"]
    compare(TWO_PARTIES, Attend(enable_gqa=True, attn_mask=mask), *operands)


def test_values_of_another_size_and_no_batch() -> None:
    compare(TWO_PARTIES, Attend(), torch.randn(3, 4, 6), torch.randn(3, 5, 6), torch.randn(3, 5, 2))
    compare(TWO_PARTIES, Attend(is_causal=True), torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 6))


def test_a_secret_mask_and_a_public_one_are_added() -> None:
    q, k, v, bias = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(3, 3)
    wanted = F.scaled_dot_product_attention(q, k, v, bias)
    shares = [TWO_PARTIES.share(x) for x in (q, k, v)]
    for mask in (TWO_PARTIES.share(bias), public(bias)):
        found = F.scaled_dot_product_attention(*shares, mask).reveal()
        assert torch.allclose(found, wanted, atol=3e-4)
    secret = TWO_PARTIES.share(bias).requires_grad_()
    clear = bias.clone().requires_grad_()
    F.scaled_dot_product_attention(*shares, secret).sum().backward()
    F.scaled_dot_product_attention(q, k, v, clear).sum().backward()
    assert torch.allclose(secret.grad.reveal(), clear.grad, atol=5e-4)


def test_a_plain_mask_of_numbers_is_refused() -> None:
    x = TWO_PARTIES.share(torch.randn(1, 3, 4))
    with pytest.raises(WouldBePublished):
        F.scaled_dot_product_attention(x, x, x, torch.randn(3, 3))
    with pytest.raises(WouldBePublished):
        F.scaled_dot_product_attention(x, x, x, torch.zeros(3, 3).fill_diagonal_(-1.0))


@pytest.mark.parametrize("causal", [True, False])
def test_dropout_inside_attention(causal: bool) -> None:
    """A mask drawn in public: the result is the mean over many of them, and gradients pass."""
    x = torch.randn(1, 1, 3, 2)
    value = torch.ones(1, 1, 3, 400)
    q, k, v = (TWO_PARTIES.share(t).requires_grad_() for t in (x, x, value))
    with torch.no_grad():
        assert float(F.scaled_dot_product_attention(q, k, v, dropout_p=1.0, is_causal=causal).reveal().abs().max()) == 0
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, is_causal=causal)
    out.sum().backward()
    revealed = out.detach().reveal()
    assert bool((revealed - revealed[..., :1]).abs().max() < 1e-3)  # one mask for all columns of the value
    assert float(revealed.min()) >= 0 and float(revealed.max()) < 2.01
    assert q.grad.shape == x.shape


# --- multi-head attention --------------------------------------------------------------------------------------------

MASKS = {
    "none": {},
    "causal": {"attn_mask": CAUSAL},
    "causal, and said so": {"attn_mask": CAUSAL_BITS, "is_causal": True},
    "padding": {"key_padding_mask": PADDING},
    "no padding": {"key_padding_mask": NO_PADDING},
    "padding and causal": {"key_padding_mask": PADDING, "attn_mask": CAUSAL},
    "one for each head": {"attn_mask": CAUSAL_BITS.expand(4, 5, 5)},
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", MASKS)
def test_masks_of_many_heads(name: str, need_weights: bool) -> None:
    x = torch.randn(2, 5, 4)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    compare(TWO_PARTIES, Called(attention, need_weights=need_weights, **MASKS[name]), x, x, x)


OPTIONS = {
    "extra key and value": {"add_bias_kv": True},
    "a key and value of zeros": {"add_zero_attn": True},
    "no biases": {"bias": False},
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_many_heads(name: str, need_weights: bool) -> None:
    x = torch.randn(2, 5, 4)
    attention = nn.MultiheadAttention(4, 2, batch_first=True, **OPTIONS[name])
    masks = {"key_padding_mask": PADDING, "attn_mask": CAUSAL}
    compare(TWO_PARTIES, Called(attention, need_weights=need_weights, **masks), x, x, x)


def test_keys_and_values_of_other_sizes_and_weights_of_each_head() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=6)
    operands = torch.randn(5, 2, 4), torch.randn(3, 2, 3), torch.randn(3, 2, 6)
    compare(TWO_PARTIES, Called(attention, average_attn_weights=False), *operands)
    compare(TWO_PARTIES, Called(nn.MultiheadAttention(4, 2), need_weights=False), *torch.randn(3, 3, 4).unbind(0))


def test_dropout_of_many_heads() -> None:
    x = TWO_PARTIES.share(torch.randn(2, 5, 4)).requires_grad_()
    attention = TWO_PARTIES.encrypt(nn.MultiheadAttention(4, 2, dropout=1.0, batch_first=True))
    for need_weights in (True, False):
        out, _ = attention(x, x, x, need_weights=need_weights, attn_mask=CAUSAL)
        assert torch.allclose(out.detach().reveal(), attention.out_proj.bias.detach().reveal().expand(2, 5, 4))
    assert float((attention.eval()(x, x, x)[0].detach().reveal()).abs().max()) > 0.01


# --- transformers ----------------------------------------------------------------------------------------------------


def encoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, **options)


def decoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True, **options)


ENCODERS = {
    "relu": lambda: Called(encoder_layer(), src_key_padding_mask=PADDING),
    "gelu, norm first": lambda: Called(
        encoder_layer(activation="gelu", norm_first=True), src_mask=CAUSAL, is_causal=True
    ),
    "two layers": lambda: Called(nn.TransformerEncoder(encoder_layer(), 2), src_key_padding_mask=PADDING),
    "without the check of the mask": lambda: Called(
        nn.TransformerEncoder(encoder_layer(), 1, norm=nn.LayerNorm(4), mask_check=False),
        mask=CAUSAL,
        src_key_padding_mask=PADDING,
    ),
}
DECODERS = {
    "relu": lambda: Called(decoder_layer(), tgt_mask=CAUSAL, memory_key_padding_mask=PADDING),
    "gelu, norm first": lambda: Called(decoder_layer(activation="gelu", norm_first=True), tgt_mask=CAUSAL),
    "both": lambda: Called(
        nn.Transformer(4, 2, 1, 1, 8, dropout=0.0, batch_first=True), tgt_mask=CAUSAL, src_key_padding_mask=PADDING
    ),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, training: bool) -> None:
    compare(TWO_PARTIES, ENCODERS[name]().train(training), torch.randn(2, 5, 4), units=30, gradient_units=200)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, training: bool) -> None:
    x, memory = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    operands = (memory, x) if name == "both" else (x, memory)
    compare(TWO_PARTIES, DECODERS[name]().train(training), *operands, units=30, gradient_units=200)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_torchs_fast_paths_are_not_taken(mode: Any) -> None:
    """In evaluation and without gradients torch would fuse a whole layer, and nest padded batches."""
    model = nn.TransformerEncoder(encoder_layer(), 2).eval()
    x = torch.randn(2, 5, 4)
    wanted = model(x, mask=CAUSAL_BITS, src_key_padding_mask=PADDING).detach()
    secret = TWO_PARTIES.encrypt(model)
    with mode():
        found = secret(TWO_PARTIES.share(x), mask=CAUSAL_BITS, src_key_padding_mask=PADDING).reveal()
    assert torch.allclose(found, wanted, atol=1e-3)


def test_compiled() -> None:
    check_compiled(Session(), Called(encoder_layer(), src_mask=CAUSAL_BITS), torch.randn(2, 5, 4))


def test_a_layer_with_dropout_trains() -> None:
    layer = TWO_PARTIES.encrypt(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True))
    x = TWO_PARTIES.share(torch.randn(2, 5, 4)).requires_grad_()
    layer(x, src_mask=CAUSAL).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert bool(x.grad.reveal().isfinite().all())


# --- masks of minus infinity -----------------------------------------------------------------------------------------

MASK = torch.tensor([[False, True, False, True], [True, False, False, False], [False, True, True, True]])
FLOATS = torch.zeros(3, 4).masked_fill(MASK, -torch.inf)

MASKED = {
    "masked_fill": lambda x: x.masked_fill(MASK, -torch.inf),
    "masked_fill in place": lambda x: (x * 1.5).masked_fill_(MASK, float("-inf")),
    "masked_fill with a public mask": lambda x: x.masked_fill(public(MASK), -torch.inf),
    "where": lambda x: torch.where(MASK, -torch.inf, x),
    "where not": lambda x: torch.where(~MASK, x, torch.tensor(-torch.inf)),
    "sum": lambda x: x + FLOATS,
    "sum in place": lambda x: (x * 1.5).add_(FLOATS),
    "sum with a public mask": lambda x: public(FLOATS) + x,
    "twice": lambda x: (x + FLOATS).masked_fill(MASK.roll(2, 1) & MASK, -torch.inf) + FLOATS,
    "then scaled": lambda x: x.masked_fill(MASK, -torch.inf) * 2 / 3,
    "then moved": lambda x: x.masked_fill(MASK, -torch.inf)[:, [3, 1, 0, 2]].view(3, 2, 2).flatten(1).contiguous(),
    "then added to": lambda x: x.detach() + x.masked_fill(MASK, -torch.inf) - 1.0,
    "another mask in one place": lambda x: torch.where(MASK, FLOATS, x),
}


@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("name", MASKED)
def test_softmax_leaves_masked_places_out(name: str, function: Any) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    clear, secret = x.clone().requires_grad_(), TWO_PARTIES.share(x).requires_grad_()
    wanted, found = function(MASKED[name](clear), 1), function(MASKED[name](secret), 1)
    if function is torch.softmax:
        revealed = found.detach().reveal(dtype=torch.float64)
        assert float((revealed - wanted.detach()).abs().max()) < 4 / 65536
        assert bool((revealed[wanted == 0] == 0).all())  # exactly
    places = wanted != (0 if function is torch.softmax else -torch.inf)
    weights = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    wanted.backward(weights * places)
    found.backward(TWO_PARTIES.share(weights * places))
    assert float((secret.grad.reveal(dtype=torch.float64) - clear.grad).abs().max()) < 12 / 65536


def test_scores_of_any_size_do_not_overflow_beside_a_mask() -> None:
    x = torch.tensor([[1e6, 1e6 + 1, -1e6], [-1e7, 1e8, -1e7 + 0.5], [3.0, 0.0, -1e7]]).double()
    mask = torch.tensor([[False, False, True], [False, True, False], [True, True, False]])
    wanted = x.masked_fill(mask, -torch.inf).softmax(1)
    secret = TWO_PARTIES.share(x)
    for scores in (secret, secret * TWO_PARTIES.share(torch.ones(3, 3))):  # a pending product, too
        found = scores.masked_fill(mask, -torch.inf).softmax(1).reveal()
        assert torch.allclose(found, wanted.float(), atol=1e-4)
        assert bool((found[mask] == 0).all())


def test_a_maximum_leaves_masked_places_out() -> None:
    x = torch.randn(3, 4)
    secret = TWO_PARTIES.share(x).masked_fill(MASK, -torch.inf)
    value, index = secret.max(1)
    wanted = x.masked_fill(MASK, -torch.inf).max(1)
    assert torch.allclose(value.reveal(), wanted.values, atol=1e-4) and index.reveal().equal(wanted.indices)
    assert secret.argmax(1).reveal().equal(wanted.indices)


def test_exponentials_relations_and_minima_leave_masked_places_out() -> None:
    x = torch.round(torch.randn(3, 4, dtype=torch.float64) * 65536) / 65536
    clear, secret = x.masked_fill(MASK, -torch.inf), TWO_PARTIES.share(x).masked_fill(MASK, -torch.inf)
    found = secret.exp().reveal()
    assert torch.allclose(found, clear.exp().float(), atol=1e-3) and bool((found[MASK] == 0).all())
    assert (secret > 0).reveal().equal(clear > 0) and (secret <= 0.5).reveal().equal(clear <= 0.5)
    assert (-secret > 0).reveal().equal(-clear > 0)
    for function in (torch.isinf, torch.isposinf, torch.isneginf, torch.isnan, lambda t: t == -torch.inf):
        assert function(secret).reveal().equal(function(clear)) and function(-secret).reveal().equal(function(-clear))
    for a, b in (
        (-secret, -clear),
        (TWO_PARTIES.share(x).masked_fill(MASK, torch.inf), x.masked_fill(MASK, torch.inf)),
    ):
        assert torch.allclose(a.amin((0, 1)).reveal(), b.amin((0, 1)).float(), atol=1e-4)
        assert a.argmin(1).reveal().equal(b.argmin(1))
        assert (a == a.amin()).reveal().equal(b == b.amin())
        with pytest.raises(UnsupportedOperation, match="plus infinity"):
            a.amax(1)
        with pytest.raises(UnsupportedOperation, match="plus infinity"):
            a.reveal()
    assert (-secret).neg().amax().reveal().equal(secret.amax().reveal())


def test_the_place_in_a_row_of_which_nothing_is_left_is_the_first() -> None:
    x, mask = torch.randn(2, 3), torch.tensor([[True, True, True], [False, True, False]])
    for sign in (1, -1):
        clear = x.masked_fill(mask, -sign * torch.inf)
        secret = TWO_PARTIES.share(x).masked_fill(mask, -sign * torch.inf)
        for keepdim in (False, True):
            found, wanted = ((t.argmax if sign > 0 else t.argmin)(1, keepdim) for t in (secret, clear))
            assert found.reveal().equal(wanted)


def test_a_row_of_which_nothing_is_left_is_refused_before_anything_is_computed() -> None:
    mask = torch.tensor([[True, True], [False, True]])
    masked = TWO_PARTIES.share(torch.randn(2, 2)).masked_fill(mask, -torch.inf)
    before = TWO_PARTIES.cost()
    for refused in (lambda: masked.softmax(1), lambda: masked.max(1), lambda: masked.log_softmax(1)):
        with pytest.raises(UnsupportedOperation, match="nothing"):
            refused()
    after = TWO_PARTIES.cost()
    assert (after.rounds, after.sent_bytes, after.dealt_bytes) == (before.rounds, before.sent_bytes, before.dealt_bytes)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x.reveal(),
        lambda x: x * -1.0,
        lambda x: x * 0.0,
        lambda x: x.sum(),
        lambda x: x @ x.t(),
        lambda x: torch.relu(x),
        lambda x: x.min(1),
        lambda x: torch.cat([x, x]),
        lambda x: 1.0 - x,
    ],
)
def test_what_does_not_know_the_mask_refuses(use: Any) -> None:
    x = TWO_PARTIES.share(torch.randn(3, 4)).masked_fill(MASK, -torch.inf)
    with pytest.raises(UnsupportedOperation, match="minus infinity"):
        use(x)


def test_only_zeros_and_infinities_are_a_mask() -> None:
    x = TWO_PARTIES.share(torch.randn(3, 4))
    with pytest.raises(WouldBePublished):
        x + (FLOATS + 0.5)
    with pytest.raises(WouldBePublished):
        x + torch.zeros(3, 4)
    with pytest.raises(EncodingError):
        x * public(FLOATS)
    with pytest.raises((UnsupportedOperation, EncodingError)):
        x.masked_fill(x > 0, -torch.inf)


def test_cross_entropy_of_masked_logits() -> None:
    x, targets = torch.randn(3, 4, dtype=torch.float64), torch.tensor([2, 1, 0])
    clear, secret = x.clone().requires_grad_(), TWO_PARTIES.share(x).requires_grad_()
    wanted = F.cross_entropy(clear.masked_fill(MASK, -torch.inf), targets)
    found = F.cross_entropy(secret.masked_fill(MASK, -torch.inf), targets)
    wanted.backward()
    found.backward()
    assert abs(float(found.detach().reveal() - wanted.detach())) < 4 / 65536
    assert float((secret.grad.reveal() - clear.grad).abs().max()) < 4 / 65536
    for hidden in (torch.tensor([1, 1, 0]), TWO_PARTIES.share(targets)):
        with pytest.raises(UnsupportedOperation, match="infinite"):
            F.cross_entropy(secret.masked_fill(MASK, -torch.inf), hidden)


def test_a_mask_costs_nothing() -> None:
    def cost(mask: Tensor | None) -> tuple[int, int, int]:
        session = Session()
        x = session.share(torch.randn(3, 4))
        (x if mask is None else x.masked_fill(mask, -torch.inf)).softmax(1)
        found = session.cost()
        return found.rounds, found.sent_bytes, found.dealt_bytes

    assert cost(MASK) == cost(None)
