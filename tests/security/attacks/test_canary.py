"""Known secrets are looked for in all that anybody but their owner could see, after a training run with everything on:
what the controller and the provider were sent, logs, metrics, errors, and every file that the roles keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchveil
from tests.security.attacks.lying import NAME, SECRET, Liar, Views, found_in, needles, watched
from torchveil.errors import TorchveilError
from torchveil.network import messages as m
from torchveil.network.connect import connect
from torchveil.network.logs import close, configure
from torchveil.program import instructions as ins
from torchveil.testing.clusters import LocalCluster

OWN = torch.tensor([2718.2818, -31415.926, 16180.339])
#: Numbers of several digits before the point: the text "0.70" is in the time or the seconds of some run before long.
WEIGHTS = torch.tensor([[707.10678, -577.21566, 915.96559]])
PUBLIC = torch.tensor([4.6692016, -2.5029078, 1.2020569])
WANTED = needles(SECRET) | needles(OWN) | needles(WEIGHTS)


class Run:
    """What a run left behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.errors: list[str] = []
        self.logs = b""
        self.metrics = b""
        self.views: Views = Views()


def train(cluster: LocalCluster, out: Path, errors: list[str]) -> None:
    with connect(cluster.file) as session:
        x, own = session.dataset(NAME), session.share(OWN)
        model = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(WEIGHTS)
        session.encrypt(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = torch.sigmoid(model((x / 10000).reshape(1, 3)) * y[0] * 1e-7).sum()
            loss.backward()
            return loss

        run = torchveil.compile(step)
        for _ in range(3):
            run(x, own)
            optimizer.step()
        (x * torchveil.public(PUBLIC) + torchveil.public(PUBLIC) > 0).any()
        session.save(out / "run", {"model": model.state_dict(), "x": x, "own": own})
        session.deliver(own, "owner/hospital-a", "keepsake")
        for attempt in (x, x.max(), x * own):
            try:
                attempt.reveal()
            except TorchveilError as error:
                errors.append(str(error))
    liar = Liar(cluster)  # and a session that ends with an error
    with suppress(TorchveilError):
        liar.open(liar.secret(), liar.own(OWN.tolist()))
        liar.tell("alice", ins.Open((987654,), ((3,),)))
        liar.hear("alice")
    liar.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("canary")
    done = Run(directory)
    lines = directory / "log.jsonl"
    configure("party/alice", lines, level="debug")
    try:
        with watched(directory / "cluster") as (cluster, seen):
            done.views = seen
            train(cluster, directory, done.errors)
            done.metrics = b"".join(daemon.metrics.text() for daemon in cluster.daemons.values())
    finally:
        close()
    done.logs = lines.read_bytes()
    yield done


def test_the_needles_are_found_where_they_should_be(run: Run) -> None:
    """A scan that finds nothing anywhere proves nothing."""
    assert len(found_in(OWN.double().numpy().tobytes() + b" -31415.926000 ", needles(OWN))) == 4
    told = b'{"weight": %.4f}'
    assert [found_in(told % w, needles(WEIGHTS)) != [] for w in WEIGHTS.flatten().tolist()] == [True] * 3
    parties = b"".join(bytes(frame.body) for to, frame in run.views.frames if to.startswith("party/"))
    assert found_in(parties, needles(PUBLIC)), "parties have public tensors"


def test_times_and_seconds_hold_no_needle() -> None:
    """Log lines have the first, metrics the others, a few minutes at most: a needle there would be found by chance."""
    texts = [f'"time": "2026-05-02T09:00:{ms // 1000:02}.{ms % 1000:03}Z"' for ms in range(60_000)]
    texts += [f'"duration_s": {ms / 1000:.4f}, {1_700_000_000 + ms / 100:.4f}' for ms in range(0, 500_000, 7)]
    assert not found_in("\n".join(texts).encode(), WANTED)


@pytest.mark.parametrize("who", ["controller/scientist", "provider/james", "owner/hospital-a"])
def test_traffic(run: Run, who: str) -> None:
    data = b"".join(frame.meta + bytes(frame.body) for to, frame in run.views.frames if to == who)
    assert len(data) > (1000 if who != "owner/hospital-a" else 50)
    assert not found_in(data, WANTED)


def test_the_provider_is_sent_no_public_tensor_and_nothing_by_parties(run: Run) -> None:
    kinds = {frame.kind for to, frame in run.views.frames if to == "provider/james"}
    assert kinds <= {m.Kind.HELLO, m.Kind.BEGIN, m.Kind.STREAM, m.Kind.CLOSE, m.Kind.ABORT, m.Kind.WAITING}
    data = b"".join(frame.meta + bytes(frame.body) for to, frame in run.views.frames if to == "provider/james")
    assert not found_in(data, needles(PUBLIC))
    names = (NAME, "keepsake", "run_")
    assert [name for name in names if name.encode() in data] == []
    parties = b"".join(frame.meta for to, frame in run.views.frames if to == "party/alice")
    assert all(name.encode() in parties for name in names)


def test_what_one_party_is_sent(run: Run) -> None:
    """Openings, corrections and sharings: none of them is a secret as it is."""
    for who in ("party/alice", "party/bob"):
        data = b"".join(frame.meta + bytes(frame.body) for to, frame in run.views.frames if to == who)
        assert len(data) > 10_000 and not found_in(data, WANTED)


def test_logs_and_metrics_and_errors(run: Run) -> None:
    assert len(run.logs) > 500 and len(run.metrics) > 500 and len(run.errors) == 3
    for data in (run.logs, run.metrics, "\n".join(run.errors).encode()):
        assert not found_in(data, WANTED)


def test_files(run: Run) -> None:
    """State directories, checkpoints, logs of releases, results that wait for their owner, certificates."""
    files = [path for path in run.directory.rglob("*") if path.is_file()]
    kinds = {path.relative_to(run.directory / "cluster" / "alice").parts[0] for path in files if "alice" in path.parts}
    assert {"datasets", "checkpoints", "results", "audit.jsonl", "consent"} <= kinds, kinds
    for path in files:
        assert not found_in(path.read_bytes(), WANTED), path
