"""Run a role: ``torchveil worker --config alice.toml``, ``torchveil provider --config james.toml``.

One rank of a role that is a group: ``--rank N``. All ranks of a machine with one command, since torchrun tells each its
rank: ``torchrun --nproc-per-node 2 --no-python torchveil worker --config alice.toml``. Runs until it gets SIGTERM or
SIGINT; then it ends its sessions, whose other roles are told, and stops. Logs are JSON lines on stderr, or in the file
that the configuration names; metrics are served where it says, if it does.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from torchveil.cli.usage import UsageError
from torchveil.network import logs, metrics
from torchveil.network.config import read_role
from torchveil.network.daemon import Daemon

#: The command for each kind of role.
_KINDS = {"worker": "party", "provider": "provider"}


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--config", required=True, type=Path, help="the role's file, see docs/how-to/cluster.md")
    parser.add_argument("--rank", type=int, help="which rank of a role that is a group; torchrun says it by itself")
    parser.set_defaults(command=parser.prog.split()[-1])


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    config = read_role(options.config, rank=_rank(options.rank))
    if config.role.kind != _KINDS[options.command]:
        raise UsageError(f"{options.config} is the file of {config.role}: torchveil {_command_of(config.role.kind)}")
    logs.configure(str(config.role), config.log or None)
    logs.log_uncaught()
    daemon = Daemon(config)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # by a thread of its own: this one may be inside of wait(), holding the lock that set() takes
        threading.Thread(target=daemon.stopping.set, name="stop").start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with ExitStack() as stack:
        stack.callback(daemon.stop)
        if config.metrics:
            stack.callback(metrics.serve(daemon.metrics, config.metrics).stop)
        daemon.start()
        print(f"torchveil: {config.role} listens at {daemon.address}", file=sys.stderr, flush=True)
        daemon.stopping.wait()
    return 0


def _rank(given: int | None) -> int | None:
    """The rank that was given or, under torchrun, that of this process; torchrun names its run."""
    if given is None and "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["RANK"])
    return given


def _command_of(kind: str) -> str:
    return next(command for command, served in _KINDS.items() if served == kind)
