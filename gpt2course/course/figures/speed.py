"""Figures of lesson 12: the roofline, 8-bit numbers by their scale, memory by category, two losses."""

import itertools

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from gpt2course.course.figures.windows import losses as losses  # the same picture: two curves that should agree

from gpt2course.course.figures.style import (  # isort: skip
    BLUE, FONT, GREEN, GREY, LINES, ORANGE, PURPLE, SKY, VERMILION,
    amount, figure, legend, name_axes, name_rows, need,
)

MARKS = [(marker, colour) for marker in "osD^v" for colour in (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)]


def giga(value: float) -> str:
    """5e10 -> "50 G", 9.89e14 -> "989 T", as a prefix of FLOP/s or B/s."""
    scale, unit = (1e15, "P") if value >= 1e15 else (1e12, "T") if value >= 1e12 else (1e9, "G")
    return f"{value / scale:.3g} {unit}"


def roofline(flops: float, bandwidth: float, points: dict[str, tuple[float, float]]) -> Figure:
    """Measured FLOP/s against what memory and arithmetic allow (roofline model, doi 10.1145/1498765.1498785).

    flops: FLOP/s of large matrix products. bandwidth: bytes/s of copying. points: name -> (FLOPs for each byte that
    must be moved, measured FLOP/s).
    """
    need(points and flops > 0 and bandwidth > 0, "a roof and at least one point are needed")
    rows = -(-len(points) // 2)
    fig, (ax,) = figure(3.4 + 0.24 * rows, grid="both")
    ridge = flops / bandwidth
    intensities = [ridge, *(x for x, _ in points.values())]
    low, high = min(intensities) / 3, max(intensities) * 3
    ax.plot([low, ridge, high], [low * bandwidth, flops, flops], color=GREY, linewidth=2.2)
    roof = f"copying {giga(bandwidth)}B/s, large products {giga(flops)}FLOP/s"
    ax.set_title(f"the roof: {roof}", fontsize=FONT, color=GREY, loc="left")
    for (name, (x, y)), (marker, colour) in zip(points.items(), itertools.cycle(MARKS)):
        ax.plot(x, y, marker, color=colour, markersize=7, label=name, linestyle="none")
    ax.set_xscale("log")
    ax.set_yscale("log")
    bottom = min([low * bandwidth, *(y for _, y in points.values())])
    ax.set_xlim(low, high)
    ax.set_ylim(bottom / 2, max([flops, *(y for _, y in points.values())]) * 2.5)
    ax.xaxis.set_major_formatter(FuncFormatter(amount))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: giga(v)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    name_axes(ax, "FLOPs for each byte that must be moved (log scale)", "FLOP/s (log scale)")
    legend(fig, ax, 2, loc="outside lower center")
    each = "; ".join(
        f"{name} {giga(y)}FLOP/s at {x:.3g} FLOPs a byte, {y / min(flops, x * bandwidth):.0%} of the roof"
        for name, (x, y) in points.items()
    )
    fig.alt = f"Roofline: {roof}. {each}."
    return fig


def eight(errors: dict[str, list[tuple[int, float]]]) -> Figure:
    """The error of a cast to 8 bits against the scale: name -> [(power of two, error as a share)]."""
    need(errors and all(len(p) > 1 for p in errors.values()), "a line needs two scales or more")
    fig, (ax,) = figure(3.0)
    said = []
    for (name, points), (colour, style), mark in zip(errors.items(), LINES, "osv"):
        ax.plot(*zip(*points), color=colour, linestyle=style, marker=mark, linewidth=2, label=name)
        power, error = min(points, key=lambda p: p[1])
        said.append(f"{name}: least error {error:.1%}, at a scale of 2 to the power {power}")
    name_axes(ax, "scale, as a power of two", "error of the cast\n(share of the norm)")
    legend(fig, ax)
    fig.alt = f"Error of 8-bit numbers against their scale. {'; '.join(said)}."
    return fig


def memory(bars: dict[str, dict[str, float]], card: float = 80.0) -> Figure:
    """Memory of a step by category in GB, a bar for each setting."""
    need(bars and all(sum(b.values()) > 0 for b in bars.values()), "no setting takes memory")
    fig, (ax,) = figure(1.5 + 0.5 * len(bars), grid="x")
    names = list(dict.fromkeys(k for b in bars.values() for k in b))
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
    left = [0.0] * len(bars)
    for name, colour in zip(names, colours):
        sizes = [b.get(name, 0.0) for b in bars.values()]
        ax.barh(range(len(bars)), sizes, left=left, color=colour, height=0.62, label=name)
        left = [a + s for a, s in zip(left, sizes)]
    ax.axvline(card, color=GREY, linewidth=1.5, linestyle="--", label=f"a card of {card:g} GB")
    name_rows(ax, list(bars))
    name_axes(ax, "GB")
    legend(fig, ax)
    most = {name: max(b, key=b.get) for name, b in bars.items()}
    said = [f"{n}: {sum(b.values()):.1f} GB, most of it {most[n]} ({b[most[n]]:.1f})" for n, b in bars.items()]
    fig.alt = f"Memory of a step by category against a card of {card:g} GB. {'; '.join(said)}."
    return fig


def gains(lines: dict[str, list[tuple[float, float]]]) -> Figure:
    """Amdahl's law: how many times faster the whole is against a part's factor; name -> [(factor, whole)]."""
    need(lines and all(len(p) > 1 for p in lines.values()), "a line needs two factors or more")
    fig, (ax,) = figure(2.7)
    for (name, points), (colour, style), mark in zip(lines.items(), LINES, "osv"):
        ax.plot(*zip(*points), color=colour, linestyle=style, marker=mark, linewidth=2, label=name)
    name_axes(ax, "how many times faster the part is", "how many times faster\nthe whole is")
    legend(fig, ax)
    said = [f"{name}: {p[-1][1]:.3f} times with a part {p[-1][0]:g} times faster" for name, p in lines.items()]
    fig.alt = f"Amdahl's law, the whole step against one part. {'; '.join(said)}."
    return fig
