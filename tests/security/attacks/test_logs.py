"""The operator of a party who wants a release to vanish from his log of releases."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.security.attacks.lying import LIMITS, NAME, ROLE_LIMITS, SECRET
from torchveil.cli import main
from torchveil.network.config import ClusterConfig, read_role
from torchveil.network.connect import connect, find_credentials
from torchveil.network.consent import swapping
from torchveil.network.consent.audit import Record, compare, records
from torchveil.network.consent.grants import encode, new_grant, sign_grant
from torchveil.network.daemon import Daemon
from torchveil.network.owner import share
from torchveil.network.services import Caller
from torchveil.testing.clusters import LocalCluster, Processes, local_cluster, write_cluster

#: Heads are swapped soon after a release, or this much after the swap before.
AT_MOST_S = swapping.DELAY_S + swapping.PAUSE_S + 5


def granted(config: ClusterConfig, bits: int) -> None:
    """The owner's data at all parties, and a budget for the controller."""
    owner = find_credentials(config, None, None, "owner")
    share(config, owner, NAME, SECRET)
    controller = find_credentials(config, None, None, "controller")
    made = new_grant(owner, str(controller.role), controller.fingerprint, quota=bits, now=time.time(), seconds=600)
    for role in config.addresses:
        if role.kind == "party":
            Caller(config, owner).call(role, "consent/grant", encode(sign_grant(owner, made)))


def log_of(directory: Path, name: str) -> Path:
    return directory / name / "audit.jsonl"


def cut(path: Path, kind: str) -> int:
    """Cut a log back to before its first line of this kind; how many lines are gone."""
    lines = path.read_bytes().splitlines(keepends=True)
    first = next(record.line for record in records(path) if record.kind == kind)
    path.write_bytes(b"".join(lines[: first - 1]))
    return len(lines) - first + 1


def soon(done: Callable[[], Any], within_s: float = 5.0) -> None:
    ends = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.02)


def verified(directory: Path, *words: str) -> int:
    logs = [f"{name}={log_of(directory, name)}" for name in ("alice", "bob")]
    return main(["audit", "verify", *logs, *words, "--cluster", str(directory / "cluster.toml")])


def test_killed_at_once_after_a_release_and_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any other party was told of a head that covers it. The log of the other party has it."""
    config = write_cluster(tmp_path, owners=["hospital-a"], limits=LIMITS)
    with Processes(tmp_path, environment={"OMP_NUM_THREADS": "1"}) as roles:
        granted(config, 3 * 64)
        session = connect(roles.file)
        assert torch.allclose(session.dataset(NAME).reveal(), SECRET, atol=1e-3)
        roles.kill("alice")
        session.close()
        assert cut(log_of(tmp_path, "alice"), "grant") >= 3  # grant, session start, reveal
        roles.start("alice")
        with connect(roles.file) as another:
            assert another.share(torch.ones(2)).reveal().tolist() == [1.0, 1.0]
        soon(lambda: [record.kind for record in records(log_of(tmp_path, "alice"))].count("session end") == 1)
        status = verified(tmp_path, "--ask")
    said = capsys.readouterr().out
    assert status == 1, said
    (problem,) = [line for line in said.splitlines() if line.startswith("party/alice: party/bob released")]
    assert "to controller/scientist" in problem and "this log says nothing" in problem
    assert re.search(r"party/bob: \d+ lines, good", said)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path, owners=["hospital-a"], limits=LIMITS, role_limits=ROLE_LIMITS) as running:
        granted(running.config, 3 * 64)
        yield running


def released(cluster: LocalCluster, name: str) -> Record:
    return next(record for record in records(log_of(cluster.directory, name)) if record.kind == "reveal")


def test_a_release_is_covered_while_its_session_goes_on(cluster: LocalCluster) -> None:
    """Soon after a release other parties hold a head that covers it: a later cut shows without their logs."""
    with connect(cluster.file) as session:
        session.dataset(NAME).reveal()
        for name, other in (("alice", "bob"), ("bob", "alice")):
            line = released(cluster, name).line
            heads = cluster.daemons[other].consent.log.heads
            soon(lambda line=line, heads=heads: any(head.lines >= line for head in heads()), AT_MOST_S)
        assert all(daemon.sessions for daemon in cluster.daemons.values())


def test_a_log_that_was_cut_is_noticed_when_its_party_starts(cluster: LocalCluster) -> None:
    with connect(cluster.file) as session:
        session.dataset(NAME).reveal()
    soon(lambda: not any(daemon.sessions for daemon in cluster.daemons.values()))
    alice, bob = cluster.daemons["alice"], cluster.daemons["bob"].consent.log
    soon(lambda: any(head.lines >= released(cluster, "alice").line for head in bob.heads()))
    alice.stop()
    cut(log_of(cluster.directory, "alice"), "reveal")
    with Daemon(read_role(cluster.directory / "alice.toml")):

        def contradicts() -> bool:
            held = [record.head for record in records(log_of(cluster.directory, "bob")) if record.head is not None]
            return bool(compare(held))

        soon(contradicts)
