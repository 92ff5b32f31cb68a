"""SECURITY.md and docs/security/consent.md beside the table of services."""

from __future__ import annotations

import pytest

from tests.docs.test_pages import ROOT
from torchveil.network.service_table import SERVICES
from torchveil.network.services import ANYBODY


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/security/consent.md"])
def test_what_everybody_may_ask_is_written_down(page: str) -> None:
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| anybody with a certificate")]
    answered = {name for table in SERVICES.values() for name, service in table.items() if service.who == ANYBODY}
    answered.remove("ping")  # says nothing
    assert len(rows) == 1 and answered
    assert all(f"`{name}`" in rows[0] for name in answered)
