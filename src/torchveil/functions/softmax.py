"""Softmax and log-softmax: maximum, exponential, one division for the whole row; the logarithm only if it is read.

Theory of operation. With M the maximum, e = exp(x - M) at 2^22 and s = sum e in [1, k], s N lies in [1, 4) * 2^K for a
power of four N, and p = (e N) f(s N) with f(m) = 1/m by a series: products of whole numbers, one truncation. The
gradient of the loss needs p only; log-softmax is (x - M) - log s, from the same mantissa, when somebody asks.

Rounds for k entries after the opening of x: 4 ceil(log2 k) for the maximum, 4 for the exponential, 3 for s against the
powers of four (none for k <= 4), 5 for the quotient. Error < 1.5 units of 16 bits for any k up to 10^6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchveil.functions.arithmetic import combine, due, narrow, number, raw_product, secret, to_scale
from torchveil.functions.exponential import MAX_UNIT, exp_nonpositive
from torchveil.functions.maximum import maximum
from torchveil.functions.normalise import Buckets, Mantissa, log_of_mantissa, mantissa, series
from torchveil.functions.series import reciprocal_series
from torchveil.functions.structure import apply
from torchveil.handle import Handle, Secret

_EXP_BITS = 22


@dataclass(slots=True)
class Softmax:
    """What softmax, log-softmax and their gradients share.

    shifted: x - max; probabilities: at a large pending scale (values at most 1); row: the mantissa of the row sums.
    """

    shifted: Secret
    probabilities: Secret
    row: Mantissa
    dim: int

    def narrow_probabilities(self) -> Secret:
        return narrow(self.probabilities)

    def log_probabilities(self) -> Secret:
        """(x - max) - log(sum exp(x - max)), at the format's scale."""
        shifted = narrow(self.shifted)
        total = log_of_mantissa(self.row, 1 << _EXP_BITS, shifted.format.scale)
        out = combine([(shifted, 1), (total, -1)], scale=shifted.scale)
        out.format = shifted.format
        return out


def softmax(x: Handle, dim: int) -> Softmax:
    """The parts of a softmax along ``dim``."""
    wire = number(x)
    if wire.scale > MAX_UNIT:
        wire = due(wire)  # still finer than its format, and without its low bits fit for the exponential
    size = wire.shape[dim]
    largest, _ = maximum(wire, dim)
    if size > 1:
        wire.session.open(largest)
    shifted = combine([(wire, 1), (largest, -1)], scale=wire.scale)
    exponentials = exp_nonpositive(shifted, 1 << _EXP_BITS)
    total = secret(apply(exponentials, "sum", (dim,), True))
    total.nonnegative = True
    numerators = combine([(exponentials, 1)], scale=1)
    row = _row(total, size, numerators)
    scaled = numerators if row.factor is None else raw_product(numerators, row.factor)
    inverse = series(row.value, reciprocal_series(), row.exponent + 3)
    wire.session.open(scaled, inverse)
    digits = min(26, 60 - row.exponent)
    inverse = to_scale(inverse, 1 << digits)
    probabilities = raw_product(scaled, inverse)
    probabilities.scale = 1 << (row.exponent + digits)
    probabilities.format = wire.format
    probabilities.nonnegative = True
    return Softmax(shifted, probabilities, row, dim)


def _row(total: Secret, size: int, numerators: Secret) -> Mantissa:
    """The mantissa of row sums in [1, size] (at 2^22); up to four entries they lie in [1, 4] as they are."""
    low = _EXP_BITS // 2
    if size <= 4:
        return Mantissa(combine([(total, 1)], scale=1), _EXP_BITS, Buckets(low, low + 1, (), (), ()))
    high = low + math.ceil(math.log(size * 1.001, 4))
    return mantissa(total, low, high, signed=False, with_factor=True, also_open=[numerators])
