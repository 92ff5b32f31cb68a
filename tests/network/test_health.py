"""What daemons say of themselves: measured rightly, checked strictly, nothing more than asked."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.network.clusters import FakeCluster, status_of
from torchveil.errors import LimitExceeded, MalformedMessage, PeerLost, PeerRejected
from torchveil.network import health
from torchveil.network.health import Link, MeasureRequest, ProbeReply, ProbeRequest, Status, StatusRequest
from torchveil.network.metrics import Metrics
from torchveil.network.service_table import COMMON


def context(**changes: Any) -> Any:
    cluster = SimpleNamespace(addresses={"party/alice": "a:1", "party/bob": "b:1"}, digest=lambda: b"\xab" * 32)
    expires = SimpleNamespace(timestamp=lambda: 4e9)
    made = {
        "config": SimpleNamespace(role="party/alice", cluster=cluster),
        "credentials": SimpleNamespace(identity=SimpleNamespace(not_after=expires)),
        "metrics": Metrics(["party/bob"]),
    }
    return SimpleNamespace(**{**made, **changes})


def test_status_shows_the_counts() -> None:
    daemon = context()
    daemon.metrics.round(7)
    daemon.metrics.session_opened()
    daemon.metrics.session_ended("TV503")
    status, body = health.answer_status(daemon, None, msgspec.msgpack.encode(StatusRequest()), b"")
    again = health.read(Status, msgspec.msgpack.encode(status))
    assert again == status and body == ()
    assert (status.role, status.rounds, status.last_code) == ("party/alice", 7, "TV503")
    assert status.config_digest == "ab" * 32 and status.certificate_expires_at_s == 4e9
    assert abs(status.time_s - time.time()) < 5 and status.memory_bytes > 1e6


def test_probe_tells_the_time() -> None:
    reply, _ = health.answer_probe(context(), None, msgspec.msgpack.encode(ProbeRequest()), bytes(10))
    assert abs(reply.time_s - time.time()) < 5


def test_the_services_are_in_the_table() -> None:
    assert {"status", "probe", "measure"} <= COMMON.keys()
    assert COMMON["probe"].body == health.LARGE_BYTES and COMMON["status"].body == 0


@pytest.mark.parametrize("handler", [health.answer_status, health.answer_probe, health.answer_measure])
@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80junk", b"\x93" * 50, msgspec.msgpack.encode({"peer": "x" * 999})])
def test_requests_that_are_none(handler: Any, data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        handler(context(), None, data, b"")


def test_measure_probes_roles_of_the_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(links={("party/alice", "party/bob"): (0.04, 12.5e6)})
    monkeypatch.setattr(health, "Caller", lambda *_: None)
    monkeypatch.setattr(health, "asking", lambda _caller: cluster.ask_from("party/alice"))
    link, _ = health.answer_measure(context(), None, msgspec.msgpack.encode(MeasureRequest("party/bob")), b"")
    assert link.one_way_s == pytest.approx(0.02) and link.sent_bytes_per_s == pytest.approx(12.5e6)
    with pytest.raises(MalformedMessage, match="not of this cluster"):
        health.answer_measure(context(), None, msgspec.msgpack.encode(MeasureRequest("party/eve")), b"")


def test_one_measurement_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, request = context(), msgspec.msgpack.encode(MeasureRequest("party/bob"))

    def ask_again(*_: Any) -> Any:
        with pytest.raises(LimitExceeded):
            health.answer_measure(daemon, None, request, b"")
        raise PeerLost("bob is gone")

    monkeypatch.setattr(health, "Caller", lambda *_: None)
    monkeypatch.setattr(health, "asking", lambda _caller: ask_again)
    for _ in range(2):  # the lock is free again after an error
        link, _ = health.answer_measure(daemon, None, request, b"")
        assert (link.code, link.message) == ("TV501", "bob is gone")


def test_latency_bandwidth_and_clock_come_apart() -> None:
    cluster = FakeCluster(links={("here", "party/bob"): (0.1, 1e6)}, clocks={"party/bob": 90.0})
    link = health.measure_link(cluster.ask_from("here"), "party/bob")
    assert link.round_trip_s == pytest.approx(0.1) and link.one_way_s == pytest.approx(0.05)
    assert link.sent_bytes_per_s == pytest.approx(1e6)
    assert link.clock_ahead_s == pytest.approx(90.0, abs=5.0)


def test_the_shortest_round_trip_counts() -> None:
    delays = iter([0.5, 0.3, 0.1, 0.4, 0.2, 1.1, 1.1, 1.4, 1.4])

    def ask(_role: str, _service: str, _arguments: Any, _body: bytes = b"") -> tuple[bytes, float]:
        return msgspec.msgpack.encode(ProbeReply(time.time())), next(delays)

    link = health.measure_link(ask, "party/bob")
    assert link.round_trip_s == 0.1
    assert link.sent_bytes_per_s == pytest.approx((health.LARGE_BYTES - health.SMALL_BYTES) / 0.3)


def test_noise_gives_a_bandwidth_all_the_same() -> None:
    def ask(_role: str, _service: str, _arguments: Any, body: bytes = b"") -> tuple[bytes, float]:
        return msgspec.msgpack.encode(ProbeReply(time.time())), 0.2 if len(body) == health.SMALL_BYTES else 0.1

    assert health.measure_link(ask, "party/bob").sent_bytes_per_s == pytest.approx(health.LARGE_BYTES / 0.1)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"role": "party/bob"}),
        msgspec.msgpack.encode(status_of("party/bob\x1b[2J")),
        msgspec.msgpack.encode(status_of("party/bob", version="0.1\n")),
        msgspec.msgpack.encode(status_of("party/bob", version="x" * 500)),
        msgspec.msgpack.encode(status_of("party/bob", rounds=-1)),
        msgspec.msgpack.encode(status_of("party/bob", time_s=float("nan"))),
        msgspec.msgpack.encode(status_of("party/bob", certificate_expires_at_s=float("inf"))),
    ],
)
def test_a_status_that_is_none(reply: bytes) -> None:
    cluster = FakeCluster(raw={("party/bob", "status"): reply})
    with pytest.raises(MalformedMessage):
        health.ask_status(cluster.ask_from("here"), "party/bob")


def test_a_status_of_another_role() -> None:
    cluster = FakeCluster(changes={"party/bob": {"role": "party/eve"}})
    with pytest.raises(PeerRejected, match="party/eve answers in place of party/bob"):
        health.ask_status(cluster.ask_from("here"), "party/bob")


@pytest.mark.parametrize(
    "reply", [b"\x00", msgspec.msgpack.encode(Link("party/eve", 1.0, 1.0)), msgspec.msgpack.encode(Link("party/bob"))]
)
def test_a_measurement_of_something_else_is_an_error_of_the_link(reply: bytes) -> None:
    cluster = FakeCluster(raw={("party/alice", "measure"): reply})
    link = health.ask_measure(cluster.ask_from("here"), "party/alice", "party/bob")
    assert (link.peer, link.code) == ("party/bob", "TV504")


def test_a_message_is_one_line_without_control_characters() -> None:
    error = PeerLost("gone\x1b[2J away\nsecond line")
    assert health.one_line(error) == "gone?[2J away"
    link = Link("party/bob", code="TV501", message=health.one_line(error))
    assert health.read(Link, msgspec.msgpack.encode(link)) == link
