"""Figures of lesson 11: chunks on a ring, the time line of a step, bytes on the wire, losses."""

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from gpt2course.course.figures.style import (  # isort: skip
    BLUE, FONT, GREEN, GREY, LINES, ORANGE, PURPLE, SKY, TINTS, VERMILION,
    canvas, figure, legend, name_axes, name_rows, need,
)  # fmt: skip

COLOURS = {  # what a rank does -> colour; the network is drawn below the computing
    "backward": BLUE, "forward and backward": BLUE, "adamw": GREEN, "muon": GREEN, "update": GREEN, "wait": "#DDDDDD",
    "all_reduce": PURPLE, "reduce_scatter": VERMILION, "all_gather": ORANGE,
}  # fmt: skip
NETWORK = ("all_reduce", "reduce_scatter", "all_gather")


def ring(states: list[list[list[int]]], names: list[str]) -> Figure:
    """Chunks by rank, a table for each state: states[s][rank][chunk] is the number of ranks whose numbers are in it."""
    need(states and len(states) == len(names) and all(s and s[0] for s in states), "no state, or one without a name")
    world, chunks = len(states[0]), len(states[0][0])
    fig, ax = canvas(0.75 + 0.3 * world, (-0.9, len(states) * (chunks + 0.8)), (world + 0.4, -1.1))
    for s, (state, name) in enumerate(zip(states, names)):
        left = s * (chunks + 0.8)
        ax.text(left + chunks / 2, -0.5, name, ha="center", va="center", fontsize=FONT)
        for r, row in enumerate(state):
            if s == 0:
                ax.text(left - 0.15, r + 0.5, f"{r}", ha="right", va="center", fontsize=FONT)
            for c, n in enumerate(row):
                colour = GREEN if n == world else TINTS[0] if n == 1 else SKY
                ax.add_patch(Rectangle((left + c + 0.04, r + 0.04), 0.92, 0.92, color=colour, linewidth=0))
                ax.text(left + c + 0.5, r + 0.5, str(n), ha="center", va="center", fontsize=FONT)
    whole = [sum(n == world for row in state for n in row) for state in states]
    parts = ", ".join(f"{name}: {n} whole" for name, n in zip(names, whole))
    fig.alt = f"How many ranks' numbers are in each chunk, a row for each of {world} ranks; of {world * chunks} chunks, {parts}."
    return fig


def timeline(spans: list[tuple], unit: str = "ticks", what: str = "One step") -> Figure:
    """(rank, what, start, end) as bars, a row for each rank; collectives lie below what the rank computes meanwhile."""
    need(spans and all(s[1] in COLOURS for s in spans), "no span, or one of an unknown kind")
    ranks = max(s[0] for s in spans) + 1
    fig, (ax,) = figure(1.3 + 0.55 * ranks, grid="x")
    for rank, kind, start, end in spans:
        low, height = (rank + 0.08, 0.28) if kind in NETWORK else (rank - 0.32, 0.36)
        ax.broken_barh([(start, end - start)], (low, height), color=COLOURS[kind], linewidth=0.5, edgecolor="white")
    name_rows(ax, [f"rank {r}" for r in range(ranks)], below=0.5)
    last = max(s[3] for s in spans)
    ax.set_xlim(0, last * 1.01)
    name_axes(ax, unit)
    kinds = [k for k in COLOURS if any(s[1] == k for s in spans)]
    legend(fig, ax, 3, [Patch(color=COLOURS[k], label=k.replace("_", "-")) for k in kinds])
    waits = [sum(e - s for r, k, s, e in spans if r == rank and k == "wait") for rank in range(ranks)]
    parts = ", ".join(f"rank {r} waits {w:.0f}" for r, w in enumerate(waits))
    fig.alt = f"{what} on {ranks} ranks, {last:.0f} {unit}: {parts}."
    return fig


def bars(parts: dict[str, float], unit: str, what: str) -> Figure:
    """One horizontal bar for each name."""
    need(parts and all(v >= 0 for v in parts.values()), "no part, or one below 0")
    fig, (ax,) = figure(0.9 + 0.36 * len(parts), grid="x")
    drawn = ax.barh(range(len(parts)), list(parts.values()), color=BLUE, height=0.66)
    ax.bar_label(drawn, [f"{v:.3g}" for v in parts.values()], padding=4, fontsize=FONT)
    name_rows(ax, list(parts))
    ax.set_xlim(0, max(parts.values()) * 1.15 or 1)
    name_axes(ax, unit)
    fig.alt = f"{what}, {unit}: {', '.join(f'{name} {v:.3g}' for name, v in parts.items())}."
    return fig


def losses(curves: dict[str, list[float]], split: int | None = None) -> Figure:
    """Training losses by step; the first line is wide, so that an equal one shows on it. split: a step to mark."""
    need(1 <= len(curves) <= len(LINES) and all(curves.values()), "one to six curves are needed")
    fig, (ax,) = figure(2.7)
    for i, ((name, loss), (colour, style)) in enumerate(zip(curves.items(), LINES)):
        steps = range(1, len(loss) + 1)
        ax.plot(steps, loss, color=colour, linestyle=style, linewidth=2 if i else 6, alpha=1 if i else 0.35, label=name)
    if split:
        ax.axvline(split, color=GREY, linewidth=1, linestyle=":")
    name_axes(ax, "step", "training loss\n(nats per token)")
    legend(fig, ax)
    ends = [f"{name} from {loss[0]:.3f} to {loss[-1]:.3f}" for name, loss in curves.items()]
    fig.alt = f"Training loss by step: {'; '.join(ends)}."
    return fig
