"""What every role of a cluster says of itself, as rows and as a table that may be drawn again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from torchveil.errors import TorchveilError
from torchveil.network.commands.reach import Reach
from torchveil.network.health import StatusReply, ask_status, one_line
from torchveil.profiling.units import duration, size

_COLUMNS = (
    "role",
    "address",
    "version",
    "up",
    "sessions",
    "wires",
    "rounds",
    "rounds/s",
    "sent",
    "memory",
    "expires",
    "last error",
)
_RIGHT = frozenset({"up", "sessions", "wires", "rounds", "rounds/s", "sent", "memory", "expires"})
WARN_DAYS = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One role at one moment of our clock: its reply, or the code and the message of what went wrong."""

    role: str
    address: str
    asked_at_s: float
    reply: StatusReply | None = None
    code: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether the role that should be there answered."""
        return self.reply is not None and self.reply.role == self.role


def gather(reach: Reach) -> list[Row]:
    """Ask all roles at once; rows in the cluster's order. Raises nothing about a role that does not answer."""
    with ThreadPoolExecutor(max_workers=len(reach.addresses)) as pool:
        return list(pool.map(lambda role: ask(reach, role), reach.roles))


def ask(reach: Reach, role: str) -> Row:
    """Ask one role."""
    address, now = reach.addresses[role], time.monotonic()
    try:
        reply = ask_status(reach.call, address, reach.credentials)
    except TorchveilError as error:
        return Row(role, address, now, code=error.code, message=one_line(error))
    if reply.role != role:
        return Row(role, address, now, reply, message=f"{reply.role} answers there")
    return Row(role, address, now, reply)


def table(rows: Sequence[Row], before: Sequence[Row] = ()) -> Table:
    """The rows as a table; ``before``, the rows of an earlier moment, gives rounds per second."""
    out = Table(title="roles")
    for column in _COLUMNS:
        out.add_column(column, justify="right" if column in _RIGHT else "left", no_wrap=column != "last error")
    earlier = {row.role: row for row in before}
    for row in rows:
        cells = _cells(row, earlier.get(row.role))
        out.add_row(*(Text(cell) for cell in cells), style=None if row.ok else "red")
    return out


def to_json(rows: Sequence[Row]) -> str:
    """The rows as JSON text: by role, its address and its status, or ``code`` and ``message``."""
    document = {
        row.role: {"address": row.address, "status": row.reply, "code": row.code, "message": row.message, "ok": row.ok}
        for row in rows
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode()


def _cells(row: Row, before: Row | None) -> list[str]:
    reply = row.reply
    if reply is None:
        return [row.role, row.address, *[""] * (len(_COLUMNS) - 3), f"{row.code} {row.message}"]
    return [
        row.role,
        row.address,
        reply.version,
        span(reply.time_s - reply.started_at_s),
        str(reply.sessions),
        str(reply.wires),
        str(reply.rounds),
        _rate(row, before),
        size(reply.sent_bytes),
        size(reply.memory_bytes),
        expiry(reply.certificate_expires_at_s, reply.time_s),
        row.message or reply.last_code,
    ]


def _rate(row: Row, before: Row | None) -> str:
    """Rounds per second since an earlier moment of the same start of the daemon."""
    if row.reply is None or before is None or before.reply is None or row.asked_at_s <= before.asked_at_s:
        return ""
    if row.reply.started_at_s != before.reply.started_at_s:
        return ""
    return f"{(row.reply.rounds - before.reply.rounds) / (row.asked_at_s - before.asked_at_s):.0f}"


def expiry(at_s: float, now_s: float) -> str:
    """``2027-05-02``, or what is left if that is little."""
    days = (at_s - now_s) / 86400
    if days < 0:
        return "expired"
    day = datetime.fromtimestamp(min(at_s, 253402300799.0), UTC).date().isoformat()
    return f"{day} (in {days:.0f} d)" if days < WARN_DAYS else day


def span(seconds: float) -> str:
    """A long time in its two largest units: ``3 d 4 h``, ``12 min 5 s``."""
    if seconds < 60:
        return duration(max(seconds, 0.0)) if seconds < 1 else f"{seconds:.0f} s"
    whole = int(seconds)
    for length, unit, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {small}"
    return ""


def as_addresses(addresses: Mapping[Any, str]) -> dict[str, str]:
    """Addresses by the role's text."""
    return {str(role): address for role, address in addresses.items()}
