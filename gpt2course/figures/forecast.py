"""Figures of the forecast: the published runs beside their prediction, and the chance of passing the bar. Lesson 14."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gpt2course.files import UserError
from gpt2course.plots import BLACK, BLUE, FONT, GREY, ORANGE, VERMILION, figure, name_axes


def prediction_errors(rows: list[tuple[str, float, float]], interval: tuple[float, float], fitted: str) -> Figure:
    """Predicted over published hours of each run, in per cent, with the interval in which the next run's error is
    expected.

    rows: (name, published hours, predicted hours); interval: factors on a predicted time, as forecast.interval gives
    them; fitted: the run whose hours the prediction was fitted to, drawn hollow.
    """
    if not rows or min(min(r[1:]) for r in rows) <= 0:
        raise UserError("there is nothing to draw: a run without hours")
    fig, (ax,) = figure(0.9 + 0.34 * len(rows), grid="x")
    errors = [100 * (predicted / published - 1) for _, published, predicted in rows]
    band = sorted(100 * (1 / factor - 1) for factor in interval)
    ax.axvspan(*band, color=BLUE, alpha=0.12, linewidth=0)
    ax.axvline(0, color=BLACK, linewidth=1)
    for y, ((name, _, predicted), error) in enumerate(zip(rows, errors)):
        colour = GREY if name == fitted else BLUE if band[0] <= error <= band[1] else VERMILION
        ax.plot([0, error], [y, y], color=colour, linewidth=1.5)
        ax.plot([error], [y], "o", color=colour, markersize=8, fillstyle="none" if name == fitted else "full")
        label = "fitted to it" if name == fitted else f"{error:+.1f} %, {predicted:.2f} h"
        ax.annotate(label, (max(error, 0), y), (9, 0), textcoords="offset points", va="center", fontsize=FONT, color=colour)
    ax.set_yticks(range(len(rows)), [f"{name}, {published:.2f} h" for name, published, _ in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    reach = max(abs(v) for v in (*errors, *band))
    ax.set_xlim(-1.15 * reach, 1.15 * max(max(errors), band[1]) + 0.6 * reach)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+g} %" if v else "0"))
    name_axes(ax, "error of the predicted hours; shaded: the 95 % interval of the records")
    said = "; ".join(
        f"{name} {published:.2f} h, predicted {predicted:.2f} h, {error:+.1f} %"
        for (name, published, predicted), error in zip(rows, errors)
    )
    next_error = f"the interval of the next error is {band[0]:+.1f} to {band[1]:+.1f} %"
    fig.alt = f"Errors of predicted hours: {said}. The prediction was fitted to {fitted}; {next_error}."
    return fig


def chance_curve(
    sd: float, records: list[tuple[str, float, float]], bar: float, chances: list[tuple[float, float]]
) -> Figure:
    """The chance that a single run passes the bar, by the recipe's mean score, with the records on it.

    sd: spread of single runs; records: (name, mean, probability); chances: points (mean, probability) of the curve, by
    rising mean.
    """
    if len(chances) < 2 or not records:
        raise UserError("there is nothing to draw: the curve needs two points, and a record")
    fig, (ax,) = figure(3.2)
    ax.plot([m for m, _ in chances], [100 * p for _, p in chances], color=BLUE, linewidth=2)
    ax.axvline(bar, color=BLACK, linewidth=1.2, linestyle="--")
    ax.annotate(f"bar {bar:g}", (bar, 100), (-6, 0), textcoords="offset points", ha="right", va="top", fontsize=FONT)
    for name, mean, p in records:
        ax.plot([mean], [100 * p], "o", color=ORANGE, markersize=8, markeredgecolor=BLACK, markeredgewidth=0.6)
        ax.annotate(f"{name}: {p:.0%}", (mean, 100 * p), (9, -4), textcoords="offset points", va="top", fontsize=FONT)
    ax.set_ylim(0, 104)
    ax.set_xlim(chances[0][0], chances[-1][0])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g} %"))
    name_axes(ax, f"mean CORE of the recipe (single runs spread by {sd:.4f})", "runs above the bar")
    said = ", ".join(f"{name} with mean {mean:.4f} {p:.0%}" for name, mean, p in records)
    fig.alt = f"The chance that a single run scores above {bar:g}, by the mean of its recipe, spread {sd:.4f}: {said}."
    return fig
