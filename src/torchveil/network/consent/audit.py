"""The log of releases at one party: append-only, hash-chained, its heads signed and kept by the other parties.

One line of JSON per event, which holds the SHA-256 of the line before it. Whoever changes, removes, inserts or swaps
lines has to write all later ones anew, and then the chain no longer leads to a head that was signed earlier; a head is
(number of lines, hash of the last one, party, time, signature). Parties exchange heads when they start, after releases
and at the end of sessions, and write those of the others into their own logs, so that a tail that is cut off is missed
at the other parties. What no head covers yet, the logs of the others tell of as well (``releases``).

No line holds a value, a share or a key. A line is on disk (fsync) before ``append`` returns, hence before anything is
released. What a crash leaves of a half-written line is kept inside a line of its own ("torn"), never dropped silently.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from torchveil.errors import AuditBroken, CertificateError, StorageError
from torchveil.network.consent.grants import Cluster, Digest, Role, Shape, encode
from torchveil.network.consent.identities import Recognise, Signer

#: What a signature of a head is good for.
PURPOSE = "torchveil audit head 1"

#: No line is longer, in bytes.
MAX_LINE = 64 << 10

#: Of a torn line so much is kept, in bytes.
_KEPT = 16 << 10

#: Texts in a record: what people see of it on a terminal moves no cursor.
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:/+=-]*\Z")]
Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]*\Z")]

#: ``start``: the party's daemon; after it a log that was cut has a head that contradicts the ones before.
Kind = Literal[
    "reveal", "refusal", "grant", "denial", "withdrawal", "start", "session start", "session end", "head", "torn"
]


class SignedHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of a party's log: so many lines, the hash of the last and when it was written.

    ``time``: when it was signed, seconds since 1970. ``written`` never goes back while a log grows.
    """

    party: Role
    cluster: Cluster
    lines: Annotated[int, Meta(ge=0, le=1 << 48)]
    hash: Digest
    written: Word
    time: Annotated[float, Meta(ge=0, le=1 << 37)]
    signature: Annotated[bytes, Meta(max_length=1024)] = b""
    certificate: Annotated[bytes, Meta(max_length=16 << 10)] = b""

    def signed_bytes(self) -> bytes:
        """What the signature is of."""
        return encode(msgspec.structs.replace(self, signature=b"", certificate=b""))

    def check(self, recognise: Recognise) -> None:
        """Raises ``AuditBroken`` unless the party that it names signed it."""
        try:
            signer = recognise(self.certificate, self.time)
            signer.verify(self.signature, self.signed_bytes(), PURPOSE)
        except CertificateError as error:
            raise AuditBroken(f"a head that {self.party} did not sign: {error}") from None
        if (str(signer.role), signer.cluster) != (self.party, self.cluster):
            raise AuditBroken(f"a head in the name of {self.party} is signed by {signer.role}")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One line. ``bits``: an upper bound of what was released; digests and nonces in hexadecimal; never a value."""

    line: int
    time: Word
    kind: Kind
    previous: Hex
    session: Word = ""
    number: int | None = None
    receiver: Word = ""
    owners: tuple[Role, ...] = ()
    shape: Shape | None = None
    digits: int | None = None
    bits: int | None = None
    plan: Hex = ""
    slot: int | None = None
    grants: tuple[Hex, ...] = ()
    request: Hex = ""
    head: SignedHead | None = None
    torn: Word = ""


def _utc(now: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"


def _start(cluster: str, party: str) -> bytes:
    """The hash that the first line continues."""
    return hashlib.sha256(f"torchveil audit 1\n{cluster}\n{party}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that must not be; ``line`` is 1 for the first line of the file, 0 for the log as a whole."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What ``verify`` found. ``notes``: what a reader should know and is no sign of a change, such as a crash."""

    path: Path
    party: str
    lines: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    heads: tuple[SignedHead, ...]

    @property
    def good(self) -> bool:
        return not self.problems


class _Reading:
    """A log read from its beginning."""

    def __init__(self, file: Iterable[bytes], start: bytes) -> None:
        self.hashes = [start]
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.heads: list[SignedHead] = []
        self.written = ""
        self.torn = b""
        self.size = 0
        for raw in file:
            self._line(raw)

    def _line(self, raw: bytes) -> None:
        place = len(self.hashes)
        if not raw.endswith(b"\n"):
            self.torn = raw
            return
        self.size += len(raw)
        record = _parsed(raw)
        if record is None:
            self._problem(place, "is no record")
        elif record.line > place:
            self._problem(place, f"is numbered {record.line}: {record.line - place} before it were removed")
        elif record.line < place:
            self._problem(place, f"is numbered {record.line}: it was inserted, repeated or moved")
        elif record.previous != self.hashes[-1].hex():
            self._problem(place, "does not continue the line before it, which was changed or replaced")
        elif record.head is not None:
            self.heads.append(record.head)
        elif record.kind == "torn":
            self.notes.append(f"line {place}: a crash tore a line, what was left of it is kept here")
        self.written = self.written if record is None else record.time
        self.hashes.append(hashlib.sha256(raw[:-1]).digest())

    def _problem(self, line: int, text: str) -> None:
        self.problems.append(Problem(line, f"line {line} {text}"))


def _parsed(raw: bytes) -> Record | None:
    if len(raw) > MAX_LINE:
        return None
    try:
        return msgspec.json.decode(raw, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; of an endless one only pieces, which are no records then."""
    with path.open("rb") as file:
        while raw := file.readline(MAX_LINE + 1):
            yield raw if raw.endswith(b"\n") or len(raw) <= MAX_LINE else raw + b"\n"


class AuditLog:
    """The log of the party that ``credentials`` are of. Only one process may have it open.

    Raises ``AuditBroken`` if what is in the file is not a whole chain, ``StorageError`` if somebody has it open.
    """

    def __init__(self, path: Path, credentials: Signer, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._begin()
        except BaseException:
            os.close(self._file)
            raise

    def _begin(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"another process writes {self._path}", remedy="stop it, or give this one a directory of its own"
            ) from None
        read = _Reading(_lines(self._path), _start(self._credentials.cluster, str(self._credentials.role)))
        if read.problems:
            raise AuditBroken(
                f"{self._path}: {read.problems[0].text}",
                remedy="find out who changed it; move it away to start a new one, which the other parties will see",
            )
        self._lines = len(read.hashes) - 1
        self._hash = read.hashes[-1]
        self._written = read.written
        self._size = read.size
        self._heads: dict[str, SignedHead] = {}
        for head in read.heads:
            self._remember(head)
        if read.torn:
            self.append("torn", torn=base64.b64encode(read.torn[:_KEPT]).decode())

    def append(
        self,
        kind: Kind,
        *,
        session: str = "",
        number: int | None = None,
        receiver: str = "",
        owners: Iterable[str] = (),
        shape: tuple[int, ...] | None = None,
        digits: int | None = None,
        bits: int | None = None,
        plan: bytes | None = None,
        slot: int | None = None,
        grants: Iterable[bytes] = (),
        request: str = "",
        head: SignedHead | None = None,
        torn: str = "",
    ) -> None:
        """Write an event and wait until it is on disk. Raises ``StorageError`` if it cannot be written."""
        with self._lock:
            record = Record(
                line=self._lines + 1,
                time=max(self._written, _utc(self._clock())),  # also when the clock was set back
                kind=kind,
                previous=self._hash.hex(),
                session=session,
                number=number,
                receiver=receiver,
                owners=tuple(sorted(owners)),
                shape=shape,
                digits=digits,
                bits=bits,
                plan="" if plan is None else plan.hex(),
                slot=slot,
                grants=tuple(nonce.hex() for nonce in grants),
                request=request,
                head=head,
                torn=torn,
            )
            raw = msgspec.json.encode(record) + b"\n"
            if _parsed(raw) is None:
                raise StorageError(f"an event that does not fit the log of releases ({kind}, {len(raw)} bytes)")
            self._write(raw)
            self._lines += 1
            self._written = record.time
            self._hash = hashlib.sha256(raw[:-1]).digest()
            self._size += len(raw)

    def _write(self, raw: bytes) -> None:
        """After the last whole line: over what is left of a torn one, which is shorter than the line that keeps it."""
        try:
            done = 0
            while done < len(raw):
                done += os.pwrite(self._file, raw[done:], self._size + done)
            os.ftruncate(self._file, self._size + len(raw))
            os.fsync(self._file)
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be written ({error.strerror}); nothing is released without its line",
                remedy="make room, or mend the disk",
            ) from None

    def head(self) -> SignedHead:
        """The state of the log, signed."""
        with self._lock:
            credentials = self._credentials
            head = SignedHead(
                party=str(credentials.role),
                cluster=credentials.cluster,
                lines=self._lines,
                hash=self._hash,
                written=self._written,
                time=self._clock(),
            )
        return msgspec.structs.replace(
            head, signature=credentials.sign(head.signed_bytes(), PURPOSE), certificate=credentials.certificate_der
        )

    def note_head(self, head: SignedHead, recognise: Recognise) -> None:
        """Keep the head of another party's log, in a line of this one.

        Raises ``AuditBroken`` if the other party did not sign it, or if it cannot be true together with the one that is
        kept already: then the other log was cut or rewritten. It is kept all the same, since it is the evidence. A head
        that was overtaken on its way, by another of the same log, changes nothing.
        """
        head.check(recognise)
        if head.party == str(self._credentials.role) or head.cluster != self._credentials.cluster:
            raise AuditBroken(f"a head of {head.party} in {head.cluster} is none of another party of this cluster")
        known = self._heads.get(head.party)
        if known is not None and (known.lines, known.hash) == (head.lines, head.hash):
            return
        contradictions = [] if known is None else compare((known, head))
        if known is not None and head.lines < known.lines and not contradictions:
            return
        self.append("head", head=head)
        self._remember(head)
        if contradictions:
            raise AuditBroken(
                f"{contradictions[0]}: it was cut or rewritten", remedy="torchveil audit verify over all parties' logs"
            )

    def heads(self) -> tuple[SignedHead, ...]:
        """The longest head of every other party that this log holds."""
        return tuple(self._heads.values())

    def _remember(self, head: SignedHead) -> None:
        known = self._heads.get(head.party)
        if known is None or head.lines >= known.lines:
            self._heads[head.party] = head

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def __repr__(self) -> str:
        return f"<AuditLog {self._path} of {self._lines} lines>"


def verify(
    path: Path, heads: Iterable[SignedHead], *, party: str, cluster: str, recognise: Recognise | None = None
) -> Report:
    """Check the log of ``party`` in a file against ``heads``, of which those of other parties are passed over.

    recognise: checks the signatures of heads; None trusts whoever supplied them. Finds lines that were changed,
    removed, inserted or moved by the chain alone. Finds a tail that was cut off, and a chain that was written anew, if
    there is a head that was signed before. A log without any head proves nothing about its end.
    """
    read = _Reading(_lines(path), _start(cluster, party))
    problems, notes = list(read.problems), list(read.notes)
    n_lines = len(read.hashes) - 1
    longest = 0
    for head in heads:
        if (head.party, head.cluster) != (party, cluster):
            continue
        try:
            if recognise is not None:
                head.check(recognise)
        except AuditBroken as error:
            problems.append(Problem(0, str(error)))
            continue
        longest = max(longest, head.lines)
        if head.lines > n_lines:
            text = f"the log has {n_lines} lines, a head of {head.lines} lines was signed: the end was cut off"
            problems.append(Problem(0, text))
        elif read.hashes[head.lines] != head.hash:
            text = f"the lines up to {head.lines} are not those whose head was signed: they were changed"
            problems.append(Problem(head.lines, text))
    if read.torn:
        notes.append("the last line is torn, as after a crash; the party says so in its next line")
    if longest < n_lines:
        notes.append(f"no head of another party covers the last {n_lines - longest} lines")
    return Report(path, party, n_lines, tuple(dict.fromkeys(problems)), tuple(notes), tuple(read.heads))


def compare(heads: Iterable[SignedHead]) -> list[str]:
    """What cannot be true of heads together, whoever held them: logs only grow, and have one past.

    Finds a party that showed two logs of one length, or went on writing after a shorter log than it had. What was
    changed before two heads of different length shows only against the log itself.
    """
    problems = []
    by_party: dict[str, list[SignedHead]] = {}
    for head in heads:
        by_party.setdefault(head.party, []).append(head)
    for party, theirs in sorted(by_party.items()):
        theirs.sort(key=lambda head: (head.lines, head.written))
        for shorter, longer in pairwise(theirs):
            if shorter.lines == longer.lines and shorter.hash != longer.hash:
                problems.append(f"{party} signed two different logs of {longer.lines} lines")
            elif shorter.written > longer.written:
                problems.append(f"{party} had a log of {longer.lines} lines and later one of {shorter.lines}")
    return problems


def records(path: Path) -> Iterator[Record]:
    """The lines of a log that are records, for people to read."""
    for raw in _lines(path):
        record = _parsed(raw)
        if record is not None:
            yield record


def heads_in(path: Path) -> list[SignedHead]:
    """Heads that were kept in a file of JSON. Raises ``AuditBroken`` for any other file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[SignedHead])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        raise AuditBroken(f"{path} holds no heads of logs", remedy="name a file that --save wrote") from None


__all__ = [
    "AuditLog",
    "Kind",
    "Problem",
    "Record",
    "Report",
    "SignedHead",
    "compare",
    "heads_in",
    "records",
    "verify",
]
