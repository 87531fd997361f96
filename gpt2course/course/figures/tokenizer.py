"""Figures of lesson 01: a tree of merges, two losses, compression, tokens in rows, two measures, cost by vocabulary."""

from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from gpt2course.course.figures.style import (  # isort: skip
    BLUE,
    DOTS,
    FONT,
    GREEN,
    GREY,
    MONO,
    MONO_WIDTH,
    ORANGE,
    SKY,
    TINTS,
    VERMILION,
    WIDTH,
    canvas,
    figure,
    legend,
    log_ticks,
    name_axes,
    name_rows,
    need,
    note,
)


def _shown(token: str) -> str:
    """Spaces and line ends as signs that can be seen."""
    return token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "→")


def merge_tree(word: str, steps: list[tuple[str, str]]) -> Figure:
    """How a word is put together: its characters at the bottom, and above them each merge in its order.

    steps: (left, right) as text for each merge, the earliest first; a merge applies to all places of its pair.
    """
    need(word, "the word is empty")
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
        need(len(parts) < before, f"{left!r} and {right!r} are not neighbours when their turn comes")
    side = max(10 - len(word), 0) / 2
    fig, ax = canvas(0.62 + 0.33 * (height + 1), (-1.3 - side, len(word) + side), (-0.6, height + 0.6))
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
    merges = ", ".join(_shown(a + b) for a, b in steps)
    fig.alt = f"The word {_shown(word)!r} put together in {len(steps)} merges: {merges}. "
    fig.alt += f"It ends as {len(tokens)} {'token' if len(tokens) == 1 else 'tokens'}: {', '.join(tokens)}."
    return fig


def merges(word: str, tokens: list[bytes]) -> list[tuple[str, str]]:
    """The merges that put a word of ASCII together, in their order, for `merge_tree`. tokens: in order of learning."""
    rank, parts, steps = {token: i for i, token in enumerate(tokens)}, [c.encode() for c in word], []
    while found := [(rank[a + b], a, b) for a, b in pairwise(parts) if a + b in rank]:
        _, left, right = min(found)
        steps.append((left.decode(), right.decode()))
        at = 0
        while at + 1 < len(parts):
            if (parts[at], parts[at + 1]) == (left, right):
                parts[at : at + 2] = [left + right]
            at += 1
    return steps


def curves(losses: dict[str, list[float]]) -> Figure:
    """The loss of two runs by step: the first as a wide line, the second as a thin one on it."""
    need(losses and all(losses.values()), "no run has a step")
    fig, (ax,) = figure(2.8)
    for (name, loss), colour, width in zip(losses.items(), (SKY, VERMILION), (5, 1.4)):
        ax.plot(range(1, len(loss) + 1), loss, color=colour, linewidth=width, label=name)
    legend(fig, ax, 2)
    name_axes(ax, "step", "loss (nats per token)")
    each = "; ".join(f"{name} from {loss[0]:.2f} to {loss[-1]:.2f}" for name, loss in losses.items())
    fig.alt = f"Training loss by step, in nats per token: {each}."
    return fig


def compression(curves: dict[str, list[tuple[int, float]]], marked: int | None = None) -> Figure:
    """Bytes for each token against the size of the vocabulary (log scale), a line for each text.

    curves: text -> (vocabulary size, bytes for each token), ascending; marked: a size to point out.
    """
    need(curves and all(curves.values()), "no text has a point")
    fig, (ax,) = figure(3.4)
    styles = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"))
    for (name, points), (colour, mark) in zip(curves.items(), styles):
        xs, ys = zip(*points)
        ax.plot(xs, ys, color=colour, marker=mark, markersize=5, linewidth=1.8)
        note(ax, name, (xs[-1], ys[-1]), (7, 0), va="center", color=colour)
    sizes = sorted({x for points in curves.values() for x, _ in points})
    if marked:
        ax.axvline(marked, color=GREY, linewidth=1, linestyle="--")
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] / 1.15, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.22)
    log_ticks(ax.xaxis, sizes, lambda v, _: f"{v / 1024:.0f}k" if v >= 1024 else f"{v:.0f}")
    ax.set_ylim(0, max(y for points in curves.values() for _, y in points) * 1.1)
    name_axes(ax, "tokens in the vocabulary (log scale)", "bytes for each token")
    each = [f"{name} {', '.join(f'{y:.2f} at {x:,}' for x, y in points)}" for name, points in curves.items()]
    fig.alt = f"Bytes for each token against vocabulary size: {'; '.join(each)}."
    return fig


def token_rows(rows: dict[str, list[str]]) -> Figure:
    """The same text cut in several ways, a row for each: its name, its tokens in colours, and their number."""
    need(rows and all(rows.values()), "a row has no tokens")
    longest = max(sum(map(len, pieces)) for pieces in rows.values())
    left = max(len(name) for name in rows) * 0.95 + 1.5
    columns = left + longest + 5
    size = min(FONT, WIDTH * 0.98 * 72 / columns / MONO_WIDTH)
    fig, ax = canvas(0.1 + 0.34 * len(rows), (0, WIDTH * 0.98 * 72 / (size * MONO_WIDTH)), (len(rows), 0))
    parts = []
    for row, (name, pieces) in enumerate(rows.items()):
        ax.text(0, row + 0.5, name, fontsize=max(size, FONT - 1), va="center_baseline")
        column = left
        for i, piece in enumerate(pieces):
            tint, style = TINTS[i % len(TINTS)], dict(family=MONO, va="center_baseline", parse_math=False)
            ax.add_patch(Rectangle((column, row + 0.1), len(piece) - 0.1, 0.8, color=tint, linewidth=0))
            ax.text(column, row + 0.5, _shown(piece), fontsize=size, **style)
            column += len(piece)
        style = dict(fontsize=max(size, FONT - 1), va="center_baseline", color=GREY)
        ax.text(column + 0.8, row + 0.5, f"{len(pieces)}", **style)
        count = f"{len(pieces)} {'token' if len(pieces) == 1 else 'tokens'}"
        parts.append(f"{name} gives {count} ({'|'.join(_shown(p) for p in pieces)})")
    fig.alt = f"The same text cut in {len(rows)} ways: {'; '.join(parts)}."
    return fig


def two_measures(runs: dict[str, list[tuple[float, float]]]) -> Figure:
    """Loss for each token beside bits per byte, a row for each variant and a dot for each seed.

    runs: variant -> (nats for each token, bits per byte) of its seeds.
    """
    need(runs and all(runs.values()), "a variant has no run")
    fig, axes = figure(0.85 + 0.42 * len(runs), columns=2, grid="x", sharey=True)
    means = {name: [sum(values) / len(values) for values in zip(*pairs)] for name, pairs in runs.items()}
    for k, (ax, title) in enumerate(zip(axes, ("loss (nats per token)", "bits per byte"))):
        for row, (name, pairs) in enumerate(runs.items()):
            values, mean = [p[k] for p in pairs], means[name][k]
            ax.plot([mean] * 2, [row - 0.3, row + 0.3], color=BLUE, linewidth=2.5)
            ax.plot(values, [row] * len(values), "o", color=ORANGE, markersize=6, **DOTS)
            note(ax, f"{mean:.2f}", (max(values), row), (8, 0), va="center", color=BLUE)
        everything = [p[k] for pairs in runs.values() for p in pairs]
        low, high = min(everything), max(everything)
        gap = (high - low) or 0.1 * high or 1.0
        ax.set_xlim(low - 0.12 * gap, high + 0.35 * gap)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        name_axes(ax, title)
    name_rows(axes[0], runs)
    each = "; ".join(f"{name} {a:.2f} nats per token and {b:.2f} bits per byte" for name, (a, b) in means.items())
    fig.alt = f"Two measures of the same models, lower is better: {each}."
    return fig


def longest_match(text: str, ranks: dict[bytes, int]) -> list[int]:
    """The ids of a text by longest match, for a picture beside merge order."""
    data, ids = text.encode(), []
    while data:
        size = max(n for n in range(1, len(data) + 1) if data[:n] in ranks)
        ids, data = [*ids, ranks[data[:size]]], data[size:]
    return ids


def cost_by_vocabulary(flops: dict[str, list[tuple[int, float]]]) -> Figure:
    """FLOPs for a byte of text against the size of the vocabulary, as a multiple of the cheapest, a line for each model.

    flops: model -> (vocabulary size, FLOPs for a byte), ascending. The cheapest vocabulary has a large mark.
    """
    need(flops and all(flops.values()), "no model has a point")
    fig, (ax,) = figure(3.2)
    each = []
    for (name, points), colour in zip(flops.items(), (BLUE, VERMILION, GREEN)):
        sizes, costs = zip(*points)
        least = min(costs)
        best = sizes[costs.index(least)]
        ax.plot(sizes, [c / least for c in costs], color=colour, marker="o", markersize=4, linewidth=1.8, label=name)
        ax.plot(best, 1, "*", color=colour, markersize=14)
        each.append(f"{name} is cheapest at {best:,}, with {least:.3g} FLOPs for a byte")
    ax.set_xscale("log", base=2)
    sizes = sorted({x for points in flops.values() for x, _ in points})
    log_ticks(ax.xaxis, sizes, lambda v, _: f"{v / 1024:.0f}k" if v >= 1024 else f"{v:.0f}")
    ax.set_ylim(bottom=0)
    legend(fig, ax, 2)
    name_axes(ax, "tokens in the vocabulary (log scale)", "FLOPs for a byte\n(1: the cheapest)")
    fig.alt = f"FLOPs for a byte of text by size of the vocabulary: {'; '.join(each)}."
    return fig
