"""Roles that are groups of machines: sessions in lanes, and what the ranks of a party make together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from tests.network.ends import Said
from torchveil.errors import (
    ConfigurationError,
    ConsentRequired,
    DeadlineExceeded,
    Desynchronised,
    InvalidArgument,
    LimitExceeded,
    PeerRejected,
    SessionStateError,
    TorchveilError,
)
from torchveil.network import connect as connecting
from torchveil.network import messages as m
from torchveil.network.certificates import Credentials
from torchveil.network.config import read_cluster, read_role
from torchveil.network.connect import NetworkSession, find_credentials
from torchveil.network.daemon import Daemon
from torchveil.network.opening import GROUP, dial, hello_of
from torchveil.network.owner_calls import share_data
from torchveil.network.party import PartySession
from torchveil.network.provider import ProviderSession
from torchveil.tensor import EncryptedTensor, wrap
from torchveil.testing.clusters import LocalCluster, Processes, local_cluster, write_cluster

LIMITS = {"deadline_s": 10, "handshake_s": 5}
PROGRAM = Path(__file__).parent / "ranks_program.py"
Work = Callable[[NetworkSession, int], Any]


@contextmanager
def lanes(cluster: LocalCluster, group: bytes | None = None) -> Iterator[Callable[[Work], list[Any]]]:
    """A session in every lane; what is given runs with each of them at once, its results (or errors) come in order."""
    agreed = os.urandom(16) if group is None else group
    credentials = find_credentials(cluster.config, None, None, "controller")
    with ThreadPoolExecutor(cluster.config.lanes) as pool, ExitStack() as stack:

        def open_lane(lane: int) -> NetworkSession:
            return NetworkSession(cluster.config.at(lane), credentials, group=agreed)

        sessions = list(pool.map(open_lane, range(cluster.config.lanes)))
        for session in sessions:
            stack.callback(session.close)

        def everywhere(work: Work) -> list[Any]:
            def one(lane: int) -> Any:
                try:
                    return work(sessions[lane], lane)
                except TorchveilError as error:
                    return error

            return list(pool.map(one, range(len(sessions))))

        yield everywhere


def made(x: Tensor, how: str, root: int = 0) -> EncryptedTensor:
    assert isinstance(x, EncryptedTensor)
    return wrap(x.session.collect(x.handle, how, root))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    options: dict[str, Any] = {"owners": ["hospital-a"], "role_limits": {"sessions": 20}}
    with local_cluster(tmp_path_factory.mktemp("two"), ranks=2, limits=LIMITS, **options) as running:
        yield running


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("three"), ranks=3, limits=LIMITS) as running:
        yield running


@pytest.mark.parametrize("n", [1, 5, 12_289], ids=["one", "few", "in parts"])
@pytest.mark.parametrize("how", ["sum", "broadcast", "stack"])
@pytest.mark.parametrize("ranks", ["two", "three"])
def test_what_ranks_make(request: pytest.FixtureRequest, ranks: str, how: str, n: int) -> None:
    cluster: LocalCluster = request.getfixturevalue(ranks)
    count = cluster.config.lanes
    clear = torch.arange(count * n, dtype=torch.float64).view(count, n) / 4 - 3
    wanted = {"sum": clear.sum(0), "broadcast": clear[1], "stack": clear}[how]

    def work(session: NetworkSession, lane: int) -> Tensor:
        return made(session.share(clear[lane]), how, 1).reveal(dtype=torch.float64)

    with lanes(cluster) as everywhere:
        for found in everywhere(work):
            assert found.equal(wanted)


def sent_to_ranks(daemon: Daemon) -> int:
    return sum(counts.sent for name, counts in daemon.metrics._peers.items() if " rank " in name)


@pytest.mark.parametrize(
    ("ranks", "how", "n", "pieces"),
    [
        # bytes that all ranks of a party send, in shares of n elements: the formulas of ``network.group``
        ("two", "sum", 9000, 2),
        ("three", "sum", 100, 6),
        ("three", "sum", 9000, 4),
        ("three", "broadcast", 9000, 2),
        ("three", "stack", 9000, 6),
    ],
)
def test_bytes_between_ranks(request: pytest.FixtureRequest, ranks: str, how: str, n: int, pieces: int) -> None:
    cluster: LocalCluster = request.getfixturevalue(ranks)
    bob = [daemon for name, daemon in cluster.daemons.items() if name.startswith("bob")]
    before = sum(map(sent_to_ranks, bob))

    def work(session: NetworkSession, _lane: int) -> tuple[int, int]:
        x = session.share(torch.zeros(n))
        start = session.cost().total
        made(x, how)
        done = session.cost().total
        session.share(torch.zeros(1)).reveal()
        return done.rounds - start.rounds, done.sent - start.sent

    with lanes(cluster) as everywhere:
        assert everywhere(work) == [(0, 0)] * cluster.config.lanes
    assert sum(map(sent_to_ranks, bob)) - before == pieces * 8 * n


def test_lanes_have_keys_and_shares_of_their_own(two: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    parties: list[PartySession] = []
    started = PartySession.run
    monkeypatch.setattr(PartySession, "run", lambda self: (parties.append(self), started(self))[1])
    shares: dict[str, list[Tensor]] = {"input": [], "sum": []}

    def work(session: NetworkSession, _lane: int) -> None:
        x = session.share(torch.arange(8.0))
        y = made(x, "sum")
        session.share(torch.zeros(1)).reveal()
        (alice,) = [
            each for each in parties if each.role == "party/alice" and each.session_id == session._remote.session_id
        ]
        for name, value in (("input", x), ("sum", y)):
            shares[name].append(alice.party.wires[value.handle.id].value())  # type: ignore[union-attr]

    with lanes(two) as everywhere:
        assert everywhere(work) == [None, None]
    assert len({each.session_id for each in parties}) == 2
    first, second = shares["input"]
    assert not (first == second).any(), "the same value is under other masks in another lane"
    assert shares["sum"][0].equal(shares["sum"][1]), "what ranks made they all hold"


# --- whose data ------------------------------------------------------------------------------------------------------


def test_data_of_an_owner_reaches_all_ranks_and_stays_its_own(two: LocalCluster) -> None:
    x = torch.tensor([[17.0, -4.0], [42.0, 0.5]])
    share_data(two.config, "hospital-a/x", x)

    def work(session: NetworkSession, lane: int) -> Any:
        rows = session.dataset("hospital-a/x")[lane::2]
        mine = session.share(torch.full((1, 2), 10.0))
        outcomes: list[Any] = []
        # made of the owner's data by another rank: this party's other rank says so
        for value in (made(rows if lane else mine, "sum"), made(mine, "sum"), rows):
            try:
                outcomes.append(value.reveal().tolist())
            except ConsentRequired as error:
                outcomes.append(error)
        return outcomes

    with lanes(two) as everywhere:
        first, second = everywhere(work)
    for outcomes in (first, second):
        assert outcomes[1] == [[20.0, 20.0]]
        assert isinstance(outcomes[0], ConsentRequired)
        assert isinstance(outcomes[2], ConsentRequired)
    assert "torchveil approve" in first[0].remedy
    assert "on rank 0" in second[0].remedy


def test_a_data_set_that_was_let_go_of_is_gone(two: LocalCluster) -> None:
    share_data(two.config, "hospital-a/y", torch.zeros(3))

    def work(session: NetworkSession, _lane: int) -> int:
        for _ in range(5):
            session.dataset("hospital-a/y")
        return session.n_wires

    with lanes(two) as everywhere:
        assert everywhere(work) == [0, 0]


def test_a_session_alone_with_another_rank_finds_no_data(two: LocalCluster) -> None:
    credentials = find_credentials(two.config, None, None, "controller")
    with NetworkSession(two.config.at(1), credentials) as session:
        with pytest.raises(InvalidArgument, match="data of owners is at rank 0"):
            session.dataset("hospital-a/x")
        assert session.share(torch.ones(1)).reveal().tolist() == [1.0]


def test_the_provider_is_not_told_which_data_set_is_handed_on(
    two: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[m.Collect] = []
    combine = ProviderSession._combine
    monkeypatch.setattr(
        ProviderSession, "_combine", lambda self, item, number: (told.append(item), combine(self, item, number))[1]
    )
    share_data(two.config, "hospital-a/z", torch.zeros(3))

    def work(session: NetworkSession, _lane: int) -> None:
        session.dataset("hospital-a/z")
        session._remote.finish()
        session.share(torch.ones(1)).reveal()

    with lanes(two) as everywhere:
        assert everywhere(work) == [None, None]
        assert [item.format for item in told] == ["", ""]


def test_results_for_owners_are_kept_by_rank_0(two: LocalCluster) -> None:
    def work(session: NetworkSession, _lane: int) -> None:
        session.deliver(session.share(torch.ones(1)), to="owner/hospital-a", name="r")

    with lanes(two) as everywhere:
        first, second = everywhere(work)
    assert first is None
    assert isinstance(second, InvalidArgument)
    assert "rank 0" in second.remedy


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_controller_that_tells_parties_of_another_lane_different_things(two: LocalCluster) -> None:
    """Bob's rank 1 is made to give another value than alice's: rank 0 finds out before what was made is opened."""

    def work(session: NetworkSession, lane: int) -> Any:
        x, y = session.share(torch.ones(2)), session.share(torch.full((2,), 5.0))
        if lane:
            driver = session._remote
            send, bob = driver._item, driver._batches[1]

            def item(message: Any) -> None:
                send(message)
                if isinstance(message, m.Collect):
                    bob.items[-1] = msgspec.structs.replace(message, x=y.handle.id)  # type: ignore[union-attr]

            driver._item = item  # type: ignore[method-assign]
            made(x, "sum")
            return None
        total = made(x, "sum")
        return (total * total).reveal()

    with lanes(two) as everywhere:
        error, _ = everywhere(work)
    assert isinstance(error, Desynchronised)
    assert "another stream" in error.message


def test_another_role_is_no_rank(two: LocalCluster) -> None:
    bob = Credentials.load(two.directory / "party-bob.pem", two.directory / "party-bob.key", two.config.authority)
    (alice,) = [role for role in two.config.addresses if role.name == "alice"]
    said = hello_of(two.config.at(1), GROUP, bytes(16))
    with pytest.raises(PeerRejected, match="party/bob is no rank of party/alice"):
        dial(two.config.addresses[alice], alice, bob, two.config, said, two.config.limits)


def test_ranks_that_mean_different_things(two: LocalCluster) -> None:
    def work(session: NetworkSession, lane: int) -> Tensor:
        return made(session.share(torch.ones(2 + lane)), "sum").reveal()

    with lanes(two) as everywhere:
        errors = everywhere(work)
    assert all(isinstance(error, Desynchronised) for error in errors)
    assert "rank" in errors[0].message
    assert "same program" in errors[0].remedy


def test_a_rank_that_ends_ends_the_others(two: LocalCluster) -> None:
    def work(session: NetworkSession, lane: int) -> Any:
        x = session.share(torch.ones(2))
        if lane:
            x.reveal()
            session.close()
            return None
        return made(x, "sum").reveal()

    with lanes(two) as everywhere:
        error, _ = everywhere(work)
    assert isinstance(error, TorchveilError)
    assert "rank 1" in error.message
    with lanes(two) as everywhere:  # the daemons serve the next session
        assert [x.tolist() for x in everywhere(lambda s, _: made(s.share(torch.ones(2)), "sum").reveal())] == [
            [2, 2]
        ] * 2


def test_a_rank_that_is_done_leaves_the_others_at_work(two: LocalCluster) -> None:
    gone = threading.Event()

    def work(session: NetworkSession, lane: int) -> Any:
        x = session.share(torch.rand(30_000))
        for _ in range(10):  # takes the parties longer than the provider
            x = torch.relu(x)
        total = made(session.share(torch.ones(2)), "sum")
        if lane:
            session.close()
            gone.set()
            return None
        assert gone.wait(60)
        time.sleep(0.2)
        for _ in range(5):
            total = total * total / 2
        return total.reveal().tolist()

    with lanes(two) as everywhere:
        assert everywhere(work)[0] == [2.0, 2.0]


def test_ranks_that_close_with_work_under_way_fail_nowhere(two: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parties may be done before the provider, which is busy with what nobody waits for."""
    said = Said(monkeypatch)
    deal = ProviderSession._deal

    def deal_slowly(session: ProviderSession, *arguments: Any) -> None:
        deal(session, *arguments)
        time.sleep(0.001)

    monkeypatch.setattr(ProviderSession, "_deal", deal_slowly)

    def work(session: NetworkSession, lane: int) -> None:
        x = session.share(torch.ones(2))
        total = made(x, "sum")
        for _ in range(50):
            total = torch.relu(total)
        for _ in range(600):
            x = x + x
        session.close()

    for _ in range(3):
        said.lines.clear()
        with lanes(two) as everywhere:
            assert everywhere(work) == [None, None]
        said.await_ends(6)
        assert {what for what, _ in said.lines} == {"session closed"} and len(said.lines) == 6


@pytest.mark.parametrize("name", ["alice-1", "bob-1", "james-1"])
def test_a_machine_that_dies_ends_all_lanes(tmp_path: Path, name: str) -> None:
    """Also lane 0, which does not wait for it: rank 1's sessions say so to rank 0's."""
    with local_cluster(tmp_path, ranks=2, limits=LIMITS) as cluster, lanes(cluster) as everywhere:
        ready = threading.Barrier(2)

        def work(session: NetworkSession, lane: int) -> Any:
            x = made(session.share(torch.ones(2)), "sum")
            x.reveal()
            ready.wait(60)
            if lane:
                cluster.daemons[name].stop()
            ends = time.monotonic() + LIMITS["deadline_s"]
            while time.monotonic() < ends:
                x = x * x / 2
                x.reveal()
            return None

        for error in everywhere(work):
            assert isinstance(error, TorchveilError)
            assert "rank 1" in str(error) or name.partition("-")[0] in str(error)


def test_a_rank_that_never_comes(two: LocalCluster) -> None:
    credentials = find_credentials(two.config, None, None, "controller")
    with pytest.raises(DeadlineExceeded, match=r"party/\w+ rank 1 did not connect") as caught:
        NetworkSession(two.config.at(0), credentials, group=bytes(range(16)))
    assert caught.value.at_fault in ("party/alice rank 1", "party/bob rank 1")


def test_a_session_alone_has_no_other_ranks(two: LocalCluster) -> None:
    credentials = find_credentials(two.config, None, None, "controller")
    with NetworkSession(two.config.at(1), credentials) as session:
        assert session.ranks == 1
        assert (session.share(torch.ones(2)) * 3).reveal().tolist() == [3, 3]


def test_addresses_in_another_order(two: LocalCluster, tmp_path: Path) -> None:
    text = two.file.read_text().replace("ca.pem", str(two.directory / "ca.pem"))
    lines = [
        f"addresses = [{', '.join(reversed(line.partition('[')[2].strip(']').split(', ')))}]"
        if line.startswith("addresses")
        else line
        for line in text.splitlines()
    ]
    (tmp_path / "cluster.toml").write_text("\n".join(lines))
    config = read_cluster(tmp_path / "cluster.toml")
    with pytest.raises(PeerRejected, match="rank 0 of the other end came to rank 1"):
        NetworkSession(config, find_credentials(config, None, None, "controller"))


@pytest.mark.parametrize(
    ("line", "becomes", "wrong"),
    [
        ("addresses", 'address = "a:1"', "has 1 addresses"),
        ("addresses", 'addresses = ["a:1", "b:1"]\naddress = "a:1"', "both address and addresses"),
        ("addresses", "", "no address"),
    ],
)
def test_files_of_clusters_that_do_not_fit(tmp_path: Path, line: str, becomes: str, wrong: str) -> None:
    write_cluster(tmp_path, ranks=2)
    file = tmp_path / "cluster.toml"
    head, _, tail = file.read_text().partition(line)
    file.write_text(head + becomes + "\n" + tail.partition("\n")[2])
    with pytest.raises(ConfigurationError, match=wrong):
        read_cluster(file)


def test_files_of_ranks(tmp_path: Path) -> None:
    write_cluster(tmp_path, ranks=2)
    file = tmp_path / "alice.toml"
    with pytest.raises(ConfigurationError, match="does not say which of the 2 ranks"):
        read_role(file)
    with pytest.raises(ConfigurationError, match="there is no rank 2"):
        read_role(file, rank=2)
    first, second = read_role(file, rank=0), read_role(file, rank=1)
    assert first.listen != second.listen
    assert first.state != second.state
    text = file.read_text()
    file.write_text("rank = 1\n" + text)
    assert read_role(file).listen == second.listen
    with pytest.raises(ConfigurationError, match="is for rank 1, and rank 0 was asked for"):
        read_role(file, rank=0)
    file.write_text('metrics = ["127.0.0.1:1"]\n' + text)
    with pytest.raises(ConfigurationError, match="metrics has 1 entries for 2 ranks"):
        read_role(file, rank=0)


def test_a_closed_session_makes_nothing(two: LocalCluster) -> None:
    def work(session: NetworkSession, _lane: int) -> None:
        x = session.share(torch.ones(2))
        session.close()
        made(x, "sum")

    with lanes(two) as everywhere:
        assert all(isinstance(error, SessionStateError) for error in everywhere(work))


def test_as_many_ranks_as_the_roles_have(two: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "world_size", lambda: 3)
    with pytest.raises(ConfigurationError, match="runs on 3 ranks, the roles of study have 2 each"):
        connecting.connect(two.file)


def test_a_daemon_stops_while_a_rank_waits_for_its_session(tmp_path: Path) -> None:
    limits = {"deadline_s": 20, "handshake_s": 20}
    with local_cluster(tmp_path, ranks=2, limits=limits) as cluster, ThreadPoolExecutor(1) as pool:
        credentials = find_credentials(cluster.config, None, None, "controller")
        opening = pool.submit(NetworkSession, cluster.config.at(1), credentials, group=bytes(16))
        time.sleep(0.5)  # alice's rank 1 is at the door of rank 0, which has no such session
        start = time.monotonic()
        cluster.daemons["alice-0"].stop()
        assert time.monotonic() - start < 15
        with pytest.raises(TorchveilError):
            opening.result(90)


# --- programs under torchrun -----------------------------------------------------------------------------------------


def torchrun(*arguments: object, timeout_s: float = 600) -> list[str]:
    """The lines that a program of two ranks prints."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *map(str, arguments),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(line for line in done.stdout.splitlines() if line.startswith("rank "))


def test_a_machine_that_hangs_is_named(tmp_path: Path) -> None:
    """Bob's rank 1 is stopped: both programs end within the deadline and a little, the daemons that run serve again."""
    deadline_s = 4.0
    config = write_cluster(tmp_path, ranks=2, limits={"deadline_s": deadline_s, "handshake_s": 10})
    with Processes(tmp_path, environment={"OMP_NUM_THREADS": "1"}) as roles:
        cluster = LocalCluster(tmp_path, config)
        stopped = threading.Barrier(2, lambda: roles.kill("bob-1", signal.SIGSTOP))

        def work(session: NetworkSession, _lane: int) -> Any:
            x = made(session.share(torch.ones(2)), "sum")
            x.reveal()
            stopped.wait(30)
            start = time.monotonic()
            try:
                made(x * x, "sum").reveal()
            except TorchveilError as error:
                return error, time.monotonic() - start
            return None

        with lanes(cluster) as everywhere:
            for lane, (error, seconds) in enumerate(everywhere(work)):
                assert isinstance(error, TorchveilError)
                assert error.at_fault in ("party/bob rank 1", "party/bob" if lane else "party/bob rank 1")
                assert seconds < 2 * deadline_s  # 2 s more than the deadline on a machine that is not busy
        roles.kill("bob-1", signal.SIGCONT)
        with lanes(cluster) as everywhere:
            found = everywhere(lambda session, _: made(session.share(torch.ones(2)), "sum").reveal().tolist())
        assert found == [[2.0, 2.0]] * 2


def test_torch_distributed_in_one_process_each() -> None:
    assert torchrun(PROGRAM) == ["rank 0: as it should be", "rank 1: as it should be"]


def test_torch_distributed_over_the_network(tmp_path: Path) -> None:
    write_cluster(tmp_path, ranks=2, limits={"deadline_s": 60, "handshake_s": 30})
    with Processes(tmp_path, environment={"OMP_NUM_THREADS": "1"}) as roles:
        assert torchrun(PROGRAM, roles.file) == ["rank 0: as it should be", "rank 1: as it should be"]


def test_what_ranks_make_counts_among_the_bytes_of_a_session(tmp_path: Path) -> None:
    def work(session: NetworkSession, _lane: int) -> float:
        x = session.share(torch.ones(40_000))
        kept = [made(x, "sum") for _ in range(8)]
        return float(kept[-1].sum().reveal())  # type: ignore[attr-defined]

    role_limits = {"session_bytes": 1 << 20}
    with (
        local_cluster(tmp_path, ranks=2, limits=LIMITS, role_limits=role_limits) as cluster,
        lanes(cluster) as everywhere,
    ):
        ended = everywhere(work)
    assert any(isinstance(error, LimitExceeded) and "session_bytes" in error.remedy for error in ended), ended
