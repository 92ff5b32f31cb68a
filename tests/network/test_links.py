"""One conformance suite for every kind of connection: order, sizes, both directions, bounds, ends, deadlines."""

from __future__ import annotations

import fcntl
import gc
import math
import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests.network.certificates import Authority
from tests.network.conftest import Ends
from torchveil.errors import (
    DeadlineExceeded,
    LimitExceeded,
    MalformedMessage,
    PeerLost,
    PeerRejected,
    SessionAborted,
    SessionStateError,
)
from torchveil.network.framing import Decoder, Frame, Limits, pack
from torchveil.network.links import Hub, Link, accept_tls, connect

MB = 1 << 20
SESSION = b"a session's whole id"
SIZES = [0, 1, 63, 16383, 16384, 16385, 65536, 4 * MB - 1, 4 * MB, 4 * MB + 1, 20 * MB]


def body(n_bytes: int) -> bytearray:
    """Bytes that differ from place to place: 16384 and 4 MB are no multiples of 251."""
    return bytearray((bytes(range(251)) * (n_bytes // 251 + 1))[:n_bytes])


def reset(link: Link) -> None:
    """Ends a connection so that the other end sees a reset."""
    if link.sock.family == socket.AF_INET:
        link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.sock.close()


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_frames_arrive_in_order_and_whole(ends: Ends, background: Any) -> None:
    alice, to_bob, bob, to_alice = ends

    def push() -> None:
        for n in range(300):
            alice.post(to_bob, Frame(n % 256, n, n.to_bytes(8, "big"), b"m" * (n % 7), body(n)))
        alice.flush(30, "sending")

    pushing = background(push)
    for n in range(300):
        frame = bob.receive(to_alice, 30, "frames")
        assert frame[:4] == (n % 256, n, n.to_bytes(8, "big"), b"m" * (n % 7)) and frame.body == body(n)
    pushing.result(30)
    assert to_bob.bytes_out == to_alice.bytes_in > 300 * 56 and to_bob.queued == 0


@pytest.mark.parametrize("n_bytes", SIZES)
def test_bodies_of_all_sizes_come_back(ends: Ends, background: Any, n_bytes: int) -> None:
    alice, to_bob, bob, to_alice = ends

    def echo() -> None:
        bob.post(to_alice, Frame(2, body=bob.receive(to_alice, 30, "echo").body))
        bob.flush(30, "echo")

    done = background(echo)
    sent = body(n_bytes)
    alice.post(to_bob, Frame(1, body=sent))
    assert alice.receive(to_bob, 30, "echo").body == sent
    done.result(30)


def test_both_send_much_at_once(ends: Ends, background: Any) -> None:
    def exchange(hub: Hub, link: Link) -> int:
        sent = body(100 * MB)
        hub.post(link, Frame(1, body=sent))
        frame = hub.receive(link, 120, "exchange")
        hub.flush(120, "exchange")
        return int(frame.body == sent)

    other = background(exchange, ends.bob, ends.to_alice)
    assert exchange(ends.alice, ends.to_bob)
    assert other.result(120)


def test_many_frames_in_one_piece_are_all_seen_without_another_event(ends: Ends) -> None:
    """They lie in OpenSSL's buffer, where select does not see them."""
    _, to_bob, bob, to_alice = ends
    to_bob.sock.setblocking(True)
    to_bob.sock.sendall(b"".join(piece for n in range(100) for piece in pack(Frame(1, n), bytes(8), n)))
    assert [bob.receive(to_alice, 30, "frames").number for _ in range(100)] == list(range(100))


def test_the_session_changes_between_two_frames(ends: Ends) -> None:
    alice, to_bob, bob, to_alice = ends
    alice.post(to_bob, Frame(1))
    to_bob.session = SESSION
    alice.post(to_bob, Frame(2))
    assert bob.receive(to_alice, 30, "hello").kind == 1
    time.sleep(0.01)
    bob.poll()
    to_alice.session = SESSION
    assert bob.receive(to_alice, 30, "first").kind == 2
    bob.post(to_alice, Frame(3))
    assert alice.receive(to_bob, 30, "answer").kind == 3
    to_bob.session = b"other"
    alice.post(to_bob, Frame(4))
    with pytest.raises(MalformedMessage, match="alice: a frame is of another session, during: second"):
        bob.receive(to_alice, 30, "second")


def test_frames_of_other_links_are_kept(make: Callable[[], Ends]) -> None:
    first, second = make(), make()
    hub = first.bob
    second.bob.remove(second.to_alice)
    hub.add(second.to_alice)
    second.alice.post(second.to_bob, Frame(2))
    first.alice.post(first.to_bob, Frame(1))
    assert hub.receive(first.to_alice, 30, "first").kind == 1
    link, frame = hub.receive_any([first.to_alice, second.to_alice], 30, "any")
    assert link is second.to_alice and frame.kind == 2


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_what_nobody_takes_is_bounded_at_both_ends(make: Callable[[Limits], Ends], background: Any) -> None:
    limits = Limits(queued=4 * MB)
    alice, to_bob, bob, to_alice = make(limits)
    alice.timeout_s = 3.0  # bob fills his queue in that time, however busy the machine is
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.001):
            bob.poll()

    polling, posted = background(poll), 0
    with pytest.raises(DeadlineExceeded, match=r"bob did not answer within 3 s, during: pushing"):
        for posted in range(100):
            alice.post(to_bob, Frame(1, posted, body=body(MB)), "pushing")
    stop.set()
    polling.result(30)
    assert limits.queued < to_bob.queued <= limits.queued + 2 * MB
    assert limits.queued <= to_alice.decoder.waiting <= limits.queued + 2 * MB
    flushing = background(alice.flush, 30, "the rest")
    assert [bob.receive(to_alice, 30, "taking").number for _ in range(posted + 1)] == list(range(posted + 1))
    flushing.result(30)


def test_a_slow_taker_slows_the_sender(make: Callable[[Limits], Ends], background: Any) -> None:
    limits = Limits(queued=2 * MB)
    alice, to_bob, bob, to_alice = make(limits)
    most = 0

    def push() -> None:
        nonlocal most
        for n in range(40):
            alice.post(to_bob, Frame(1, n, body=bytes(MB)))
            most = max(most, to_bob.queued)
        alice.flush(30, "pushing")

    pushing = background(push)
    for n in range(40):
        assert bob.receive(to_alice, 30, "taking").number == n
        assert to_alice.decoder.waiting <= limits.queued + 2 * MB
        time.sleep(0.001)
    pushing.result(30)
    assert most <= limits.queued + 1024


def test_a_frame_beyond_the_limits_is_refused(make: Callable[[Limits], Ends]) -> None:
    alice, to_bob, bob, to_alice = make(Limits(body=1000, kinds={7: 10}))
    with pytest.raises(LimitExceeded):
        alice.post(to_bob, Frame(7, body=bytes(11)))
    alice.post(to_bob, Frame(7, body=bytes(10)))
    assert bob.receive(to_alice, 30, "small").kind == 7
    to_bob.sock.send(b"".join(pack(Frame(7, body=bytes(11)), bytes(8), 1)))
    with pytest.raises(LimitExceeded, match=r"alice: a frame of kind 7 announces 0 \+ 11 bytes"):
        bob.receive(to_alice, 30, "large")


def test_limits_may_change(ends: Ends) -> None:
    """A stranger may say little before it is known."""
    ends.to_alice.limits = Limits(body=10)
    ends.alice.post(ends.to_bob, Frame(1, body=bytes(10)))
    ends.bob.receive(ends.to_alice, 30, "hello")
    ends.to_alice.limits = Limits(body=20)
    ends.alice.post(ends.to_bob, Frame(1, body=bytes(20)))
    ends.bob.receive(ends.to_alice, 30, "more")
    ends.alice.post(ends.to_bob, Frame(1, body=bytes(21)))
    with pytest.raises(LimitExceeded):
        ends.bob.receive(ends.to_alice, 30, "too much")


# --- ends ------------------------------------------------------------------------------------------------------------


def vanish(link: Link) -> None:
    """Ends a connection without a notice of TLS."""
    link.sock.close()


@pytest.mark.parametrize("end", [Link.close, reset, vanish])
def test_the_end_of_any_link_ends_every_wait(make: Callable[[], Ends], end: Callable[[Link], None]) -> None:
    first, second = make(), make()
    hub = first.alice
    second.alice.remove(second.to_bob)
    second.to_bob.peer = "carol"
    hub.add(second.to_bob)
    first.bob.post(first.to_alice, Frame(5))
    second.bob.remove(second.to_alice)
    end(second.to_alice)
    assert hub.receive(first.to_bob, 30, "what is there").kind == 5
    for wait in (hub.receive, hub.receive_any):
        started = time.monotonic()
        with pytest.raises(PeerLost, match=r"carol: .*, during: layer 3"):
            wait(first.to_bob if wait == hub.receive else [first.to_bob], 60, "layer 3")
        assert time.monotonic() - started < 20
    with pytest.raises(PeerLost, match="carol"):
        hub.poll()
    with pytest.raises(PeerLost, match="carol"):
        hub.flush(1, "x")
    hub.remove(second.to_bob)
    hub.poll()
    second.to_bob.close()


def test_a_link_that_may_close_disturbs_only_who_waits_for_it(make: Callable[[], Ends]) -> None:
    first, second = make(), make()
    hub = first.alice
    second.alice.remove(second.to_bob)
    hub.add(second.to_bob)
    second.to_bob.may_close = True
    second.to_alice.close()
    second.bob.remove(second.to_alice)
    for _ in range(3):
        hub.poll()
        time.sleep(0.01)
    first.bob.post(first.to_alice, Frame(1))
    assert hub.receive(first.to_bob, 30, "first").kind == 1
    with pytest.raises(PeerLost, match="bob: the other end closed"):
        hub.receive(second.to_bob, 30, "second")


def test_what_arrived_comes_before_the_end(ends: Ends) -> None:
    alice, to_bob, bob, to_alice = ends
    for n in range(3):
        bob.post(to_alice, Frame(1, n, body=body(1000)))
    to_alice.close()
    assert [alice.receive(to_bob, 30, "last words").number for _ in range(3)] == [0, 1, 2]
    with pytest.raises(PeerLost, match="bob"):
        alice.receive(to_bob, 30, "more")
    with pytest.raises(PeerLost, match="bob"):
        alice.post(to_bob, Frame(1))


def test_the_end_within_a_frame_is_an_end(ends: Ends) -> None:
    alice, to_bob, _, to_alice = ends
    to_alice.sock.send(pack(Frame(1, body=bytes(100_000)), bytes(8), 0)[0])
    to_alice.close()
    with pytest.raises(PeerLost):
        alice.receive(to_bob, 30, "half")


def test_last_words_are_heard_though_their_speaker_left_much_unread(ends: Ends) -> None:
    """Closing with unread bytes makes TCP send a reset; what was sent before it must still be read."""
    alice, to_bob, bob, to_alice = ends
    alice.post(to_bob, Frame(1, body=body(MB)))
    bob.post(to_alice, Frame(9, meta=b"why"))
    to_alice.close()
    time.sleep(0.05)
    seen: list[bytes] = []
    alice.urgent = lambda link, frame: not seen.append(frame.meta)
    with pytest.raises(PeerLost):
        for _ in range(100):
            alice.post(to_bob, Frame(1, body=body(MB)))
            alice.poll()
    assert seen == [b"why"]


def test_a_link_closed_at_this_end_is_lost(ends: Ends) -> None:
    ends.to_bob.close()
    ends.to_bob.close()
    with pytest.raises(PeerLost, match="bob: closed at this end"):
        ends.alice.receive(ends.to_bob, 30, "x")


def test_garbage_names_its_sender(ends: Ends) -> None:
    ends.to_bob.sock.send(b"GET / HTTP/1.1\r\nHost: bob and some more to fill a header\r\n\r\n")
    for _ in range(2):
        with pytest.raises(MalformedMessage, match="alice: these bytes are no frame of torchveil, during: hello"):
            ends.bob.receive(ends.to_alice, 30, "hello")


@pytest.mark.parametrize("forged", [0, 2], ids=["repeated", "skipped"])
def test_a_frame_out_of_turn_is_refused(ends: Ends, forged: int) -> None:
    ends.alice.post(ends.to_bob, Frame(1))
    ends.to_bob.sock.send(b"".join(pack(Frame(1), bytes(8), forged)))
    with pytest.raises(MalformedMessage, match=f"frame {forged} came where frame 1 belongs"):
        for _ in range(2):
            ends.bob.receive(ends.to_alice, 30, "x")


# --- time and interruptions ------------------------------------------------------------------------------------------


def test_every_wait_has_a_deadline(ends: Ends) -> None:
    alice, to_bob, _, _ = ends
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"bob did not answer within 0.2 s, during: layer 3"):
        alice.receive(to_bob, 0.2, "layer 3")
    with pytest.raises(DeadlineExceeded, match="bob"):
        alice.receive_any([to_bob], 0.2, "layer 3")
    alice.post(to_bob, Frame(1, body=body(20 * MB)))
    with pytest.raises(DeadlineExceeded, match="bob"):
        alice.flush(0.2, "layer 3")
    assert 0.6 <= time.monotonic() - started < 20


def test_a_wait_of_no_time_takes_what_is_there(ends: Ends) -> None:
    ends.alice.post(ends.to_bob, Frame(1))
    assert select.select([ends.to_alice.sock], [], [], 30)[0], "it never came"
    assert ends.bob.receive(ends.to_alice, 0, "x").kind == 1


def test_a_wait_may_be_for_ever(ends: Ends, background: Any) -> None:
    waiting = background(ends.bob.receive, ends.to_alice, math.inf, "anything")
    time.sleep(0.02)
    ends.alice.post(ends.to_bob, Frame(1))
    assert waiting.result(30).kind == 1


def test_an_urgent_frame_is_seen_while_waiting_for_another_link(make: Callable[[], Ends]) -> None:
    first, second = make(), make()
    hub = first.alice
    second.alice.remove(second.to_bob)
    hub.add(second.to_bob)
    seen: list[int] = []

    def urgent(link: Link, frame: Frame) -> bool:
        if frame.kind == 9:
            raise SessionAborted(f"{link.peer} gave up")
        seen.append(frame.kind)
        return frame.kind == 8

    hub.urgent = urgent
    for kind in (1, 8, 2):
        second.bob.post(second.to_alice, Frame(kind))
    first.bob.post(first.to_alice, Frame(3))
    assert hub.receive(first.to_bob, 30, "x").kind == 3
    assert [hub.receive(second.to_bob, 30, "x").kind for _ in range(2)] == [1, 2]
    assert sorted(seen) == [1, 2, 3, 8]
    second.bob.post(second.to_alice, Frame(9))
    with pytest.raises(SessionAborted, match="bob gave up"):
        hub.receive(first.to_bob, 30, "x")


def test_another_thread_may_wake_and_cancel(ends: Ends) -> None:
    alice, to_bob, _, _ = ends
    woken: list[threading.Thread] = []
    wake = threading.Timer(0.05, alice.wake)
    cancel = threading.Timer(0.05, alice.cancel, [SessionStateError("the session is over")])

    def noted() -> None:
        if not woken:
            cancel.start()  # only now: a cancel that came first would leave nothing to wake
        woken.append(threading.current_thread())

    alice.woken = noted
    wake.start()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(SessionStateError, match="over"):
            alice.receive(to_bob, 60, "x")
    assert time.monotonic() - started < 20
    assert set(woken) == {threading.current_thread()}
    for timer in (wake, cancel):
        timer.join()


def test_nothing_is_received_after_a_cancel(ends: Ends) -> None:
    """Not even what is there already."""
    ends.bob.post(ends.to_alice, Frame(1))
    ends.bob.post(ends.to_alice, Frame(2))
    ends.alice.receive(ends.to_bob, 30, "x")
    while not ends.to_bob.decoder.ready:
        ends.alice.poll()
    ends.alice.cancel(SessionStateError("the session is over"))
    with pytest.raises(SessionStateError, match="over"):
        ends.alice.receive(ends.to_bob, 30, "x")


def test_nothing_stays_open(make: Callable[[], Ends]) -> None:
    def n_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    make()
    gc.collect()  # what tests before left to a collector is closed now, and not while this one counts
    before = n_open()
    for _ in range(5):
        ends = make()
        ends.alice.post(ends.to_bob, Frame(1))
        for hub in (ends.alice, ends.bob, ends.alice):
            hub.close()
        ends.alice.wake()
    until = time.monotonic() + 20  # what another thread of this process has open for a moment is none of ours
    while n_open() > before:
        assert time.monotonic() < until, f"{n_open()} descriptors, before {before}"
        time.sleep(0.02)


def test_an_idle_hub_takes_no_processor(make: Callable[[Limits], Ends]) -> None:
    """Neither a full queue nor a link that may close and did makes it spin."""
    alice, to_bob, _, _ = make(Limits(queued=MB))
    alice.timeout_s = 0.05
    with pytest.raises(DeadlineExceeded):
        for _ in range(20):
            alice.post(to_bob, Frame(1, body=body(MB)))
    quiet = make(Limits())
    quiet.alice.remove(quiet.to_bob)
    alice.add(quiet.to_bob)
    quiet.to_bob.may_close = True
    quiet.to_alice.close()
    used = time.thread_time()
    with pytest.raises(DeadlineExceeded):
        alice.receive(to_bob, 0.5, "x")
    assert time.thread_time() - used < 0.1


# --- handshakes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("trickle", [False, True], ids=["silent", "trickling"])
def test_a_slow_client_costs_no_more_than_its_time(
    server: socket.socket, contexts: tuple[ssl.SSLContext, ssl.SSLContext], background: Any, trickle: bool
) -> None:
    with socket.create_connection(server.getsockname()) as client:

        def drip() -> None:
            for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01" + bytes(400) if trickle else b"":
                time.sleep(0.05)
                try:
                    client.send(bytes([byte]))
                except OSError:
                    return

        dripping = background(drip)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"handshake within 0\.3 s"):
            accept_tls(server.accept()[0], contexts[0], 0.3)
        assert time.monotonic() - started < 10  # it would drip for twice as long
        dripping.result(60)


def test_a_silent_server_costs_no_more_than_its_time(
    server: socket.socket, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
        connect(address(server), contexts[1], 0.2)
    assert time.monotonic() - started < 10


def test_a_client_without_tls_is_rejected(
    server: socket.socket, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    with socket.create_connection(server.getsockname()) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(PeerRejected):
            accept_tls(server.accept()[0], contexts[0], 30)


def test_a_client_that_leaves_is_lost(server: socket.socket, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    socket.create_connection(server.getsockname()).close()
    with pytest.raises(PeerLost):
        accept_tls(server.accept()[0], contexts[0], 30)


@pytest.mark.parametrize("where", ["127.0.0.1:1", "nowhere", "127.0.0.1:99999", "[::1]:1", "127.0.0.1:", ":80"])
def test_nobody_at_an_address_is_said(where: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with pytest.raises(PeerLost, match="no connection to"):
        connect(where, contexts[1], 2)


def test_another_authority_is_rejected_by_both(
    server: socket.socket, tmp_path: Path, contexts: tuple[ssl.SSLContext, ssl.SSLContext], background: Any
) -> None:
    stranger = Authority(tmp_path)
    accepting = background(lambda: accept_tls(server.accept()[0], stranger.context("mallory", server=True), 30))
    with pytest.raises(PeerRejected, match="certificate"):
        connect(address(server), contexts[1], 30)
    with pytest.raises((PeerRejected, PeerLost)):
        accepting.result(60)


def test_a_rejected_client_learns_of_it_when_it_waits(
    server: socket.socket, authority: Authority, contexts: tuple[ssl.SSLContext, ssl.SSLContext], background: Any
) -> None:
    """TLS 1.3: its own handshake is over before the server has looked at its certificate."""
    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.check_hostname = False
    nameless.load_verify_locations(authority.folder / "ca.pem")
    accepting = background(lambda: accept_tls(server.accept()[0], contexts[0], 30))
    link = Link(connect(address(server), nameless, 30), "bob")
    with pytest.raises(PeerRejected):
        accepting.result(60)
    hub = Hub()
    hub.add(link)
    with pytest.raises(PeerRejected, match=r"bob: the other end ended TLS: .*CERTIFICATE_REQUIRED, during: hello"):
        hub.receive(link, 30, "hello")
    hub.close()


def was_read(pipe: IO[bytes]) -> None:
    """Waits until the process at the other end has taken all that was written."""
    until = time.monotonic() + 30
    while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_new_keys_within_a_connection_change_nothing(
    server: socket.socket, authority: Authority, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """The other end renews its keys and asks for ours to be renewed, between two frames."""
    name = authority.folder / "alice.pem"
    command = ["openssl", "s_client", "-connect", address(server), "-cert", name, "-key", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        try:
            link, hub = Link(accept_tls(server.accept()[0], contexts[0], 30), "alice"), Hub()
            hub.add(link)
            stdin, stdout = client.stdin, client.stdout
            if stdin is None or stdout is None:
                raise TypeError
            for n in range(3):
                stdin.write(b"".join(pack(Frame(1, n), bytes(8), n)))
                stdin.flush()
                assert hub.receive(link, 30, "frame").number == n
                stdin.write(b"K\n")
                stdin.flush()
                was_read(stdin)  # by itself: what it reads behind the command it throws away
            hub.post(link, Frame(2, meta=b"with new keys"))
            hub.flush(30, "answer")
            hub.close()
            assert b"with new keys" in stdout.read()
        finally:
            client.kill()


def test_a_link_asks_for_signs_of_life(dial: Any) -> None:
    """A machine that loses its power says nothing; the kernel asks, and the link breaks."""
    near, far = dial["tls"]()
    for sock in (Link(near, "bob").sock, Link(far, "alice").sock):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        asked = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle_s, between_s, times = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in asked)
        assert idle_s + between_s * times <= 30
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()


def test_a_decoder_never_offers_less_room_than_a_record() -> None:
    """What is left of a record inside OpenSSL would not wake select."""
    decoder = Decoder()
    stream = b"".join(pack(Frame(1, meta=bytes(20_000), body=bytes(50_000)), bytes(8), 0))
    for byte in range(0, len(stream), 997):
        assert len(decoder.buffer()) >= 1 << 14
        decoder.feed(stream[byte : byte + 997])


# --- who is to blame -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({}, "bob"),
        ({"bob": ("james", 7)}, "james"),
        ({"bob": ("james", 7), "james": ("controller", 5)}, "controller"),
        ({"bob": ("james", 7), "james": ("controller", 8)}, "james"),  # it is done with 7: what it sent was lost
        ({"bob": ("james", 9)}, "bob"),  # it is further than we are
        ({"bob": ("alice", 7)}, "bob"),  # for us, and we for it
        ({"bob": ("james", 7), "james": ("bob", 7)}, "bob"),
        ({"bob": ("dora rank 1", 7)}, "dora rank 1"),  # of another lane: nobody here has a link to it
        ({"bob": ("bob rank 1", 7)}, "bob"),
    ],
)
def test_a_wait_is_followed_to_who_says_nothing(said: dict[str, tuple[str, int]], cause: str) -> None:
    """Alice, at instruction 8, waits for bob."""
    hub = Hub()
    found = {}
    for name in ("bob", "james", "controller"):
        near, _far = socket.socketpair()
        found[name] = Link(near, name)
        hub.add(found[name])
        found[name].waits_for, found[name].waits_at = said.get(name, ("", 0))
    hub.position = lambda: 8
    assert hub.cause(found["bob"]) == cause
    hub.close()


def test_last_words_arrive_before_a_reset(make: Callable[..., Ends], background: Any) -> None:
    """Whoever closes with bytes unread resets the connection, and what the kernel had not delivered is lost."""
    ends = make()
    ends.bob.post(ends.to_alice, Frame(1, body=bytes(1 << 16)))  # never read
    for _ in range(64):
        ends.alice.post(ends.to_bob, Frame(1, body=bytes(1 << 14)))
    ends.alice.tell(Frame(20))

    def part() -> None:
        ends.alice.flush(30, "words")
        ends.alice.part(30)
        ends.alice.close()

    parting = background(part)
    time.sleep(0.1)
    kinds = [ends.bob.receive(ends.to_alice, 30, "words").kind for _ in range(65)]
    assert kinds == [1] * 64 + [20]
    ends.bob.close()
    parting.result(60)
