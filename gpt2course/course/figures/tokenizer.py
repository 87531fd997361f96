"""Figures of lesson 01 and its exercises: a tree of merges, savings, compression, tokens in rows, two measures,
parameters."""


from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gpt2course.files import UserError
from gpt2course.course.plots import (
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

MONO = "DejaVu Sans Mono"


def _need(ok, text: str) -> None:
    if not ok:
        raise UserError(f"there is nothing to draw: {text}")


def _shown(token: str) -> str:
    """Spaces and line ends as signs that can be seen."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "→")


def merge_tree(word: str, steps: list[tuple[str, str]]) -> Figure:
    """How a word is put together: its characters at the bottom, and above them each merge in its order.

    steps: (left, right) as text for each merge of two neighbouring parts, the earliest first; it applies wherever they
    stand.
    """
    _need(word, "the word is empty")
    parts = [(c, i + 0.5, 0.0, i, i + 1) for i, c in enumerate(word)]  # text, x, height, first and last column
    nodes, lines, height = list(parts), [], 0.0
    for left, right in steps:
        at, before = 0, len(parts)
        height += 1
        while at + 1 < len(parts):
            a, b = parts[at], parts[at + 1]
            if (a[0], b[0]) == (left, right):
                node = (left + right, (a[3] + b[4]) / 2, height, a[3], b[4])
                lines += [(node, a), (node, b)]
                nodes.append(node)
                parts[at : at + 2] = [node]
            at += 1
        _need(len(parts) < before, f"{left!r} and {right!r} are not neighbours when their turn comes")
    fig = Figure(figsize=(WIDTH, 0.62 + 0.33 * (height + 1)), facecolor="white")
    ax = fig.add_axes((0.01, 0.01, 0.98, 0.98))
    ax.set_axis_off()
    span = max(len(word), 10)
    ax.set_xlim(-1.3 - (span - len(word)) / 2, len(word) + (span - len(word)) / 2)
    ax.set_ylim(-0.6, height + 0.6)
    for (_, x, y, *_), (_, cx, cy, *_) in lines:
        ax.plot([x, cx], [y, cy], color=GREY, linewidth=1.2, zorder=1)
    whole = {id(p) for p in parts}
    for node in nodes:
        text, x, y = node[:3]
        face = ORANGE if id(node) in whole else TINTS[0] if y else "#EEEEEE"
        style = dict(boxstyle="square,pad=0.22", facecolor=face, edgecolor="none")
        ax.text(x, y, _shown(text), family=MONO, fontsize=FONT, ha="center", va="center", bbox=style, zorder=2)
    for k in range(1, int(height) + 1):
        ax.text(-0.55, k, f"{k}", fontsize=FONT, ha="right", va="center", color=GREY)
    tokens = [_shown(p[0]) for p in parts]
    fig.alt = f"The word {_shown(word)!r} put together in {len(steps)} merges: {', '.join(_shown(a + b) for a, b in steps)}. "
    fig.alt += f"It ends as {len(tokens)} {'token' if len(tokens) == 1 else 'tokens'}: {', '.join(tokens)}."
    return fig


def savings(saved: list[float], paid: list[float] | None = None) -> Figure:
    """Tokens that each merge saves, in the order of learning, both axes logarithmic.

    paid: what each merge must save to be worth its entry in the vocabulary, one number a merge; drawn as a line.
    """
    _need(saved and all(s > 0 for s in saved), "every merge must save at least one token")
    fig, (ax,) = figure(3.2)
    steps = range(1, len(saved) + 1)
    ax.plot(steps, saved, "o", color=BLUE, markersize=3.5)
    if paid is not None:
        _need(len(paid) == len(saved), "one break-even number is needed for each merge")
        ax.plot(steps, paid, color=VERMILION, linewidth=1.8)
        style = dict(textcoords="offset points", ha="left", va="top", fontsize=FONT, color=VERMILION)
        ax.annotate("break-even", (1, paid[0]), (0, -5), **style)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(amount))
        axis.set_minor_locator(NullLocator())
    name_axes(ax, "merge, in the order of learning (log scale)", "tokens saved (log scale)")
    fig.alt = f"Tokens saved by each of {len(saved)} merges on log scales: "
    fig.alt += f"{saved[0]:,.0f} by the first, {saved[-1]:,.0f} by the last."
    fig.alt += f" Break-even goes from {paid[0]:,.0f} to {paid[-1]:,.0f}." if paid is not None else ""
    return fig


def compression(curves: dict[str, list[tuple[int, float]]], marked: int | None = None) -> Figure:
    """Bytes for each token against the size of the vocabulary (log scale), a line for each text.

    curves: text -> (vocabulary size, bytes for each token), ascending; marked: a size to point out.
    """
    _need(curves and all(curves.values()), "no text has a point")
    fig, (ax,) = figure(3.4)
    styles = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"))
    for (name, points), (colour, mark) in zip(curves.items(), styles):
        xs, ys = zip(*points)
        ax.plot(xs, ys, color=colour, marker=mark, markersize=5, linewidth=1.8)
        ax.annotate(name, (xs[-1], ys[-1]), (7, 0), textcoords="offset points", va="center", fontsize=FONT, color=colour)
    sizes = sorted({x for points in curves.values() for x, _ in points})
    if marked:
        ax.axvline(marked, color=GREY, linewidth=1, linestyle="--")
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] / 1.15, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.22)
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1024:.0f}k" if v >= 1024 else f"{v:.0f}"))
    ax.set_ylim(0, max(y for points in curves.values() for _, y in points) * 1.1)
    name_axes(ax, "tokens in the vocabulary (log scale)", "bytes for each token")
    said = [f"{name} {', '.join(f'{y:.2f} at {x:,}' for x, y in points)}" for name, points in curves.items()]
    fig.alt = f"Bytes for each token against vocabulary size: {'; '.join(said)}."
    return fig


def token_rows(rows: dict[str, list[str]]) -> Figure:
    """The same text cut in several ways, a row for each: its name, its tokens each on its own colour, and their
    number."""
    _need(rows and all(rows.values()), "a row has no tokens")
    longest = max(sum(map(len, pieces)) for pieces in rows.values())
    left = max(len(name) for name in rows) * 0.95 + 1.5
    columns = left + longest + 5
    size = min(FONT, WIDTH * 0.98 * 72 / columns / 0.602)
    fig = Figure(figsize=(WIDTH, 0.1 + 0.34 * len(rows)), facecolor="white")
    ax = fig.add_axes((0.01, 0, 0.98, 1))
    ax.set_axis_off()
    ax.set_xlim(0, WIDTH * 0.98 * 72 / (size * 0.602))
    ax.set_ylim(len(rows), 0)
    for row, (name, pieces) in enumerate(rows.items()):
        ax.text(0, row + 0.5, name, fontsize=max(size, FONT - 1), va="center_baseline")
        column = left
        for i, piece in enumerate(pieces):
            ax.add_patch(Rectangle((column, row + 0.1), len(piece) - 0.1, 0.8, color=TINTS[i % len(TINTS)], linewidth=0))
            ax.text(column, row + 0.5, _shown(piece), family=MONO, fontsize=size, va="center_baseline", parse_math=False)
            column += len(piece)
        ax.text(column + 0.8, row + 0.5, f"{len(pieces)}", fontsize=max(size, FONT - 1), va="center_baseline", color=GREY)
    said = []
    for name, pieces in rows.items():
        count = f"{len(pieces)} {'token' if len(pieces) == 1 else 'tokens'}"
        said.append(f"{name} gives {count} ({'|'.join(_shown(p) for p in pieces)})")
    fig.alt = f"The same text cut in {len(rows)} ways: {'; '.join(said)}."
    return fig


def two_measures(runs: dict[str, list[tuple[float, float]]]) -> Figure:
    """Loss for each token beside bits per byte, a row for each variant and a dot for each seed.

    runs: variant -> (nats for each token, bits per byte) of its seeds.
    """
    _need(runs and all(runs.values()), "a variant has no run")
    fig = Figure(figsize=(WIDTH, 0.85 + 0.42 * len(runs)), layout="constrained", facecolor="white")
    axes, titles = fig.subplots(1, 2, sharey=True), ("loss (nats per token)", "bits per byte")
    for k, (ax, title) in enumerate(zip(axes, titles)):
        means = []
        for row, pairs in enumerate(runs.values()):
            values = [p[k] for p in pairs]
            means.append(sum(values) / len(values))
            ax.plot([means[-1]] * 2, [row - 0.3, row + 0.3], color=BLUE, linewidth=2.5)
            ax.plot(values, [row] * len(values), "o", color=ORANGE, markersize=6, markeredgecolor="white", markeredgewidth=0.5)
            style = dict(textcoords="offset points", va="center", fontsize=FONT, color=BLUE)
            ax.annotate(f"{means[-1]:.2f}", (max(values), row), (8, 0), **style)
        everything = [p[k] for pairs in runs.values() for p in pairs]
        low, high = min(everything), max(everything)
        gap = (high - low) or 0.1 * high or 1.0
        ax.set_xlim(low - 0.12 * gap, high + 0.35 * gap)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=FONT, length=3)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        name_axes(ax, title)
    axes[0].set_yticks(range(len(runs)), list(runs))
    axes[0].set_ylim(len(runs) - 0.4, -0.6)
    each = {name: [sum(p[k] for p in pairs) / len(pairs) for k in (0, 1)] for name, pairs in runs.items()}
    fig.alt = "Two measures of the same models, lower is better: "
    fig.alt += "; ".join(f"{name} {a:.2f} nats per token and {b:.2f} bits per byte" for name, (a, b) in each.items()) + "."
    return fig


def vocabulary_budget(budget: dict[str, dict[str, float]]) -> Figure:
    """Parameters by vocabulary size, a stacked bar for each: what the layers hold, and what the tables of the
    vocabulary do."""
    _need(budget and all(sum(parts.values()) > 0 for parts in budget.values()), "no parameters")
    names = list(dict.fromkeys(part for parts in budget.values() for part in parts))
    colours = dict(zip(names, (SKY, ORANGE, GREEN, PURPLE)))
    fig, (ax,) = figure(1.3 + 0.4 * len(budget), grid="x")
    for row, parts in enumerate(budget.values()):
        start = 0.0
        for part, value in parts.items():
            ax.barh(row, value, left=start, color=colours[part], height=0.68)
            start += value
        ax.annotate(amount(start), (start, row), (5, 0), textcoords="offset points", va="center", fontsize=FONT)
    ax.set_yticks(range(len(budget)), list(budget))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(budget) - 0.4, -0.6)
    ax.set_xlim(0, max(sum(parts.values()) for parts in budget.values()) * 1.14)
    ax.xaxis.set_major_formatter(FuncFormatter(amount))
    name_axes(ax, "parameters", "vocabulary")
    handles = [Rectangle((0, 0), 1, 1, color=colours[n]) for n in names]
    fig.legend(handles, names, loc="outside upper center", ncols=4, fontsize=FONT, frameon=False, handlelength=1.2)
    said = []
    for size, parts in budget.items():
        said.append(f"{size} has {amount(sum(parts.values()))} ({', '.join(f'{n} {amount(v)}' for n, v in parts.items())})")
    fig.alt = f"Parameters by size of the vocabulary: {'; '.join(said)}."
    return fig
