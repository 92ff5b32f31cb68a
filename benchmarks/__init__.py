"""Workloads, their measurement against plain torch and other systems, and the figures of the documentation."""
