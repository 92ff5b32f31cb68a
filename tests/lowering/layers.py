"""Layers of ``torch.nn`` with small inputs: what the survey of layers runs, forward and backward.

``LAYERS[name]`` is a maker of the module (or of a function of tensors) and the shapes of its secret inputs. The numbers
are drawn once, from a fixed seed, on a grid that 16 fractional bits hold exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from torchveil import EncryptedTensor, public


@dataclass(frozen=True, eq=False)
class Layer:
    """``units`` in the last place and ``relative`` bound the error of the result, ``gradient_units`` the gradients'."""

    make: Callable[[], Any]
    shapes: tuple[tuple[int, ...], ...]
    low: float = -2.0
    high: float = 2.0
    plain: tuple[Tensor, ...] = field(default_factory=tuple)
    units: float = 8.0
    gradient_units: float = 40.0
    relative: float = 2.0**-11
    backward: bool = True


def layer(make: Callable[[], Any], *shapes: tuple[int, ...], **options: Any) -> Layer:
    return Layer(make, shapes, **options)


def function(f: Callable[..., Any], *shapes: tuple[int, ...], **options: Any) -> Layer:
    return Layer(lambda: f, shapes, **options)


def known(x: Tensor, like: Tensor) -> Tensor:
    """A plain tensor that everybody may know, next to a secret or a plain one."""
    return public(x) if isinstance(like, EncryptedTensor) else x


def _convolutions() -> dict[str, Layer]:
    out: dict[str, Layer] = {}
    space = {1: (9,), 2: (7, 8), 3: (5, 6, 5)}
    for d, size in space.items():
        conv: Any = getattr(nn, f"Conv{d}d")
        back: Any = getattr(nn, f"ConvTranspose{d}d")
        x = (2, 4, *size)
        options: dict[str, dict[str, Any]] = {
            "plain": {},
            "stride": {"stride": 2, "padding": 1, "bias": False},
            "dilation": {"dilation": 2},
            "groups": {"groups": 2},
            "depthwise": {"groups": 4},
            "same": {"padding": "same"},
            "same dilated": {"padding": "same", "dilation": 2},
            "valid": {"padding": "valid"},
            "reflect": {"padding": 1, "padding_mode": "reflect"},
            "replicate": {"padding": 1, "padding_mode": "replicate"},
            "circular": {"padding": 1, "padding_mode": "circular"},
        }
        for name, kwargs in options.items():
            kernel = (2, 3, 2)[:d] if name == "same" else 3 if d < 3 else 2
            out[f"conv{d}d {name}"] = layer(
                lambda conv=conv, kernel=kernel, kwargs=kwargs: conv(4, 4, kernel, **kwargs), x
            )
        transposed: dict[str, dict[str, Any]] = {
            "plain": {},
            "stride": {"stride": 2, "padding": 1, "output_padding": 1},
            "dilation": {"dilation": 2, "bias": False},
            "groups": {"groups": 2, "stride": 2},
            "beyond": {"stride": 1, "padding": 1, "output_padding": 2, "dilation": 3},
            "further": {"stride": 2, "padding": 3, "output_padding": 3, "dilation": 4},
            "all": {"groups": 2, "stride": 3, "padding": 2, "output_padding": 2, "dilation": 2},
        }
        small = (2, 4, *[4, 3, 3][:d])
        for name, kwargs in transposed.items():
            out[f"conv_transpose{d}d {name}"] = layer(lambda back=back, kwargs=kwargs: back(4, 6, 3, **kwargs), small)
        out[f"conv{d}d unbatched"] = layer(lambda conv=conv: conv(4, 2, 2), x[1:])
        out[f"conv_transpose{d}d unbatched"] = layer(lambda back=back: back(4, 2, 2), small[1:])
    return out


def _pools() -> dict[str, Layer]:
    out: dict[str, Layer] = {}
    space = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}
    for d, size in space.items():
        x = (2, 2, *size)
        largest: Any = getattr(nn, f"MaxPool{d}d")
        average: Any = getattr(nn, f"AvgPool{d}d")
        power: Any = getattr(nn, f"LPPool{d}d")
        for name, kwargs in {
            "plain": {"kernel_size": 2},
            "padding": {"kernel_size": 3, "stride": 2, "padding": 1},
            "ceil": {"kernel_size": 2, "stride": 2, "ceil_mode": True},
            "ceil padding": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
            "dilation": {"kernel_size": 2, "stride": 1, "dilation": 2},
        }.items():
            out[f"max_pool{d}d {name}"] = layer(lambda m=largest, k=kwargs: m(**k), x)
        for name, kwargs in {
            "plain": {"kernel_size": 2},
            "padding": {"kernel_size": 3, "stride": 2, "padding": 1},
            "uncounted": {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
            "ceil": {"kernel_size": 2, "stride": 2, "ceil_mode": True},
            "ceil padding": {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
            "ceil uncounted": {
                "kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False,
            },
        }.items():  # fmt: skip
            out[f"avg_pool{d}d {name}"] = layer(lambda m=average, k=kwargs: m(**k), x)
        if d > 1:
            out[f"avg_pool{d}d divisor"] = layer(lambda m=average: m(2, divisor_override=3), x)
        for p in (1, 2, 3):
            out[f"lp_pool{d}d {p}"] = layer(
                lambda m=power, p=p: m(p, 2, ceil_mode=p == 2), x, low=0.25, gradient_units=80, units=20
            )
        for kind in ("Avg", "Max"):
            adaptive: Any = getattr(nn, f"Adaptive{kind}Pool{d}d")
            for name, target in {
                "one": 1,
                "even": 3 if d != 2 else (7, 3),
                "uneven": 4 if d < 3 else (4, 3, 4),
            }.items():
                out[f"adaptive_{kind.lower()}_pool{d}d {name}"] = layer(lambda m=adaptive, t=target: m(t), x)
        out[f"max_pool{d}d unbatched"] = layer(lambda m=largest: m(2), x[1:])
        out[f"avg_pool{d}d unbatched"] = layer(lambda m=average: m(2), x[1:])
        out[f"adaptive_avg_pool{d}d unbatched"] = layer(lambda d=d: getattr(nn, f"AdaptiveAvgPool{d}d")(2), x[1:])
        pool: Any = getattr(F, f"max_pool{d}d")
        unpool: Any = getattr(F, f"max_unpool{d}d")

        def round_trip(x: Tensor, y: Tensor, pool: Any = pool, unpool: Any = unpool) -> Tensor:
            value, places = pool(x, 2, return_indices=True)
            return unpool(value * y, places, 2, output_size=x.shape)

        if d > 1:
            fraction: Any = getattr(F, f"fractional_max_pool{d}d")
            samples = torch.rand((2, 2, d), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
            for name, shape, drawn in (("", x, samples), (" unbatched", x[1:], samples[:1])):
                out[f"fractional_max_pool{d}d{name}"] = function(
                    lambda x, f=fraction, s=drawn: f(x, 2, output_size=2, _random_samples=s), shape
                )
        out[f"max_unpool{d}d"] = function(round_trip, x, (1,))
    return out


def _norms() -> dict[str, Layer]:
    out: dict[str, Layer] = {}
    space = {1: (9,), 2: (4, 5), 3: (2, 3, 4)}
    for d, size in space.items():
        x = (4, 3, *size)
        batch: Any = getattr(nn, f"BatchNorm{d}d")
        instance: Any = getattr(nn, f"InstanceNorm{d}d")
        out[f"batch_norm{d}d train"] = layer(lambda m=batch: m(3), x)
        out[f"batch_norm{d}d eval"] = layer(lambda m=batch: _warm(m(3)).eval(), x)
        out[f"batch_norm{d}d cumulative"] = layer(lambda m=batch: m(3, momentum=None), x)
        out[f"batch_norm{d}d without statistics"] = layer(lambda m=batch: m(3, track_running_stats=False), x)
        out[f"batch_norm{d}d plain"] = layer(lambda m=batch: m(3, affine=False), x)
        out[f"instance_norm{d}d"] = layer(lambda m=instance: m(3), x)
        out[f"instance_norm{d}d affine"] = layer(lambda m=instance: m(3, affine=True), x, gradient_units=60)
        out[f"instance_norm{d}d statistics"] = layer(lambda m=instance: m(3, track_running_stats=True), x)
        out[f"instance_norm{d}d eval"] = layer(lambda m=instance: _warm(m(3, track_running_stats=True)).eval(), x)
    out["layer_norm"] = layer(lambda: nn.LayerNorm(6), (3, 6))
    out["layer_norm two"] = layer(lambda: nn.LayerNorm((3, 4), bias=False), (2, 3, 4))
    out["layer_norm plain"] = layer(lambda: nn.LayerNorm(6, elementwise_affine=False), (3, 6))
    out["group_norm"] = layer(lambda: nn.GroupNorm(2, 4), (3, 4, 5))
    out["group_norm image"] = layer(lambda: nn.GroupNorm(2, 6), (2, 6, 3, 3))
    out["group_norm plain"] = layer(lambda: nn.GroupNorm(3, 6, affine=False), (2, 6, 4))
    out["group_norm vectors"] = layer(lambda: nn.GroupNorm(2, 6), (3, 6))
    out["rms_norm"] = layer(lambda: nn.RMSNorm(6), (3, 6))
    out["rms_norm eps"] = layer(lambda: nn.RMSNorm((3, 4), eps=1e-3), (2, 3, 4))
    out["local_response_norm"] = layer(lambda: nn.LocalResponseNorm(3, alpha=0.5, k=1.0), (2, 5, 4))
    out["local_response_norm image"] = layer(lambda: nn.LocalResponseNorm(2, alpha=0.1, beta=0.75, k=2.0), (2, 4, 3, 3))
    out["normalize"] = function(lambda x: F.normalize(x, dim=1), (3, 5))
    return out


def _warm(module: Any) -> Any:
    """A module whose running statistics are not those of a new one."""
    generator = torch.Generator().manual_seed(3)
    module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.5)
    module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return module


def _paddings() -> dict[str, Layer]:
    out: dict[str, Layer] = {}
    space = {1: (6,), 2: (5, 6), 3: (3, 4, 5)}
    for d, size in space.items():
        for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular"):
            module: Any = getattr(nn, f"{kind}Pad{d}d")
            amounts = (2, 1, 1, 2, 1, 2)[: 2 * d]
            extra = (0.7,) if kind == "Constant" else ()
            for name, x in {"": (2, 3, *size), " unbatched": (3, *size)}.items():
                out[f"{kind.lower()}_pad{d}d{name}"] = layer(lambda m=module, a=amounts, e=extra: m(a, *e), x)
    out["zero_pad2d negative"] = layer(lambda: nn.ZeroPad2d((-1, 2, 1, -2)), (2, 3, 5, 6))
    out["replication_pad2d negative"] = layer(lambda: nn.ReplicationPad2d((-1, 2, 1, -2)), (2, 3, 5, 6))
    return out


WORDS = torch.tensor([[1, 2, 4, 5], [4, 3, 2, 0]])
FLAT = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9])
OFFSETS = torch.tensor([0, 3, 3, 5])


def _embeddings() -> dict[str, Layer]:
    out: dict[str, Layer] = {}
    for name, kwargs in {
        "": {},
        " padding": {"padding_idx": 2},
        " frequency": {"scale_grad_by_freq": True},
        " norm": {"max_norm": 1.0},
    }.items():
        out[f"embedding{name}"] = layer(lambda k=kwargs: nn.Embedding(6, 3, **k), plain=(WORDS,))
    for mode in ("sum", "mean", "max"):
        bag = lambda mode=mode, **k: nn.EmbeddingBag(10, 3, mode=mode, **k)  # noqa: E731
        out[f"embedding_bag {mode}"] = layer(bag, plain=(WORDS,))
        out[f"embedding_bag {mode} offsets"] = layer(bag, plain=(FLAT, OFFSETS))
        out[f"embedding_bag {mode} padding"] = layer(lambda bag=bag: bag(padding_idx=2), plain=(FLAT, OFFSETS))
        out[f"embedding_bag {mode} last"] = layer(
            lambda bag=bag: bag(include_last_offset=True), plain=(FLAT, torch.tensor([0, 3, 3, 8]))
        )
    out["embedding_bag weights"] = function(
        lambda table, w: F.embedding_bag(WORDS, table, mode="sum", per_sample_weights=w), (10, 3), (2, 4)
    )
    return out


def _resampling() -> dict[str, Layer]:
    out: dict[str, Layer] = {}
    space = {1: (5,), 2: (4, 5), 3: (3, 4, 3)}
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}
    for d, size in space.items():
        x = (2, 2, *size)
        for mode in ("nearest", "nearest-exact", "area", linear[d], *(["bicubic"] if d == 2 else [])):
            for name, kwargs in {
                "twice": {"scale_factor": 2},
                "fraction": {"scale_factor": 1.7},
                "smaller": {"size": tuple(n - 1 for n in size)},
                "recompute": {"scale_factor": 1.3, "recompute_scale_factor": True},
            }.items():
                out[f"interpolate{d}d {mode} {name}"] = layer(lambda m=mode, k=kwargs: nn.Upsample(mode=m, **k), x)
            if mode in ("linear", "bilinear", "trilinear", "bicubic"):
                out[f"interpolate{d}d {mode} corners"] = layer(
                    lambda m=mode: nn.Upsample(scale_factor=2.3, mode=m, align_corners=True), x
                )
                if d == 2:
                    out[f"interpolate{d}d {mode} antialias"] = function(
                        lambda x, m=mode: F.interpolate(x, size=(2, 8), mode=m, antialias=True), x
                    )
                    out[f"interpolate{d}d {mode} antialias corners"] = function(
                        lambda x, m=mode: F.interpolate(x, size=(3, 2), mode=m, antialias=True, align_corners=True), x
                    )
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            for corners in (False, True):
                if (mode, corners) == ("nearest", True):
                    continue
                out[f"grid_sample {mode} {padding} {corners}"] = function(
                    lambda x, m=mode, p=padding, c=corners: F.grid_sample(
                        x, known(GRID, x), mode=m, padding_mode=p, align_corners=c
                    ),
                    (2, 3, 4, 5),
                )
    out["grid_sample 3d"] = function(lambda x: F.grid_sample(x, known(CUBE, x), align_corners=False), (1, 2, 3, 4, 3))
    out["grid_sample 3d nearest border"] = function(
        lambda x: F.grid_sample(x, known(CUBE, x), mode="nearest", padding_mode="border", align_corners=False),
        (1, 2, 3, 4, 3),
    )
    out["affine_grid secret"] = function(lambda x: F.affine_grid(x, [2, 3, 4, 5], align_corners=False), (2, 2, 3))
    out["affine_grid secret 3d"] = function(lambda x: F.affine_grid(x, [1, 2, 3, 2, 3], align_corners=True), (1, 3, 4))
    return out


def _grid(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 3 - 1.5


GRID, CUBE = _grid(2, 3, 4, 2), _grid(1, 2, 3, 2, 3)


def _shapes() -> dict[str, Layer]:
    return {
        "identity": layer(nn.Identity, (2, 3)),
        "flatten": layer(nn.Flatten, (2, 3, 4)),
        "unflatten": layer(lambda: nn.Unflatten(1, (2, 3)), (4, 6)),
        "pixel_shuffle": layer(lambda: nn.PixelShuffle(2), (2, 8, 3, 4)),
        "pixel_unshuffle": layer(lambda: nn.PixelUnshuffle(2), (2, 3, 4, 6)),
        "channel_shuffle": layer(lambda: nn.ChannelShuffle(2), (2, 6, 3, 3)),
        "unfold": layer(lambda: nn.Unfold((2, 3), dilation=(1, 2), padding=1, stride=(2, 1)), (2, 3, 5, 6)),
        "unfold unbatched": layer(lambda: nn.Unfold(2), (3, 5, 6)),
        "fold": layer(lambda: nn.Fold((5, 6), (2, 3), dilation=(1, 2), padding=1, stride=(2, 1)), (2, 18, 12)),
        "fold unbatched": layer(lambda: nn.Fold((4, 4), 2), (12, 9)),
        "linear": layer(lambda: nn.Linear(4, 3), (2, 4)),
        "bilinear": layer(lambda: nn.Bilinear(4, 3, 5), (6, 4), (6, 3), gradient_units=60),
        "bilinear without bias": layer(lambda: nn.Bilinear(3, 2, 2, bias=False), (2, 4, 3), (2, 4, 2)),
        "cosine_similarity": layer(nn.CosineSimilarity, (4, 6), (4, 6), gradient_units=80),
        "cosine_similarity broadcast": layer(lambda: nn.CosineSimilarity(2), (2, 1, 6), (1, 3, 6), gradient_units=80),
        "pairwise_distance": layer(nn.PairwiseDistance, (4, 6), (4, 6)),
        "pairwise_distance one": layer(lambda: nn.PairwiseDistance(1.0, keepdim=True), (4, 6), (4, 6)),
        "softmax2d": layer(nn.Softmax2d, (2, 3, 2, 2)),
        "weight_norm": layer(lambda: parametrizations.weight_norm(nn.Linear(4, 3)), (2, 4)),
        "weight_norm whole": layer(lambda: parametrizations.weight_norm(nn.Linear(4, 3), dim=None), (2, 4)),
        "spectral_norm": layer(lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), (2, 4), gradient_units=80),
        "spectral_norm conv": layer(
            lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 2)), (1, 2, 4, 4), gradient_units=120
        ),
    }  # fmt: skip


LAYERS: dict[str, Layer] = {
    **_convolutions(),
    **_pools(),
    **_norms(),
    **_paddings(),
    **_embeddings(),
    **_resampling(),
    **_shapes(),
}

#: Rows of the lowering table that a layer runs: row -> layer.
ROWS = {
    "_adaptive_avg_pool3d.default": "adaptive_avg_pool3d even",
    "_adaptive_avg_pool3d_backward.default": "adaptive_avg_pool3d even",
    "_embedding_bag.default": "embedding_bag sum",
    "_embedding_bag_backward.default": "embedding_bag sum",
    "_embedding_bag_per_sample_weights_backward.default": "embedding_bag weights",
    "_upsample_bicubic2d_aa.default": "interpolate2d bicubic antialias",
    "_upsample_bicubic2d_aa_backward.default": "interpolate2d bicubic antialias",
    "_upsample_bilinear2d_aa.default": "interpolate2d bilinear antialias",
    "_upsample_bilinear2d_aa_backward.default": "interpolate2d bilinear antialias",
    "_upsample_nearest_exact1d.default": "interpolate1d nearest-exact twice",
    "_upsample_nearest_exact1d_backward.default": "interpolate1d nearest-exact twice",
    "_upsample_nearest_exact2d.default": "interpolate2d nearest-exact twice",
    "_upsample_nearest_exact2d_backward.default": "interpolate2d nearest-exact twice",
    "_upsample_nearest_exact3d.default": "interpolate3d nearest-exact twice",
    "_upsample_nearest_exact3d_backward.default": "interpolate3d nearest-exact twice",
    "_weight_norm_interface.default": "weight_norm",
    "_weight_norm_interface_backward.default": "weight_norm",
    "adaptive_max_pool2d.default": "adaptive_max_pool1d one",
    "adaptive_max_pool2d_backward.default": "adaptive_max_pool1d one",
    "adaptive_max_pool3d.default": "adaptive_max_pool3d one",
    "adaptive_max_pool3d_backward.default": "adaptive_max_pool3d one",
    "affine_grid_generator.default": "affine_grid secret",
    "avg_pool3d.default": "avg_pool3d plain",
    "avg_pool3d_backward.default": "avg_pool3d plain",
    "channel_shuffle.default": "channel_shuffle",
    "col2im.default": "unfold",
    "div.out": "spectral_norm",
    "fractional_max_pool2d.default": "fractional_max_pool2d",
    "fractional_max_pool2d_backward.default": "fractional_max_pool2d",
    "fractional_max_pool3d.default": "fractional_max_pool3d",
    "fractional_max_pool3d_backward.default": "fractional_max_pool3d",
    "grid_sampler_2d.default": "grid_sample bilinear zeros False",
    "grid_sampler_2d_backward.default": "grid_sample bilinear zeros False",
    "grid_sampler_3d.default": "grid_sample 3d",
    "grid_sampler_3d_backward.default": "grid_sample 3d",
    "im2col.default": "unfold",
    "max_pool3d_with_indices.default": "max_pool3d plain",
    "max_pool3d_with_indices_backward.default": "max_pool3d plain",
    "max_unpool2d.default": "max_unpool1d",
    "max_unpool3d.default": "max_unpool3d",
    "native_group_norm.default": "group_norm",
    "native_group_norm_backward.default": "group_norm",
    "pixel_shuffle.default": "pixel_shuffle",
    "pixel_unshuffle.default": "pixel_shuffle",
    "upsample_bicubic2d.default": "interpolate2d bicubic twice",
    "upsample_bicubic2d_backward.default": "interpolate2d bicubic twice",
    "upsample_bilinear2d.default": "interpolate2d bilinear twice",
    "upsample_bilinear2d_backward.default": "interpolate2d bilinear twice",
    "upsample_linear1d.default": "interpolate1d linear twice",
    "upsample_linear1d_backward.default": "interpolate1d linear twice",
    "upsample_nearest1d.default": "interpolate1d nearest twice",
    "upsample_nearest1d_backward.default": "interpolate1d nearest twice",
    "upsample_nearest2d.default": "interpolate2d nearest twice",
    "upsample_nearest2d_backward.default": "interpolate2d nearest twice",
    "upsample_nearest3d.default": "interpolate3d nearest twice",
    "upsample_nearest3d_backward.default": "interpolate3d nearest twice",
    "upsample_trilinear3d.default": "interpolate3d trilinear twice",
    "upsample_trilinear3d_backward.default": "interpolate3d trilinear twice",
}
