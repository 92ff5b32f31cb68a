"""Metrics: counts add up, labels are bounded, a call is cheap, the endpoint is where it was told to be."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from torchveil.errors import ConfigurationError
from torchveil.network.metrics import BUCKETS_S, Metrics, serve

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: bytes) -> Samples:
    return {
        (sample.name.removeprefix("torchveil_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def filled() -> Metrics:
    metrics = Metrics(["party/bob", "provider/james"])
    metrics.session_opened()
    metrics.session_opened()
    metrics.session_ended()
    metrics.session_opened()
    metrics.session_ended("TV503")
    metrics.connection_refused("TV504")
    metrics.round(3)
    metrics.exchanged("party/bob", 100, 0.0003)
    metrics.exchanged("party/bob", 10, 7.0, received=30)
    metrics.sent("controller/carol", 5)
    metrics.received("provider/james", 800)
    metrics.dealt(800)
    metrics.instruction("product")
    metrics.instruction("made up by somebody")
    metrics.revealed()
    metrics.refused()
    metrics.wires(+9)
    metrics.wires(-2)
    return metrics


def test_counts_add_up() -> None:
    now = samples(filled().text())
    bob = (("peer", "party/bob"),)
    expected = {
        ("rounds_total", ()): 3,
        ("sent_bytes_total", bob): 110,
        ("received_bytes_total", bob): 130,
        ("sent_bytes_total", (("peer", "controller"),)): 5,
        ("received_bytes_total", (("peer", "provider/james"),)): 800,
        ("dealt_bytes_total", ()): 800,
        ("instructions_total", (("gate", "other"),)): 1,
        ("instructions_total", (("gate", "product"),)): 1,
        ("sessions_opened_total", ()): 3,
        ("sessions_ended_total", (("code", ""),)): 1,
        ("sessions_ended_total", (("code", "TV503"),)): 1,
        ("sessions", ()): 1,
        ("reveals_total", ()): 1,
        ("refusals_total", ()): 1,
        ("queued_bytes", bob): 0,
        ("connections_refused_total", (("code", "TV504"),)): 1,
        ("wires", ()): 7,
        ("exchange_seconds_count", bob): 2,
        ("exchange_seconds_bucket", (("le", "0.0005"), *bob)): 1,
        ("exchange_seconds_bucket", (("le", "0.0002"), *bob)): 0,
        ("exchange_seconds_bucket", (("le", "5"), *bob)): 1,
        ("exchange_seconds_bucket", (("le", "+Inf"), *bob)): 2,
    }
    assert {key: now.get(key) for key in expected} == expected
    assert now["exchange_seconds_sum", bob] == pytest.approx(7.0003)
    assert now["resident_memory_bytes", ()] > 1e6
    assert abs(now["start_time_seconds", ()] - time.time()) < 60


def test_when_the_certificate_ends() -> None:
    key = ("certificate_expiry_seconds", ())
    assert samples(Metrics(expires_at_s=1.5e9).text())[key] == 1.5e9
    assert key not in samples(Metrics().text())


def test_totals_are_those_of_the_metrics() -> None:
    totals = filled().totals()
    assert (totals.sessions, totals.sessions_opened, totals.wires, totals.rounds) == (1, 3, 7, 3)
    assert (totals.sent_bytes, totals.received_bytes, totals.dealt_bytes) == (115, 930, 800)
    assert (totals.instructions, totals.reveals, totals.refusals, totals.last_code) == (2, 1, 1, "TV503")


def test_nobody_outside_makes_new_series() -> None:
    metrics = Metrics(["party/bob"])
    for k in range(200):
        metrics.sent(f"owner/o{k}", 1)
        metrics.exchanged(f"made{k}/up", 1, 0.1)
        metrics.instruction(f"gate{k}")
        metrics.session_opened()
        metrics.session_ended(f"TV9{k}")
        metrics.connection_refused(f"TV9{k}")
    with metrics.watching([SimpleNamespace(peer=f"party/{k}", queued=1) for k in range(200)]):
        labels = {label for _, label in samples(metrics.text())}
    named = {value for label in labels for name, value in label if name != "le"}
    assert named == {"party/bob", "owner", "other", "party"}


def test_what_waits_is_that_of_all_sessions_now() -> None:
    metrics = Metrics(["party/bob"])
    bob, other = SimpleNamespace(peer="party/bob", queued=5), SimpleNamespace(peer="party/bob", queued=70)
    owner = SimpleNamespace(peer="owner/o", queued=2)

    def waits(peer: str = "party/bob") -> float | None:
        return samples(metrics.text()).get(("queued_bytes", (("peer", peer),)))

    with metrics.watching([other]):
        with metrics.watching([bob, owner]):
            assert (waits(), waits("owner")) == (75, 2)
            bob.queued = 0  # it was sent meanwhile
            assert waits() == 70
        assert (waits(), waits("owner")) == (70, None)
    assert waits() == 0


def test_an_exchange_falls_into_the_bucket_whose_end_it_reaches() -> None:
    metrics = Metrics(["party/bob"])
    for end in BUCKETS_S:
        metrics.exchanged("party/bob", 0, end)
    now = samples(metrics.text())
    counted = sorted(
        (float(dict(label)["le"]), value) for (name, label), value in now.items() if name == "exchange_seconds_bucket"
    )
    assert [value for _, value in counted] == [*range(1, len(BUCKETS_S) + 1), len(BUCKETS_S)]


def test_two_daemons_of_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.round()
    assert (one.totals().rounds, two.totals().rounds) == (1, 0)


def test_a_call_is_cheap() -> None:
    metrics = Metrics(["party/bob"])
    turns = [
        (_time_of(lambda: metrics.exchanged("party/bob", 100, 0.001)), _time_of(lambda: sum(_FEW))) for _ in range(40)
    ]
    best, sums = map(min, zip(*turns, strict=True))
    assert best < 12 * sums  # what else runs slows both


_FEW = list(range(16))


def _time_of(call: object, n: int = 500) -> float:
    began = time.perf_counter()
    for _ in range(n):
        call()  # type: ignore[operator]
    return (time.perf_counter() - began) / n


def test_threads_lose_no_count() -> None:
    metrics = Metrics(["party/bob"])

    def work() -> None:
        for _ in range(2000):
            metrics.round()
            metrics.exchanged("party/bob", 1, 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (metrics.totals().rounds, metrics.totals().sent_bytes) == (8000, 8000)


def test_the_endpoint_serves_stops_and_can_start_again() -> None:
    endpoint = serve(filled(), ":0")
    host, port = endpoint.address
    assert host == "127.0.0.1"
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=60) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        assert samples(reply.read())["rounds_total", ()] == 3
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{host}:{port}/", timeout=60)
    endpoint.stop()
    with pytest.raises(OSError):
        socket.create_connection((host, port), timeout=1)
    again = serve(Metrics(), f"{host}:{port}")
    again.stop()


def test_a_silent_client_does_not_hold_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchveil.network.metrics._Scrape.timeout", 0.2)
    endpoint = serve(Metrics(), ":0")
    try:
        with socket.create_connection(endpoint.address, timeout=60):
            began = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.address[1]}/metrics", timeout=60) as reply:
                assert reply.status == 200
            assert time.monotonic() - began < 30
    finally:
        endpoint.stop()


def test_a_slow_client_does_not_hold_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then: no single wait is long."""
    monkeypatch.setattr("torchveil.network.metrics._Scrape.timeout", 0.4)
    endpoint = serve(Metrics(), ":0")
    over = threading.Event()

    def trickle() -> None:
        with socket.create_connection(endpoint.address, timeout=60) as slow, suppress(OSError):
            while not over.wait(0.05):
                slow.sendall(b"G")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        time.sleep(0.2)
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.address[1]}/metrics", timeout=60) as reply:
            assert reply.status == 200
        assert time.monotonic() - began < 30
    finally:
        over.set()
        thread.join(60)
        endpoint.stop()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "203.0.113.1:0", ""])
def test_an_address_that_cannot_be_served(address: str) -> None:
    with pytest.raises(ConfigurationError):
        serve(Metrics(), address)
