"""Figures of lesson 04: noise of the gradient, schedules, loss with learning rate, the parts of a step, rates."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gpt2course.files import UserError
from gpt2course.course.plots import (
    BLACK,
    BLUE,
    FONT,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    TINTS,
    VERMILION,
    figure,
    name_axes,
    time_text,
)

STYLES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"), (SKY, "--"))

_ROUND = [m * 10.0**p for p in range(-6, 6) for m in (1, 2, 5)]  # marks of a logarithmic axis


def _need(ok, text: str) -> None:
    if not ok:
        raise UserError(f"there is nothing to draw: {text}")


def _legend(fig, ax, ncols: int = 2) -> None:
    handles, names = ax.get_legend_handles_labels()
    fig.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=ncols,
        fontsize=FONT,
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _log_ticks(axis, values) -> None:
    """Only the given values as marks of a logarithmic axis, written plainly."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))


def distances(runs: dict[str, list[float]]) -> Figure:
    """How far many numbers are from the bottom of a bowl, step by step, one line a run; logarithmic."""
    _need(runs and all(len(r) > 1 and min(r) > 0 for r in runs.values()), "every run needs two distances above 0 or more")
    fig, (ax,) = figure(3.2)
    for (name, line), (colour, style) in zip(runs.items(), STYLES):
        ax.plot(range(len(line)), line, color=colour, linestyle=style, linewidth=2, label=name)
    ax.set_yscale("log")
    low, high = min(map(min, runs.values())) / 1.2, max(map(max, runs.values())) * 1.2
    ax.set_ylim(low, high)
    _log_ticks(ax.yaxis, [t for t in _ROUND if low <= t <= high])
    ax.set_xlim(0, max(map(len, runs.values())) - 1)
    name_axes(ax, "step (updates)", "distance from the\nbottom (log scale)")
    _legend(fig, ax, len(runs))
    ends = ", ".join(f"{name} {line[0]:.2g} to {line[-1]:.2g}" for name, line in runs.items())
    fig.alt = f"Distance from the bottom of a noisy bowl over {max(map(len, runs.values())) - 1} steps: {ends}."
    return fig


def noise_by_batch(rows: list[int], noise: list[float], gradient: float) -> Figure:
    """The noise of a mean gradient against the rows in the batch, both logarithmic, beside noise / sqrt(rows) and the
    gradient.

    noise: root mean square distance of a batch's gradient from the mean of all; gradient: the length of that mean.
    """
    _need(len(rows) == len(noise) > 1 and min(noise) > 0, "two batch sizes or more are needed, each with its noise")
    fig, (ax,) = figure(3.4)
    law = [noise[0] * math.sqrt(rows[0] / b) for b in rows]
    ax.plot(rows, law, color=BLACK, linestyle="--", linewidth=1.4, label="noise of one row / √rows")
    ax.plot(rows, noise, "o", color=BLUE, markersize=8, label="measured")
    ax.axhline(gradient, color=VERMILION, linewidth=1.8, label="length of the gradient itself")
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = min(*noise, gradient), max(*noise, gradient)
    ax.set_ylim(low / 1.4, high * 1.4)
    _log_ticks(ax.xaxis, rows)
    _log_ticks(ax.yaxis, [t for t in _ROUND if low / 1.4 <= t <= high * 1.4])
    name_axes(ax, "rows in the batch (log scale)", "length (log scale)")
    _legend(fig, ax, 3)
    fig.alt = (
        f"Noise of the mean gradient: {noise[0]:.3g} with {rows[0]} row{'s' * (rows[0] > 1)} to "
        f"{noise[-1]:.3g} with {rows[-1]} rows, "
        f"where one over the "
        f"square root gives {law[-1]:.3g}. The gradient itself is {gradient:.3g} long."
    )
    return fig


def schedules(lines: dict[str, list[float]]) -> Figure:
    """Multipliers of the learning rates against the step, one line a schedule."""
    _need(lines and all(len(v) > 1 for v in lines.values()), "every schedule needs two steps or more")
    fig, (ax,) = figure(2.6 + 0.2 * (len(lines) > 2))
    for (name, y), (colour, style) in zip(lines.items(), STYLES):
        ax.plot(range(len(y)), y, color=colour, linestyle=style, linewidth=2, label=name)
    ax.set_ylim(0, 1.08)
    ax.set_xlim(0, max(map(len, lines.values())))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    name_axes(ax, "step", "learning rate\n(share of peak)")
    _legend(fig, ax, 2 if max(map(len, lines)) > 12 else 3)
    parts = [f"{name}: {y[0]:.3g} at the first step, {max(y):.3g} at most, {y[-1]:.3g} at the last" for name, y in lines.items()]
    fig.alt = f"Learning-rate schedules. {'; '.join(parts)}."
    return fig


def paths(lines: dict[str, list[float]]) -> Figure:
    """The way of a parameter under an optimizer, one line for each gradient it met."""
    _need(lines and all(len(v) > 1 for v in lines.values()), "every path needs two steps or more")
    fig, (ax,) = figure(2.9)
    for width, (name, y), (colour, style) in zip((5, 3, 2, 2, 2, 2), lines.items(), STYLES):
        ax.plot(range(len(y)), y, color=colour, linestyle=style, linewidth=width, label=name)
    ax.set_xlim(0, max(map(len, lines.values())) - 1)
    name_axes(ax, "step (updates)", "parameter")
    _legend(fig, ax, 2)
    fig.alt = (
        "A parameter under AdamW: " + ", ".join(f"{name}, from {y[0]:.3g} to {y[-1]:.3g}" for name, y in lines.items()) + "."
    )
    return fig


def loss_and_rate(runs: dict[str, tuple[list[tuple[int, float]], list[float]]]) -> Figure:
    """Validation bits per byte above, learning rate below, over the same steps.

    runs: name -> (pairs of step and bits per byte, multiplier of the rate at each step).
    """
    _need(
        runs and all(len(points) > 1 and len(rate) > 1 for points, rate in runs.values()),
        "every run needs two points and rates or more",
    )
    fig, (top, bottom) = figure(4.2, rows=2, sharex=True)
    for (name, (points, rate)), (colour, style), mark in zip(runs.items(), STYLES, "osD^vP"):
        top.plot(*zip(*points), color=colour, linestyle=style, linewidth=1.8, marker=mark, markersize=6, label=name)
        bottom.plot(range(len(rate)), rate, color=colour, linestyle=style, linewidth=1.8)
    bottom.set_ylim(0, 1.1)
    first, last = min(points[0][0] for points, _ in runs.values()), max(len(rate) for _, rate in runs.values())
    bottom.set_xlim(max(0, first - 0.15 * (last - first)), last * 1.01)
    bottom.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 8, 10]))
    name_axes(top, y="validation\n(bits per byte)")
    name_axes(bottom, "step (updates)", "learning rate\n(share of peak)")
    fig.align_ylabels()
    _legend(fig, top)
    parts = []
    for name, (points, rate) in runs.items():
        curve = f"{points[0][1]:.3f} bits per byte at step {points[0][0]} to {points[-1][1]:.3f} at step {points[-1][0]}"
        parts.append(f"{name}: {curve}, rate {max(rate):.3g} at most and {rate[-1]:.3g} at the end")
    fig.alt = f"Validation bits per byte above, learning rate below. {'; '.join(parts)}."
    return fig


def step_parts(steps: dict[str, dict[str, float]]) -> Figure:
    """Where the milliseconds of one step go: a stacked bar for each kind of step. steps: name -> part -> seconds."""
    _need(steps and all(sum(p.values()) > 0 for p in steps.values()), "no step has a time")
    names = list(next(iter(steps.values())))
    _need(all(list(p) == names for p in steps.values()), "every step must have the same parts")
    fig, (ax,) = figure(1.35 + 0.75 * len(steps), grid="x")
    longest = max(sum(p.values()) for p in steps.values()) * 1000
    for row, parts in enumerate(steps.values()):
        left = 0.0
        for (part, seconds), colour in zip(parts.items(), TINTS):
            ms = seconds * 1000
            ax.barh(row, ms, left=left, color=colour, height=0.6, edgecolor="white", label=part if row == 0 else None)
            if ms > 0.09 * longest:
                ax.text(left + ms / 2, row, f"{seconds / sum(parts.values()):.0%}", ha="center", va="center", fontsize=FONT)
            left += ms
        ax.annotate(time_text(sum(parts.values())), (left, row), (5, 0), textcoords="offset points", va="center", fontsize=FONT)
    ax.set_yticks(range(len(steps)), list(steps))
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xlim(0, longest * 1.16)
    name_axes(ax, "time of one step (milliseconds)")
    _legend(fig, ax, len(names))
    said = [
        f"{name}, {time_text(sum(p.values()))}: " + ", ".join(f"{k} {v / sum(p.values()):.0%}" for k, v in p.items())
        for name, p in steps.items()
    ]
    fig.alt = f"Where the time of a step goes. {'; '.join(said)}."
    return fig


def rate_shares(runs: dict[float, list[float]], rule: float) -> Figure:
    """Bits per byte against the share of the full rates (logarithmic), a dot a seed; rule: the share of the square-root
    rule."""
    _need(len(runs) > 1 and all(runs.values()), "two shares or more are needed, each with a run")
    fig, (ax,) = figure(3.2)
    shares = sorted(runs)
    means = [sum(runs[s]) / len(runs[s]) for s in shares]
    ax.plot(shares, means, color=BLUE, linewidth=1.8)
    for s in shares:
        ax.plot([s] * len(runs[s]), runs[s], "o", color=ORANGE, markersize=7, markeredgecolor="white", markeredgewidth=0.6)
    ax.axvline(rule, color=BLACK, linestyle="--", linewidth=1.3)
    ax.annotate(
        "square-root rule", (rule, 0.06), (6, 0), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=FONT
    )
    ax.set_xscale("log")
    ax.set_xlim(min(*shares, rule) / 1.25, max(*shares, rule) * 1.25)
    _log_ticks(ax.xaxis, shares)
    ax.margins(y=0.1)
    name_axes(ax, "share of the full learning rates (log scale)", "validation\n(bits per byte)")
    said = ", ".join(f"{m:.3f} at {s:g}" for s, m in zip(shares, means))
    fig.alt = (
        f"Validation bits per byte, mean over seeds, by share of the full rates: {said}. The square-root rule asks for {rule:g}."
    )
    return fig


def checkpoint_interval(minutes: list[float], saving: list[float], again: list[float]) -> Figure:
    """What saving and training again cost, in minutes of the run, against the minutes between checkpoints."""
    _need(len(minutes) == len(saving) == len(again) > 1, "two intervals or more are needed, each with both costs")
    both = [a + b for a, b in zip(saving, again)]
    best = min(range(len(both)), key=both.__getitem__)
    fig, (ax,) = figure(3.2)
    ax.plot(minutes, saving, color=BLUE, linewidth=2, label="saving")
    ax.plot(minutes, again, color=VERMILION, linestyle="--", linewidth=2, label="training again")
    ax.plot(minutes, both, color=BLACK, linewidth=2, linestyle=":", label="both")
    ax.plot(minutes[best], both[best], "o", color=BLACK, markersize=7)
    ax.annotate(
        f"{minutes[best]:g} min", (minutes[best], both[best]), (0, 8), textcoords="offset points", ha="center", fontsize=FONT
    )
    ax.set_xscale("log")
    _log_ticks(ax.xaxis, minutes[:: max(1, len(minutes) // 8)])
    ax.set_ylim(0, max(both) * 1.1)
    name_axes(ax, "minutes between checkpoints (log scale)", "cost (minutes)")
    _legend(fig, ax, 3)
    fig.alt = (
        f"Cost of checkpoints every {minutes[0]:g} to {minutes[-1]:g} minutes: "
        f"saving {saving[0]:.3g} to {saving[-1]:.3g} minutes, "
        f"training again "
        f"{again[0]:.3g} to {again[-1]:.3g}; together least, {both[best]:.3g}, at {minutes[best]:g}."
    )
    return fig
