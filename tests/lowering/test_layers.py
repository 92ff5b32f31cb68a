"""The layers of ``torch.nn`` against themselves in float64: results, gradients of inputs and parameters, buffers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchveil
from tests.lowering.layers import LAYERS, ROWS, Layer
from torchveil import EncryptedTensor, FixedPoint, Session, UnsupportedOperation
from torchveil.lowering import TABLE

SESSION = Session(debug=True)
THREE_PARTIES = Session(["a", "b", "c"], debug=True)
DECIMAL = Session(fixed_point=FixedPoint(10, 4), debug=True)
UNIT = 2.0**-16


def _grid(x: Tensor) -> Tensor:
    return torch.round(x.double() / UNIT) * UNIT


def _inputs(sample: Layer) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    draws = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in sample.shapes]
    return [_grid(draw * (sample.high - sample.low) + sample.low) for draw in draws]


def _close(found: Tensor, wanted: Tensor, units: float, relative: float) -> None:
    assert isinstance(found, EncryptedTensor)
    unit = 1 / found.session.fixed_point.scale
    assert tuple(found.shape) == tuple(wanted.shape) == tuple(found.handle.shape)
    error = (found.reveal(dtype=torch.float64) - wanted).abs() - relative * wanted.abs()
    assert not error.numel() or float(error.max()) <= units * unit, f"{float(error.max()) / unit:.1f} units"


def _tensors(module: Any) -> dict[str, Tensor]:
    if not isinstance(module, nn.Module):
        return {}
    return {name: x for name, x in module.state_dict().items() if x.is_floating_point()}


def check(sample: Layer, session: Session, *, plain: tuple[Any, ...] | None = None) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        module = sample.make()
    inputs = _inputs(sample)
    clear_module = encrypted = module
    if isinstance(module, nn.Module):
        clear_module = copy.deepcopy(module).double()
        with torch.no_grad():
            for x in [*clear_module.parameters(), *clear_module.buffers()]:
                if x.is_floating_point():
                    x.copy_(_grid(x))
        encrypted = session.encrypt(copy.deepcopy(clear_module))
    clear = [x.clone().requires_grad_(sample.backward) for x in inputs]
    secret = [session.share(x).requires_grad_(sample.backward) for x in inputs]
    wanted = clear_module(*clear, *sample.plain)
    found = encrypted(*secret, *(sample.plain if plain is None else plain))
    _close(found, wanted.detach(), sample.units, sample.relative)
    for name, buffer in _tensors(clear_module).items():
        _close(_tensors(encrypted)[name], buffer, sample.units, sample.relative)
    if not sample.backward:
        return
    seed = _grid(torch.linspace(-1, 1.5, max(1, wanted.numel())).double()[: wanted.numel()]).reshape(wanted.shape)
    wanted.backward(seed)
    found.backward(session.share(seed))
    leaves = list(zip(secret, clear, strict=True))
    if isinstance(module, nn.Module):
        leaves += list(zip(encrypted.parameters(), clear_module.parameters(), strict=True))
    for got, want in leaves:
        assert (got.grad is None) == (want.grad is None)
        if got.grad is not None and want.grad is not None:
            _close(got.grad, want.grad, sample.gradient_units, sample.relative)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    check(LAYERS[name], SESSION)


#: One layer of each kind, without those that amplify errors.
ELSEWHERE = [name for name in dict.fromkeys(ROWS.values()) if "norm" not in name]


@pytest.mark.parametrize("name", [*ELSEWHERE, "conv3d groups", "conv_transpose2d all", "conv_transpose3d stride"])
def test_layer_with_three_parties_and_decimal_digits(name: str) -> None:
    check(LAYERS[name], THREE_PARTIES)
    check(LAYERS[name], DECIMAL)


class _Recording(dict[Any, Any]):
    def __init__(self, rows: dict[Any, Any]) -> None:
        super().__init__(rows)
        self.seen: set[str] = set()

    def get(self, key: Any, default: Any = None) -> Any:
        self.seen.add(str(key).removeprefix("aten."))
        return super().get(key, default)


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_of_layers_are_run(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = _Recording(TABLE)
    monkeypatch.setattr("torchveil.tensor.TABLE", table)
    check(LAYERS[ROWS[row]], SESSION)
    assert row in table.seen


# --- places of maxima ------------------------------------------------------------------------------------------------

X2, X3 = torch.randn(2, 3, 7, 6, dtype=torch.float64), torch.randn(2, 2, 5, 4, 6, dtype=torch.float64)
POOLS: dict[str, tuple[Any, Tensor]] = {
    "1d": (lambda x: F.max_pool1d(x, 3, 2, 1, return_indices=True), X2[:, :, 0]),
    "2d": (lambda x: F.max_pool2d(x, 2, return_indices=True), X2),
    "2d padding": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True, return_indices=True), X2),
    "2d dilation": (lambda x: F.max_pool2d(x, 2, 1, 1, dilation=3, return_indices=True), X2),
    "2d unbatched": (lambda x: F.max_pool2d(x, 2, return_indices=True), X2[0]),
    "2d few": (lambda x: F.max_pool2d(x, (7, 6), return_indices=True), X2[:1, :1]),
    "3d": (lambda x: F.max_pool3d(x, 2, 2, return_indices=True), X3),
    "adaptive 1d": (lambda x: F.adaptive_max_pool1d(x, 4, return_indices=True), X2[:, :, 0]),
    "adaptive 2d": (lambda x: F.adaptive_max_pool2d(x, (3, 4), return_indices=True), X2),
    "adaptive 3d": (lambda x: F.adaptive_max_pool3d(x, (2, 3, 4), return_indices=True), X3),
}


@pytest.mark.parametrize("name", POOLS)
def test_places_of_maxima_are_those_of_torch(name: str) -> None:
    pool, x = POOLS[name]
    wanted = pool(_grid(x))
    value, places = pool(SESSION.share(_grid(x)))
    _close(value, wanted[0], 2, 0)
    assert places.dtype is torch.int64
    assert places.reveal().tolist() == wanted[1].tolist()


def test_a_padded_window_of_negative_numbers_has_a_negative_maximum() -> None:
    x = _grid(-torch.rand(1, 1, 4, 4).double() - 1)
    found = F.max_pool2d(SESSION.share(x), 3, 2, 1)
    _close(found, F.max_pool2d(x, 3, 2, 1), 2, 0)


def test_equal_entries_beside_padding_give_their_gradient_to_one_of_the_input() -> None:
    x = SESSION.share(torch.zeros(1, 1, 4, 4)).relu().detach().requires_grad_()
    F.max_pool2d(x, 3, 2, 1).sum().backward()
    assert x.grad is not None
    assert float(x.grad.reveal().sum()) == 4


def test_unpooling_by_public_and_by_other_secret_places() -> None:
    x = _grid(X2[:, :, :6])
    value, places = F.max_pool2d(x, 2, return_indices=True)
    value = value.requires_grad_()
    wanted = F.max_unpool2d(value, places, 2)
    seed = _grid(torch.randn_like(wanted))
    wanted.backward(seed)
    for indices in (places, SESSION.share(places)):
        leaf = SESSION.share(value.detach()).requires_grad_()
        found = F.max_unpool2d(leaf, indices, 2)
        _close(found, wanted.detach(), 2, 2.0**-14)
        found.backward(SESSION.share(seed))
        assert leaf.grad is not None
        assert value.grad is not None
        _close(leaf.grad, value.grad, 2, 2.0**-14)


def test_unpooling_uses_the_bits_of_the_pooling() -> None:
    x = SESSION.share(_grid(X2))
    value, places = F.max_pool2d(x, 2, return_indices=True)
    before = SESSION.cost().gates["compare"]
    F.max_unpool2d(value, places, 2, output_size=(7, 6))
    assert SESSION.cost().gates["compare"] == before


def test_unpooling_whose_places_may_clash_or_be_missing_is_refused() -> None:
    x = SESSION.share(_grid(X2))
    value, places = F.max_pool2d(x, 3, 1, return_indices=True)
    with pytest.raises(UnsupportedOperation):
        F.max_unpool2d(value, places, 3, 1, output_size=(7, 6))
    value, places = F.max_pool2d(x[:, :, :6], 2, return_indices=True)
    with pytest.raises(UnsupportedOperation):
        F.max_unpool2d(value, places, 2, output_size=(5, 5))


# --- secret words ----------------------------------------------------------------------------------------------------


BAGS = ["sum", "mean", "max", "sum offsets", "mean offsets", "max last", "sum padding"]


@pytest.mark.parametrize("name", ["embedding", "embedding padding", *(f"embedding_bag {name}" for name in BAGS)])
def test_secret_words_give_what_public_ones_give(name: str) -> None:
    sample = LAYERS[name]
    words, *offsets = sample.plain
    check(sample, SESSION, plain=(SESSION.share(words), *offsets))


def test_weights_of_secret_words() -> None:
    table, weights = _grid(torch.randn(10, 3).double()), _grid(torch.randn(2, 4).double())
    words = torch.tensor([[1, 2, 4, 5], [4, 3, 2, 9]])
    clear = [table.clone().requires_grad_(), weights.clone().requires_grad_()]
    secret = [SESSION.share(x).requires_grad_() for x in (table, weights)]
    wanted = F.embedding_bag(words, clear[0], mode="sum", per_sample_weights=clear[1], padding_idx=2)
    found = F.embedding_bag(SESSION.share(words), secret[0], mode="sum", per_sample_weights=secret[1], padding_idx=2)
    _close(found, wanted.detach(), 8, 2.0**-11)
    wanted.sum().backward()
    found.sum().backward()
    for got, want in zip(secret, clear, strict=True):
        assert got.grad is not None
        assert want.grad is not None
        _close(got.grad, want.grad, 8, 2.0**-11)


def test_what_secret_words_cannot_do_is_refused() -> None:
    words = SESSION.share(torch.tensor([[1, 2]]))
    for layer in (
        nn.Embedding(4, 2, max_norm=1.0),
        nn.EmbeddingBag(4, 2, mode="mean", padding_idx=1),
        nn.EmbeddingBag(4, 2, mode="max", padding_idx=1),
    ):
        with pytest.raises(UnsupportedOperation):
            SESSION.encrypt(layer)(words)


def test_a_secret_grid_is_refused() -> None:
    grid = SESSION.share(torch.zeros(1, 2, 2, 2))
    with pytest.raises(UnsupportedOperation):
        F.grid_sample(SESSION.share(torch.ones(1, 1, 3, 3)), grid, align_corners=False)


# --- rows and channels without spread --------------------------------------------------------------------------------

CONSTANT: dict[str, tuple[Any, Tensor]] = {
    "batch norm": (lambda: nn.BatchNorm2d(3), torch.full((4, 3, 2, 2), 1.7)),
    "batch norm of one channel": (lambda: nn.BatchNorm1d(3), torch.tensor([[0.3, 1, 2], [0.3, 2, 1], [0.3, 0, 1]])),
    "layer norm of zeros": (lambda: nn.LayerNorm(6), torch.zeros(3, 6)),
    "layer norm of a number": (lambda: nn.LayerNorm(6), torch.full((3, 6), 0.7)),
    "group norm": (lambda: nn.GroupNorm(2, 4), torch.full((2, 4, 3), -1.3)),
    "instance norm": (lambda: nn.InstanceNorm1d(4, affine=True), torch.full((2, 4, 3), -1.3)),
    "rms norm of zeros": (lambda: nn.RMSNorm(6, eps=1e-5), torch.zeros(3, 6)),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_normalising_what_does_not_vary_stays_small(name: str) -> None:
    """The mean of a constant is rounded by an ulp, which 1 / sqrt(eps) = 316 makes .005: close to the 0 of torch."""
    make, x = CONSTANT[name]
    clear = make().double()
    leaf = _grid(x).requires_grad_()
    secret = SESSION.share(_grid(x)).requires_grad_()
    encrypted = SESSION.encrypt(copy.deepcopy(clear))
    wanted, found = clear(leaf), encrypted(secret)
    assert float((found.reveal(dtype=torch.float64) - wanted.detach()).abs().max()) < 0.02
    (wanted * wanted).sum().backward()
    (found * found).sum().backward()
    assert secret.grad is not None
    assert leaf.grad is not None
    assert float((secret.grad.reveal(dtype=torch.float64) - leaf.grad).abs().max()) < 320 * 0.02


@pytest.mark.parametrize("layer", [nn.CosineSimilarity(), nn.PairwiseDistance()], ids=lambda x: type(x).__name__)
def test_similarity_of_zeros_is_small(layer: nn.Module) -> None:
    zeros = SESSION.share(torch.zeros(2, 4))
    assert float(layer(zeros, zeros).reveal().abs().max()) < 0.02


# --- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout(0.25), (40, 50)),
        (nn.Dropout1d(0.25), (40, 50, 3)),
        (nn.Dropout2d(0.25), (40, 50, 2, 3)),
        (nn.Dropout3d(0.25), (40, 50, 2, 1, 2)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_dropout_drops_whole_channels(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = SESSION.share(torch.ones(shape)).requires_grad_()
    out = layer(x)
    out.sum().backward()
    values = out.reveal()
    channels = values.reshape(*shape[:2], -1)
    assert bool((channels == channels[..., :1]).all())
    assert float(torch.minimum(values.abs(), (values - 4 / 3).abs()).max()) < 1e-4
    assert 0.7 < float((channels[..., 0] != 0).float().mean()) < 0.8
    assert x.grad is not None
    assert torch.allclose(x.grad.reveal(), values, atol=1e-4)
    assert torch.equal(layer.eval()(x).reveal(), x.reveal())


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.25), nn.FeatureAlphaDropout(0.25)], ids=lambda x: type(x).__name__)
def test_alpha_dropout_keeps_mean_and_variance(layer: nn.Module) -> None:
    x = torch.randn(100, 60, 1)
    values = layer(SESSION.share(x)).reveal()
    assert abs(float(values.mean())) < 0.1
    assert abs(float(values.std()) - 1) < 0.1


# --- recorded plans --------------------------------------------------------------------------------------------------


def test_layers_in_a_recorded_plan() -> None:
    model = nn.Sequential(
        nn.Conv3d(1, 2, 2), nn.MaxPool3d(2, padding=1), nn.Flatten(1, 2), nn.ReflectionPad2d(1),
        nn.ConvTranspose2d(4, 2, 2), nn.AvgPool2d(2, ceil_mode=True), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.GroupNorm(1, 2),
    )  # fmt: skip
    session = Session()
    clear = copy.deepcopy(model)
    encrypted = session.encrypt(model)
    step = torchveil.compile(lambda x: encrypted(x))
    for seed in range(3):
        x = torch.randn(2, 1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        assert float((step(session.share(x)).reveal() - clear(x).detach()).abs().max()) < 1e-2
