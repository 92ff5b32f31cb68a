"""The commands ``share``, ``datasets`` and ``unshare`` with parties' daemons on loopback, over mutual TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.network.owners import Disk, opened
from torchveil.cli import main
from torchveil.fixedpoint import FixedPoint, decode
from torchveil.network.certificates import Credentials, create_authority, issue
from torchveil.network.config import read_cluster, read_role
from torchveil.network.daemon import Daemon
from torchveil.network.dataset_store import DatasetStore
from torchveil.network.datasets_service import DATASET_SERVICES
from torchveil.network.names import Role
from torchveil.network.owner import share
from torchveil.network.services import SERVICES

CLUSTER = """
[cluster]
name = "study"
authority = "ca.pem"
[[party]]
name = "alice"
address = "{alice}"
[[party]]
name = "bob"
address = "{bob}"
[provider]
name = "james"
address = "127.0.0.1:1"
[limits]
deadline_s = 5
handshake_s = 5
"""
ROLE = """
role = "party/{name}"
cluster = "cluster.toml"
certificate = "party-{name}.pem"
key = "party-{name}.key"
listen = "127.0.0.1:0"
state = "{name}"
"""
TABLE = "age,dose,sex,ill\n40,1.5,f,0\n51,-0.25,m,1\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, DatasetStore]]]:
    """The cluster's file, and the data sets of its two parties, which run."""
    here = tmp_path_factory.mktemp("cluster")
    create_authority(here, "study")
    for role in (
        "party/alice",
        "party/bob",
        "owner/hospital-a",
        "owner/hospital-b",
        "controller/ann",
        "provider/james",
    ):
        issue(here, Role.parse(role))
    file = here / "cluster.toml"
    addresses = {"alice": "127.0.0.1:2", "bob": "127.0.0.1:3"}
    daemons: list[Daemon] = []
    stores = {}
    SERVICES.update(DATASET_SERVICES)
    try:
        for name in addresses:
            file.write_text(CLUSTER.format(**addresses))
            (here / f"{name}.toml").write_text(ROLE.format(name=name))
            daemon = Daemon(read_role(here / f"{name}.toml"))
            stores[name] = opened(Disk(here / name))
            daemon.datasets = stores[name]  # type: ignore[attr-defined]
            addresses[name] = daemon.address
            daemons.append(daemon.start())
        file.write_text(CLUSTER.format(**addresses))
        yield file, stores
    finally:
        for daemon in daemons:
            daemon.stop()


def total(stores: dict[str, DatasetStore], name: str) -> torch.Tensor:
    return torch.stack([store.open(name)[0] for store in stores.values()]).sum(0)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_share_list_unshare(
    cluster: tuple[Path, dict[str, DatasetStore]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, stores = cluster
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
    assert "hospital-a/x: 2 x 3, 2^-20, columns dose, sex=f, sex=m" in printed
    assert decode(total(stores, "hospital-a/x"), 2**20).tolist() == [[1.5, 1, 0], [-0.25, 0, 1]]
    assert total(stores, "hospital-a/x.target").tolist() == [0, 1]

    options = ["--columns", "age", "--pad-rows", "5", "--no-schema"]
    status, printed = run(capsys, "share", tmp_path / "x.csv", "--as", "hospital-b/x", "--to", file, *options)
    assert status == 0 and "age" not in printed
    assert total(stores, "hospital-b/x.mask").tolist() == [1, 1, 0, 0, 0]

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
    status, printed = run(capsys, "datasets", file, "--certificate", file.parent / "owner-hospital-a.pem")
    assert status == 0 and "hospital-a/x.target" in printed and "hospital-b" not in printed
    status, printed = run(capsys, "datasets", file, "--certificate", file.parent / "provider-james.pem")
    assert status == 2 and "TV503" in printed

    stores["bob"].remove("hospital-b/x", "owner/hospital-b")
    status, printed = run(capsys, "datasets", file, "--json", "--prefix", "hospital-b/")
    assert status == 1 and "party/bob" in json.loads(printed)[0]["problem"]
    for name in ("hospital-a/x", "hospital-b/x"):
        assert run(capsys, "unshare", name, "--from", file) == (0, "")
    assert [store.list() for store in stores.values()] == [[], []]
    status, printed = run(capsys, "unshare", "hospital-a/x", "--from", file)
    assert status == 2 and "TV702" in printed


def test_what_share_refuses(
    cluster: tuple[Path, dict[str, DatasetStore]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, stores = cluster
    (tmp_path / "x.csv").write_text(TABLE)
    before = [store.list() for store in stores.values()]
    path, to = tmp_path / "x.csv", ["--to", file]
    other = ["--certificate", file.parent / "owner-hospital-b.pem"]
    for arguments, words in [
        (["--as", "hospital-a/x"], "row 1, column 3 ('sex'): the cell is no number"),
        (["--as", "hospital-a/x", "--columns", "age", *other], "owner/hospital-b may not share as"),
        (["--as", "hospital-c/x", "--columns", "age"], "owner-hospital-c.pem"),
        (["--as", "x", "--columns", "age"], "no name of a dataset"),
        (["--as", "hospital-a/x", "--one-hot", "sex"], "names no categories"),
        (["--as", "hospital-a/x", "--columns", "age", "--pad-rows", "1"], "more than 1 rows"),
    ]:
        status, printed = run(capsys, "share", path, *arguments, *to)
        assert status == 2 and words in printed, printed
        assert "40" not in printed.replace(str(tmp_path), "") and "1.5" not in printed
    assert [store.list() for store in stores.values()] == before


def test_a_tensor_of_several_pieces_crosses(cluster: tuple[Path, dict[str, DatasetStore]]) -> None:
    file, stores = cluster
    here = file.parent
    credentials = Credentials.load(here / "owner-hospital-a.pem", here / "owner-hospital-a.key", here / "ca.pem")
    x = torch.arange(3 * 2**19 + 5, dtype=torch.float64).view(1, -1)
    share(read_cluster(file), credentials, "hospital-a/large", x, fixed_point=FixedPoint(2, 8))
    assert decode(total(stores, "hospital-a/large"), 2**8).equal(x)
