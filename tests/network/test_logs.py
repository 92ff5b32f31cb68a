"""Logs: one JSON object a line, of fields that are named and shaped, and no canary in any of them."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from torchveil.errors import ConfigurationError, PeerLost
from torchveil.network import logs

CANARY = "4242424242"


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("party/alice", stream, "debug", run="abc123")
    yield stream
    logs.close()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_event_role_run_and_its_fields(out: io.StringIO) -> None:
    logs.log("session opened", session="ff00", peer="controller/carol", instruction=7, duration_s=0.25, code="TV501")
    (line,) = lines(out)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "session opened",
        "role": "party/alice",
        "run": "abc123",
        "session": "ff00",
        "peer": "controller/carol",
        "instruction": 7,
        "duration_s": 0.25,
        "code": "TV501",
    }


class Talkative(int):
    def __repr__(self) -> str:
        return CANARY

    __str__ = __repr__


@pytest.mark.parametrize(
    "fields",
    [
        {"op": torch.tensor([int(CANARY)])},
        {"instruction": torch.tensor(int(CANARY))},
        {"op": CANARY},
        {"op": f"relu({CANARY})"},
        {"session": f"0x{CANARY}"},
        {"peer": CANARY},
        {"peer": f"party/{CANARY}\n{CANARY}"},
        {"code": CANARY},
        {"op": f"relu\n{CANARY}"},
        {"duration_s": CANARY},
        {"duration_s": float("nan")},
        {"duration_s": True},
        {"instruction": Talkative(3)},
        {"instruction": [int(CANARY)]},
        {"instruction": {CANARY: CANARY}},
        {"share": int(CANARY)},
        {"message": CANARY},
        {"place": CANARY},
        {"event_": CANARY},
        {CANARY: "x"},
        {"session": CANARY.encode()},
        {"error": CANARY},
    ],
)
def test_what_is_not_allowed_is_left_out_and_said(out: io.StringIO, fields: dict[str, Any]) -> None:
    logs.log("sent", **fields)
    (line,) = lines(out)
    assert CANARY not in out.getvalue()
    assert set(line) == {"time", "level", "event", "role", "run", "refused"}
    (refused,) = line["refused"]
    assert refused.startswith(type(next(iter(fields.values()))).__name__ + " at test_logs.py:")


@pytest.mark.parametrize("event", [f"got {CANARY}", f"a\n{CANARY}", "", CANARY, torch.tensor(int(CANARY)), "x" * 100])
def test_an_event_is_words_without_digits(out: io.StringIO, event: Any) -> None:
    logs.log(event)
    (line,) = lines(out)
    assert line["event"] == "refused event" and CANARY not in out.getvalue()


def test_our_errors_are_logged_by_code_operation_and_first_line(out: io.StringIO) -> None:
    logs.failed("session ended", PeerLost("bob closed the connection", op="relu", remedy="start bob"), session="00")
    (line,) = lines(out)
    assert (line["code"], line["op"], line["message"]) == ("TV501", "relu", "bob closed the connection")
    assert line["level"] == "error" and "start bob" not in out.getvalue()


def test_foreign_errors_are_logged_by_type_and_place_only(out: io.StringIO) -> None:
    secret = int(CANARY)
    try:
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise ValueError(f"not {secret}") from error
    except ValueError as error:
        error.add_note(CANARY)
        logs.failed("instruction failed", error)
    (line,) = lines(out)
    assert line["error"] == "builtins.ValueError" and line["place"].startswith("test_logs.py:")
    assert CANARY not in out.getvalue()
    logs.failed("instruction failed", type(CANARY + " " + CANARY, (Exception,), {})(secret))
    assert CANARY not in out.getvalue() and lines(out)[1]["error"] == "unnamed"


def test_a_cause_of_ours_is_not_told(out: io.StringIO) -> None:
    try:
        try:
            raise ValueError(CANARY)
        except ValueError as cause:
            raise PeerLost("bob is gone") from cause
    except PeerLost as error:
        logs.failed("session ended", error)
    assert CANARY not in out.getvalue() and lines(out)[0]["message"] == "bob is gone"


def test_records_of_others_show_by_place_only(out: io.StringIO) -> None:
    logger = logging.getLogger("torchveil.network")
    logger.warning("the value is %s", CANARY)
    logger.getChild("party").error("the value is %s", torch.tensor(int(CANARY)))
    try:
        raise ValueError(CANARY)
    except ValueError:
        logger.exception("value %s", CANARY, extra={"op": CANARY})
    assert [line["event"] for line in lines(out)] == ["foreign record"] * 3
    assert CANARY not in out.getvalue() and lines(out)[0]["place"].startswith("test_logs.py:")


def test_uncaught_exceptions_are_logged_and_not_printed(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setattr("sys.unraisablehook", None)
    monkeypatch.setattr("threading.excepthook", None)
    logs.log_uncaught()

    def run() -> None:
        raise ValueError(CANARY)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(5)
    assert [line["event"] for line in lines(out)] == ["uncaught exception in a thread"]
    captured = capfd.readouterr()
    assert CANARY not in out.getvalue() + captured.out + captured.err


def test_levels(out: io.StringIO) -> None:
    logs.configure("party/alice", out, "warning")
    logs.log("quiet")
    logs.failed("loud", ValueError())
    assert [line["event"] for line in lines(out)] == ["loud"]


def test_a_file_is_private_and_survives_rotation(tmp_path: Path) -> None:
    path = tmp_path / "alice.log"
    old = os.umask(0)
    try:
        logs.configure("party/alice", path)
        logs.log("one")
        path.rename(tmp_path / "alice.log.1")
        logs.log("two")
    finally:
        os.umask(old)
        logs.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["event"] == "two"


def test_a_broken_stream_loses_the_line_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(CANARY)

    logs.configure("party/alice", Full())
    logs.log("lost", session="ab")
    logs.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "wrong", [("alice",), ("party/alice", None, "loud"), ("party/" + "a" * 100,), ("king/alice",), ("party/a\nb",)]
)
def test_wrong_settings_raise(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigurationError):
        logs.configure(*wrong)
    with pytest.raises(ConfigurationError):
        logs.configure("party/alice", run="not hexadecimal")


def test_nothing_is_written_before_it_is_configured(capfd: pytest.CaptureFixture[str]) -> None:
    logs.close()
    logs.failed("early", ValueError(CANARY))
    assert capfd.readouterr() == ("", "")
