"""docs/reference/layout.md names a file once: two rows would say two things."""

from __future__ import annotations

import re
from collections import Counter

from tests.docs.test_pages import ROOT


def test_no_file_has_two_rows() -> None:
    parts = re.split(r"^### ", (ROOT / "docs" / "reference" / "layout.md").read_text(), flags=re.MULTILINE)
    rows = [
        (re.findall(r"`[\w/]+/`", part.partition("\n")[0]) or ["the top"], name)
        for part in parts
        for line in part.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([\w/]+\.py)`", line.split("|")[1])
    ]
    assert len(rows) > 100
    assert [row for row, n in Counter((folders[0], name) for folders, name in rows).items() if n > 1] == []
