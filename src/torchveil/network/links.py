"""Links: authenticated connections that carry frames, and the one loop that drives all links of a session.

Theory of operation. A ``Link`` is one connection; nothing on it blocks. A ``Hub`` owns the links of a session and is
driven by one thread: whoever waits for a frame of one link makes all of them send and receive meanwhile, so two roles
that send to each other at once never wait for each other, and the death of any role is seen while waiting for any
other. What cannot be sent at once waits in a queue of its link; what arrives early waits in the link's decoder. Both
are bounded (``Limits.queued``): a link whose frames nobody takes is no longer read, and the other end notices.

Who is to blame when a wait takes too long? Whoever waits for a role that itself waits for a third must not blame it. So
a wait that has lasted for ``notice_s`` is told to the others (``on_wait``), who note it (``Link.waits_for``) and, when
their own time is up, follow from the role that they wait for to the one that says nothing. They follow a role no
further that waits for something later in the stream than they do (``position``): what is missing it has sent, and it
was lost.

TLS reads and writes records, which has two consequences here. A read or a write may need the socket in the other
direction first (``SSLWantRead`` of a write). And bytes may lie inside OpenSSL where select does not see them: reads
always offer room for a whole record, and go on while ``pending`` says so.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, cast

from torchveil.errors import DeadlineExceeded, MalformedMessage, NetworkError, PeerLost, PeerRejected
from torchveil.network.framing import NO_SESSION, RECORD, Decoder, Frame, Limits, Piece, pack

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
#: How often a link is read before others have their turn, in TLS records.
_TURN = 64
_NEVER = float("inf")
#: One call of select; a wait may take any number of them, also for ever.
_LONG_S = 3600.0
_SEE_LOGS = "look at the logs of that role; then start a new session"
#: Names that are being looked up at a time.
_LOOKUPS = threading.BoundedSemaphore(16)


class Link:
    """One connection to ``peer``, whose handshake is done. Frames go through a ``Hub``.

    Attributes:
        peer: who is at the other end, as authenticated; only its ``str`` is used.
        may_close: the other end may close this link while nobody waits for it.
        bytes_in, bytes_out: bytes of frames so far, without TLS's own.
        queued: bytes that wait to be sent.
        waits_for, waits_at: whom the peer said it has been waiting for, or "", and at which position.
        heard_at: when something last came from the peer, be it a part of a frame.
        ended: why the connection is over, or None.
    """

    __slots__ = (
        "_counter",
        "_finished",
        "_outgoing",
        "_pending",
        "_read_wants_write",
        "_registered",
        "_write_failed",
        "_write_wants_read",
        "bytes_in",
        "bytes_out",
        "decoder",
        "ended",
        "heard_at",
        "may_close",
        "peer",
        "queued",
        "sock",
        "waits_at",
        "waits_for",
    )

    def __init__(self, sock: ssl.SSLSocket | socket.socket, peer: object, limits: Limits | None = None) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(sock)
        self.sock = sock
        self.peer = peer
        self.decoder = Decoder(NO_SESSION, limits)
        self.may_close = False
        self.bytes_in = 0
        self.bytes_out = 0
        self.queued = 0
        self.waits_for = ""
        self.waits_at = 0
        self.heard_at = 0.0
        self.ended: NetworkError | None = None
        self._counter = 0
        self._finished = False
        self._outgoing: deque[Piece] = deque()
        self._pending: Callable[[], int] = sock.pending if isinstance(sock, ssl.SSLSocket) else _nothing
        self._registered = 0
        self._read_wants_write = False
        self._write_wants_read = False
        self._write_failed = False

    def __repr__(self) -> str:
        return f"Link({self.peer})"

    @property
    def session(self) -> bytes:
        """The id of the session whose frames cross; zeros before it is agreed on."""
        return self.decoder.session

    @session.setter
    def session(self, session: bytes) -> None:
        self.decoder.session = session

    def agree(self, session: bytes) -> None:
        """From here on this end's frames are of the session, and so have to be the other end's once one of them is.

        Until then it may fail without having agreed: ``Hub.urgent`` sees what it says outside of any session.
        """
        self.session = session
        self.decoder.opening = True

    @property
    def limits(self) -> Limits:
        """What this link may take; those of a stranger may be smaller than those of a role in a session."""
        return self.decoder.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.decoder.limits = limits

    def close(self) -> None:
        """Ends the connection. What is still queued is dropped; what was handed to the kernel is delivered."""
        if not self._finished:
            self._finish()
        self.sock.close()

    def _finish(self) -> None:
        """Says that nothing more will come."""
        self._finished = True
        if self.ended is None:
            self.ended = PeerLost("closed at this end")
        self._outgoing.clear()
        self.queued = 0
        with suppress(OSError, ValueError):
            if isinstance(self.sock, ssl.SSLSocket):
                self.sock.setblocking(False)
                self.sock.unwrap()  # sends the notice; does not wait for an answer
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _enqueue(self, frame: Frame) -> None:
        pieces = pack(frame, self.session, self._counter, self.limits)
        self._counter += 1
        self._outgoing.extend(pieces)
        self.queued += sum(map(len, pieces))

    def _write(self) -> None:
        """Sends what can be sent now."""
        outgoing, send = self._outgoing, self.sock.send
        self._write_wants_read = False
        try:
            while outgoing:
                piece = outgoing[0]
                n = send(piece)
                self.queued -= n
                self.bytes_out += n
                if n == len(piece):
                    outgoing.popleft()
                else:
                    outgoing[0] = memoryview(piece)[n:]
        except (ssl.SSLWantWriteError, BlockingIOError):
            pass
        except ssl.SSLWantReadError:
            self._write_wants_read = True
        except OSError:
            # The other end is gone, but why it went may still be waiting to be read.
            self._write_failed = True
            outgoing.clear()
            self.queued = 0

    def _read(self) -> int:
        """Takes what can be read now, at most a turn's worth; returns how many frames became whole."""
        decoder = self.decoder
        before = len(decoder.ready)
        self._read_wants_write = False
        records = _TURN
        try:
            while records > 0 and self.ended is None:
                records -= self._fill(decoder, records)
                if len(decoder.ready) > before and not self._pending():
                    break
        except (ssl.SSLWantReadError, BlockingIOError):
            if self._write_failed:
                self.ended = PeerLost("the connection broke", remedy=_SEE_LOGS)
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
        except NetworkError as error:
            self.ended = error
        except ssl.SSLError as error:
            self.ended = _tls_error(error)
        except OSError as error:
            self.ended = PeerLost(f"the connection broke: {error.strerror}", remedy=_SEE_LOGS)
        return len(decoder.ready) - before

    def _fill(self, decoder: Decoder, records: int) -> int:
        """Reads at most so many records into the decoder's buffer, while it has room for a whole one; how many."""
        buffer, receive = decoder.buffer(), self.sock.recv_into
        room, have = len(buffer) - RECORD, 0
        count = 0
        try:
            while count < records and have <= room:
                n = receive(buffer[have:] if have else buffer)
                count += 1
                if not n:
                    self.ended = PeerLost("the other end closed the connection", remedy=_SEE_LOGS)
                    break
                have += n
        finally:
            if have:
                self.bytes_in += have
                self.heard_at = time.monotonic()
                decoder.filled(have)
        return count

    def _busy(self) -> bool:
        """Whether bytes wait to be sent, or a failure to send waits for its reason."""
        return bool(self._outgoing) or (self._write_failed and self.ended is None)

    def _interest(self) -> int:
        """What to wait for: READ, WRITE, both or nothing."""
        if self.ended is not None:
            return 0
        read = self._write_wants_read or self.decoder.waiting < self.limits.queued
        write = self._read_wants_write or (bool(self._outgoing) and not self._write_wants_read)
        return _READ * read | _WRITE * write


def _same_role(one: str, other: str) -> bool:
    """Of the names of two ranks."""
    return one.partition(" ")[0] == other.partition(" ")[0]


class Hub:
    """All links of a session and the loop over them, driven by one thread at a time.

    Other threads may call ``wake`` and ``cancel``, nothing else, unless they take turns (``heartbeat``). What could not
    be sent at once is sent while somebody waits: call ``flush`` before long work and before closing.

    Attributes:
        urgent: called with every frame as soon as it is whole; True: it was consumed. What it raises comes out of the
            call that waits.
        woken: called in the hub's thread after ``wake``.
        position: where this end is in the stream: the instruction that it carries out or, at rest, the next one.
        on_wait: called with who is waited for, once a wait has lasted for ``notice_s``; with "" when it ends well.
        timeout_s: how long ``post`` waits at most where it has to.

    Raises, from every method that waits: PeerLost when any link ends that is awaited or not marked ``may_close``;
    DeadlineExceeded; what ``cancel`` was given; MalformedMessage or LimitExceeded for what is no frame.
    """

    def __init__(self, *, timeout_s: float = 60.0) -> None:
        self.urgent: Callable[[Link, Frame], bool] | None = None
        self.woken: Callable[[], None] | None = None
        self.position: Callable[[], int] = _nothing
        self.on_wait: Callable[[str], None] | None = None
        self.notice_s = float("inf")
        self.timeout_s = timeout_s
        self.links: list[Link] = []
        self._selector = selectors.DefaultSelector()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # if nobody calls ``close``: a selector holds itself, and with it the links, until a collector runs
        self._let_go = weakref.finalize(self, _let_go, self._selector, self._alarm)
        self._let_go.atexit = False
        self._selector.register(self._alarm, _READ)
        self._cancelled: BaseException | None = None
        self._open = threading.Lock()  # so that no other thread writes into a descriptor that is somebody else's by now
        self._closed = False

    def add(self, link: Link) -> None:
        """Takes a link into the loop. The hub closes it in the end unless it is removed before."""
        self.links.append(link)
        self._update(link)
        self._arrived(link, len(link.decoder.ready))

    def remove(self, link: Link) -> None:
        """Takes a link out of the loop; it stays open."""
        self.links.remove(link)
        if link._registered:
            self._selector.unregister(link.sock)
            link._registered = 0

    def post(self, link: Link, frame: Frame, what: str = "sending") -> None:
        """Sends a frame, now as far as the connection takes it, the rest while somebody waits for something.

        The body must not change until it is sent (``flush``). Waits only while more than ``Limits.queued`` bytes wait.
        """
        if link.ended is not None:
            raise self._lost(link, what)
        link._enqueue(frame)
        link._write()
        if link._write_failed:
            self._drain(link)
            raise self._lost(link, what)
        self._update(link)
        if link.queued > link.limits.queued:
            self._until(lambda: link.queued <= link.limits.queued, [link], self.timeout_s, what)

    def flush(self, timeout_s: float, what: str) -> None:
        """Waits until everything posted is in the kernel's hands."""
        self._until(lambda: not any(link._busy() for link in self.links), (), timeout_s, what)
        self._check((), what)

    def receive(self, link: Link, timeout_s: float, what: str, *, silence_s: float = _NEVER) -> Frame:
        """The next frame of a link; what already arrived comes first, also when the link has ended since.

        silence_s: how long nothing at all may come from the other end, not even a part of a frame.
        """
        return self.receive_any((link,), timeout_s, what, silence_s=silence_s)[1]

    def receive_any(
        self, links: Iterable[Link], timeout_s: float, what: str, *, silence_s: float = _NEVER
    ) -> tuple[Link, Frame]:
        """The next frame of any of these links; the first in the given order that has one."""
        links = tuple(links)
        found: list[tuple[Link, Frame]] = []

        def look() -> bool:
            for link in links:
                frame = self._take(link)
                if frame is not None:
                    found.append((link, frame))
                    return True
            return False

        self._until(look, links, timeout_s, what, silence_s)
        return found[0]

    def poll(self, what: str = "polling") -> None:
        """Sends and receives what is possible at once, without waiting."""
        self._check((), what)
        self._drive(0.0)
        self._check((), what)

    def wake(self) -> None:
        """Interrupts a wait, from any thread, so that ``woken`` is called."""
        with self._open:
            if not self._closed:
                os.eventfd_write(self._alarm, 1)

    def cancel(self, error: BaseException) -> None:
        """From any thread: whoever waits now, or later, gets this error."""
        self._cancelled = error
        self.wake()

    def close(self) -> None:
        """Closes all links and the loop itself."""
        with self._open:
            if self._closed:
                return
            self._closed = True
            self._let_go()
        # what was asked of it may hold the session, and with it all shares
        self.urgent = self.woken = self.on_wait = None
        self.position = _nothing
        for link in self.links:
            link._registered = 0
            link.close()

    def _until(
        self,
        done: Callable[[], bool],
        awaited: Iterable[Link],
        timeout_s: float,
        what: str,
        silence_s: float = _NEVER,
    ) -> None:
        """Drives all links until ``done`` says so."""
        if self._cancelled is None and done():
            return
        began = now = time.monotonic()
        deadline, notice, told = now + timeout_s, now + self.notice_s, False
        while True:
            self._check(awaited, what)
            now = time.monotonic()
            quiet = self._quiet(awaited, began, silence_s)
            self._drive(min(max(min(deadline, notice, quiet) - now, 0.0), _LONG_S))
            if self._cancelled is None and done():
                if told and self.on_wait is not None:
                    self.on_wait("")
                return
            if now >= notice:
                notice, told = _NEVER, True
                late = self._late(awaited)
                if late and self.on_wait is not None:
                    self.on_wait(str(late[0].peer))
            if now >= deadline:
                raise self._overdue(self._late(awaited), timeout_s, what)
            if now >= quiet and now >= self._quiet(awaited, began, silence_s):  # it may have been heard just now
                raise self._silent(self._late(awaited)[0], silence_s, what)

    def _late(self, awaited: Iterable[Link]) -> list[Link]:
        """Whom a wait is for: the awaited, or whoever does not take what was sent."""
        return list(awaited) or [link for link in self.links if link.queued]

    def _quiet(self, awaited: Iterable[Link], began: float, silence_s: float) -> float:
        """Until when a wait that began then goes on, if nothing comes from any of the awaited."""
        return _NEVER if silence_s == _NEVER else max([began, *(link.heard_at for link in awaited)]) + silence_s

    def _silent(self, link: Link, silence_s: float, what: str) -> DeadlineExceeded:
        """To show that it runs a peer needs nobody else."""
        return DeadlineExceeded(
            f"{link.peer} showed no sign of life for {silence_s:g} s, during: {what}",
            remedy="see whether it runs and can be reached: it may be stopped, asleep or in a debugger",
            at_fault=str(link.peer),
        )

    def _overdue(self, late: Sequence[Link], timeout_s: float, what: str) -> DeadlineExceeded:
        cause = self.cause(late[0]) if late else ""
        waits = f" (it waits for {cause})" if late and cause != str(late[0].peer) else ""
        names = ", ".join(str(link.peer) for link in late) or "a role"
        return DeadlineExceeded(
            f"{names} did not answer within {timeout_s:g} s{waits}, during: {what}",
            remedy=f"see whether {cause or 'that role'} runs and can be reached, or allow more time",
            at_fault=cause,
        )

    def cause(self, link: Link) -> str:
        """Who keeps the peer of a link from answering: itself, or whom it said it waits for, and so on."""
        peers = {str(each.peer): each for each in self.links}
        at, seen, position = link, {link}, self.position()
        while at.waits_for and at.waits_at <= position:
            following = peers.get(at.waits_for)
            if following is None and " rank " in at.waits_for and not _same_role(at.waits_for, str(at.peer)):
                return at.waits_for  # a machine of another lane, which this end has no link to
            if following is None or following in seen:
                return str(link.peer)  # it waits for this end, or they wait for each other: something is between them
            position = at.waits_at
            at = following
            seen.add(at)
        return str(at.peer)

    def listen(self, timeout_s: float) -> None:
        """Hears for so long what others have to say, or until all links have ended."""
        deadline = time.monotonic() + timeout_s
        while (rest := deadline - time.monotonic()) > 0 and any(link.ended is None for link in self.links):
            self._drive(rest)

    def push(self, link: Link, frame: Frame | None = None) -> None:
        """Sends what waits, as far as the connection takes it, and after it a frame if nothing waits any more.

        Reads and raises nothing: what is found to be broken is for whoever waits next.
        """
        if link.ended is None and not link._write_failed:
            link._write()
            if frame is not None and not link.queued and not link._write_failed:
                link._enqueue(frame)
                link._write()
            self._update(link)

    def tell(self, frame: Frame) -> None:
        """Sends a frame on all links, as the last one, as far as they take it: also to those that sent what is none."""
        for link in self.links:
            link.may_close = True
            if not isinstance(link.ended, PeerLost):
                with suppress(NetworkError):
                    link._enqueue(frame)
                    link._write()
                    self._update(link)

    def part(self, timeout_s: float) -> None:
        """Says on every link that nothing more will come, and throws away what still comes until the others say so too.

        The kernel answers bytes that nobody reads with a reset, which may overtake what was sent last.
        """
        scratch = bytearray(RECORD)
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            for link in self.links:
                if not isinstance(link.ended, PeerLost):
                    link._finish()
                    selector.register(link.sock, _READ)
            while selector.get_map() and (rest := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(rest):
                    try:
                        more = socket.socket.recv_into(cast(socket.socket, key.fileobj), scratch) > 0  # below TLS
                    except BlockingIOError:
                        continue
                    except OSError:
                        more = False
                    if not more:
                        selector.unregister(key.fileobj)

    def _take(self, link: Link) -> Frame | None:
        """A frame of this link that is there already."""
        try:
            frame = link.decoder.next()
        except NetworkError as error:
            link.ended = error
            return None
        if not link._registered & _READ:
            self._update(link)  # it was not read while its queue was full
        return frame

    def _check(self, awaited: Iterable[Link], what: str) -> None:
        """Raises what a wait has to end with."""
        if self._cancelled is not None:
            raise self._cancelled
        for link in self.links:
            error = link.ended
            if error is not None and (link in awaited or not (link.may_close and isinstance(error, PeerLost))):
                raise self._lost(link, what)

    def _lost(self, link: Link, what: str) -> NetworkError:
        """Why a link ended, with the name of its peer and what was going on."""
        error = link.ended or PeerLost("the connection broke", remedy=_SEE_LOGS)
        said = str(error).partition("] ")[2].partition("\n")[0]
        return type(error)(f"{link.peer}: {said}, during: {what}", remedy=error.remedy, at_fault=str(link.peer))

    def _drive(self, timeout_s: float) -> None:
        """One turn: waits for events, then reads and writes what they allow."""
        for key, events in self._selector.select(timeout_s):
            link = key.data
            if link is None:
                os.eventfd_read(self._alarm)
                if self.woken is not None:
                    self.woken()
            elif link._registered:  # else it was removed meanwhile
                if link._outgoing and (events & _WRITE or link._write_wants_read):
                    link._write()
                n = link._read() if events & _READ or link._read_wants_write or link._write_failed else 0
                self._update(link)
                self._arrived(link, n)

    def _drain(self, link: Link) -> None:
        """Reads what a broken connection still holds: it may say why."""
        n = 0
        while link.ended is None:
            n += link._read()
        self._update(link)
        self._arrived(link, n)

    def _arrived(self, link: Link, n: int) -> None:
        """The last ``n`` frames of a link became whole: ``urgent`` sees them."""
        if self.urgent is None:
            return
        ready = link.decoder.ready
        at = len(ready) - n
        for _ in range(n):
            if self.urgent(link, ready[at][1]):
                link.decoder.drop(at)
            else:
                at += 1

    def _update(self, link: Link) -> None:
        """Registers what to wait for, where that changed."""
        wanted = link._interest()
        if wanted == link._registered:
            return
        if not link._registered:
            self._selector.register(link.sock, wanted, link)
        elif wanted:
            self._selector.modify(link.sock, wanted, link)
        else:
            self._selector.unregister(link.sock)
        link._registered = wanted


def blamed(error: MalformedMessage, link: Link) -> MalformedMessage:
    """The error with who sent what it is about as its cause, unless it names another one."""
    error.at_fault = error.at_fault or str(link.peer)
    return error


def connect(address: str, context: ssl.SSLContext, timeout_s: float) -> ssl.SSLSocket:
    """A TLS connection to ``host:port``, handshake done, within ``timeout_s`` in all.

    Raises:
        PeerLost: nobody listens there, or the connection broke.
        PeerRejected: the other end speaks no TLS of ours or its certificate is not accepted. That it does not accept
            ours is learnt at the first read only (TLS 1.3).
        DeadlineExceeded: it did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        sock = open_tcp(host, int(port), timeout_s)
    except TimeoutError as error:
        raise _late(address, timeout_s) from error
    except (OSError, ValueError) as error:
        raise PeerLost(
            f"no connection to {address}: {getattr(error, 'strerror', None) or 'not an address'}",
            remedy="see whether that role runs, and whether address and firewall allow it",
        ) from error
    name = host if context.check_hostname else None
    return _handshake(sock, context, deadline, timeout_s, address, server_side=False, server_hostname=name)


def open_tcp(host: str, port: int, timeout_s: float) -> socket.socket:
    """A connection to the first of the host's addresses that answers; the look-up of its name and all of them share the
    time. Raises ``OSError`` (``TimeoutError`` among them), and ``ValueError`` for what is no host and port."""
    if not (host and 0 < port < 1 << 16):
        raise ValueError
    deadline = time.monotonic() + timeout_s
    last: OSError | None = None
    for family, kind, protocol, _, place in look_up(host, port, timeout_s):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(place)
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    raise last or ValueError


def look_up(host: str, port: int, timeout_s: float) -> list[Any]:
    """``socket.getaddrinfo``, which may take as long as a name server likes, with a limit to that.

    A look-up that takes longer goes on in a thread of its own, of which there are few. Raises as ``open_tcp``.
    """
    with suppress(socket.gaierror):  # an address needs no name server
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    deadline = time.monotonic() + timeout_s
    found: Future[list[Any]] = Future()

    def ask() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            found.set_exception(error)
        finally:
            _LOOKUPS.release()

    if not _LOOKUPS.acquire(timeout=timeout_s):
        raise TimeoutError(errno.ETIMEDOUT, "too many names are being looked up")
    threading.Thread(target=ask, name="torchveil name", daemon=True).start()
    try:
        return found.result(max(deadline - time.monotonic(), 0.0))
    except TimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, f"no name server answered within {timeout_s:g} s") from None


def accept_tls(sock: socket.socket, context: ssl.SSLContext, timeout_s: float) -> ssl.SSLSocket:
    """The server's side of a handshake on an accepted connection; raises as ``connect`` does, and closes then."""
    deadline = time.monotonic() + timeout_s
    return _handshake(sock, context, deadline, timeout_s, "who connected", server_side=True, server_hostname=None)


def _handshake(
    sock: socket.socket,
    context: ssl.SSLContext,
    deadline: float,
    timeout_s: float,
    whom: str,
    *,
    server_side: bool,
    server_hostname: str | None,
) -> ssl.SSLSocket:
    try:
        sock.getpeername()  # of a connection that broke already wrap_socket would leave a descriptor behind
        tls = context.wrap_socket(
            sock, server_side=server_side, server_hostname=server_hostname, do_handshake_on_connect=False
        )
    except (OSError, ValueError) as error:
        sock.close()
        raise PeerLost(f"the connection to {whom} ended before its handshake", remedy=_SEE_LOGS) from error
    try:
        # OpenSSL counts this for the handshake as a whole, so a peer that trickles bytes gains nothing.
        tls.settimeout(max(deadline - time.monotonic(), 0.001))
        tls.do_handshake()
    except OSError as error:
        tls.close()
        if isinstance(error, TimeoutError):
            raise _late(whom, timeout_s) from error
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            said = getattr(error, "verify_message", "") or error.reason or "no TLS"
            raise PeerRejected(
                f"the handshake with {whom} failed: {said}",
                remedy="check that both certificates are of this cluster, valid and for the right role",
            ) from error
        raise PeerLost(f"{whom} ended the connection during the handshake", remedy=_SEE_LOGS) from error
    return tls


def _late(whom: str, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{whom} did not finish the handshake within {timeout_s:g} s",
        remedy="see whether that role runs and can be reached",
    )


def _tls_error(error: ssl.SSLError) -> NetworkError:
    """An alert says that the other end refuses us, for instance our certificate; all else broke on the way."""
    reason = str(error.reason)
    if "ALERT" in reason and "RECORD_MAC" not in reason:
        return PeerRejected(f"the other end ended TLS: {reason}", remedy="check both certificates")
    return PeerLost(f"TLS broke: {reason}", remedy="find out what changes bytes between the two machines")


def _keep_alive(sock: socket.socket) -> None:
    """A machine that vanished without a word is noticed after half a minute, also while nothing is sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _let_go(selector: selectors.BaseSelector, alarm: int) -> None:
    selector.close()
    os.close(alarm)


def _nothing() -> int:
    return 0
