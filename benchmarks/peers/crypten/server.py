"""CrypTen as a long-lived process: commands come in as lines of JSON, answers go out as lines of JSON.

    python -m benchmarks.peers.crypten.server [--threads 1]     (with the interpreter that install.py made)

``benchmarks/peers/client.py`` says what the commands are. Two parties run as processes that talk over loopback; one
of them makes all triples ("trusted first party", CrypTen's default provider), so that nothing is sent for
preprocessing and its work is inside the times. A time is that of the slower party, from a barrier to its end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any

PARTIES = 2


# --- one party --------------------------------------------------------------------------------------------------------


class Party:
    """One party's workloads, prepared once; each method but the private ones is a command."""

    def __init__(self) -> None:
        import crypten

        from benchmarks.peers.crypten import workloads

        self._crypten = crypten
        self._workloads = workloads
        self._runs: dict[str, Any] = {}

    def _run_of(self, name: str) -> Any:
        if name not in self._runs:
            self._runs.clear()  # one net at a time in memory
            self._runs[name] = self._workloads.prepare(name)
        return self._runs[name]

    def hello(self) -> dict[str, Any]:
        import torch

        provider = self._crypten.mpc.get_default_provider().NAME
        return {
            "peer": f"CrypTen {self._crypten.__version__}",
            "mode": f"{PARTIES} processes over loopback, provider {provider}, torch {torch.__version__}, "
            f"{torch.get_num_threads()} thread(s) each",
            "workloads": self._workloads.catalogue(),
        }

    def run(self, workload: str) -> dict[str, Any]:
        run = self._run_of(workload)
        self._crypten.communicator.get().barrier()
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}

    def cost(self, workload: str) -> dict[str, Any]:
        run, communicator = self._run_of(workload), self._crypten.communicator.get()
        self._crypten.reset_communication_stats()
        with self._crypten.config.cfg.temp_override({"communicator.verbose": True}):
            run()
        found = communicator.get_communication_stats()
        # CrypTen counts what a party sends and what it receives
        return {"sent_bytes": found["bytes"] // 2, "rounds": found["rounds"]}

    def error(self, workload: str) -> dict[str, Any]:
        return {"largest_error": self._workloads.error(workload)}

    def memory(self, workload: str) -> dict[str, Any]:
        from benchmarks.peak import peak_bytes

        run = self._run_of(workload)
        return {"peak_bytes": peak_bytes(run)}


def party_main(rank: int, rendezvous: str, threads: int, pipe: Connection) -> None:
    """Answer commands until None comes; an exception is an answer, too."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(PARTIES),
        RENDEZVOUS=f"file://{rendezvous}",
        DISTRIBUTED_BACKEND="gloo",
        GLOO_SOCKET_IFNAME="lo",
    )
    warnings.filterwarnings("ignore", module="crypten")  # of its own conversions; they say nothing about a figure
    import crypten
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    crypten.init()
    party = Party()
    while (message := pipe.recv()) is not None:
        try:
            command, arguments = message
            pipe.send(getattr(party, command)(*arguments))
        except Exception as problem:
            pipe.send({"error": f"{type(problem).__name__}: {problem}"})
    os._exit(0)  # CrypTen's own shutdown waits for its peer


# --- the server -------------------------------------------------------------------------------------------------------

#: How the parties' answers become one: time and bytes by the larger, work and memory by the sum, the rest of party 0.
COMBINE = {"seconds": max, "cpu_seconds": sum, "peak_bytes": sum, "sent_bytes": max}


def combine(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """One answer of all parties; an error of any of them is an error."""
    for answer in answers:
        if "error" in answer:
            return answer
    return {key: COMBINE.get(key, lambda found: found[0])([a[key] for a in answers]) for key in answers[0]}


COMMANDS = ("hello", "run", "cost", "error", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else prints does not mix with the answers
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(PARTIES):
            ours, theirs = context.Pipe()
            arguments = (rank, f"{folder}/rendezvous", options.threads, theirs)
            processes.append(context.Process(target=party_main, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
            pipes.append(ours)
        for line in sys.stdin:
            request = json.loads(line)
            command = request["command"]
            if command not in COMMANDS:
                answer = {"error": f"no command {command!r}"}
            else:
                for pipe in pipes:
                    pipe.send((command, [request["workload"]] if "workload" in request else []))
                answer = combine([pipe.recv() for pipe in pipes])
            print(json.dumps(answer), file=answers, flush=True)
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(timeout=10)


if __name__ == "__main__":
    main()
