"""Figures of lesson 13: probabilities by temperature, tokens per second, bpb by window, a cache by layer, sure tokens."""

import html

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gpt2course.course.figures.style import (  # isort: skip
    BLACK, BLUE, LINES, SKY, figure, legend, log_ticks, name_axes, need, note, round_numbers,
)  # fmt: skip


def temperatures(names: list[str], lines: dict[float, list[float]]) -> Figure:
    """Probabilities of the most likely tokens, a line for each temperature: temperature -> one number a name."""
    need(names and lines and all(len(p) == len(names) for p in lines.values()), "one probability a token is needed")
    fig, (ax,) = figure(3.3)
    parts = []
    for (t, p), (colour, style), mark in zip(lines.items(), LINES, "osv^DP"):
        ax.plot(range(len(names)), p, color=colour, linestyle=style, marker=mark, label=f"temperature {t:g}")
        parts.append(f"at temperature {t:g} the first has {p[0]:.2f} and all shown {sum(p):.2f}")
    names = [name.replace("$", r"\$").replace(" ", "·") for name in names]
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_ylim(bottom=0)
    name_axes(ax, "token, most likely first (· is a space)", "probability")
    legend(fig, ax)
    fig.alt = f"Probabilities of the {len(names)} most likely next tokens: {'; '.join(parts)}."
    return fig


def speed(lines: dict[str, list[tuple[int, float]]], x: str) -> Figure:
    """Tokens per second against a size, a line for each way: name -> [(size, tokens per second)]; both axes log."""
    need(lines and all(len(p) > 1 and min(map(min, p)) > 0 for p in lines.values()), "two sizes or more, above 0")
    fig, (ax,) = figure(3.0)
    parts = []
    for (name, points), (colour, style), mark in zip(lines.items(), LINES, "osv^DP"):
        ax.plot(*zip(*points), color=colour, linestyle=style, marker=mark, linewidth=2, label=name)
        (first, a), (last, b) = points[0], points[-1]
        parts.append(f"{name}: at {last:,} {b / a:.2g} times the speed at {first:,}")
    ax.set(xscale="log", yscale="log")
    log_ticks(ax.xaxis, sorted({n for p in lines.values() for n, _ in p}))
    log_ticks(ax.yaxis, round_numbers(*ax.get_ylim(), digits=(1, 3)))
    name_axes(ax, f"{x} (log scale)", "tokens a second\n(log scale)")
    legend(fig, ax)
    fig.alt = f"Tokens a second against {x}. {'; '.join(parts)}."
    return fig


def windows(found: dict[int, list[float]], trained: int) -> Figure:
    """Bits per byte against the window of the short layers, a line for each seed: window -> bpb of each seed."""
    need(len(found) > 1 and len({len(b) for b in found.values()}) == 1, "two windows or more, the same seeds in each")
    fig, (ax,) = figure(2.9)
    widths, parts = sorted(found), []
    for i, (colour, style) in zip(range(len(found[trained])), LINES):
        bpb = [found[W][i] for W in widths]
        ax.plot(widths, bpb, color=colour, linestyle=style, marker="o", label=f"seed {i + 1}")
        least = f"least {min(bpb):.3f} at {widths[bpb.index(min(bpb))]}"
        parts.append(f"seed {i + 1}: {bpb[0]:.3f} at {widths[0]}, {least}, {bpb[-1]:.3f} at {widths[-1]}")
    ax.axvline(trained, color=BLACK, linewidth=1.2, linestyle="--")
    note(ax, "as trained", (trained, 1), (4, -4), xycoords=("data", "axes fraction"), va="top")
    ax.set_xscale("log")
    log_ticks(ax.xaxis, widths)
    name_axes(ax, "window of the short layers in use (tokens, log scale)", "validation\n(bits per byte)")
    legend(fig, ax)
    fig.alt = f"Bits per byte against the window in use, trained with {trained}. {'; '.join(parts)}."
    return fig


def memory(kept: list[float], full: float) -> Figure:
    """Megabytes of the cache by layer, cut to the windows, and what each would hold uncut."""
    need(kept and full > 0, "a layer is needed")
    fig, (ax,) = figure(2.6)
    whole, edge = sum(x >= full for x in kept), dict(edgecolor="#999999", linewidth=0.6)
    ax.bar(range(len(kept)), [full] * len(kept), color="#EEEEEE", **edge)
    ax.bar(range(len(kept)), kept, color=[BLUE if x >= full else SKY for x in kept])
    name_axes(ax, "layer", "megabytes")
    marks = {f"{whole} long": BLUE, f"{len(kept) - whole} short, cut": SKY, "dropped": "#EEEEEE"}
    legend(fig, ax, handles=[Patch(facecolor=c, label=name, **edge) for name, c in marks.items()])
    fig.alt = f"The cache of {len(kept)} layers: {sum(kept):.0f} MB cut to the windows, {full * len(kept):.0f} MB uncut."
    fig.alt += f" {whole} layers are long with {full:.1f} MB each; a short one has {min(kept):.1f} MB."
    return fig


# from which probability on, background, underline; the text on it is always black, so dark pages show it too
LEVELS = ((0.5, "#BFE3F7", "none"), (0.1, "#FFFFFF", "none"), (0.01, "#FBDFA6", "2px solid"), (0, "#F7C9A9", "3px double"))
LEGEND = ("50 % or more", "10 % or more", "1 % or more", "below")


def sure(pieces: list[str], chances: list[float]) -> tuple[str, str]:
    """(HTML, plain text) of a text whose tokens are coloured by their probability; both say how many are in each class."""
    need(pieces and len(pieces) == len(chances) and 0 <= min(chances) <= max(chances) <= 1, "one probability a token")
    shown = [piece.replace("\n", "⏎") for piece in pieces]
    levels = [next(i for i, (least, *_) in enumerate(LEVELS) if p >= least) for p in chances]

    def box(text, level, title=""):
        css = "background-color:{};color:#000000;border-bottom:{} #000000;padding:1px 0".format(*LEVELS[level][1:])
        return f'<span style="{css}"{title}>{html.escape(text)}</span>'

    text = "<wbr>".join(box(s, i, f' title="{p:.1%}"') for s, i, p in zip(shown, levels, chances))
    said = ", ".join(f"{levels.count(i)} of {len(pieces)} tokens {name}" for i, name in enumerate(LEGEND))
    key = " · ".join(box(name, i) for i, name in enumerate(LEGEND))
    text = f'<div style="line-height:2;white-space:pre-wrap;font-size:14px">{text}</div>'
    words = "; ".join(f"{s.strip() or '·'} {p:.0%}" for s, p in zip(shown, chances))
    return f"{text}<p>Probability of each token: {key}<br>{said}.</p>", f"[{said}: {words}]"


def show_sure(pieces: list[str], chances: list[float]) -> None:
    """Display `sure` in a notebook; a plain log shows the words with their probabilities."""
    from IPython.display import display

    display(dict(zip(("text/html", "text/plain"), sure(pieces, chances))), raw=True)
