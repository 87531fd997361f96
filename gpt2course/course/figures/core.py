"""Figures of lesson 10: which tokens are scored, where scores lie by chance, whose noise it is, what 13-grams find."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, FONT, GREY, LINES, MONO, MONO_WIDTH, ORANGE, SKY, WIDTH, canvas, figure, legend, name_axes, name_rows,
    need, note,
)

READ = "#EEEEEE"


def scored(rows: dict[str, tuple[list[str], int, int]], columns: int = 68) -> Figure:
    """Which tokens of a row are scored: name -> (the tokens' texts, start, end). Scored ones are orange."""
    fine = all(0 < s < e <= len(t) for t, s, e in rows.values())
    need(rows and fine, "each row needs a scored token after a read one")
    heads, boxes, y = [], [], 0  # (name, y), (text, x, y, scored)
    for name, (tokens, start, end) in rows.items():
        heads.append((name, y))
        x, y = 0, y + 1
        for i, token in enumerate(tokens):
            text = token.replace("\n", "⏎")
            if x + len(text) > columns:
                x, y = 0, y + 1
            boxes.append((text, x, y, start <= i < end))
            x += len(text)
        y += 1.4
    size = min(FONT, WIDTH * 0.98 * 72 / columns / MONO_WIDTH)
    fig, ax = canvas(y * size * 1.75 / 72, (0, columns), (y - 0.3, -0.1))
    for name, y in heads:
        ax.text(0, y + 0.5, name, fontsize=FONT, va="center", weight="bold")
    for text, x, y, hit in boxes:
        colour = ORANGE if hit else READ
        ax.add_patch(Rectangle((x + 0.06, y + 0.08), len(text) - 0.12, 0.84, color=colour, linewidth=0))
        ax.text(x, y + 0.5, text, family=MONO, fontsize=size, va="center_baseline", parse_math=False)
    said = [f"{name}: {e - s} of {len(t)}, {''.join(t[s:e])!r}" for name, (t, s, e) in rows.items()]
    fig.alt = f"The tokens of a row, the scored ones in orange. {'; '.join(said)}."
    return fig


def dots(groups: dict[str, list[float]], bar: float | None = None, name: str = "score") -> Figure:
    """Scores by what made them differ: a row for each group, a dot for each score, a mark at their mean."""
    need(groups and all(groups.values()), "each group needs a score")
    fig, (ax,) = figure(1.1 + 0.42 * len(groups), grid="x")
    parts = []
    for row, (label, values) in enumerate(groups.items()):
        mean = sum(values) / len(values)
        ax.plot(values, [row] * len(values), "o", color=SKY, markersize=7, markeredgecolor=BLUE)
        ax.plot([mean] * 2, [row - 0.3, row + 0.3], color=BLACK, linewidth=2)
        parts.append(f"{label}: {len(values)} from {min(values):.4f} to {max(values):.4f}, mean {mean:.4f}")
    name_rows(ax, groups)
    if bar is not None:
        ax.axvline(bar, color=BLACK, linewidth=1.2, linestyle="--")
    name_axes(ax, f"{name}; dots: scores, line: their mean" + ("" if bar is None else f", dashed: {bar}"))
    fig.alt = f"{name}: {'; '.join(parts)}." + ("" if bar is None else f" A dashed line at {bar}.")
    return fig


def shares(parts: dict[str, float], what: str) -> Figure:
    """Shares of a whole, the largest first: a bar for each of the eight largest, and one for the others."""
    need(parts and all(v >= 0 for v in parts.values()) and sum(parts.values()) > 0, "no share is above 0")
    order = sorted(parts, key=parts.get, reverse=True)
    whole, rows = sum(parts.values()), {k: parts[k] for k in order[:8]}
    if len(order) > 8:
        rows[f"{len(order) - 8} others"] = sum(parts[k] for k in order[8:])
    values = [v / whole for v in rows.values()]
    fig, (ax,) = figure(0.8 + 0.3 * len(rows), grid="x")
    bars = ax.barh(range(len(rows)), values, color=BLUE, height=0.7)
    ax.bar_label(bars, [f"{v:.0%}" for v in values], padding=4, fontsize=FONT)
    name_rows(ax, [k.removeprefix("bigbench_").replace("_", " ") for k in rows])
    ax.set_xlim(0, max(values) * 1.15)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    name_axes(ax, what)
    fig.alt = f"{what}: {', '.join(f'{k} {v:.0%}' for k, v in zip(rows, values))}."
    return fig


def found(shares: dict[str, list[tuple[int, float]]], chosen: int = 13) -> Figure:
    """The share of items found against the words of a gram, a line for each kind: name -> [(n, share)]."""
    fine = all(len(p) > 1 for p in shares.values())
    need(1 <= len(shares) <= len(LINES) and fine, "a line needs two lengths or more")
    fig, (ax,) = figure(2.9)
    for (name, points), (colour, style) in zip(shares.items(), LINES):
        ax.plot(*zip(*sorted(points)), color=colour, linestyle=style, marker="o", linewidth=2, markersize=5, label=name)
    ax.axvline(chosen, color=GREY, linewidth=1.2, linestyle=":")
    note(ax, f"{chosen} words", (chosen, 0.98), (-4, 0), xycoords=("data", "axes fraction"), ha="right", va="top")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_ylim(bottom=0)
    name_axes(ax, "words of a gram, n", "items with a gram\nin the text")
    legend(fig, ax)
    said = [f"{name}: {', '.join(f'{n} words {s:.0%}' for n, s in sorted(p))}" for name, p in shares.items()]
    fig.alt = f"Share of items of which some n words in a row stand in the text. {'; '.join(said)}."
    return fig
