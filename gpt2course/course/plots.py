"""Every figure that a lesson or a runbook draws, in one style. Each function takes plain data and returns a Figure.

The style: 7 inches wide and no text below 11 points, so that a figure still reads at half its size; the Okabe-Ito
colours, which colour-blind readers can tell apart; units on every axis; nothing drawn that carries no data. `fig.alt`
says in words what the figure shows, and `show(fig)` puts both into a notebook. Figures are made without pyplot, so none
stays in memory.
"""

import html
import io
import math
import unicodedata

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from gpt2course.files import UserError
from gpt2course.ops.leaderboard import GPT2_CORE

# Okabe and Ito, "Color Universal Design" (jfly.uni-koeln.de/color), without the yellow, which is faint on white
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#666666"
TINTS = ("#BFE3F7", "#FBDFA6", "#B5E3D5", "#F3CFE0", "#F7C9A9")  # the same hues, light enough for black text on them
WIDTH = 7.0  # inches
FONT = 11.0  # points
DOTS = dict(markersize=6, markeredgecolor="white", markeredgewidth=0.5)
LEGEND = dict(loc="outside upper center", fontsize=FONT, frameon=False)


def _style(ax, grid: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=FONT, length=3)
    ax.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)


def figure(height: float, rows: int = 1, **kw):
    """A Figure of the course's width with `rows` axes below each other: (figure, list of axes)."""
    fig = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = [fig.add_subplot(rows, 1, 1)]
    axes += [fig.add_subplot(rows, 1, i + 1, sharex=axes[0] if kw.get("sharex") else None) for i in range(1, rows)]
    for ax in axes:
        _style(ax, kw.get("grid", "y"))
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=not kw.get("sharex"))
    fig.alt = ""
    return fig, axes


def name_axes(ax, x: str | None = None, y: str | None = None) -> None:
    """What an axis shows, with its unit."""
    if x:
        ax.set_xlabel(x, fontsize=FONT)
    if y:
        ax.set_ylabel(y, fontsize=FONT)


def _note(ax, text: str, at: tuple, by: tuple, **style) -> None:
    """Write text `by` (right, up) points away from a place of the axes."""
    ax.annotate(text, at, by, textcoords="offset points", fontsize=FONT, **style)


def amount(value: float, _pos=None) -> str:
    """1500000 -> "1.5M": counts on axes, with at most three figures."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def _time_unit(longest: float) -> tuple[float, str]:
    """Seconds of one unit, and its name, for a time axis that reaches `longest` seconds."""
    if longest > 2 * 3600:
        return 3600, "hours"
    return (60, "minutes") if longest > 600 else (1, "seconds")


def time_text(seconds: float) -> str:
    """80 ms, 242 s, 45.2 min or 3.04 h."""
    if seconds < 0.995:
        return f"{seconds * 1000:.0f} ms"
    scale, unit = _time_unit(seconds)
    short = {"seconds": "s", "minutes": "min", "hours": "h"}
    return f"{seconds / scale:.3g} {short[unit]}"


def _columns(metrics: list[dict], kind: str, *names: str) -> list[list[float]]:
    """Columns of the metrics lines of one kind that hold all of `names`."""
    lines = [m for m in metrics if m.get("kind") == kind and all(m.get(n) is not None for n in names)]
    if not lines:
        raise UserError(
            f"there is nothing to draw: no metrics line of kind {kind!r} has {', '.join(names)}; train for longer"
        )
    return [[line[n] for line in lines] for n in names]


COURSE = (
    "the 600x\nstory", "tokenizer", "data", "GPT", "training", "Muon", "windows", "lambdas", "value em-\nbeddings",
    "scaling\nlaws", "CORE", "several\nGPUs", "speed", "talking\nto it", "the\nspeedrun",
)  # fmt: skip


def strip(lesson: int) -> Figure:
    """Where we are: the course as two rows of blocks, that of `lesson` (0 to 14) lit and those before it tinted."""
    if not 0 <= lesson < len(COURSE):
        raise UserError(f"lesson {lesson} does not exist; the lessons are 0 to {len(COURSE) - 1}")
    fig = Figure(figsize=(WIDTH, 1.5), facecolor="white")
    ax = fig.add_axes((0.005, 0.01, 0.99, 0.98))
    ax.set_axis_off()
    ax.set_xlim(0, 8)
    ax.set_ylim(2, 0)
    for i, name in enumerate(COURSE):
        x, y = i % 8, i // 8
        colour = TINTS[0] if i < lesson else "#EEEEEE"
        if i == lesson:
            colour = ORANGE
        ax.add_patch(Rectangle((x + 0.04, y + 0.06), 0.92, 0.88, color=colour, linewidth=0))
        ax.text(x + 0.5, y + 0.28, f"{i:02}", ha="center", va="center", fontsize=FONT, weight="bold", color=BLACK)
        ax.text(x + 0.5, y + 0.65, name, ha="center", va="center", fontsize=FONT, color=BLACK, linespacing=0.95)
    words = [name.replace("-\n", "").replace("\n", " ") for name in COURSE]
    fig.alt = f"Where we are: lesson 00 of {len(COURSE) - 1}, {words[0]}."
    if lesson:
        before = ", ".join(words[:lesson])
        fig.alt = f"Where we are: lesson {lesson:02} of 00 to {len(COURSE) - 1}, {words[lesson]}, after {before}."
    return fig


def ladder(runs: dict[str, list[float]], rungs: list[str]) -> Figure:
    """The ladder: validation bits per byte of each rung, a dot for each seed and a line for their mean.

    runs: recipe -> bits per byte of its seeds; rungs: all recipes, from the first to the last; one without runs stays
    empty.
    """
    if not any(runs.values()):
        raise UserError("there is nothing to draw: no rung of the ladder has a run")
    fig, (ax,) = figure(0.9 + 0.36 * len(rungs), grid="x")
    said = []
    for row, name in enumerate(rungs):
        if values := runs.get(name, []):
            mean = sum(values) / len(values)
            ax.plot([mean] * 2, [row - 0.32, row + 0.32], color=BLUE, linewidth=2.5)
            ax.plot(values, [row] * len(values), "o", color=ORANGE, **DOTS)
            _note(ax, f"{mean:.3f}", (max(values), row), (9, 0), va="center", color=BLUE)
            said.append(f"{name} {mean:.3f} (mean of {len(values)})")
    ax.set_yticks(range(len(rungs)), rungs)
    for text, name in zip(ax.get_yticklabels(), rungs):
        text.set_color(BLACK if runs.get(name) else "#999999")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rungs) - 0.4, -0.6)
    low, high = min(min(v) for v in runs.values() if v), max(max(v) for v in runs.values() if v)
    gap = high - low or 1
    ax.set_xlim(low - 0.08 * gap, high + 0.2 * gap)
    name_axes(ax, "validation bits per byte (lower is better); dots: seeds, bar: mean")
    fig.alt = f"The ladder, validation bits per byte: {', '.join(said)}."
    return fig


def loss_and_bpb(metrics: list[dict], xz_bpb: float | None = None) -> Figure:
    """Training loss and validation bits per byte against tokens.

    metrics: the lines of a run's metrics.jsonl. xz_bpb: what `xz -9e` needs for the same validation text, drawn as a
    line.
    """
    tokens, loss = _columns(metrics, "train", "tokens", "loss")
    evals = [m for m in metrics if m.get("kind") == "eval"]
    final = [m for m in evals if m.get("final")][-1:]  # on all validation text, the others on its beginning
    curve = [m for m in evals if not m.get("final")] or evals
    eval_tokens, bpb = _columns(curve, "eval", "tokens", "val_bpb")
    fig, (top, bottom) = figure(4.6, rows=2, sharex=True)
    top.plot(tokens, loss, color=BLUE, linewidth=1.6)
    name_axes(top, y="training loss\n(nats per token)")
    bottom.plot(eval_tokens, bpb, color=VERMILION, linewidth=1.6, marker="o", markersize=4)
    last = final[0]["val_bpb"] if final else bpb[-1]
    low, high = min(*bpb, last), max(*bpb, last)
    note = f"final {last:.3f}"
    if final:  # another text than the curve's, so it is not joined to it
        bottom.plot(final[0]["tokens"], last, color=VERMILION, marker="*", markersize=11, linestyle="none")
        note = f"★ {note} on all the text"
    if xz_bpb is not None:
        low, high = min(low, xz_bpb), max(high, xz_bpb)
        bottom.axhline(xz_bpb, color=BLACK, linewidth=1.2, linestyle="--")
        up, side = 4, "bottom"
        if xz_bpb > low + 0.8 * (high - low) or last > xz_bpb:  # clear of the note in the corner, and of the curve
            up, side = -4, "top"
        at = ("axes fraction", "data")
        _note(bottom, f"xz -9e: {xz_bpb:.3f}", (1, xz_bpb), (0, up), xycoords=at, ha="right", va=side)
        note += f", {1 - last / xz_bpb:.0%} below xz" if last < xz_bpb else f", {last / xz_bpb - 1:.0%} above xz"
    bottom.annotate(note, (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=FONT, color=VERMILION)
    gap = (high - low) or 1.0
    bottom.set_ylim(low - 0.25 * gap, high + 0.25 * gap)
    name_axes(bottom, "training tokens", "validation\n(bits per byte)")
    bottom.set_xlim(0, max(tokens[-1], eval_tokens[-1]) * 1.01)
    bottom.xaxis.set_major_formatter(FuncFormatter(amount))
    fig.align_ylabels()
    xz = "" if xz_bpb is None else f" A dashed line marks xz -9e on the same text at {xz_bpb:.3f}."
    fig.alt = (
        f"Two curves against training tokens, up to {amount(tokens[-1])}. "
        f"Training loss goes from {loss[0]:.2f} to {loss[-1]:.2f} nats per token, "
        f"validation from {bpb[0]:.3f} to {last:.3f} bits per byte.{xz}"
    )
    return fig


def learning_rates(metrics: list[dict]) -> Figure:
    """The three schedules against steps: multipliers of the learning rates and the weight decay, Muon's momentum."""
    steps, lr = _columns(metrics, "train", "step", "lr")
    parts = [("learning rate\n(share of peak)", BLUE, steps, lr)]
    others = (
        ("muon_momentum", "Muon momentum\n(no unit)", GREEN),
        ("weight_decay", "weight decay\n(share of peak)", VERMILION),
    )
    for name, label, colour in others:
        if any(m.get(name) is not None for m in metrics if m.get("kind") == "train"):
            parts.append((label, colour, *_columns(metrics, "train", "step", name)))
    fig, axes = figure(0.7 + 1.45 * len(parts), rows=len(parts), sharex=True)
    for ax, (label, colour, x, y) in zip(axes, parts):
        ax.plot(x, y, color=colour, linewidth=1.8)
        name_axes(ax, y=label)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        pad = 0.12 * ((max(y) - min(y)) or abs(y[0]) or 1.0)
        ax.set_ylim(min(y) - pad, max(y) + pad)
    name_axes(axes[-1], "step (optimizer updates)")
    axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    fig.align_ylabels()
    fig.alt = f"Schedules over {steps[-1]:,} steps."
    for label, _, _, y in parts:
        name = label.splitlines()[0].capitalize()
        fig.alt += f" {name}: starts at {y[0]:.3g}, peaks at {max(y):.3g}, ends at {y[-1]:.3g}."
    return fig


def throughput(metrics: list[dict]) -> Figure:
    """Tokens per second against the training clock, with the median, and MFU where the device's peak is known."""
    seconds, rate = _columns(metrics, "train", "seconds", "tok_per_sec")
    median = sorted(rate)[len(rate) // 2]
    used = sorted(m["mfu"] for m in metrics if m.get("kind") == "train" and m.get("mfu") is not None)
    fig, (ax,) = figure(2.6)
    scale, unit = _time_unit(seconds[-1])
    ax.plot([s / scale for s in seconds], rate, color=BLUE, linewidth=1.4)
    ax.axhline(median, color=BLACK, linewidth=1.2, linestyle="--")
    text = f"median {amount(median)} tokens/s" + (f", MFU {used[len(used) // 2]:.1%}" if used else "")
    ax.annotate(f"dashed: {text}", (0.99, 0.05), xycoords="axes fraction", ha="right", va="bottom", fontsize=FONT)
    ax.set_ylim(0, max(rate) * 1.1)
    ax.set_xlim(left=0)
    name_axes(ax, f"training clock ({unit})", "tokens per second")
    ax.yaxis.set_major_formatter(FuncFormatter(amount))
    spread = f"from {amount(min(rate))} to {amount(max(rate))} tokens/s"
    fig.alt = f"Throughput over {seconds[-1] / scale:.3g} {unit} of training: {text}, {spread}."
    return fig


def where_time_went(seconds_by_stage: dict[str, float]) -> Figure:
    """One horizontal bar a stage, in the order given, labelled with its time and its share of the total."""
    if not seconds_by_stage:
        raise UserError("there is nothing to draw: no stage has a time")
    names, seconds = list(seconds_by_stage), [float(s) for s in seconds_by_stage.values()]
    total, (scale, unit) = sum(seconds) or 1.0, _time_unit(max(seconds))
    fig, (ax,) = figure(0.8 + 0.34 * len(names), grid="x")
    bars = ax.barh(names, [s / scale for s in seconds], color=BLUE, height=0.68)
    shares = [f"{s / total:.0%}" if s / total >= 0.005 or s == 0 else "< 1%" for s in seconds]
    ax.bar_label(bars, [f"{time_text(s)}, {share}" for s, share in zip(seconds, shares)], padding=4, fontsize=FONT)
    ax.invert_yaxis()
    ax.set_xlim(0, (max(seconds) or 1.0) / scale * 1.3)  # room for the labels
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    name_axes(ax, f"wall-clock time ({unit})")
    stages = [f"{name} {time_text(s)} ({share})" for name, s, share in zip(names, seconds, shares)]
    fig.alt = f"Where {time_text(total)} went: {', '.join(stages)}."
    return fig


def _visible(piece: str) -> str:
    """A token as it can be printed on one line: control characters become signs, combining marks get a carrier."""
    signs = {"\n": "⏎", "\t": "→", "\r": "␍", "\ufffd": "�"}
    out = "".join(signs.get(c, c if c.isprintable() else "·") for c in piece)
    return "\u25cc" + out if out and unicodedata.combining(out[0]) else out


def _columns_of(text: str) -> int:
    """Columns that text takes in a monospaced font: a combining mark takes none."""
    return sum(not unicodedata.combining(c) for c in text)


def _check_ids(pieces: list[str], ids: list[int] | None) -> None:
    if ids is not None and len(ids) != len(pieces):
        raise UserError(f"{len(pieces)} pieces and {len(ids)} ids: there must be one id for each piece")


def coloured_tokens_html(pieces: list[str], ids: list[int] | None = None) -> str:
    """HTML that shows text cut into tokens, each on its own colour; hovering shows the token's id.

    pieces: the tokens in order, as text; ids: their numbers, of the same length. Spaces stay visible as space.
    """
    _check_ids(pieces, ids)
    spans = []
    for i, piece in enumerate(pieces):
        title = f' title="token {ids[i]}"' if ids is not None else ""
        text = html.escape(_visible(piece)) + "<br>" * piece.count("\n")
        style = f"background:{TINTS[i % len(TINTS)]};color:#000;border-radius:2px"
        spans.append(f'<span{title} style="{style}">{text}</span>')
    style = "font-family:monospace;font-size:14px;line-height:1.7;white-space:pre-wrap"
    return f'<div style="{style}">{"".join(spans)}</div>'


def coloured_tokens(pieces: list[str], ids: list[int] | None = None, columns: int = 72) -> Figure:
    """The same as a Figure, for places without HTML: monospaced text, a coloured box behind each token.

    ids are unused but checked. A character that the font lacks is drawn as a small square. Text is broken after
    `columns` characters and at line ends.
    """
    _check_ids(pieces, ids)
    if not pieces:
        raise UserError("there is nothing to draw: no tokens")
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans Mono"))
    boxes, row, column = [], 0, 0  # (token, text, row, column), a token that is broken gives several
    for i, piece in enumerate(pieces):
        for text in piece.splitlines(keepends=True) or [piece]:
            shown = "".join(c if font.get_char_index(ord(c)) else "\u25a1" for c in _visible(text))
            while shown:
                n = 0  # characters that still fit into this row
                while n < len(shown) and _columns_of(shown[: n + 1]) <= columns - column:
                    n += 1
                head, shown = shown[:n], shown[n:]
                boxes.append((i, head, row, column))
                column += _columns_of(head)
                if column == columns and shown:
                    row, column = row + 1, 0
            if text.endswith("\n") or column == columns:
                row, column = row + 1, 0
    rows = max(b[2] for b in boxes) + 1
    size = min(FONT, WIDTH * 0.98 * 72 / columns / 0.602)  # a character of this font is 0.602 em wide
    fig = Figure(figsize=(WIDTH, rows * size * 1.75 / 72 + 0.1), facecolor="white")
    ax = fig.add_axes((0.01, 0, 0.98, 1))
    ax.set_axis_off()
    ax.set_xlim(0, WIDTH * 0.98 * 72 / (size * 0.602))
    ax.set_ylim(rows, 0)
    for i, text, r, c in boxes:
        ax.add_patch(Rectangle((c, r + 0.08), _columns_of(text), 0.84, color=TINTS[i % len(TINTS)], linewidth=0))
        ax.text(c, r + 0.5, text, family="DejaVu Sans Mono", fontsize=size, va="center_baseline", parse_math=False)
    text = "".join(pieces)
    mean = len(text) / len(pieces)
    of = f"{len(pieces)} tokens of {mean:.1f} characters on average"
    fig.alt = f"Text cut into {of}, each on its own colour: {text[:160]!r}"
    return fig


def _task_name(label: str) -> str:
    return label.removeprefix("bigbench_").replace("_", " ")


def core_bars(ours: dict[str, float], references: dict[str, dict[str, float]], name: str = "this model") -> Figure:
    """Centred accuracy of every task: ours as bars, reference models as marks.

    ours: task -> centred accuracy (0 is guessing, 1 is perfect). references: model -> the same, for example the four
    GPT-2. A mean is drawn only where all models have the same tasks: means over different tasks cannot be compared.
    """
    tasks = list(dict.fromkeys([*ours, *(t for r in references.values() for t in r)]))  # ours first
    if not tasks:
        raise UserError("there is nothing to draw: no task has a score")
    same = all(set(r) == set(ours) for r in references.values())

    def scores(model):
        mean = [sum(model.values()) / len(model)] if same else []
        return mean + [model.get(t, math.nan) for t in tasks]

    labels = [f"mean of {len(tasks)}"] if same else []
    labels += [_task_name(t) for t in tasks]
    rows = range(len(labels))
    fig, (ax,) = figure(1.3 + 0.29 * len(labels), grid="x")
    ax.barh(rows, scores(ours), color=SKY, height=0.72, label=name)
    styles = tuple(zip((GREY, GREEN, ORANGE, VERMILION, PURPLE, BLUE), "sDo^vP"))
    for i, (model, values) in enumerate(references.items()):
        colour, mark = styles[i % len(styles)]
        shift = 0.18 * (i - (len(references) - 1) / 2)  # one below the other, so that equal scores both show
        ax.plot(scores(values), [row + shift for row in rows], mark, color=colour, label=model, **DOTS)
    ax.axvline(0, color=BLACK, linewidth=1)
    ax.set_yticks(rows, labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    if same:
        ax.get_yticklabels()[0].set_fontweight("bold")
        ax.axhline(0.5, color=GREY, linewidth=0.8)  # between the mean and the tasks
    elif 0 < len(ours) < len(tasks):
        ax.axhline(len(ours) - 0.5, color=GREY, linewidth=0.8)  # between our tasks and those that only others have
    name_axes(ax, "centred accuracy (0 = guessing, 1 = perfect)")
    handles, names = ax.get_legend_handles_labels()
    handles, names = handles[-1:] + handles[:-1], names[-1:] + names[:-1]  # ours first
    fig.legend(handles, names, ncols=3, handletextpad=0.4, columnspacing=1.4, **LEGEND)
    others = f", {', '.join(references)} as marks" if references else ""
    fig.alt = f"Centred accuracy on {len(tasks)} tasks, {name} as bars{others}."
    if same and ours:
        means = [f"{m} {scores(v)[0]:.3f}" for m, v in ((name, ours), *references.items())]
        fig.alt += f" Means: {', '.join(means)}."
    if ours:
        order = sorted(ours, key=ours.get)
        worst, best = order[0], order[-1]
        fig.alt += f" Best of {name}: {best} {ours[best]:.2f}; worst: {worst} {ours[worst]:.2f}."
    return fig


def core_report_figure(report: dict) -> Figure:
    """A CORE score with its noise: the mean above, the tasks below, each with its 95 % interval, beside those of GPT-2.

    report: what `core_report.report` gives. A task is drawn full where it differs from GPT-2 XL by more than the noise
    of both, hollow where it does not; without GPT-2's scores all are full.
    """
    tasks, name = report["tasks"], report["name"]
    if not tasks:
        raise UserError("there is nothing to draw: no task has a score")
    best = list(next(iter(tasks.values()))["gpt2"])[-1:]  # GPT-2 XL, or none
    means = [(model, g["core"], g["interval"]) for model, g in report["gpt2"].items()]
    means.append(("this model", report["core"], report["interval"]))
    fig = Figure(figsize=(WIDTH, 1.9 + 0.25 * (len(means) + len(tasks))), layout="constrained", facecolor="white")
    axes = fig.subplots(2, 1, height_ratios=(len(means) + 0.8, len(tasks) + 0.8))
    top, bottom = axes
    whiskers = dict(linestyle="none", elinewidth=1.44)  # two pixels
    for row, (model, value, (low, high)) in enumerate(means):
        colour, mark = (VERMILION, "^") if [model] == best else (GREY, "s")
        if model == "this model":
            colour, mark = BLUE, "o"
        error = [[max(0.0, value - low)], [max(0.0, high - value)]]
        top.errorbar([value], [row], xerr=error, color=colour, marker=mark, markersize=6, **whiskers)
        _note(top, f"{value:.4f}", (high, row), (5, 0), va="center", color=colour)
    if "bar" in report:
        top.axvline(report["bar"], color=BLACK, linewidth=1.2, linestyle="--")
    top.set_yticks(range(len(means)), [model for model, *_ in means])
    name_axes(top, f"{name}: mean centred accuracy")
    rows = range(len(tasks))
    marks = [(0.17, m, VERMILION, "^") for m in best]
    marks.append((-0.17 if best else 0.0, None, BLUE, "o"))  # ours
    for shift, model, colour, mark in marks:
        for row, task in zip(rows, tasks.values()):
            scored = task["gpt2"][model] if model else task
            full = bool(model) or all(task["gpt2"][m]["beyond_noise"] for m in best)
            value, guess = scored["centred"], task["random_baseline"]
            accuracy = value * (1 - guess) + guess
            error = 1.96 * math.sqrt(max(0.0, accuracy * (1 - accuracy)) / scored["n"]) / (1 - guess)
            style = dict(color=colour, marker=mark, markersize=4.5, markerfacecolor=colour if full else "white")
            bottom.errorbar([value], [row + shift], xerr=[error], **style, **whiskers)
    bottom.axvline(0, color=BLACK, linewidth=1)
    bottom.set_yticks(rows, [_task_name(label) for label in tasks])
    name_axes(bottom, "centred accuracy (0 = guessing, 1 = perfect)")
    for ax, n in zip(axes, (len(means), len(tasks))):
        _style(ax, "x")
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(n - 0.4, -0.6)
    mark = dict(linestyle="none", marker="o", color=BLUE)
    legend = [Line2D([], [], label="this model", **mark)]
    if best:
        legend.append(Line2D([], [], label=f"within the noise of {best[0]}", markerfacecolor="white", **mark))
        legend.append(Line2D([], [], label=best[0], linestyle="none", marker="^", color=VERMILION))
    fig.legend(handles=legend, ncols=3, handletextpad=0.4, columnspacing=1.4, **LEGEND)
    beyond = [task["gpt2"][m]["difference"] for task in tasks.values() for m in best if task["gpt2"][m]["beyond_noise"]]
    low, high = report["interval"]
    score = f"{name} {report['core']:.4f}, 95 % interval {low:.4f} to {high:.4f}"
    fig.alt = f"A score with its noise: {score}, over {len(tasks)} tasks with their intervals."
    if "above_bar" in report:
        bar = f"the bar of {best[0]} at {report['bar']:.4f}"
        fig.alt += f" The probability of being above {bar} is {report['above_bar']:.2f}."
    if best:
        above, below = sum(d > 0 for d in beyond), sum(d < 0 for d in beyond)
        fig.alt += (
            f" Beyond the noise of both, {above} tasks are above {best[0]} and {below} below, "
            f"{len(tasks) - len(beyond)} are neither."
        )
    return fig


def _number(fig: Figure, ax, labels: list[tuple[str, float, float]], points: list[tuple[float, float]]) -> None:
    """Write each label (text, x, y) beside its point, on the side farthest from other points, labels and the line."""
    fig.draw_without_rendering()  # fixes the layout, so that distances can be measured in points
    place = ax.transData + fig.dpi_scale_trans.inverted()
    taken = [tuple(72 * v for v in place.transform(p)) for p in points]
    line = 72 * place.transform((points[0][0], GPT2_CORE))[1]
    for text, x, y in labels:
        px, py = (72 * v for v in place.transform((x, y)))
        others = [t for t in taken if math.dist(t, (px, py)) > 0.01]
        best, dx, dy = 0.0, 12.0, 0.0
        for turn in (math.radians(d) for d in range(0, 360, 45)):
            at = (px + 12 * math.cos(turn), py + 12 * math.sin(turn))
            room = min([math.dist(t, at) for t in others] + [abs(at[1] - line) + 3, 14])  # 14 is as good as more
            if room > best + 0.001:  # so the right side wins ties
                best, dx, dy = room, at[0] - px, at[1] - py
        _note(ax, text, (x, y), (dx, dy), ha="center", va="center", color=BLUE, weight="bold")
        taken.append((px + dx, py + dy))


def leaderboard_figure(rows: list, ours=None) -> Figure:
    """Hours against CORE: official records, unmerged claims, GPT-2 of 2019, and `ours`, with the bar of GPT-2 XL.

    rows: leaderboard entries (id, who, hours, core, name); those without CORE cannot be drawn. ours: one more entry;
    without a CORE of its own it is a vertical line at its hours.
    """
    drawn = [r for r in rows if r.core is not None]
    if not drawn:
        raise UserError("there is nothing to draw: no entry of the leaderboard has a CORE")
    fig, (ax,) = figure(4.2)
    ax.axhline(GPT2_CORE, color=BLACK, linewidth=1.2, linestyle="--")
    hollow = dict(fillstyle="none", markeredgewidth=1.3)
    for who, label, style in (
        ("published", "official record, by number", dict(marker="o", markersize=8, color=BLUE)),
        ("unmerged", "unmerged claim", dict(marker="o", markersize=7, color=GREY, **hollow)),
        ("ours", "ours", dict(marker="D", markersize=7, color=VERMILION)),
    ):
        some = [r for r in drawn if r.who == who and r.id != "gpt2-2019"]
        if some:
            ax.plot([r.hours for r in some], [r.core for r in some], linestyle="none", label=label, **style)
    for r in drawn:
        if r.id == "gpt2-2019":
            ax.plot([r.hours], [r.core], marker="*", markersize=15, color=BLACK, linestyle="none")
            _note(ax, f"GPT-2 XL, 2019\n{r.hours:g} h\nCORE {r.core}", (r.hours, r.core), (0, 10), ha="center")
    times, cores, extra = [r.hours for r in drawn], [r.core for r in drawn], ""
    if ours is not None:
        times.append(ours.hours)
        extra = f"{ours.name}: {ours.hours:.3g} h, "
        if ours.core is None:
            extra += "CORE not measured"
            ax.axvline(ours.hours, color=VERMILION, linewidth=1.8, label=extra)
        else:
            extra += f"CORE {ours.core:.4f}"
            cores.append(ours.core)
            ax.plot([ours.hours], [ours.core], marker="D", markersize=9, color=VERMILION, linestyle="none", label=extra)
        extra = f" {extra}."
    left, right = min(times) / 1.5, max(times) * 3
    ax.set_xscale("log")
    ax.set_xlim(left, right)
    ticks = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 3)]
    ax.xaxis.set_major_locator(FixedLocator([t for t in ticks if left <= t <= right]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    pad = 0.1 * ((max(cores) - min(cores)) or 0.01)
    ax.set_ylim(min(cores) - pad, max(cores) + pad)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    name_axes(ax, "training time (hours, log scale)", "CORE (mean centred accuracy)")
    handles, names = ax.get_legend_handles_labels()
    fig.legend(handles, names, ncols=2, **LEGEND)
    official = [r for r in drawn if r.who == "published" and r.id != "gpt2-2019"]
    labels = [(r.id.rpartition("-")[2], r.hours, r.core) for r in official]
    _number(fig, ax, labels, list(zip(times, cores)))
    fig.alt = f"Training hours against CORE for {len(drawn)} entries, with the bar of GPT-2 XL at {GPT2_CORE}."
    if official:
        spans = [r.hours for r in official]
        fig.alt += f" The official record fell from {max(spans):g} to {min(spans):g} hours."
    fig.alt += extra
    if left_out := len(rows) - len(drawn):
        fig.alt += f" {left_out} without a measured CORE not drawn."
    return fig


def png(fig: Figure, dpi: int = 100) -> bytes:
    """The figure as a PNG; dpi at most 100 keeps a notebook small."""
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=min(dpi, 100), metadata={"Description": fig.alt})
    return out.getvalue()


def show(fig: Figure, dpi: int = 100) -> None:
    """Display the figure in a notebook as an <img> with its alt text; a plain log shows the alt text alone.

    HTML, since an image/png output loses its alt text in nbconvert's own template (7.17: "No description has been
    provided").
    """
    import base64

    from IPython.display import display

    picture = base64.b64encode(png(fig, dpi)).decode()
    image = f'<img alt="{html.escape(fig.alt)}" src="data:image/png;base64,{picture}">'
    display({"text/html": image, "text/plain": f"[figure: {fig.alt}]"}, raw=True)
