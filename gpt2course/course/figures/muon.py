"""Figures of lesson 05: an ellipse made round, singular values, the maps of one singular value, rates with seeds."""

import math

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, FONT, GREEN, GREY, LINES, TINTS, VERMILION,
    figure, legend, log_ticks, name_axes, need, round_numbers,
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


def rates(sweeps: dict[str, list[tuple[float, float]]], seeds: dict[str, list[float]]) -> Figure:
    """Bits per byte against the learning rate of the matrices, a line for each optimizer; all seeds at its best rate.

    sweeps: name -> (rate, bits per byte) of one seed. seeds: name -> bits per byte of all seeds at its best rate.
    """
    need(sweeps and all(len(s) > 1 for s in sweeps.values()), "every optimizer needs two rates or more")
    need(set(seeds) == set(sweeps) and all(seeds.values()), "every optimizer needs its seeds")
    fig, (ax,) = figure(3.4)
    parts, marks = [], sorted({rate for s in sweeps.values() for rate, _ in s})
    for (name, points), (colour, style), mark in zip(sweeps.items(), LINES, "osv^D"):
        points = sorted(points)
        best, _ = min(points, key=lambda p: p[1])
        found, mean = seeds[name], sum(seeds[name]) / len(seeds[name])
        ax.plot(*zip(*points), color=colour, linestyle=style, marker=mark, markersize=6, linewidth=1.8, label=name)
        ax.plot([best] * len(found), found, "_", color=BLACK, markersize=15, markeredgewidth=1.4)
        at_best = f"{len(found)} seeds there from {min(found):.3f} to {max(found):.3f}, mean {mean:.3f}"
        worst = f"worst of {len(points)} rates {max(b for _, b in points):.3f}"
        parts.append(f"{name}: best rate {best:g}, {at_best}; {worst}")
    ax.plot([], [], "_", color=BLACK, markersize=15, markeredgewidth=1.4, label="seeds at the best rate")
    ax.set_xscale("log")
    log_ticks(ax.xaxis, [r for i, r in enumerate(marks) if i == 0 or r / marks[i - 1] > 1.4])
    name_axes(ax, "learning rate of the matrices (log scale)", "validation bits per byte")
    legend(fig, ax)
    fig.alt = f"Validation bits per byte against the learning rate. {'; '.join(parts)}."
    return fig
