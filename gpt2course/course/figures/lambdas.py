"""Figures of lesson 07: weights of the sources, scalars through training, paired differences, echoes, a forecast."""

import math
import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, FONT, GREY, LINES, VERMILION, figure, legend, log_ticks, name_axes, name_rows, need, note, round_numbers,
)  # fmt: skip
from gpt2course.course.figures.windows import losses  # noqa: F401 - the same figure as lesson 06's


def sources(lines: dict[str, list[float]]) -> Figure:
    """The weight of each source in the last state: name -> [embedding, layer 0, layer 1, ...], all above 0."""
    need(1 <= len(lines) <= len(LINES) and all(len(w) > 1 for w in lines.values()), "no layer")
    need(all(w > 0 for line in lines.values() for w in line), "weights must be above 0 on a logarithmic axis")
    fig, (ax,) = figure(3.0)
    parts = []
    for (name, line), (colour, style) in zip(lines.items(), LINES):
        ax.plot(range(-1, len(line) - 1), line, color=colour, linestyle=style, marker="o", markersize=3.5, label=name)
        parts.append(f"{name}: embedding {line[0]:.3g}, layer 0 {line[1]:.3g}, last layer {line[-1]:.3g}")
    layers = max(map(len, lines.values())) - 1
    ticks = range(0, layers, -(-layers // 6))
    ax.set_xticks([-1, *ticks], ["x0", *map(str, ticks)])
    ax.set_yscale("log")
    every = [w for line in lines.values() for w in line]
    log_ticks(ax.yaxis, round_numbers(min(every) / 2, 2 * max(every), digits=(1, 3)))
    name_axes(ax, "source: the embedding, then the output of each layer", "weight in the last state\n(log scale)")
    legend(fig, ax, ncols=4)
    fig.alt = f"Weight of each source in the last state. {'; '.join(parts)}."
    return fig


def scalars(steps: list[int], resid: list[list[float]], skip: list[list[float]]) -> Figure:
    """The scalars of every layer by step, the residual lambdas on the left: for each step a list by layer."""
    need(len(steps) > 1 and len(steps) == len(resid) == len(skip), "two steps or more, each with its scalars")
    fig, axes = figure(3.0, columns=2)
    parts = []
    for ax, values, name in zip(axes, (resid, skip), ("residual lambdas", "x0 lambdas")):
        for layer, (colour, style) in zip(range(len(values[0])), LINES):
            ax.plot(steps, [v[layer] for v in values], color=colour, linestyle=style, label=f"layer {layer}")
        ax.set_title(name, fontsize=FONT)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}"))
        name_axes(ax, "step")
        parts.append(f"{name} at step {steps[-1]}: {', '.join(f'{v:.3f}' for v in values[-1])}")
    legend(fig, axes[0], ncols=len(resid[0]))
    fig.alt = f"Scalars of each layer through training. {'; '.join(parts)}, by layer."
    return fig


def differences(arms: dict[str, tuple[list[float], float]], what: str) -> Figure:
    """Paired differences, a row for each arm: name -> (a difference for each seed, half the width of the interval)."""
    need(arms and all(values for values, _ in arms.values()), "every arm needs a difference")
    fig, (ax,) = figure(1.0 + 0.4 * len(arms), grid="x")
    every, parts = [0.0] + [v for values, _ in arms.values() for v in values], []
    gap = max(every) - min(every) or 0.01
    for row, (name, (values, half)) in enumerate(arms.items()):
        mean = statistics.mean(values)
        if half < math.inf:
            ax.plot([mean - half, mean + half], [row] * 2, color=GREY, linewidth=1.5, zorder=1)
        ax.plot(values, [row] * len(values), "o", color=VERMILION, markersize=5)
        ax.plot([mean] * 2, [row - 0.28, row + 0.28], color=BLUE, linewidth=2.5)
        parts.append(f"{name}: {mean:+.4f} plus or minus {half:.4f}, seeds: {len(values)}")
    ax.axvline(0, color=BLACK, linewidth=1)
    name_rows(ax, list(arms))
    ax.set_xlim(min(every) - 0.35 * gap, max(every) + 0.35 * gap)
    name_axes(ax, f"{what}\n(dots: seeds, bar: mean, grey: 95 % interval, may be cut off)")
    fig.alt = f"Paired differences, {what}. {'; '.join(parts)}."
    return fig


def echoes(lines: dict[str, list[float]]) -> Figure:
    """The step that follows one gradient, relative to the first, by step: name -> sizes above 0."""
    need(1 <= len(lines) <= len(LINES) and all(len(p) > 1 and min(p) > 0 for p in lines.values()), "no step above 0")
    fig, (ax,) = figure(2.8)
    ax.axhline(1, color=BLACK, linewidth=1)
    for (name, path), (colour, style) in zip(lines.items(), LINES):
        ax.plot(range(len(path)), path, color=colour, linestyle=style, linewidth=2, label=name)
    name_axes(ax, "steps after the gradient", "step, relative\nto the first")
    legend(fig, ax, ncols=4)
    ends = [f"{name}: {p[-1]:.2g} after {len(p) - 1} steps" for name, p in lines.items()]
    fig.alt = f"Adam's step long after one gradient, relative to the first. {'; '.join(ends)}."
    return fig


def gains(measured: dict[int, float], depth: int, forecast: dict[str, float]) -> Figure:
    """Published gains by depth, and several forecasts for one more depth."""
    need(len(measured) > 1 and forecast, "two depths or more, and a forecast, are needed")
    fig, (ax,) = figure(2.9)
    ax.plot(list(measured), list(measured.values()), "o-", color=BLUE, linewidth=2)
    for i, (name, value) in enumerate(sorted(forecast.items(), key=lambda pair: pair[1])):
        ax.plot([max(measured), depth], [measured[max(measured)], value], color=GREY, linestyle=":", linewidth=1)
        ax.plot(depth, value, "D", color=VERMILION, markersize=5)
        note(ax, f"{name} {value:.4f}", (depth, value), (8, 11 * (i - 1) - 4))
    ax.set_xlim(min(measured) - 1, depth + 0.45 * (depth - min(measured)))
    ax.set_ylim(0, 1.1 * max(measured.values()))
    ax.set_xticks([*measured, depth])
    name_axes(ax, "layers (red: not measured, forecast)", "gain in\nbits per byte")
    found = ", ".join(f"{n}: {v:.4f}" for n, v in measured.items())
    guesses = ", ".join(f"{name} {value:.4f}" for name, value in forecast.items())
    fig.alt = f"Published gain of the lambdas by depth, {found}; forecasts for {depth}: {guesses}."
    return fig


def seeds(needed: dict[float, int | None]) -> Figure:
    """The number of seeds that an effect needs: effect -> n, or None where the table of t ends."""
    points = [(effect, n) for effect, n in needed.items() if n is not None]
    need(points, "no effect can be resolved")
    fig, (ax,) = figure(2.5)
    ax.plot(*zip(*points), "o-", color=BLUE)
    name_axes(ax, "effect in bits per byte", "seeds")
    missing = len(needed) - len(points)
    fig.alt = f"Seeds needed, {', '.join(f'{e:g}: {n}' for e, n in points)}; none for {missing} smaller effects."
    return fig
