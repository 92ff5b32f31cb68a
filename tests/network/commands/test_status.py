"""The table of roles: who answers, how it is, how fast rounds go; and the command around it."""

from __future__ import annotations

import json
import threading
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tests.network.clusters import DAY_S, FakeCluster
from torchveil.cli import main, reaching
from torchveil.errors import DeadlineExceeded, PeerRejected
from torchveil.network.commands.reach import Reach
from torchveil.network.commands.status import Row, expiry, gather, span, table, to_json


def shown(rows: list[Row], before: list[Row] | None = None) -> list[str]:
    out = StringIO()
    Console(file=out, width=80, color_system=None).print(table(rows, before or []))
    return out.getvalue().splitlines()


def line_of(role: str, lines: list[str]) -> str:
    """The lines of a role's row, one after another."""
    (first,) = [k for k, line in enumerate(lines) if line.startswith(f"│ {role}")]
    row: list[str] = []
    for line in lines[first:]:
        if line.startswith(("├", "└")):
            break
        row.append(" ".join(line.split()))
    return " ".join(row)


def test_every_role_has_its_row() -> None:
    rows = gather(FakeCluster(changes={"party/bob": {"last_code": "TV502"}}).reach())
    assert [row.role for row in rows] == ["party/alice", "party/bob", "provider/james"] and all(row.ok for row in rows)
    lines = shown(rows)
    bob = line_of("party/bob", lines)
    for text in ("bob.example:7002", "0.1.0", "1 h 1 min", "30", "1000", "123.46 MB", "400.00 MB", "TV502"):
        assert text in bob
    assert "TV502" not in line_of("party/alice", lines)


def test_roles_that_do_not_answer_say_why() -> None:
    cluster = FakeCluster(
        errors={("party/bob", "status"): DeadlineExceeded("bob sent nothing for 5 s")},
        changes={"provider/james": {"role": "provider/eve"}},
    )
    rows = gather(cluster.reach())
    assert [row.ok for row in rows] == [True, False, False]
    lines = shown(rows)
    assert "…" not in "".join(lines)
    assert "party/bob does not answer: TV502 bob sent nothing for 5 s" in [line.strip() for line in lines]
    james = " ".join(" ".join(lines).split())
    assert "provider/james does not answer: TV503 provider/eve answers in place of provider/james" in james


def test_roles_are_asked_at_once() -> None:
    cluster = FakeCluster()
    ask = cluster.ask_from("here")

    together = threading.Barrier(3)

    def slow(*arguments: Any) -> Any:
        together.wait(30)  # breaks if one is asked after another
        return ask(*arguments)

    assert all(row.ok for row in gather(cluster.reach(ask=slow)))


def test_rounds_per_second_come_from_two_looks() -> None:
    cluster = FakeCluster()
    (alice, *_) = gather(cluster.reach())
    later = Row(alice.role, alice.address, alice.asked_at_s + 2, alice.reply)
    assert alice.reply is not None
    cluster.changes["party/alice"] = {"rounds": 1500, "started_at_s": alice.reply.started_at_s}
    reply = gather(cluster.reach())[0].reply
    assert " 250 " in line_of("party/alice", shown([Row(alice.role, "", alice.asked_at_s + 2, reply)], [alice]))
    assert " 0 " in line_of("party/alice", shown([later], [alice]))
    cluster.changes["party/alice"] = {"rounds": 10}  # it was started anew: its count begins at zero
    reply = gather(cluster.reach())[0].reply
    assert "-49" not in line_of("party/alice", shown([Row(alice.role, "", alice.asked_at_s + 2, reply)], [alice]))


def test_json_has_every_role() -> None:
    document = json.loads(to_json(gather(FakeCluster(errors={("party/bob", "status"): PeerRejected("no")}).reach())))
    assert document["party/alice"]["ok"] and document["party/alice"]["status"]["rounds"] == 1000
    assert document["party/bob"]["code"] == "TV503" and document["party/bob"]["status"] is None


@pytest.mark.parametrize(
    ("days", "text"), [(-1, "expired"), (0.6, "in 1 d"), (29, "in 29 d"), (40, "2026-02-10"), (1e9, "9999-12-31")]
)
def test_expiry(days: float, text: str) -> None:
    now = 1_767_225_600.0  # 2026-01-01
    assert expiry(now + days * DAY_S, now) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 µs"), (5, "5 s"), (60, "1 min 0 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h"), (4e6, "46 d 7 h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()

    def one(_file: str, _rank: int | None = None) -> Reach:
        return made.reach(addresses={"party/bob": "127.0.0.1:7002"})

    monkeypatch.setattr(reaching, "reach_of", lambda _options: made.reach())
    monkeypatch.setattr(reaching, "reach_itself", one)
    return made


def test_one_look(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "cluster.toml", "--once"]) == 0
    assert "party/alice" in capsys.readouterr().out
    assert main(["status", "cluster.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["party/bob"]["ok"]
    cluster.errors["party/bob", "status"] = DeadlineExceeded("nothing came")
    assert main(["status", "cluster.toml", "--once"]) == 1
    assert main(["status", "cluster.toml", "--json"]) == 1


def test_the_probe_says_one_line(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--role", "bob.toml", "--probe"]) == 0
    assert capsys.readouterr().out == "party/bob is up\n"
    assert {role for _, role, _ in cluster.asked} == {"party/bob"}
    cluster.errors["party/bob", "status"] = DeadlineExceeded("nothing came")
    assert main(["status", "--role", "bob.toml", "--probe"]) == 1
    assert capsys.readouterr().out == "party/bob at 127.0.0.1:7002: TV502 nothing came\n"


def test_the_live_table_ends_when_interrupted(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = iter([None, None])

    def sleep(_seconds: float) -> None:
        if next(slept, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr("torchveil.cli.status.time.sleep", sleep)
    assert main(["status", "cluster.toml"]) == 0
    assert [role for _, role, _ in cluster.asked].count("party/bob") == 3
    assert "party/bob" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked",
    [
        ["status"],
        ["status", "a.toml", "--role", "b.toml"],
        ["status", "a.toml", "--probe"],
        ["status", "x", "--interval", "0"],
    ],
)
def test_arguments_that_make_no_sense(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked) == 2
    assert capsys.readouterr().err.startswith("torchveil: ")
