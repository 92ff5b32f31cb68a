"""What all tests have in common."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _clear_data_are_the_same_in_every_run() -> None:
    """Whichever tests a worker ran before: what a test draws in the clear is no chance, only secret rounding is."""
    torch.manual_seed(0)
