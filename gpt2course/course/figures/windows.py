"""Figures of lesson 06: the mask of every layer, the tiles that are visited, time against length, two losses."""

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt2course.course.figures.style import (  # isort: skip
    BLUE, FONT, LINES, SKY, figure, legend, log_ticks, name_axes, need, round_numbers,
)

NOTHING = "#EEEEEE"


def masks(layers: dict[str, list]) -> Figure:
    """Which keys each query sees, a square for each layer: name -> rows of booleans. At most four."""
    squares = all(m and all(len(row) == len(m) for row in m) for m in layers.values())
    need(1 <= len(layers) <= 4 and squares, "one to four square masks are needed")
    fig, axes = figure(2.3, columns=len(layers), grid="both")
    parts = []
    for ax, (name, m) in zip(axes, layers.items()):
        T, most = len(m), max(sum(row) for row in m)
        ax.grid(visible=False)
        ax.imshow(m, cmap=ListedColormap([NOTHING, BLUE]), vmin=0, vmax=1, extent=(0, T, T, 0))
        ax.set_title(name, fontsize=FONT)
        ax.set_xticks([0, T])
        ax.set_yticks([0, T] if ax is axes[0] else [])
        parts.append(f"in {name} a query sees at most {most} of {T}")
    name_axes(axes[0], y="query")
    fig.supxlabel("key", fontsize=FONT)
    fig.alt = f"The mask of each layer, queries downwards, keys to the right: {', '.join(parts)}."
    return fig


def tiles(kinds: list[list[int]]) -> Figure:
    """Tiles of scores, a row for each tile of queries: 0 skipped, 1 computed and partly hidden, 2 computed whole."""
    need(kinds and kinds[0] and all(len(row) == len(kinds[0]) for row in kinds), "no tile, or rows of unequal length")
    every = [x for row in kinds for x in row]
    need(set(every) <= {0, 1, 2}, "a tile is 0, 1 or 2")
    fig, (ax,) = figure(3.9, grid="both")
    ax.grid(visible=False)
    ax.pcolormesh(kinds, cmap=ListedColormap([NOTHING, SKY, BLUE]), vmin=0, vmax=2, edgecolors="white", linewidth=1)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    name_axes(ax, "tile of keys", "tile of queries")
    names = ("skipped", "partly hidden", "all visible")
    counts = [every.count(x) for x in (0, 1, 2)]
    marks = [Patch(color=c, label=f"{n}: {x}") for c, n, x in zip((NOTHING, SKY, BLUE), names, counts)]
    legend(fig, ax, handles=marks)
    said = ", ".join(f"{x} {n}" for n, x in zip(names, counts))
    fig.alt = f"{len(kinds)} x {len(kinds[0])} tiles of scores, queries downwards: {said}."
    return fig


def cost(times: dict[str, list[tuple[int, float]]]) -> Figure:
    """Milliseconds against the length of the text, a line for each way: name -> [(T, ms)]; both axes logarithmic."""
    need(1 <= len(times) <= len(LINES) and all(len(p) > 1 for p in times.values()), "a line needs two lengths or more")
    need(all(ms > 0 for p in times.values() for _, ms in p), "times must be above 0")
    fig, (ax,) = figure(3.2)
    parts = []
    for (name, points), (colour, style), mark in zip(times.items(), LINES, "osv^DP"):
        points = sorted(points)
        ax.plot(*zip(*points), color=colour, linestyle=style, marker=mark, linewidth=2, label=name)
        (first, a), (last, b) = points[0], points[-1]
        parts.append(f"{name}: {b / a:.1f} times as long at {last:,} tokens as at {first:,}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    log_ticks(ax.xaxis, sorted({n for p in times.values() for n, _ in p}))
    every = [ms for p in times.values() for _, ms in p]
    log_ticks(ax.yaxis, round_numbers(min(every) / 2, 2 * max(every), digits=(1, 3)))
    name_axes(ax, "tokens T (log scale)", "milliseconds (log scale)")
    legend(fig, ax)
    fig.alt = f"Time of attention against the length of the text. {'; '.join(parts)}."
    return fig


def losses(curves: dict[str, list[float]]) -> Figure:
    """Training losses by step: name -> losses. The first line is wide, so that an equal one shows on it."""
    need(1 <= len(curves) <= len(LINES) and all(len(c) > 1 for c in curves.values()), "a curve needs two steps or more")
    fig, (ax,) = figure(2.7)
    for i, ((name, loss), (colour, style)) in enumerate(zip(curves.items(), LINES)):
        ax.plot(range(1, len(loss) + 1), loss, color=colour, linestyle=style, linewidth=2 if i else 5, label=name,
                alpha=1 if i else 0.4)  # fmt: skip
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    name_axes(ax, "step", "training loss\n(nats per token)")
    legend(fig, ax)
    ends = [f"{name} from {loss[0]:.3f} to {loss[-1]:.3f}" for name, loss in curves.items()]
    fig.alt = f"Training loss by step: {'; '.join(ends)}."
    return fig
