"""What commands take if nothing is said, and what one raises for arguments that make no sense."""

from __future__ import annotations

#: The file of the cluster that a command asks, in the directory that it is called in.
CLUSTER_FILE = "cluster.toml"


class UsageError(Exception):
    """Arguments that make no sense together."""
