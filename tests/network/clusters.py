"""A cluster that exists in memory only: what its roles would answer, each of them changeable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from torchveil.errors import InvalidArgument, PeerLost, TorchveilError
from torchveil.network.commands.reach import Reach
from torchveil.network.health import Link, MeasureRequest, ProbeReply, Status, measure_link

ADDRESSES = {
    "party/alice": "alice.example:7001",
    "party/bob": "bob.example:7002",
    "provider/james": "james.example:7003",
}
DAY_S = 86400.0


def status_of(role: str, **changes: Any) -> Status:
    fields: dict[str, Any] = {
        "role": role,
        "version": "0.1.0",
        "config_digest": "aa" * 32,
        "time_s": time.time(),
        "started_at_s": time.time() - 3700,
        "certificate_expires_at_s": time.time() + 300 * DAY_S,
        "sessions": 1,
        "sessions_opened": 2,
        "wires": 30,
        "rounds": 1000,
        "instructions": 5000,
        "sent_bytes": 123_456_789,
        "received_bytes": 123_456_789,
        "dealt_bytes": 5,
        "reveals": 1,
        "refusals": 0,
        "memory_bytes": 400_000_000,
        "last_code": "",
    }
    return Status(**{**fields, **changes})


@dataclass
class FakeCluster:
    """``links``: (round trip in seconds, bytes per second) by ends; ``errors``: what a service of a role raises."""

    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[tuple[str, str], TorchveilError] = field(default_factory=dict)
    links: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    raw: dict[tuple[str, str], bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    no_name: set[str] = field(default_factory=set)
    no_port: set[str] = field(default_factory=set)

    def ask_from(self, here: str) -> Callable[..., tuple[bytes, float]]:
        def ask(role: str, service: str, arguments: msgspec.Struct, body: bytes = b"") -> tuple[bytes, float]:
            self.asked.append((here, role, service))
            if (role, service) in self.errors:
                raise self.errors[role, service]
            round_trip_s, bandwidth = self.links.get((here, role), (0.0004, 125e6))
            if (here, role) in self.links and bandwidth == 0:
                raise PeerLost(f"{role} cannot be reached from {here}")
            seconds = round_trip_s + len(body) / bandwidth
            if (role, service) in self.raw:
                return self.raw[role, service], seconds
            reply: msgspec.Struct
            if service == "status":
                reply = status_of(**{"role": role, **self.changes.get(role, {})})
            elif service == "probe":
                ahead_s = self.clocks.get(role, 0.0) - self.clocks.get(here, 0.0)
                reply = ProbeReply(time.time() - seconds / 2 + ahead_s)
            elif isinstance(arguments, MeasureRequest):
                reply = measure_link(self.ask_from(role), arguments.peer)
            else:
                raise InvalidArgument("there is no such service")
            return msgspec.msgpack.encode(reply), seconds

        return ask

    def reach(self, **changes: Any) -> Reach:
        fields: dict[str, Any] = {
            "addresses": ADDRESSES,
            "config_digest": "aa" * 32,
            "version": "0.1.0",
            "expires_at_s": time.time() + 200 * DAY_S,
            "ask": self.ask_from("here"),
        }
        return Reach(**{**fields, **changes})

    def resolve(self, host: str, _port: int) -> None:
        if host in self.no_name:
            raise OSError(-2, "Name or service not known")

    def connect(self, host: str, _port: int) -> None:
        if host in self.no_port:
            raise ConnectionRefusedError(111, "Connection refused")


__all__ = ["ADDRESSES", "DAY_S", "FakeCluster", "Link", "status_of"]
