"""Drivers run gates: they move messages and know nothing of protocols."""
