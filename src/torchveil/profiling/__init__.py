"""Where a block of a program spends its time, rounds and bytes: measured by torch operation, module, gate and line."""

from __future__ import annotations

from torchveil.profiling.network import LAN, WAN, Estimate, Network
from torchveil.profiling.profile import Profile
from torchveil.profiling.rows import Figures, Place

__all__ = ["LAN", "WAN", "Estimate", "Figures", "Network", "Place", "Profile"]
