"""A session's releases at a party: whose data went into which wire, who may be given what, and giving it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torchveil.network import messages as m
from torchveil.network.certificates import Identity
from torchveil.network.driver import seal_context
from torchveil.network.framing import Frame
from torchveil.network.opening import Opened
from torchveil.program import instructions as ins

if TYPE_CHECKING:
    from torchveil.network.daemon import Daemon


class ReleasesOfSession:
    """Releases to the controller of the session."""

    def __init__(self, daemon: Daemon, opened: Opened, controller: Identity) -> None:
        self._daemon = daemon
        self._opened = opened
        self._controller = controller
        self._party = str(daemon.config.role)

    def input(self, wire: int) -> None:
        """The controller shared a value."""

    def follow(self, i: ins.Instruction) -> None:
        """An instruction was carried out."""

    def alias(self, new: int, old: int) -> None:
        """A wire has a second name."""

    def release(self, i: ins.Reveal, number: int) -> Callable[[memoryview], None]:
        """What sends this party's share to the receiver."""
        context = seal_context(self._opened.session_id, number, self._party)

        def send(share: memoryview) -> None:
            box = self._controller.seal(share, context)
            frame = Frame(int(m.Kind.REVEALED), number, body=[box])
            self._opened.hub.post(self._opened.need(self._opened.control), frame)

        return send
