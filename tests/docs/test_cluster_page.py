"""docs/how-to/cluster.md as somebody would follow it: its files are written, its commands and its Python run, in order.

Daemons run as the processes that the page starts; other commands run in this process, which saves loading torch each
time. Ports of the page are exchanged for free ones, and the number of a request for the one that is listed.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.docs.test_pages import ROOT, Block, blocks
from torchveil.cli import COMMANDS, main
from torchveil.network.config import DatasetLimits, Limits, _Cluster, _ClusterFile, _RoleFile
from torchveil.testing.clusters import _listens, free_ports

PAGE = ROOT / "docs" / "how-to" / "cluster.md"
FILE = re.compile(r"# ([a-z]+\.(?:toml|csv))\n")
REQUEST = re.compile(r"^([0-9a-f]{16}):", re.MULTILINE)


class Reader:
    """Follows the page in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.ports = dict(zip(("7001", "7002", "7003"), map(str, free_ports(3)), strict=True))
        self.request = ""
        self.ran: list[str] = []

    def write(self, block: Block) -> None:
        found = FILE.match(block.code)
        assert found is not None, f"{PAGE}:{block.line}: which file is this?"
        text = block.code if block.language == "toml" else block.code[found.end() :]
        for shown, free in self.ports.items():
            text = text.replace(f":{shown}", f":{free}")
        (self.directory / found[1]).write_text(text)

    def console(self, block: Block) -> None:
        for line in block.code.splitlines():
            if line.startswith("$ "):
                self.command(line[2:])

    def command(self, line: str) -> None:
        program, *words = shlex.split(line.replace("41f0c6a7e2b95d08", self.request or "41f0c6a7e2b95d08"))
        assert program == "torchveil"
        self.ran.append(words[0])
        if words[-1] == "&":
            self.daemon(words[:-1])
            return
        out = io.StringIO()
        with redirect_stdout(out):
            status = main(words)
        assert status == 0, f"{line}\n{out.getvalue()}"
        if words[0] == "requests":
            found = REQUEST.findall(out.getvalue())
            logs = "\n".join(log.read_text()[-4000:] for log in sorted(self.directory.glob("*.log")))
            assert found, f"{line} printed {out.getvalue()!r}; the daemons:\n{logs}"
            self.request = found[0]

    def daemon(self, words: list[str]) -> None:
        log = (self.directory / f"{words[-1]}.log").open("wb")
        self.daemons.append(subprocess.Popen([sys.executable, "-m", "torchveil.cli", *words], stderr=log, stdout=log))
        log.close()
        if len(self.daemons) == len(self.ports):  # they start side by side
            ends = time.monotonic() + 180
            while not all(_listens(f"127.0.0.1:{port}") for port in self.ports.values()):
                assert time.monotonic() < ends, "the daemons do not listen"
                time.sleep(0.1)

    def python(self, block: Block, shown: str) -> None:
        out = io.StringIO()
        with redirect_stdout(out):
            exec(compile("\n" * (block.line - 1) + block.code, str(PAGE), "exec"), self.names)
        assert out.getvalue().rstrip() == shown.rstrip(), f"{PAGE}:{block.line}"

    def stop(self) -> list[int]:
        for daemon in self.daemons:
            daemon.terminate()
        return [daemon.wait(60) for daemon in self.daemons]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", Yes())
    found = Reader(tmp_path)
    try:
        yield found
    finally:
        for daemon in found.daemons:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait(10)


class Yes:
    """An owner who says yes to everything."""

    def readline(self) -> str:
        return "yes\n"


def test_somebody_who_follows_the_page_gets_there(reader: Reader) -> None:
    found = blocks(PAGE)
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.language == "console":
            reader.console(block)
        elif block.language in ("toml", "csv"):
            reader.write(block)
        elif block.language == "python":
            text = following is not None and following.language == "text" and following.follows
            reader.python(block, following.code if text and following is not None else "")
        else:
            assert block.language == "text", f"{PAGE}:{block.line}"
    assert reader.stop() == [0, 0, 0]
    skipped = set(COMMANDS) - set(reader.ran)
    assert skipped == {"check", "deny", "explain"}  # they have pages of their own


@pytest.mark.parametrize("kind", [Limits, DatasetLimits])
def test_every_limit_stands_on_the_page_with_its_default(kind: type[msgspec.Struct]) -> None:
    text = PAGE.read_text()
    for field in msgspec.structs.fields(kind):
        assert f"| `{field.name}` | {field.default:g} |".replace("e+", "e") in text or (
            f"| `{field.name}` | {int(field.default)} |" in text
        ), field.name


@pytest.mark.parametrize("kind", [_Cluster, _ClusterFile, _RoleFile])
def test_every_key_stands_on_the_page(kind: type[msgspec.Struct]) -> None:
    keys = PAGE.read_text().partition("## All keys")[2]
    for field in msgspec.structs.fields(kind):
        assert re.search(rf"[`\[ ]{field.name}[`\] ]", keys), field.name
