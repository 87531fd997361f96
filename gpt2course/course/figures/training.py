"""Figures of lesson 04: noise of the gradient, schedules, runs beside a log, loss with learning rate, the parts of a step, rates."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, DOTS, FONT, LINES, ORANGE, TINTS, VERMILION,
    figure, legend, log_ticks, name_axes, name_rows, need, note, round_numbers, time_text,
)


def distances(runs: dict[str, list[float]]) -> Figure:
    """How far many numbers are from the bottom of a bowl, step by step, one line a run; logarithmic."""
    enough = runs and all(len(r) > 1 and min(r) > 0 for r in runs.values())
    need(enough, "every run needs two distances above 0 or more")
    fig, (ax,) = figure(3.2)
    for (name, line), (colour, style) in zip(runs.items(), LINES):
        ax.plot(range(len(line)), line, color=colour, linestyle=style, linewidth=2, label=name)
    ax.set_yscale("log")
    low, high = min(map(min, runs.values())) / 1.2, max(map(max, runs.values())) * 1.2
    ax.set_ylim(low, high)
    log_ticks(ax.yaxis, round_numbers(low, high))
    ax.set_xlim(0, max(map(len, runs.values())) - 1)
    name_axes(ax, "step (updates)", "distance from the\nbottom (log scale)")
    legend(fig, ax, len(runs))
    ends = ", ".join(f"{name} {line[0]:.2g} to {line[-1]:.2g}" for name, line in runs.items())
    fig.alt = f"Distance from the bottom of a noisy bowl over {max(map(len, runs.values())) - 1} steps: {ends}."
    return fig


def noise_by_batch(rows: list[int], noise: list[float], gradient: float) -> Figure:
    """The noise of a mean gradient against the rows in the batch, beside noise / sqrt(rows) and the gradient.

    noise: root mean square distance of a batch's gradient from the mean of all. gradient: the length of that mean.
    """
    need(len(rows) == len(noise) > 1 and min(noise) > 0, "two batch sizes or more are needed, each with its noise")
    fig, (ax,) = figure(3.4)
    law = [noise[0] * math.sqrt(rows[0] / b) for b in rows]
    ax.plot(rows, law, color=BLACK, linestyle="--", linewidth=1.4, label="noise of one row / √rows")
    ax.plot(rows, noise, "o", color=BLUE, markersize=8, label="measured")
    ax.axhline(gradient, color=VERMILION, linewidth=1.8, label="length of the gradient itself")
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = min(*noise, gradient) / 1.4, max(*noise, gradient) * 1.4
    ax.set_ylim(low, high)
    log_ticks(ax.xaxis, rows)
    log_ticks(ax.yaxis, round_numbers(low, high))
    name_axes(ax, "rows in the batch (log scale)", "length (log scale)")
    legend(fig, ax, 3)
    fig.alt = (
        f"Noise of the mean gradient: {noise[0]:.3g} with {rows[0]} row{'s' * (rows[0] > 1)} to "
        f"{noise[-1]:.3g} with {rows[-1]} rows, where one over the square root gives {law[-1]:.3g}. "
        f"The gradient itself is {gradient:.3g} long."
    )
    return fig


def schedules(lines: dict[str, list[float]]) -> Figure:
    """Multipliers of the learning rates against the step, one line a schedule."""
    need(lines and all(len(v) > 1 for v in lines.values()), "every schedule needs two steps or more")
    fig, (ax,) = figure(2.6 + 0.2 * (len(lines) > 2))
    for (name, y), (colour, style) in zip(lines.items(), LINES):
        ax.plot(range(len(y)), y, color=colour, linestyle=style, linewidth=2, label=name)
    ax.set_ylim(0, 1.08)
    ax.set_xlim(0, max(map(len, lines.values())))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    name_axes(ax, "step", "learning rate\n(share of peak)")
    legend(fig, ax, 2 if max(map(len, lines)) > 12 else 3)
    ends = [f"{name}: {y[0]:.3g} at the first step, {max(y):.3g} at most, {y[-1]:.3g} at the last"
            for name, y in lines.items()]  # fmt: skip
    fig.alt = f"Learning-rate schedules. {'; '.join(ends)}."
    return fig


def apart(lines: dict[str, list[float]]) -> Figure:
    """How far loss curves are above a recorded one, step by step, one line a run."""
    need(lines and all(len(v) > 1 for v in lines.values()), "every curve needs two steps or more")
    fig, (ax,) = figure(2.9)
    for (name, y), (colour, style) in zip(lines.items(), LINES):
        ax.plot(range(len(y)), y, color=colour, linestyle=style, linewidth=2, label=name)
    ax.set_xlim(0, max(map(len, lines.values())) - 1)
    name_axes(ax, "step", "loss minus the\nlog's loss (nats)")
    legend(fig, ax, 2)
    parts = []
    for name, y in lines.items():
        first = next((i for i, x in enumerate(y) if abs(x) > 1e-3), None)
        far = "nowhere by 0.001" if first is None else f"from step {first} on, by up to {max(map(abs, y)):.2g}"
        parts.append(f"{name}, {far}")
    fig.alt = f"Runs that differ from a recorded one: {'; '.join(parts)}."
    return fig


def loss_and_rate(runs: dict[str, tuple[list[tuple[int, float]], list[float]]]) -> Figure:
    """Validation bits per byte above, learning rate below, over the same steps.

    runs: name -> (pairs of step and bits per byte, multiplier of the rate at each step).
    """
    enough = runs and all(len(points) > 1 and len(rate) > 1 for points, rate in runs.values())
    need(enough, "every run needs two points and rates or more")
    fig, (top, bottom) = figure(4.2, rows=2, sharex=True)
    for (name, (points, rate)), (colour, style), mark in zip(runs.items(), LINES, "osD^vP"):
        top.plot(*zip(*points), color=colour, linestyle=style, linewidth=1.8, marker=mark, markersize=6, label=name)
        bottom.plot(range(len(rate)), rate, color=colour, linestyle=style, linewidth=1.8)
    bottom.set_ylim(0, 1.1)
    first, last = min(points[0][0] for points, _ in runs.values()), max(len(rate) for _, rate in runs.values())
    bottom.set_xlim(max(0, first - 0.15 * (last - first)), last * 1.01)
    bottom.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 8, 10]))
    name_axes(top, y="validation\n(bits per byte)")
    name_axes(bottom, "step (updates)", "learning rate\n(share of peak)")
    fig.align_ylabels()
    legend(fig, top, 2)
    parts = []
    for name, (points, rate) in runs.items():
        (first, before), (last, after) = points[0], points[-1]
        curve = f"{before:.3f} bits per byte at step {first} to {after:.3f} at step {last}"
        parts.append(f"{name}: {curve}, rate {max(rate):.3g} at most and {rate[-1]:.3g} at the end")
    fig.alt = f"Validation bits per byte above, learning rate below. {'; '.join(parts)}."
    return fig


def step_parts(steps: dict[str, dict[str, float]]) -> Figure:
    """Where the milliseconds of one step go: a stacked bar for each kind of step. steps: name -> part -> seconds."""
    need(steps and all(sum(p.values()) > 0 for p in steps.values()), "no step has a time")
    names = list(next(iter(steps.values())))
    need(all(list(p) == names for p in steps.values()), "every step must have the same parts")
    fig, (ax,) = figure(1.35 + 0.75 * len(steps), grid="x")
    longest = max(sum(p.values()) for p in steps.values()) * 1000
    for row, parts in enumerate(steps.values()):
        left = 0.0
        for (part, seconds), colour in zip(parts.items(), TINTS):
            ms = seconds * 1000
            ax.barh(row, ms, left=left, color=colour, height=0.6, edgecolor="white", label=part if row == 0 else None)
            if ms > 0.09 * longest:
                share = f"{seconds / sum(parts.values()):.0%}"
                ax.text(left + ms / 2, row, share, ha="center", va="center", fontsize=FONT)
            left += ms
        note(ax, time_text(sum(parts.values())), (left, row), (5, 0), va="center")
    name_rows(ax, steps)
    ax.set_xlim(0, longest * 1.16)
    name_axes(ax, "time of one step (milliseconds)")
    legend(fig, ax, len(names))
    each = [
        f"{name}, {time_text(sum(p.values()))}: " + ", ".join(f"{k} {v / sum(p.values()):.0%}" for k, v in p.items())
        for name, p in steps.items()
    ]
    fig.alt = f"Where the time of a step goes. {'; '.join(each)}."
    return fig


def rate_shares(runs: dict[float, list[float]], rule: float) -> Figure:
    """Bits per byte against the share of the full rates, a dot a seed; rule: the share of the square-root rule."""
    need(len(runs) > 1 and all(runs.values()), "two shares or more are needed, each with a run")
    fig, (ax,) = figure(3.2)
    shares = sorted(runs)
    means = [sum(runs[s]) / len(runs[s]) for s in shares]
    ax.plot(shares, means, color=BLUE, linewidth=1.8)
    for s in shares:
        ax.plot([s] * len(runs[s]), runs[s], "o", color=ORANGE, markersize=7, **DOTS)
    ax.axvline(rule, color=BLACK, linestyle="--", linewidth=1.3)
    note(ax, "square-root rule", (rule, 0.06), (6, 0), xycoords=("data", "axes fraction"))
    ax.set_xscale("log")
    ax.set_xlim(min(*shares, rule) / 1.25, max(*shares, rule) * 1.25)
    log_ticks(ax.xaxis, shares)
    ax.margins(y=0.1)
    name_axes(ax, "share of the full learning rates (log scale)", "validation\n(bits per byte)")
    each = ", ".join(f"{m:.3f} at {s:g}" for s, m in zip(shares, means))
    fig.alt = f"Validation bits per byte, mean over seeds, by share of the full rates: {each}. "
    fig.alt += f"The square-root rule asks for {rule:g}."
    return fig


def checkpoint_interval(minutes: list[float], saving: list[float], again: list[float], best: float) -> Figure:
    """What saving and training again cost, in minutes of the run, against the minutes between checkpoints; the best."""
    need(len(minutes) == len(saving) == len(again) > 1, "two intervals or more are needed, each with both costs")
    both = [a + b for a, b in zip(saving, again)]
    fig, (ax,) = figure(3.2)
    ax.plot(minutes, saving, color=BLUE, linewidth=2, label="saving")
    ax.plot(minutes, again, color=VERMILION, linestyle="--", linewidth=2, label="training again")
    ax.plot(minutes, both, color=BLACK, linewidth=2, linestyle=":", label="both")
    ax.axvline(best, color=BLACK, linewidth=1)
    note(ax, f"{best:.2g} min", (best, 0.9), (6, 0), xycoords=("data", "axes fraction"))
    ax.set_xscale("log")
    ax.set_xlim(min(*minutes, best) / 1.1, max(*minutes, best) * 1.1)
    log_ticks(ax.xaxis, minutes[:: max(1, len(minutes) // 8)])
    ax.set_ylim(0, max(both) * 1.1)
    name_axes(ax, "minutes between checkpoints (log scale)", "cost (minutes)")
    legend(fig, ax, 3)
    fig.alt = (
        f"Cost of checkpoints every {minutes[0]:g} to {minutes[-1]:g} minutes: "
        f"saving {saving[0]:.3g} to {saving[-1]:.3g} minutes, "
        f"training again {again[0]:.3g} to {again[-1]:.3g}; the best interval: {best:.2g} minutes."
    )
    return fig
