"""What travels in frames: the kinds, their typed bodies, one function that checks them.

Small things are msgspec structs in a frame's ``meta``; tensors are its ``body``. Whoever receives a frame asks
``parse`` for the struct that its kind carries; what does not fit raises ``MalformedMessage``, without being echoed.

    HELLO .. READY      a connection and a session begin
    STREAM              controller to roles: what to do next, in order
    DEALT, EXCHANGE     the hot path: provider to party, party to party
    REVEALED, PROGRESS  roles to controller
    DONE, REFUSED       what was asked of a role is done, or is not and nothing happened
    WAITING             who this role has been waiting for, for long
    ALIVE               the controller runs, though it has nothing to say
    ABORT, CLOSE        a session ends, with or without an error
    REQUEST, REPLY      outside of sessions
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Meta

from torchveil.errors import MalformedMessage, TorchveilError
from torchveil.network.framing import Frame
from torchveil.program.tensors import MOST_DIMENSIONS
from torchveil.storage import Checkpoint

#: Changes whenever two versions could not understand each other.
PROTOCOL = 3

Name = Annotated[str, Meta(min_length=1, max_length=160)]
Text = Annotated[str, Meta(max_length=4000)]
#: A version of the package; it is shown on terminals.
Version = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9.+!_-]*\Z")]
Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
#: A wire as the controller names it; negative ones are slots of plans, which are nobody else's business.
Identifier = Annotated[int, Meta(ge=1, le=2**62)]
Count = Annotated[int, Meta(ge=0, le=2**48)]
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(max_length=MOST_DIMENSIONS)]

#: Owners whose data may be in one value that ranks make together.
OWNERS = 4096


class Kind(IntEnum):
    """The kinds of frames."""

    HELLO = 1
    WELCOME = 2
    BEGIN = 3
    READY = 4
    STREAM = 10
    DEALT = 11
    EXCHANGE = 12
    REVEALED = 13
    PROGRESS = 14
    DONE = 15
    REFUSED = 16
    WAITING = 17
    COLLECTED = 18
    ALIVE = 19
    ABORT = 20
    CLOSE = 21
    REQUEST = 30
    REPLY = 31


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all bodies."""


# --- a connection and a session begin ---------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The first frame of whoever connects. ``ticket`` names a session that is being opened (empty for services).

    ``lane``: the rank of this end within its role, or of a controller's session. ``group``: of a controller whose other
    ranks open a session in every other lane; the parties' ranks find each other by it.
    """

    protocol: int
    version: Version
    cluster: Bytes32
    purpose: Name
    ticket: Annotated[bytes, Meta(max_length=16)] = b""
    key: Annotated[bytes, Meta(max_length=32)] = b""
    contribution: Annotated[bytes, Meta(max_length=16)] = b""
    lane: Annotated[int, Meta(ge=0, lt=2**16)] = 0
    group: Annotated[bytes, Meta(max_length=16)] = b""


class Welcome(Message, frozen=True):
    """The answer of whoever was connected to."""

    version: Version
    key: Annotated[bytes, Meta(max_length=32)] = b""
    contribution: Annotated[bytes, Meta(max_length=16)] = b""


class Begin(Message, frozen=True):
    """Controller to role: everybody's contribution to the session id, parties in order, provider, controller."""

    contributions: Annotated[tuple[Bytes16, ...], Meta(min_length=4, max_length=66)]


class Ready(Message, frozen=True):
    """Role to controller: all of its links stand."""

    session: Bytes32


# --- the stream -------------------------------------------------------------------------------------------------------


class Do(Message, tag="i", frozen=True):
    """An instruction as ``program.encoding`` writes it; the lengths of its buffers in the body."""

    structure: bytes
    buffers: tuple[Count, ...] = ()


class Share(Message, tag="c", frozen=True):
    """An instruction ``Input``; for its receiver with the controller's correction in the body."""

    structure: bytes
    buffers: Annotated[tuple[Count, ...], Meta(max_length=1)] = ()


class Alias(Message, tag="a", frozen=True):
    """A second name for a wire."""

    new: Identifier
    old: Identifier
    apart: bool = False


class Define(Message, tag="p", frozen=True):
    """A recorded plan, known by ``key`` from here on."""

    key: Count
    structure: bytes
    buffers: tuple[Count, ...] = ()


class RunPlan(Message, tag="r", frozen=True):
    """Run a plan."""

    key: Count
    inputs: tuple[Identifier, ...]
    outputs: tuple[Identifier, ...]


class Save(Message, tag="s", frozen=True):
    """Write shares to disk."""

    checkpoint: Checkpoint
    wires: dict[str, Identifier]


class Load(Message, tag="l", frozen=True):
    """Shares on disk become wires."""

    checkpoint: Checkpoint
    wires: dict[str, Identifier]


class Dataset(Message, tag="d", frozen=True):
    """The shares that an owner gave under a name become a wire."""

    name: Name
    out: Identifier
    shape: Shape
    identifier: Bytes16


class Deliver(Message, tag="o", frozen=True):
    """An instruction ``Reveal`` to an owner, who will fetch it; ``result`` is a struct of ``results``."""

    structure: bytes
    result: bytes


class Collect(Message, tag="g", frozen=True):
    """Each party's ranks make one value of theirs: ``out`` is their sum, that of rank ``root``, or all of them stacked.

    ``x``: this rank's value, None where it only gets one. ``format``: what the controllers of all ranks have to agree
    on beside the shape (scale and the like).
    """

    how: Literal["sum", "broadcast", "stack"]
    out: Identifier
    x: Identifier | None
    shape: Shape
    root: Annotated[int, Meta(ge=0, lt=2**16)]
    format: Text


class Wait(Message, tag="w", frozen=True):
    """Parties answer when they are here: all before it is done."""


Item = Do | Share | Alias | Define | RunPlan | Save | Load | Dataset | Deliver | Collect | Wait


_UNNAMED = Checkpoint("-", 0, 0, "", 0, {})

#: Items with names that are none of the provider's business, and what it gets of them.
_BLANKED: dict[type[Message], Callable[[Any], Message]] = {
    Save: lambda item: Save(_UNNAMED, {}),
    Load: lambda item: Load(_UNNAMED, {str(k): x for k, x in enumerate(item.wires.values())}),
    Dataset: lambda item: Dataset("-", item.out, item.shape, bytes(16)),
    Deliver: lambda item: Deliver(item.structure, b""),
    Collect: lambda item: msgspec.structs.replace(item, format=""),
}


def without_names(item: Message) -> Message:
    """The item as the provider gets it: without names of data sets, checkpoints, values and results."""
    blank = _BLANKED.get(type(item))
    return item if blank is None else blank(item)


class Stream(Message, frozen=True):
    """Items in order; their buffers follow one another in the body, each at a multiple of eight bytes."""

    items: Annotated[tuple[Item, ...], Meta(max_length=4096)]


# --- the hot path -----------------------------------------------------------------------------------------------------


class Piece(Message, frozen=True):
    """A correction: what it is for, its slot, its type (one of ``pieces.TYPES``), its shape."""

    purpose: Name
    slot: Annotated[int, Meta(ge=0, lt=2**16)]
    dtype: Name
    shape: Shape


class Dealt(Message, frozen=True):
    """What the provider deals for the instruction that the frame is numbered with."""

    pieces: Annotated[tuple[Piece, ...], Meta(max_length=2**16)]


class Collected(Message, frozen=True):
    """Rank to rank of one party: what it contributes to a collective, whose data is in it, the digest of all that its
    lane was told; the body is a share, or the ``part`` of one."""

    how: Name
    shape: Shape
    root: Annotated[int, Meta(ge=0, lt=2**16)]
    format: Text
    part: Annotated[int, Meta(ge=-1, lt=2**16)]
    stream: Bytes32
    owners: Annotated[tuple[Name, ...], Meta(max_length=OWNERS)]


# --- ends -------------------------------------------------------------------------------------------------------------


class Failure(Message, frozen=True):
    """Why a role ends a session: the code of the error tree, who saw it, at which instruction, who is the cause.

    Never a value. No number: about no instruction, or about one of another lane.
    """

    code: Name
    role: Name
    message: Text
    number: Count | None = None
    operation: Annotated[str, Meta(max_length=200)] = ""
    remedy: Text = ""
    at_fault: Annotated[str, Meta(max_length=160)] = ""


class Waits(Message, frozen=True):
    """Whom the sender waits for at the frame's number; nobody any more if empty."""

    peer: Annotated[str, Meta(max_length=160)] = ""


# --- outside of sessions ----------------------------------------------------------------------------------------------


class Request(Message, frozen=True):
    """A question to a daemon; the arguments are a struct of the service's own."""

    service: Name
    arguments: bytes = b""


class Reply(Message, frozen=True):
    """Its answer."""

    result: bytes = b""


_BODIES: dict[Kind, type[Message]] = {
    Kind.HELLO: Hello,
    Kind.WELCOME: Welcome,
    Kind.BEGIN: Begin,
    Kind.READY: Ready,
    Kind.STREAM: Stream,
    Kind.DEALT: Dealt,
    Kind.REFUSED: Failure,
    Kind.WAITING: Waits,
    Kind.COLLECTED: Collected,
    Kind.ABORT: Failure,
    Kind.REQUEST: Request,
    Kind.REPLY: Reply,
}
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type[Message], Callable[[bytes], Any]] = {
    body: msgspec.msgpack.Decoder(body).decode for body in _BODIES.values()
}

M = TypeVar("M", bound=Message)


def pack_meta(message: msgspec.Struct) -> bytes:
    """A struct as bytes."""
    return _ENCODER.encode(message)


def parse(frame: Frame, expected: type[M]) -> M:
    """The struct of a frame of the kind that carries ``expected``.

    A frame ABORT raises the error that it tells of. Any other kind, and bytes that do not fit, raise
    ``MalformedMessage``.
    """
    if frame.kind == Kind.ABORT and expected is not Failure:
        raise told(parse(frame, Failure))
    if _BODIES.get(_kind(frame)) is not expected:
        raise MalformedMessage(f"a message of kind {frame.kind} came where {expected.__name__} was due")
    try:
        found: M = _DECODERS[expected](frame.meta)
    except (msgspec.DecodeError, RecursionError, OverflowError):
        raise MalformedMessage(f"bytes that are no {expected.__name__}") from None
    return found


def parse_struct(data: bytes, expected: type[Any]) -> Any:
    """The struct of a service's arguments or result; what does not fit raises ``MalformedMessage``."""
    try:
        return msgspec.msgpack.decode(data, type=expected)
    except (msgspec.DecodeError, RecursionError, OverflowError):
        raise MalformedMessage(f"bytes that are no {expected.__name__}") from None


def _kind(frame: Frame) -> Kind:
    try:
        return Kind(frame.kind)
    except ValueError:
        raise MalformedMessage("a message of an unknown kind") from None


def message_of(kind: Kind, message: Message, **fields: Any) -> Frame:
    """A frame that carries a struct."""
    return Frame(int(kind), meta=pack_meta(message), **fields)


def seal_context(session_id: bytes, number: int, party: str) -> bytes:
    """What the seal of a share that is revealed to the controller is bound to."""
    return _ENCODER.encode(("reveal", session_id, number, party))


# --- errors across machines -------------------------------------------------------------------------------------------


def failure_of(error: BaseException, role: str, number: int | None = None, operation: str = "") -> Failure:
    """What a role tells the others about an error. Of errors that are not ours only the type: a message may hold
    data."""
    if isinstance(error, TorchveilError):
        text, cause = error.message[:4000], error.at_fault or role
        return Failure(error.code, role, text, number, (error.op or operation)[:200], error.remedy[:4000], cause)
    return Failure("TV401", role, f"an unexpected {type(error).__name__}", number, operation[:200], at_fault=role)


def _classes(base: type[TorchveilError]) -> dict[str, type[TorchveilError]]:
    out = {base.code: base}
    for child in base.__subclasses__():
        out.update(_classes(child))
    return out


def told(failure: Failure, line: str = "") -> TorchveilError:
    """The error that another role told of; ``told_by`` finds the failure again."""
    kind = _classes(TorchveilError).get(failure.code, TorchveilError)
    at = "" if failure.number is None else f" (instruction {failure.number})"
    error = kind(
        f"{failure.role}{at}: {failure.message}",
        op=failure.operation,
        remedy=failure.remedy,
        line=line,
        at_fault=failure.at_fault or failure.role,
    )
    _TOLD[error] = failure
    return error


#: Failures by the errors that were made of them.
_TOLD: WeakKeyDictionary[TorchveilError, Failure] = WeakKeyDictionary()


def told_by(error: BaseException) -> Failure | None:
    """The failure that an error was made of, so that it is passed on as it came."""
    # errors of Python itself take no weak references
    return _TOLD.get(error) if isinstance(error, TorchveilError) else None
