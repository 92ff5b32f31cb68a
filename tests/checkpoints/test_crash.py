"""A save that dies at any step leaves a checkpoint: the one before, or the new one, whole.

Steps are the calls by which something gets to disk: forcing a file or folder, renaming, removing. They fail one after
another, once with an error, once with a SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from torchveil.errors import StorageError
from torchveil.session import Session

ROOT = Path(__file__).resolve().parents[2]
N_STEPS = 3 * 3 + 2 * 2
STEPS = ((os, "fsync"), (Path, "rename"), (Path, "unlink"))


@contextmanager
def failing_at(step: int, fail: Callable[[], None]) -> Iterator[None]:
    """The call number ``step`` (from 0) fails before it has an effect."""
    calls = [0]
    before = {(owner, name): getattr(owner, name) for owner, name in STEPS}

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == step + 1:
                fail()
            return real(*args, **kwargs)

        return call

    for (owner, name), real in before.items():
        setattr(owner, name, counted(real))
    try:
        yield
    finally:
        for (owner, name), real in before.items():
            setattr(owner, name, real)


def save(path: Path, value: float) -> None:
    session = Session()
    session.save(path, {"x": session.share(torch.full((3,), value)), "plain": torch.tensor(value)})


def load(path: Path) -> float:
    state = Session().load(path)
    values = {*state["x"].reveal().tolist(), float(state["plain"])}
    assert len(values) == 1, "parts of two saves"
    return float(values.pop())


def refuse() -> None:
    raise OSError(5, "Input/output error")


def test_a_save_that_fails_at_any_step(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for value in (1.0, 2.0):
        save(path, value)
    replaced = []
    for step in range(100):
        save(path, 1.0)
        with failing_at(step, refuse):
            try:
                save(path, 2.0)
            except StorageError:
                pass
            else:
                break
        found = load(path)
        assert found in (1.0, 2.0)
        replaced.append(found == 2.0)
        assert not list(path.rglob("*.partial"))
    # three files, each forced, renamed and its folder forced; two old ones removed, and that forced
    assert step == N_STEPS
    # only the last step comes after the new controller's part is in its place
    assert replaced == [False] * (step - 1) + [True]
    assert load(path) == 2.0 and len(list(path.rglob("*.sealed"))) == 5


def child() -> None:
    """Fork a child for every step, which is killed there; each time the checkpoint must be whole."""
    path = Path(sys.argv[1])

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def forked(work: Callable[[], float]) -> int:
        """The exit status of a child that does it: the value, or minus a signal."""
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(int(work()))
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(255)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def saving(value: float, step: int = 10**9) -> int:
        def work() -> float:
            with failing_at(step, die):
                save(path, value)
            return 0

        return forked(work)

    def remains() -> int:
        return len(list(path.rglob("*.partial")))

    assert saving(1.0) == 0
    killed, left, replaced = 0, 0, 0
    while True:
        assert saving(1.0) == 0 and remains() == 0
        status = saving(2.0, killed)
        found = forked(lambda: load(path))
        if status == 0:
            break
        assert status == -signal.SIGKILL and found in (1, 2), (killed, status, found)
        replaced += found == 2
        left += remains()
        killed += 1
    print(f"killed {killed} replaced {replaced} left {left} last {found}")


def test_a_save_that_is_killed_at_any_step(tmp_path: Path) -> None:
    """Sessions live in forks of a process that has done nothing but import: one start of torch for all of them.

    A file that was being written is left behind twice for each of the three, and cleared by the next save.
    """
    done = subprocess.run(
        [sys.executable, "-c", "from tests.checkpoints.test_crash import child; child()", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"killed {N_STEPS} replaced 1 left 6 last 2\n"
