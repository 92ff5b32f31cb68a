"""A profile as JSON, for programs.

    format, version    "torchveil.profile" and a number that grows when a field changes its meaning or goes
    parties, provider, backend
    wall_s, python_s, profiler_s, total
    networks           name -> latency_s, bandwidth_bytes_per_s, and the estimate of the whole, part by part; none,
                       and no seconds per role, with backend "network", whose roles were not timed
    rows               operation, module, gate, line; instructions; seconds, provider_s, parties_s, slowest_s;
                       rounds, sent_bytes, dealt_bytes, outside_bytes; estimates: network -> both bounds in seconds

Fields may be added under the same version.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torchveil.profiling.network import LAN, WAN, Estimate
from torchveil.profiling.rows import Figures

if TYPE_CHECKING:
    from torchveil.profiling.profile import Profile

FORMAT = "torchveil.profile"
VERSION = 1
NETWORKS = (LAN, WAN)


def to_json(profile: Profile) -> str:
    """The text, indented by one."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "parties": list(profile.session.parties),
        "provider": profile.session.provider,
        "backend": profile.session.backend,
        "wall_s": profile.wall_s,
        "python_s": profile.python_s,
        "profiler_s": profile.profiler_s,
        "total": _figures(profile.total),
        "networks": {
            network.name: {
                "latency_s": network.latency_s,
                "bandwidth_bytes_per_s": network.bandwidth_bytes_per_s,
                "estimate": {**_parts(profile.estimate(network)), **_bounds(profile.estimate(network))},
            }
            for network in (() if profile.remote else NETWORKS)
        },
        "rows": [{**place._asdict(), **_figures(figures)} for place, figures in profile.rows],
    }
    return json.dumps(document, indent=1)


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "instructions": figures.instructions,
        "seconds": figures.seconds,
        "provider_s": figures.provider_s,
        "parties_s": figures.parties_s,
        "slowest_s": figures.slowest_s,
        "rounds": figures.cost.rounds,
        "sent_bytes": figures.cost.sent,
        "dealt_bytes": figures.cost.dealt,
        "outside_bytes": figures.cost.outside,
        "estimates": {network.name: _bounds(figures.estimate(network)) for network in NETWORKS},
    }


def _parts(estimate: Estimate) -> dict[str, float]:
    return {field.name: getattr(estimate, field.name) for field in fields(estimate) if field.name != "network"}


def _bounds(estimate: Estimate) -> dict[str, float]:
    return {"overlapped_s": estimate.overlapped_s, "sequential_s": estimate.sequential_s}
