"""Figures of lesson 09: curves of equal budget, a law and its forecast, the bias of parabolas, the game's scores."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, DOTS, FONT, LINES, ORANGE, SKY, VERMILION, amount, figure, legend, log_ticks, name_axes, name_rows,
    need, note, round_numbers,
)

MARKS = "osv^DPX"
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")


def curves(budgets: dict[float, list[tuple[float, float]]], fits: dict[float, tuple] | None = None) -> Figure:
    """Bits per byte against size, a colour for each budget: budget -> [(N, bpb)]. fits: budget -> (a, log N, bpb)."""
    need(budgets and all(budgets.values()), "no budget has a run")
    need(len(budgets) <= len(CURVES), f"at most {len(CURVES)} budgets can be shown")
    fig, (ax,) = figure(3.9)
    parts, every = [], [n for points in budgets.values() for n, _ in points]
    for (budget, points), colour, mark in zip(sorted(budgets.items()), CURVES, MARKS):
        ax.plot(*zip(*points), mark, color=colour, markersize=6, label=f"{budget:.3g}", **DOTS)
        if fits and budget in fits:
            a, x, bpb = fits[budget]
            low, high = (math.log(f(n for n, _ in points)) for f in (min, max))
            xs = [low + (high - low) * i / 60 for i in range(61)]
            ax.plot([math.exp(u) for u in xs], [bpb + a * (u - x) ** 2 for u in xs], color=colour, linewidth=1.4)
            ax.plot(math.exp(x), bpb, "*", color=colour, markersize=14, markeredgecolor=BLACK)
            parts.append(f"at {budget:.3g} FLOPs the best size is {math.exp(x):,.0f}")
    ax.set_xscale("log")
    log_ticks(ax.xaxis, round_numbers(min(every), max(every)), amount)
    name_axes(ax, "parameters N (log scale)", "validation (bits per byte)")
    legend(fig, ax, ncols=4, title="FLOPs", title_fontsize=FONT)
    fig.alt = f"Bits per byte against size at {len(budgets)} budgets of FLOPs, a mark for each run. "
    fig.alt += f"Parabolas with their minima as stars: {'; '.join(parts)}." if parts else "No curves are drawn."
    return fig


def law(minima: list[tuple[float, float]], line: tuple, band: list[tuple] = (), beyond: tuple | None = None) -> Figure:
    """Best size against budget: [(C, N)], the law (exponent, factor), band [(C, low, high)], a point (C, N) beyond."""
    need(len(minima) > 1, "a law needs two minima or more")
    fig, (ax,) = figure(3.4)
    exponent, factor = line
    cs = [c for c, _ in minima] + [c for c, *_ in band] + ([beyond[0]] if beyond else [])
    ends = (min(cs) / 1.3, max(cs) * 1.3)
    if band:
        ax.fill_between(*zip(*band), color=SKY, alpha=0.4, linewidth=0, label="95 % of the draws")
    ax.plot(ends, [factor * c**exponent for c in ends], color=BLUE, linewidth=1.6, label="power law")
    ax.plot(*zip(*minima), "o", color=BLUE, markersize=7, label="minima of the parabolas", **DOTS)
    fig.alt = f"Best size against budget on logarithmic axes: N grows as C to the power {exponent:.2f}."
    if beyond:
        ax.plot(*beyond, "*", color=VERMILION, markersize=15, markeredgecolor=BLACK, label="hidden budget")
        fig.alt += (
            f" The hidden budget's minimum is {beyond[1]:,.0f}, the law gives {factor * beyond[0] ** exponent:,.0f}."
        )
    for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        scale("log")
        low, high = axis.get_view_interval()
        log_ticks(axis, round_numbers(low, high, digits=(1, 2, 3, 4, 6, 8) if high / low < 10 else (1, 3)), amount)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0e}".replace("e+", "e")))
    name_axes(ax, "budget C (FLOPs, log scale)", "best size N (log scale)")
    legend(fig, ax, ncols=2)
    return fig


def bias(lines: dict[str, list[tuple[float, float]]]) -> Figure:
    """How far the forecast is off against the width of the grid: name -> [(factor to each side, error as a share)]."""
    need(1 <= len(lines) <= len(LINES) and all(len(p) > 1 for p in lines.values()), "a line needs two widths or more")
    fig, (ax,) = figure(3.0)
    for (name, points), (colour, style) in zip(lines.items(), LINES):
        ax.plot([w for w, _ in points], [100 * e for _, e in points], style, color=colour, linewidth=2, label=name)
    ax.axhline(0, color=BLACK, linewidth=0.8)
    ax.set_xscale("log")
    every = [w for p in lines.values() for w, _ in p]
    log_ticks(ax.xaxis, [t for t in (2, 4, 8, 16, 32, 64, 100) if min(every) <= t <= max(every) and t != 64])
    name_axes(ax, "sizes reach from best / x to best · x (log scale)", "error of the forecast (%)")
    legend(fig, ax)
    ends = [f"{name} {100 * p[-1][1]:+.1f} % at {p[-1][0]:g} times" for name, p in lines.items()]
    fig.alt = f"Error of a forecast by parabolas without any noise, against the width of the grid: {'; '.join(ends)}."
    return fig


def game(scores: dict[str, list[float]]) -> Figure:
    """Regret of each strategy in bits per byte: a dot for each game, a bar for the mean."""
    need(scores and all(scores.values()), "no game was played")
    fig, (ax,) = figure(0.9 + 0.42 * len(scores), grid="x")
    parts = []
    for row, (name, values) in enumerate(scores.items()):
        mean = sum(values) / len(values)
        ax.plot(values, [row] * len(values), "o", color=ORANGE, markersize=6, alpha=0.6, **DOTS)
        ax.plot([mean] * 2, [row - 0.32, row + 0.32], color=BLUE, linewidth=2.5)
        note(
            ax,
            f"{mean:.4f}",
            (1, row),
            (-2, 9),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            color=BLUE,
        )
        parts.append(f"{name} {mean:.4f} (mean of {len(values)})")
    name_rows(ax, list(scores))
    ax.set_xlim(left=-0.02 * max(max(v) for v in scores.values()) - 1e-4)
    name_axes(ax, "regret (bits per byte; 0 is the best size)")
    fig.alt = f"Regret of each strategy: {', '.join(parts)}."
    return fig
