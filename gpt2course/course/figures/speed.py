"""Figure of the benchmark: the roofline."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from gpt2course.files import UserError
from gpt2course.course.plots import BLUE, FONT, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, amount, figure, name_axes

MARKS = [(marker, colour) for marker in "osD^v" for colour in (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)]


def giga(value: float) -> str:
    """5e10 -> "50 G", 9.89e14 -> "989 T", to stand before FLOP/s or B/s."""
    return f"{value / 1e15:.3g} P" if value >= 1e15 else f"{value / 1e12:.3g} T" if value >= 1e12 else f"{value / 1e9:.3g} G"


def roofline(flops: float, bandwidth: float, points: dict[str, tuple[float, float]]) -> Figure:
    """What was reached against what memory and arithmetic allow (roofline model, doi 10.1145/1498765.1498785).

    flops: FLOP/s of large matrix products; bandwidth: bytes/s of copying; points: name -> (FLOPs for each byte that
    must at least be moved, FLOP/s reached).
    """
    if not points or flops <= 0 or bandwidth <= 0:
        raise UserError("there is nothing to draw: a roof and at least one point are needed")
    rows = -(-len(points) // 2)
    fig, (ax,) = figure(3.4 + 0.24 * rows, grid="both")
    ridge = flops / bandwidth
    low, high = min([ridge, *(x for x, _ in points.values())]) / 3, max([ridge, *(x for x, _ in points.values())]) * 3
    ax.plot([low, ridge, high], [low * bandwidth, flops, flops], color=GREY, linewidth=2.2)
    ax.set_title(f"the roof: copying {giga(bandwidth)}B/s, large products {giga(flops)}FLOP/s", fontsize=FONT, color=GREY, loc="left")
    for (name, (x, y)), (marker, colour) in zip(points.items(), MARKS * (1 + len(points) // len(MARKS))):
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
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=FONT, frameon=False)
    said = "; ".join(
        f"{name} {giga(y)}FLOP/s at {x:.3g} FLOPs a byte, {y / min(flops, x * bandwidth):.0%} of the roof"
        for name, (x, y) in points.items()
    )
    fig.alt = f"Roofline: copying {giga(bandwidth)}B/s, large products {giga(flops)}FLOP/s. {said}."
    return fig
