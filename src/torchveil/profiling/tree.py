"""A profile as a tree: session, the parts of the module path, operation, gate. What the page draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchveil.profiling.network import Network
from torchveil.profiling.rows import Figures, name_of

if TYPE_CHECKING:
    from torchveil.profiling.profile import Profile


@dataclass(slots=True)
class Node:
    """One box: ``kind`` is session, module, operation, gate, python or profiler; figures with all below it.

    ``python_s`` and ``profiler_s`` are the seconds in no instruction, with all below it too.
    """

    name: str
    kind: str
    figures: Figures = field(default_factory=Figures)
    python_s: float = 0.0
    profiler_s: float = 0.0
    children: dict[tuple[str, str], Node] = field(default_factory=dict)

    def child(self, kind: str, name: str) -> Node:
        """The child of this kind and name, made if there is none."""
        return self.children.setdefault((kind, name), Node(name, kind))


def tree(profile: Profile) -> Node:
    """The tree of a profile; its root's time is the wall time."""
    root = Node("session", "session")
    for place, figures in profile.rows:
        parts = place.module.split(".") if place.module else [name_of(place, "modules")]
        path = [("module", part) for part in parts]
        path += [("operation", name_of(place, "operations")), ("gate", name_of(place, "gates"))]
        node = root
        node.figures += figures
        for kind, name in path:
            node = node.child(kind, name)
            node.figures += figures
    root.python_s, root.profiler_s = profile.python_s, profile.profiler_s
    root.child("python", "(no instruction: Python, plain torch)").python_s = root.python_s
    root.child("profiler", "(the profile itself)").profiler_s = root.profiler_s
    return root


def plain(node: Node, networks: Sequence[Network]) -> dict[str, Any]:
    """A node and what is below it for JSON: name, kind, values in the order of ``quantities``, children."""
    figures, cost = node.figures, node.figures.cost
    return {
        "name": node.name,
        "kind": node.kind,
        "instructions": figures.instructions,
        "values": [
            figures.seconds + node.python_s + node.profiler_s,
            cost.rounds,
            cost.sent,
            cost.dealt,
            cost.outside,
            *(figures.estimate(network).sequential_s + node.python_s for network in networks),
        ],
        "children": [plain(child, networks) for child in node.children.values()],
    }


def quantities(networks: Sequence[Network]) -> list[dict[str, str]]:
    """What the width of a box may mean, in the order of a node's values."""
    return [
        {"name": "time in this process", "unit": "s"},
        {"name": "rounds", "unit": ""},
        {"name": "bytes sent by a party", "unit": "B"},
        {"name": "bytes dealt by the provider", "unit": "B"},
        {"name": "bytes in and out", "unit": "B"},
        *({"name": f"estimated time, {network.name}", "unit": "s"} for network in networks),
    ]
