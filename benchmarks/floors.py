"""The least that each workload needs in this family of protocols: rounds, bytes, multiplications; with the derivation.

Setting: two parties and a provider, values as x^ = x + mask, one mask per value. Counted is the best arrangement of
these gates that we know, with every opening used wherever it can be; per element (the gates' headers say the same):

    opening             sent 8 B by each party; one round for all openings that do not depend on each other
    product             dealt 8 B per output
    truncation          an opening of the product without the 16 bits that it drops: sent 6 B; dealt the 2 B that bring
                        back to the ring, with a gating bit the whole quotient, 8 B
    selection           dealt 8 B
    comparison          sent 34 bits, dealt 232 bits of tables, 97 of the tree and 8 B of the result bit; 3 rounds; of
                        what is truncated 25, 172 and 65 bits
    exponential         dealt 8 B

Rounds and bytes are bounds of their own: one arrangement need not reach both. A maximum is counted with the bytes of a
tournament (a comparison and an opened winner per element but one) and with the rounds of comparing all pairs at once:
one comparison, a tree of ANDs of fan-in 4 for "greater than all others", one opening. The inverse of a softmax row's
sum takes a comparison where rows are long; that of a short row is one series.

``FULL`` counts with values of the whole ring of 64 bits. ``RANGES`` is what knowing ranges would save: products are
opened modulo 2^41 and compared modulo 2^25 (sent 11 bits, dealt 22.5 B and the 8 B, 2 rounds), which needs |z| < 2^7 or
so and is silently wrong outside; torchveil does not do that today.

Arithmetic: two functions per party and one at the provider for each product, so five times the clear multiplications;
four keystreams (each party its mask, the provider both) for an opened element, two for a dealt one. ``cpu_seconds``
turns these into time at the speed of the kernels, as benchmarks/kernels.py measures them with operands in cache: what
would remain if everything between the kernels cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inputs import Function, Inference, Training, Tutorial, TutorialNet, Work

#: Rows of softmax up to this length need no comparison for the inverse of their sum.
SHORT_ROW = 12


@dataclass(frozen=True)
class Ring:
    """What an element costs: an opened product, a comparison, a comparison of such a product."""

    product_bytes: float
    compare_sent: float
    compare_dealt: float
    compare_rounds: int
    product_compare_sent: float
    product_compare_dealt: float


FULL = Ring(6, 34 / 8, (232 + 97) / 8 + 8, 3, 25 / 8, (172 + 65) / 8 + 8)
RANGES = Ring(41 / 8, 11 / 8, 22.5 + 8, 2, 11 / 8, 22.5 + 8)


@dataclass
class Floor:
    """A tally; ``comparisons`` and ``macs`` are counts, the rest as in the gates' costs."""

    ring: Ring
    rounds: int = 0
    sent_bytes: float = 0
    dealt_bytes: float = 0
    comparisons: int = 0
    macs: int = 0
    steps: list[str] = field(default_factory=list)

    def open(self, n: int, *, product: bool = False) -> None:
        self.sent_bytes += n * (self.ring.product_bytes if product else 8)

    def deal(self, n: int) -> None:
        self.dealt_bytes += 8 * n

    def truncate(self, n: int, *, gated: bool = False) -> None:
        self.dealt_bytes += n * (8 if gated else 2)

    def compare(self, n: int, *, product: bool = False) -> None:
        ring = self.ring
        self.comparisons += n
        self.sent_bytes += n * (ring.product_compare_sent if product else ring.compare_sent)
        self.dealt_bytes += n * (ring.product_compare_dealt if product else ring.compare_dealt)

    def round(self, n: int, step: str) -> None:
        """``n`` rounds that wait for one another, for the derivation."""
        self.rounds += n
        self.steps.append(f"{n} {step}")

    def maximum_rounds(self, n: int) -> int:
        """Of the maximum of ``n`` opened values, the opening of the result included."""
        return self.ring.compare_rounds + math.ceil(math.log(max(n - 1, 1), 4)) + 1

    def softmax(self, rows: int, columns: int, *, opened: bool) -> None:
        """Softmax of rows; ``opened`` if the opening of its operand is counted already."""
        n, losers = rows * columns, rows * (columns - 1)
        self.compare(losers, product=opened)
        self.deal(losers)
        self.open(losers, product=opened)  # winners; what is opened of operand and maximum opens their difference
        self.deal(n)
        self.open(n)  # exponentials, and with them their sums
        short = columns <= SHORT_ROW
        if not short:
            self.compare(rows)  # which power of two the sum lies under
        self.deal(2 * rows)
        self.open(rows)  # reciprocals
        self.deal(2 * n)
        self.open(n, product=True)
        if not opened:
            self.open(n)
            self.round(1, "operand")
        self.round(self.maximum_rounds(columns), "maximum")
        if short:
            self.round(1, "exponential")
        else:
            self.round(1 + self.ring.compare_rounds, "exponential and the size of its sum")
        self.round(2, "reciprocal and product")

    def times(self, n: int) -> None:
        """The whole tally ``n`` times, one after the other."""
        self.rounds *= n
        self.sent_bytes *= n
        self.dealt_bytes *= n
        self.comparisons *= n
        self.macs *= n
        self.steps = [f"{n} iterations of ({' + '.join(self.steps)})"]

    def derivation(self) -> str:
        return " + ".join(self.steps)


def macs(run: Callable[[], object]) -> int:
    """Multiplications of a clear run, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


# --- functions -------------------------------------------------------------------------------------------------------


def _matmul(work: Function, found: Floor) -> None:
    (m, k), (_, n) = (operand.shape for operand in work.operands)
    found.round(1, "operands")
    found.open(m * k + k * n)
    found.deal(m * n)
    found.round(1, "product (to truncate it)")
    found.open(m * n, product=True)
    found.truncate(m * n)
    found.macs = m * k * n


def _relu(work: Function, found: Floor) -> None:
    n = math.prod(work.operands[0].shape)
    found.round(1, "operand")
    found.open(n)
    found.round(found.ring.compare_rounds, "comparison")
    found.compare(n)
    found.deal(n)


def _softmax(work: Function, found: Floor) -> None:
    found.softmax(*work.operands[0].shape, opened=False)


def _elementwise(work: Function, found: Floor) -> None:
    n = math.prod(work.operands[0].shape)
    found.round(1, "operand")
    found.open(n)
    found.round(found.ring.compare_rounds, "comparison (which interval)")
    found.compare(n)
    found.round(1, "product (to truncate it)")
    found.open(n, product=True)
    found.deal(n)
    found.truncate(n)


_FUNCTIONS: dict[str, Callable[[Function, Floor], None]] = {"matmul": _matmul, "relu": _relu, "softmax": _softmax}


# --- nets ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A module with the numbers of elements of its input and output."""

    module: nn.Module
    n_in: int
    n_out: int


def layers(net: nn.Module, example: torch.Tensor) -> list[Layer]:
    """The layers of a net in the order in which they run."""
    found: list[Layer] = []
    hooks = [
        module.register_forward_hook(lambda m, i, o: found.append(Layer(m, i[0].numel(), o.numel())))
        for module in net.modules()
        if not any(module.children())
    ]
    with torch.no_grad():
        net(example)
    for hook in hooks:
        hook.remove()
    return found


def _parameters(net: nn.Module) -> int:
    """Elements of weights: biases are only added, and are never opened."""
    return sum(p.numel() for p in net.parameters() if p.dim() > 1)


def _linear(layer: Layer, found: Floor) -> None:
    found.round(1, "product")
    found.open(layer.n_out, product=True)
    found.deal(layer.n_out)


def _activation(layer: Layer, found: Floor) -> None:
    found.round(found.ring.compare_rounds, "relu's comparison")
    found.compare(layer.n_out, product=True)
    found.truncate(layer.n_out, gated=True)  # by the sign
    found.round(1, "its result")
    found.open(layer.n_out)


def _pool(layer: Layer, found: Floor) -> None:
    losers = layer.n_in - layer.n_out
    found.round(found.maximum_rounds(layer.n_in // layer.n_out), "pooling")
    found.compare(losers, product=True)
    found.deal(losers)
    found.open(losers, product=True)  # the winner of each comparison, the last of them relu's operand


def _nothing(layer: Layer, found: Floor) -> None:
    pass


_FORWARD: dict[type, Callable[[Layer, Floor], None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _linear,
    nn.ReLU: _activation,
    nn.MaxPool2d: _pool,
    nn.Flatten: _nothing,
}


def _linear_backward(layer: Layer, found: Floor) -> None:
    found.round(1, "product backward")
    found.open(layer.n_in, product=True)
    found.deal(layer.n_in)


def _activation_backward(layer: Layer, found: Floor) -> None:
    found.truncate(layer.n_in, gated=True)
    found.round(1, "relu's gradient")
    found.open(layer.n_in)


def _pool_backward(layer: Layer, found: Floor) -> None:
    losers = layer.n_in - layer.n_out
    found.round(1, "pooling backward")
    found.deal(losers)
    found.open(losers)


_BACKWARD: dict[type, Callable[[Layer, Floor], None]] = {
    nn.Linear: _linear_backward,
    nn.Conv2d: _linear_backward,
    nn.ReLU: _activation_backward,
    nn.MaxPool2d: _pool_backward,
    nn.Flatten: _nothing,
}


def _forward(net: nn.Module, x: torch.Tensor, found: Floor, opened: int, what: str) -> list[Layer]:
    found.round(1, what)
    found.open(opened)
    order = layers(net, x)
    for layer in order:
        _FORWARD[type(layer.module)](layer, found)
    return order


def _backward(net: nn.Module, order: list[Layer], found: Floor) -> None:
    found.round(1, "the loss's gradient")
    found.open(order[-1].n_out)
    for layer in reversed(order[1:]):  # nothing is wanted of the batch's own gradient
        _BACKWARD[type(layer.module)](layer, found)
    weights = _parameters(net)
    found.deal(weights)  # the gradients' products
    found.truncate(weights)  # which the next opening of the weights carries


def _training(work: Training, found: Floor) -> None:
    net, (x, y) = work.build(), work.batch()
    order = _forward(net, x, found, _parameters(net) + x.numel(), "weights and batch")
    rows, columns = y.shape
    found.softmax(rows, columns, opened=True)
    _backward(net, order, found)
    found.macs = macs(lambda: nn.functional.cross_entropy(net(x), y).backward())


def _inference(work: Inference, found: Floor) -> None:
    net, x = work.build(), work.batch()
    order = _forward(net, x, found, x.numel(), "batch")  # weights stay opened from one batch to the next
    found.truncate(order[-1].n_out)  # of the result
    with torch.no_grad():
        found.macs = macs(lambda: net(x))


class _TutorialLayers(nn.Sequential):
    """The tutorial's net with its relu as a module, for ``layers``."""

    def __init__(self) -> None:
        net = TutorialNet()
        super().__init__(net.fc1, nn.ReLU(), net.fc2)


def _tutorial(work: Tutorial, found: Floor) -> None:
    net, (x, _) = _TutorialLayers(), work.batch()
    _backward(net, _forward(net, x, found, _parameters(net), "weights"), found)
    found.macs = macs(lambda: (net(x) ** 2).sum().backward())
    found.times(work.iterations)
    found.open(x.numel())  # once, in the first of these rounds


def _function(work: Function, found: Floor) -> None:
    _FUNCTIONS.get(work.function, _elementwise)(work, found)


_KINDS: dict[type, Callable[..., None]] = {
    Tutorial: _tutorial,
    Function: _function,
    Training: _training,
    Inference: _inference,
}


def floor(work: Work, ring: Ring = FULL) -> Floor:
    """The floor of a workload for two parties."""
    found = Floor(ring)
    _KINDS[type(work)](work, found)
    return found


# --- time ------------------------------------------------------------------------------------------------------------

#: Kernels (benchmarks/kernels.py) that every comparison runs, and how often over the three roles.
COMPARISON_KERNELS: dict[str, float] = {
    "unary_tables 2^14": 1,
    "unary_leaf 2^14, 1 threshold(s)": 2,
    "monomials, 3 inner nodes, 2^14": 1,
    "gather_masked, 3 inner nodes, 2^14": 2,
    "evaluate_node, 3 inner nodes, 2^14": 2,
    "unpack_to_ring 2^14": 3,
    "selected_share 2^14": 2,
}
KEYSTREAM_KERNEL = "Stream.ring 2^14"
PRODUCT_KERNELS = "mm "  # the fastest whose name starts so


Kernels = Mapping[str, Mapping[str, Any]]  # the results of benchmarks/kernels.py by name


def product_rate(kernels: Kernels) -> float:
    """Multiplications a second of the fastest matrix product."""
    return 1e9 * float(max(row["native_rate"] for name, row in kernels.items() if name.startswith(PRODUCT_KERNELS)))


def seconds_per_comparison(kernels: Kernels) -> float:
    """Of one element, all roles, without keystreams."""
    return sum(often * float(kernels[name]["ns_per_element"]) for name, often in COMPARISON_KERNELS.items()) * 1e-9


def cpu_seconds(found: Floor, kernels: Kernels) -> float:
    """Processor time of all roles."""
    products = 5 * found.macs / product_rate(kernels)
    streams = (4 * found.sent_bytes + 2 * found.dealt_bytes) / (kernels[KEYSTREAM_KERNEL]["native_rate"] * 1e9)
    return products + streams + seconds_per_comparison(kernels) * found.comparisons
