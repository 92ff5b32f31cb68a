"""RNN, LSTM and GRU, their cells and packed sequences: the input's share of all gates at once, then step by step.

torch's CPU kernels are fused (LSTM) or evaluate every gate by itself (GRU, cells, packed sequences). Here a step is one
product with the hidden state and one fused cell (``lowering.recurrent``), which evaluates all gates that do not depend
on each other together. Lengths, and with them the sizes of packed batches, are public. An initial state of zeros is a
public zero (``nn.LSTM`` makes it when it is given none); any other plain state is refused as every plain tensor is.
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

    def both_biases(self) -> Tensor | None:
        if self.bias_ih is None or self.bias_hh is None:
            return self.bias_ih if self.bias_hh is None else self.bias_hh
        return self.bias_ih + self.bias_hh


@dataclass(frozen=True, slots=True)
class Cell:
    """``gates``: the input's share of the gates, for any number of steps; ``step``: the state after one of them."""

    gates: Callable[[Tensor, Weights], Tensor]
    step: Callable[[Tensor, State, Weights], State]


def _summed_gates(x: Tensor, w: Weights) -> Tensor:
    return nnf.linear(x, w.ih, w.both_biases())


def _lstm_step(gates: Tensor, state: State, w: Weights) -> State:
    h, c = state
    h, c, _ = aten._thnn_fused_lstm_cell.default(gates, nnf.linear(h, w.hh), c)
    return (h if w.hr is None else nnf.linear(h, w.hr)), c


def _gru_gates(x: Tensor, w: Weights) -> Tensor:
    return nnf.linear(x, w.ih, w.bias_ih)


def _gru_step(gates: Tensor, state: State, w: Weights) -> State:
    # the hidden bias stays with the hidden product: the reset gate multiplies both
    h, _ = aten._thnn_fused_gru_cell.default(gates, nnf.linear(state[0], w.hh, w.bias_hh), state[0])
    return (h,)


def _rnn(activation: Callable[[Tensor], Tensor]) -> Cell:
    def step(gates: Tensor, state: State, w: Weights) -> State:
        return (activation(gates + nnf.linear(state[0], w.hh)),)

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


# --- one direction of one layer -------------------------------------------------------------------------------------

#: (input, state, weights, cell, reverse) -> (output, last state)
Layer = Callable[[Tensor, State, Weights, Cell, bool], tuple[Tensor, State]]


def _padded_layer(x: Tensor, state: State, w: Weights, cell: Cell, reverse: bool) -> tuple[Tensor, State]:
    """x: [steps, batch, features]."""
    gates = list(cell.gates(x, w).unbind(0))
    state = tuple(_public_zeros(s, gates[0]) for s in state)
    outputs = []
    for step in reversed(gates) if reverse else gates:
        state = cell.step(step, state, w)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _packed_layer(batch_sizes: list[int]) -> Layer:
    """x: [rows, features], the first ``batch_sizes[0]`` rows are the first step, and so on; sizes never grow."""

    def layer(x: Tensor, state: State, w: Weights, cell: Cell, reverse: bool) -> tuple[Tensor, State]:
        gates = list(cell.gates(x, w).split(batch_sizes))
        initial = tuple(_public_zeros(s, gates[0]) for s in state)
        outputs: list[Tensor] = []
        if reverse:
            # sequences come in as they begin, seen from their ends
            state = tuple(s[: batch_sizes[-1]] for s in initial)
            for step in reversed(gates):
                known, size = len(state[0]), len(step)
                if size > known:
                    state = tuple(torch.cat([s, first[known:size]]) for s, first in zip(state, initial, strict=True))
                state = cell.step(step, state, w)
                outputs.insert(0, state[0])
            return torch.cat(outputs), state
        state, ended = initial, []
        for step in gates:
            size = len(step)
            if size < len(state[0]):
                ended.append(tuple(s[size:] for s in state))
                state = tuple(s[:size] for s in state)
            state = cell.step(step, state, w)
            outputs.append(state[0])
        ended.append(state)
        last = tuple(torch.cat(parts[::-1]) for parts in zip(*ended, strict=True))
        return torch.cat(outputs), last

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
    finals = []
    for k in range(num_layers):
        outputs = []
        for reverse in (False, True)[:directions]:
            place = directions * k + reverse
            w = Weights.of(params[place * each : (place + 1) * each], has_biases, projected)
            output, final = layer(x, states[place], w, cell, reverse)
            outputs.append(output)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
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
