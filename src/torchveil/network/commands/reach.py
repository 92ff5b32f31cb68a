"""How a command reaches the roles of a cluster: where they are, as whom, and by which transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchveil.network.health import Call


@dataclass(frozen=True, slots=True)
class Reach:
    """A cluster as seen from here.

    addresses: ``host:port`` by role, ``kind/name``: parties in their order, then the provider. config_digest,
    version: ours, which the roles' should equal. expires_at_s: when our own certificate ends, seconds since 1970.
    """

    addresses: Mapping[str, str]
    config_digest: str
    version: str
    expires_at_s: float
    call: Call
    credentials: Any = field(repr=False)

    @property
    def roles(self) -> list[str]:
        """The roles in order."""
        return list(self.addresses)
