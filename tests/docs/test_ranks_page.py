"""docs/how-to/ranks.md as somebody would follow it: its files, its daemons under torchrun, its program on two ranks."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_pages import ROOT, blocks
from torchveil.cli import main
from torchveil.testing.clusters import _listens, free_ports

PAGE = ROOT / "docs" / "how-to" / "ranks.md"
FILE = re.compile(r"# ([a-z]+\.(?:toml|py))\n")
SHOWN = [str(port) for port in range(7001, 7007)]


@pytest.fixture
def daemons() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for daemon in started:
        daemon.terminate()  # torchrun ends the ranks that it started, which are no children of this process
    for daemon in started:
        daemon.wait(120)


def environment(tmp_path: Path) -> dict[str, str]:
    """``torchveil`` and torchrun are found as after an installation, whatever installed them here."""
    script = tmp_path / "bin" / "torchveil"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m torchveil.cli "$@"\n')
    script.chmod(0o755)
    search = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    path = os.pathsep.join([str(script.parent), os.environ.get("PATH", "")])
    return {**os.environ, "PYTHONPATH": search, "PATH": path, "OMP_NUM_THREADS": "1"}


def under_torchrun(words: list[str]) -> list[str]:
    """Three of them start on this machine, each needs a port of its own to begin with."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]


def test_somebody_who_follows_the_page_gets_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemons: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.chdir(tmp_path)
    ports = dict(zip(SHOWN, map(str, free_ports(len(SHOWN))), strict=True))
    env = environment(tmp_path)
    printed = ""
    for block in blocks(PAGE):
        if block.language in ("toml", "python"):
            found = FILE.match(block.code)
            assert found is not None, f"{PAGE}:{block.line}: which file is this?"
            (tmp_path / found[1]).write_text(re.sub(r"\b700[1-6]\b", lambda port: ports[port[0]], block.code))
            continue
        for line in block.code.splitlines() if block.language == "console" else ():
            words = shlex.split(line.removeprefix("$ ").removesuffix(" &"))
            if words[0] == "torchveil":
                assert main(words[1:]) == 0
            elif line.endswith("&"):
                log = (tmp_path / f"{words[-1]}.log").open("wb")
                daemons.append(
                    subprocess.Popen(under_torchrun(words), env=env, stdout=log, stderr=log, start_new_session=True)
                )
                log.close()
            else:
                ends = time.monotonic() + 300
                while not all(_listens(f"127.0.0.1:{port}") for port in ports.values()):
                    assert time.monotonic() < ends, "the daemons do not listen"
                    time.sleep(0.1)
                done = subprocess.run(
                    under_torchrun(words), env=env, capture_output=True, text=True, timeout=600, check=False
                )
                assert done.returncode == 0, done.stdout + done.stderr
                printed = done.stdout
    (accuracy,) = re.findall(r"^accuracy (\d\.\d\d)$", printed, re.MULTILINE)
    assert float(accuracy) > 0.85
    assert (tmp_path / "alice" / "rank-1" / "audit.jsonl").exists()
