"""RNN, LSTM and GRU, their cells and packed sequences: the input's share of all gates at once, then step by step.

torch's CPU kernels are fused (LSTM) or evaluate every gate by itself (GRU, cells, packed sequences). Here a step is one
product with the hidden state and one fused cell (``lowering.recurrent``), which evaluates all gates that do not depend
on each other together. Both directions of a padded layer run side by side, as rows of one batch. Lengths, and with them
the sizes of packed batches, are public. An initial state of zeros is a public zero (``nn.LSTM`` makes it when it is
given none); any other plain state is refused as every plain tensor is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from torchveil.composites.table import replaces

aten = torch.ops.aten

#: (h,) or (h, c), each [batch, size].
State = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """The parameters of one direction of one layer, as torch orders them; ``hr`` projects an LSTM's output."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None

    @classmethod
    def of(cls, flat: Sequence[Tensor], has_biases: bool, projected: bool) -> Weights:
        bias_ih, bias_hh = flat[2:4] if has_biases else (None, None)
        return cls(flat[0], flat[1], bias_ih, bias_hh, flat[-1] if projected else None)

    @classmethod
    def together(cls, both: Sequence[Weights]) -> Weights:
        """Those of two directions, stacked, for what follows the input's gates."""

        def stacked(pair: Sequence[Tensor | None]) -> Tensor | None:
            known = [x for x in pair if x is not None]
            return torch.stack(known) if known else None

        hh = torch.stack([w.hh for w in both])
        bias, hr = stacked([w.bias_hh for w in both]), stacked([w.hr for w in both])
        return cls(both[0].ih, hh, None, bias, hr)

    def both_biases(self) -> Tensor | None:
        if self.bias_ih is None or self.bias_hh is None:
            return self.bias_ih if self.bias_hh is None else self.bias_hh
        return self.bias_ih + self.bias_hh


@dataclass(frozen=True, slots=True)
class Cell:
    """``gates``: the input's share of the gates, for any number of steps; ``step``: the state after one of them."""

    gates: Callable[[Tensor, Weights], Tensor]
    step: Callable[[Tensor, State, Weights], State]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As torch's; for stacked weights the rows of x are those of all directions, one after the other."""
    if weight.dim() == 2:
        return nnf.linear(x, weight, bias)
    out = torch.bmm(x.unflatten(0, (len(weight), -1)), weight.transpose(1, 2))
    return (out if bias is None else out + bias.unsqueeze(1)).flatten(0, 1)


def _summed_gates(x: Tensor, w: Weights) -> Tensor:
    return nnf.linear(x, w.ih, w.both_biases())


def _lstm_step(gates: Tensor, state: State, w: Weights) -> State:
    h, c = state
    h, c, _ = aten._thnn_fused_lstm_cell.default(gates, _linear(h, w.hh), c)
    return (h if w.hr is None else _linear(h, w.hr)), c


def _gru_gates(x: Tensor, w: Weights) -> Tensor:
    return nnf.linear(x, w.ih, w.bias_ih)


def _gru_step(gates: Tensor, state: State, w: Weights) -> State:
    # the hidden bias stays with the hidden product: the reset gate multiplies both
    h, _ = aten._thnn_fused_gru_cell.default(gates, _linear(state[0], w.hh, w.bias_hh), state[0])
    return (h,)


def _rnn(activation: Callable[[Tensor], Tensor]) -> Cell:
    def step(gates: Tensor, state: State, w: Weights) -> State:
        return (activation(gates + _linear(state[0], w.hh)),)

    return Cell(_summed_gates, step)


LSTM = Cell(_summed_gates, _lstm_step)
GRU = Cell(_gru_gates, _gru_step)
RNN_TANH = _rnn(torch.tanh)
RNN_RELU = _rnn(torch.relu)


def _public_zeros(x: Tensor, like: Tensor) -> Tensor:
    """A plain tensor of zeros as a public one; anything else as it is."""
    if type(x) is Tensor and not bool(x.any()):
        return like.new_zeros(x.shape)
    return x


# --- one layer ------------------------------------------------------------------------------------------------------

#: (input, a state and weights for each direction, cell) -> (output, the last states)
Layer = Callable[[Tensor, Sequence[State], Sequence[Weights], Cell], tuple[Tensor, list[State]]]


def _padded_layer(
    x: Tensor, states: Sequence[State], weights: Sequence[Weights], cell: Cell
) -> tuple[Tensor, list[State]]:
    """x: [steps, batch, features]. A second direction is more rows of the batch, with weights of their own."""
    gates = [cell.gates(x, w) for w in weights]
    steps, w = gates[0], weights[0]
    state = tuple(_public_zeros(s, steps) for s in states[0])
    if len(weights) > 1:
        steps, w = torch.cat([steps, gates[1].flip(0)], 1), Weights.together(weights)
        state = tuple(torch.cat([s, _public_zeros(t, steps)]) for s, t in zip(state, states[1], strict=True))
    outputs = []
    for step in steps.unbind(0):
        state = cell.step(step, state, w)
        outputs.append(state[0])
    output = torch.stack(outputs)
    if len(weights) == 1:
        return output, [state]
    there, back = output.chunk(2, 1)
    ends = [s.chunk(2) for s in state]
    return torch.cat([there, back.flip(0)], -1), [tuple(s[0] for s in ends), tuple(s[1] for s in ends)]


def _packed_layer(batch_sizes: list[int]) -> Layer:
    """x: [rows, features], the first ``batch_sizes[0]`` rows are the first step, and so on; sizes never grow."""

    def forward(gates: list[Tensor], initial: State, w: Weights, cell: Cell) -> tuple[Tensor, State]:
        state, ended, outputs = initial, [], []
        for step in gates:
            size = len(step)
            if size < len(state[0]):
                ended.append(tuple(s[size:] for s in state))
                state = tuple(s[:size] for s in state)
            state = cell.step(step, state, w)
            outputs.append(state[0])
        ended.append(state)
        return torch.cat(outputs), tuple(torch.cat(parts[::-1]) for parts in zip(*ended, strict=True))

    def backward(gates: list[Tensor], initial: State, w: Weights, cell: Cell) -> tuple[Tensor, State]:
        # seen from the end, sequences come in one after the other
        state, outputs = tuple(s[: batch_sizes[-1]] for s in initial), []
        for step in reversed(gates):
            known, size = len(state[0]), len(step)
            if size > known:
                state = tuple(torch.cat([s, first[known:size]]) for s, first in zip(state, initial, strict=True))
            state = cell.step(step, state, w)
            outputs.append(state[0])
        return torch.cat(outputs[::-1]), state

    def layer(x: Tensor, states: Sequence[State], weights: Sequence[Weights], cell: Cell) -> tuple[Tensor, list[State]]:
        outputs, ends = [], []
        for run, state, w in zip((forward, backward), states, weights, strict=False):
            gates = list(cell.gates(x, w).split(batch_sizes))
            output, end = run(gates, tuple(_public_zeros(s, gates[0]) for s in state), w, cell)
            outputs.append(output)
            ends.append(end)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1), ends

    return layer


# --- all of them ----------------------------------------------------------------------------------------------------


def _layers(
    x: Tensor, hx: State, params: Sequence[Tensor], cell: Cell, layer: Layer, has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool,
) -> tuple[Tensor, State]:  # fmt: skip
    """(output, last states stacked over layers and directions)."""
    directions = 2 if bidirectional else 1
    projected = len(hx) == 2 and hx[0].shape[-1] != hx[1].shape[-1]
    each = (4 if has_biases else 2) + projected
    states = list(zip(*(s.unbind(0) for s in hx), strict=True))
    weights = [Weights.of(params[k : k + each], has_biases, projected) for k in range(0, len(params), each)]
    finals: list[State] = []
    for k in range(num_layers):
        here = slice(directions * k, directions * (k + 1))
        x, ends = layer(x, states[here], weights[here], cell)
        finals += ends
        if train and dropout and k + 1 < num_layers:
            x = nnf.dropout(x, dropout, True)
    return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


def _padded(
    cell: Cell, input: Tensor, hx: State, params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, State]:  # fmt: skip
    x = input.transpose(0, 1) if batch_first else input
    x, last = _layers(x, hx, params, cell, _padded_layer, has_biases, num_layers, dropout, train, bidirectional)
    return (x.transpose(0, 1) if batch_first else x), last


def _packed(
    cell: Cell, data: Tensor, batch_sizes: Tensor, hx: State, params: Sequence[Tensor], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool,
) -> tuple[Tensor, State]:  # fmt: skip
    layer = _packed_layer(batch_sizes.tolist())
    return _layers(data, hx, params, cell, layer, has_biases, num_layers, dropout, train, bidirectional)


def _sequence(function: Any, cell: Cell) -> None:
    """Both overloads of torch.lstm, gru, rnn_tanh, rnn_relu: batches of equal length, and packed ones."""

    def run(*args: Any) -> tuple[Tensor, ...]:
        # what distinguishes them is where the list of parameters stands
        packed = isinstance(args[3], (list, tuple))
        state = args[2] if packed else args[1]
        many = isinstance(state, (list, tuple))
        hx = tuple(state) if many else (state,)
        if packed:
            output, last = _packed(cell, args[0], args[1], hx, *args[3:])
        else:
            output, last = _padded(cell, args[0], hx, *args[2:])
        return output, *last

    replaces(function)(run)


_sequence(torch.lstm, LSTM)
_sequence(torch.gru, GRU)
_sequence(torch.rnn_tanh, RNN_TANH)
_sequence(torch.rnn_relu, RNN_RELU)


def _single(function: Any, cell: Cell) -> None:
    """One step: torch.lstm_cell and the like."""

    def run(
        input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
    ) -> Any:
        w = Weights(w_ih, w_hh, b_ih, b_hh)
        gates = cell.gates(input, w)
        many = isinstance(hx, (list, tuple))
        state = tuple(_public_zeros(s, gates) for s in (hx if many else (hx,)))
        after = cell.step(gates, state, w)
        return after if many else after[0]

    replaces(function)(run)


_single(torch.lstm_cell, LSTM)
_single(torch.gru_cell, GRU)
_single(torch.rnn_tanh_cell, RNN_TANH)
_single(torch.rnn_relu_cell, RNN_RELU)
