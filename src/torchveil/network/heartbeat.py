"""Signs of life of a controller, so that a program that thinks can be told from one that stands still.

Theory of operation. Roles that rest wait for the controller's next instruction, which may take as long as its user
likes. A controller says ``ALIVE`` to every role four times per deadline; a role that hears nothing at all from it for
the deadline ends the session. A thread of its own says so, because the program may be busy with something else, or wait
for its user; it needs the interpreter for a moment only, so it is not heard of only while an extension holds the
interpreter's lock, or a debugger stops all threads, for the whole deadline.

A hub is driven by one thread. ``turn`` says whose turn it is: the driver holds it whenever it uses the hub. If the
program waits in the hub meanwhile, it is woken and says ``ALIVE`` itself.

What it costs: 4 frames of 44 bytes per deadline and role, outside of any round. What it tells: that the process runs.
"""

from __future__ import annotations

import threading
import weakref

from torchveil.network.framing import Frame
from torchveil.network.links import Hub
from torchveil.network.messages import Kind

#: How many signs of life there are in a deadline: some may be late.
_TIMES = 4


class Heartbeat:
    """Says ``ALIVE`` on all links of a hub until ``stop``, or until nobody holds the hub any more.

    ``turn``: to be held by whoever uses the hub.
    """

    def __init__(self, hub: Hub, deadline_s: float) -> None:
        self.turn = threading.RLock()
        self._stopped = threading.Event()
        self._hub = weakref.ref(hub)
        hub.woken = self._say
        threading.Thread(
            target=self._beat, args=(deadline_s / _TIMES,), name="torchveil heartbeat", daemon=True
        ).start()

    def stop(self) -> None:
        """Say nothing from here on; by whoever has the turn."""
        self._stopped.set()

    def _say(self) -> None:
        hub = self._hub()
        if hub is not None and not self._stopped.is_set():
            hub.beat(Frame(int(Kind.ALIVE)))

    def _beat(self, every_s: float) -> None:
        while not self._stopped.wait(every_s):
            hub = self._hub()
            if hub is None:
                return
            if self.turn.acquire(blocking=False):
                try:
                    self._say()
                finally:
                    self.turn.release()
            else:
                hub.wake()
            del hub
