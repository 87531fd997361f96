"""Figures of lesson 03: the block diagram, attention maps, RoPE's angles and scores, the parameter budget, the sweep of
rates."""

import math

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gpt2course.files import UserError
from gpt2course.course.plots import (
    BLACK,
    BLUE,
    FONT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TINTS,
    VERMILION,
    WIDTH,
    amount,
    figure,
    name_axes,
)

BLUES = LinearSegmentedColormap.from_list("course", ["#FFFFFF", "#8CC4EA", BLUE, "#003A5C"])


def _need(ok, text: str) -> None:
    if not ok:
        raise UserError(f"there is nothing to draw: {text}")


def block_diagram(models: dict[str, dict[str, list[str]]]) -> Figure:
    """Models side by side, read from the bottom up: the residual stream as a line, and the boxes that read from it and
    add to it.

    models: name -> {"start", "attention", "mlp", "end"} -> the steps from first to last. Steps new against the first
    are tinted.
    """
    _need(
        models and all(set(m) == {"start", "attention", "mlp", "end"} for m in models.values()),
        "every model needs start, attention, mlp and end",
    )
    sizes = {part: max(len(m[part]) for m in models.values()) for part in ("start", "attention", "mlp", "end")}
    step, gap = 1.0, 0.75
    bottom, y = {}, 1.0
    for part, n in sizes.items():
        bottom[part] = y
        y += n * step + gap
    y += 0.5
    fig = Figure(figsize=(WIDTH, 0.31 * y + 0.5), facecolor="white")
    first = {s for steps in next(iter(models.values())).values() for s in steps}
    new = []
    for i, (name, model) in enumerate(models.items()):
        ax = fig.add_axes(((i + 0.02) / len(models), 0.01, 0.96 / len(models), 0.98))
        ax.set_axis_off()
        ax.set_xlim(0, 10)
        ax.set_ylim(-0.1, y + 0.9)
        ax.text(5, y + 0.4, name, ha="center", va="center", fontsize=FONT, weight="bold")
        ax.text(1, 0.3, "tokens", ha="center", va="center", fontsize=FONT, color=GREY)
        ax.text(1, y - 0.25, "logits", ha="center", va="center", fontsize=FONT, color=GREY)
        ax.add_patch(
            FancyArrowPatch(
                (1, 0.7), (1, y - 0.6), arrowstyle="-|>", mutation_scale=12, linewidth=2.5, color=BLACK, shrinkA=0, shrinkB=0
            )
        )
        for part, steps in model.items():
            low, on = bottom[part], part in ("start", "end")
            x, width = (0.2, 8.8) if on else (3.0, 6.0)
            high = low + len(steps) * step
            for k, text in enumerate(steps):
                tint = TINTS[1] if i and text not in first else "#EEEEEE" if on else TINTS[0]
                new += [text.strip()] if i and text not in first and text.strip() not in new else []
                ax.add_patch(Rectangle((x, low + k * step + 0.08), width, step - 0.16, facecolor=tint, linewidth=0, zorder=3))
                ax.text(x + width / 2, low + (k + 0.5) * step, text, ha="center", va="center", fontsize=FONT, zorder=4)
            if not on:
                arrow = dict(mutation_scale=10, linewidth=1.3, color=BLACK, shrinkA=0, shrinkB=0)
                ax.add_patch(FancyArrowPatch((1, low + 0.5), (x, low + 0.5), arrowstyle="-|>", **arrow))
                ax.add_patch(FancyArrowPatch((x, high - 0.5), (1.32, high - 0.5), arrowstyle="-|>", **arrow))
                ax.add_patch(Circle((1, high - 0.5), 0.32, facecolor="white", edgecolor=BLACK, linewidth=1.3, zorder=5))
                ax.text(1, high - 0.5, "+", ha="center", va="center", fontsize=FONT, zorder=6)
        low, high = bottom["attention"] - 0.3, bottom["mlp"] + sizes["mlp"] * step + 0.3
        ax.add_patch(
            Rectangle((0.15, low), 9.2, high - low, facecolor="none", edgecolor=GREY, linewidth=1, linestyle=(0, (4, 3)))
        )
        ax.text(9.5, (low + high) / 2, "one layer, repeated", rotation=90, ha="left", va="center", fontsize=FONT, color=GREY)
    fig.alt = "Block diagram from the bottom up: " + " ".join(
        f"{name}: {', '.join(m['start'])}; each layer adds {', '.join(m['attention'])}, "
        f"then {', '.join(m['mlp'])}; then {', '.join(m['end'])}."
        for name, m in models.items()
    )
    fig.alt += f" New against the first: {', '.join(new)}." if new else ""
    return fig


def attention_maps(maps: dict[str, list[list[float]]], tokens: list[str]) -> Figure:
    """Attention weights, one square for each head: a row for each query, a column for each key, dark where large."""
    T = len(tokens)
    _need(maps and T, "no map, or no tokens")
    for name, m in maps.items():
        if len(m) != T or any(len(row) != T for row in m):
            raise UserError(f"map {name!r} is not {T} x {T}, though there are {T} tokens")
    columns = min(len(maps), 2)
    rows, few = -(-len(maps) // columns), T <= 5
    side = WIDTH / 2 - 0.05
    labels = [t.replace("\n", "\u23ce").replace(" ", "\u00b7") for t in tokens]  # a line end and a space, visible
    fig = Figure(figsize=(WIDTH if columns > 1 else side + 0.9, rows * (side - 0.1)), layout="constrained", facecolor="white")
    for i, (name, m) in enumerate(maps.items()):
        ax = fig.add_subplot(rows, columns, i + 1)
        picture = ax.imshow(m, cmap=BLUES, vmin=0, vmax=1)
        ax.set_title(name, fontsize=FONT)
        ax.set_yticks(range(T), labels if i % columns == 0 else [""] * T, fontsize=FONT)
        ax.set_xticks(
            range(T),
            labels if i // columns == rows - 1 else [""] * T,
            rotation=0 if few and max(map(len, tokens)) < 5 else 90,
            fontsize=FONT,
        )
        ax.tick_params(length=0)
        ax.spines[:].set_color("#BBBBBB")
        if few:
            for q in range(T):
                for k in range(q + 1):
                    ax.text(
                        k, q, f"{m[q][k]:.2f}", ha="center", va="center", fontsize=FONT, color="white" if m[q][k] > 0.5 else BLACK
                    )
        if columns == 1:
            name_axes(ax, "key (looked at)", "query (looks)")
    if columns > 1:
        fig.supxlabel("key (looked at)", fontsize=FONT)
        fig.supylabel("query (looks)", fontsize=FONT)
        bar = fig.colorbar(picture, ax=fig.axes, shrink=0.5, aspect=30, pad=0.01)
        bar.set_label("weight", fontsize=FONT)
        bar.ax.tick_params(labelsize=FONT)
    reach = {name: sum(m[q][k] * (q - k) for q in range(T) for k in range(q + 1)) / T for name, m in maps.items()}
    above = max(m[q][k] for m in maps.values() for q in range(T) for k in range(q + 1, T)) if T > 1 else 0.0
    fig.alt = (f"Attention weights of {len(maps)} head(s) over {T} tokens, queries downwards, keys to the right; "
               f"the largest weight above the diagonal is {above:.2g}. "
               f"Mean distance looked back: {', '.join(f'{name} {d:.1f}' for name, d in reach.items())}.")  # fmt: skip
    return fig


def rope_clocks(angles: list[list[float]]) -> Figure:
    """RoPE's angles as the hands of clocks: a row for each pair of channels, a column for each position.

    angles: for each pair, its angle (radians) at positions 0, 1, 2, ...
    """
    _need(angles and angles[0] and len({len(a) for a in angles}) == 1, "every pair needs an angle for each position")
    n, T = len(angles), len(angles[0])
    fig = Figure(figsize=(WIDTH, WIDTH * 0.86 / T * n + 0.62), facecolor="white")
    ax = fig.add_axes((0.005, 0.005, 0.99, 0.99))
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(-1.75, T - 0.5)
    ax.set_ylim(n - 0.45, -1.05)
    ax.text((T - 1) / 2, -0.88, "position", ha="center", va="center", fontsize=FONT)
    for t in range(T):
        ax.text(t, -0.6, str(t), ha="center", va="center", fontsize=FONT)
    for i, row in enumerate(angles):
        ax.text(
            -0.55,
            i,
            f"pair {i}\n{row[1]:.3g} rad\na position" if T > 1 else f"pair {i}",
            ha="right",
            va="center",
            fontsize=FONT,
            linespacing=1.05,
        )
        for t, angle in enumerate(row):
            ax.add_patch(Circle((t, i), 0.42, facecolor="#F4F4F4", edgecolor="#BBBBBB", linewidth=1))
            ax.plot(
                [t, t + 0.4 * math.cos(angle)], [i, i + 0.4 * math.sin(angle)], color=BLUE, linewidth=2.2, solid_capstyle="round"
            )
            ax.plot([t], [i], "o", color=BLUE, markersize=4)
    speeds = ", ".join(f"{row[1]:.3g}" for row in angles) if T > 1 else ""
    fig.alt = f"Clock hands for {n} pairs of channels at positions 0 to {T - 1}: they turn by {speeds} radians a position."
    return fig


def score_by_distance(lines: dict[str, list[float]], note: str = "") -> Figure:
    """The score of one query and one key against their distance, a line for each place where the key stands."""
    _need(lines and all(lines.values()), "no scores")
    fig, (ax,) = figure(2.8)
    widths = [7.0, 3.6, 1.4, 1.0]  # the first one broad, so that lines on top of each other all show
    for i, (name, scores) in enumerate(lines.items()):
        ax.plot(
            range(len(scores)),
            scores,
            color=(SKY, ORANGE, BLACK, VERMILION, PURPLE)[i % 5],
            linewidth=widths[min(i, 3)],
            label=name,
        )
    name_axes(ax, "distance (query position - key position)", "score q · k")
    fig.legend(loc="outside upper center", ncols=4, fontsize=FONT, frameon=False)
    pairs = list(zip(*lines.values()))
    apart = max(max(p) - min(p) for p in pairs)
    low, high = min(map(min, pairs)), max(map(max, pairs))
    fig.alt = (f"Score of one query and one key against their distance, 0 to {len(pairs) - 1}, for {', '.join(lines)}: "
               f"between {low:.2f} and {high:.2f}; "
               f"the lines differ by at most {apart:.2g}.{' ' + note if note else ''}")  # fmt: skip
    return fig


def parameter_budget(models: dict[str, dict[str, float]], unit: str = "parameters") -> Figure:
    """One bar a model, cut into the shares of its parts; the total stands behind it. All models have the same parts."""
    parts = list(dict.fromkeys(p for m in models.values() for p in m))
    _need(parts and all(sum(m.values()) > 0 for m in models.values()), "no model has any part")
    tints = dict(zip(parts, ("#D5D5D5", *TINTS)))
    fig, (ax,) = figure(1.15 + 0.5 * len(models), grid="x")
    ax.grid(False)
    for row, model in enumerate(models.values()):
        total, left = sum(model.values()), 0.0
        for part in parts:
            share = model.get(part, 0) / total
            ax.barh(
                [row],
                [share],
                left=[left],
                color=tints[part],
                edgecolor="white",
                linewidth=1,
                height=0.7,
                label=part if row == 0 else None,
            )
            if share > 0.045:
                ax.text(left + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=FONT)
            left += share
        ax.text(1.01, row, amount(total), ha="left", va="center", fontsize=FONT, color=BLUE)
    ax.set_yticks(range(len(models)), list(models))
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlim(0, 1.1)
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.xaxis.set_major_locator(NullLocator())
    name_axes(ax, f"share of the {unit}, all of them in blue")
    handles, names = ax.get_legend_handles_labels()
    fig.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=5,
        fontsize=FONT,
        frameon=False,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1.2,
    )
    each = [
        f"{name}, {amount(sum(m.values()))} in all: " + ", ".join(f"{p} {m[p] / sum(m.values()):.0%}" for p in m)
        for name, m in models.items()
    ]
    fig.alt = f"Share of the {unit} by part. {'; '.join(each)}."
    return fig


def rate_sweep(runs: dict[str, list[tuple[float, float]]]) -> Figure:
    """Validation bits per byte against the learning rate of the matrices, a line for each recipe, its best rate
    marked."""
    _need(runs and all(runs.values()), "a recipe has no run")
    fig, (ax,) = figure(3.0)
    said = []
    for i, (name, points) in enumerate(runs.items()):
        points, colour = sorted(points), (VERMILION, BLUE, GREEN, PURPLE)[i % 4]
        best = min(points, key=lambda p: p[1])
        ax.plot(*zip(*points), color=colour, marker="os^v"[i % 4], markersize=6, linewidth=1.8, label=name)
        ax.plot(*best, "o", markersize=13, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.6)
        said.append(f"{name}: best {best[1]:.3f} at {best[0]:g}, worst {max(b for _, b in points):.3f}, {len(points)} rates")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    name_axes(ax, "learning rate of the matrices (setting, log scale)", "validation bits per byte")
    fig.legend(loc="outside upper center", ncols=4, fontsize=FONT, frameon=False)
    fig.alt = f"Validation bits per byte against the learning rate. {'; '.join(said)}."
    return fig
