"""Hosts of their own: every role and the controller in a network namespace, one bridge between them.

Here nothing is shared but the kernel: no loopback, no address of another host. A host whose link goes down takes no
more part, and nobody tells the others so, unlike a process that was killed: only deadlines help.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torchveil
from torchveil.errors import DeadlineExceeded, PeerLost, TorchveilError
from torchveil.network.connect import NetworkSession
from torchveil.testing.clusters import write_cluster

HOSTS = ("alice", "bob", "james", "scientist")
PORT = 7000
DEADLINE_S = 4.0
_CLONE_NEWNET = 0x40000000


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Network:
    """A namespace for each host and one for the bridge between them; all go when the block ends."""

    def __init__(self, prefix: str = "tv") -> None:
        self._prefix = f"{prefix}{os.getpid()}-"
        self._made: list[str] = []

    def space(self, host: str) -> str:
        return self._prefix + host

    def address(self, host: str) -> str:
        return f"10.77.0.{HOSTS.index(host) + 1}"

    def __enter__(self) -> Network:
        try:
            hub = self._add("hub")
            ip("-n", hub, "link", "add", "name", "bridge", "type", "bridge")
            ip("-n", hub, "link", "set", "bridge", "up")
            for host in HOSTS:
                space = self._add(host)
                ip("-n", hub, "link", "add", "name", host, "type", "veth", "peer", "name", "eth0", "netns", space)
                ip("-n", hub, "link", "set", host, "master", "bridge", "up")
                ip("-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
                ip("-n", space, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _add(self, host: str) -> str:
        ip("netns", "add", self.space(host))
        self._made.append(self.space(host))
        return self.space(host)

    def __exit__(self, *_: object) -> None:
        for space in reversed(self._made):
            with suppress(OSError, subprocess.TimeoutExpired):
                ip("netns", "delete", space)

    def cut(self, host: str) -> None:
        """The cable is pulled: at the bridge, so that the host itself sees nothing but silence."""
        ip("-n", self.space("hub"), "link", "set", host, "down")

    def mend(self, host: str) -> None:
        ip("-n", self.space("hub"), "link", "set", host, "up")

    def enter(self, host: str) -> None:
        """This thread, and the connections it makes, belong to that host from here on."""
        with open(f"/run/netns/{self.space(host)}") as space:
            if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Network())
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield made


@contextmanager
def running(network: Network, directory: Path) -> Iterator[None]:
    """The three daemons, each a process on its host."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for host, command in (("alice", "worker"), ("bob", "worker"), ("james", "provider")):
            words = [sys.executable, "-m", "torchveil.cli", command, "--config", str(directory / f"{host}.toml")]
            with open(directory / f"{host}.log", "wb") as log:
                processes[host] = subprocess.Popen(
                    ["ip", "netns", "exec", network.space(host), *words],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        ends = time.monotonic() + 180
        for host, process in processes.items():
            while b"daemon started" not in (directory / f"{host}.log").read_bytes():
                assert process.poll() is None and time.monotonic() < ends, (directory / f"{host}.log").read_text()
                time.sleep(0.05)
        yield
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def training(session: NetworkSession) -> Callable[[], float]:
    """A step of a small net, which gives its loss."""
    torch.manual_seed(0)
    model = session.encrypt(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    x = session.share(torch.linspace(-1, 1, 5 * 6).view(5, 6))
    y = session.share(F.one_hot(torch.arange(5) % 4, 4).float())

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.reveal())

    return step


def as_scientist(network: Network, file: Path) -> tuple[list[float], TorchveilError, float, float]:
    """On the controller's host: train, lose bob, train again once he is back; (losses, error, its seconds, a loss)."""
    network.enter("scientist")
    with pytest.raises(OSError):  # nobody else is on this host
        socket.create_connection(("127.0.0.1", PORT), 1.0)
    session = torchveil.connect(file)
    step = training(session)
    losses = [step() for _ in range(4)]
    network.cut("bob")
    start = time.monotonic()
    with pytest.raises(TorchveilError) as caught:
        step()
    took = time.monotonic() - start
    session.close()
    network.mend("bob")
    with torchveil.connect(file) as again:
        return losses, caught.value, took, training(again)()


def test_hosts_train_and_notice_a_cable_that_is_pulled(network: Network, tmp_path: Path) -> None:
    places = {host: f"{network.address(host)}:{PORT}" for host in HOSTS}
    write_cluster(tmp_path, listen=places, limits={"deadline_s": DEADLINE_S, "handshake_s": 10})
    with running(network, tmp_path), ThreadPoolExecutor(1) as pool:
        losses, error, took, again = pool.submit(as_scientist, network, tmp_path / "cluster.toml").result(300)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.05
    assert isinstance(error, (DeadlineExceeded, PeerLost)) and "party/bob" in str(error)
    assert took < 2 * DEADLINE_S  # 2 s more than the deadline on a machine that is not busy
    assert again == pytest.approx(losses[0], abs=2e-3)


def test_a_failure_leaves_no_namespaces(network: Network) -> None:
    def spaces() -> str:
        return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=20).stdout

    with pytest.raises(ZeroDivisionError), Network("other") as other:
        assert other.space("bob") in spaces()
        raise ZeroDivisionError
    assert network.space("bob") in spaces() and other.space("") not in spaces()
