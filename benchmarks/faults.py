"""Roles that die, hang or lose a connection in the middle of training: who notices, when, and whom they name.

    python -m benchmarks.faults [--runs 50] [--seed 0] [--json out/faults.json] [--page]

A cluster of three daemons, processes of this machine, with a relay in each connection, trains a small network, eagerly
or as a plan. At a random moment one thing happens: kill -9 or SIGSTOP of a role or of the controller, a connection that
breaks or silently carries nothing more, or a role that stands still for less than the deadline. Then every survivor has
to end the session within the deadline and 2 s with an error that names the role (or an end of the connection), the
daemons have to serve the next session, and to hold as many descriptors and threads as before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

import torchveil
from benchmarks.report import insert, markdown
from benchmarks.run import processor
from torchveil import NetworkSession
from torchveil.errors import TorchveilError
from torchveil.network.config import ClusterConfig
from torchveil.testing.clusters import Processes, write_cluster
from torchveil.testing.delays import Relay
from torchveil.testing.faults import CONTROLLER, Ends, connections, endings, relayed, use_of
from torchveil.testing.training import step_of

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "reliability.md"
DEADLINE_S, HANDSHAKE_S, GRACE_S = 3.0, 3.0, 2.0
LIMITS = {"deadline_s": DEADLINE_S, "handshake_s": HANDSHAKE_S}
PHASES = ("eager", "plan", "idle", "opening")
#: How long the controller does something else in the phase "idle", and how long a slow role stands still.
IDLE_S, SLOW_S = 1.0, 1.2


def train(session: NetworkSession, *, plan: bool, idle: bool = False) -> Iterator[float]:
    """Steps of a small network without an end; the loss of every third is revealed."""
    torch.manual_seed(0)
    model = session.encrypt(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    x = session.share(torch.randn(32, 16))
    y = session.share(F.one_hot(torch.arange(32) % 4, 4).float())

    step = step_of(model, optimizer)
    run = torchveil.compile(step) if plan else step
    for k in itertools.count():
        loss = run(x, y)
        if k % 3 == 0:
            yield float(loss.reveal())
            if idle:
                time.sleep(IDLE_S)


@dataclass
class Run:
    """What happened to whom in which phase, after ``delay_s``; what each survivor said, and after how long."""

    fault: str
    victim: str
    phase: str
    delay_s: float
    seconds: dict[str, float] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    operation: str = ""
    line: str = ""
    wrong: list[str] = field(default_factory=list)

    def expect(self, fact: object, what: str) -> None:
        if not fact:
            self.wrong.append(what)


class Bench:
    """A running cluster with relays, and one fault after the other."""

    def __init__(self, directory: Path, config: ClusterConfig, relays: dict[Ends, Relay], roles: Processes) -> None:
        self.directory, self.config, self.relays, self.roles = directory, config, relays, roles
        self.file = directory / f"cluster-{CONTROLLER}.toml"
        self.names = [role.name for role in config.addresses]
        self.kinds = {role.name: str(role) for role in config.addresses} | {CONTROLLER: "controller/scientist"}
        self.serve_once()
        self.usual = {name: use_of(roles.pid(name)) for name in self.names}

    def serve_once(self) -> None:
        """A session from its opening to its end; raises what goes wrong."""
        with torchveil.connect(self.file) as session:
            loss = next(train(session, plan=False))
            if not 0.5 < loss < 5:
                raise RuntimeError(f"a wrong loss: {loss}")

    # --- faults ------------------------------------------------------------------------------------------------------

    def inject(self, run: Run) -> None:
        if run.fault in ("cut", "stall"):
            self.fault_of_link(run.fault, run.victim)
        else:
            self.roles.kill(run.victim, signal.SIGKILL if run.fault == "kill" else signal.SIGSTOP)
            if run.fault == "slow":
                time.sleep(SLOW_S)
                self.roles.kill(run.victim, signal.SIGCONT)

    def fault_of_link(self, fault: str, victim: str) -> None:
        caller, _, called = victim.partition("-")
        relay = self.relays[caller, called]
        if fault == "cut":
            relay.cut()
        else:
            relay.stall()

    def mend(self, run: Run) -> None:
        if run.fault == "kill":
            self.roles.start(run.victim)
        elif run.fault == "stop":
            self.roles.kill(run.victim, signal.SIGCONT)
        elif run.fault == "stall":
            caller, _, called = run.victim.partition("-")
            self.relays[caller, called].cut()
            self.relays[caller, called].resume()

    @staticmethod
    def allowed_s(run: Run) -> float:
        """Within which every survivor has to have ended its session."""
        return max(DEADLINE_S, 2 * HANDSHAKE_S if run.phase == "opening" else 0) + GRACE_S

    # --- runs --------------------------------------------------------------------------------------------------------

    def perform(self, run: Run) -> None:
        began = (self._of_controller if run.victim == CONTROLLER else self._of_role)(run)
        victims = run.victim.split("-")
        survivors = [name for name in self.names if name != run.victim]
        if run.fault != "slow":
            self._await_ends(run, survivors, began)
        for who, seconds in run.seconds.items():
            run.expect(seconds < self.allowed_s(run), f"{who} took {seconds:.1f} s")
            run.expect(run.named[who] in {self.kinds[name] for name in victims}, f"{who} names {run.named[who]!r}")
        if run.victim != CONTROLLER:
            self.mend(run)
        self._check_after(run)

    def _of_role(self, run: Run) -> float:
        """The controller is this process. When the fault happened, in seconds since 1970."""
        moment: list[float] = []

        def strike() -> None:
            moment.append(time.time())
            self.inject(run)

        timer = threading.Timer(run.delay_s, strike)
        timer.start()
        ended: TorchveilError | None = None
        try:
            self._work_until(run, timer)
        except TorchveilError as error:
            ended = error
        now = time.time()
        timer.join()
        if run.fault == "slow":
            run.expect(ended is None, f"the controller got {getattr(ended, 'code', '')}")
        elif ended is None:
            # while sessions are opened and closed, there may be no connection, or nothing due on it before it is closed
            run.expect(run.fault in ("cut", "stall") and run.phase == "opening", "the controller went on")
        else:
            run.seconds[CONTROLLER] = now - moment[0]
            run.named[CONTROLLER] = ended.at_fault
            run.codes[CONTROLLER] = ended.code
            run.operation, run.line = ended.op, ended.line.rpartition("/")[2]
            run.expect("benchmarks" in ended.line, "no line of the program")
            run.expect(ended.op or run.phase == "opening", "no operation")
        return moment[0]

    def _work_until(self, run: Run, timer: threading.Timer) -> None:
        """Train until an error, or for a while after a fault that must not cause one."""
        while run.phase == "opening":
            with torchveil.connect(self.file):
                if not timer.is_alive():
                    return
        with torchveil.connect(self.file) as session:
            until = time.monotonic() + run.delay_s + (2 * SLOW_S if run.fault == "slow" else 60)
            for _ in train(session, plan=run.phase == "plan", idle=run.phase == "idle"):
                if time.monotonic() > until:
                    return

    def _of_controller(self, run: Run) -> float:
        """The controller is a process of its own."""
        words = [sys.executable, "-m", "benchmarks.faults", "--train", str(self.file), "--phase", run.phase]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            if child.stdout is None or not child.stdout.readline():
                raise RuntimeError("the controller did not start")
            time.sleep(run.delay_s)
            moment = time.time()
            child.send_signal(signal.SIGKILL if run.fault == "kill" else signal.SIGSTOP)
            if run.fault == "stop":
                self._await_ends(run, self.names, moment)
            return moment
        finally:
            child.kill()
            child.wait()

    def _await_ends(self, run: Run, survivors: Sequence[str], began: float) -> None:
        """Collect from their logs how the survivors' sessions ended."""
        roles = [role for role in self.config.addresses if role.name in survivors and role.name not in run.seconds]
        until = time.monotonic() + self.allowed_s(run) + GRACE_S
        while roles and time.monotonic() < until:
            for role in list(roles):
                found = endings(self.directory, role, began - 0.001)
                if found:
                    run.seconds[role.name] = max(found[0].at_s - began, 0.0)
                    run.named[role.name], run.codes[role.name] = found[0].at_fault, found[0].code
                    roles.remove(role)
            time.sleep(0.02)
        if run.phase != "opening":  # there a role may have had no session
            run.expect(not roles, f"no end at {', '.join(role.name for role in roles)}")

    def _check_after(self, run: Run) -> None:
        """The daemons serve the next session and hold no more than they did."""
        run.expect(set(self.roles.statuses().values()) == {None}, "a daemon ended")
        try:
            self.serve_once()
        except TorchveilError as error:
            run.wrong.append(f"the next session: {error.message}")
        for name in self.names:
            self._settle(run, name)

    def _settle(self, run: Run, name: str) -> None:
        usual, until = self.usual[name], time.monotonic() + 8
        while (now := use_of(self.roles.pid(name))).descriptors > usual.descriptors and time.monotonic() < until:
            time.sleep(0.05)
        run.expect(
            now.descriptors <= usual.descriptors, f"{name}: {now.descriptors} descriptors, not {usual.descriptors}"
        )


# --- the plan of runs, and its figures -------------------------------------------------------------------------------


def plan_of_runs(config: ClusterConfig, n_runs: int, seed: int) -> list[Run]:
    """Every fault of every victim as often as every other, phases and moments drawn."""
    draw = random.Random(seed)
    names = [role.name for role in config.addresses]
    links = [f"{caller}-{called}" for caller, called in connections(config)]
    kinds = [(fault, name) for fault in ("kill", "stop") for name in (*names, CONTROLLER)]
    kinds += [(fault, link) for fault in ("cut", "stall") for link in links]
    kinds += [("slow", name) for name in names]
    chosen = [kind for _, kind in zip(range(n_runs), itertools.cycle(draw.sample(kinds, len(kinds))), strict=False)]
    runs = []
    for fault, victim in chosen:
        phases = [phase for phase in PHASES if not (phase == "opening" and (victim == CONTROLLER or fault == "slow"))]
        runs.append(Run(fault, victim, draw.choice(phases), round(draw.uniform(0.1, 2.0), 2)))
    return runs


_SAYS = {
    "kill": "kill -9 of {}",
    "stop": "SIGSTOP of {}",
    "cut": "connections reset",
    "stall": "connections carry nothing",
    "slow": "a role stands still for 1.2 s",
}


def block(runs: Sequence[Run]) -> str:
    """The table of the page."""
    rows = []
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_SAYS[run.fault].format(run.victim), []).append(run)
    for says in sorted(groups):
        mine = groups[says]
        seconds = sorted(second for run in mine for second in run.seconds.values())
        shown = [f"{value:.2f} s" for value in (seconds[0], median(seconds), seconds[-1])] if seconds else ["none"] * 3
        good = sum(not run.wrong for run in mine)
        rows.append((says, str(len(mine)), str(len(seconds)), *shown, f"{good} of {len(mine)}"))
    good = sum(not run.wrong for run in runs)
    head = ("fault", "runs", "survivors that ended", "first", "median", "last", "as required")
    return f"{len(runs)} runs, {good} of them as required; deadline {DEADLINE_S:g} s, {processor()}:\n\n" + markdown(
        head, rows
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="which faults in which order, and when")
    parser.add_argument("--json", type=Path, help="write every run")
    parser.add_argument("--page", action="store_true", help="write the table into docs/explanation/reliability.md")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--phase", default="eager", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.train:
        with torchveil.connect(options.train) as session:
            for loss in train(session, plan=options.phase == "plan", idle=options.phase == "idle"):
                print(loss, flush=True)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = write_cluster(directory, limits=LIMITS)
        runs = plan_of_runs(config, options.runs, options.seed)
        with relayed(directory, config) as relays, Processes(directory) as roles:
            bench = Bench(directory, config, relays, roles)
            for k, run in enumerate(runs):
                bench.perform(run)
                seconds = " ".join(f"{who} {value:.2f}" for who, value in run.seconds.items())
                print(f"{k + 1:3} {run.fault:5} {run.victim:18} {run.phase:7} {run.delay_s:.2f} s: {seconds}", end=" ")
                print("; ".join(run.wrong) or "ok", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    if options.page:
        PAGE.write_text(insert(PAGE.read_text(), lambda name: block(runs) if name == "faults" else None))
    print(block(runs))
    return int(any(run.wrong for run in runs))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
