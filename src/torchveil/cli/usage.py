"""What a command raises for arguments that make no sense."""

from __future__ import annotations


class UsageError(Exception):
    """Arguments that make no sense together."""
