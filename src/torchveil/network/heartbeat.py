"""Signs of life of a controller, so that a program that thinks can be told from one that stands still.

Theory of operation. Roles that rest wait for the controller's next instruction, which may take as long as its user
likes. A controller says ``ALIVE`` to every role four times per deadline; a role to which nothing comes for the
deadline, not even a part of a frame, ends the session. A thread of its own says so, because the program may be busy
with something else, or wait for its user; it needs the interpreter for a moment only, so it falls silent only while
other code keeps the interpreter's lock, or a debugger stops all threads, for the whole deadline. What was too much for
a connection at once it sends on meanwhile, which is a sign of life too.

A hub is driven by one thread at a time. ``turn`` says whose turn it is: the driver holds it whenever it uses the hub.
If the program waits in the hub meanwhile, it is woken and says ``ALIVE`` itself.

What it costs: 4 frames of 56 bytes per deadline and role, outside of any round. What it tells: that the process runs.
"""

from __future__ import annotations

import threading
import weakref
from time import monotonic

from torchveil.network.framing import Frame
from torchveil.network.links import Hub, Link
from torchveil.network.messages import Kind

#: How many signs of life there are in a deadline: some may be late.
_TIMES = 4

#: How often what waits to be sent is sent on, while nobody uses the hub.
_PUSH_S = 0.01


class Heartbeat:
    """Says ``ALIVE`` on links of a hub until ``stop``, or until nobody holds the hub any more.

    links: where to; changed by whoever has the turn. turn: to be held by whoever uses the hub.
    """

    def __init__(self, hub: Hub, deadline_s: float) -> None:
        self.links: list[Link] = []
        self._hub = weakref.ref(hub)
        self.turn = threading.RLock()
        self._stopped = threading.Event()
        self._every_s = deadline_s / _TIMES
        self._due = monotonic() + self._every_s
        hub.woken = self._say
        # A thread that held this object, and with it the links, would keep a session that nobody uses any more.
        known = weakref.ref(self), self._stopped, self._every_s
        threading.Thread(target=_beat, args=known, name="torchveil heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Say nothing from here on; by whoever has the turn."""
        self._stopped.set()
        self.links.clear()

    def try_turn(self) -> float:
        """What the thread does when it wakes up; how long it may sleep then."""
        if self.turn.acquire(blocking=False):
            try:
                self._say()
            finally:
                self.turn.release()
        elif monotonic() >= self._due and (hub := self._hub()) is not None:
            hub.wake()
        return _PUSH_S if any(link.queued for link in tuple(self.links)) else self._every_s

    def _say(self) -> None:
        """Send on what waits and, if it is time, that this process runs. By whoever has the turn."""
        hub = self._hub()
        if hub is None or self._stopped.is_set():
            return
        due = monotonic() >= self._due
        if due:
            self._due = monotonic() + self._every_s
        for link in self.links:
            hub.push(link, Frame(int(Kind.ALIVE)) if due else None)


def _beat(found: weakref.ref[Heartbeat], stopped: threading.Event, every_s: float) -> None:
    wait_s = every_s
    while not stopped.wait(wait_s):
        heartbeat = found()
        if heartbeat is None:
            return
        wait_s = heartbeat.try_turn()
        del heartbeat
