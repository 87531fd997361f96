"""The figures of a run, of the ladder and of the leaderboard. Each function takes plain data and returns a Figure.

figures/ holds the figures of single lessons, figures/style.py the style of both.
"""

import math
import unicodedata

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from gpt2course.core_tasks import GPT2_CORE
from gpt2course.files import UserError

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, DOTS, FONT, GREEN, GREY, HOLLOW, MONO, MONO_WIDTH, ORANGE, PURPLE, SKY, TINTS, VERMILION, WIDTH,
    amount, canvas, figure, legend, log_ticks, name_axes, name_rows, need, note, png, round_numbers, show, time_text,
    time_unit,
)

__all__ = ["amount", "figure", "name_axes", "png", "show", "time_text"]  # of style.py, for notebooks that draw

# ---- the course

COURSE = (
    "the 600x\nstory", "tokenizer", "data", "GPT", "training", "Muon", "windows", "lambdas", "value em-\nbeddings",
    "scaling\nlaws", "CORE", "several\nGPUs", "speed", "talking\nto it", "the\nspeedrun",
)  # fmt: skip


def strip(lesson: int) -> Figure:
    """Where we are: the course as two rows of blocks; `lesson` (0 to 14) is orange, earlier ones are tinted."""
    if not 0 <= lesson < len(COURSE):
        raise UserError(f"lesson {lesson} does not exist; the lessons are 0 to {len(COURSE) - 1}")
    fig, ax = canvas(1.5, (0, 8), (2, 0), margin=0.005)
    for i, name in enumerate(COURSE):
        x, y = i % 8, i // 8
        colour = ORANGE if i == lesson else TINTS[0] if i < lesson else "#EEEEEE"
        ax.add_patch(Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, color=colour, linewidth=0))
        ax.text(x + 0.5, y + 0.28, f"{i:02}", ha="center", va="center", fontsize=FONT, weight="bold", color=BLACK)
        ax.text(x + 0.5, y + 0.65, name, ha="center", va="center", fontsize=FONT, color=BLACK, linespacing=0.95)
    words = [name.replace("-\n", "").replace("\n", " ") for name in COURSE]
    fig.alt = f"Where we are: lesson {lesson:02} of 00 to {len(COURSE) - 1}, {words[lesson]}"
    fig.alt += f", after {', '.join(words[:lesson])}." if lesson else "."
    return fig


def ladder(runs: dict[str, list[float]], rungs: list[str]) -> Figure:
    """The ladder: validation bits per byte of each rung, a dot for each seed and a line for their mean.

    runs: recipe -> bits per byte of its seeds. rungs: all recipes, from the first to the last; a rung without runs
    stays empty.
    """
    need(any(runs.values()), "no rung of the ladder has a run")
    fig, (ax,) = figure(0.9 + 0.36 * len(rungs), grid="x")
    parts = []
    for row, name in enumerate(rungs):
        if values := runs.get(name, []):
            mean = sum(values) / len(values)
            ax.plot([mean] * 2, [row - 0.32, row + 0.32], color=BLUE, linewidth=2.5)
            ax.plot(values, [row] * len(values), "o", color=ORANGE, markersize=6, **DOTS)
            note(ax, f"{mean:.3f}", (max(values), row), (9, 0), va="center", color=BLUE)
            parts.append(f"{name} {mean:.3f} (mean of {len(values)})")
    name_rows(ax, rungs)
    for text, name in zip(ax.get_yticklabels(), rungs):
        text.set_color(BLACK if runs.get(name) else "#999999")
    low, high = min(min(v) for v in runs.values() if v), max(max(v) for v in runs.values() if v)
    gap = high - low or 1
    ax.set_xlim(low - 0.08 * gap, high + 0.2 * gap)
    name_axes(ax, "validation bits per byte (lower is better); dots: seeds, bar: mean")
    fig.alt = f"The ladder, validation bits per byte: {', '.join(parts)}."
    return fig


# ---- a run


def _columns(metrics: list[dict], kind: str, *names: str) -> list[list[float]]:
    """Columns of the metrics lines of one kind, from the lines that hold all of `names`."""
    lines = [m for m in metrics if m.get("kind") == kind and all(m.get(n) is not None for n in names)]
    need(lines, f"no metrics line of kind {kind!r} has {', '.join(names)}; train for longer")
    return [[line[n] for line in lines] for n in names]


def _bpb_axes(ax, evals: list[dict], xz_bpb: float | None) -> tuple[float, float]:
    """The validation half of `loss_and_bpb`; returns the first and last bits per byte."""
    final = [m for m in evals if m.get("final")][-1:]  # on all validation text, the others on its beginning
    tokens, bpb = _columns([m for m in evals if not m.get("final")] or evals, "eval", "tokens", "val_bpb")
    ax.plot(tokens, bpb, color=VERMILION, linewidth=1.6, marker="o", markersize=4)
    last = final[0]["val_bpb"] if final else bpb[-1]
    low, high = min(*bpb, last), max(*bpb, last)
    text = f"final {last:.3f}"
    if final:  # measured on another text than the curve, so the two are not joined
        ax.plot(final[0]["tokens"], last, color=VERMILION, marker="*", markersize=11, linestyle="none")
        text = f"★ {text} on all the text"
    if xz_bpb is not None:
        low, high = min(low, xz_bpb), max(high, xz_bpb)
        ax.axhline(xz_bpb, color=BLACK, linewidth=1.2, linestyle="--")
        below = xz_bpb > low + 0.8 * (high - low) or last > xz_bpb  # clear of the corner's text and of the curve
        at, up, side = ("axes fraction", "data"), -4 if below else 4, "top" if below else "bottom"
        note(ax, f"xz -9e: {xz_bpb:.3f}", (1, xz_bpb), (0, up), xycoords=at, ha="right", va=side)
        text += f", {1 - last / xz_bpb:.0%} below xz" if last < xz_bpb else f", {last / xz_bpb - 1:.0%} above xz"
    note(ax, text, (1, 1), (0, 0), xycoords="axes fraction", ha="right", va="top", color=VERMILION)
    gap = (high - low) or 1.0
    ax.set_ylim(low - 0.25 * gap, high + 0.25 * gap)
    return bpb[0], last


def loss_and_bpb(metrics: list[dict], xz_bpb: float | None = None, beside: list[dict] = ()) -> Figure:
    """Training loss and validation bits per byte against tokens.

    metrics: the lines of a run's metrics.jsonl. xz_bpb: what `xz -9e` needs for the same validation text, drawn as a
    line. beside: the metrics of another run, drawn in grey.
    """
    tokens, loss = _columns(metrics, "train", "tokens", "loss")
    evals = [m for m in metrics if m.get("kind") == "eval"]
    ends = _columns(evals, "eval", "tokens", "val_bpb")[0]
    fig, (top, bottom) = figure(4.6, rows=2, sharex=True)
    shorter = [m for m in beside if not m.get("final")]  # the final one is on other text than the curve
    for ax, kind, name in ((top, "train", "loss"), (bottom, "eval", "val_bpb")) if beside else ():
        ax.plot(*_columns(shorter, kind, "tokens", name), color=GREY, linewidth=3)
    top.plot(tokens, loss, color=BLUE, linewidth=1.6)
    name_axes(top, y="training loss\n(nats per token)")
    first, last = _bpb_axes(bottom, evals, xz_bpb)
    name_axes(bottom, "training tokens", "validation\n(bits per byte)")
    bottom.set_xlim(0, max([tokens[-1], ends[-1], *(m["tokens"] for m in shorter)]) * 1.01)
    bottom.xaxis.set_major_formatter(FuncFormatter(amount))
    fig.align_ylabels()
    fig.alt = (
        f"Two curves against training tokens, up to {amount(tokens[-1])}. "
        f"Training loss goes from {loss[0]:.2f} to {loss[-1]:.2f} nats per token, "
        f"validation from {first:.3f} to {last:.3f} bits per byte."
    )
    fig.alt += " Wide grey curves show another run." if beside else ""
    fig.alt += "" if xz_bpb is None else f" A dashed line marks xz -9e on the same text at {xz_bpb:.3f}."
    return fig


def learning_rates(metrics: list[dict]) -> Figure:
    """The schedules against steps: the multipliers of learning rates and weight decay, and Muon's momentum."""
    there = {name for m in metrics if m.get("kind") == "train" for name, value in m.items() if value is not None}
    parts = [
        (label, colour, *_columns(metrics, "train", "step", name))
        for name, label, colour in (
            ("lr", "learning rate\n(share of peak)", BLUE),
            ("muon_momentum", "Muon momentum\n(no unit)", GREEN),
            ("weight_decay", "weight decay\n(share of peak)", VERMILION),
        )
        if name == "lr" or name in there
    ]
    fig, axes = figure(0.7 + 1.45 * len(parts), rows=len(parts), sharex=True)
    fig.alt = f"Schedules over {parts[0][2][-1]:,} steps."
    for ax, (label, colour, steps, y) in zip(axes, parts):
        ax.plot(steps, y, color=colour, linewidth=1.8)
        name_axes(ax, y=label)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        pad = 0.12 * ((max(y) - min(y)) or abs(y[0]) or 1.0)
        ax.set_ylim(min(y) - pad, max(y) + pad)
        name = label.splitlines()[0].capitalize()
        fig.alt += f" {name}: starts at {y[0]:.3g}, peaks at {max(y):.3g}, ends at {y[-1]:.3g}."
    name_axes(axes[-1], "step (optimizer updates)")
    axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    fig.align_ylabels()
    return fig


def throughput(metrics: list[dict]) -> Figure:
    """Tokens per second against the training clock, with the median, and MFU where the device's peak is known."""
    seconds, rate = _columns(metrics, "train", "seconds", "tok_per_sec")
    median = sorted(rate)[len(rate) // 2]
    used = sorted(m["mfu"] for m in metrics if m.get("kind") == "train" and m.get("mfu") is not None)
    fig, (ax,) = figure(2.6)
    scale, unit = time_unit(seconds[-1])
    ax.plot([s / scale for s in seconds], rate, color=BLUE, linewidth=1.4)
    ax.axhline(median, color=BLACK, linewidth=1.2, linestyle="--")
    text = f"median {amount(median)} tokens/s" + (f", MFU {used[len(used) // 2]:.1%}" if used else "")
    note(ax, f"dashed: {text}", (0.99, 0.05), (0, 0), xycoords="axes fraction", ha="right", va="bottom")
    ax.set_ylim(0, max(rate) * 1.1)
    ax.set_xlim(left=0)
    name_axes(ax, f"training clock ({unit})", "tokens per second")
    ax.yaxis.set_major_formatter(FuncFormatter(amount))
    spread = f"from {amount(min(rate))} to {amount(max(rate))} tokens/s"
    fig.alt = f"Throughput over {seconds[-1] / scale:.3g} {unit} of training: {text}, {spread}."
    return fig


def where_time_went(seconds_by_stage: dict[str, float]) -> Figure:
    """One horizontal bar a stage, in the order given, labelled with its time and its share of the total."""
    need(seconds_by_stage, "no stage has a time")
    names, seconds = list(seconds_by_stage), [float(s) for s in seconds_by_stage.values()]
    total, (scale, unit) = sum(seconds) or 1.0, time_unit(max(seconds))
    fig, (ax,) = figure(0.8 + 0.34 * len(names), grid="x")
    bars = ax.barh(range(len(names)), [s / scale for s in seconds], color=BLUE, height=0.68)
    shares = [f"{s / total:.0%}" if s / total >= 0.005 or s == 0 else "< 1%" for s in seconds]
    ax.bar_label(bars, [f"{time_text(s)}, {share}" for s, share in zip(seconds, shares)], padding=4, fontsize=FONT)
    name_rows(ax, names)
    ax.set_xlim(0, (max(seconds) or 1.0) / scale * 1.3)  # room for the labels
    ax.spines["left"].set_visible(False)
    name_axes(ax, f"wall-clock time ({unit})")
    stages = [f"{name} {time_text(s)} ({share})" for name, s, share in zip(names, seconds, shares)]
    fig.alt = f"Where {time_text(total)} went: {', '.join(stages)}."
    return fig


# ---- coloured tokens


def visible(text: str) -> str:
    """A token as it can be printed on one line: control characters as signs, a carrier for a combining mark."""
    signs = {"\n": "⏎", "\t": "→", "\r": "␍", "\ufffd": "�"}
    out = "".join(signs.get(c, c if c.isprintable() else "·") for c in text)
    return "\u25cc" + out if out and unicodedata.combining(out[0]) else out


def _width(text: str) -> int:
    """The columns of a monospaced font that text takes: a combining mark takes none."""
    return sum(not unicodedata.combining(c) for c in text)


def _laid_out(pieces: list[str], columns: int) -> list[tuple[int, str, int, int]]:
    """Boxes (token, text, row, column) of text broken after `columns` characters and at line ends."""
    font = font_manager.get_font(font_manager.findfont(MONO))
    boxes, row, column = [], 0, 0
    for i, piece in enumerate(pieces):
        for text in piece.splitlines(keepends=True) or [piece]:
            shown = "".join(c if font.get_char_index(ord(c)) else "\u25a1" for c in visible(text))
            while shown:
                n = 0  # characters that fit into the rest of this row
                while n < len(shown) and _width(shown[: n + 1]) <= columns - column:
                    n += 1
                head, shown = shown[:n], shown[n:]
                boxes.append((i, head, row, column))
                column += _width(head)
                if column == columns and shown:
                    row, column = row + 1, 0
            if text.endswith("\n") or column == columns:
                row, column = row + 1, 0
    return boxes


def coloured_tokens(pieces: list[str], columns: int = 72) -> Figure:
    """Text cut into tokens: monospaced, a coloured box behind each token, `columns` characters a line.

    A character that the font lacks is drawn as a small square.
    """
    need(pieces, "no tokens")
    boxes = _laid_out(pieces, columns)
    rows = max(b[2] for b in boxes) + 1
    size = min(FONT, WIDTH * 0.98 * 72 / columns / MONO_WIDTH)
    fig, ax = canvas(rows * size * 1.75 / 72 + 0.1, (0, WIDTH * 0.98 * 72 / (size * MONO_WIDTH)), (rows, 0))
    for i, text, r, c in boxes:
        ax.add_patch(Rectangle((c, r + 0.08), _width(text), 0.84, color=TINTS[i % len(TINTS)], linewidth=0))
        ax.text(c, r + 0.5, text, family=MONO, fontsize=size, va="center_baseline", parse_math=False)
    text = "".join(pieces)
    of = f"{len(pieces)} tokens of {len(text) / len(pieces):.1f} characters on average"
    fig.alt = f"Text cut into {of}, each on its own colour: {text[:160]!r}"
    return fig


# ---- CORE


def core_bars(ours: dict[str, float], references: dict[str, dict[str, float]], name: str = "this model") -> Figure:
    """Centred accuracy of every task: ours as bars, reference models as marks.

    ours: task -> centred accuracy (0 is guessing, 1 is perfect). references: model -> the same, for example the four
    GPT-2. The mean is drawn only where all models have the same tasks: means over different tasks do not compare.
    """
    tasks = list(dict.fromkeys([*ours, *(t for r in references.values() for t in r)]))  # ours first
    need(tasks, "no task has a score")
    same = all(set(r) == set(ours) for r in references.values())

    def scores(model):
        mean = [sum(model.values()) / len(model)] if same else []
        return mean + [model.get(t, math.nan) for t in tasks]

    labels = [f"mean of {len(tasks)}"] if same else []
    labels += [t.removeprefix("bigbench_").replace("_", " ") for t in tasks]
    rows = range(len(labels))
    fig, (ax,) = figure(1.3 + 0.29 * len(labels), grid="x")
    bars = ax.barh(rows, scores(ours), color=SKY, height=0.72, label=name)
    styles = tuple(zip((GREY, GREEN, ORANGE, VERMILION, PURPLE, BLUE), "sDo^vP"))
    for i, (model, values) in enumerate(references.items()):
        colour, mark = styles[i % len(styles)]
        y = [row + 0.18 * (i - (len(references) - 1) / 2) for row in rows]  # so that equal scores both show
        ax.plot(scores(values), y, mark, color=colour, label=model, markersize=6, **DOTS)
    ax.axvline(0, color=BLACK, linewidth=1)
    name_rows(ax, labels)
    if same:
        ax.get_yticklabels()[0].set_fontweight("bold")
        ax.axhline(0.5, color=GREY, linewidth=0.8)  # between the mean and the tasks
    elif 0 < len(ours) < len(tasks):
        ax.axhline(len(ours) - 0.5, color=GREY, linewidth=0.8)  # between our tasks and those that only others have
    name_axes(ax, "centred accuracy (0 = guessing, 1 = perfect)")
    legend(fig, ax, handles=[bars, *ax.get_legend_handles_labels()[0][: len(references)]])
    others = f", {', '.join(references)} as marks" if references else ""
    fig.alt = f"Centred accuracy on {len(tasks)} tasks, {name} as bars{others}."
    if same and ours:
        means = [f"{m} {scores(v)[0]:.3f}" for m, v in ((name, ours), *references.items())]
        fig.alt += f" Means: {', '.join(means)}."
    if ours:
        worst, *_, best = sorted([*ours, *ours], key=ours.get)
        fig.alt += f" Best of {name}: {best} {ours[best]:.2f}; worst: {worst} {ours[worst]:.2f}."
    return fig


def _number(fig: Figure, ax, labels: list[tuple[str, float, float]], points: list[tuple[float, float]]) -> None:
    """Write each label (text, x, y) beside its point, on the side farthest from other points, labels and the bar."""
    fig.draw_without_rendering()  # fixes the layout, so that distances can be measured in points
    place = ax.transData + fig.dpi_scale_trans.inverted()
    taken = [tuple(72 * v for v in place.transform(p)) for p in points]
    line = 72 * place.transform((points[0][0], GPT2_CORE))[1]
    for text, x, y in labels:
        here = tuple(72 * v for v in place.transform((x, y)))
        others = [t for t in taken if math.dist(t, here) > 0.01]

        def room(by, here=here, others=others):
            at = (here[0] + by[0], here[1] + by[1])
            return round(min([math.dist(t, at) for t in others] + [abs(at[1] - line) + 3, 14]), 2)  # 14 is enough

        turns = [math.radians(d) for d in range(0, 360, 45)]  # max takes the first of equals: the right side
        by = max(((12 * math.cos(t), 12 * math.sin(t)) for t in turns), key=room)
        note(ax, text, (x, y), by, ha="center", va="center", color=BLUE, weight="bold")
        taken.append((here[0] + by[0], here[1] + by[1]))


def leaderboard_figure(rows: list[dict], ours: dict | None = None) -> Figure:
    """Hours against CORE: official records, unmerged claims, GPT-2 of 2019, and `ours`, with the bar of GPT-2 XL.

    rows: the leaderboard's rows, of which id, who, hours, core and name are read; a row whose core is None is not
    drawn. ours: one more such row; without a core it is a vertical line at its hours.
    """
    drawn = [r for r in rows if r["core"] is not None]
    need(drawn, "no entry of the leaderboard has a CORE")
    fig, (ax,) = figure(4.2)
    ax.axhline(GPT2_CORE, color=BLACK, linewidth=1.2, linestyle="--")
    official = [r for r in drawn if r["who"] == "published" and r["id"] != "gpt2-2019"]
    for some, label, style in (
        (official, "official record, by number", dict(marker="o", markersize=8, color=BLUE)),
        ([r for r in drawn if r["who"] == "unmerged"], "unmerged claim", dict(markersize=7, color=GREY, **HOLLOW)),
        ([r for r in drawn if r["who"] == "ours"], "ours", dict(marker="D", markersize=7, color=VERMILION)),
    ):
        if some:
            ax.plot([r["hours"] for r in some], [r["core"] for r in some], linestyle="none", label=label, **style)
    for r in (r for r in drawn if r["id"] == "gpt2-2019"):
        ax.plot(r["hours"], r["core"], marker="*", markersize=15, color=BLACK, linestyle="none")
        text = f"GPT-2 XL, 2019\n{r['hours']:g} h\nCORE {r['core']}"
        note(ax, text, (r["hours"], r["core"]), (0, 10), ha="center")
    points, mine = [(r["hours"], r["core"]) for r in drawn], ""
    if ours:
        mine = f"{ours['name']}: {ours['hours']:.3g} h, "
        mine += "CORE not measured" if ours["core"] is None else f"CORE {ours['core']:.4f}"
        if ours["core"] is None:
            ax.axvline(ours["hours"], color=VERMILION, linewidth=1.8, label=mine)
        else:
            points.append((ours["hours"], ours["core"]))
            ax.plot(*points[-1], marker="D", markersize=9, color=VERMILION, linestyle="none", label=mine)
    hours, cores = [h for h, _ in points] + ([ours["hours"]] if ours else []), [c for _, c in points]
    ax.set_xscale("log")
    ax.set_xlim(min(hours) / 1.5, max(hours) * 3)
    log_ticks(ax.xaxis, round_numbers(*ax.get_xlim(), digits=(1, 3)))
    pad = 0.1 * ((max(cores) - min(cores)) or 0.01)
    ax.set_ylim(min(cores) - pad, max(cores) + pad)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    name_axes(ax, "training time (hours, log scale)", "CORE (mean centred accuracy)")
    legend(fig, ax, ncols=2)
    _number(fig, ax, [(r["id"].rpartition("-")[2], r["hours"], r["core"]) for r in official], points)
    spans = [r["hours"] for r in official]
    fig.alt = f"Training hours against CORE for {len(drawn)} entries, with the bar of GPT-2 XL at {GPT2_CORE}."
    fig.alt += f" The official record fell from {max(spans):g} to {min(spans):g} hours." if spans else ""
    fig.alt += f" {mine}." if mine else ""
    fig.alt += f" {len(rows) - len(drawn)} without a measured CORE not drawn." if len(rows) > len(drawn) else ""
    return fig
