"""A network between two processes of one machine: bytes pass a relay that delays them and limits their rate.

Theory of operation. A ``Relay`` accepts connections in place of a target and carries their bytes, which it does not
look at, so TLS stays end to end. In each direction all connections share one line of bandwidth b: ``n`` bytes that
arrive at time t occupy it until ``free = max(free, t) + n / b``, and leave at ``free + latency``. Pieces have at most
16 KB, a TLS record. A line takes only as much as may be under way on it, so a fast sender is held back as by a real
one.

Not emulated: lost packets, slow start and congestion of TCP, jitter, and sharing: every relay is a line of its own,
also where two relays lead to one machine. A relay is a thread: in a process that does little else it adds some tens of
microseconds each way (64 bytes there and back without latency: 73 us), in one that computes it waits for its turn.
"""

from __future__ import annotations

import ctypes
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from torchveil.errors import PeerLost
from torchveil.profiling.network import LAN, WAN, Network

__all__ = ["LAN", "WAN", "Alter", "Network", "Relay"]

#: Called with "forward" (to the target) or "backward" and bytes; gives what to carry instead.
Alter = Callable[[str, bytes], Iterable[bytes]]

_PIECE = 1 << 14
_UNDER_WAY = 1 << 18
#: What a line may catch up on after its thread ran late, in seconds of its bandwidth.
_CATCH_UP_S = 0.0002
_PR_SET_TIMERSLACK = 29


class _Line:
    """One direction of a network: when bytes that come now would have passed."""

    __slots__ = ("_free_s", "network")

    def __init__(self, network: Network) -> None:
        self.network = network
        self._free_s = 0.0

    def release_s(self, n_bytes: int, now_s: float) -> float:
        self._free_s = max(self._free_s, now_s - _CATCH_UP_S) + n_bytes / self.network.bandwidth_bytes_per_s
        return max(self._free_s, now_s) + self.network.latency_s


class _Flow:
    """One direction of one connection: a queue of bytes with the times at which they leave."""

    __slots__ = ("direction", "ended", "line", "n_queued", "queue", "sink", "source")

    def __init__(self, direction: str, source: socket.socket, sink: socket.socket, line: _Line) -> None:
        self.direction = direction
        self.source = source
        self.sink = sink
        self.line = line
        self.queue: deque[tuple[float, memoryview]] = deque()
        self.n_queued = 0
        self.ended = False

    @property
    def room(self) -> bool:
        network = self.line.network
        bytes_on_the_way = network.latency_s * min(network.bandwidth_bytes_per_s, 1e12)
        return not self.ended and self.n_queued < _UNDER_WAY + bytes_on_the_way

    def read(self, alter: Alter | None) -> int:
        """Takes a piece; an empty one in the queue stands for the end. Returns its size."""
        try:
            data = self.source.recv(_PIECE)
        except BlockingIOError:
            return 0
        now_s = time.monotonic()
        self.ended = not data
        for piece in alter(self.direction, data) if alter and data else (data,):
            self.queue.append((self.line.release_s(len(piece), now_s), memoryview(piece)))
            self.n_queued += len(piece)
        return len(data)

    def write(self) -> bool:
        """Sends what is due; whether the sink is full."""
        now_s = time.monotonic()
        while self.queue and self.queue[0][0] <= now_s:
            release_s, piece = self.queue[0]
            if not piece:
                self.sink.shutdown(socket.SHUT_WR)
                self.queue.popleft()
                continue
            try:
                n = self.sink.send(piece)
            except BlockingIOError:
                return True
            self.n_queued -= n
            if n < len(piece):
                self.queue[0] = release_s, piece[n:]
            else:
                self.queue.popleft()
        return False


class Relay:
    """Stands before ``target`` ("host:port") as ``address`` and emulates ``network``. A context manager.

    Attributes:
        address: where to connect instead, "127.0.0.1:port".
        alter: changes, doubles, drops or keeps back what passes; for streams without TLS.
        carried: bytes that came in so far, both directions.
    """

    def __init__(self, target: str, network: Network, *, alter: Alter | None = None) -> None:
        host, _, port = target.rpartition(":")
        self._target = host.strip("[]"), int(port)
        self._lines = _Line(network), _Line(network)
        self.alter = alter
        self.carried = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._pairs: list[tuple[_Flow, _Flow]] = []
        self._stalled = False
        self._refusing = False
        self._cuts = self._cuts_done = 0
        self._cut_done = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._button.send(b"x")
        self._thread.join()
        self._bell.close()
        self._button.close()

    def cut(self, *, refuse: bool = False) -> None:
        """Breaks all connections, both ends see a reset; with ``refuse`` new ones too, until ``resume``."""
        with self._cut_done:
            self._refusing = refuse
            self._cuts += 1
            self._button.send(b"x")
            if not self._cut_done.wait_for(lambda: self._cuts_done >= self._cuts, timeout=5):
                raise PeerLost("the relay does not run", remedy="use it as a context manager")

    def stall(self) -> None:
        """Carries nothing more, in either direction, and leaves all connections open."""
        self._stalled = True
        self._button.send(b"x")

    def resume(self) -> None:
        """Ends ``stall`` and the refusing of ``cut``."""
        self._stalled = self._refusing = False
        self._button.send(b"x")

    def _run(self) -> None:
        # Linux lets a thread that sleeps for 0.1 ms oversleep by 0.05 ms unless it asks for better.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
        try:
            while not self._stopping:
                self._turn()
        finally:
            for pair in list(self._pairs):
                self._break(pair)
            self._listener.close()

    def _turn(self) -> None:
        flows = [] if self._stalled else [flow for pair in self._pairs for flow in pair]
        full = [flow for flow in flows if self._guard(flow, flow.write)]
        flows = [flow for flow in flows if flow.sink.fileno() >= 0]
        due_s = min((flow.queue[0][0] for flow in flows if flow.queue and flow not in full), default=None)
        reading = {flow.source: flow for flow in flows if flow.room}
        writing = {flow.sink for flow in full if flow.sink.fileno() >= 0}
        wait_s = None if due_s is None else max(due_s - time.monotonic(), 0.0)
        readable, _, _ = select.select([self._listener, self._bell, *reading], writing, (), wait_s)
        for sock in readable:
            if sock is self._listener:
                self._accept()
            elif sock is self._bell:
                self._bell.recv(4096)
            elif not self._stalled and (flow := reading[sock]).sink.fileno() >= 0:  # what came after ``stall`` waits
                self.carried += self._guard(flow, partial(flow.read, self.alter))
        if self._cuts_done < self._cuts:
            for pair in list(self._pairs):
                self._break(pair)
            with self._cut_done:
                self._cuts_done = self._cuts
                self._cut_done.notify_all()
        for pair in [pair for pair in self._pairs if all(flow.ended and not flow.queue for flow in pair)]:
            self._break(pair, reset=False)

    def _guard(self, flow: _Flow, work: Callable[[], int]) -> int:
        """Does something with a flow; where it fails, both of its ends see a reset."""
        try:
            return work()
        except OSError:
            for pair in list(self._pairs):
                if flow in pair:
                    self._break(pair)
            return 0

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            near, _ = self._listener.accept()
            try:
                if self._refusing:
                    raise ConnectionRefusedError
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(near)
                return
            for sock in (near, far):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            forward, backward = self._lines
            self._pairs.append((_Flow("forward", near, far, forward), _Flow("backward", far, near, backward)))

    def _break(self, pair: tuple[_Flow, _Flow], *, reset: bool = True) -> None:
        self._pairs.remove(pair)
        for flow in pair:
            if reset:
                _reset(flow.source)
            else:
                flow.source.close()


def _reset(sock: socket.socket) -> None:
    """Closes a connection so that the other end sees a reset."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
