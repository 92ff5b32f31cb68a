"""A party that is a group of machines: links between its ranks, and what they make together.

Theory of operation. The machines of one rank, over all roles, are a lane: a session of its own, with its own session
id, links and keys, so that no mask of one rank is that of another. Only a collective joins lanes, and only inside each
party: its ranks add up, hand on or collect their shares of one value each (``drivers.ranks``). What another party, the
provider or the controller sees of it is that it happens. With the shares go the names of those whose data is in them,
so that every rank knows whose data is in what was made; ranks of one party trust each other, as they are one party.
And the digest of everything that the sender's lane was told so far goes along, and from there into the receiver's own:
if a controller told the parties of one lane different things, the parties of the other lanes find out at their next
exchange, before anything that was made of it is opened.

The ranks of a party find each other by a key that follows from what the controller's ranks agreed on and who the
controller is. They show each other the party's certificate; every rank links to those before it.

Costs per rank, for R ranks and 8 n bytes of shares; the floor of a sum is 2 (R - 1) / R 8 n bytes (Patarasuk and Yuan,
JPDC 2009):
    sum         small, or R = 2: everybody to everybody, (R - 1) 8 n bytes, one exchange: for R = 2 the floor itself.
                else parts of n / R elements, summed by one rank each and handed round: the floor, two exchanges
    broadcast   (R - 1) 8 n bytes from the root, one exchange
    stack       (R - 1) 8 n bytes, one exchange: the floor
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torchveil.drivers.ranks import Collective
from torchveil.errors import Desynchronised, LimitExceeded, MalformedMessage
from torchveil.kernels import sum_pieces
from torchveil.network import messages as m
from torchveil.network.links import Hub, Link, blamed
from torchveil.network.metrics import Metrics
from torchveil.network.names import Role
from torchveil.network.pieces import buffers_of, ring_of

Owners = frozenset[str]

#: Sums of more than so many bytes travel in parts, if there are more than two ranks.
_SMALL = 1 << 16
_WHOLE = -1


def group_key(group: bytes, controller: str) -> bytes:
    """The id (32 bytes) of frames between the ranks of a party; its first half is the ticket by which they meet."""
    return hashlib.sha256(b"torchveil ranks" + group + controller.encode()).digest()


def rank_name(role: Role, lane: int) -> str:
    """As errors, logs and metrics call one rank of a party."""
    return f"{role} rank {lane}"


class Group:
    """This rank's end of its party's group in one session. ``links``: to the other ranks."""

    __slots__ = ("_count", "_deadline_s", "_digest", "_hub", "_links", "_metrics", "heard", "lane", "size")

    def __init__(self, hub: Hub, lane: int, links: Mapping[int, Link], deadline_s: float, metrics: Metrics) -> None:
        self.lane = lane
        self.size = len(links) + 1
        self._hub = hub
        self._links = dict(sorted(links.items()))
        self._deadline_s = deadline_s
        self._metrics = metrics
        #: collectives so far, which all ranks count
        self._count = 0
        self._digest = b""
        #: the digests of the lanes that gave something to the last collective, in their order
        self.heard: list[bytes] = []

    def make(
        self, collective: Collective, share: Tensor | None, owners: Owners, digest: bytes
    ) -> tuple[Tensor, Owners]:
        """(this rank's share of what all ranks make, whose data is in it); ``heard`` is to go into this lane's digest.

        share: this rank's share of its own value, int64, None where it only gets one; owners: whose data is in that;
        digest: of all that this rank was told, 32 bytes. Raises ``Desynchronised`` when another rank is at another
        collective, ``MalformedMessage`` for one that makes no sense, and what a link raises.
        """
        if not 0 <= collective.root < self.size:
            raise MalformedMessage("a collective with a root that is no rank")
        if share is None and (collective.how != "broadcast" or collective.root == self.lane):
            raise MalformedMessage("a collective without the value of a rank that has to give one")
        self._count += 1
        self._digest, self.heard = digest, []
        mine = torch.empty(collective.shape, dtype=torch.int64) if share is None else share.contiguous()
        return _MAKERS[collective.how](self, collective, mine, owners)

    # --- what is made ------------------------------------------------------------------------------------------------

    def _sum(self, c: Collective, share: Tensor, owners: Owners) -> tuple[Tensor, Owners]:
        if self.size == 2 or 8 * share.numel() <= _SMALL:
            found = self._exchange(c, owners, dict.fromkeys(self._links, share), dict.fromkeys(self._links, share))
            parts = [share, *(part for part, _ in found.values())]
            return sum_pieces(parts, 64), owners.union(*(theirs for _, theirs in found.values()))
        flat = share.view(-1)
        parts = list(flat.tensor_split(self.size))
        mine = parts[self.lane]
        others = {lane: parts[lane] for lane in self._links}
        found = self._exchange(c, owners, others, dict.fromkeys(self._links, mine), 0)
        mine = sum_pieces([mine, *(part for part, _ in found.values())], 64)
        united = owners.union(*(theirs for _, theirs in found.values()))
        rest = self._exchange(c, united, dict.fromkeys(self._links, mine), others, 1)
        done = [mine if lane == self.lane else rest[lane][0] for lane in range(self.size)]
        return torch.cat(done).view(share.shape), united

    def _broadcast(self, c: Collective, share: Tensor, owners: Owners) -> tuple[Tensor, Owners]:
        if self.lane == c.root:
            self._exchange(c, owners, dict.fromkeys(self._links, share), {})
            return share.clone(), owners
        return self._exchange(c, owners, {}, {c.root: share})[c.root]

    def _stack(self, c: Collective, share: Tensor, owners: Owners) -> tuple[Tensor, Owners]:
        found = self._exchange(c, owners, dict.fromkeys(self._links, share), dict.fromkeys(self._links, share))
        parts = [share if lane == self.lane else found[lane][0] for lane in range(self.size)]
        return torch.stack(parts), owners.union(*(theirs for _, theirs in found.values()))

    # --- exchanges ---------------------------------------------------------------------------------------------------

    def _exchange(
        self,
        c: Collective,
        owners: Owners,
        to: Mapping[int, Tensor],
        forms: Mapping[int, Tensor],
        part: int = _WHOLE,
    ) -> dict[int, tuple[Tensor, Owners]]:
        """Send every rank of ``to`` its tensor, get from every rank of ``forms`` one of that shape, with its owners."""
        what = f"{c.how} of all ranks"
        if len(owners) > m.OWNERS:
            raise LimitExceeded(f"data of more than {m.OWNERS} owners in one value", remedy="combine less of it")
        said = m.Collected(c.how, c.shape, c.root, c.format, part, self._digest, tuple(sorted(owners)))
        for lane, tensor in to.items():
            link, body = self._links[lane], buffers_of(tensor)
            frame = m.message_of(m.Kind.COLLECTED, said, number=self._count, body=body)
            self._hub.post(link, frame, what)
            self._metrics.sent(str(link.peer), 8 * tensor.numel())
        found: dict[int, tuple[Tensor, Owners]] = {}
        for lane, tensor in forms.items():
            link = self._links[lane]
            frame = self._hub.receive(link, self._deadline_s, what)
            try:
                theirs = m.parse(frame, m.Collected)
            except MalformedMessage as error:
                raise blamed(error, link) from None
            if frame.number != self._count or _meaning(theirs) != _meaning(said):
                raise Desynchronised(
                    f"{link.peer} is at {theirs.how} of shape {theirs.shape} (collective {frame.number}), this rank at "
                    f"{c.how} of shape {c.shape} (collective {self._count})",
                    remedy="run the same program on every rank",
                    at_fault=str(link.peer),
                )
            try:
                piece = ring_of(frame.received, tensor.shape)
            except MalformedMessage as error:
                raise blamed(error, link) from None
            self._metrics.received(str(link.peer), len(frame.received))
            self.heard.append(theirs.stream)
            found[lane] = piece, frozenset(theirs.owners)
        if to:
            self._hub.flush(self._deadline_s, what)
        return found


def _meaning(said: m.Collected) -> tuple[object, ...]:
    """What all ranks have to say alike."""
    return said.how, said.shape, said.root, said.format, said.part


_MAKERS: dict[str, Callable[[Group, Collective, Tensor, Owners], tuple[Tensor, Owners]]] = {
    "sum": Group._sum,
    "broadcast": Group._broadcast,
    "stack": Group._stack,
}

__all__ = ["Group", "group_key", "rank_name"]
