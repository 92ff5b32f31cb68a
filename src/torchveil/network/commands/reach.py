"""How a command reaches the roles of a cluster: who they are, where, and by which transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchveil.network.health import Ask


@dataclass(frozen=True, slots=True)
class Reach:
    """A cluster as seen from here.

    addresses: ``host:port`` by role, ``kind/name``: parties in their order, then the provider. config_digest,
    version: ours, which the roles' should equal. expires_at_s: when our own certificate ends, seconds since 1970.
    ask: questions, asked with our certificate.
    """

    addresses: Mapping[str, str]
    config_digest: str
    version: str
    expires_at_s: float
    ask: Ask

    @property
    def roles(self) -> list[str]:
        """The roles in order."""
        return list(self.addresses)
