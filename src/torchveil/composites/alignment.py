"""Connectionist temporal classification for public targets: the forward recursion, in logarithms.

Theory of operation. The target of L labels becomes a row of S = 2 L + 1 states, blanks between the labels. alpha_t(s),
the logarithm of the probability of all alignments of the first t frames that end in s, is the logarithm of the sum over
s, s - 1 and, where two labels differ, s - 2, plus the log-probability of s in frame t. The logarithm of a sum of three
is x_0 - log_softmax(x)_0, whose gradient is the softmax. States that no alignment reaches hold a large negative number:
which ones these are is public, as targets and lengths are. All states of all samples go through one softmax of a frame,
so rounds are those of one, times the frames.

The gradient is that for log-probabilities; torch's kernel adds exp(log_probs), which a log-softmax before it cancels.
Error of a loss: 3 units for each frame. Secret targets or lengths raise ``UnsupportedOperation``: they would have to be
compared with every class in every state.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from torchveil.composites.table import replaces
from torchveil.errors import InvalidArgument, UnsupportedOperation

#: What stands for the logarithm of 0.
_NEVER = -4096.0


@dataclass(frozen=True, slots=True)
class _Targets:
    """``states`` (samples, S): the class of each; ``skips``: whether s may follow s - 2; ``lengths`` of the targets."""

    states: Tensor
    skips: Tensor
    lengths: list[int]
    needed: list[int]


def _plain(x: Any, what: str) -> list[int]:
    if isinstance(x, Tensor) and type(x) is not Tensor:
        raise UnsupportedOperation(f"secret {what} of a CTC loss", op="ctc_loss", remedy="give them as plain integers")
    return [int(v) for v in (x.reshape(-1).tolist() if isinstance(x, Tensor) else [x] if isinstance(x, int) else x)]


def _targets(targets: Any, lengths: list[int], blank: int, classes: int) -> _Targets:
    labels = _plain(targets, "targets")
    rows, width = [], len(labels) // max(1, len(lengths))
    for n, length in enumerate(lengths):
        start = n * width if targets.dim() > 1 else sum(lengths[:n])
        rows.append(labels[start : start + length])
    if any(not 0 <= label < classes for row in rows for label in row):
        raise InvalidArgument(f"a target outside [0, {classes})", op="ctc_loss", remedy="check the targets")
    size = 2 * max([0, *map(len, rows)]) + 1
    states = torch.full((len(rows), size), blank, dtype=torch.int64)
    for state, row in zip(states, rows, strict=True):
        state[1 : 2 * len(row) : 2] = torch.tensor(row, dtype=torch.int64)
    skips = torch.zeros(states.shape, dtype=torch.bool)
    skips[:, 2:] = (states[:, 2:] != states[:, :-2]) & (states[:, 2:] != blank)
    needed = [len(row) + sum(a == b for a, b in pairwise(row)) for row in rows]
    return _Targets(states, skips, lengths, needed)


def _log_of_sum(terms: list[Tensor]) -> Tensor:
    stacked = torch.stack(terms, -1)
    return stacked.select(-1, 0) - stacked.log_softmax(-1).select(-1, 0)


def _shifted(alpha: Tensor, by: int) -> Tensor:
    """alpha(s - by), nothing before the first state."""
    never = alpha.new_full((alpha.shape[0], by), _NEVER)
    return torch.cat([never, alpha[:, :-by]], 1) if alpha.shape[1] > by else alpha.new_full(alpha.shape, _NEVER)


def _forward(log_probs: Tensor, targets: _Targets) -> list[Tensor]:
    """alpha_t for all samples and states, of each frame."""
    frames = log_probs.shape[0]
    emitted = log_probs.gather(2, targets.states.expand(frames, *targets.states.shape))
    late = torch.arange(targets.states.shape[1]) >= 2
    alphas = [emitted[0].masked_fill(late.expand(emitted[0].shape), _NEVER)]
    for t in range(1, frames):
        alpha = alphas[-1]
        skipped = _shifted(alpha, 2).masked_fill(~targets.skips, _NEVER)
        alphas.append(emitted[t] + _log_of_sum([alpha, _shifted(alpha, 1), skipped]))
    return alphas


def _losses(alphas: list[Tensor], targets: _Targets, frames: list[int]) -> Tensor:
    """-log of the probability of each target: alignments end in its last label or in the blank behind it."""
    out = []
    for n, (length, count) in enumerate(zip(targets.lengths, frames, strict=True)):
        last = alphas[count - 1][n]
        ends = [last[2 * length]] + ([last[2 * length - 1]] if length else [])
        out.append(-(_log_of_sum(ends) if len(ends) > 1 else ends[0]))
    return torch.stack(out)


def _normalisation(log_probs: Tensor, frames: list[int]) -> Tensor:
    """Nothing, with the gradient e^log_probs: torch's formula takes the rows for normalised ones, whose sum is fixed.

    Behind a log-softmax it makes no difference.
    """
    late = torch.arange(log_probs.shape[0]).unsqueeze(1) >= torch.tensor(frames)
    mass = log_probs.exp().sum(2).masked_fill(late, 0.0).sum(0)
    return mass - mass.detach()


@replaces(torch.nn.functional.ctc_loss, torch.ctc_loss)
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str | int = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """torch's function for secret ``log_probs`` (frames, samples, classes) and public targets."""
    single = log_probs.dim() == 2
    log_probs = log_probs.unsqueeze(1) if single else log_probs
    frames, lengths = _plain(input_lengths, "lengths"), _plain(target_lengths, "lengths")
    known = _targets(targets, lengths, blank, log_probs.shape[2])
    impossible = [n for n, needed in enumerate(known.needed) if frames[n] < max(1, needed)]
    if impossible and not zero_infinity:
        raise InvalidArgument(
            "the loss of a target longer than its frames is infinite",
            op="ctc_loss",
            remedy="zero_infinity=True, or leave these samples out",
        )
    losses = _losses(_forward(log_probs, known), known, [max(1, count) for count in frames])
    if torch.is_grad_enabled() and log_probs.requires_grad:
        losses = losses + _normalisation(log_probs, frames)
    if impossible:
        losses = losses.masked_fill(torch.tensor([n in impossible for n in range(len(frames))]), 0.0)
    if reduction in ("none", 0):
        return losses[0] if single else losses
    if reduction in ("sum", 2):
        return losses.sum()
    parts = [loss / max(1, length) for loss, length in zip(losses.unbind(), lengths, strict=True)]
    return torch.stack(parts).mean()
