"""RNN, LSTM, GRU, their cells and packed sequences against float64, and what a step of them costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from tests.tensor.sequences import check_compiled, compare
from torchveil import Session, UnsupportedOperation, WouldBePublished, public

TWO_PARTIES = Session(debug=True)
THREE_PARTIES = Session(["a", "b", "c"], debug=True)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


LAYERS = {
    "rnn": lambda: nn.RNN(4, 3),
    "rnn with relu, no biases": lambda: nn.RNN(4, 3, nonlinearity="relu", bias=False),
    "rnn, both directions": lambda: nn.RNN(4, 3, 2, bidirectional=True, batch_first=True),
    "lstm": lambda: nn.LSTM(4, 3),
    "lstm, projected, both directions": lambda: nn.LSTM(4, 3, 2, proj_size=2, bidirectional=True, batch_first=True),
    "lstm, no biases": lambda: nn.LSTM(4, 3, bias=False),
    "gru": lambda: nn.GRU(4, 3),
    "gru, both directions": lambda: nn.GRU(4, 3, 2, bidirectional=True, batch_first=True),
    "gru, no biases": lambda: nn.GRU(4, 3, bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    compare(TWO_PARTIES, LAYERS[name](), torch.randn(3, 2, 4))


@pytest.mark.parametrize("name", ["rnn", "lstm, projected, both directions", "gru"])
def test_layers_with_three_parties(name: str) -> None:
    compare(THREE_PARTIES, LAYERS[name](), torch.randn(2, 2, 4))


class WithState(nn.Module):
    """A layer whose initial state is an input, h and for an LSTM c."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *state: Tensor) -> Any:
        return self.layer(x, state if len(state) > 1 else state[0])


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_gradients_reach_a_secret_initial_state(kind: type[nn.RNNBase]) -> None:
    states = [torch.randn(2, 2, 3) for _ in range(2 if kind is nn.LSTM else 1)]
    compare(TWO_PARTIES, WithState(kind(4, 3, 2)), torch.randn(3, 2, 4), *states)


def test_one_sequence_without_a_batch() -> None:
    compare(TWO_PARTIES, nn.LSTM(4, 3), torch.randn(3, 4))


CELLS = {
    "rnn": lambda: nn.RNNCell(4, 3),
    "rnn with relu": lambda: nn.RNNCell(4, 3, nonlinearity="relu"),
    "lstm": lambda: nn.LSTMCell(4, 3),
    "gru": lambda: nn.GRUCell(4, 3, bias=False),
}


class Twice(nn.Module):
    """A cell applied to two inputs, first without a state."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.cell(y, self.cell(x))


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    compare(TWO_PARTIES, Twice(CELLS[name]()), torch.randn(2, 4), torch.randn(2, 4))


class Packed(nn.Module):
    """Pads, packs, runs, unpacks: lengths are public."""

    def __init__(self, layer: nn.RNNBase, lengths: list[int], in_order: bool) -> None:
        super().__init__()
        self.layer, self.lengths, self.in_order = layer, lengths, in_order

    def forward(self, x: Tensor) -> Any:
        rows = [x[:length, k] for k, length in enumerate(self.lengths)]
        padded = rnn.pad_sequence(rows, padding_value=0.5)
        packed = rnn.pack_padded_sequence(padded, self.lengths, enforce_sorted=self.in_order)
        out, last = self.layer(packed)
        unpacked, lengths = rnn.pad_packed_sequence(out, padding_value=-1.0, total_length=5)
        assert lengths.tolist() == self.lengths
        return unpacked, last


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("lengths", "in_order"), [([4, 2, 1], True), ([2, 4, 2], False)])
def test_packed_sequences(kind: type[nn.RNNBase], lengths: list[int], in_order: bool) -> None:
    compare(TWO_PARTIES, Packed(kind(4, 3, bidirectional=True), lengths, in_order), torch.randn(4, 3, 4))


def test_a_packed_lstm_with_projections_and_two_layers() -> None:
    layer = nn.LSTM(4, 3, 2, proj_size=2)
    compare(TWO_PARTIES, Packed(layer, [3, 3, 1], True), torch.randn(3, 3, 4))


def test_padding_on_the_left_and_sequences_of_equal_length() -> None:
    a, b = torch.randn(3, 2), torch.randn(1, 2)
    secret = rnn.pad_sequence([TWO_PARTIES.share(a), TWO_PARTIES.share(b)], batch_first=True, padding_side="left")
    assert torch.allclose(secret.reveal(), rnn.pad_sequence([a, b], batch_first=True, padding_side="left"), atol=1e-4)
    packed = rnn.pack_sequence([TWO_PARTIES.share(a), TWO_PARTIES.share(a)])
    again, lengths = rnn.pad_packed_sequence(packed)
    assert lengths.tolist() == [3, 3] and torch.allclose(again.reveal()[:, 1], a, atol=1e-4)


# --- states and dropout ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_plain_initial_state_is_refused_unless_it_is_public(kind: type[nn.RNNBase]) -> None:
    layer = TWO_PARTIES.encrypt(kind(4, 3))
    x, state = TWO_PARTIES.share(torch.randn(2, 2, 4)), torch.randn(1, 2, 3)
    many = kind is nn.LSTM
    with pytest.raises(WouldBePublished):
        layer(x, (state, state) if many else state)
    declared = layer(x, (public(state), public(state)) if many else public(state))
    shared = layer(x, (TWO_PARTIES.share(state), TWO_PARTIES.share(state)) if many else TWO_PARTIES.share(state))
    assert torch.allclose(declared[0].reveal(), shared[0].reveal(), atol=2e-4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_dropout_stands_between_layers_in_training_only(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(1)
    model = kind(4, 3, 2, dropout=1.0)
    x = torch.randn(2, 2, 4)
    second = kind(3, 3)
    second.load_state_dict({name: getattr(model, name.replace("l0", "l1")).data for name in second.state_dict()})
    nothing = second(torch.zeros(2, 2, 3))[0]
    with torch.no_grad():
        kept = model.eval()(x)[0]
        secret = TWO_PARTIES.encrypt(model)
        assert torch.allclose(secret.train()(TWO_PARTIES.share(x))[0].reveal(), nothing, atol=3e-4)
        assert torch.allclose(secret.eval()(TWO_PARTIES.share(x))[0].reveal(), kept, atol=3e-4)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(kind: type[nn.RNNBase], mode: Any) -> None:
    model, x = kind(4, 3).eval(), torch.randn(2, 2, 4)
    wanted = model(x)[0].detach()
    with mode():
        assert torch.allclose(TWO_PARTIES.encrypt(model)(TWO_PARTIES.share(x))[0].reveal(), wanted, atol=2e-4)


def test_large_inputs_saturate_the_gates() -> None:
    x = torch.tensor([[[2000.0, -2000.0]], [[-2000.0, 2000.0]]])
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        model = kind(2, 3)
        wanted = model(x)[0].detach()
        assert torch.allclose(TWO_PARTIES.encrypt(model)(TWO_PARTIES.share(x))[0].reveal(), wanted, atol=1e-3)


# --- what it costs, what is kept -------------------------------------------------------------------------------------


def cost(kind: type[nn.RNNBase], steps: int, **options: Any) -> tuple[int, int]:
    """Rounds forward and backward of a layer of so many steps."""
    session = Session()
    layer = session.encrypt(kind(4, 3, **options))
    out, _ = layer(session.share(torch.randn(steps, 2, 4)))
    forward = session.cost().rounds
    out.sum().backward()
    return forward, session.cost().rounds - forward


@pytest.mark.parametrize(("kind", "forward", "backward"), [(nn.LSTM, 14, 6), (nn.GRU, 14, 6), (nn.RNN, 6, 5)])
def test_rounds_of_a_step(kind: type[nn.RNNBase], forward: int, backward: int) -> None:
    """All gates, and both directions, in one evaluation; what a gradient multiplies is made for all steps at once."""
    for both in (False, True):
        few, many = cost(kind, 3, bidirectional=both), cost(kind, 7, bidirectional=both)
        assert ((many[0] - few[0]) / 4, (many[1] - few[1]) / 4) == (forward, backward)


def test_steps_free_their_wires() -> None:
    session = Session()
    layer = session.encrypt(nn.LSTM(4, 3))
    x = session.share(torch.randn(4, 2, 4))
    counts = []
    for _ in range(3):
        layer.zero_grad()
        layer(x)[0].sum().backward()
        counts.append(session.n_wires)
    assert counts[0] == counts[1] == counts[2]
    layer(x)
    assert session.n_wires == counts[0]


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("learn", [True, False])
def test_a_state_without_its_graph_carries_nothing_on(kind: type[nn.RNNCellBase], learn: bool) -> None:
    """Backpropagation through one step at a time: what earlier steps left is freed, with and without a backward."""
    session = Session()
    cell = session.encrypt(kind(4, 3))
    x = session.share(torch.randn(2, 4))
    state, counts = None, []
    for _ in range(5):
        state = cell(x, state)
        states = state if isinstance(state, tuple) else (state,)
        if learn:
            cell.zero_grad()
            states[0].sum().backward()
        state = tuple(s.detach() for s in states) if len(states) > 1 else states[0].detach()
        counts.append(session.n_wires)
    assert counts[2] == counts[3] == counts[4]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_compiled(kind: type[nn.RNNBase]) -> None:
    check_compiled(Session(), kind(4, 3), torch.randn(3, 2, 4))


def test_the_workspace_of_a_cell_is_not_read() -> None:
    x = TWO_PARTIES.share(torch.randn(2, 12))
    _, _, workspace = torch.ops.aten._thnn_fused_lstm_cell(x, x, TWO_PARTIES.share(torch.randn(2, 3)))
    with pytest.raises(UnsupportedOperation, match="workspace"):
        workspace.reveal()


def test_biases_given_to_a_cell_itself() -> None:
    gates, bias, h = torch.randn(2, 9), torch.randn(9), torch.randn(2, 3)
    share = TWO_PARTIES.share
    leaves = [share(bias).requires_grad_() for _ in range(2)]
    out, _ = torch.ops.aten._thnn_fused_gru_cell(share(gates), share(gates), share(h), *leaves)
    other, _ = torch.ops.aten._thnn_fused_gru_cell(share(gates + bias), share(gates + bias), share(h))
    assert torch.allclose(out.detach().reveal(), other.reveal(), atol=2e-4)
    out.sum().backward()
    clear = [bias.clone().requires_grad_() for _ in range(2)]
    i, j = (gates + b for b in clear)
    r, z = ((i[:, :6] + j[:, :6]).sigmoid()).chunk(2, 1)
    n = (i[:, 6:] + r * j[:, 6:]).tanh()
    ((h - n) * z + n).sum().backward()
    for a, b in zip(leaves, clear, strict=True):
        assert torch.allclose(a.grad.reveal(), b.grad, atol=1e-3)
