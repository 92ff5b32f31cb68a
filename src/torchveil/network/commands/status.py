"""What every role of a cluster says of itself, as rows and as a table that may be drawn again and again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from rich.table import Table
from rich.text import Text

from torchveil.errors import TorchveilError
from torchveil.network.commands.reach import Reach
from torchveil.network.health import Status, ask_status, one_line
from torchveil.network.inspection import WARN_DAYS
from torchveil.profiling.units import duration, size

#: Two facts a column, one above the other, so that a row fits 80 characters.
_COLUMNS = ("role\naddress", "version\nup", "sessions\nwires", "rounds\nper s", "sent\nmemory", "expires\nlast error")


@dataclass(frozen=True, slots=True)
class Row:
    """One role at one moment of our clock: its reply, or the code and the message of what went wrong."""

    role: str
    address: str
    asked_at_s: float
    reply: Status | None = None
    code: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether the role answered."""
        return self.reply is not None


def gather(reach: Reach) -> list[Row]:
    """Ask all roles at once; rows in the cluster's order. Raises nothing about a role that does not answer."""
    with ThreadPoolExecutor(max_workers=len(reach.addresses)) as pool:
        return list(pool.map(lambda role: ask(reach, role), reach.roles))


def ask(reach: Reach, role: str) -> Row:
    """Ask one role."""
    address, now = reach.addresses[role], time.monotonic()
    try:
        return Row(role, address, now, ask_status(reach.ask, role))
    except TorchveilError as error:
        return Row(role, address, now, code=error.code, message=one_line(error))


def table(rows: Sequence[Row], before: Sequence[Row] = ()) -> Table:
    """The rows as a table; ``before``, the rows of an earlier moment, gives rounds per second."""
    silent = "\n".join(f"{row.role} does not answer: {row.code} {row.message}" for row in rows if not row.ok)
    out = Table(title="roles", show_lines=True, caption=Text(silent), caption_justify="left")
    for column in _COLUMNS:
        out.add_column(column, justify="left" if column == _COLUMNS[0] else "right", no_wrap=True)
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
    reply, who = row.reply, f"{row.role}\n{row.address}"
    if reply is None:
        return [who, *[""] * (len(_COLUMNS) - 2), f"\n{row.code}"]
    return [
        who,
        f"{reply.version}\n{span(reply.time_s - reply.started_at_s)}",
        f"{reply.sessions}\n{reply.wires}",
        f"{reply.rounds}\n{_rate(row, before)}",
        f"{size(reply.sent_bytes)}\n{size(reply.memory_bytes)}",
        f"{expiry(reply.certificate_expires_at_s, reply.time_s)}\n{reply.last_code}",
    ]


def _rate(row: Row, before: Row | None) -> str:
    """Rounds per second since an earlier moment of the same start of the daemon."""
    if row.reply is None or before is None or before.reply is None or row.asked_at_s <= before.asked_at_s:
        return ""
    if row.reply.started_at_s != before.reply.started_at_s:
        return ""
    return f"{(row.reply.rounds - before.reply.rounds) / (row.asked_at_s - before.asked_at_s):.0f}"


def expiry(at_s: float, now_s: float) -> str:
    """``2027-05-02``, or ``in 9 d`` if that is soon."""
    days = (at_s - now_s) / 86400
    if days < 0:
        return "expired"
    day = datetime.fromtimestamp(min(at_s, 253402300799.0), UTC).date().isoformat()
    return f"in {days:.0f} d" if days < WARN_DAYS else day


def span(seconds: float) -> str:
    """A long time in its two largest units: ``3 d 4 h``, ``12 min 5 s``."""
    if seconds < 60:
        return duration(max(seconds, 0.0)) if seconds < 1 else f"{seconds:.0f} s"
    whole = int(seconds)
    for length, unit, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {small}"
    return ""
