"""Figures of lesson 14: a run's stages by the minute, records above their floors, ten changes; the page of what is yours."""

import html

from matplotlib.figure import Figure

from gpt2course.course import build
from gpt2course.course.checks.speedrun import CHANGES
from gpt2course.course.figures.windows import losses
from gpt2course.files import UserError, home, in_clone, read_json
from gpt2course.runlog import read_metrics

from gpt2course.course.figures.style import (  # isort: skip
    BLUE, DOTS, FONT, GREY, HOLLOW, LINES, ORANGE, SKY, VERMILION, figure, legend, name_axes, name_rows, need, note,
)  # fmt: skip

__all__ = ["CHANGES", "losses"]
RESULTS = build.ROOT / "results"


def finished() -> tuple[str, list[dict], list[dict], str]:
    """(name, metrics, the package's metrics, samples) of your newest finished laptop run, else of the recorded one."""
    theirs = read_metrics(in_clone(RESULTS / "2026-11-29_laptop-curve"))
    folders = sorted(home().glob("runs/jan29-d4-mine-*/summary.json"), key=lambda path: path.stat().st_mtime)
    if not folders:
        return "recorded: the course's answers", read_metrics(RESULTS / "2026-11-29_laptop-mine"), theirs, ""
    run, found = folders[-1].parent, read_json(folders[-1], "summary").get("samples") or {}
    return run.name, read_metrics(run), theirs, "\n".join(prompt + texts[0] for prompt, texts in found.items())


def certificate(name: str, pieces: dict[str, bool], facts: list[str]) -> str:
    """A page in HTML: the pieces that are yours, those that are not, and facts. Its colours are the notebook's."""
    need(pieces, "no piece")
    yours, others = ([html.escape(n) for n, own in pieces.items() if own is mine] for mine in (True, False))
    lines = [f"<b>{len(yours)} of {len(pieces)} pieces are yours</b>: {', '.join(yours) or 'none yet'}"]
    lines += [f"from the package: {', '.join(others)}"] * bool(others) + [html.escape(fact) for fact in facts]
    inner = f"<h3>{html.escape(name)}</h3>{''.join(f'<p>{line}</p>' for line in lines)}"
    return f'<div style="max-width: 42em; text-align: center"><hr>{inner}<hr></div>'


def three_hours(stages: dict[str, float], events: dict[str, float]) -> Figure:
    """Stages of a run one after the other, name -> minutes, a row each, and events, name -> minute of the last stage but one."""
    need(len(stages) > 1 and all(m > 0 for m in stages.values()), "two stages with a time or more are needed")
    fig, (ax,) = figure(1.1 + 0.36 * len(stages), grid="x")
    at, starts = 0.0, {}
    for row, (name, minutes) in enumerate(stages.items()):
        ax.barh(row, minutes, left=at, height=0.62, color=BLUE if minutes == max(stages.values()) else SKY)
        starts[name], at = at, at + minutes
        note(ax, f"{minutes:g} min", (at, row), (6, 0), va="center")
    longest = max(stages, key=stages.get)
    row, names = list(stages).index(longest), []
    for (name, minute), mark in zip(events.items(), "vso^DP"):
        ax.plot(starts[longest] + minute, row, mark, color=ORANGE, markersize=8, linestyle="none", label=name, **DOTS)
        names.append(f"{name} at {minute:.0f}")
    name_rows(ax, list(stages))
    ax.set_xlim(0, at * 1.2)
    name_axes(ax, "minutes since the machine was rented")
    legend(fig, ax, ncols=2) if events else None
    spans = ", ".join(f"{n} {m:g}" for n, m in stages.items())
    fig.alt = f"Stages of a run in minutes, one after the other: {spans}. Within {longest}: {', '.join(names)}."
    return fig


def records(hours: dict[str, float], floors: dict[str, list[tuple[str, float]]]) -> Figure:
    """Hours of records as bars, and for some of them floors: name -> [(kind, hours)]."""
    need(hours, "no record")
    fig, (ax,) = figure(1.2 + 0.36 * len(hours), grid="x")
    names = list(hours)
    ax.barh(range(len(names)), list(hours.values()), color=SKY, height=0.66)
    for row, h in enumerate(hours.values()):
        note(ax, f"{h:.2f} h", (h, row), (6, 0), va="center")
    kinds, parts = dict.fromkeys(kind for some in floors.values() for kind, _ in some), []
    for kind, (colour, style) in zip(kinds, LINES[1:]):
        at = [(names.index(name), h) for name, some in floors.items() for k, h in some if k == kind]
        rows, there = zip(*at)
        ax.vlines(there, [r - 0.42 for r in rows], [r + 0.42 for r in rows], colour, style, linewidth=3, label=kind)
        parts += [f"{names[row]} needs {h:.2f} h {kind}" for row, h in at]
    name_rows(ax, names)
    ax.set_xlim(0, max(hours.values()) * 1.15)
    name_axes(ax, "hours of training on 8 H100")
    legend(fig, ax) if kinds else None
    fig.alt = f"Hours of the records: {', '.join(f'{n} {h:.2f}' for n, h in hours.items())}. {'; '.join(parts)}."
    return fig


def changes(forecast: list[tuple[float, float]], skill: float, luck: float) -> Figure:
    """Ten changes: the chance that a forecast [(p, size)] gave each, whether it was kept, and the two sizes."""
    if len(forecast) != len(CHANGES):
        raise UserError(f"{len(forecast)} forecasts for {len(CHANGES)} changes")
    fig, (ax,) = figure(5.2, grid="x")
    rows, p, kept = range(len(CHANGES)), [p for p, _ in forecast], [float(c[2]) for c in CHANGES]
    ax.hlines(rows, p, kept, color=GREY, linewidth=1.2)
    ax.plot(p, rows, "o", color=BLUE, markersize=8, label="forecast", **DOTS)
    ax.plot(kept, rows, color=VERMILION, markersize=11, linestyle="none", label="what happened", **HOLLOW)
    for row, (_, size), (_, unit, _, found, _) in zip(rows, forecast, CHANGES):
        text = "no size published" if found is None else f"{found:+g} {unit}, you {size:+g}"
        note(ax, text, (1.0, row), (14, 0), va="center")
    sizes = [(size, c[3]) for (_, size), c in zip(forecast, CHANGES) if c[3]]
    signs, near = sum(a * b > 0 for a, b in sizes), sum(0.5 <= a / b <= 2 for a, b in sizes)
    score = f"skill {skill:.2f} against a coin; as good by luck {luck:.0%}\nof {len(sizes)} sizes "
    score += f"{signs} with the right sign, {near} within a factor of 2"
    fig.suptitle(score, fontsize=FONT)
    name_rows(ax, [c[0] for c in CHANGES])
    ax.set_xlim(-0.06, 2.1)
    ax.set_xticks([0, 0.5, 1], ["0: rejected", "0.5", "1: kept"])
    name_axes(ax, "chance that it is kept")
    legend(fig, ax, loc="outside lower center")
    kept = ", ".join(c[0] for c in CHANGES if c[2])
    fig.alt = f"Ten changes and a forecast: {score}. Kept: {kept}.".replace("\n", "; ")
    return fig
