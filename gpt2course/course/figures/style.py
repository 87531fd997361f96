"""One style for every figure, and what the figures share: axes, labels, legends, and the way into a notebook.

The style: 7 inches wide and no text below 11 points, so that a figure is readable at half its size; the Okabe-Ito
colours, which colour-blind readers can tell apart; a unit on every axis; no decoration. `fig.alt` describes the
figure in words, and `show(fig)` puts the picture and these words into a notebook. No figure goes through pyplot, which
would keep it in memory.
"""

import base64
import html
import io

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gpt2course.files import UserError

# Okabe and Ito, "Color Universal Design" (jfly.uni-koeln.de/color), without the yellow, which is faint on white
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#666666"
TINTS = ("#BFE3F7", "#FBDFA6", "#B5E3D5", "#F3CFE0", "#F7C9A9")  # the same hues, light enough for black text on them
LINES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"), (BLACK, "--"))  # for plot(...)
DOTS = dict(markeredgecolor="white", markeredgewidth=0.5)
HOLLOW = dict(marker="o", fillstyle="none", markeredgewidth=1.3)
WIDTH = 7.0  # inches
FONT = 11.0  # points
MONO = "DejaVu Sans Mono"
MONO_WIDTH = 0.602  # of a character of this font, in units of the font size


def need(ok, problem: str) -> None:
    """UserError unless the data can be drawn."""
    if not ok:
        raise UserError(f"there is nothing to draw: {problem}")


def figure(height: float, rows: int = 1, columns: int = 1, grid: str = "y", heights: list | None = None, **shared):
    """A Figure of the course's width and its axes, as a list: (figure, [axes, ...]).

    heights: those of the rows, if they differ. shared: sharex=True or sharey=True.
    """
    fig = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = list(fig.subplots(rows, columns, squeeze=False, height_ratios=heights, **shared).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=FONT, length=3)
        ax.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)
    fig.alt = ""
    return fig, axes


def canvas(height: float, x: tuple[float, float], y: tuple[float, float], margin: float = 0.01):
    """A Figure for a drawing without axes: (figure, axes that cover it). x, y: the coordinates of its edges."""
    fig = Figure(figsize=(WIDTH, height), facecolor="white")
    ax = fig.add_axes((margin, margin, 1 - 2 * margin, 1 - 2 * margin))
    ax.set_axis_off()
    ax.set(xlim=x, ylim=y)
    return fig, ax


def name_axes(ax, x: str | None = None, y: str | None = None) -> None:
    """Label the axes with what they show and the unit."""
    if x:
        ax.set_xlabel(x, fontsize=FONT)
    if y:
        ax.set_ylabel(y, fontsize=FONT)


def name_rows(ax, names, below: float = 0.4) -> None:
    """One row a name on the y axis, the first at the top; `below`: the space under the last, in rows."""
    names = [name.replace("$", r"\$") for name in names]  # a dollar is a dollar, not the start of a formula
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 1 + (1 - below), -0.6)


def note(ax, text: str, at: tuple, by: tuple, **style) -> None:
    """Write text `by` (right, up) points away from the place `at` of the axes."""
    ax.annotate(text, at, by, textcoords="offset points", **dict(fontsize=FONT) | style)


def legend(fig, ax, ncols: int = 3, handles: list | None = None, loc: str = "outside upper center", **style) -> None:
    """The legend of `ax`, or these handles, above the axes."""
    style = dict(handletextpad=0.5, columnspacing=1.4) | style
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    fig.legend(handles=handles, loc=loc, ncols=ncols, fontsize=FONT, frameon=False, **style)


def log_ticks(axis, values, write=lambda v, _pos: f"{v:,g}") -> None:
    """Label only these values on a logarithmic axis."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(write))


def round_numbers(low: float, high: float, digits: tuple[int, ...] = (1, 2, 5)) -> list[float]:
    """The numbers from low to high that have one non-zero digit, and that one of `digits`."""
    return [t for t in (d * 10.0**power for power in range(-9, 16) for d in digits) if low <= t <= high]


def amount(value: float, _pos=None) -> str:
    """1500000 -> "1.5M": counts on axes, with at most three figures."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def time_unit(longest: float) -> tuple[float, str]:
    """The unit of a time axis that reaches `longest` seconds: (its seconds, its name)."""
    if longest > 2 * 3600:
        return 3600, "hours"
    return (60, "minutes") if longest > 600 else (1, "seconds")


def time_text(seconds: float) -> str:
    """80 ms, 242 s, 45.2 min or 3.04 h."""
    if seconds < 0.995:
        return f"{seconds * 1000:.0f} ms"
    scale, unit = time_unit(seconds)
    return f"{seconds / scale:.3g} {dict(seconds='s', minutes='min', hours='h')[unit]}"


def png(fig: Figure, dpi: int = 100) -> bytes:
    """The figure as a PNG; dpi at most 100 keeps a notebook small."""
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=min(dpi, 100), metadata={"Description": fig.alt})
    return out.getvalue()


def show(fig: Figure, dpi: int = 100) -> None:
    """Display the figure in a notebook, with its alt text; a plain log shows the alt text alone.

    As HTML, since nbconvert's template (7.17) drops the alt text of an image/png output.
    """
    from IPython.display import display

    picture = base64.b64encode(png(fig, dpi)).decode()
    image = f'<img alt="{html.escape(fig.alt)}" src="data:image/png;base64,{picture}">'
    display({"text/html": image, "text/plain": f"[figure: {fig.alt}]"}, raw=True)
