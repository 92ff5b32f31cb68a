"""The peak memory of relu on 2^20 elements over all roles, per element, in processes of their own: ours and a peer's.

    python -m benchmarks.memory [--peer crypten] [--json FILE]

A process first runs relu once on few elements, so that code and constants are loaded. What counts is how far its
resident memory rises from there while it shares 2^20 elements and computes: the owner's encoding, shares, masks,
openings and everything dealt, of both parties and the provider (torchveil: one process holds them all; a peer: the sum
of its processes' peaks). The clear operand (4 bytes per element) is there before and does not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.peers.client import PEERS

N = 2**20
_SMALL, _LARGE = "W3 relu 2^16", "W3 relu 2^20"  # the peer's names for a run that loads its code, and the measured one


def ours() -> int:
    """Bytes by which this process's memory rises; to be called in a fresh process."""
    import torch

    from benchmarks.peak import peak_bytes
    from benchmarks.workloads import resolve
    from torchveil import Session

    torch.set_num_threads(1)
    session = Session(["alice", "bob"], "provider")

    def run(n: int) -> None:
        resolve(torch.relu(session.share(x[:n])))

    x = torch.empty(N).uniform_(-1, 1)
    run(2**10)
    return peak_bytes(lambda: run(N))


def in_fresh_process() -> int:
    """``ours`` in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.memory", "--here"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=sorted(PEERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(ours())
        return
    console = Console()
    found: dict[str, Any] = {"elements": N, "peak_bytes": in_fresh_process()}
    found["bytes_per_element"] = found["peak_bytes"] / N
    console.print(f"relu on 2^20 elements: {found['bytes_per_element']:.0f} bytes per element over all roles")
    if options.peer:
        with PEERS[options.peer](1) as peer:
            peer.run(_SMALL)
            peak = peer.ask("memory", _LARGE)["peak_bytes"]
            found["peer"] = {"name": peer.name, "peak_bytes": peak, "bytes_per_element": peak / N}
        console.print(f"the same with {peer.name}: {found['peer']['bytes_per_element']:.0f}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
