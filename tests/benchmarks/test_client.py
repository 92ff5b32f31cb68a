"""The lines of JSON between us and a peer, with a fake peer as a real subprocess."""

from __future__ import annotations

import sys
import types

import pytest

from benchmarks.inputs import WORKS
from benchmarks.peers.client import Peer, PeerError
from benchmarks.peers.crypten import server
from benchmarks.peers.crypten.install import PATCHES, Patch

FAKE = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["command"] == "hello":
        answer = {"peer": "Fake 1", "mode": "none", "workloads": {"a": {"note": "so"}, "b": {"unavailable": "no b"}}}
    elif request["command"] == "run" and request["workload"] == "a":
        answer = {"seconds": 0.25, "cpu_seconds": 0.4}
    elif request["command"] == "die":
        sys.exit(3)
    else:
        answer = {"error": "cannot " + request["command"]}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def peer():
    with Peer([sys.executable, "-c", FAKE]) as found:
        yield found


def test_a_peer_says_who_it_is_and_what_it_can(peer):
    assert (peer.name, peer.mode) == ("Fake 1", "none")
    assert (peer.unavailable("a"), peer.note("a")) == (None, "so")
    assert (peer.unavailable("b"), peer.note("b")) == ("no b", "")
    assert peer.unavailable("c") is not None


def test_a_run_is_answered_by_its_seconds(peer):
    assert peer.run("a") == (0.25, 0.4)
    assert peer.run("a") == (0.25, 0.4)


def test_an_error_is_raised_and_the_peer_lives_on(peer):
    with pytest.raises(PeerError, match="cannot cost"):
        peer.ask("cost", "a")
    assert peer.run("a") == (0.25, 0.4)


def test_a_peer_that_ends_is_an_error_and_not_a_wait(peer):
    for _ in range(2):
        with pytest.raises(PeerError, match="ended"):
            peer.ask("die")


def test_the_answers_of_both_parties_become_one():
    assert server.combine([{"seconds": 1.0, "rounds": 3}, {"seconds": 2.0, "rounds": 3}]) == {
        "seconds": 2.0,
        "rounds": 3,
    }
    assert server.combine([{"cpu_seconds": 1.0}, {"cpu_seconds": 2.0}]) == {"cpu_seconds": 3.0}
    assert server.combine([{"peak_bytes": 5}, {"peak_bytes": 7}]) == {"peak_bytes": 12}
    assert server.combine([{"seconds": 1.0}, {"error": "no"}]) == {"error": "no"}


def test_the_commands_of_the_server_are_methods_of_its_parties():
    assert all(callable(getattr(server.Party, command)) for command in server.COMMANDS)


def test_crypten_runs_every_workload_or_says_why_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "crypten", types.ModuleType("crypten"))
    from benchmarks.peers.crypten import workloads

    found = workloads.catalogue()
    assert set(found) == {work.name for work in WORKS}
    assert all(set(entry) in ({"note"}, {"unavailable"}) for entry in found.values())
    monkeypatch.delitem(workloads.FUNCTIONS, "relu")
    assert "relu" in workloads.catalogue()["W3 relu 2^20"]["unavailable"]


def test_a_patch_applies_to_the_text_it_was_written_for_only():
    patch = Patch("file", "old", "new", "reason")
    assert patch.apply("an old line") == "an new line"
    for text in ("a line", "old and old"):
        with pytest.raises(ValueError, match="file"):
            patch.apply(text)
    assert all(patch.reason and patch.old != patch.new for patch in PATCHES)
