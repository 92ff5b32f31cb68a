"""The commands ``share``, ``datasets`` and ``unshare`` with parties' daemons on loopback, over mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from torchveil.cli import main
from torchveil.errors import ConsentRequired, DataNotFound
from torchveil.fixedpoint import FixedPoint, decode
from torchveil.network.certificates import Credentials
from torchveil.network.connect import connect
from torchveil.network.dataset_store import DatasetStore
from torchveil.network.owner import share, unshare
from torchveil.network.results import fetch
from torchveil.network.services import Caller
from torchveil.testing.clusters import LocalCluster, local_cluster

TABLE = "age,dose,sex,ill\n40,1.5,f,0\n51,-0.25,m,1\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two parties and a provider that run, certificates of two owners and a controller."""
    here = tmp_path_factory.mktemp("cluster")
    limits = {"deadline_s": 20, "handshake_s": 10}
    with local_cluster(here, owners=("hospital-a", "hospital-b"), limits=limits) as running:
        yield running


def stores(cluster: LocalCluster) -> list[DatasetStore]:
    return [cluster.daemons[name].datasets for name in ("alice", "bob")]


def caller(cluster: LocalCluster, role: str = "owner-hospital-a") -> Caller:
    here = cluster.directory
    credentials = Credentials.load(here / f"{role}.pem", here / f"{role}.key", here / "ca.pem")
    return Caller(cluster.config, credentials)


def total(cluster: LocalCluster, name: str) -> torch.Tensor:
    return torch.stack([store.open(name)[0] for store in stores(cluster)]).sum(0)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_share_list_unshare(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = cluster.file
    (tmp_path / "x.csv").write_text(TABLE)
    options = [
        "--columns",
        "dose,sex",
        "--one-hot",
        "sex=f,m",
        "--target",
        "ill",
        "--whole",
        "target",
        "--digits",
        "20",
    ]
    status, printed = run(capsys, "share", tmp_path / "x.csv", "--as", "hospital-a/x", "--to", file, *options)
    assert status == 0, printed
    assert "hospital-a/x: 2 x 3, 20 binary digits, columns dose, sex=f, sex=m" in printed
    assert decode(total(cluster, "hospital-a/x"), 2**20).tolist() == [[1.5, 1, 0], [-0.25, 0, 1]]
    assert total(cluster, "hospital-a/x.target").tolist() == [0, 1]

    options = ["--columns", "age", "--pad-rows", "5", "--no-schema"]
    status, printed = run(capsys, "share", tmp_path / "x.csv", "--as", "hospital-b/x", "--to", file, *options)
    assert status == 0 and "age" not in printed
    assert total(cluster, "hospital-b/x.mask").tolist() == [1, 1, 0, 0, 0]

    status, printed = run(capsys, "datasets", file, "--json")
    rows = {row["name"]: row for row in json.loads(printed)}
    assert status == 0 and list(rows) == ["hospital-a/x", "hospital-a/x.target", "hospital-b/x", "hospital-b/x.mask"]
    assert rows["hospital-b/x"] == {
        "name": "hospital-b/x",
        "owner": "owner/hospital-b",
        "shape": [5, 1],
        "base": 2,
        "digits": 16,
        "columns": None,
        "problem": "",
    }
    monkeypatch.chdir(cluster.directory)
    monkeypatch.setenv("COLUMNS", "80")
    status, printed = run(capsys, "datasets")
    assert status == 0 and "16 of base 2" in printed
    assert "\u2026" not in printed and printed.count("hospital-b/x.mask") == printed.count("hospital-b") // 2 == 1
    status, printed = run(capsys, "datasets", file, "--certificate", file.parent / "owner-hospital-a.pem")
    assert status == 0 and "hospital-a/x.target" in printed and "hospital-b" not in printed
    status, printed = run(capsys, "datasets", file, "--certificate", file.parent / "provider-james.pem")
    assert status == 2 and "TV503" in printed

    stores(cluster)[1].remove("hospital-b/x", "owner/hospital-b")
    status, printed = run(capsys, "datasets", file, "--json", "--prefix", "hospital-b/")
    assert status == 1 and "party/bob" in json.loads(printed)[0]["problem"]
    for name in ("hospital-a/x", "hospital-b/x"):
        other = file.parent / ("owner-hospital-b.pem" if "-a/" in name else "owner-hospital-a.pem")
        status, printed = run(capsys, "unshare", name, "--from", file, "--certificate", other)
        assert status == 2 and f"may not unshare '{name}'" in printed and "operation: unshare" in printed
        assert run(capsys, "unshare", name, "--from", file) == (0, f"deleted {name} at party/alice, party/bob\n")
    assert [store.list() for store in stores(cluster)] == [[], []]
    status, printed = run(capsys, "unshare", "hospital-a/x", "--from", file)
    assert status == 2 and "TV702" in printed


def test_what_share_refuses(cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = cluster.file
    (tmp_path / "x.csv").write_text(TABLE.replace("40", "40404040").replace("1.5", "1.50050"))
    before = [store.list() for store in stores(cluster)]
    path, to = tmp_path / "x.csv", ["--to", file]
    other = ["--certificate", file.parent / "owner-hospital-b.pem"]
    for arguments, words in [
        (["--as", "hospital-a/x"], "row 1, column 3 ('sex'): the cell is no number"),
        (["--as", "hospital-a/x", "--columns", "age", *other], "owner/hospital-b may not share as"),
        (["--as", "hospital-c/x", "--columns", "age"], "owner-hospital-c.pem"),
        (["--as", "x", "--columns", "age"], "no name of a dataset"),
        (["--as", "hospital-a/x", "--one-hot", "sex"], "names no categories"),
        (["--as", "hospital-a/x", "--one-hot", "sex=f", "--one-hot", "sex=m"], "--one-hot names 'sex' twice"),
        (["--as", "hospital-a/x", "--columns", "age", "--pad-rows", "1"], "more than 1 rows"),
    ]:
        status, printed = run(capsys, "share", path, *arguments, *to)
        assert status == 2 and words in printed, printed
        assert "40404040" not in printed and "1.50050" not in printed
    assert [store.list() for store in stores(cluster)] == before


def test_a_tensor_of_several_pieces_crosses(cluster: LocalCluster) -> None:
    x = torch.arange(3 * 2**19 + 5, dtype=torch.float64).view(1, -1)
    asks = caller(cluster)
    share(cluster.config, asks.credentials, "hospital-a/large", x, fixed_point=FixedPoint(2, 8))
    assert decode(total(cluster, "hospital-a/large"), 2**8).equal(x)
    unshare(asks, "hospital-a/large")


def test_a_session_computes_on_what_was_shared(cluster: LocalCluster) -> None:
    """The mean of the rows that count, given back to their owner; nobody else may see it."""
    asks = caller(cluster)
    x, y = torch.tensor([[1.5, -2.0], [0.25, 7.0], [3.0, 4.0]]), torch.tensor([1, 2, 3])
    share(cluster.config, asks.credentials, "hospital-a/x", x, target=y, columns=("age", "dose"), pad_rows=8)
    with connect(cluster.file) as session:
        assert session.datasets()["hospital-a/x"].columns == ("age", "dose")
        rows, weights, mask = (session.dataset(f"hospital-a/x{part}") for part in ("", ".target", ".mask"))
        assert rows.shape == (8, 2) and rows.dtype == torch.float32 and weights.dtype == mask.dtype == torch.int64
        mean = (rows * (weights * mask)[:, None]).sum(0) / mask.sum()
        with pytest.raises(ConsentRequired, match="hospital-a"):
            mean.reveal()
        session.deliver(mean, "owner/hospital-a", "mean")
        with pytest.raises(DataNotFound, match="no party holds"):
            session.dataset("hospital-a/nothing")
        session.deliver(mask.sum(), "owner/hospital-a", "rows")  # the session goes on after an error
    assert fetch(asks, "rows").value.item() == 3
    assert torch.allclose(fetch(asks, "mean").value, (x * y[:, None]).sum(0).double() / 3, atol=1e-3)


def test_a_session_takes_nothing_that_parties_hold_differently(cluster: LocalCluster) -> None:
    asks = caller(cluster, "owner-hospital-b")
    share(cluster.config, asks.credentials, "hospital-b/x", torch.ones(3))
    stores(cluster)[1].remove("hospital-b/x", "owner/hospital-b")
    with connect(cluster.file) as session:
        with pytest.raises(DataNotFound, match="not at party/bob"):
            session.dataset("hospital-b/x")
        assert "hospital-b/x" not in session.datasets()
        share(cluster.config, asks.credentials, "hospital-b/x", torch.ones(3))
        assert session.dataset("hospital-b/x").shape == (3,)
