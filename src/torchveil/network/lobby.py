"""The lobby: connections between being accepted and being known. Strangers cost little there and keep nobody out.

Theory of operation. Who connects has to say something, then prove who it is, then say what for; a stranger may do none
of that, or send a byte an hour. So there are three places, each bounded:

    silent    not a byte yet; costs a descriptor, no thread. At most ``4 * places``; a new one puts the oldest out
    guests    a handshake or a hello is under way, in a thread. At most ``places``; a new one puts the oldest out
    served    known by its certificate and its hello; at most ``places``, further ones are told that there are too many

An honest caller speaks at once and is known after some milliseconds, while who dawdles gets older. So whoever holds
connections open, however many, does not keep others out; somebody who opens them faster than ``places`` in the time of
a handshake does, for as long as that goes on. Nobody stays silent, or a guest, for longer than ``timeout_s``.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from torchveil.errors import LimitExceeded

_SILENT = 4
#: Connections that are accepted before others have their turn.
_TURN = 64
#: How long to leave off accepting when the process has no descriptors left.
_PAUSE_S = 0.05


class Visit:
    """A connection in the lobby. ``greet`` calls ``known`` as soon as it knows who it is."""

    __slots__ = ("_handle", "_lobby", "sock")

    def __init__(self, lobby: Lobby, sock: socket.socket) -> None:
        self._lobby = lobby
        self.sock = sock
        # one of our own: TLS takes the other one over, and its thread may close it at any time
        self._handle = sock.dup()

    def known(self) -> None:
        """Not a stranger any more. Raises ``LimitExceeded`` while as many as may be are served."""
        self._lobby._serve(self)

    def put_out(self) -> None:
        """Whoever reads or writes the connection finds it ended."""
        with suppress(OSError):
            self._handle.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        self._handle.close()


class Lobby:
    """Accepts connections of ``listener`` and has ``greet`` called with each that speaks, in threads of its own.

    ``dropped``: called for every connection that is put out or never spoke.
    """

    def __init__(
        self,
        listener: socket.socket,
        places: int,
        timeout_s: float,
        greet: Callable[[Visit], None],
        dropped: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._places = places
        self._timeout_s = timeout_s
        self._greet = greet
        self._dropped = dropped
        self._silent: dict[socket.socket, float] = {}
        self._guests: dict[Visit, None] = {}
        self._served: set[Visit] = set()
        self._lock = threading.Lock()
        # guests, served, and guests that were put out and whose thread did not notice yet
        self._room = threading.Semaphore(3 * places)
        self._pool = ThreadPoolExecutor(3 * places, thread_name_prefix="torchveil greet")
        self._selector = selectors.DefaultSelector()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="torchveil accept", daemon=True)

    def start(self) -> None:
        """Begin to accept; returns at once."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end every connection that is here; returns when no thread is left."""
        self._stopped = True
        os.eventfd_write(self._alarm, 1)
        if self._thread.is_alive():
            self._thread.join()
        for sock in (self._listener, *self._silent):
            sock.close()
        with self._lock:
            visits = [*self._guests, *self._served]
        for visit in visits:
            visit.put_out()
        self._pool.shutdown(wait=True)
        self._selector.close()
        os.close(self._alarm)

    def _run(self) -> None:
        while not self._stopped:
            oldest = next(iter(self._silent.values()), None)
            wait_s = None if oldest is None else max(oldest - time.monotonic(), 0.0)
            for key, _ in self._selector.select(wait_s):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._silent:
                    self._admit(key.fileobj)
            now = time.monotonic()
            for sock in [sock for sock, ends in self._silent.items() if ends <= now]:
                self._drop(sock)

    def _accept(self) -> None:
        for _ in range(_TURN):
            try:
                sock, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptors, or the other end has gone again
                if self._silent:
                    self._drop(next(iter(self._silent)))
                else:
                    time.sleep(_PAUSE_S)
                return
            if len(self._silent) >= _SILENT * self._places:
                self._drop(next(iter(self._silent)))
            self._silent[sock] = time.monotonic() + self._timeout_s
            self._selector.register(sock, selectors.EVENT_READ)

    def _drop(self, sock: socket.socket) -> None:
        self._leave(sock)
        sock.close()
        self._dropped()

    def _leave(self, sock: socket.socket) -> None:
        del self._silent[sock]
        self._selector.unregister(sock)

    def _admit(self, sock: socket.socket) -> None:
        """It spoke: a thread hears what it says."""
        self._leave(sock)
        try:
            visit = Visit(self, sock)
        except OSError:
            sock.close()
            return
        with self._lock:
            oldest = next(iter(self._guests), None) if len(self._guests) >= self._places else None
            if oldest is not None:
                del self._guests[oldest]
            self._guests[visit] = None
        if oldest is not None:
            oldest.put_out()
            self._dropped()
        self._room.acquire()
        self._pool.submit(self._hear, visit)

    def _hear(self, visit: Visit) -> None:
        try:
            self._greet(visit)
        finally:
            with self._lock:
                self._guests.pop(visit, None)
                self._served.discard(visit)
            visit.forget()
            self._room.release()

    def _serve(self, visit: Visit) -> None:
        with self._lock:
            if self._guests.pop(visit, visit) is visit:
                raise LimitExceeded("others were put first", remedy="try again")
            if len(self._served) >= self._places:
                raise LimitExceeded(
                    f"{len(self._served)} questions are being answered here, as many as may be",
                    remedy="try again later, or raise limits.connections",
                )
            self._served.add(visit)


__all__ = ["Lobby", "Visit"]
