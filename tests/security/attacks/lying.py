"""A controller that does as it likes: it opens a session as every controller does, and then tells each role what it
wants. And the eyes of the others: what every role was sent, what every role holds."""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchveil.errors import TorchveilError
from torchveil.network import messages as m
from torchveil.network.config import RoleConfig
from torchveil.network.connect import NetworkSession, connect, find_credentials
from torchveil.network.daemon import make_role
from torchveil.network.framing import Frame, views
from torchveil.network.links import Hub, Link
from torchveil.network.opening import Opened
from torchveil.network.owner import share
from torchveil.network.pieces import padded
from torchveil.program import instructions as ins
from torchveil.program.encoding import encode
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider
from torchveil.testing.clusters import LocalCluster, local_cluster

LIMITS = {"deadline_s": 5, "handshake_s": 3}
ROLE_LIMITS = {"sessions": 50}

#: What an owner shared, which nobody else is to learn.
SECRET = torch.tensor([1234.5678, -987.65432, 31415.926])
ENCODED = (SECRET.double() * 2**16).round().long()
NAME = "hospital-a/x"


class Views:
    """Roles of the sessions that were opened last, by name, and all frames by (kind, to whom)."""

    def __init__(self) -> None:
        self.roles: dict[str, Any] = {}
        self.frames: list[tuple[str, Frame]] = []
        self._lock = threading.Lock()

    def make(self, config: RoleConfig, opened: Opened) -> Party | Provider:
        role = make_role(config, opened)
        self.roles[config.role.name] = role
        return role

    def note(self, receiver: str, frame: Frame) -> None:
        # bodies are sent from memory that is used again
        kept = Frame(frame.kind, frame.number, frame.digest, frame.meta, b"".join(map(bytes, views(frame.body))))
        with self._lock:
            self.frames.append((receiver, kept))

    def of(self, receiver: str, kind: m.Kind) -> list[Frame]:
        """What ``receiver`` was sent of this kind."""
        with self._lock:
            return [frame for to, frame in self.frames if to == receiver and frame.kind == kind]


@contextmanager
def watched(directory: Path, **options: Any) -> Iterator[tuple[LocalCluster, Views]]:
    """A cluster of this process whose roles can be looked into, with the data of an owner."""
    seen = Views()
    post = Hub.post

    def posting(hub: Hub, link: Link, frame: Frame, what: str = "") -> None:
        seen.note(str(link.peer), frame)
        post(hub, link, frame, what)

    options = {"owners": ["hospital-a"], "limits": LIMITS, "role_limits": ROLE_LIMITS, **options}
    Hub.post = posting  # type: ignore[method-assign]
    try:
        with local_cluster(directory, make=seen.make, **options) as cluster:
            owner = find_credentials(cluster.config, None, None, "owner") if len(options["owners"]) == 1 else None
            if owner is not None:
                share(cluster.config, owner, NAME, SECRET)
            yield cluster, seen
    finally:
        Hub.post = post  # type: ignore[method-assign]


class Liar:
    """A session whose items are sent to whom one likes. Its own program is ``session``, for what is to be honest."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.session: NetworkSession = connect(cluster.file)
        self.driver = self.session._remote
        self.error: TorchveilError | None = None

    @property
    def number(self) -> int:
        """Of the next instruction, if all are told the same."""
        return self.driver.number

    def secret(self) -> int:
        """The owner's data as a wire."""
        self.held = self.session.dataset(NAME)
        return self.held.handle.id

    def own(self, numbers: Sequence[float] = (1.0, -1.0, 2.0)) -> int:
        """Data of the controller as a wire."""
        self.mine = self.session.share(torch.tensor(numbers))
        return self.mine.handle.id

    def open(self, *wires: int, shape: tuple[int, ...] = (3,)) -> None:
        for x in wires:
            self.session.submit(ins.Open((x,), (shape,)))
        self.driver.send()

    def tell(self, role: str, *items: ins.Instruction | m.Message, first: int | None = None) -> None:
        """Send items to one role alone, as those from number ``first`` on. An error is kept for ``hear``: another role
        may have ended the session already."""
        if self.error is not None:
            return
        try:
            self._tell(role, items, first)
        except TorchveilError as error:
            self.error = self.error or error

    def _tell(self, role: str, items: Sequence[ins.Instruction | m.Message], first: int | None) -> None:
        self.driver.send()
        told, buffers = [], []
        for item in items:
            if isinstance(item, ins.Instruction):
                structure, more = encode(item)
                buffers += more
                item = m.Do(structure, tuple(map(len, more)))
            told.append(item)
        self.post(role, m.Stream(tuple(told)), self.number if first is None else first, padded(buffers))

    def post(self, role: str, stream: m.Message, number: int, body: Any = ()) -> None:
        hub = self.driver.hub
        link = next(link for link in hub.links if link.peer.name == role)  # type: ignore[attr-defined]
        hub.post(link, m.message_of(m.Kind.STREAM, stream, number=number, body=list(body)))
        hub.flush(5.0, "what is told")

    def hear(self, role: str, timeout_s: float = 5.0) -> Frame:
        """The next answer of a role. Raises what a role said."""
        if self.error is not None:
            raise self.error
        hub = self.driver.hub
        link = next(link for link in hub.links if link.peer.name == role)  # type: ignore[attr-defined]
        while True:
            frame = hub.receive(link, timeout_s, "an answer")
            if frame.kind != m.Kind.PROGRESS:
                return frame

    def close(self) -> None:
        """Hang up: the roles may be anywhere."""
        self.driver.hub.close()


def needles(values: Tensor, scale: int = 1 << 16) -> dict[str, bytes]:
    """What values look like wherever they lie open: as numbers of a ring, floats, text. Pairs where one is short."""
    doubles = values.double().reshape(-1)
    found = {
        f"ring {v}": int(n).to_bytes(8, "little", signed=True)
        for v, n in zip(doubles.tolist(), (doubles * scale).round().long().tolist(), strict=True)
    }
    found |= {f"float64 {v}": struct.pack("<d", v) for v in doubles.tolist()}
    found |= {f"float32 {a}, {b}": struct.pack("<2f", a, b) for a, b in pairwise(doubles.tolist())}
    found |= {f"text {v:.2f}": f"{v:.6f}"[: len(f"{abs(v):.2f}")].encode() for v in doubles.tolist()}
    return found


def found_in(data: bytes, wanted: dict[str, bytes]) -> list[str]:
    """The names of the needles that ``data`` holds; text only where a number begins, not among the digits of a time."""
    found = []
    for name, needle in wanted.items():
        pattern = re.escape(needle)
        if re.search(rb"(?<![0-9.])" + pattern if name.startswith("text ") else pattern, data):
            found.append(name)
    return found


def ring(data: bytes) -> Tensor:
    """Bytes as ring elements."""
    return torch.frombuffer(bytearray(data), dtype=torch.int64)
