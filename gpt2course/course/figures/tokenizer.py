"""Figures of lesson 01: a tree of merges, savings, compression, tokens in rows, two measures, parameters."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from gpt2course.course import checks

from gpt2course.course.figures.style import (  # isort: skip
    BLUE, DOTS, FONT, GREEN, GREY, MONO, MONO_WIDTH, ORANGE, PURPLE, SKY, TINTS, VERMILION, WIDTH,
    amount, canvas, figure, legend, log_ticks, name_axes, name_rows, need, note,
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


def saved(choose, words: list[tuple[list[int], int]], merges: int) -> list[int]:
    """Tokens that each merge saves, by the pair of ids that `choose(words)` gives. words: as in exercise 1.1."""
    found, merged = [], checks.find("1.2").reference
    for new in range(256, 256 + merges):
        if (pair := choose(words)) is None:
            break
        before = sum(n * len(ids) for ids, n in words)
        words = [(merged(ids, pair, new), n) for ids, n in words]
        found.append(before - sum(n * len(ids) for ids, n in words))
    return found


def savings(saved: list[float], paid: list[float] | None = None) -> Figure:
    """Tokens that each merge saves, in the order of learning, both axes logarithmic.

    paid: what each merge must save to be worth its entry in the vocabulary, one number a merge; drawn as a line.
    """
    need(saved and all(s > 0 for s in saved), "every merge must save at least one token")
    fig, (ax,) = figure(3.2)
    steps = range(1, len(saved) + 1)
    ax.plot(steps, saved, "o", color=BLUE, markersize=3.5)
    if paid is not None:
        need(len(paid) == len(saved), "one break-even number is needed for each merge")
        ax.plot(steps, paid, color=VERMILION, linewidth=1.8)
        note(ax, "break-even", (1, paid[0]), (0, -5), ha="left", va="top", color=VERMILION)
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


def vocabulary_budget(budget: dict[str, dict[str, float]]) -> Figure:
    """Parameters by vocabulary size, a stacked bar for each: those of the layers and those of the vocabulary's tables.

    budget: vocabulary size -> part -> parameters.
    """
    need(budget and all(sum(parts.values()) > 0 for parts in budget.values()), "no parameters")
    names = list(dict.fromkeys(part for parts in budget.values() for part in parts))
    colours = dict(zip(names, (SKY, ORANGE, GREEN, PURPLE)))
    fig, (ax,) = figure(1.3 + 0.4 * len(budget), grid="x")
    for row, parts in enumerate(budget.values()):
        start = 0.0
        for part, value in parts.items():
            ax.barh(row, value, left=start, color=colours[part], height=0.68)
            start += value
        note(ax, amount(start), (start, row), (5, 0), va="center")
    name_rows(ax, budget)
    ax.set_xlim(0, max(sum(parts.values()) for parts in budget.values()) * 1.14)
    ax.xaxis.set_major_formatter(FuncFormatter(amount))
    name_axes(ax, "parameters", "vocabulary")
    legend(fig, ax, 4, [Rectangle((0, 0), 1, 1, color=colours[n], label=n) for n in names], handlelength=1.2)
    each = [
        f"{size} has {amount(sum(parts.values()))} ({', '.join(f'{n} {amount(v)}' for n, v in parts.items())})"
        for size, parts in budget.items()
    ]
    fig.alt = f"Parameters by size of the vocabulary: {'; '.join(each)}."
    return fig
