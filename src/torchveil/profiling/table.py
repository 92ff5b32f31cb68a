"""A profile as a rich table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from torchveil.profiling.network import Network
from torchveil.profiling.rows import Figures, groups
from torchveil.profiling.units import duration, size

if TYPE_CHECKING:
    from torchveil.profiling.profile import Profile


def table(profile: Profile, by: str | Sequence[str], *, limit: int, networks: Sequence[Network]) -> Table:
    """Rows by ``by``, then what was in no instruction, then the sum of everything.

    The estimates of rows are ``sequential``, so that they add up; the caption has both bounds of the whole.
    """
    words = groups(by)
    networks = () if profile.remote else networks
    role_s = (lambda _: "") if profile.remote else duration
    wall_s, python_s, profiler_s = profile.wall_s, profile.python_s, profile.profiler_s
    out = Table(title=f"profile by {', '.join(words)}", caption=_caption(profile, networks), caption_justify="left")
    for word in words:
        out.add_column(word, overflow="fold")
    columns = ("instructions", "time", "%", "provider", "a party", "rounds", "sent/party", "dealt", "in and out")
    for column in (*columns, *(f"{network.name} ≤" for network in networks)):
        out.add_column(column, justify="right", no_wrap=True)

    def add(names: Sequence[str], figures: Figures, *, extra_s: float = 0.0, style: str | None = None) -> None:
        seconds, cost = figures.seconds + extra_s, figures.cost
        out.add_row(
            *(Text(name) for name in names),  # as it is: a module's name is no markup
            str(figures.instructions),
            duration(seconds),
            f"{100 * seconds / wall_s:.1f}" if wall_s else "",
            role_s(figures.provider_s),
            role_s(figures.slowest_s),
            str(cost.rounds),
            size(cost.sent),
            size(cost.dealt),
            size(cost.outside),
            *(duration(figures.estimate(network).sequential_s + extra_s) for network in networks),
            style=style,
        )

    def add_time(name: str, seconds: float, *, estimated: bool) -> None:
        share = f"{100 * seconds / wall_s:.1f}" if wall_s else ""
        estimates = [duration(seconds) if estimated else "" for _ in networks]
        blank = [""] * (len(words) - 1)
        out.add_row(name, *blank, "", duration(seconds), share, *[""] * (len(columns) - 3), *estimates)

    rows = list(profile.figures(words).items())
    for names, figures in rows[:limit]:
        add(names, figures)
    if len(rows) > limit:
        rest = sum((figures for _, figures in rows[limit:]), Figures())
        add([f"({len(rows) - limit} more)", *[""] * (len(words) - 1)], rest)
    add_time("(no instruction: Python, plain torch)", python_s, estimated=True)
    add_time("(the profile itself)", profiler_s, estimated=False)
    out.add_section()
    add(["total", *[""] * (len(words) - 1)], profile.total, extra_s=python_s, style="bold")
    return out


def _caption(profile: Profile, networks: Sequence[Network]) -> str:
    lines = [profile.took]
    for network in networks:
        estimate = profile.estimate(network)
        lines.append(
            f"{network.name} (estimated): {duration(estimate.overlapped_s)} if the provider works ahead, "
            f"{duration(estimate.sequential_s)} if it deals first"
        )
    return "\n".join(lines)
