"""What a check finds: operations that would raise, and numbers that may leave their range; one row each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchveil.errors import TorchveilError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that would go wrong, at one place of the program.

    ``code``      the code of the error that a run would raise (``UnsupportedOperation``: TV201); "range" for a warning
    ``op``        the torch operation
    ``module``    path of the module inside the model, as ``named_modules`` says it; empty outside of all modules
    ``line``      ``file:line: source`` of the user's program; in a backward pass of the operation being differentiated
    ``phase``     "forward", "loss", "backward" or "optimizer"
    ``message``   what is wrong; ``instead``: what to do
    ``times``     how often it happened there
    """

    code: str
    op: str
    module: str
    line: str
    phase: str
    message: str
    instead: str
    times: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two findings the same."""
        return self.code, self.op, self.module, self.line, self.phase


class Findings:
    """Findings in the order of their first occurrence; the same one at the same place is one row."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, ...], Finding] = {}

    def add(self, found: Finding) -> None:
        known = self._rows.get(found.key)
        self._rows[found.key] = found if known is None else replace(known, times=known.times + found.times)

    def merge(self, again: Findings) -> None:
        """Take in what another run of the program found; what both found is not counted twice."""
        for key, found in again._rows.items():
            known = self._rows.get(key, found)
            self._rows[key] = replace(known, times=max(known.times, found.times))

    def all(self) -> tuple[Finding, ...]:
        return tuple(self._rows.values())


def first_line(error: TorchveilError) -> str:
    """The message of an error without code, operation, line and remedy, which have fields of their own."""
    return str(error).splitlines()[0].removeprefix(f"[{error.code}] ")
