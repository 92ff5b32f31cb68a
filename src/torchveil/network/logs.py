"""What a role writes down: one JSON object a line, of fields that are named and shaped here, and never a value.

    {"time": "2026-05-02T09:00:00.123Z", "level": "info", "event": "session opened", "role": "party/alice", ...}

The rule is an allow-list. ``FIELDS`` says which fields exist and what their text may look like; a tensor, bytes, a
list, an unknown name or a text of another shape is left out, and the line says so (``refused``: type and place of the
call, never the content). An event is words without digits, so that no formatted value passes as one. An error of ours
is logged by code, operation and the first line of its message, which by the rule of ``errors`` holds no value; of any
other exception only the type and the place are logged, since its message could quote what it failed on. What other
libraries log below our logger shows as "foreign record" with its place.

``log`` raises nothing: a log line is no reason to lose a session. A line takes about 10 us: log what happens once per
session or failure, and count the rest in ``metrics``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TextIO

from torchveil.errors import ConfigurationError, TorchveilError
from torchveil.network.names import KINDS, MAX_NAME
from torchveil.randomness import os_bytes

_LOGGER = logging.getLogger("torchveil.network")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_EVENT = re.compile(r"[a-z][a-z ,'-]{0,79}")
_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Field:
    """What a field may hold: a text that fits ``pattern`` whole, or with ``pattern`` "" a finite number."""

    pattern: str = ""

    def takes(self, value: object) -> bool:
        """Whether ``value`` may be written. Subclasses of the plain types are no such values: they may print more."""
        if self.pattern:
            return type(value) is str and re.fullmatch(self.pattern, value) is not None
        return type(value) is int or (type(value) is float and math.isfinite(value))


_NUMBER = Field()
_ROLE = Field(rf"({'|'.join(KINDS)})/[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")

#: Every field that a caller may give. Nothing here can hold a share, a value, a mask or a key.
FIELDS = MappingProxyType(
    {
        "session": Field(r"[0-9a-f]{1,64}"),
        "role": _ROLE,
        "peer": _ROLE,
        "controller": _ROLE,
        "at_fault": _ROLE,
        "op": Field(r"[A-Za-z_][A-Za-z0-9_. ]{0,79}"),
        "code": Field(r"TV[0-9]{3}"),
        "version": Field(r"[0-9A-Za-z.+-]{1,40}"),
        "instruction": _NUMBER,
        "n_bytes": _NUMBER,
        "duration_s": _NUMBER,
        "days_left": _NUMBER,
    }
)


def configure(
    role: str,
    target: TextIO | str | os.PathLike[str] | None = None,
    level: str = "info",
    *,
    run: str | None = None,
) -> str:
    """Write this process's log lines to a stream (default: standard error) or append them to a file; the run's id.

    role: ``kind/name``, on every line. A file is created with mode 0600 and opened anew when it was moved away, so that
    logrotate works. run: hexadecimal digits that tell one start of a daemon from the next; drawn if not given. Calling
    it again replaces what was configured. Raises ``ConfigurationError`` for a role, level or run that is none.
    """
    if level not in _LEVELS:
        raise ConfigurationError(f"there is no log level {level!r}", remedy=f"choose from {', '.join(_LEVELS)}")
    if not _ROLE.takes(role):
        raise ConfigurationError(f"{role!r} is no role", remedy="write kind/name, as in party/alice")
    run = os_bytes(8).hex() if run is None else run
    if not FIELDS["session"].takes(run):
        raise ConfigurationError("a run's id is of hexadecimal digits", remedy="leave it out: one is drawn")
    close()
    handler = _File(target) if isinstance(target, (str, os.PathLike)) else _Stream(target or sys.stderr)
    handler.setFormatter(_Lines(role, run))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(_LEVELS[level])
    _LOGGER.propagate = False
    return run


def close() -> None:
    """Stop writing and close the file, if any. Without ``configure`` nothing is written."""
    for handler in list(_LOGGER.handlers):
        _LOGGER.removeHandler(handler)
        handler.close()
    _LOGGER.addHandler(logging.NullHandler())
    _LOGGER.propagate = False


def log(event: str, *, level: str = "info", **fields: object) -> None:
    """Write a line; ``fields`` are those of ``FIELDS``, others are left out. Raises nothing."""
    number = _LEVELS.get(level, logging.ERROR)
    if _LOGGER.isEnabledFor(number):
        _write(number, event, fields, {})


def failed(event: str, error: BaseException, *, level: str = "error", **fields: object) -> None:
    """Write a line about an error: ours by code, operation and message, any other by type and place. Raises nothing."""
    number = _LEVELS.get(level, logging.ERROR)
    if _LOGGER.isEnabledFor(number):
        _write(number, event, fields, describe(error))


def describe(error: BaseException) -> dict[str, str]:
    """What may be said of an error: ``error`` and ``place`` of any that is not ours.

    Of one of ours ``code`` and ``message``, and ``op`` and ``at_fault`` where it has them.
    """
    if not isinstance(error, TorchveilError):
        return {"error": _type_name(error), "place": _place(error.__traceback__)}
    said = {"code": error.code, "message": error.message.partition("\n")[0][:_MESSAGE_CHARACTERS]}
    return {**said, **{name: text for name in ("op", "at_fault") if FIELDS[name].takes(text := getattr(error, name))}}


def log_uncaught() -> None:
    """From now on exceptions that nobody catches, in any thread, are logged and not printed.

    Python would print their messages and lines of source to standard error, which a supervisor keeps.
    """

    def in_main(_kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
        failed("uncaught exception", error)

    def in_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            failed("uncaught exception in a thread", arguments.exc_value)

    def in_finaliser(arguments: sys.UnraisableHookArgs) -> None:
        if arguments.exc_value is not None:
            failed("uncaught exception in a finaliser", arguments.exc_value)

    sys.excepthook = in_main
    threading.excepthook = in_thread
    sys.unraisablehook = in_finaliser


# --- lines -----------------------------------------------------------------------------------------------------------


def _write(level: int, event: str, fields: dict[str, object], said: dict[str, str]) -> None:
    accepted, refused = _accepted(fields)
    line: dict[str, object] = {"event": event, **accepted, **said}
    if type(event) is not str or not _EVENT.fullmatch(event):
        line["event"] = "refused event"
        refused.append(type(event).__name__)
    if refused:
        frame = sys._getframe(2)
        line["refused"] = [f"{kind} at {_at(frame.f_code.co_filename, frame.f_lineno)}" for kind in refused]
    record = logging.LogRecord(_LOGGER.name, level, "", 0, "", None, None)
    record.torchveil = line
    _LOGGER.handle(record)


def _accepted(fields: dict[str, object]) -> tuple[dict[str, Any], list[str]]:
    """The fields that may be written, and the types of the others; an empty text is no field."""
    fields = {name: value for name, value in fields.items() if type(value) is not str or value}
    taken = {name: value for name, value in fields.items() if name in FIELDS and FIELDS[name].takes(value)}
    return taken, [type(value).__name__ for name, value in fields.items() if name not in taken]


def _type_name(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return name if re.fullmatch(r"[A-Za-z0-9_.<>]{1,120}", name) else "unnamed"


def _place(traceback: TracebackType | None) -> str:
    """``file.py:line`` of the innermost frame; no source, no path of this machine."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return _at(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)


def _at(file: str, line: int) -> str:
    return f"{Path(file).name}:{line}"


class _Lines(logging.Formatter):
    """A record as a line of JSON. What did not come through ``log`` shows by its place only."""

    def __init__(self, role: str, run: str) -> None:
        super().__init__()
        self._same = {"role": role, "run": run}

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = getattr(record, "torchveil", {})
        if not line:
            line = {"event": "foreign record", "place": _at(record.pathname, record.lineno)}
        event = line.pop("event")
        return json.dumps({"time": when, "level": record.levelname.lower(), "event": event, **self._same, **line})


class _Stream(logging.StreamHandler[TextIO]):
    """A stream; when it cannot be written to, the line is lost: the standard handler would print its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _File(WatchedFileHandler):
    """A file of mode 0600; when it cannot be written to, the line is lost."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, encoding="utf-8")

    def _open(self) -> Any:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


close()
