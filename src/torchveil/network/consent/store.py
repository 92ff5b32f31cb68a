"""What a party remembers of consent, on disk: grants, how much of each is used, requests that wait for an answer.

One file, replaced as a whole (written beside it, fsync, rename, fsync of the directory), so that a change happens or
does not, whatever dies meanwhile. A change is made under a lock of the operating system: several sessions, several
stores on the same directory and several processes take turns, and whoever's turn does not come gets a ``StorageError``.
The file is read again at each change.

How much of a grant is used is remembered under its nonce for ever, also when the grant is gone: a nonce that comes back
finds its count. An operator who deletes the file makes quotas start anew; only the log of releases shows it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from torchveil.errors import LimitExceeded, StorageError
from torchveil.network.consent.grants import Grant, Request, SignedGrant
from torchveil.storage.files import lock

#: Grants that are in force at one party at the same time.
MAX_GRANTS = 1000

#: Requests of one receiver that are remembered. A new one takes the place of its oldest that nobody denied.
MAX_REQUESTS = 100

#: No file of this store is larger, in bytes.
MAX_FILE = 256 << 20

_FILE = "consent.msgpack"


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A request and who still has to answer it; ``denied``: who said no, until it is released after all. ``first``:
    seconds since 1970."""

    request: Request
    waiting: list[str]
    denied: list[str]
    first: float
    times: int


class State(msgspec.Struct, forbid_unknown_fields=True):
    """Everything. ``used``: by nonce, what of the quota is gone; ``revoked``: nonces that are dead."""

    grants: dict[bytes, SignedGrant] = {}
    used: dict[bytes, int] = {}
    revoked: set[bytes] = set()
    asked: dict[str, Asked] = {}

    def add_grant(self, signed: SignedGrant) -> None:
        """Remember a grant. Raises ``LimitExceeded`` when there are too many."""
        if len(self.grants) >= MAX_GRANTS and signed.grant.nonce not in self.grants:
            raise LimitExceeded(f"this party holds {MAX_GRANTS} grants", remedy="withdraw some of them")
        self.grants[signed.grant.nonce] = signed

    def forget_expired(self, now: float) -> None:
        """Let go of grants whose time is over; their counts stay."""
        for nonce in [nonce for nonce, signed in self.grants.items() if now >= signed.grant.expires]:
            del self.grants[nonce]

    def left(self, grant: Grant) -> int:
        """What of the quota of a grant is left."""
        return grant.quota - self.used.get(grant.nonce, 0)

    def answer(self, grant: Grant) -> None:
        """The owner of ``grant`` has answered the request that it names; if nobody else waits for it, it is done.

        A denial stays until the release: the grant passes it, and can be withdrawn before.
        """
        entry = self.asked.get(grant.request or "")
        if entry is not None and grant.fits(entry.request):
            entry.waiting = [owner for owner in entry.waiting if owner != grant.owner]
            if not entry.waiting and not entry.denied:
                del self.asked[entry.request.id]

    def denied(self, request: Request) -> Collection[str]:
        """Who said no to it."""
        entry = self.asked.get(request.id)
        return () if entry is None else entry.denied

    def file_request(self, request: Request, missing: list[str], now: float) -> Asked | None:
        """The entry of a request, made if it is new; who has denied it does not wait.

        None if there is no room: as many of the receiver's as are remembered were denied.
        """
        entry = self.asked.get(request.id)
        if entry is None:
            theirs = [other for other in self.asked.values() if other.request.receiver == request.receiver]
            if len(theirs) >= MAX_REQUESTS:
                oldest = next((other for other in theirs if not other.denied), None)
                if oldest is None:
                    return None
                del self.asked[oldest.request.id]
            entry = self.asked[request.id] = Asked(request, [], [], now, 0)
        entry.waiting = [owner for owner in missing if owner not in entry.denied]
        entry.times += 1
        return entry


class Store:
    """A directory (0700) with the state of one party."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)

    @contextmanager
    def change(self) -> Iterator[State]:
        """The state, to be changed: on disk when the block has ended. An error in the block changes nothing."""
        with self._locked():
            state = self._read()
            before = _encoded(state)
            yield state
            after = _encoded(state)
            if after != before:
                self._write(after)

    def look(self) -> State:
        """A copy of the state."""
        with self._locked():
            return self._read()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # a descriptor of its own for each change, so that threads of one process wait for each other as well
        path = self._directory / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor, path)
            yield
        finally:
            os.close(descriptor)  # and with it the lock

    def _read(self) -> State:
        path = self._directory / _FILE
        try:
            if path.stat().st_size > MAX_FILE:
                raise StorageError(f"{path} is larger than any file of ours")
            return msgspec.msgpack.decode(path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.MsgspecError:
            raise StorageError(
                f"{path} is damaged; nothing is released until it is whole again",
                remedy="restore it from a copy, or move it away and ask the owners for new grants",
            ) from None

    def _write(self, data: bytes) -> None:
        path, beside = self._directory / _FILE, self._directory / f"{_FILE}.new"
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _encoded(state: State) -> bytes:
    return msgspec.msgpack.encode(state)
