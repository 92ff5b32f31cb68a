"""The error tree: who is to blame, a stable code, the user's line, and the remedy.

    TorchveilError
    ├── CallerError                    the program asked for something impossible or unsafe
    │   ├── EncodingError        TV101   nan, inf or a value that does not fit the ring
    │   ├── ShapeMismatch        TV102   operands whose shapes do not fit together
    │   ├── SessionMismatch      TV103   secrets of two sessions in one operation
    │   ├── WouldBePublished     TV104   a plain tensor meets a secret without ``public(...)``
    │   ├── RevealRequired       TV105   ``.item()``, ``if secret``, ``.numpy()``: reading a secret; also a TV201
    │   ├── PrecisionLoss        TV106   a non-zero public scalar that would round to zero
    │   ├── RangeExceeded        TV107   a value left its range (debug mode finds it)
    │   ├── InvalidArgument      TV108   an argument that no meaning can be given
    │   ├── PlainWrite           TV109   a secret would be written into a plain tensor
    │   └── PlanError            TV110   a compiled function does what a plan cannot repeat
    ├── UnsupportedOperation     TV201   an operation without a lowering
    ├── ConfigurationError       TV301   parties, provider, precision do not make a session
    ├── SessionStateError        TV302   a forked, copied, pickled or closed session
    ├── ProtocolError            TV401   a role broke the rules: never expected, never ignored
    │   ├── LabelReused          TV402   one label for a second message or a second deal
    │   ├── Desynchronised       TV403   two roles do not execute the same stream
    │   └── PlainDiverged        TV404   debug mode: shares and clear values differ
    ├── NetworkError             TV500   something between machines
    │   ├── PeerLost             TV501   a connection ended while its other end was needed
    │   ├── DeadlineExceeded     TV502   a role did not answer in time
    │   ├── PeerRejected         TV503   another role, cluster or version than expected, or no valid certificate
    │   ├── MalformedMessage     TV504   bytes from outside that are no message of ours
    │   ├── LimitExceeded        TV505   more or larger messages, values or sessions than allowed
    │   ├── SessionAborted       TV506   a role ended the session; names it, the operation and the line
    │   └── CertificateError     TV507   a certificate or key that cannot be used
    ├── ConsentError             TV600   about who may see what
    │   ├── ConsentRequired      TV601   an owner whose data went into a value has not granted its release
    │   ├── GrantInvalid         TV602   a grant that is forged, expired, used up or about something else
    │   └── AuditBroken          TV603   a log of releases that was changed, cut or does not fit the others
    └── StorageError             TV700   shares on disk
        ├── CheckpointInvalid    TV701   a checkpoint that is damaged, of another session or party, or incomplete
        └── DataNotFound         TV702   no owner shared data under this name

Every message says what happened, at which operation and line of the user's program, and what to do instead.
No message ever contains a value, a share, a mask or a key. What an operation raises is never a TypeError: Python would
take it for "try the other operand" and print a message of its own.
"""

from __future__ import annotations

from torchveil.where import user_line


class TorchveilError(Exception):
    """Base of all errors. ``code`` is stable; ``message`` is what happened, ``remedy`` says what to do.

    ``line`` is the line of the user's program, found on the stack unless given. ``at_fault`` is the role on another
    machine that is the cause, as ``kind/name``, where one is known.
    """

    code = "TV000"

    def __init__(self, message: str, *, remedy: str = "", op: str = "", line: str = "", at_fault: str = "") -> None:
        self.message = message
        self.at_fault = at_fault
        self.op = op
        self.remedy = remedy
        self.line = line or user_line()
        parts = [f"[{self.code}] {message}"]
        if op:
            parts.append(f"  operation: {op}")
        if self.line:
            parts.append(f"  at: {self.line}")
        if remedy:
            parts.append(f"  instead: {remedy}")
        super().__init__("\n".join(parts))


class CallerError(TorchveilError):
    """The program asked for something impossible or unsafe."""


class EncodingError(CallerError, ValueError):
    """A value is nan, infinite or too large for the ring at this precision."""

    code = "TV101"


class ShapeMismatch(CallerError, RuntimeError):
    """The shapes of the operands do not fit together."""

    code = "TV102"


class SessionMismatch(CallerError):
    """Secrets of two sessions met; their shares lie with different parties."""

    code = "TV103"


class WouldBePublished(CallerError, RuntimeError):
    """A plain tensor met a secret: every role would learn the plain tensor."""

    code = "TV104"


class PrecisionLoss(CallerError, ValueError):
    """A non-zero public scalar would be rounded to zero."""

    code = "TV106"


class RangeExceeded(CallerError, OverflowError):
    """A value left the range in which the operation is defined (found by debug mode)."""

    code = "TV107"


class InvalidArgument(CallerError, ValueError):
    """An argument that no meaning can be given."""

    code = "TV108"


class PlainWrite(CallerError, RuntimeError):
    """A secret would have been written into a plain tensor."""

    code = "TV109"


class PlanError(CallerError, RuntimeError):
    """A compiled function did something that a recorded plan cannot repeat."""

    code = "TV110"


class UnsupportedOperation(TorchveilError, NotImplementedError):
    """An operation that has no lowering to gates. Nothing was computed."""

    code = "TV201"


class RevealRequired(CallerError, UnsupportedOperation, ValueError):
    """The program tried to read a secret without an explicit reveal: no operation on shares does that."""

    code = "TV105"


class ConfigurationError(TorchveilError, ValueError):
    """Parties, provider and precision do not make a session."""

    code = "TV301"


class SessionStateError(TorchveilError, RuntimeError):
    """The session was forked, copied, pickled or closed, or something of it is running already."""

    code = "TV302"


class ProtocolError(TorchveilError, RuntimeError):
    """A role broke the rules of the protocol."""

    code = "TV401"


class LabelReused(ProtocolError):
    """One label was about to serve a second message or a second deal."""

    code = "TV402"


class Desynchronised(ProtocolError):
    """Two roles do not execute the same instruction stream."""

    code = "TV403"


class PlainDiverged(ProtocolError):
    """Debug mode: the shares and the clear run parted at this operation."""

    code = "TV404"


class NetworkError(TorchveilError, ConnectionError):
    """Something between machines went wrong."""

    code = "TV500"


class PeerLost(NetworkError):
    """A connection ended while its other end was needed."""

    code = "TV501"


class DeadlineExceeded(NetworkError, TimeoutError):
    """A role did not answer in time."""

    code = "TV502"


class PeerRejected(NetworkError):
    """The other end is another role, cluster or version than expected, or has no valid certificate."""

    code = "TV503"


class MalformedMessage(NetworkError):
    """Bytes from outside are no message of ours. Nothing of them was used."""

    code = "TV504"


class LimitExceeded(NetworkError):
    """More or larger messages, values or sessions than this role allows."""

    code = "TV505"


class SessionAborted(NetworkError):
    """A role ended the session."""

    code = "TV506"


class CertificateError(NetworkError):
    """A certificate or key cannot be used."""

    code = "TV507"


class ConsentError(TorchveilError, PermissionError):
    """Who may see what."""

    code = "TV600"


class ConsentRequired(ConsentError):
    """An owner whose data went into a value has not granted its release to this receiver."""

    code = "TV601"


class GrantInvalid(ConsentError):
    """A grant is forged, expired, used up or about something else."""

    code = "TV602"


class AuditBroken(ConsentError):
    """A log of releases was changed or cut, or does not fit the logs of the other parties."""

    code = "TV603"


class StorageError(TorchveilError, RuntimeError):
    """Shares on disk."""

    code = "TV700"


class CheckpointInvalid(StorageError):
    """A checkpoint is damaged, incomplete, or of another session or party."""

    code = "TV701"


class DataNotFound(StorageError):
    """No owner shared data under this name."""

    code = "TV702"
