"""Two parties and an owner with real certificates, whose services are called without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from torchveil.network.certificates import Credentials, create_authority, issue
from torchveil.network.commands.consent import Ask, Parties
from torchveil.network.consent.audit import AuditLog
from torchveil.network.consent.identities import recogniser
from torchveil.network.consent.policy import Consent
from torchveil.network.consent.services import HANDLERS
from torchveil.network.names import Role

CLUSTER_FILE = """
[cluster]
name = "study"
authority = "ca.pem"
[[party]]
name = "alice"
address = "localhost:7001"
[[party]]
name = "bob"
address = "localhost:7002"
[provider]
name = "james"
address = "localhost:7003"
"""


class PartyHere:
    """A party's daemon as far as consent goes."""

    def __init__(self, directory: Path, credentials: Credentials) -> None:
        self.credentials = credentials
        self.path = directory / f"{credentials.role.name}.log"
        self.log = AuditLog(self.path, credentials)
        self.consent = Consent(
            str(credentials.role),
            directory / f"{credentials.role.name}-consent",
            cluster=credentials.cluster,
            recognise=recogniser(credentials.authority),
            log=self.log,
        )

    def asked_by(self, credentials: Credentials) -> Ask:
        """As the network carries a question of theirs."""

        def ask(service: str, arguments: bytes) -> bytes:
            handler, kinds = HANDLERS[service]
            assert credentials.role.kind in kinds
            result, _ = handler(self, credentials, arguments, memoryview(b""))
            return result if isinstance(result, bytes) else msgspec.msgpack.encode(result)

        return ask


class ClusterHere:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        create_authority(directory, "study")
        self.file = directory / "cluster.toml"
        self.file.write_text(CLUSTER_FILE)
        self.alice = PartyHere(directory, self.issue("party/alice"))
        self.bob = PartyHere(directory, self.issue("party/bob"))
        self.owner = self.issue("owner/hospital-a")
        self.scientist = self.issue("controller/scientist")

    def issue(self, role: str) -> Credentials:
        paths = issue(self.directory, Role.parse(role))
        return Credentials.load(paths.certificate, paths.key, self.directory / "ca.pem")

    def parties(self, credentials: Credentials) -> Parties:
        asks: dict[str, Callable[[str, bytes], bytes]] = {
            "party/alice": self.alice.asked_by(credentials),
            "party/bob": self.bob.asked_by(credentials),
        }
        return Parties(asks, credentials)


__all__ = ["ClusterHere", "PartyHere"]
