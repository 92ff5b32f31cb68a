"""One party with owners, a receiver and a clock that tests set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.network.consent.authority import CLUSTER, Authority, Credentials
from torchveil.network.consent.audit import AuditLog
from torchveil.network.consent.grants import Grant, SignedGrant, new_grant, sign_grant
from torchveil.network.consent.policy import Consent, Release

NOW = 1_800_000_000.0
DAY = 86_400
PLAN = bytes(range(32))


class World:
    """One party, two owners, a receiver, an intruder; the time is what the test says."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.directory = directory
        self.authority = Authority()
        self.hospital_a = self.authority.issue("owner/hospital-a")
        self.hospital_b = self.authority.issue("owner/hospital-b")
        self.scientist = self.authority.issue("controller/scientist")
        self.alice = self.authority.issue("party/alice")
        self.log_path = directory / "audit.log"
        self.start()

    def clock(self) -> float:
        return self.now

    def start(self) -> None:
        self.log = AuditLog(self.log_path, self.alice, clock=self.clock)
        self.consent = Consent(
            "party/alice",
            self.directory / "consent",
            cluster=CLUSTER,
            recognise=self.authority.recognise,
            log=self.log,
            clock=self.clock,
        )

    def restart(self) -> None:
        """As after the daemon was killed."""
        self.log.close()
        self.start()

    def grant(self, owner: Credentials | None = None, **changes: Any) -> Grant:
        """A grant for the release below, once."""
        fields = {"plan": PLAN, "slot": 0, "shape": (3, 2), "digits": 16, "quota": 1, "seconds": DAY} | changes
        receiver = fields.pop("receiver", self.scientist.role)
        fingerprint = fields.pop("fingerprint", self.scientist.fingerprint)
        now = fields.pop("now", self.now)
        return new_grant(owner or self.hospital_a, receiver, fingerprint, now=now, **fields)

    def give(self, owner: Credentials | None = None, **changes: Any) -> SignedGrant:
        signed = sign_grant(owner or self.hospital_a, self.grant(owner, **changes))
        self.consent.add(signed)
        return signed

    def release(self, **changes: Any) -> Release:
        release = Release(
            receiver=self.scientist.role,
            fingerprint=self.scientist.fingerprint,
            owners=frozenset([self.hospital_a.role]),
            shape=(3, 2),
            digits=16,
            bits=384,
            plan=PLAN,
            slot=0,
            session="5e55",
            number=7,
        )
        return replace(release, **changes)
