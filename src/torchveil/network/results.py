"""Results for owners: a party keeps its sealed share of a value until the owner fetches it.

The box is sealed to the owner's certificate (``sealing``), so what lies here tells the party no more than its share
did. The controller names the result and says how to read it (scale, number format); an owner adds up what the parties
hold.
A result is kept until its owner, who has the numbers, says to forget it, or another one of its name comes.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from torch import Tensor

from torchveil.errors import DataNotFound, InvalidArgument, MalformedMessage
from torchveil.fixedpoint import decode
from torchveil.kernels import sum_pieces
from torchveil.network.certificates import Authority, Credentials, Identity
from torchveil.network.messages import Bytes32, Count, Name, Shape, parse_struct
from torchveil.network.names import Role
from torchveil.network.pieces import ring_of
from torchveil.network.services import Body, Caller, Service
from torchveil.storage.files import make_directory, replacing, storing

_SEAL = "result"


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a controller says of a result. ``scale``: its integers are so many times the numbers; ``bits``: truth
    values."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    shape: Shape
    scale: Annotated[int, Meta(ge=1, le=2**62)]
    bits: bool = False


def result_of(name: str, shape: tuple[int, ...], scale: int, bits: bool = False) -> Result:
    """A description that was checked. Raises ``InvalidArgument``."""
    try:
        return msgspec.convert({"name": name, "shape": shape, "scale": scale, "bits": bits}, Result)
    except msgspec.ValidationError:
        raise InvalidArgument(
            "this cannot be the name of a result", op="results", remedy="use at most 100 letters, digits, . _ -"
        ) from None


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A result at a party: who said it of which session and instruction."""

    result: Result
    owner: Name
    controller: Name
    session: Bytes32
    number: Count


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which result."""

    name: Name


class Forget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which result of a name: another one may have come since."""

    name: Name
    session: Bytes32
    number: Count


@dataclass(frozen=True, slots=True)
class Fetched:
    """What an owner was delivered: the numbers (float64, or bools), and which result that is."""

    value: Tensor
    kept: Kept

    def __repr__(self) -> str:
        return f"<Fetched {self.kept.result.name!r}>"


def seal_context(kept: Kept, party: str) -> bytes:
    """What the seal of a result is bound to."""
    return msgspec.msgpack.encode((_SEAL, kept.session, kept.number, kept.result.name, party))


class ResultStore:
    """The results that one party keeps, and the certificates of owners that it met. Safe from any thread."""

    def __init__(self, directory: Path, authority: bytes) -> None:
        make_directory(directory)
        self._directory = directory
        self._authority = Authority.from_pem(authority)
        self._lock = threading.Lock()

    def meet(self, owner: Identity) -> None:
        """Remember an owner's certificate, which is what results are sealed to."""
        path = self._directory / f"{owner.role.name}.der"
        with self._lock:
            if not path.exists() or path.read_bytes() != owner.certificate_der:
                with storing(f"writing {path}"), replacing(path) as file:
                    file.write(owner.certificate_der)

    def known(self, owner: str) -> Identity:
        """The certificate that an owner was last met with. Raises ``DataNotFound``."""
        role = Role.parse(owner)
        path = self._directory / f"{role.name}.der"
        if role.kind != "owner" or not path.exists():
            raise DataNotFound(
                f"{owner} was never here, so there is no certificate to seal to",
                op="deliver",
                remedy="the owner calls once: torchveil results",
            )
        return Identity.from_der(path.read_bytes(), self._authority)

    def put(self, kept: Kept, owner: Identity, share: memoryview, party: str) -> None:
        """Seal a share and keep it."""
        path = self._path(kept.owner, kept.result.name)
        box = owner.seal(share, seal_context(kept, party))
        with self._lock, storing(f"writing {path}"), replacing(path) as file:
            file.write(msgspec.msgpack.encode((kept, box)))

    def get(self, owner: str, name: str) -> tuple[Kept, bytes]:
        """A result and its box. Raises ``DataNotFound``."""
        path = self._path(owner, name)
        with self._lock:
            return self._read(path, name)

    def forget(self, owner: str, name: str, session: bytes, number: int) -> None:
        """Remove this result, if it is the one of its name and still here."""
        path = self._path(owner, name)
        with self._lock, storing(f"removing {path}"), suppress(DataNotFound):
            kept, _ = self._read(path, name)
            if (kept.session, kept.number) == (session, number):
                path.unlink()

    @staticmethod
    def _read(path: Path, name: str) -> tuple[Kept, bytes]:
        try:
            data = path.read_bytes()
        except OSError:
            raise DataNotFound(f"there is no result {name!r} here", op="results") from None
        kept, box = msgspec.msgpack.decode(data, type=tuple[Kept, bytes])
        return kept, box

    def names(self, owner: str) -> list[str]:
        """The names of an owner's results."""
        first = Role.parse(owner).name + "="
        return sorted(path.name[len(first) : -len(".box")] for path in self._directory.glob(f"{first}*.box"))

    def _path(self, owner: str, name: str) -> Path:
        result_of(name, (), 1)
        return self._directory / f"{Role.parse(owner).name}={name}.box"


# --- services ---------------------------------------------------------------------------------------------------------


def _list(context: Any, peer: Identity, _arguments: bytes, _body: memoryview) -> tuple[bytes, Body]:
    return msgspec.msgpack.encode(context.results.names(str(peer.role))), ()


def _fetch(context: Any, peer: Identity, arguments: bytes, _body: memoryview) -> tuple[bytes, Body]:
    kept, box = context.results.get(str(peer.role), parse_struct(arguments, _Asked).name)
    return msgspec.msgpack.encode(kept), (box,)


def _drop(context: Any, peer: Identity, arguments: bytes, _body: memoryview) -> tuple[bytes, Body]:
    asked = parse_struct(arguments, Forget)
    context.results.forget(str(peer.role), asked.name, asked.session, asked.number)
    return b"", ()


RESULT_SERVICES: dict[str, Service] = {
    "results/list": Service(_list, ("owner",)),
    "results/fetch": Service(_fetch, ("owner",)),
    "results/forget": Service(_drop, ("owner",)),
}


# --- the owner's side -------------------------------------------------------------------------------------------------


def names(caller: Caller) -> list[str]:
    """The results that every party keeps for the owner who asks."""
    found = [
        set(msgspec.msgpack.decode(result, type=list[str])) for result in caller.all_parties("results/list").values()
    ]
    return sorted(set.intersection(*found)) if found else []


def fetch(caller: Caller, name: str) -> Fetched:
    """The value of a result: fetch every party's sealed share, open the seals, add up. The parties keep it.

    Raises ``DataNotFound`` if a party has none, ``MalformedMessage`` if they do not belong
    together, ``CertificateError`` for a seal that does not open.
    """
    shares: list[Tensor] = []
    said: dict[tuple[Result, bytes, int], Kept] = {}
    credentials: Credentials = caller.credentials
    for role in caller.cluster.addresses:
        if role.kind != "party":
            continue
        result, body = caller.call(role, "results/fetch", _Asked(name))
        try:
            kept: Kept = parse_struct(result, Kept)
            box = credentials.unseal(bytes(body), seal_context(kept, str(role)))
            shares.append(ring_of(bytearray(box), kept.result.shape))
        except MalformedMessage as error:
            raise MalformedMessage(f"{role}: {error.message}", at_fault=str(role)) from None
        said[kept.result, kept.session, kept.number] = kept
    if len(said) != 1:
        raise MalformedMessage(
            "the parties hold results that do not belong together", remedy="ask for it to be made again"
        )
    ((found, _, _), kept), *_ = said.items()
    raw = sum_pieces(shares, 64)
    return Fetched(raw != 0 if found.bits else decode(raw, found.scale), kept)


def forget(caller: Caller, fetched: Fetched) -> None:
    """Have the parties remove a result, once its numbers are where they are needed. A newer one of its name stays."""
    kept = fetched.kept
    caller.all_parties("results/forget", Forget(kept.result.name, kept.session, kept.number))


__all__ = [
    "RESULT_SERVICES",
    "Fetched",
    "Forget",
    "Kept",
    "Result",
    "ResultStore",
    "fetch",
    "forget",
    "names",
    "seal_context",
]
