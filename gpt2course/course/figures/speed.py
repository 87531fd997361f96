"""Figure of lesson 12: the roofline."""

import itertools

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from gpt2course.course.figures.style import (  # isort: skip
    BLUE, FONT, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION,
    amount, figure, legend, name_axes, need,
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
