"""Clusters of this machine, for tests, demonstrations and trying things out: certificates, files, daemons.

``local_cluster`` runs the daemons in threads of this process, so that a test can look inside; ``Processes`` runs them as
the commands that an operator would. Both listen on 127.0.0.1 only.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torchveil.network.certificates import create_authority, issue
from torchveil.network.config import ClusterConfig, Limits, read_cluster, read_role
from torchveil.network.daemon import Daemon, MakeRole, make_role
from torchveil.network.names import Role


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


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
    addresses: Mapping[str, str] | None = None,
) -> ClusterConfig:
    """Certificates and files of a cluster in ``directory``: ca.pem, cluster.toml, and NAME.toml for each role.

    addresses: where others find a role, by its name, if that is not where it listens (a relay between them).
    """
    directory.mkdir(parents=True, exist_ok=True)
    create_authority(directory, name)
    roles = [*(Role("party", party) for party in parties), Role("provider", provider)]
    people = [*(Role("controller", who) for who in controllers), *(Role("owner", who) for who in owners)]
    for role in (*roles, *people):
        issue(directory, role)
    listen = {role: f"127.0.0.1:{port}" for role, port in zip(roles, free_ports(len(roles)), strict=True)}
    lines = ["[cluster]", f'name = "{name}"', 'authority = "ca.pem"']
    for role in roles:
        at = (addresses or {}).get(role.name, listen[role])
        lines += ["[[party]]" if role.kind == "party" else "[provider]", f'name = "{role.name}"', f'address = "{at}"']
    lines += ["[limits]", *[f"{key} = {value}" for key, value in (limits or {}).items()]]
    (directory / "cluster.toml").write_text("\n".join(lines) + "\n")
    for role in roles:
        file = f"{role.kind}-{role.name}"
        own = [
            f'role = "{role}"',
            'cluster = "cluster.toml"',
            f'certificate = "{file}.pem"',
            f'key = "{file}.key"',
            f'listen = "{listen[role]}"',
            f'state = "{role.name}"',
            "[limits]",
            *[f"{key} = {value}" for key, value in (role_limits or {}).items()],
        ]
        (directory / f"{role.name}.toml").write_text("\n".join(own) + "\n")
    return read_cluster(directory / "cluster.toml")


@dataclass(slots=True)
class LocalCluster:
    """A running cluster: its directory, what its file says, the daemons by name."""

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
        for role in config.addresses:
            daemon = Daemon(read_role(directory / f"{role.name}.toml"), make_role=make)
            cluster.daemons[role.name] = stack.enter_context(daemon)
        yield cluster


__all__ = ["Limits", "LocalCluster", "free_ports", "local_cluster", "write_cluster"]
