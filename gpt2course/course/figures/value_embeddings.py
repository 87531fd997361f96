"""Figures of lesson 08: where parameters and FLOPs are, the gate by token, and three arms at equal FLOPs."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, DOTS, FONT, GREEN, GREY, LINES, ORANGE, SKY, amount, figure, legend, name_axes, name_rows, need, note,
)  # fmt: skip

PARTS = {"tables": ORANGE, "matrices": BLUE, "embedding": SKY, "head": GREEN}


def budget(models: dict[str, dict[str, int]], flops: dict[str, float]) -> Figure:
    """Parameters of each model by part, and its FLOPs a token: name -> part -> numbers, name -> FLOPs."""
    need(models and models.keys() == flops.keys(), "the parts and the FLOPs of at least one model are needed")
    need(all(set(parts) <= set(PARTS) for parts in models.values()), f"the parts are {', '.join(PARTS)}")
    fig, (left, right) = figure(1.3 + 0.5 * len(models), columns=2, grid="x")
    names, said = list(models), []
    for row, (name, parts) in enumerate(models.items()):
        start = 0
        for part in [p for p in PARTS if p != "tables"] + ["tables"]:
            left.barh(
                row, parts.get(part, 0), left=start, color=PARTS[part], height=0.6, label=part if not row else None
            )
            start += parts.get(part, 0)
        right.barh(row, flops[name], color=GREY, height=0.6)
        tables = parts.get("tables", 0)
        said.append(
            f"{name} {amount(start)} parameters, {tables / start:.0%} in tables, {amount(flops[name])} FLOPs a token"
        )
    for ax in (left, right):
        name_rows(ax, names)
        ax.xaxis.set_major_formatter(FuncFormatter(amount))
        ax.locator_params(axis="x", nbins=4)
    right.set_yticklabels([])
    name_axes(left, "parameters")
    name_axes(right, "FLOPs a token")
    legend(fig, left, ncols=4)
    fig.alt = f"Where parameters and FLOPs are: {'; '.join(said)}."
    return fig


def gates(found: dict[str, tuple[float, float, float]], neutral: float = 1.0) -> Figure:
    """Tokens and how far they open a gate, a row each: token -> (mean, least, greatest) over its places."""
    need(
        found and all(low <= mean <= high for mean, low, high in found.values()),
        "no token, or a mean outside its range",
    )
    fig, (ax,) = figure(0.9 + 0.26 * len(found), grid="x")
    for row, (mean, low, high) in enumerate(found.values()):
        ax.plot([low, high], [row, row], color=SKY, linewidth=3)
        ax.plot(mean, row, "o", color=BLUE, markersize=6, **DOTS)
    ax.axvline(neutral, color=BLACK, linewidth=1.2, linestyle="--")
    name_rows(ax, list(found))
    name_axes(ax, f"gate; dot: mean over a token's places, bar: least to greatest; dashes: {neutral:g}")
    first, last = list(found)[0], list(found)[-1]
    fig.alt = f"The gate of {len(found)} tokens, from {first} {found[first][0]:.2f} to {last} {found[last][0]:.2f}."
    return fig


def arms(points: dict[str, dict[float, list[float]]]) -> Figure:
    """Bits per byte against FLOPs of the whole run, a line for each arm: name -> {FLOPs: bits per byte of its seeds}."""
    need(points and len(points) <= len(LINES) and all(points.values()), "an arm needs at least one run")
    fig, (ax,) = figure(3.3)
    said = []
    for (name, cells), (colour, style), mark in zip(points.items(), LINES, "osv^DP"):
        means = {flops: sum(bpb) / len(bpb) for flops, bpb in sorted(cells.items())}
        ax.plot(list(means), list(means.values()), color=colour, linestyle=style, linewidth=2, label=name)
        for flops, bpb in sorted(cells.items()):
            ax.plot([flops] * len(bpb), bpb, mark, color=colour, markersize=6, **DOTS)
            said.append(f"{name} {means[flops]:.3f} at {amount(flops)} FLOPs ({len(bpb)} seed{'s' * (len(bpb) > 1)})")
    ax.xaxis.set_major_formatter(FuncFormatter(amount))
    ax.margins(x=0.12)
    name_axes(ax, "FLOPs of the whole run", "validation\nbits per byte")
    legend(fig, ax)
    fig.alt = f"Bits per byte against FLOPs: {'; '.join(said)}."
    return fig


def pairs(found: dict[str, tuple[list[float], float]]) -> Figure:
    """Differences in bits per byte, seed by seed: what is compared -> (differences, half the interval of their mean)."""
    need(found and all(d for d, _ in found.values()), "no difference")
    fig, (ax,) = figure(0.9 + 0.4 * len(found), grid="x")
    said = []
    for row, (name, (apart, half)) in enumerate(found.items()):
        mean, many = sum(apart) / len(apart), len(apart) > 1
        if many:
            ax.plot([mean - half, mean + half], [row, row], color=BLUE, linewidth=2.5, solid_capstyle="butt")
            ax.plot([mean] * 2, [row - 0.25, row + 0.25], color=BLUE, linewidth=2.5)
        ax.plot(apart, [row] * len(apart), "o", color=ORANGE, markersize=6, **DOTS)
        interval = f"{mean - half:+.4f} to {mean + half:+.4f}, " if many else ""
        said.append(f"{name} {mean:+.4f} ({interval}{len(apart)} seed{'s' * many})")
    ax.axvline(0, color=BLACK, linewidth=1.2, linestyle="--")
    name_rows(ax, list(found))
    reach = [0, *(x for apart, half in found.values() for x in apart)]
    gap = max(reach) - min(reach) or 1  # an interval of two seeds may run out of the picture
    ax.set_xlim(min(reach) - 0.3 * gap, max(reach) + 0.3 * gap)
    ax.locator_params(axis="x", nbins=6)
    name_axes(ax, "difference in bits per byte, seed by seed (dots);\nbar: mean and its 95 % interval, may be cut off")
    note(ax, "better", (0, -0.6), (-6, 0), ha="right", va="top", color=GREY, fontsize=FONT)
    fig.alt = f"Paired differences in bits per byte, below 0 is better: {'; '.join(said)}."
    return fig
