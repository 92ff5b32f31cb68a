"""How sessions end at daemons of this process, as they say it in their logs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from torchveil.network import daemon


class Said:
    """What daemons say of the ends of sessions that began since this was made: (what, role)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[str, str]] = []
        began: set[tuple[str, str]] = set()

        def log(message: str, **fields: Any) -> None:
            if message == "session opened":
                began.add((fields["session"], fields["role"]))
            elif message in ("session closed", "session failed") and (fields["session"], fields["role"]) in began:
                self.lines.append((message, fields["role"]))

        monkeypatch.setattr(daemon, "log", log)
        monkeypatch.setattr(daemon, "failed", lambda message, error, **fields: log(message, **fields))

    def await_ends(self, count: int) -> None:
        ends = time.monotonic() + 60
        while len(self.lines) < count and time.monotonic() < ends:
            time.sleep(0.01)
