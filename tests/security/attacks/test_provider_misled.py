"""A controller and a curious party: the provider is told of other instructions than the parties.

What the provider deals for one instruction is hidden by keystream of the honest party. If the honest party used the
same keystream for another instruction, whose result the controller may see, both together would take it off.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic, sleep

import pytest
import torch

from tests.security.attacks.lying import ENCODED, Liar, Views, ring, watched
from torchveil.network import messages as m
from torchveil.network.pieces import dealt
from torchveil.program import instructions as ins
from torchveil.testing.clusters import LocalCluster


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, Views]]:
    with watched(tmp_path_factory.mktemp("misled")) as found:
        yield found


def wait_for(seen: Views, receiver: str, kind: m.Kind, number: int) -> m.Frame:
    ends = monotonic() + 5
    while monotonic() < ends:
        for frame in reversed(seen.of(receiver, kind)):
            if frame.number == number:
                return frame
        sleep(0.01)
    raise AssertionError(f"{receiver} was sent nothing of {kind}")


def test_what_was_dealt_stays_hidden(world: tuple[LocalCluster, Views]) -> None:
    cluster, seen = world
    liar = Liar(cluster)
    try:
        x, w = liar.secret(), liar.own()
        liar.open(x, w)
        if liar.number % 2 == 0:  # alice would get the correction
            liar.session.submit(ins.Constant(900, (3,), 0))
            liar.driver.send()
        number = liar.number
        # the provider deals a function of the mask of the secret, to bob
        liar.tell("james", ins.Truncate(901, x, None, 1, (3,)))
        # alice computes on the controller's data under the same number, and gives the controller its own back
        liar.tell("alice", ins.Bilinear(901, w, w, "mul", {}, (3,)), ins.Reveal(901, "controller", (3,)))
        box = liar.hear("alice")
        assert box.kind == m.Kind.REVEALED
        # what the curious party has: its memory, its keys, and what it was sent
        bob, alice = seen.roles["bob"], seen.roles["alice"]
        context = m.seal_context(liar.driver.session_id, number + 1, "party/alice")
        revealed = ring(liar.driver._credentials.unseal(bytes(box.received), context))
        frame = wait_for(seen, "party/bob", m.Kind.DEALT, number)
        correction = dealt(m.parse(frame, m.Dealt), memoryview(frame.body))["dealt", 0]
        bob.ledger.number = number + 1
        share = revealed - bob._zero[0].ring(number + 1, 0, (3,), 64)  # alice added what bob takes off
        # the controller knows its own w and alice's share of it, and so alice's piece of the mask of w
        opened, own_mask = alice.wires[w].faces()
        pad = share - (opened * (opened - own_mask) - own_mask * opened)
        mask = correction + pad
        stolen = bob.wires[x].public() - mask
        assert not torch.equal(stolen, ENCODED)
    finally:
        liar.close()
