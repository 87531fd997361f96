"""Figures of lesson 00: cost by year, where the 600x comes from, the map of the course, the noise of CORE."""

from datetime import date

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, DOTS, FONT, GREEN, GREY, HOLLOW, ORANGE, SKY, TINTS, VERMILION, WIDTH,
    canvas, figure, legend, log_ticks, name_axes, name_rows, need, note, round_numbers,
)


def _dollars(value: float, _pos=None) -> str:
    return f"${value:,.0f}"


def _year(text: str) -> float:
    """2026-01-29 -> 2026.08; a year or a month alone gives its middle."""
    parts = text.split("-")
    if len(parts) == 3:
        return int(parts[0]) + (date(*map(int, parts)).timetuple().tm_yday - 1) / 365.25
    return int(parts[0]) + ((int(parts[1]) - 0.5) / 12 if len(parts) == 2 else 0.5)


def cost_by_year(runs: list[tuple], others: list[tuple] = ()) -> Figure:
    """Dollars of a GPT-2 grade run against its date, on a log scale.

    runs: (date as 2026-01-29, dollars, name). others: the same for runs judged by another measure, drawn hollow.
    """
    need(runs, "no run has a cost")
    need(all(dollars > 0 for _, dollars, _ in [*runs, *others]), "a cost of 0 dollars has no place on a log scale")
    fig, (ax,) = figure(3.9)
    drawn = sorted((_year(d), dollars, name) for d, dollars, name in runs)
    first, last, best = drawn[0], drawn[-1], min(drawn, key=lambda r: r[1])
    ax.plot([r[0] for r in drawn], [r[1] for r in drawn], "o", color=BLUE, markersize=7, **DOTS)
    labelled = [(first, 9, 0, "left", "center")]
    if len(drawn) > 1:
        top = next(r for r in drawn if r[0] > first[0])
        labelled += [(top, 0, 9, "center", "bottom")] + ([(best, 0, -9, "center", "top")] if best != top else [])
    for (x, dollars, _), dx, dy, ha, va in labelled:
        note(ax, _dollars(dollars), (x, dollars), (dx, dy), ha=ha, va=va, color=BLUE)
    for day, dollars, name in others:
        ax.plot([_year(day)], [dollars], color=GREY, markersize=7, **HOLLOW)
        text = f"{name}, {_dollars(dollars)}"
        note(ax, text, (_year(day), dollars), (-9, 0), ha="right", va="center", color=GREY)
    ax.set_yscale("log")
    costs = [r[1] for r in drawn] + [o[1] for o in others]
    ax.set_ylim(min(costs) / 2.5, max(costs) * 2)
    log_ticks(ax.yaxis, round_numbers(*ax.get_ylim(), digits=(1,)), _dollars)
    ax.set_xlim(first[0] - 0.3, last[0] + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    name_axes(ax, "year", "cost of the run (dollars, log scale)")
    fig.alt = f"Cost of {len(drawn)} runs by year on a log scale: {_dollars(first[1])} in {int(first[0])}"
    fig.alt += f", {_dollars(best[1])} for the cheapest, in {int(best[0])}." if len(drawn) > 1 else "."
    other = ", ".join(f"{name} {_dollars(d)} in {int(_year(day))}" for day, d, name in others)
    fig.alt += f" Judged otherwise: {other}." if others else ""
    return fig


def factors(parts: list[tuple[str, float, str]]) -> Figure:
    """Factors that multiply to one, each a bar on a log scale that begins where the one before ends.

    parts: (what it is, factor, kind) with kind known, guess or unknown.
    """
    colours = {"known": BLUE, "guess": SKY, "unknown": "#BBBBBB"}
    words = {"known": "from published numbers", "guess": "depends on a reading", "unknown": "cannot be separated"}
    need(parts, "no factor")
    right = all(f > 0 and k in colours for _, f, k in parts)
    need(right, "every factor must be positive, and its kind known, guess or unknown")
    total = 1.0
    fig, (ax,) = figure(1.25 + 0.52 * (len(parts) + 1), grid="x")
    for row, (_, factor, kind) in enumerate(parts):
        ax.barh(row, total * factor - total, left=total, color=colours[kind], height=0.66)
        if row:
            ax.plot([total, total], [row - 1 + 0.33, row - 0.33], color=GREY, linewidth=1)
        total *= factor
        note(ax, f"{factor:.3g}x", (total, row), (5, 0), va="center")
    ax.barh(len(parts), total - 1, left=1, color=BLACK, height=0.66)
    note(ax, f"{total:.3g}x", (total, len(parts)), (5, 0), va="center", weight="bold")
    ax.set_xscale("log")
    ax.set_xlim(1, total * 2.2)
    log_ticks(ax.xaxis, round_numbers(1, total * 2.2, digits=(1, 3)), lambda v, _: f"{v:g}x")
    name_rows(ax, [*(name for name, *_ in parts), "all together"], below=0.5)
    name_axes(ax, "times cheaper (log scale: equal lengths are equal factors)")
    kinds = [k for k in colours if any(kind == k for *_, kind in parts)]
    legend(fig, ax, 3, [Rectangle((0, 0), 1, 1, color=colours[k], label=words[k]) for k in kinds], handlelength=1.2)
    each = ", ".join(f"{name.replace(chr(10), ' ')} {factor:.3g}x ({words[kind]})" for name, factor, kind in parts)
    fig.alt = f"Factors on a log scale, multiplied: {each}; all together {total:.3g}x."
    return fig


def course_map(lessons: list[tuple[int, str, str, str]], rungs: dict[int, list[str]]) -> Figure:
    """The map of the course: a row for each part of a run, a box for each lesson, and the rungs that a lesson adds.

    lessons: (number, part, name, the file it builds), the parts in order. Arrows lead from part to part, except from
    the first, which is the run as a whole. rungs: lesson -> the recipes it adds.
    """
    need(lessons, "no lesson")
    parts = list(dict.fromkeys(part for _, part, *_ in lessons))
    most = max(sum(part == p for _, p, *_ in lessons) for part in parts)
    left, height = 1.02, 0.86
    box, bottom = (WIDTH - left) / most, height * len(parts)
    fig, ax = canvas(bottom + 0.3, (0, WIDTH), (bottom + 0.3, 0), margin=0)
    for row, part in enumerate(parts):
        y = row * height + 0.03
        ax.text(0.05, y + 0.39, part, va="center", fontsize=FONT, weight="bold", linespacing=0.95)
        if row > 1:
            arrow = dict(arrowstyle="-|>", mutation_scale=12, color=GREY)
            ax.add_patch(FancyArrowPatch((0.42, y - 0.22), (0.42, y + 0.1), **arrow))
        for column, (number, _, name, file) in enumerate(entry for entry in lessons if entry[1] == part):
            x, rung = left + column * box, rungs.get(number, ())
            tint = TINTS[1] if rung else "#EEEEEE"
            ax.add_patch(Rectangle((x + 0.03, y + 0.02), box - 0.06, height - 0.1, color=tint, linewidth=0))
            ax.text(x + 0.09, y + 0.16, f"{number:02}", va="center", fontsize=FONT, weight="bold")
            ax.text(x + 0.09, y + 0.39, name, va="center", fontsize=FONT)
            ax.text(x + 0.09, y + 0.62, file, va="center", fontsize=FONT, color=GREY)
            for line, text in enumerate(rung):
                at = (x + box - 0.09, y + 0.16 + 0.23 * line)
                ax.text(*at, text, va="center", ha="right", fontsize=FONT, color="#8A4B00", style="italic")
    ax.add_patch(Rectangle((left + 0.03, bottom + 0.08), 0.16, 0.14, color=TINTS[1], linewidth=0))
    key = "adds the recipes named in italics"
    ax.text(left + 0.26, bottom + 0.15, key, va="center", fontsize=FONT, color="#444444")
    fig.alt = "The map of the course."
    for part in parts:
        names = [
            f"{n:02} {name}" + (f" (adds {', '.join(rungs[n])})" if n in rungs else "")
            for n, p, name, _ in lessons if p == part
        ]  # fmt: skip
        fig.alt += f" {part.replace(chr(10), ' ').capitalize()}: {', '.join(names)}."
    return fig


def core_draws(draws: list[float], bar: float, runs: dict[str, float] | None = None) -> Figure:
    """The scores of equal runs as dots on a line, with the bar to pass; `runs` are other scores, named."""
    need(draws, "no score")
    runs = runs or {}
    fig, (ax,) = figure(1.75 + 0.3 * len(runs), grid="x")
    below = [d for d in draws if d <= bar]
    mean = sum(draws) / len(draws)
    for values, colour, mark in (([d for d in draws if d > bar], BLUE, "o"), (below, VERMILION, "X")):
        ax.plot(values, [0] * len(values), mark, color=colour, markersize=8, **DOTS)
    ax.plot([mean, mean], [-0.35, 0.35], color=BLACK, linewidth=2)
    ax.axvline(bar, color=BLACK, linewidth=1.2, linestyle="--")
    for row, value in enumerate(runs.values(), 1):
        ax.plot([value], [row], "D", color=GREEN, markersize=7)
    note(ax, f"bar {bar:g}", (bar, 1), (5, -3), xycoords=("data", "axes fraction"), va="top")
    name_rows(ax, [f"{len(draws)} equal runs", *runs])
    ax.set_ylim(top=-0.95)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    name_axes(ax, "CORE (mean centred accuracy); cross: below the bar, line: mean")
    fig.alt = f"CORE of {len(draws)} equal runs, from {min(draws):.5f} to {max(draws):.5f}, mean {mean:.5f}: "
    fig.alt += f"{len(below)} of them at or below the bar of {bar:g}."
    fig.alt += f" For comparison: {', '.join(f'{name} {value:.5f}' for name, value in runs.items())}." if runs else ""
    return fig


def flops_shares(parts: dict[str, dict[str, float]]) -> Figure:
    """GFLOPs a token as stacked bars, one for each model, with each part's share. parts: model -> part -> GFLOPs."""
    need(parts and all(sum(p.values()) > 0 for p in parts.values()), "no model has FLOPs")
    names = list(next(iter(parts.values())))
    fig, (ax,) = figure(0.95 + 0.44 * len(parts), grid="x")
    rows = range(len(parts))
    start = [0.0] * len(parts)
    for colour, name in zip((BLUE, ORANGE, GREEN, SKY, GREY), names):
        shares = [p[name] / sum(p.values()) for p in parts.values()]
        ax.barh(rows, shares, left=start, color=colour, height=0.7, label=name)
        for row, (a, share) in enumerate(zip(start, shares)):
            if share > 0.055:
                style = dict(ha="center", va="center", color="white" if colour in (BLUE, GREEN) else BLACK)
                ax.text(a + share / 2, row, f"{share:.0%}", fontsize=FONT, **style)
        start = [a + b for a, b in zip(start, shares)]
    name_rows(ax, [f"{name}: {sum(p.values()):.2f}" for name, p in parts.items()])
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    name_axes(ax, "share of a token's training FLOPs (GFLOPs at the left)")
    legend(fig, ax, len(names))
    each = [
        f"{model} {sum(p.values()):.2f}, " + ", ".join(f"{name} {v / sum(p.values()):.0%}" for name, v in p.items())
        for model, p in parts.items()
    ]
    fig.alt = f"GFLOPs a token and their shares: {'; '.join(each)}."
    return fig


def calls(seconds: list[float], warmup: int, median: float) -> Figure:
    """The time of each call in order, warm-up calls hollow, with the median as a line. Times in seconds."""
    need(len(seconds) > warmup, "no call after the warm-up")
    scale, unit = (1e6, "µs") if median < 1e-3 else (1e3, "ms") if median < 1 else (1, "s")
    fig, (ax,) = figure(2.6)
    times = [s * scale for s in seconds]
    ax.plot(range(1, warmup + 1), times[:warmup], "o", color=GREY, fillstyle="none", markersize=7, label="warm-up")
    ax.plot(range(warmup + 1, len(times) + 1), times[warmup:], "o", color=BLUE, markersize=7, label="timed")
    ax.axhline(median * scale, color=VERMILION, linewidth=1.5, label=f"median {median * scale:.3g} {unit}")
    ax.set_ylim(0, max(times) * 1.15)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    name_axes(ax, "call", f"time ({unit})")
    legend(fig, ax)
    fig.alt = (
        f"Times of {len(times)} calls, {warmup} of them warm-up: from {min(times):.3g} to {max(times):.3g} {unit}, "
        f"median of the timed ones {median * scale:.3g} {unit}."
    )
    return fig
