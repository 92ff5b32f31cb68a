"""Time the native kernels against their reference twins in the same run.

    python -m benchmarks.kernels [--only mm] [--threads 1] [--repeats 9] [--json out/kernels.json]

Each pair runs alternately (A B A B) on the same operands; the table shows the smaller quartile of each, since a
shared machine only ever adds time. ``--clock cpu`` counts the CPU time of the process instead: right for one
thread on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from torchveil.kernels import and_tree, chunks, curves, gate_steps, native, reference, short
from torchveil.kernels.drawn import DrawnRing
from torchveil.randomness import Stream

KEY = bytes(range(16))
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One kernel on one size: ``amount`` units of work per call, in billions a second as ``unit``."""

    name: str
    native: Run
    reference: Run
    amount: float
    unit: str
    elements: int


def ring(*shape: int) -> Tensor:
    high, low = (torch.randint(-(1 << 31), 1 << 31, shape) for _ in range(2))
    return (high << 32) + low


def bits(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape)


def plane(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def products() -> Iterator[Case]:
    sizes = [(1024, 1024, 1024), (128, 784, 128), (784, 128, 128), (128, 128, 128), (128, 128, 10), (8, 8, 8)]
    for m, k, n in sizes:
        x, y = ring(m, k), ring(k, n)
        xt, yt = ring(k, m).t(), ring(n, k).t()
        macs = float(m * k * n)
        label = f"mm {m} x {k} x {n}"
        yield Case(label, lambda x=x, y=y: native.mm(x, y), lambda x=x, y=y: torch.mm(x, y), macs, "GMAC/s", m * n)
        yield Case(
            f"{label}, both transposed",
            lambda x=xt, y=yt: native.mm(x, y),
            lambda x=xt, y=yt: torch.mm(x, y),
            macs,
            "GMAC/s",
            m * n,
        )
    x, y = ring(64, 32, 64), ring(64, 64, 48)
    yield Case(
        "bmm 64 x 32 x 64 x 48", lambda: native.bmm(x, y), lambda: torch.bmm(x, y), 64 * 32 * 64 * 48.0, "GMAC/s", 0
    )
    a, b, c, d, z = ring(128, 784), ring(128, 784), ring(784, 128), ring(784, 128), ring(128, 128)
    for first in (True, False):
        arguments = ("mm", z, a, b, c, d, first, {}, 64)
        yield Case(
            f"product_share mm 128 x 784 x 128, {'first' if first else 'other'} party",
            lambda arguments=arguments: native.product_share(arguments[0], arguments[1].clone(), *arguments[2:]),
            lambda arguments=arguments: gate_steps.product_share(*arguments),
            2 * 128 * 784 * 128.0,
            "GMAC/s",
            128 * 128,
        )
    n = 1 << 16
    e = [ring(n) for _ in range(5)]
    yield elementwise(
        "product_share mul 2^16",
        lambda: native.product_share("mul", *e, True, {}, 64),
        lambda: gate_steps.product_share("mul", *e, True, {}, 64),
        n,
        48,
    )
    options = {"stride": (1, 1), "padding": (2, 2), "dilation": (1, 1), "groups": 1}
    x, w, g = ring(32, 6, 14, 14), ring(16, 6, 5, 5), ring(32, 16, 14, 14)
    macs = 32 * 16 * 14 * 14 * 6 * 25.0
    yield Case(
        "conv2d 32x6x14x14, 16 of 5x5",
        lambda: native.conv2d(x, w, **options),
        lambda: reference.conv2d(x, w, **options),
        macs,
        "GMAC/s",
        0,
    )
    yield Case(
        "conv2d_weight_grad, the same",
        lambda: native.conv2d_weight_grad(x, g, kernel=(5, 5), **options),
        lambda: reference.conv2d_weight_grad(x, g, kernel=(5, 5), **options),
        macs,
        "GMAC/s",
        0,
    )
    yield Case(
        "conv2d_input_grad, the same",
        lambda: native.conv2d_input_grad(g, w, size=(14, 14), **options),
        lambda: reference.conv2d_input_grad(g, w, size=(14, 14), **options),
        macs,
        "GMAC/s",
        0,
    )


def elementwise(name: str, run: Run, twin: Run, elements: int, n_bytes: float) -> Case:
    return Case(name, run, twin, n_bytes * elements, "GB/s", elements)


def keystreams() -> Iterator[Case]:
    fast, plain = native.NativeStream(KEY), Stream(KEY)
    for exponent in (7, 14, 20):
        n = 1 << exponent
        x = ring(n)
        yield elementwise(
            f"Stream.ring 2^{exponent}",
            lambda n=n: fast.ring(1, 2, (n,), 64),
            lambda n=n: plain.ring(1, 2, (n,), 64),
            n,
            8,
        )
        yield elementwise(
            f"subtract_stream 2^{exponent}",
            lambda x=x: native.subtract_stream(x, fast, 1, 2, 64),
            lambda x=x: gate_steps.subtract_stream(x, plain, 1, 2, 64),
            n,
            16,
        )
        yield elementwise(
            f"mask_value 2^{exponent}",
            lambda x=x: native.mask_value(x, fast, 1, 2, 64),
            lambda x=x: gate_steps.mask_value(x, plain, 1, 2, 64),
            n,
            24,
        )
    packed = plane(15, 1 << 14)
    yield elementwise(
        "xor_bits 15 x 2^14 bytes",
        lambda: native.xor_bits(packed, fast, 1, 2),
        lambda: gate_steps.xor_bits(packed, plain, 1, 2),
        packed.size,
        2,
    )


def shorts() -> Iterator[Case]:
    """Short openings, lifts and combinations."""
    fast, plain = native.NativeStream(KEY), Stream(KEY)
    for exponent in (14, 20):
        n = 1 << exponent
        x, mask, dealt, share, flip = ring(n) & ~0xFFFF, ring(n), ring(n), ring(n), bits(n)
        rows = np.random.default_rng(0).integers(0, 1 << 16, (3, n), dtype=np.uint16)
        pieces = [native.mask_short(x, fast, 1, slot, 16, 64)[0] for slot in range(2)]
        runs: dict[str, tuple[Callable[[Any], object], float]] = {
            "round_share": (lambda k, x=x: k.round_share(x, 16, True, 64), 16),
            "add_packed": (lambda k, pieces=pieces: k.add_packed(pieces), 20),
            "lift_rows": (lambda k, mask=mask, bit=flip: k.lift_rows(mask, bit, 16, 64), 30),
            "lifted_share": (lambda k, x=x, m=mask, r=rows: k.lifted_share(x, r[:2], m, True, 16, 64), 30),
            "gated_lift": (
                lambda k, x=x, r=rows, m=mask, d=dealt, f=flip, b=share: k.gated_lift(x, r, m, d, f, b, True, 16, 64),
                54,
            ),
            "complete": (lambda k, x=x, r=rows: k.complete(x, r[0], 16, 64), 18),
        }
        for name, (run, n_bytes) in runs.items():
            yield elementwise(
                f"{name} 2^{exponent}", lambda run=run: run(native), lambda run=run: run(short), n, n_bytes
            )
        yield elementwise(
            f"mask_short 2^{exponent}",
            lambda x=x: native.mask_short(x, fast, 1, 2, 16, 64),
            lambda x=x: short.mask_short(x, plain, 1, 2, 16, 64),
            n,
            22,
        )
        yield elementwise(
            f"combination of two 2^{exponent}",
            lambda x=x, y=mask: native.combination((x, y), (1, -1), 0),
            lambda x=x, y=mask: gate_steps.combination((x, y), (1, -1), 0),
            n,
            24,
        )


def truncations() -> Iterator[Case]:
    for exponent, divisor in [(14, 1 << 16), (14, 1000), (20, 1 << 16), (20, 1000)]:
        n = 1 << exponent
        r, b, f = ring(n), bits(n), bits(n)
        p = [ring(n) for _ in range(4)]
        label = f"2^{exponent} by {divisor}"
        for gate, size in ((None, 24), (b, 48)):
            yield elementwise(
                f"mask_quotients {label}{'' if gate is None else ', gated'}",
                lambda r=r, g=gate, d=divisor: native.mask_quotients(r, g, d, 64),
                lambda r=r, g=gate, d=divisor: gate_steps.mask_quotients(r, g, d, 64),
                n,
                size,
            )
        plain = (r, p[:1], p[1:2], None, True, divisor, 64)
        gated = (r, p[:2], p[2:], (f, b), True, divisor, 64)
        for arguments, suffix, size in ((plain, "", 32), (gated, ", gated", 64)):
            yield elementwise(
                f"truncated_share {label}{suffix}",
                lambda a=arguments: native.truncated_share(*a),
                lambda a=arguments: gate_steps.truncated_share(*a),
                n,
                size,
            )


def comparisons() -> Iterator[Case]:
    for exponent in (14, 20):
        n = 1 << exponent
        n_bytes = n // 8
        x = ring(n)
        table = chunks.unary_tables(x, 64, 4)
        yield elementwise(
            f"unary_tables 2^{exponent}",
            lambda x=x: native.unary_tables(x, 64, 4),
            lambda x=x: chunks.unary_tables(x, 64, 4),
            n,
            40,
        )
        for thresholds in ((0,), (-5, 5)):
            yield elementwise(
                f"unary_leaf 2^{exponent}, {len(thresholds)} threshold(s)",
                lambda x=x, t=table, s=thresholds: native.unary_leaf(x, t, s, False, True, 64, 4),
                lambda x=x, t=table, s=thresholds: gate_steps.unary_leaf(x, t, s, False, True, 64, 4),
                n,
                40 + 4.125 * len(thresholds),
            )
        plan, groups = and_tree.node(4, True), 3
        shape = (groups, 1, n_bytes)
        masks, opened, dealt, upper = plane(7, *shape), plane(7, *shape), plane(22, *shape), plane(*shape)
        yield elementwise(
            f"monomials, 3 inner nodes, 2^{exponent}",
            lambda plan=plan, m=masks: native.monomials(plan, m),
            lambda plan=plan, m=masks: and_tree.monomials(plan, m),
            n,
            29 * 3 / 8,
        )
        yield elementwise(
            f"evaluate_node, 3 inner nodes, 2^{exponent}",
            lambda a=(plan, upper, opened, masks, dealt, True): native.evaluate_node(*a),
            lambda a=(plan, upper, opened, masks, dealt, True): and_tree.evaluate_node(*a),
            n,
            39 * 3 / 8,
        )
        group = and_tree.levels(16, 4)[0][1]
        lt, eq = plane(16, 1, n_bytes), plane(16, 1, n_bytes)
        yield elementwise(
            f"gather_masked, 3 inner nodes, 2^{exponent}",
            lambda g=group, lt=lt, eq=eq, m=masks: native.gather_masked(g, lt, eq, m),
            lambda g=group, lt=lt, eq=eq, m=masks: and_tree.gather(g, lt, eq) ^ m,
            n,
            21 * 3 / 8,
        )
        packed, flip = plane(1, n_bytes), bits(n)
        yield elementwise(
            f"pack_top_bits 2^{exponent}",
            lambda x=x: native.pack_top_bits(x, 64),
            lambda x=x: gate_steps.pack_top_bits(x, 64),
            n,
            8.125,
        )
        yield elementwise(
            f"unpack_to_ring 2^{exponent}",
            lambda p=packed, n=n: native.unpack_to_ring(p, n, (n,)),
            lambda p=packed, n=n: gate_steps.unpack_to_ring(p, n, (n,)),
            n,
            8.125,
        )
        pieces = [ring(n) for _ in range(4)]
        yield elementwise(
            f"selected_share 2^{exponent}",
            lambda f=flip, p=pieces: native.selected_share(f, *p, 64),
            lambda f=flip, p=pieces: gate_steps.selected_share(f, *p, 64),
            n,
            48,
        )
        yield elementwise(
            f"bit_share 2^{exponent}",
            lambda f=flip, p=pieces: native.bit_share(f, p[0], True),
            lambda f=flip, p=pieces: gate_steps.bit_share(f, p[0], True),
            n,
            24,
        )


def curves_() -> Iterator[Case]:
    n, frequencies = 1 << 16, tuple(range(1, 12))
    mask, bit, flip, share = ring(n), bits(n), bits(n), ring(n)
    fast, plain = native.NativeStream(KEY), Stream(KEY)
    count = 4 * len(frequencies)
    pads, twins = ([[DrawnRing(s, 1, slot, (n,), 64)] for slot in range(count)] for s in (fast, plain))
    yield elementwise(
        "series_masks 2^16, 11 frequencies, gated",
        lambda: native.series_masks(mask, bit, 24, frequencies, 64, pads),
        lambda: curves.series_masks(mask, bit, 24, frequencies, 64, twins),
        n,
        8 * count,
    )
    values = tuple(range(1, 12))
    arguments = ((flip, share), True, 24, frequencies, values, values, 5)
    yield elementwise(
        "series_share 2^16, 11 frequencies, gated",
        lambda: native.series_share(mask, [p[0] for p in pads], *arguments),
        lambda: curves.series_share(mask, [p[0] for p in twins], *arguments),
        n,
        8 * count,
    )
    interval = (20, 1 << 16)
    yield elementwise(
        "exponential_masks 2^16, gated",
        lambda: native.exponential_masks(mask, bit, *interval, 40, 64, pads[:4]),
        lambda: curves.exponential_masks(mask, bit, *interval, 40, 64, twins[:4]),
        n,
        48,
    )
    yield elementwise(
        "exponential_share 2^16, gated",
        lambda: native.exponential_share(mask, [p[0] for p in pads[:4]], (flip, share), *interval, 21),
        lambda: curves.exponential_share(mask, [p[0] for p in twins[:4]], (flip, share), *interval, 21),
        n,
        56,
    )
    flips, shares = [bits(n) for _ in range(36)], [ring(n) for _ in range(36)]
    weights = list(range(36))
    yield elementwise(
        "weighed_bits 2^16, 36 bits",
        lambda: native.weighed_bits(flips, shares, weights, 1, True, 64),
        lambda: gate_steps.weighed_bits(flips, shares, weights, 1, True, 64),
        n,
        36 * 16 + 8,
    )


def seconds(run: Run, clock: Callable[[], float], calls: int) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


def measure(case: Case, repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Both in turn; as many calls each time as fill a few milliseconds."""
    times: dict[str, list[float]] = {"native": [], "reference": []}
    runs = {"native": case.native, "reference": case.reference}
    calls = {name: max(1, int(0.003 / max(seconds(run, clock, 2), 1e-7))) for name, run in runs.items()}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, clock, calls[name]))
    quartile = {name: sorted(found)[len(found) // 4] for name, found in times.items()}
    return {
        "kernel": case.name,
        "native_seconds": quartile["native"],
        "reference_seconds": quartile["reference"],
        "native_rate": case.amount / quartile["native"] / 1e9,
        "reference_rate": case.amount / quartile["reference"] / 1e9,
        "unit": case.unit,
        "ns_per_element": quartile["native"] / case.elements * 1e9 if case.elements else None,
        "ratio": quartile["reference"] / quartile["native"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if native.core is None:
        raise SystemExit("torchveil_native is not installed: pip install ./native")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    level = native.core.level()
    table = Table(title=f"{level}, {arguments.threads} thread(s), {arguments.clock} clock")
    for column in ("kernel", "native", "reference", "rate", "reference rate", "ns/element", "ratio"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    results = []
    groups = (products, keystreams, shorts, truncations, comparisons, curves_)
    for case in (case for group in groups for case in group()):
        if arguments.only not in case.name:
            continue
        found = measure(case, arguments.repeats, clock)
        results.append(found)
        table.add_row(
            case.name,
            f"{found['native_seconds'] * 1e6:.1f} us",
            f"{found['reference_seconds'] * 1e6:.1f} us",
            f"{found['native_rate']:.1f} {case.unit}",
            f"{found['reference_rate']:.1f}",
            f"{found['ns_per_element']:.2f}" if found["ns_per_element"] is not None else "",
            f"{found['ratio']:.1f}x",
        )
    Console(width=140).print(table)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps({"level": level, "threads": arguments.threads, "results": results}, indent=1)
        )


if __name__ == "__main__":
    main()
