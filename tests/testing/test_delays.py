"""The relay delays what it says, passes at the rate it says, and breaks on demand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.network.certificates import Authority
from torchveil.errors import DeadlineExceeded, MalformedMessage, PeerLost
from torchveil.network.framing import Frame
from torchveil.network.links import Hub, Link, accept_tls, connect
from torchveil.testing.delays import LAN, WAN, Alter, Network, Relay

FAST = Network(0.0, 1e12)


class Ends:
    """Two hubs with a relay between them."""

    def __init__(self, server: socket.socket, relay: Relay) -> None:
        host, port = relay.address.split(":")
        self.near, self.far = Hub(), Hub()
        self.pool = ThreadPoolExecutor(1)
        self.to_far = Link(socket.create_connection((host, int(port))), "far")
        self.to_near = Link(server.accept()[0], "near")
        self.near.add(self.to_far)
        self.far.add(self.to_near)

    def one_way_s(self, n_bytes: int = 0) -> float:
        started = time.perf_counter()
        self.near.post(self.to_far, Frame(1, body=bytes(n_bytes)))
        flushing = self.pool.submit(self.near.flush, 5, "it")
        self.far.receive(self.to_near, 5, "it")
        took = time.perf_counter() - started
        flushing.result(5)
        return took

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self.pool.shutdown()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)
        yield listening


@pytest.fixture
def between(server: socket.socket) -> Iterator[Callable[..., tuple[Relay, Ends]]]:
    made: list[tuple[Relay, Ends]] = []

    def make(network: Network, alter: Alter | None = None) -> tuple[Relay, Ends]:
        relay = Relay(f"127.0.0.1:{server.getsockname()[1]}", network, alter=alter)
        relay.__enter__()
        made.append((relay, Ends(server, relay)))
        return made[-1]

    yield make
    for relay, ends in made:
        ends.close()
        relay.__exit__(None, None, None)


def least(measure: Callable[[], float], enough_s: float, within_s: float = 20.0) -> float:
    """The shortest of some times: of three at least, and of more while a busy machine lets none be short enough."""
    ends = time.monotonic() + within_s
    took = [measure() for _ in range(3)]
    while min(took) >= enough_s and time.monotonic() < ends:
        took.append(measure())
    return min(took)


@pytest.mark.parametrize(("network", "slack_s"), [(LAN, 0.003), (WAN, 0.01)], ids=["LAN", "WAN"])
def test_messages_take_the_latency(
    between: Callable[..., tuple[Relay, Ends]], network: Network, slack_s: float
) -> None:
    _, ends = between(network)
    soonest = least(ends.one_way_s, network.latency_s + slack_s)
    assert network.latency_s <= soonest < network.latency_s + slack_s


@pytest.mark.parametrize("rate", [12.5e6, 50e6])
def test_bytes_take_the_bandwidth(between: Callable[..., tuple[Relay, Ends]], rate: float) -> None:
    relay, ends = between(Network(0.005, rate))
    n_bytes, sent = int(rate / 10), 0

    def one_way_s() -> float:
        nonlocal sent
        sent += 1
        return ends.one_way_s(n_bytes)

    assert 0.1 * 0.98 < least(one_way_s, 0.1 * 1.5) < 0.1 * 1.5
    assert sent * n_bytes < relay.carried < sent * (n_bytes + 1000)


def test_latency_and_bandwidth_overlap(between: Callable[..., tuple[Relay, Ends]]) -> None:
    """Many messages are under way at once: a line is a pipe, not a ferry."""
    _, ends = between(Network(0.05, 100e6))
    started = time.perf_counter()
    for n in range(50):
        ends.near.post(ends.to_far, Frame(1, n))
    assert [ends.far.receive(ends.to_near, 5, "it").number for _ in range(50)] == list(range(50))
    assert 0.05 <= time.perf_counter() - started < 1.0  # a ferry would take 2.5 s


def test_a_fast_sender_is_held_back(between: Callable[..., tuple[Relay, Ends]]) -> None:
    """The relay takes no more than may be under way, so the sender's queue stays its own."""
    relay, ends = between(Network(0.0, 1e6))
    ends.near.post(ends.to_far, Frame(1, body=bytes(32 << 20)))
    time.sleep(0.1)
    ends.near.poll()
    assert relay.carried < 1 << 20
    assert ends.to_far.queued > 16 << 20


def test_tls_passes_end_to_end(server: socket.socket, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.context("near", server=False), authority.context("far", server=True)
    with Relay(f"127.0.0.1:{server.getsockname()[1]}", LAN) as relay, ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect, relay.address, ours, 5.0)
        far = accept_tls(server.accept()[0], theirs, 5.0)
        assert far.getpeercert()
        connecting.result(5).close()
        far.close()


def test_a_byte_changed_under_tls_is_found_by_both(server: socket.socket, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.context("near", server=False), authority.context("far", server=True)
    with Relay(f"127.0.0.1:{server.getsockname()[1]}", FAST) as relay, ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect, relay.address, ours, 5.0)
        far, near = Hub(), Hub()
        to_near = Link(accept_tls(server.accept()[0], theirs, 5.0), "near")
        to_far = Link(connecting.result(5), "far")
        far.add(to_near)
        near.add(to_far)
        relay.alter = lambda direction, data: [data[:-1] + bytes([data[-1] ^ 1]) if direction == "forward" else data]
        near.post(to_far, Frame(1, body=bytes(100)))
        with pytest.raises(PeerLost, match="TLS broke"):
            far.receive(to_near, 2, "it")
        far.close()
        with pytest.raises(PeerLost):
            near.receive(to_far, 2, "answer")
        near.close()


def test_a_cut_is_seen_by_both_at_once(between: Callable[..., tuple[Relay, Ends]]) -> None:
    relay, ends = between(WAN)
    ends.one_way_s()
    relay.cut(refuse=True)
    for hub, link in ((ends.near, ends.to_far), (ends.far, ends.to_near)):
        with pytest.raises(PeerLost):
            hub.receive(link, 2, "anything")
    host, port = relay.address.split(":")
    with pytest.raises(OSError), socket.create_connection((host, int(port)), 2) as refused:
        if not refused.recv(1):
            raise ConnectionResetError
    relay.resume()
    with socket.create_connection((host, int(port)), 2):
        pass


def test_a_stalled_line_carries_nothing_until_it_goes_on(between: Callable[..., tuple[Relay, Ends]]) -> None:
    relay, ends = between(FAST)
    ends.one_way_s()
    relay.stall()
    ends.near.post(ends.to_far, Frame(5))
    with pytest.raises(DeadlineExceeded):
        ends.far.receive(ends.to_near, 0.1, "anything")
    relay.resume()
    assert ends.far.receive(ends.to_near, 2, "it").kind == 5


def test_what_is_sent_after_a_stall_began_waits(between: Callable[..., tuple[Relay, Ends]]) -> None:
    """Also if the relay finds both at once."""
    relay, ends = between(FAST)
    for n in range(300):
        before = relay.carried
        relay.stall()
        ends.near.post(ends.to_far, Frame(1, n))
        time.sleep(0.001)
        assert relay.carried == before
        relay.resume()
        assert ends.far.receive(ends.to_near, 5, "it").number == n


def test_an_end_passes_after_what_was_sent(between: Callable[..., tuple[Relay, Ends]]) -> None:
    _, ends = between(LAN)
    ends.near.post(ends.to_far, Frame(1, body=bytes(100_000)))
    ends.near.flush(2, "it")
    ends.to_far.close()
    assert len(ends.far.receive(ends.to_near, 2, "it").body) == 100_000
    with pytest.raises(PeerLost):
        ends.far.receive(ends.to_near, 2, "more")


class Cheat:
    """Does something to the second piece of bytes that goes forward."""

    def __init__(self, does: Callable[[list[bytes]], list[bytes]]) -> None:
        self.does, self.seen = does, list[bytes]()

    def __call__(self, direction: str, data: bytes) -> list[bytes]:
        if direction == "backward":
            return [data]
        self.seen.append(data)
        return self.does(self.seen)


CHEATS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "double": lambda seen: [seen[-1]] * (1 + (len(seen) == 2)),
    "drop": lambda seen: [seen[-1]] if len(seen) != 2 else [],
    "swap": lambda seen: [] if len(seen) == 2 else [seen[-1]] if len(seen) != 3 else [seen[-1], seen[-2]],
    "replay": lambda seen: [seen[-1]] if len(seen) < 3 else [seen[0], seen[-1]],
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_line_that_cheats_is_found_out(between: Callable[..., tuple[Relay, Ends]], cheat: str) -> None:
    cheating = Cheat(CHEATS[cheat])
    _, ends = between(FAST, cheating)
    for n in range(5):
        ends.near.post(ends.to_far, Frame(1, n))
        until = time.monotonic() + 5
        while len(cheating.seen) <= n:  # one piece for each message
            assert time.monotonic() < until
            time.sleep(0.001)
    got = []
    with pytest.raises(MalformedMessage, match="one was lost, repeated or moved"):
        for _ in range(6):
            got.append(ends.far.receive(ends.to_near, 5, "it").number)
    assert got == list(range(len(got))) and len(got) < 4


def test_nobody_behind_a_relay_is_a_lost_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    with Relay(nobody, LAN) as relay:
        host, port = relay.address.split(":")
        hub = Hub()
        link = Link(socket.create_connection((host, int(port))), "nobody")
        hub.add(link)
        with pytest.raises(PeerLost):
            hub.receive(link, 2, "hello")
        hub.close()


def test_a_relay_that_sees_that_it_is_over_before_it_is_woken(server: socket.socket) -> None:
    """Anything else that came in that moment ended its thread, which closed what wakes it."""
    relay = Relay(f"127.0.0.1:{server.getsockname()[1]}", LAN)
    relay.__enter__()
    relay._stopping = True
    relay.resume()  # wakes it, as a connection that ends would
    relay._thread.join(30)
    assert not relay._thread.is_alive()
    relay.__exit__(None, None, None)
