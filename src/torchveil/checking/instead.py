"""What to write in place of an operation that has no encrypted form, where there is something better than the general
remedy. Names are those of torch's operations; a row of an operation that got a rule is never looked up.
"""

from __future__ import annotations

_WHOLE = "secrets are numbers, not whole numbers: leave the rounding out, or reveal first if the value may be known"
_SHAPE = "the shape of the result would tell the secret: keep all elements and weigh them with a mask (torch.where)"
_MATRIX = (
    "solve in the clear on sums that may be known (torch.linalg on x.T @ x revealed), or iterate: gradient descent"
)
_ANGLE = "use a polynomial, or arctangent-free features (sine and cosine of the angle as inputs)"
_SPECIAL = "fit a polynomial on the range that you need, or compute it in the clear before sharing"
_DRAWN = "draw in a plain tensor and wrap it in torchveil.public(...), or share it"
_FOURIER = "multiply by the public matrices of its cosines and sines: a Fourier transform is linear"

_GROUPS: dict[str, tuple[str, ...]] = {
    _WHOLE: ("floor.default", "ceil.default", "round.default", "round.decimals", "trunc.default", "frac.default",
             "fmod.Tensor", "fmod.Scalar", "remainder.Tensor", "remainder.Scalar", "floor_divide.default"),
    _SHAPE: ("nonzero.default", "masked_select.default", "_unique2.default", "unique_consecutive.default",
             "unique_dim.default", "bincount.default", "repeat_interleave.Tensor"),
    _MATRIX: ("linalg_inv_ex.default", "_linalg_solve_ex.default", "linalg_cholesky_ex.default", "linalg_qr.default",
              "_linalg_svd.default", "_linalg_eigh.default", "linalg_lu_factor_ex.default", "linalg_lstsq.default",
              "cholesky.default", "triangular_solve.default", "linalg_solve_triangular.default", "_linalg_det.default"),
    _ANGLE: ("atan2.default", "atan.default", "asin.default", "acos.default"),
    _SPECIAL: ("erfinv.default", "lgamma.default", "digamma.default", "polygamma.default", "special_bessel_j0.default",
               "special_bessel_j1.default", "i0.default", "special_i0e.default", "special_i1.default"),
    _DRAWN: ("multinomial.default", "poisson.default", "normal.Tensor_Tensor", "normal.Tensor_float"),
    _FOURIER: ("_fft_r2c.default", "_fft_c2r.default", "_fft_c2c.default"),
}  # fmt: skip

INSTEAD: dict[str, str] = {f"aten.{name}": text for text, names in _GROUPS.items() for name in names}
