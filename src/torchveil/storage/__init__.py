"""Shares at rest: one role's tensors in encrypted, authenticated files, and what a party does to keep a checkpoint."""

from torchveil.storage.checkpoint import Checkpoint, Holder, Place, read_shares, write_shares
from torchveil.storage.keys import load_key, load_or_create_key
from torchveil.storage.manifest import Entry, Manifest
from torchveil.storage.store import ShareStore

__all__ = [
    "Checkpoint",
    "Entry",
    "Holder",
    "Manifest",
    "Place",
    "ShareStore",
    "load_key",
    "load_or_create_key",
    "read_shares",
    "write_shares",
]
