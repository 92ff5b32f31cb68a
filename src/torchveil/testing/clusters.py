"""Clusters of this machine, for tests, demonstrations and trying things out: certificates, files, daemons.

``local_cluster`` runs the daemons in threads of this process, so that a test can look inside; ``Processes`` runs them
as the commands that an operator would. Both listen on 127.0.0.1 only.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from torchveil.network.certificates import create_authority, issue
from torchveil.network.config import ClusterConfig, Limits, read_cluster, read_role
from torchveil.network.daemon import Daemon, MakeRole, make_role
from torchveil.network.names import Role

#: Bound and not listening: the kernel gives these ports to nobody who asks for any port, and lets the one who names
#: one of them listen there. The last ones only, for a role that starts later, or again.
_HELD: deque[socket.socket] = deque()
_MOST_HELD = 128


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody else listens on, nor is given by the kernel while this process holds them.

    The last 128 are held. Linux only, as is the package: elsewhere a bound socket would keep everybody out.
    """
    ports = []
    for _ in range(count):
        held = socket.socket()
        _HELD.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        ports.append(held.getsockname()[1])
    _let_go(_MOST_HELD)
    return ports


def _let_go(n_kept: int) -> None:
    while len(_HELD) > n_kept:
        _HELD.popleft().close()


atexit.register(_let_go, 0)


def write_cluster(
    directory: Path,
    parties: Sequence[str] = ("alice", "bob"),
    provider: str = "james",
    *,
    name: str = "study",
    controllers: Sequence[str] = ("scientist",),
    owners: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    role_limits: Mapping[str, float] | None = None,
    addresses: Mapping[str, str | Sequence[str]] | None = None,
    listen: Mapping[str, str | Sequence[str]] | None = None,
    ranks: int = 1,
    inside: Mapping[str, Sequence[str]] | None = None,
) -> ClusterConfig:
    """Certificates and files of a cluster in ``directory``: ca.pem, cluster.toml, and NAME.toml for each role.

    addresses: where others find a role, by its name, if that is not where it listens (a relay between them); listen:
    where a role listens, by its name, if not at a free port of 127.0.0.1. ranks: machines of each role; with more than
    one, both name an address for each, and the ranks of a role find each other where they listen, or at ``inside``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    create_authority(directory, name)
    roles = [*(Role("party", party) for party in parties), Role("provider", provider)]
    people = [*(Role("controller", who) for who in controllers), *(Role("owner", who) for who in owners)]
    for role in (*roles, *people):
        issue(directory, role)
    ports = iter(free_ports(len(roles) * ranks))
    free = {role.name: [f"127.0.0.1:{next(ports)}" for _ in range(ranks)] for role in roles}
    places = {name: _each(at) for name, at in {**free, **(listen or {})}.items()}
    found = {**places, **{name: _each(at) for name, at in (addresses or {}).items()}}
    lines = ["[cluster]", f'name = "{name}"', 'authority = "ca.pem"']
    for role in roles:
        lines += ["[[party]]" if role.kind == "party" else "[provider]", f'name = "{role.name}"']
        lines.append(
            f"addresses = {json.dumps(found[role.name])}" if ranks > 1 else f'address = "{found[role.name][0]}"'
        )
    lines += ["[limits]", *[f"{key} = {value}" for key, value in (limits or {}).items()]]
    (directory / "cluster.toml").write_text("\n".join(lines) + "\n")
    for role in roles:
        file = f"{role.kind}-{role.name}"
        own = [
            f'role = "{role}"',
            'cluster = "cluster.toml"',
            f'certificate = "{file}.pem"',
            f'key = "{file}.key"',
            f"listen = {json.dumps(places[role.name] if ranks > 1 else places[role.name][0])}",
            *([f"group = {json.dumps(_each((inside or places)[role.name]))}"] if ranks > 1 else []),
            f'state = "{role.name}"',
            "[limits]",
            *[f"{key} = {value}" for key, value in (role_limits or {}).items()],
        ]
        (directory / f"{role.name}.toml").write_text("\n".join(own) + "\n")
    return read_cluster(directory / "cluster.toml")


def _each(at: str | Sequence[str]) -> list[str]:
    return [at] if isinstance(at, str) else list(at)


def machines(config: ClusterConfig) -> dict[str, tuple[Role, int]]:
    """What runs, by name: each role under its own or, if it is a group, each rank of it as NAME-RANK."""
    roles, lanes = config.addresses, range(config.lanes)
    if config.lanes == 1:
        return {role.name: (role, 0) for role in roles}
    return {f"{role.name}-{lane}": (role, lane) for role in roles for lane in lanes}


@dataclass(slots=True)
class LocalCluster:
    """A running cluster: its directory, what its file says, the daemons by name (``machines``)."""

    directory: Path
    config: ClusterConfig
    daemons: dict[str, Daemon] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """cluster.toml."""
        return self.directory / "cluster.toml"


@contextmanager
def local_cluster(directory: Path, *, make: MakeRole = make_role, **options: object) -> Iterator[LocalCluster]:
    """A cluster whose daemons run in threads of this process; ``options`` are those of ``write_cluster``.

    Nothing is protected from whoever runs the process, as in lockstep.
    """
    config = write_cluster(directory, **options)  # type: ignore[arg-type]
    cluster = LocalCluster(directory, config)
    with ExitStack() as stack:
        for name, (role, rank) in machines(config).items():
            daemon = Daemon(read_role(directory / f"{role.name}.toml", rank=rank), make_role=make)
            cluster.daemons[name] = stack.enter_context(daemon)
        yield cluster


class Processes:
    """The roles of a cluster as processes of this machine, started as an operator would; used as a context manager.

    ``start(name)``, ``kill(name, signal)`` and ``pid(name)`` are for tests of faults, by the names of ``machines``.
    What a process writes goes to NAME.log in the cluster's directory.
    """

    def __init__(self, directory: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.config = read_cluster(directory / "cluster.toml")
        self._environment = {**os.environ, **(environment or {})}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def file(self) -> Path:
        """cluster.toml."""
        return self.directory / "cluster.toml"

    def start(self, name: str, timeout_s: float = 180.0) -> None:
        """Start a role and wait until it listens. Raises ``TimeoutError`` or ``RuntimeError`` with the log's place."""
        self._spawn(name)
        self._await(name, timeout_s)

    def _spawn(self, name: str) -> None:
        role, rank = machines(self.config)[name]
        command = "provider" if role.kind == "provider" else "worker"
        with open(self.directory / f"{name}.log", "ab") as log:
            arguments = [
                sys.executable,
                "-m",
                "torchveil.cli",
                command,
                "--config",
                f"{self.directory / role.name}.toml",
            ]
            arguments += ["--rank", str(rank)]
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and files
                arguments, stderr=log, stdout=log, env=self._environment, start_new_session=True
            )
        self._running[name] = process

    def _await(self, name: str, timeout_s: float) -> None:
        role, rank = machines(self.config)[name]
        listen, process = read_role(self.directory / f"{role.name}.toml", rank=rank).listen, self._running[name]
        ends = monotonic() + timeout_s
        while not _listens(listen):
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with status {process.returncode}; see {name}.log")
            if monotonic() > ends:
                raise TimeoutError(f"{name} does not listen; see {name}.log")
            sleep(0.05)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, name: str, sign: int = signal.SIGKILL) -> None:
        """Send a signal; after one that ends a process, wait for its end."""
        process = self._running[name]
        process.send_signal(sign)
        if sign in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            process.wait(60)

    def statuses(self) -> dict[str, int | None]:
        """The exit status of every process, None while it runs."""
        return {name: process.poll() for name, process in self._running.items()}

    def __enter__(self) -> Processes:
        try:
            for name in machines(self.config):
                self._spawn(name)
            for name in machines(self.config):
                self._await(name, 180.0)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ask all to stop, and kill who does not."""
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def __exit__(self, *_: object) -> None:
        self.stop()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1.0).close()
    except OSError:
        return False
    return True


__all__ = ["Limits", "LocalCluster", "Processes", "free_ports", "local_cluster", "machines", "write_cluster"]
