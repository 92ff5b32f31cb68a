"""Checking a program before it is shared: what does not run, what may leave its range, what it costs."""

from __future__ import annotations

from torchveil.checking.check import check
from torchveil.checking.findings import Finding
from torchveil.checking.report import Report
from torchveil.checking.walk import Phase

__all__ = ["Finding", "Phase", "Report", "check"]
