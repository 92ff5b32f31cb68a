"""The comparison of connections runs, and no server of ours speaks TLS 1.2."""

from __future__ import annotations

import re

import pytest

from benchmarks import connections


def test_it_measures_and_offers_older_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"PINGS": 5, "LOADS": 2, "WARM": 1, "TIMEOUT_S": 30}.items():
        monkeypatch.setattr(connections, name, value)
    monkeypatch.setattr(connections, "WAYS", connections.WAYS[:1])
    connections.main(["--repeats", "1"])
    shown = capsys.readouterr().out
    assert re.search(r"sockets, standard library \| \d+ µs \| \d+ µs \| [\d.]+ ms \| [\d.]+ GB/s", shown)
    assert "| TLS 1.2 | refused |" in shown and "| TLS 1.3 | accepted |" in shown


def test_the_page_has_a_place_for_both_tables() -> None:
    assert re.findall(r"<!-- figures: (\w+) -->", connections.PAGE.read_text()) == ["connections", "versions"]
