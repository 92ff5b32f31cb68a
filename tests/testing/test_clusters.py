"""Ports that are chosen now and listened on later."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from torchveil.testing.clusters import free_ports


def test_ports_that_were_chosen_are_given_to_nobody_else() -> None:
    """A relay or a connection of another test took a role's port before the role listened."""
    chosen = set(free_ports(64))
    assert len(chosen) == 64
    given = set()
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(500):
            any_port = stack.enter_context(socket.socket())
            any_port.bind(("127.0.0.1", 0))
            client = stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
            given |= {any_port.getsockname()[1], client.getsockname()[1]}
    assert len(given) >= 500
    assert not given & chosen


def test_who_was_told_a_port_listens_there_again_and_again() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5.0)
    for _ in range(2):
        with (
            socket.create_server(("127.0.0.1", port)) as server,
            socket.create_connection(("127.0.0.1", port), 5.0),
        ):
            server.accept()[0].close()
