"""Figures of lesson 02: lengths of documents, how rows are filled, who loses, cropping over time, rows of ranks, shards.

Also `train_rows`, the loop that trains a toy model on rows that a lesson has packed.
"""

import time

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from gpt2course.course import checks, lab
from gpt2course.data import load_corpus
from gpt2course.evaluate import bits_per_byte, first_bytes
from gpt2course.recipes import make_model, make_optimizer

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, FONT, GREEN, GREY, TINTS, VERMILION,
    amount, canvas, figure, legend, name_axes, name_rows, need, note,
)

HEADLESS = dict(facecolor="#7A7A7A", linewidth=0)  # a piece of a document that begins in another row
LOST = dict(facecolor="#EDEDED", edgecolor="#B0B0B0", linewidth=0.7)
PADDING = dict(facecolor="white", edgecolor="#999999", linewidth=0.7, hatch="xxx")


def lengths_histogram(lengths: list[int], marks: tuple[int, ...] = ()) -> Figure:
    """How many documents have which length, with the lengths in `marks` (rows of T + 1 tokens) as lines.

    The last bar counts all lengths beyond the 99.5th percentile.
    """
    need(lengths, "no document")
    ordered = sorted(lengths)
    top = max([ordered[int(0.995 * (len(lengths) - 1))], *marks, 20])
    width = -(-top // 50)
    counts = [0] * 51
    for n in lengths:
        counts[min(n // width, 50)] += 1
    fig, (ax,) = figure(2.7)
    style = dict(align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
    ax.bar([i * width for i in range(51)], counts, width=width, **style)
    shares = {mark: f"{sum(n > mark for n in lengths) / len(lengths):.0%}" for mark in marks}
    for mark, share in shares.items():
        ax.axvline(mark, color=VERMILION, linewidth=1.6, linestyle="--")
        at = ("data", "axes fraction")
        note(ax, f"{mark}: {share}\nare longer", (mark, 1), (5, -2), xycoords=at, va="top", color=VERMILION)
    ax.set_xlim(0, 51 * width)
    ax.set_ylim(0, 1.45 * max(counts))
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    x = f"tokens of a document, with BOS (last bar: {50 * width:,} and more)"
    name_axes(ax, x, f"documents (of {len(lengths):,})")
    longer = ", ".join(f"{share} are longer than {mark}" for mark, share in shares.items())
    fig.alt = (
        f"Histogram of the lengths of {len(lengths):,} documents in tokens: median {ordered[len(lengths) // 2]:,}, "
        f"mean {sum(lengths) / len(lengths):,.0f}, longest {max(lengths):,}; {longer or 'no marks'}."
    )
    return fig


def _draw_row(ax, y: int, row, row_tokens: int, right: float, colours: dict, names: str | None) -> set[str]:
    """One line of `rows_raster`; returns what the legend must explain."""

    def box(x, width, style):
        ax.add_patch(Rectangle((x, y + 0.08), width, 0.84, **style))

    at, kinds = 0, set()
    for document, n, before, lost in row:
        tint = TINTS[colours.setdefault(document, len(colours)) % 4] if not before else None
        box(at, n, HEADLESS if before else dict(facecolor=tint, linewidth=0))
        if before:
            kinds.add("headless")
        else:  # BOS
            ax.plot([at, at], [y + 0.08, y + 0.92], color=BLACK, linewidth=1.6, solid_capstyle="butt")
        if names:
            letter = names[document] if document < len(names) else str(document)
            style = dict(ha="center", va="center", fontsize=FONT, color="white" if before else BLACK)
            ax.text(at + n / 2, y + 0.5, letter, **style)
        at += n
        if lost:
            kinds.add("lost")
            box(row_tokens, min(lost, right - row_tokens), LOST)
    if at < row_tokens:
        kinds.add("padding")
        box(at, row_tokens - at, PADDING)
    return kinds


def packed(lengths: list[int], row_tokens: int, n: int, choose=None) -> list[list[tuple]]:
    """n rows for `rows_raster`, 100 documents waiting. choose(lengths, space): the place of the next; default: best fit."""
    waiting, after, rows = list(range(100)), 100, []
    for _ in range(n):
        row, space = [], row_tokens
        while space:
            document = waiting.pop((choose or checks.find("2.2").reference)([lengths[d] for d in waiting], space))
            waiting, after = [*waiting, after], after + 1
            placed = min(lengths[document], space)
            row.append((document, placed, 0, lengths[document] - placed))
            space -= placed
        rows.append(row)
    return rows


def rows_raster(
    panels: dict[str, list[list[tuple[int, int, int, int]]]], row_tokens: int, names: str | None = None
) -> Figure:
    """How rows are filled: a panel for each way of packing, a line for each row, a colour for each document.

    panels: title -> rows; a row is a list of (document, its tokens in this row, its tokens in earlier rows, tokens
    lost). Lost tokens are drawn right of the row. A piece is dark if its document begins in an earlier row. Padding
    is crossed out. names: letters for the documents 0, 1, 2, ..., written into them.
    """
    need(panels and all(rows and all(rows) for rows in panels.values()), "a panel without rows, or an empty row")
    every = [row for rows in panels.values() for row in rows]
    longest = max(sum(piece[1] for piece in row) for row in every)
    need(longest <= row_tokens, f"a row holds {longest} tokens, more than {row_tokens}")
    right = max(row_tokens, *(min(sum(p[1] + p[3] for p in row), 1.5 * row_tokens) for row in every), 0)
    heights, kinds, parts = [len(rows) for rows in panels.values()], set(), []
    height = 0.95 + sum(heights) * 0.15 * (2 if names else 1) + 0.34 * len(panels)
    fig, axes = figure(height, rows=len(panels), sharex=True, heights=heights)
    for ax, (title, rows) in zip(axes, panels.items()):
        colours = {}
        for y, row in enumerate(rows):
            kinds |= _draw_row(ax, y, row, row_tokens, right, colours, names)
        ax.axvline(row_tokens, color=BLACK, linewidth=1)
        ax.set_title(title, fontsize=FONT, loc="left")
        ax.set(xlim=(-0.004 * right, right * 1.004), ylim=(len(rows), 0))
        ax.grid(False)
        ax.yaxis.set_major_locator(NullLocator())
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
        ax.spines["left"].set_visible(False)
        pieces = [piece for row in rows for piece in row]
        begin = sum(row[0][2] > 0 for row in rows)
        empty = len(rows) * row_tokens - sum(p[1] for p in pieces)
        lost = sum(p[3] for p in pieces)
        parts.append(
            f"{title}: {len(rows)} rows, {begin} begin inside a document, {empty} places empty, {lost} tokens lost"
        )
    name_axes(axes[-1], f"place in the row (a row holds {row_tokens})")
    handles = [Patch(facecolor=TINTS[0], label="a document, BOS in black")]
    handles += [Patch(label="its beginning is elsewhere", **HEADLESS)] if "headless" in kinds else []
    handles += [Patch(label="padding", **PADDING)] if "padding" in kinds else []
    handles += [Patch(label="lost", **LOST)] if "lost" in kinds else []
    legend(fig, axes[0], 4, handles, handlelength=1.2, handletextpad=0.4, columnspacing=1.1)
    fig.alt = f"Rows of {row_tokens} tokens, coloured by document. {'; '.join(parts)}."
    return fig


def cropping(lines: dict[str, list[float]], rows: int, least: float, waiting: list[float]) -> Figure:
    """The cropped share in the course of packing; below, how many waiting documents are longer than a row.

    lines: way of packing -> cropped share of each stretch of `rows` rows. least: the share of all tokens that are
    beyond the end of any row. waiting: the share at the end of each stretch.
    """
    need(lines and all(lines.values()) and waiting, "no measurement")
    fig, (top, bottom) = figure(4.4, rows=2, sharex=True)
    x = [rows * (i + 1) for i in range(len(waiting))]
    for (name, values), colour, mark in zip(lines.items(), (GREY, BLUE, GREEN), "so^"):
        top.plot(x[: len(values)], values, color=colour, marker=mark, markersize=5, linewidth=1.8, label=name)
    top.axhline(least, color=BLACK, linewidth=1.2, linestyle="--", label="beyond the end of any row")
    bottom.plot(x, waiting, color=VERMILION, marker="o", markersize=5, linewidth=1.8)
    top.set_ylim(0, 1.15 * max([least, *(v for values in lines.values() for v in values)]))
    bottom.set_ylim(0, max(1.15 * max(waiting), 0.1))
    for ax in (top, bottom):
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    top.set_xlim(0, x[-1] * 1.02)
    bottom.xaxis.set_major_formatter(FuncFormatter(amount))
    name_axes(top, y="tokens cropped")
    name_axes(bottom, "rows packed", "of those waiting,\nlonger than a row")
    legend(fig, top, handletextpad=0.4, columnspacing=1.1)
    fig.align_ylabels()
    each = ", ".join(f"{name} {values[0]:.1%} at first and {values[-1]:.1%} at last" for name, values in lines.items())
    ends = f"{waiting[0]:.0%} to {waiting[-1]:.0%}"
    fig.alt = (
        f"Cropped share of the tokens over {amount(x[-1])} rows: {each}; {least:.1%} lie beyond the end of any row. "
        f"Below, the share of waiting documents that are longer than a row goes from {ends}."
    )
    return fig


def dealing(dealt: dict[int, list[int]]) -> Figure:
    """Which rank gets which global row: a line for each number of ranks, a box for each row, coloured by rank."""
    need(dealt and all(dealt.values()), "no rows")
    n = max(map(len, dealt.values()))
    shades = (*TINTS, "#D5D5D5", "#9CC9E8", "#E8D48A")
    fig, ax = canvas(0.75 + 0.42 * len(dealt), (-2.4, n + 0.1), (len(dealt) + 0.15, -1.05))
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


def losses(shares: dict[str, float]) -> Figure:
    """The share of tokens lost by each class of documents, as horizontal bars."""
    need(shares, "no class")
    fig, (ax,) = figure(0.8 + 0.36 * len(shares), grid="x")
    bars = ax.barh(range(len(shares)), list(shares.values()), color=BLUE, height=0.68)
    ax.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=4, fontsize=FONT)
    name_rows(ax, shares)
    ax.set_xlim(0, max(0.1, 1.2 * max(shares.values())))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    name_axes(ax, "share of their tokens that is lost")
    fig.alt = f"Share of tokens lost, by length: {', '.join(f'{name} {share:.1%}' for name, share in shares.items())}."
    return fig


def shards_by_depth(shards: dict[int, float]) -> Figure:
    """The shards that a run must fetch, against the depth of its model."""
    need(shards, "no depth")
    fig, (ax,) = figure(2.6)
    ax.plot(list(shards), list(shards.values()), color=BLUE, marker="o", markersize=6, linewidth=1.8)
    for depth, n in shards.items():
        note(ax, f"{n:,.0f}", (depth, n), (-4, 6), ha="right", color=BLUE)
    ax.set_xticks(list(shards))
    ax.set_ylim(0, 1.15 * max(shards.values()))
    ax.set_xlim(min(shards) - 2.5, max(shards) + 1)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    name_axes(ax, "depth (layers)", "shards to fetch")
    each = ", ".join(f"{n:,.0f} at depth {depth}" for depth, n in shards.items())
    fig.alt = f"Shards to fetch against depth: {each}."
    return fig


def curves(runs: dict[str, list[float]]) -> Figure:
    """The loss of each step: the first run as a wide line, every further one as points on it."""
    need(runs and all(runs.values()), "no loss")
    fig, (ax,) = figure(2.7)
    for i, (name, loss) in enumerate(runs.items()):
        x = range(1, len(loss) + 1)
        points = dict(color=(VERMILION, BLUE)[i % 2], linewidth=0, marker="o", markersize=4)
        style = points if i else dict(color=GREY, linewidth=4)
        ax.plot(x, loss, label=name, **style)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    name_axes(ax, "step", "training loss\n(nats per token)")
    legend(fig, ax)
    ends = [f"{name} {loss[0]:.2f} at step 1 and {loss[-1]:.2f} at step {len(loss)}" for name, loss in runs.items()]
    fig.alt = f"Training loss of {len(runs)} runs: {'; '.join(ends)}."
    return fig


def train_rows(rows: list[list[int]], plan, seed: int, rate: float = 1.0) -> dict:
    """Train the toy model of a plan on rows of T + 1 tokens (-1: padding): {"val_bpb", "tok_per_sec"}. Lesson 04's loop.

    rate: a factor for all learning rates of the plan.
    """
    model, T = make_model(plan, "cpu").init_weights(seed), plan.model.sequence_len
    optimizer, began = make_optimizer(model, plan), time.perf_counter()
    for step, batch in enumerate(torch.tensor(rows).view(plan.steps, -1, T + 1)):
        loss = model(batch[:, :-1].clamp(min=0), batch[:, 1:].contiguous())  # the loss ignores targets of -1
        loss.backward()
        optimizer.step(rate * plan.lr(step), plan.muon_momentum(step), plan.weight_decay(step))
        optimizer.zero_grad()
    speed = plan.tokens / (time.perf_counter() - began)
    documents, tok = first_bytes(load_corpus("embedded").val, lab.VAL_BYTES), lab.tokenizer(plan.model.vocab_size)
    return {"val_bpb": bits_per_byte(model, documents, tok, T)[0], "tok_per_sec": speed}
