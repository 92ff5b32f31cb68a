"""Faults for tests: a cluster whose every connection can be cut, and what the kernel and the logs say of its roles."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torchveil.network.config import ClusterConfig
from torchveil.network.names import Role
from torchveil.profiling.network import Network
from torchveil.testing.delays import Relay

#: As fast as this machine.
_LOOPBACK = Network(0.0, 1e12, "loopback")
CONTROLLER = "controller"

#: (who connects, to whom), by names; the controller is ``CONTROLLER``.
Ends = tuple[str, str]


@contextmanager
def relayed(directory: Path, config: ClusterConfig, network: Network = _LOOPBACK) -> Iterator[dict[Ends, Relay]]:
    """Puts a relay into every connection of a cluster that ``write_cluster`` wrote and that does not run yet.

    Every role's file names a cluster file of its own, with the addresses of its relays; the controller's is
    ``cluster-controller.toml``.
    """
    text = (directory / "cluster.toml").read_text()
    with ExitStack() as stack:
        relays: dict[Ends, Relay] = {}
        for caller in (CONTROLLER, *(role.name for role in config.addresses)):
            own = text
            for role, address in config.addresses.items():
                if role.name != caller:
                    relay = stack.enter_context(Relay(address, network))
                    relays[caller, role.name] = relay
                    own = own.replace(f'"{address}"', f'"{relay.address}"')
            (directory / f"cluster-{caller}.toml").write_text(own)
            if caller != CONTROLLER:
                file = directory / f"{caller}.toml"
                file.write_text(file.read_text().replace('"cluster.toml"', f'"cluster-{caller}.toml"'))
        yield relays


def connections(config: ClusterConfig) -> list[Ends]:
    """The connections of a session: who connects to whom."""
    names = [role.name for role in config.addresses]
    parties, provider = names[:-1], names[-1]
    between = [(caller, called) for k, caller in enumerate(parties) for called in (*parties[:k], provider)]
    return [(CONTROLLER, name) for name in names] + between


@dataclass(frozen=True, slots=True)
class Use:
    """What a process uses: descriptors, threads, resident bytes."""

    descriptors: int
    threads: int
    resident: int


def use_of(pid: int) -> Use:
    """What the kernel says of a process of this machine."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Use(len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"]), 1024 * int(fields["VmRSS"].split()[0]))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended at a role, from its log: seconds since 1970, the error's code, whom it names, the op."""

    at_s: float
    event: str
    code: str
    at_fault: str
    op: str


def endings(directory: Path, role: Role, since_s: float) -> list[Ended]:
    """The sessions that ended with an error at a role since then."""
    found = []
    for text in (directory / f"{role.name}.log").read_text().splitlines(keepends=True):
        if not (text.startswith("{") and text.endswith("}\n")):  # the last one may be half written
            continue
        line = json.loads(text)
        at_s = datetime.fromisoformat(line["time"]).timestamp()
        if line["event"] in ("session failed", "session not opened") and at_s >= since_s:
            said = (str(line.get(key, "")) for key in ("code", "at_fault", "op"))
            found.append(Ended(at_s, line["event"], *said))
    return found


__all__ = ["CONTROLLER", "Ended", "Ends", "Use", "connections", "endings", "relayed", "use_of"]
