"""A profile as one HTML page that loads nothing: no network, no scripts of others; names are text, never markup.

Names of modules come from users. In the tables they pass ``html.escape``; for the script they lie in a block of JSON in
which ``<``, ``>`` and ``&`` are escaped, and the script only ever sets ``textContent``. The page's own policy lets run
that one script, known by its hash, and nothing else. Without scripts the tables remain.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from torchveil.profiling.network import LAN, WAN
from torchveil.profiling.rows import Figures
from torchveil.profiling.tree import plain, quantities, tree
from torchveil.profiling.units import duration, size

if TYPE_CHECKING:
    from torchveil.profiling.profile import Profile

NETWORKS = (LAN, WAN)
_TABLES: tuple[tuple[str, ...], ...] = (
    ("modules",),
    ("operations",),
    ("gates",),
    ("modules", "operations"),
    ("lines",),
)


def page(profile: Profile) -> str:
    """The text of the page."""
    style, script = _asset("flame.css"), _asset("flame.js")
    data = {"quantities": quantities(NETWORKS), "tree": plain(tree(profile), NETWORKS)}
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            "<title>torchveil profile</title>",
            f"<style>{style}</style></head><body>",
            "<h1>torchveil profile</h1>",
            f"<p>{escape(_headline(profile))}</p>",
            '<section id="flame-view" hidden><p><label>Width: <select id="quantity"></select></label> '
            '<span id="trail"></span></p><div id="flame"></div><p id="told" aria-live="polite"></p></section>',
            *_estimates(profile),
            *(line for by in _TABLES for line in _table(profile, by)),
            f'<script type="application/json" id="data">{_embedded(data)}</script>',
            f"<script>{script}</script>",
            "</body></html>\n",
        ]
    )


def _asset(name: str) -> str:
    return files("torchveil.profiling").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: object) -> str:
    """JSON that cannot end the element in which it stands."""
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _headline(profile: Profile) -> str:
    total = profile.total
    return (
        f"{profile.took} {total.instructions} instructions, "
        f"{total.cost.rounds} rounds; each party sent {size(total.cost.sent)}, {profile.session.provider} dealt "
        f"{size(total.cost.dealt)} to {', '.join(profile.session.parties)}; {size(total.cost.outside)} in and out"
    )


def _row(cells: Iterable[object], cell: str = "td") -> str:
    return "<tr>" + "".join(f"<{cell}>{escape(str(text))}</{cell}>" for text in cells) + "</tr>"


def _estimates(profile: Profile) -> list[str]:
    if profile.remote:
        return []
    heads = ("network", "compute", "latency", "transfer", "provider", "dealing", "provider ahead", "provider first")
    lines = ["<h2>Estimated between machines</h2>", "<table>", _row(heads, "th")]
    for network in NETWORKS:
        e = profile.estimate(network)
        times = (e.compute_s, e.latency_s, e.transfer_s, e.provider_s, e.dealing_s, e.overlapped_s, e.sequential_s)
        speed = f"{network.latency_s * 1e3:g} ms each way, {network.bandwidth_bytes_per_s * 8 / 1e6:g} Mbit/s"
        lines.append(_row([f"{network.name} ({speed})", *map(duration, times)]))
    return [*lines, "</table>"]


def _table(profile: Profile, by: Sequence[str]) -> list[str]:
    heads = (*by, "instructions", "time", "provider", "a party", "rounds", "sent/party", "dealt", "in and out")
    estimated = () if profile.remote else NETWORKS
    networks = [f"{network.name} ≤" for network in estimated]
    lines = [f"<details><summary>By {escape(', '.join(by))}</summary>", "<table>", _row([*heads, *networks], "th")]

    def add(names: Sequence[str], figures: Figures) -> None:
        cost = figures.cost
        roles_s = (figures.provider_s, figures.slowest_s)
        times = [duration(figures.seconds), *("" if profile.remote else duration(s) for s in roles_s)]
        amounts = [cost.rounds, size(cost.sent), size(cost.dealt), size(cost.outside)]
        estimates = [duration(figures.estimate(network).sequential_s) for network in estimated]
        lines.append(_row([*names, figures.instructions, *times, *amounts, *estimates]))

    blank = [""] * (len(by) - 1)
    for names, figures in profile.figures(by).items():
        add(names, figures)
    add(["all instructions", *blank], profile.total)
    lines.append(_row(["no instruction: Python, plain torch", *blank, "", duration(profile.python_s)]))
    lines.append(_row(["the profile itself", *blank, "", duration(profile.profiler_s)]))
    return [*lines, "</table></details>"]
