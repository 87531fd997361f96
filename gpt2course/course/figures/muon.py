"""Figures of lesson 05: an ellipse made round, singular values, the maps of one singular value, sweeps with seeds."""

import math

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, FONT, GREEN, GREY, LINES, TINTS, VERMILION,
    figure, legend, log_ticks, name_axes, name_rows, need, note, round_numbers,
)

ROUNDS = LinearSegmentedColormap.from_list("rounds", ["#9CCBEA", BLUE, "#00263D"])  # iterations, from light to dark


def _log_axis(ax, name: str, low: float, high: float) -> None:
    """A logarithmic axis from low to high, marked at powers of ten."""
    ax.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    powers = round_numbers(low * 0.999999, high * 1.000001, digits=(1,))
    log_ticks(getattr(ax, f"{name}axis"), powers[:: max(1, len(powers) // 6)])


def circles(matrices: dict[str, list]) -> Figure:
    """What each 2 x 2 matrix makes of the circle of all inputs of length one; three inputs are followed by marks.

    matrices: name -> ((a, b), (c, d)), at most three.
    """
    shapes = [(len(m), [len(row) for row in m]) for m in matrices.values()]
    small = 1 <= len(shapes) <= 3 and all(s == (2, [2, 2]) for s in shapes)
    need(small, "one to three matrices of 2 x 2 are needed")
    fig, axes = figure(2.9, columns=1 + len(matrices), grid="both")
    parts, turn = [], [2 * math.pi * t / 120 for t in range(121)]
    for ax, (name, m) in zip(axes, {"inputs of length 1": ((1, 0), (0, 1)), **matrices}.items()):

        def sent(angle, m=m):
            x, y = math.cos(angle), math.sin(angle)
            return float(m[0][0] * x + m[0][1] * y), float(m[1][0] * x + m[1][1] * y)

        ax.plot(*zip(*map(sent, turn)), color=GREY, linewidth=1.4)
        for angle, colour, mark in ((0.0, BLUE, "o"), (math.pi / 4, VERMILION, "s"), (math.pi / 2, GREEN, "^")):
            x, y = sent(angle)
            ax.plot([0, x], [0, y], color=colour, linewidth=1.6)
            ax.plot([x], [y], mark, color=colour, markersize=7)
        lengths = [math.hypot(*sent(t)) for t in turn]
        limit = 1.12 * max(max(lengths), 1.3)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        ax.set_title(name, fontsize=FONT)
        ax.locator_params(nbins=4)
        parts.append(f"{name}: lengths from {min(lengths):.2f} to {max(lengths):.2f}")
    fig.alt = f"A circle of inputs, and what each matrix makes of it. {'; '.join(parts)}."
    return fig


def spectra(values: dict[str, list[float]], note: str = "share of the largest") -> Figure:
    """Singular values in falling order, each line divided by its largest; logarithmic. At most six lines."""
    values = {name: sorted(map(float, v), reverse=True) for name, v in values.items()}
    need(1 <= len(values) <= len(LINES), "one to six lines are needed")
    enough = all(len(v) > 1 and v[0] > 0 for v in values.values())
    need(enough, "every line needs two singular values or more, the largest above 0")
    fig, (ax,) = figure(3.2)
    parts, floor = [], 1e-4
    for (name, v), (colour, style) in zip(values.items(), LINES):
        shares = [max(x / v[0], floor) for x in v]
        ax.plot(range(1, len(v) + 1), shares, color=colour, linestyle=style, linewidth=2, label=name)
        parts.append(f"{name}: half-way down {v[len(v) // 2] / v[0]:.2g} of the largest, the last {v[-1] / v[0]:.1g}")
    _log_axis(ax, "y", min(min(line.get_ydata()) for line in ax.lines) / 1.3, 1.5)
    ax.set_xlim(1, max(map(len, values.values())))
    name_axes(ax, "singular value, from the largest to the smallest", f"{note}\n(log scale)")
    legend(fig, ax)
    fig.alt = f"Singular values in falling order. {'; '.join(parts)}."
    return fig


def maps(curves: dict[str, tuple[list[float], list[float]]], band: float | None = None, log: bool = False) -> Figure:
    """What functions make of one singular value: name -> (before, after), at most six.

    band: the shaded distance from 1 that counts as near.
    """
    need(1 <= len(curves) <= len(LINES), "one to six curves are needed")
    enough = all(len(x) == len(y) > 1 for x, y in curves.values())
    need(enough, "every curve needs two points or more, as many after as before")
    fig, (ax,) = figure(3.4)
    ax.axhline(1, color=GREY, linewidth=1)
    if band:
        ax.axhspan(1 - band, 1 + band, color=TINTS[1], linewidth=0)
    parts = []
    for (name, (x, y)), (colour, style) in zip(curves.items(), LINES):
        ax.plot(x, y, color=colour, linestyle="-" if log else style, linewidth=1.4 if log else 2, label=name)
        parts.append(f"{name} gives {y[0]:.3g} at {x[0]:.3g}, {y[-1]:.3g} at {x[-1]:.3g}, at most {max(y):.3g}")
    low, high = min(min(x) for x, _ in curves.values()), max(max(x) for x, _ in curves.values())
    ax.set_xlim(low, high)
    if log:
        _log_axis(ax, "x", low, high)
    ax.set_ylim(0, 1.08 * max(max(y) for _, y in curves.values()))
    name_axes(ax, f"singular value before{' (log scale)' if log else ''}", "singular value after")
    legend(fig, ax, 2 if len(curves) == 4 else 3)
    shaded = f" The band from {1 - band:.3f} to {1 + band:.3f} is shaded." if band else ""
    fig.alt = f"Maps of one singular value. {'; '.join(parts)}.{shaded}"
    return fig


def iterations(methods: dict[str, list[list[float]]], band: float | None = None) -> Figure:
    """The singular values of one matrix before an iteration and after each round of it, a panel for each method.

    methods: name -> one list of singular values for each state, the first before the iteration. At most two methods.
    """
    enough = 1 <= len(methods) <= 2 and all(len(m) > 1 for m in methods.values())
    need(enough, "one or two methods with two states or more are needed")
    need(all(min(map(min, m)) > 0 for m in methods.values()), "singular values must be above 0")
    fig, axes = figure(3.7, columns=len(methods), grid="both")
    low = min(min(map(min, m)) for m in methods.values()) / 1.5
    high = max(max(map(max, m)) for m in methods.values()) * 1.5
    parts = []
    for ax, (name, states) in zip(axes, methods.items()):
        if band:
            ax.axhspan(1 - band, 1 + band, color=TINTS[1], linewidth=0)
        for i, values in enumerate(states):
            values = sorted(map(float, values), reverse=True)
            colour = BLACK if i == 0 else ROUNDS((i - 1) / max(1, len(states) - 2))
            style, label = ("--", "before") if i == 0 else ("-", f"after {i}")
            ax.plot(range(1, len(values) + 1), values, color=colour, linestyle=style, linewidth=2, label=label)
        _log_axis(ax, "y", low, high)
        ax.set_xlim(1, max(map(len, states)))
        ax.set_title(name, fontsize=FONT)
        name_axes(ax, "singular value, largest first", "its size (log scale)" if ax is axes[0] else None)
        if ax is not axes[0]:
            ax.tick_params(labelleft=False)
        first, last = states[0], states[-1]
        near = f", {sum(abs(v - 1) <= band + 1e-3 for v in last)} of {len(last)} within {band:.3f} of 1" if band else ""
        parts.append(
            f"{name}: {min(first):.2g} to {max(first):.2g} before, "
            f"{min(last):.2g} to {max(last):.2g} after {len(states) - 1}{near}"
        )
    legend(fig, axes[0], 6, columnspacing=1.0, handlelength=1.4)
    fig.alt = f"Singular values before and after each iteration. {'; '.join(parts)}."
    return fig


def curves(losses: dict[str, list[float]]) -> Figure:
    """Training loss against the step, one line a run; the first is drawn wide, so that an equal one shows on it."""
    need(losses and all(len(v) > 1 for v in losses.values()), "every curve needs two steps or more")
    fig, (ax,) = figure(2.6)
    for (name, y), (colour, style), width in zip(losses.items(), LINES, (5, 2, 2, 2, 2, 2)):
        ax.plot(range(len(y)), y, color=colour, linestyle=style, linewidth=width, label=name)
    ax.set_xlim(0, max(map(len, losses.values())) - 1)
    name_axes(ax, "step (updates)", "training loss\n(nats per token)")
    legend(fig, ax)
    ends = ", ".join(f"{name} from {y[0]:.2f} to {y[-1]:.2f}" for name, y in losses.items())
    fig.alt = f"Training loss against the step: {ends}."
    return fig


def sweeps(panels: dict[str, dict[tuple[float, float], list[float]]]) -> Figure:
    """Bits per byte against the learning rate, a panel for each optimizer and a line for each weight decay.

    panels: name -> {(rate, decay): bits per byte of its seeds}, at most two. A line shows seed 1, the first of each
    list; all seeds of its best cell are marked.
    """
    need(1 <= len(panels) <= 2 and all(map(len, panels.values())), "one or two optimizers with runs are needed")
    fig, axes = figure(3.6, columns=len(panels), grid="y", sharey=True)
    parts, decays = [], sorted({decay for cells in panels.values() for _, decay in cells})
    need(len(decays) <= len(LINES), f"there are more than {len(LINES)} decays")
    styles = {decay: (*line, mark) for decay, line, mark in zip(decays, LINES, "os^vDP")}
    for ax, (name, cells) in zip(axes, panels.items()):
        for decay in decays:
            points, (colour, style, mark) = sorted((r, v[0]) for (r, d), v in cells.items() if d == decay), styles[decay]
            if points:
                line = dict(color=colour, linestyle=style, marker=mark, markersize=6, linewidth=1.8)
                ax.plot(*zip(*points), **line, label=f"decay {decay:g}")
        (rate, decay), values = min(cells.items(), key=lambda cell: cell[1][0])
        ax.plot([rate] * len(values), values, "_", color=BLACK, markersize=16, markeredgewidth=1.6)
        ax.set_xscale("log")
        log_ticks(ax.xaxis, sorted({r for r, _ in cells}), lambda v, _: f"{v:g}")
        ax.tick_params(axis="x", rotation=30)
        ax.margins(x=0.08)
        ax.set_title(name, fontsize=FONT)
        name_axes(ax, "learning rate (log scale)", "validation bits per byte" if ax is axes[0] else None)
        parts.append(
            f"{name}: best at rate {rate:g} and decay {decay:g}, {len(values)} seeds there from {min(values):.4f} to "
            f"{max(values):.4f}; {len(cells)} cells, the worst {max(v[0] for v in cells.values()):.3f}"
        )
    handles = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    handles = [handles[f"decay {d:g}"] for d in decays]
    legend(fig, axes[0], len(decays), handles, handlelength=2.6)
    fig.alt = f"Validation bits per byte against the learning rate, a line for each weight decay. {'; '.join(parts)}."
    return fig


def steps(rows: dict[str, tuple[str, list[float]]]) -> Figure:
    """What each idea gives, one row each: a dot for each seed, a bar for the mean. rows: name -> (setting, seeds)."""
    need(rows and all(values for _, values in rows.values()), "every row needs a run")
    fig, (ax,) = figure(0.9 + 0.52 * len(rows), grid="x")
    parts = []
    for row, (name, (setting, values)) in enumerate(rows.items()):
        mean = sum(values) / len(values)
        ax.plot([mean] * 2, [row - 0.3, row + 0.3], color=BLUE, linewidth=2.5)
        ax.plot(values, [row] * len(values), "o", color=VERMILION, markersize=6)
        note(ax, f"{mean:.4f}", (max(values), row), (9, 0), va="center", color=BLUE)
        parts.append(f"{name} ({setting}): mean {mean:.4f} of {len(values)}, {min(values):.4f} to {max(values):.4f}")
    name_rows(ax, [f"{name}\n{setting}" for name, (setting, _) in rows.items()])
    everything = [v for _, values in rows.values() for v in values]
    gap = max(everything) - min(everything) or 0.01
    ax.set_xlim(min(everything) - 0.08 * gap, max(everything) + 0.22 * gap)
    name_axes(ax, "validation bits per byte (lower is better); dots: seeds, bar: mean")
    fig.alt = f"Validation bits per byte, each step at its own best rate and decay. {'; '.join(parts)}."
    return fig
