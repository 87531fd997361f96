"""Figures of lesson 03: block diagram, attention maps, RoPE's angles and scores, parameter budget, sweep of rates."""

import math

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gpt2course import model as gpt_model

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, DOTS, FONT, GREEN, GREY, ORANGE, PURPLE, SKY, TINTS, VERMILION, WIDTH,
    amount, canvas, figure, legend, name_axes, name_rows, need, note,
)

BLUES = LinearSegmentedColormap.from_list("course", ["#FFFFFF", "#8CC4EA", BLUE, "#003A5C"])
MIDDLE = dict(ha="center", va="center", fontsize=FONT)


def _draw_part(ax, low: float, steps: list[str], on_stream: bool, is_new) -> None:
    """The boxes of one part of `block_diagram`, on the residual stream or beside it, with the arrows that join them."""
    x, width = (0.2, 8.8) if on_stream else (3.0, 6.0)
    for k, text in enumerate(steps):
        tint = TINTS[1] if is_new(text) else "#EEEEEE" if on_stream else TINTS[0]
        ax.add_patch(Rectangle((x, low + k + 0.08), width, 0.84, facecolor=tint, linewidth=0, zorder=3))
        ax.text(x + width / 2, low + k + 0.5, text, zorder=4, **MIDDLE)
    if not on_stream:
        high = low + len(steps) - 0.5
        arrow = dict(arrowstyle="-|>", mutation_scale=10, linewidth=1.3, color=BLACK, shrinkA=0, shrinkB=0)
        ax.add_patch(FancyArrowPatch((1, low + 0.5), (x, low + 0.5), **arrow))
        ax.add_patch(FancyArrowPatch((x, high), (1.32, high), **arrow))
        ax.add_patch(Circle((1, high), 0.32, facecolor="white", edgecolor=BLACK, linewidth=1.3, zorder=5))
        ax.text(1, high, "+", zorder=6, **MIDDLE)


def block_diagram(models: dict[str, dict[str, list[str]]]) -> Figure:
    """Models side by side, read from the bottom up: boxes read from the residual stream, a line, and add to it.

    models: name -> {"start", "attention", "mlp", "end"} -> the steps from first to last. Steps that the first model
    lacks are tinted.
    """
    names = ("start", "attention", "mlp", "end")
    need(models and all(set(m) == set(names) for m in models.values()), f"every model needs {', '.join(names)}")
    sizes = {part: max(len(m[part]) for m in models.values()) for part in names}
    bottom, top = {}, 1.0
    for part, n in sizes.items():
        bottom[part] = top
        top += n + 0.75
    top += 0.5
    fig = Figure(figsize=(WIDTH, 0.31 * top + 0.5), facecolor="white")
    first = {s for steps in next(iter(models.values())).values() for s in steps}
    for i, (name, model) in enumerate(models.items()):
        ax = fig.add_axes(((i + 0.02) / len(models), 0.01, 0.96 / len(models), 0.98))
        ax.set_axis_off()
        ax.set(xlim=(0, 10), ylim=(-0.1, top + 0.9))
        ax.text(5, top + 0.4, name, weight="bold", **MIDDLE)
        ax.text(1, 0.3, "tokens", color=GREY, **MIDDLE)
        ax.text(1, top - 0.25, "logits", color=GREY, **MIDDLE)
        stream = dict(arrowstyle="-|>", mutation_scale=12, linewidth=2.5, color=BLACK, shrinkA=0, shrinkB=0)
        ax.add_patch(FancyArrowPatch((1, 0.7), (1, top - 0.6), **stream))
        for part, steps in model.items():
            _draw_part(ax, bottom[part], steps, part in ("start", "end"), lambda text, i=i: i and text not in first)
        low, high = bottom["attention"] - 0.3, bottom["mlp"] + sizes["mlp"] + 0.3
        frame = dict(facecolor="none", edgecolor=GREY, linewidth=1, linestyle=(0, (4, 3)))
        ax.add_patch(Rectangle((0.15, low), 9.2, high - low, **frame))
        ax.text(9.5, (low + high) / 2, "one layer, repeated", rotation=90, color=GREY, **MIDDLE | {"ha": "left"})
    fig.alt = "Block diagram from the bottom up: " + " ".join(
        f"{name}: {', '.join(m['start'])}; each layer adds {', '.join(m['attention'])}, "
        f"then {', '.join(m['mlp'])}; then {', '.join(m['end'])}."
        for name, m in models.items()
    )
    every = [s.strip() for m in models.values() for part in names for s in m[part] if s not in first]
    fig.alt += f" New against the first: {', '.join(dict.fromkeys(every))}." if every else ""
    return fig


def attention_maps(maps: dict[str, list[list[float]]], tokens: list[str]) -> Figure:
    """Attention weights, one square for each head: a row for each query, a column for each key, dark where large."""
    T = len(tokens)
    need(maps and T, "no map, or no tokens")
    square = all(len(m) == T and all(len(row) == T for row in m) for m in maps.values())
    need(square, f"every map must be {T} x {T}, since there are {T} tokens")
    columns, few = min(len(maps), 2), T <= 5
    rows, side = -(-len(maps) // columns), WIDTH / 2 - 0.05
    labels = [t.replace("\n", "\u23ce").replace(" ", "\u00b7") for t in tokens]  # a line end and a space, visible
    size = (WIDTH if columns > 1 else side + 0.9, rows * (side - 0.1))
    fig = Figure(figsize=size, layout="constrained", facecolor="white")
    for i, (name, m) in enumerate(maps.items()):
        ax = fig.add_subplot(rows, columns, i + 1)
        picture = ax.imshow(m, cmap=BLUES, vmin=0, vmax=1)
        ax.set_title(name, fontsize=FONT)
        ax.set_yticks(range(T), labels if i % columns == 0 else [""] * T, fontsize=FONT)
        turn = 0 if few and max(map(len, tokens)) < 5 else 90
        ax.set_xticks(range(T), labels if i // columns == rows - 1 else [""] * T, rotation=turn, fontsize=FONT)
        ax.tick_params(length=0)
        ax.spines[:].set_color("#BBBBBB")
        for q, k in [(a, b) for a in range(T) for b in range(a + 1)] if few else ():
            ax.text(k, q, f"{m[q][k]:.2f}", color="white" if m[q][k] > 0.5 else BLACK, **MIDDLE)
    if columns == 1:
        name_axes(ax, "key (looked at)", "query (looks)")
    else:
        fig.supxlabel("key (looked at)", fontsize=FONT)
        fig.supylabel("query (looks)", fontsize=FONT)
        bar = fig.colorbar(picture, ax=fig.axes, shrink=0.5, aspect=30, pad=0.01)
        bar.set_label("weight", fontsize=FONT)
        bar.ax.tick_params(labelsize=FONT)
    reach = {name: sum(m[q][k] * (q - k) for q in range(T) for k in range(q + 1)) / T for name, m in maps.items()}
    above = max((m[q][k] for m in maps.values() for q in range(T) for k in range(q + 1, T)), default=0.0)
    fig.alt = (
        f"Attention weights of {len(maps)} head(s) over {T} tokens, queries downwards, keys to the right; "
        f"the largest weight above the diagonal is {above:.2g}. "
        f"Mean distance looked back: {', '.join(f'{name} {d:.1f}' for name, d in reach.items())}."
    )
    return fig


def rope_clocks(angles: list[list[float]]) -> Figure:
    """RoPE's angles as the hands of clocks: a row for each pair of channels, a column for each position.

    angles: for each pair, its angle (radians) at positions 0, 1, 2, ...
    """
    same = angles and len(angles[0]) > 1 and len({len(a) for a in angles}) == 1
    need(same, "every pair needs an angle for each position")
    n, T = len(angles), len(angles[0])
    fig, ax = canvas(WIDTH * 0.86 / T * n + 0.62, (-1.75, T - 0.5), (n - 0.45, -1.05), margin=0.005)
    ax.set_aspect("equal")
    ax.text((T - 1) / 2, -0.88, "position", **MIDDLE)
    for t in range(T):
        ax.text(t, -0.6, str(t), **MIDDLE)
    for i, row in enumerate(angles):
        speed = f"pair {i}\n{row[1]:.3g} rad\na position"
        ax.text(-0.55, i, speed, linespacing=1.05, **MIDDLE | {"ha": "right"})
        for t, angle in enumerate(row):
            ax.add_patch(Circle((t, i), 0.42, facecolor="#F4F4F4", edgecolor="#BBBBBB", linewidth=1))
            tip = (t + 0.4 * math.cos(angle), i + 0.4 * math.sin(angle))
            ax.plot([t, tip[0]], [i, tip[1]], color=BLUE, linewidth=2.2, solid_capstyle="round")
            ax.plot([t], [i], "o", color=BLUE, markersize=4)
    speeds = ", ".join(f"{row[1]:.3g}" for row in angles)
    fig.alt = f"Clock hands for {n} pairs of channels at positions 0 to {T - 1}: "
    fig.alt += f"they turn by {speeds} radians a position."
    return fig


def score_by_distance(lines: dict[str, list[float]], note: str = "") -> Figure:
    """The score of one query and one key against their distance, a line for each position of the key."""
    need(lines and all(lines.values()), "no scores")
    fig, (ax,) = figure(2.8)
    widths = [7.0, 3.6, 1.4, *[1.0] * len(lines)]  # the first one broad, so that lines on top of each other all show
    for i, ((name, scores), width) in enumerate(zip(lines.items(), widths)):
        colour = (SKY, ORANGE, BLACK, VERMILION, PURPLE)[i % 5]
        ax.plot(range(len(scores)), scores, color=colour, linewidth=width, label=name)
    name_axes(ax, "distance (query position - key position)", "score q · k")
    legend(fig, ax, 4)
    pairs = list(zip(*lines.values()))
    apart = max(max(p) - min(p) for p in pairs)
    low, high = min(map(min, pairs)), max(map(max, pairs))
    fig.alt = (
        f"Score of one query and one key against their distance, 0 to {len(pairs) - 1}, for {', '.join(lines)}: "
        f"between {low:.2f} and {high:.2f}; the lines differ by at most {apart:.2g}.{' ' + note if note else ''}"
    )
    return fig


def parameter_budget(models: dict[str, dict[str, float]], unit: str = "parameters") -> Figure:
    """One bar a model, cut into the shares of its parts, with the total behind it. All models have the same parts."""
    parts = list(dict.fromkeys(p for m in models.values() for p in m))
    need(parts and all(sum(m.values()) > 0 for m in models.values()), "no model has any part")
    fig, (ax,) = figure(1.15 + 0.5 * len(models))
    ax.grid(False)
    for row, model in enumerate(models.values()):
        total, left = sum(model.values()), 0.0
        for part, tint in zip(parts, ("#D5D5D5", *TINTS)):
            share = model.get(part, 0) / total
            label = part if row == 0 else None
            ax.barh([row], [share], left=[left], color=tint, edgecolor="white", linewidth=1, height=0.7, label=label)
            if share > 0.045:
                ax.text(left + share / 2, row, f"{share:.0%}", **MIDDLE)
            left += share
        ax.text(1.01, row, amount(total), color=BLUE, **MIDDLE | {"ha": "left"})
    name_rows(ax, models, below=0.5)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlim(0, 1.1)
    ax.xaxis.set_major_locator(NullLocator())
    name_axes(ax, f"share of the {unit}, all of them in blue")
    legend(fig, ax, 5, handlelength=1.2, handletextpad=0.4, columnspacing=1.2)
    each = [
        f"{name}, {amount(sum(m.values()))} in all: " + ", ".join(f"{p} {m[p] / sum(m.values()):.0%}" for p in m)
        for name, m in models.items()
    ]
    fig.alt = f"Share of the {unit} by part. {'; '.join(each)}."
    return fig


def rate_sweep(
    runs: dict[str, list[tuple[float, float]]], what: str = "learning rate of the matrices (setting, log scale)"
) -> Figure:
    """Bits per byte against a learning rate, a line for each recipe, with its best rate marked."""
    need(runs and all(runs.values()), "a recipe has no run")
    fig, (ax,) = figure(3.0)
    parts = []
    for i, (name, points) in enumerate(runs.items()):
        points, colour = sorted(points), (VERMILION, BLUE, GREEN, PURPLE)[i % 4]
        best, worst = min(points, key=lambda p: p[1]), max(b for _, b in points)
        ax.plot(*zip(*points), color=colour, marker="os^v"[i % 4], markersize=6, linewidth=1.8, label=name)
        ax.plot(*best, "o", markersize=13, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.6)
        parts.append(f"{name}: best {best[1]:.3f} at {best[0]:g}, worst {worst:.3f}, {len(points)} rates")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    name_axes(ax, what, "validation bits per byte")
    legend(fig, ax, 4)
    fig.alt = f"Validation bits per byte against the learning rate. {'; '.join(parts)}."
    return fig


def losses(runs: dict[str, list[float]]) -> Figure:
    """Training loss against step, a line for each run; the first is broad, so that lines on top of each other show."""
    need(runs and all(runs.values()), "a run has no step")
    fig, (ax,) = figure(2.6)
    for i, (name, loss) in enumerate(runs.items()):
        colour, width = (SKY, VERMILION, BLACK)[i % 3], (5.0, 1.4, 1.0)[i % 3]
        ax.plot(range(1, len(loss) + 1), loss, color=colour, linewidth=width, label=name)
    name_axes(ax, "step", "loss (nats per token)")
    legend(fig, ax, 3)
    ends = ", ".join(f"{name} from {loss[0]:.2f} to {loss[-1]:.2f}" for name, loss in runs.items())
    apart = max(max(x) - min(x) for x in zip(*runs.values()))
    fig.alt = f"Training loss against step: {ends}; the lines differ by at most {apart:.2g}."
    return fig


OLD = dict(
    start=["wte + wpe"],
    attention=["LayerNorm", "q, k, v", "softmax(q·k / √D) v", "c_proj"],
    mlp=["LayerNorm", "c_fc, to 4C", "GELU", "c_proj"],
    end=["LayerNorm", "head = wte"],
)
NEW = dict(
    start=["wte", "RMSNorm of the embedding"],
    attention=["RMSNorm", "q, k, v", "RoPE on q and k", "QK-norm", "softmax(q·k / √D) v", "c_proj, starts at 0"],
    mlp=["RMSNorm", "c_fc, to 4C", "ReLU²", "c_proj, starts at 0"],
    end=["RMSNorm", "lm_head, its own table", "softcap"],
)


def two_models() -> Figure:
    """The model of 2019 and the modern one side by side."""
    return block_diagram({"2019": OLD, "modern": NEW})


@torch.no_grad()
def maps_of(model, idx: torch.Tensor, weights) -> dict[str, list[list[float]]]:
    """"layer 0, head 0" -> the weights (T, T) of a head on one row idx (1, T); weights(q, k) gives (1, H, T, T)."""
    found, package = [], gpt_model.attention

    def seen(q, k, v, window):
        found.append(weights(q.transpose(1, 2), k.transpose(1, 2))[0])
        return package(q, k, v, window)

    gpt_model.attention = seen
    try:
        model(idx)
    finally:
        gpt_model.attention = package
    return {f"layer {i}, head {h}": m.tolist() for i, heads in enumerate(found) for h, m in enumerate(heads)}


NAMES = {
    "training": "modern schedule, betas", "rope": "RoPE", "norms": "RMSNorm, no biases", "qk_norm": "QK-norm",
    "relu2": "ReLU²", "untied": "head of its own", "zero": "outputs start at 0", "width": "inputs by 1/√C",
    "softcap": "softcap", "embed_norm": "embedding's norm",
}  # fmt: skip


def best_arms(rows: list[dict]) -> dict[str, list[float]]:
    """The chain of results/2026-11-29_toy-2019: each arm's bits per byte of all seeds at its best rate, without decay."""
    arms = {}
    for r in rows:
        if r["decay"] == 0:
            arms.setdefault(r["arm"], {}).setdefault(r["rate"], []).append((r["seed"], r["val_bpb"]))
    best = {arm: min(found.values(), key=lambda x: (-len(x), sum(b for _, b in x))) for arm, found in arms.items()}
    bpb = {arm: [b for _, b in sorted(x)] for arm, x in best.items()}
    chain = {"2019": bpb["2019"]}
    chain |= {f"+ {text}": bpb[f"+ {name}" if name != "embed_norm" else "modern"] for name, text in NAMES.items()}
    return chain | {"modern, its own rates": bpb["own rates"]}


def changes(runs: dict[str, list[float]]) -> Figure:
    """Bits per byte of models that follow from each other, the first on top: a dot for each seed, a bar for the mean."""
    need(runs and all(runs.values()), "a model has no run")
    fig, (ax,) = figure(0.9 + 0.3 * len(runs), grid="x")
    parts = []
    for row, (name, values) in enumerate(runs.items()):
        mean = sum(values) / len(values)
        ax.plot([mean] * 2, [row - 0.32, row + 0.32], color=BLUE, linewidth=2.5)
        ax.plot(values, [row] * len(values), "o", color=ORANGE, markersize=5.5, **DOTS)
        note(ax, f"{mean:.3f}", (max(values), row), (9, 0), va="center", color=BLUE)
        parts.append(f"{name} {mean:.3f}")
    name_rows(ax, runs)
    low, high = min(map(min, runs.values())), max(map(max, runs.values()))
    gap = high - low or 1
    ax.set_xlim(low - 0.08 * gap, high + 0.2 * gap)
    name_axes(ax, "validation bits per byte (lower is better); dots: seeds, bar: mean")
    fig.alt = f"Validation bits per byte after each change, at its own best rate: {', '.join(parts)}."
    return fig
