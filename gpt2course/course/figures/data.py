"""Figures of lesson 02: lengths of documents, how rows are filled, cropping over time, dealing rows to ranks, speed,
shards."""

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from gpt2course.files import UserError
from gpt2course.course.plots import BLACK, BLUE, FONT, GREEN, GREY, ORANGE, TINTS, VERMILION, WIDTH, amount, figure, name_axes

HEADLESS = "#7A7A7A"  # a piece whose beginning lies in another row
LOST = "#EDEDED"
COLOURS = (TINTS[0], TINTS[1], TINTS[2], TINTS[3])


def _need(ok, text: str) -> None:
    if not ok:
        raise UserError(f"there is nothing to draw: {text}")


def lengths_histogram(lengths: list[int], marks: tuple[int, ...] = ()) -> Figure:
    """How many documents have which length, with the lengths in `marks` (rows of T + 1 tokens) as lines.

    Lengths beyond the 99.5th percentile stand in the last bar.
    """
    _need(lengths, "no document")
    top = max([sorted(lengths)[int(0.995 * (len(lengths) - 1))], *marks, 20])
    width = -(-top // 50)
    counts = [0] * 51
    for n in lengths:
        counts[min(n // width, 50)] += 1
    fig, (ax,) = figure(2.7)
    ax.bar([i * width for i in range(51)], counts, width=width, align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
    said = []
    for mark in marks:
        share = sum(n > mark for n in lengths) / len(lengths)
        said.append(f"{share:.0%} are longer than {mark}")
        ax.axvline(mark, color=VERMILION, linewidth=1.6, linestyle="--")
        ax.annotate(
            f"{mark}: {share:.0%}\nare longer",
            (mark, 1),
            (5, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=FONT,
            color=VERMILION,
        )
    ax.set_xlim(0, 51 * width)
    ax.set_ylim(0, 1.45 * max(counts))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    name_axes(ax, f"tokens of a document, with BOS (last bar: {50 * width:,} and more)", f"documents (of {len(lengths):,})")
    middle = sorted(lengths)[len(lengths) // 2]
    fig.alt = (
        f"Histogram of the lengths of {len(lengths):,} documents in tokens: median {middle:,}, "
        f"mean {sum(lengths) / len(lengths):,.0f}, "
        f"longest {max(lengths):,}; {', '.join(said) or 'no marks'}."
    )
    return fig


def rows_raster(panels: dict[str, list[list[tuple[int, int, int, int]]]], row_tokens: int, names: str | None = None) -> Figure:
    """How rows are filled: a panel for each way of packing, a line for each row, a colour for each document.

    panels: title -> rows; a row is a list of (document, its tokens in this row, its tokens in earlier rows, tokens
    lost). Lost tokens stand right of the row; a piece whose beginning lies in an earlier row is dark; padding is
    crossed out. names: letters for the documents 0, 1, 2, ..., written into them.
    """
    _need(panels and all(rows and all(rows) for rows in panels.values()), "a panel without rows, or a row without documents")
    for title, rows in panels.items():
        longest = max(sum(piece[1] for piece in row) for row in rows)
        if longest > row_tokens:
            raise UserError(f"there is nothing to draw: {title}: a row holds {longest} tokens, more than {row_tokens}")
    right = max([row_tokens, *(min(sum(p[1] + p[3] for p in row), 1.5 * row_tokens) for rows in panels.values() for row in rows)])
    kinds = {"headless": False, "lost": False, "padding": False}
    heights = [len(rows) for rows in panels.values()]
    fig = Figure(
        figsize=(WIDTH, 0.95 + sum(heights) * 0.15 * (2 if names else 1) + 0.34 * len(panels)),
        layout="constrained",
        facecolor="white",
    )
    said = []
    for ax, (title, rows) in zip(
        fig.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0], panels.items()
    ):
        seen: dict[int, int] = {}
        for y, row in enumerate(rows):
            at = 0
            for document, n, before, lost in row:
                colour = HEADLESS if before else COLOURS[seen.setdefault(document, len(seen)) % len(COLOURS)]
                kinds["headless"] |= bool(before)
                ax.add_patch(Rectangle((at, y + 0.08), n, 0.84, facecolor=colour, linewidth=0))
                if not before:  # BOS
                    ax.plot([at, at], [y + 0.08, y + 0.92], color=BLACK, linewidth=1.6, solid_capstyle="butt")
                if names:
                    ax.text(
                        at + n / 2,
                        y + 0.5,
                        names[document] if document < len(names) else str(document),
                        ha="center",
                        va="center",
                        fontsize=FONT,
                        color="white" if before else BLACK,
                    )
                at += n
                if lost:
                    kinds["lost"] = True
                    ax.add_patch(
                        Rectangle(
                            (row_tokens, y + 0.08),
                            min(lost, right - row_tokens),
                            0.84,
                            facecolor=LOST,
                            edgecolor="#B0B0B0",
                            linewidth=0.7,
                        )
                    )
            if at < row_tokens:
                kinds["padding"] = True
                ax.add_patch(
                    Rectangle(
                        (at, y + 0.08), row_tokens - at, 0.84, facecolor="white", edgecolor="#999999", linewidth=0.7, hatch="xxx"
                    )
                )
        ax.axvline(row_tokens, color=BLACK, linewidth=1)
        ax.set_title(title, fontsize=FONT, loc="left")
        ax.set_xlim(-0.004 * right, right * 1.004)
        ax.set_ylim(len(rows), 0)
        ax.yaxis.set_major_locator(NullLocator())
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
        ax.tick_params(labelsize=FONT, length=3)
        ax.spines[["top", "right", "left"]].set_visible(False)
        pieces = [piece for row in rows for piece in row]
        kept, lost = sum(p[1] for p in pieces), sum(p[3] for p in pieces)
        headless = sum(row[0][2] > 0 for row in rows)
        said.append(
            f"{title}: {len(rows)} rows, {headless} begin inside a document, "
            f"{len(rows) * row_tokens - kept} places empty, {lost} tokens lost"
        )
    name_axes(ax, f"place in the row (a row holds {row_tokens})")
    handles = [Patch(facecolor=c, label=label) for c, label in ((TINTS[0], "a document, BOS in black"),)]
    if kinds["headless"]:
        handles.append(Patch(facecolor=HEADLESS, label="its beginning is elsewhere"))
    if kinds["padding"]:
        handles.append(Patch(facecolor="white", edgecolor="#999999", hatch="xxx", label="padding"))
    if kinds["lost"]:
        handles.append(Patch(facecolor=LOST, edgecolor="#B0B0B0", label="lost"))
    fig.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4,
        fontsize=FONT,
        frameon=False,
        handlelength=1.2,
        handletextpad=0.4,
        columnspacing=1.1,
    )
    fig.alt = f"Rows of {row_tokens} tokens, coloured by document. {'; '.join(said)}."
    return fig


def cropping(lines: dict[str, list[float]], rows: int, least: float, waiting: list[float]) -> Figure:
    """The cropped share in the course of packing, and below it the share of the waiting documents that are longer than
    a row.

    lines: way of packing -> cropped share of each stretch of `rows` rows; least: the share of all tokens that lie
    beyond the end of any row; waiting: at the end of each stretch.
    """
    _need(lines and all(lines.values()) and waiting, "no measurement")
    fig, (top, bottom) = figure(4.4, rows=2, sharex=True)
    x = [rows * (i + 1) for i in range(len(waiting))]
    for i, (name, values) in enumerate(lines.items()):
        top.plot(
            x[: len(values)],
            values,
            color=(GREY, BLUE, GREEN)[i % 3],
            marker="so^"[i % 3],
            markersize=5,
            linewidth=1.8,
            label=name,
        )
    top.axhline(least, color=BLACK, linewidth=1.2, linestyle="--", label="beyond the end of any row")
    bottom.plot(x, waiting, color=VERMILION, marker="o", markersize=5, linewidth=1.8)
    high = max([least, *(v for values in lines.values() for v in values)])
    top.set_ylim(0, 1.15 * high)
    bottom.set_ylim(0, max(1.15 * max(waiting), 0.1))
    for ax in (top, bottom):
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    top.set_xlim(0, x[-1] * 1.02)
    bottom.xaxis.set_major_formatter(FuncFormatter(amount))
    name_axes(top, y="tokens cropped")
    name_axes(bottom, "rows packed", "of those waiting,\nlonger than a row")
    fig.legend(
        *top.get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        fontsize=FONT,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.1,
    )
    fig.align_ylabels()
    each = ", ".join(f"{name} {values[0]:.1%} at first and {values[-1]:.1%} at last" for name, values in lines.items())
    fig.alt = (
        f"Cropped share of the tokens over {amount(x[-1])} rows: {each}; {least:.1%} lie beyond the end of any row. "
        f"Below, the share of waiting "
        f"documents that are longer than a row goes from {waiting[0]:.0%} to {waiting[-1]:.0%}."
    )
    return fig


def dealing(dealt: dict[int, list[int]]) -> Figure:
    """Which rank gets which global row: a line for each number of ranks, a box for each row, coloured by rank."""
    _need(dealt and all(dealt.values()), "no rows")
    n = max(map(len, dealt.values()))
    shades = (TINTS[0], TINTS[1], TINTS[2], TINTS[3], TINTS[4], "#D5D5D5", "#9CC9E8", "#E8D48A")
    fig = Figure(figsize=(WIDTH, 0.75 + 0.42 * len(dealt)), facecolor="white")
    ax = fig.add_axes((0.005, 0.01, 0.99, 0.98))
    ax.set_axis_off()
    ax.set_xlim(-2.4, n + 0.1)
    ax.set_ylim(len(dealt) + 0.15, -1.05)
    ax.text(-0.15, -0.4, "global row", ha="right", va="center", fontsize=FONT, color=GREY)
    for j in range(n):
        ax.text(j + 0.5, -0.4, str(j), ha="center", va="center", fontsize=FONT, color=GREY)
    for y, (world, ranks) in enumerate(dealt.items()):
        ax.text(-0.15, y + 0.5, f"{world} rank{'s' if world > 1 else ''}", ha="right", va="center", fontsize=FONT)
        for j, rank in enumerate(ranks):
            ax.add_patch(Rectangle((j + 0.05, y + 0.1), 0.9, 0.8, facecolor=shades[rank % len(shades)], linewidth=0))
            ax.text(j + 0.5, y + 0.5, str(rank), ha="center", va="center", fontsize=FONT)
    each = "; ".join(f"{world} ranks: {' '.join(map(str, ranks))}" for world, ranks in dealt.items())
    fig.alt = f"The rank that serves each global row, 0 to {n - 1}. {each}."
    return fig


def speeds(lines: dict[str, dict[str, list[float]]]) -> Figure:
    """Tokens a second, one dot a repeat: a row for each thing measured, a colour for each way.

    lines: what was measured -> way -> values.
    """
    _need(lines and all(ways and all(ways.values()) for ways in lines.values()), "no measurement")
    ways = list(dict.fromkeys(w for one in lines.values() for w in one))
    fig, (ax,) = figure(1.25 + 0.5 * len(lines), grid="x")
    said = []
    for y, (what, one) in enumerate(lines.items()):
        for i, way in enumerate(ways):
            values = sorted(one.get(way, ()))
            if not values:
                continue
            at, colour, middle = y + 0.17 * (2 * i - len(ways) + 1), (ORANGE, BLUE, GREEN)[i % 3], values[len(values) // 2]
            ax.plot(
                values,
                [at] * len(values),
                "o",
                color=colour,
                markersize=5,
                alpha=0.55,
                markeredgewidth=0,
                label=way if y == 0 else None,
            )
            ax.plot([middle] * 2, [at - 0.14, at + 0.14], color=colour, linewidth=2.6)
            said.append(f"{what.replace(chr(10), ' ')}, {way} {amount(middle)}")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(amount))
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = (f(v for one in lines.values() for values in one.values() for v in values) for f in (min, max))
    ax.set_xlim(low / 1.3, high * 1.3)
    ax.set_xticks([t for t in (digit * 10**k for k in range(3, 10) for digit in (1, 2, 5)) if low / 1.3 <= t <= high * 1.3])
    ax.set_yticks(range(len(lines)), list(lines))
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(lines) - 0.5, -0.5)
    name_axes(ax, "tokens a second (log scale); dots: repeats, bar: median")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=FONT, frameon=False)
    fig.alt = f"Tokens a second, medians: {'; '.join(said)}."
    return fig


def shards_by_depth(shards: dict[int, float]) -> Figure:
    """The shards that a run must fetch, against the depth of its model."""
    _need(shards, "no depth")
    fig, (ax,) = figure(2.6)
    ax.plot(list(shards), list(shards.values()), color=BLUE, marker="o", markersize=6, linewidth=1.8)
    for depth, n in shards.items():
        ax.annotate(f"{n:,.0f}", (depth, n), (-4, 6), textcoords="offset points", ha="right", fontsize=FONT, color=BLUE)
    ax.set_xticks(list(shards))
    ax.set_ylim(0, 1.15 * max(shards.values()))
    ax.set_xlim(min(shards) - 2.5, max(shards) + 1)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    name_axes(ax, "depth (layers)", "shards to fetch")
    fig.alt = f"Shards to fetch against depth: {', '.join(f'{n:,.0f} at depth {depth}' for depth, n in shards.items())}."
    return fig
