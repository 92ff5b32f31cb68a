"""Cells of LSTM and GRU: all gates that do not depend on each other in one evaluation of the sigmoid.

Theory of operation. tanh(x) = 2 sigmoid(2x) - 1, so an LSTM's four gates are one sigmoid of [i, f, 2g, o]; a GRU's r
and z are one too. Their sums with the hidden product stay untruncated: the sigmoid takes them as they are.

LSTM forward, rounds: 1 to open the gates, 3 for their bits, 1 for the truncation, 1 to open the results; then for
c' = f c + i g the same 1, 3, 1, 1, and 2 until h' = o tanh(c') is truncated and open: 14. GRU: 14.

Backward. With dc = dh o (1 - tanh^2 c') + dc', the gates' gradients are dc [g i(1-i), c f(1-f), i(1-g^2)] and
dh tanh(c') o(1-o). All factors are known after the forward pass. The steps of a sequence know each other (``Steps``, by
the state that one leaves to the next), and the first backward makes the factors of all of them at once: 4 rounds for a
whole sequence. Each step then takes 4 rounds: dh and dc, truncated and open. The product with the hidden weights that
follows needs 2 more. The GRU's are alike: n = tanh(.), h' = n + z (h - n), 6 rounds a step as well.

Error: states within 5 units (gates within 2.3 each: twice the sigmoid's error for tanh, and a truncation).
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torchveil.functions.arithmetic import add, align, combine, due, multiply, narrow, product, secret
from torchveil.functions.sigmoidal import sigmoid, tanh
from torchveil.functions.structure import apply, concatenate
from torchveil.handle import Handle, Public, Secret

S = TypeVar("S")


def parts(x: Handle, count: int) -> list[Secret]:
    """Equal columns of [rows, count * size]."""
    size = x.shape[1] // count
    return [secret(apply(x, "slice", 1, k * size, (k + 1) * size, 1)) for k in range(count)]


def _beside(xs: list[Handle]) -> Secret:
    return secret(concatenate(xs, 1))


def _one_minus(x: Secret) -> Secret:
    return combine([(x, -1)], x.scale, scale=x.scale)


def _opened(x: Secret) -> Secret:
    """x at its format's scale, open."""
    x = narrow(x)
    x.session.open(x)
    return x


def _sum(x: Handle, y: Handle) -> Secret:
    return secret(add(x, y))


# --- steps that know each other -------------------------------------------------------------------------------------


@dataclass(slots=True, weakref_slot=True)
class Steps(Generic[S]):
    """The steps of one sequence that wait for their factors, as long as somebody may ask for their gradients.

    Who keeps a step keeps its sequence; the sequence keeps nothing, so that a state carried on without its graph
    (``detach``) does not carry all that was before.
    """

    waiting: deque[weakref.ref[S]] = field(default_factory=deque)

    @staticmethod
    def after(state: Handle) -> Steps[S]:
        """Those that led to this state; new ones if none did or nobody keeps them."""
        known = state.memo.get("steps") if isinstance(state, Secret) else None
        found: Steps[S] | None = None if known is None else known()
        return Steps() if found is None else found

    def add(self, step: S, state: Secret) -> None:
        """A step, noted for the next one at the state that it leads to."""
        while self.waiting and self.waiting[0]() is None:
            self.waiting.popleft()
        self.waiting.append(weakref.ref(step))
        state.memo["steps"] = weakref.ref(self)

    def take(self) -> list[S]:
        """All that wait; none after that."""
        alive = [step for step in (ref() for ref in self.waiting) if step is not None]
        self.waiting.clear()
        return alive


# --- LSTM -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, weakref_slot=True, eq=False)
class LstmStep:
    """A step's gates [i, f, g, o] (open), the state before it and tanh of the state after; then the factors."""

    gates: Secret
    before: Handle
    squashed: Secret
    #: o (1 - tanh^2 c'), and [g i(1-i), c f(1-f), i(1-g^2), tanh(c') o(1-o)]
    to_state: Secret | None = None
    to_gates: Secret | None = None


def lstm_cell(sums: Secret, before: Handle) -> tuple[Secret, Secret, Steps[LstmStep], LstmStep]:
    """(h', c', the sequence's steps, this one) for the summed gates [rows, 4 size] and the state c."""
    i, f, g, o = parts(sums, 4)
    steps = sigmoid(_beside([i, f, combine([(g, 2)], scale=g.scale), o]))
    session = steps.session
    session.open(steps, *([before] if isinstance(before, Secret) else []))
    i, f, g, o = parts(steps, 4)
    g = combine([(g, 2)], -g.scale, scale=g.scale)
    gates = _beside([i, f, g, o])
    state = _sum(multiply(i, g), multiply(f, before))
    squashed = tanh(state)
    after = narrow(state)
    session.open(squashed, after)
    out = _opened(product(o, squashed))
    sequence: Steps[LstmStep] = Steps.after(before)
    step = LstmStep(gates, before, squashed)
    sequence.add(step, after)
    return out, after, sequence, step


def lstm_cell_backward(
    grad_h: Handle | None, grad_c: Handle | None, sequence: Steps[LstmStep], step: LstmStep
) -> tuple[Handle, Handle]:
    """(the gradient of the summed gates, the gradient of the state before)."""
    _make_factors(sequence)
    if step.to_state is None or step.to_gates is None:
        raise RuntimeError("a step without factors")
    zero = Public(step.gates.session, step.squashed.shape, fill=0.0)
    grad_h = _ready(grad_h) if grad_h is not None else zero
    through = multiply(grad_h, step.to_state)
    total = through if grad_c is None else add(through, grad_c)
    total = _ready(total)
    _, f, _, _ = parts(step.gates, 4)
    whole = concatenate([total, total, total, grad_h], 1)
    return multiply(whole, step.to_gates), multiply(total, f)


def _ready(x: Handle) -> Handle:
    """A factor of several products: truncated and opened once."""
    return x if isinstance(x, Public) else _opened(secret(x))


def _make_factors(sequence: Steps[LstmStep]) -> None:
    """The factors of all steps that have none yet, at once: 4 rounds."""
    todo = sequence.take()
    if not todo:
        return
    gates, squashed = _stacked([s.gates for s in todo]), _stacked([s.squashed for s in todo])
    before = _stacked([s.before for s in todo])
    i, f, g, o = parts(gates, 4)
    # [i, f, o] - [i, f, o]^2, 1 - g^2, 1 - tanh^2
    slopes = _opened(_beside([_step_slope(i), _step_slope(f), _tanh_slope(g), _step_slope(o), _tanh_slope(squashed)]))
    si, sf, sg, so, ss = parts(slopes, 5)
    factors = _opened(
        _beside([multiply(o, ss), multiply(g, si), multiply(before, sf), multiply(i, sg), multiply(squashed, so)])
    )
    size, start = i.shape[1], 0
    for s in todo:
        stop = start + s.squashed.shape[0]
        rows = secret(apply(factors, "slice", 0, start, stop, 1))
        s.to_state = secret(apply(rows, "slice", 1, 0, size, 1))
        s.to_gates = secret(apply(rows, "slice", 1, size, 5 * size, 1))
        start = stop


def _stacked(xs: list[Handle]) -> Handle:
    return xs[0] if len(xs) == 1 else concatenate(xs, 0)


def _step_slope(y: Secret) -> Handle:
    """y - y^2, the slope of a sigmoid y, untruncated."""
    return _difference(y, product(y, y))


def _tanh_slope(y: Handle) -> Handle:
    """1 - y^2, untruncated."""
    wire = secret(y)
    return _one_minus(product(wire, wire))


def _difference(x: Secret, y: Secret) -> Secret:
    a, b = align(x, y)
    return combine([(a, 1), (b, -1)], scale=a.scale)


# --- GRU ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, weakref_slot=True, eq=False)
class GruStep:
    """A step's r, z, n and the hidden product of the new gate (open), the state before; then the factors."""

    reset: Secret
    update: Secret
    new: Secret
    hidden_new: Handle
    before: Handle
    #: [(1 - z)(1 - n^2), (h - n) z(1 - z)], and hidden_new r(1 - r)
    to_gates: Secret | None = None
    to_reset: Handle | None = None


def gru_cell(input_gates: Handle, hidden_gates: Handle, before: Handle) -> tuple[Secret, Steps[GruStep], GruStep]:
    """(h', the sequence's steps, this one) for both shares [rows, 3 size] of the gates (r, z, n) and the state h."""
    size = before.shape[1]

    def columns(x: Handle, start: int, stop: int) -> Handle:
        return apply(x, "slice", 1, start * size, stop * size, 1)

    sums = _sum(columns(input_gates, 0, 2), columns(hidden_gates, 0, 2))
    hidden_new = columns(hidden_gates, 2, 3)
    session = sums.session
    session.open(due(sums), *([due(hidden_new)] if isinstance(hidden_new, Secret) else []))
    both = sigmoid(sums)
    known = narrow(hidden_new) if isinstance(hidden_new, Secret) else hidden_new
    session.open(both, *(x for x in (known, before) if isinstance(x, Secret)))
    reset, update = parts(both, 2)
    new = tanh(add(columns(input_gates, 2, 3), multiply(reset, known)))
    session.open(new)
    out = _opened(_sum(new, multiply(update, add(before, new, -1))))
    sequence: Steps[GruStep] = Steps.after(before)
    step = GruStep(reset, update, new, known, before)
    sequence.add(step, out)
    return out, sequence, step


def gru_cell_backward(grad: Handle, sequence: Steps[GruStep], step: GruStep) -> tuple[Handle, Handle, Handle]:
    """(the gradient of the input's gates, of the hidden gates, of the state before)."""
    _make_gru_factors(sequence)
    if step.to_gates is None or step.to_reset is None:
        raise RuntimeError("a step without factors")
    grad = _ready(grad)
    grad_new, grad_update = parts(_ready(multiply(concatenate([grad, grad], 1), step.to_gates)), 2)
    grad_hidden_new = multiply(grad_new, step.reset)
    grad_reset = multiply(grad_new, step.to_reset)
    input_side = concatenate([grad_reset, grad_update, grad_new], 1)
    hidden_side = concatenate([grad_reset, grad_update, grad_hidden_new], 1)
    return input_side, hidden_side, multiply(grad, step.update)


def _make_gru_factors(sequence: Steps[GruStep]) -> None:
    """The factors of all steps that have none yet, at once: 4 rounds."""
    todo = sequence.take()
    if not todo:
        return
    reset, update, new, known, before = (
        _stacked([getattr(s, name) for s in todo]) for name in ("reset", "update", "new", "hidden_new", "before")
    )
    r, z, n = secret(reset), secret(update), secret(new)
    slopes = _opened(_beside([_step_slope(r), _step_slope(z), _tanh_slope(n)]))
    sr, sz, sn = parts(slopes, 3)
    factors = _opened(_beside([multiply(_one_minus(z), sn), multiply(add(before, n, -1), sz), multiply(known, sr)]))
    size, start = r.shape[1], 0
    for s in todo:
        stop = start + s.reset.shape[0]
        rows = secret(apply(factors, "slice", 0, start, stop, 1))
        s.to_gates = secret(apply(rows, "slice", 1, 0, 2 * size, 1))
        s.to_reset = secret(apply(rows, "slice", 1, 2 * size, 3 * size, 1))
        start = stop
