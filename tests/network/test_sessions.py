"""Sessions between daemons of this process: the same results, the same bytes and the same errors as in lockstep."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn import functional as F

import torchveil
from tests.network.ends import Said
from torchveil import Session
from torchveil.drivers.lockstep import Lockstep, make_roles
from torchveil.errors import (
    ConfigurationError,
    LimitExceeded,
    PeerLost,
    PeerRejected,
    SessionAborted,
    SessionStateError,
    ShapeMismatch,
)
from torchveil.network import messages as m
from torchveil.network.config import ClusterConfig, Limits, Member, RoleConfig
from torchveil.network.connect import NetworkSession, connect, find_credentials
from torchveil.network.daemon import Daemon
from torchveil.network.driver import NetworkDriver
from torchveil.network.framing import Frame, views
from torchveil.network.links import Hub, Link
from torchveil.network.opening import Opened, open_as_controller
from torchveil.network.pieces import buffers_of
from torchveil.network.role_session import RoleSession
from torchveil.roles.party import Party
from torchveil.roles.provider import Provider
from torchveil.testing.clusters import LocalCluster, local_cluster
from torchveil.testing.training import step_of

LIMITS = {"deadline_s": 20, "handshake_s": 5}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster"), limits=LIMITS) as running:
        yield running


@pytest.fixture
def session(cluster: LocalCluster) -> Iterator[NetworkSession]:
    with connect(cluster.file) as opened:
        yield opened


def train(session: Session, *, compiled: bool = False, steps: int = 3) -> list[Tensor]:
    """A few steps of a small network, and what it says in the end."""
    torch.manual_seed(0)
    model = session.encrypt(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.5)
    x = session.share(torch.linspace(-1, 1, 5 * 6).view(5, 6))
    y = session.share(F.one_hot(torch.arange(5) % 4, 4).float())

    step = step_of(model, optimizer)
    run = torchveil.compile(step) if compiled else step
    losses = [run(x, y).reveal() for _ in range(steps)]
    return [*losses, model(x).argmax(1).reveal(), model(x).reveal()]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_training_is_that_of_lockstep(session: NetworkSession, compiled: bool) -> None:
    local = Session()
    for found, wanted in zip(train(session, compiled=compiled), train(local, compiled=compiled), strict=True):
        assert torch.allclose(found.double(), wanted.double(), atol=2e-3)
    assert session.cost().total == local.cost().total
    assert "mutual TLS" in session.describe()


FORKED = """
import os, sys, torch, torchveil
with torchveil.connect(sys.argv[1]) as session:
    x = session.share(torch.ones(2))
    assert (x * x).sum().reveal() == 2
    child = os.fork()
    if child == 0:
        sys.exit(7)  # leaves the block, so that the session is closed
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert (x * x).sum().reveal() == 2
"""


def test_a_forked_process_that_ends_says_nothing_in_a_session(cluster: LocalCluster) -> None:
    """It would encrypt other words with the keys and counters of the process that goes on."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(cluster.file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_compiled_function_may_be_dropped(session: NetworkSession) -> None:
    """What a plan calls its values inside are no names of the session's."""
    x: Any = session.share(torch.ones(1))
    for k in range(3):
        x = torchveil.compile(lambda x, k=k: x * 2 + k)(x)
    assert x.reveal().tolist() == [12.0]


@pytest.mark.parametrize("parties", [["a", "b", "c"], ["a", "b", "c", "d"]], ids=["three", "four"])
def test_more_parties(tmp_path: Path, parties: list[str]) -> None:
    with local_cluster(tmp_path, parties=parties, provider="p", limits=LIMITS) as cluster:
        with connect(cluster.file) as session:
            found = train(session)
        assert torch.allclose(found[-1], train(Session(parties, "p"))[-1], atol=2e-3)


def test_a_value_given_twice_to_a_plan(session: NetworkSession) -> None:
    """What the plan opens of the second is not open of the first: roles and this program have to agree on that."""
    x = session.share(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))

    @torchveil.compile
    def twice(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = a * 3 - b * b
        return y, y.clone(), y.t().t()

    for other in (x.clone(), x.clone(), x):
        for out in twice(x, other):
            assert (out * out).reveal().tolist() == [[4, 4], [0, 16]]
        assert (x * x).reveal().tolist() == [[1, 4], [9, 16]]


def test_a_compiled_function_that_is_gone_leaves_a_session_that_works(session: NetworkSession) -> None:
    """What a recording keeps of its results are kinds of values without wires: there is nothing to free for them."""
    x = session.share(torch.ones(3))
    double = torchveil.compile(lambda x: x * x + x)
    assert double(x).reveal().tolist() == [2.0] * 3
    del double
    gc.collect()
    assert x.reveal().tolist() == [1.0] * 3


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("parties", [["a", "b"], ["a", "b", "c"]], ids=["two", "three"])
def test_a_session_that_is_closed_with_work_under_way_fails_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parties: list[str], compiled: bool
) -> None:
    """The provider is ahead, reads the last word first and goes; the parties are in the middle of an instruction."""
    said = Said(monkeypatch)
    with local_cluster(tmp_path, parties=parties, provider="p", limits=LIMITS) as cluster:
        for _ in range(4):
            said.lines.clear()
            session = connect(cluster.file)
            x, w = session.share(torch.ones(3, 4)), session.share(torch.ones(4, 5))
            step: Any = (
                torchveil.compile(lambda x, w: torch.relu(x @ w)) if compiled else lambda x, w: torch.relu(x @ w)
            )
            (x @ w).reveal()
            for _ in range(200):
                step(x, w)
            session.close()
            said.await_ends(len(parties) + 1)
            assert sorted(said.lines) == sorted(("session closed", str(role)) for role in cluster.config.addresses)


def test_a_role_that_dies_is_no_end_of_a_session(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every role that loses it passes over instructions in search of the news that the session was closed."""
    said = Said(monkeypatch)
    dealt = Provider.begin

    def begin(provider: Provider, number: int) -> None:
        dealt(provider, number)
        if number == 40:
            raise PeerLost("the provider's machine is gone")

    monkeypatch.setattr(Provider, "begin", begin)
    session = connect(cluster.file)
    x = session.share(torch.ones(3))
    with pytest.raises(PeerLost, match="gone"):
        for _ in range(200):
            torch.relu(x)
        x.reveal()
    said.await_ends(3)
    assert {what for what, _ in said.lines} == {"session failed"}


@pytest.mark.parametrize("end", ["closed", "failed"])
def test_a_session_that_ended_holds_no_values(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """At no role, and at once: shares do not wait for a collector of cycles."""
    tables: list[weakref.ref[Any]] = []
    run = RoleSession.run

    def running(role: RoleSession) -> None:
        tables.extend(weakref.ref(wires) for wires in (role, role.hub))
        values.append(role._tables.wires)
        run(role)

    values: list[dict[int, Any]] = []
    monkeypatch.setattr(RoleSession, "run", running)
    gc.collect()
    gc.disable()
    try:
        session = connect(cluster.file)
        x = session.share(torch.ones(3))
        assert (x * x).reveal().tolist() == [1.0] * 3
        assert len(values) == 3 and all(values)
        if end == "closed":
            session.close()
        else:
            session._remote.hub.close()
        ends = time.monotonic() + 60
        while any(values) or (end == "closed" and any(table() is not None for table in tables)):
            assert time.monotonic() < ends, "something of a session stays"
            time.sleep(0.01)
    finally:
        gc.enable()


# --- byte for byte ---------------------------------------------------------------------------------------------------


class Recorder:
    """What crosses: for each receiver, the bodies of exchanges and of what is dealt, in order."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str], list[bytes]] = {}
        self.lock = threading.Lock()

    def add(self, sender: str, receiver: str, kind: str, bodies: Sequence[Any]) -> None:
        with self.lock:
            self.sent.setdefault((kind, receiver), []).append(b"".join(bytes(body) for body in bodies))


def record_lockstep(recorder: Recorder, driver: Lockstep, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [party.name for party in driver.parties]

    swap = Lockstep.swap

    def swapping(driver: Lockstep, flights: Any) -> Any:
        sent: dict[str, list[Any]] = {name: [] for name in names}
        kinds = set()
        for flight in flights:
            for name, exchange in zip(names, flight.messages, strict=True):
                sent[name] += [view for piece in exchange.pieces for view in buffers_of(piece)]
                kinds.add(exchange.kind)
        for name in names:
            for other in names:
                if other != name and kinds != {"reveal"}:
                    recorder.add(name, other, "exchange", sent[name])
        return swap(driver, flights)

    monkeypatch.setattr(Lockstep, "swap", swapping)
    collect = Provider.collect

    def collecting(provider: Provider) -> Any:
        found = collect(provider)
        if found:
            bodies = [view for piece in found.values() for view in buffers_of(piece)]
            recorder.add("", names[provider.ledger.number % len(names)], "dealt", bodies)
        return found

    monkeypatch.setattr(Provider, "collect", collecting)


def record_network(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    post, kinds = Hub.post, {int(m.Kind.EXCHANGE): "exchange", int(m.Kind.DEALT): "dealt"}

    def posting(hub: Hub, link: Link, frame: Frame, what: str = "") -> None:
        if frame.kind in kinds:
            bodies = views(frame.body)
            if frame.kind == m.Kind.DEALT:  # without the bytes between pieces
                sizes = [int(torch.tensor(p.shape).prod()) for p in m.parse(frame, m.Dealt).pieces]
                whole, at, bodies = b"".join(map(bytes, bodies)), 0, []
                for piece, size in zip(m.parse(frame, m.Dealt).pieces, sizes, strict=True):
                    n_bytes = size * {"ring": 8, "bits": 1, "words": 2}[piece.dtype]
                    bodies.append(memoryview(whole[at : at + n_bytes]))
                    at += n_bytes + -n_bytes % 8
            recorder.add("", str(link.peer).partition("/")[2], kinds[frame.kind], bodies)
        post(hub, link, frame, what)

    monkeypatch.setattr(Hub, "post", posting)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("parties", [("alice", "bob"), ("alice", "bob", "carol")], ids=["two", "three"])
def test_the_transcripts_of_both_drivers_are_byte_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parties: tuple[str, ...], compiled: bool
) -> None:
    """Under the same streams: what lockstep adds up inside is what crosses between machines."""
    roles, provider, inputs, _ = make_roles(parties, "james")

    def make(config: RoleConfig, _opened: Opened) -> Party | Provider:
        if config.role.kind == "provider":
            return Provider("james", provider._streams)
        party = roles[parties.index(config.role.name)]
        return Party(party.name, party.rank, party.n_parties, party._streams, party._zero)

    local = Session(parties, "james")
    wanted, found = Recorder(), Recorder()
    with monkeypatch.context() as patch:
        driver = Lockstep(
            [Party(p.name, p.rank, p.n_parties, p._streams, p._zero) for p in roles],
            Provider("james", provider._streams),
            inputs,
        )
        record_lockstep(wanted, driver, patch)
        local._driver = driver
        results = train(local, compiled=compiled)
    with local_cluster(tmp_path, make=make, parties=parties, limits=LIMITS) as cluster, monkeypatch.context() as patch:
        record_network(found, patch)
        credentials = find_credentials(cluster.config, None, None, "controller")

        class Known(NetworkSession):
            def _make_driver(self, backend: str, debug: bool) -> NetworkDriver:
                opened = open_as_controller(cluster.config, credentials, cluster.config.limits)
                self._remote = NetworkDriver(
                    opened, credentials, cluster.config.limits, operation=lambda: self.operation, inputs=inputs
                )
                return self._remote

        with Known(cluster.config, credentials) as session:
            for one, other in zip(train(session, compiled=compiled), results, strict=True):
                assert torch.equal(one, other)
    assert wanted.sent.keys() == found.sent.keys()
    for where, bodies in wanted.sent.items():
        # from several parties to one: in any order within a round
        assert sorted(found.sent[where]) == sorted(bodies), where
        if len(parties) == 2:
            assert found.sent[where] == bodies, where
    assert sum(map(len, (body for bodies in wanted.sent.values() for body in bodies))) > 10_000


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_the_controller_and_the_provider_get_no_shares(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame that reaches them, by kind; what is revealed is sealed, and sealed to the controller."""
    seen: dict[str, set[int]] = {}
    boxes: list[bytes] = []
    post = Hub.post

    def posting(hub: Hub, link: Link, frame: Frame, what: str = "") -> None:
        seen.setdefault(str(link.peer), set()).add(frame.kind)
        if frame.kind == m.Kind.REVEALED:
            boxes.append(b"".join(map(bytes, views(frame.body))))
        post(hub, link, frame, what)

    monkeypatch.setattr(Hub, "post", posting)
    with connect(cluster.file) as session:
        train(session)
        x = session.share(torch.full((64,), 1.5))
        del boxes[:]
        assert (x + 0).reveal().tolist() == [1.5] * 64
    kinds = m.Kind
    assert seen["controller/scientist"] <= {kinds.WELCOME, kinds.READY, kinds.REVEALED, kinds.PROGRESS}
    assert seen["provider/james"] <= {kinds.HELLO, kinds.BEGIN, kinds.STREAM, kinds.CLOSE}
    assert seen["party/alice"] >= {kinds.EXCHANGE, kinds.DEALT, kinds.STREAM}
    encoded = torch.full((64,), 1.5).mul(2**16).long().numpy().tobytes()
    assert len(boxes) == 2 and all(len(box) > 64 * 8 and encoded not in box for box in boxes)


def test_the_provider_is_sent_no_public_tensor(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    public = torch.tensor([[0.40625, -7.125], [3.0625, 11.75]])
    sent: dict[str, bytes] = {}
    post = Hub.post

    def posting(hub: Hub, link: Link, frame: Frame, what: str = "") -> None:
        if frame.kind == m.Kind.STREAM:
            data = frame.meta + b"".join(map(bytes, views(frame.body)))
            sent[str(link.peer)] = sent.get(str(link.peer), b"") + data
        post(hub, link, frame, what)

    monkeypatch.setattr(Hub, "post", posting)
    with connect(cluster.file) as session:
        x = session.share(torch.ones(2, 2))
        y = x @ torchveil.public(public) + torchveil.public(public)
        assert torch.allclose(y.reveal(), torch.ones(2, 2) @ public + public, atol=1e-3)
    numbers = [int(v) for v in (public * 2**16).long().view(-1)]
    for number in numbers:
        needle = number.to_bytes(8, "little", signed=True)
        assert needle in sent["party/alice"] and needle not in sent["provider/james"]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_what_a_program_does_wrong_is_told_at_once_and_ends_nothing(session: NetworkSession) -> None:
    x = session.share(torch.ones(2, 3))
    with pytest.raises((ShapeMismatch, RuntimeError)):
        x @ session.share(torch.ones(2, 3))
    assert (x * 2).reveal().tolist() == [[2.0] * 3] * 2


def test_an_error_at_a_role_names_role_operation_and_line(cluster: LocalCluster) -> None:
    session = connect(cluster.file)
    x = session.share(torch.ones(2, 3))
    broken = threading.Event()
    rank = cluster.daemons["bob"]
    *_, running = [s for s in rank._sessions.values() if s.controller == "controller/scientist"]
    x.reveal()
    assert running.waiting.hub is not None
    y = x * x  # the line to be named
    running.waiting.hub.cancel(LimitExceeded("a limit of the test"))
    with pytest.raises(LimitExceeded) as caught:
        for _ in range(100):
            y = y * x
        y.reveal()
    assert "party/bob" in str(caught.value) and "a limit of the test" in str(caught.value)
    assert "test_sessions.py" in str(caught.value)
    with pytest.raises(SessionStateError):
        x.reveal()
    session.close()
    broken.set()
    with connect(cluster.file) as another:  # the daemons serve the next session
        assert another.share(torch.ones(1)).reveal().tolist() == [1.0]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_value_of_too_many_elements_is_named_with_its_limit(tmp_path: Path, compiled: bool) -> None:
    """And so are the instruction that is being read, not the one before, and who asked for it."""
    with local_cluster(tmp_path, limits=LIMITS, role_limits={"elements": 1000}) as cluster:
        session = connect(cluster.file)
        x = session.share(torch.ones(2))
        x.reveal()
        wide = torchveil.compile(lambda x: x.expand(600, 2) * 1.5)  # too many
        with pytest.raises(LimitExceeded, match="more than the 1000 elements") as caught:
            y = wide(x) if compiled else session.share(torch.ones(40, 30))  # too many
            y.reveal()
        error = caught.value
        assert "limits.elements" in error.remedy and "(instruction 2)" in error.message
        assert "# too many" in error.line and error.op != "reveal"
        assert error.at_fault == "controller/scientist"


def test_the_first_instruction_of_a_session_has_its_line_too(tmp_path: Path) -> None:
    """Its number is 0, which stood for no instruction."""
    with local_cluster(tmp_path, limits=LIMITS, role_limits={"elements": 1000}) as cluster:
        session = connect(cluster.file)
        with pytest.raises(LimitExceeded, match=r"instruction 0\)") as caught:
            session.share(torch.ones(40, 30)).reveal()  # too many
        assert "# too many" in caught.value.line and caught.value.op == "share"


def test_a_role_that_ends_at_rest_names_no_instruction_that_is_done(tmp_path: Path) -> None:
    with local_cluster(tmp_path, limits=LIMITS) as cluster:
        session = connect(cluster.file)
        x = session.share(torch.ones(2))
        x.reveal()
        cluster.daemons["bob"].stop()
        with pytest.raises(SessionAborted, match=r"party/bob \(instruction 2\)") as caught:
            (x * x).reveal()
        assert "x * x" in caught.value.line


def test_what_waits_at_the_provider_is_told_of_all_sessions(cluster: LocalCluster) -> None:
    metrics = cluster.daemons["james"].metrics

    def waits() -> int:
        lines = metrics.text().decode().splitlines()
        (line,) = [line for line in lines if line.startswith('torchveil_queued_bytes{peer="party/bob"')]
        return int(float(line.split()[-1]))

    with connect(cluster.file) as one:
        one.share(torch.ones(1)).reveal()
        with connect(cluster.file) as other:
            other.share(torch.ones(1)).reveal()
            links = [link for links in metrics._watched.values() for link in links if str(link.peer) == "party/bob"]
            for link in links:
                assert isinstance(link, Link)
                link.queued += 100  # as if bob took nothing
            assert len(links) == 2 and waits() == 200
            for link in links:
                link.queued -= 100
        soon = time.monotonic() + 30
        while len(metrics._watched) > 1 and time.monotonic() < soon:
            time.sleep(0.01)
        assert len(metrics._watched) == 1 and waits() == 0
        assert one.share(torch.ones(1)).reveal().tolist() == [1.0]


def test_no_debug_mode_and_no_missing_certificate(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="certificate"):
        find_credentials(cluster.config, None, None, "owner")


def test_nobody_listens(tmp_path: Path) -> None:
    with local_cluster(tmp_path, limits=LIMITS) as cluster:
        file = cluster.file
    with pytest.raises(PeerLost, match="no connection"):
        connect(file)


def test_sessions_at_a_time_are_limited(tmp_path: Path) -> None:
    with local_cluster(tmp_path, limits=LIMITS, role_limits={"sessions": 1}) as cluster:
        with connect(cluster.file), pytest.raises(LimitExceeded, match="sessions"):
            connect(cluster.file)
        with connect(cluster.file) as session:
            assert session.share(torch.ones(1)).reveal().tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "agree"),
    [
        ({}, True),
        ({"limits": replace(Limits(), idle_s=7.0, sessions=3, elements=9, body=9, handshake_s=1.0)}, True),
        ({"limits": replace(Limits(), deadline_s=7.0)}, False),
        ({"name": "other"}, False),
        ({"parties": (Member("bob", "b:1"), Member("alice", "a:1"))}, False),
        ({"provider": Member("james", "elsewhere:7")}, True),
        ({"provider": Member("jim", "j:1")}, False),
    ],
)
def test_what_all_roles_have_to_agree_on(tmp_path: Path, change: dict[str, Any], agree: bool) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(b"a certificate")
    one = ClusterConfig("study", authority, (Member("alice", "a:1"), Member("bob", "b:1")), Member("james", "j:1"))
    assert (replace(one, **change).digest() == one.digest()) is agree


def test_another_cluster_file_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    text = cluster.file.read_text().replace("deadline_s = 20", "deadline_s = 21")
    other = tmp_path / "cluster.toml"
    other.write_text(text.replace('authority = "ca.pem"', f'authority = "{cluster.directory / "ca.pem"}"'))
    with pytest.raises(PeerRejected, match="cluster file"):
        connect(other)


def test_a_daemon_that_stops_tells_its_sessions(tmp_path: Path) -> None:
    with local_cluster(tmp_path, limits=LIMITS) as cluster:
        session = connect(cluster.file)
        x = session.share(torch.ones(3))
        assert x.reveal().tolist() == [1.0] * 3
        stopper: Callable[[], None] = cluster.daemons["bob"].stop
        stopper()
        with pytest.raises(SessionAborted, match="bob"):
            for _ in range(50):
                x = x * x
            x.reveal()
        session.close()


def test_a_role_with_another_ones_certificate_does_not_start(cluster: LocalCluster, tmp_path: Path) -> None:
    from torchveil.network.config import read_role

    text = (cluster.directory / "alice.toml").read_text().replace("party-alice", "party-bob")
    (cluster.directory / "wrong.toml").write_text(text)
    with pytest.raises(PeerRejected, match="party/bob"):
        Daemon(read_role(cluster.directory / "wrong.toml"))
