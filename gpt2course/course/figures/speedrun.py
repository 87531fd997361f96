"""Figures of lesson 14: a run's stages by the minute, records above their floors, ten changes; the page of what is yours."""

import html
import json
from pathlib import Path

from matplotlib.figure import Figure

from gpt2course.course import build
from gpt2course.course.figures.windows import losses
from gpt2course.files import UserError, home, in_clone, read_json
from gpt2course.runlog import read_metrics

from gpt2course.course.figures.style import (  # isort: skip
    BLACK,
    BLUE,
    DOTS,
    FONT,
    GREEN,
    GREY,
    HOLLOW,
    ORANGE,
    SKY,
    VERMILION,
    figure,
    legend,
    name_axes,
    name_rows,
    need,
    note,
)

__all__ = ["CHANGES", "certificate", "changes", "finished", "losses", "records", "three_hours"]
RESULTS = Path(build.ROOT) / "results"
# what was changed, unit of the size, whether it was kept, the published size (None: none), where it is published
CHANGES = (
    ("FlashAttention 3", "% tokens/s", True, 9.0, "LOG 2026-01-11"),
    ("documents hidden from each other", "bpb", False, -0.0002, "LOG 2026-01-13"),
    ("three tokens ahead", "% memory", False, 38.0, "LOG 2026-01-12: 34 to 47 GB, worse by the clock"),
    ("products in 8 bits", "% tokens/s", True, 17.0, "LOG 2026-02-02: 630K to 740K"),
    ("AdamW every other step", "% tokens/s", False, 2.0, "LOG 2026-02-03: each step slightly worse"),
    ("SwiGLU for ReLU²", "none given", False, None, "LOG 2026-02-05: worse by steps, FLOPs and clock"),
    ("eight experts, two at a time", "% MFU", False, -24.0, "LOG 2026-02-19: 46 to 35 %"),
    ("unfiltered web text", "CORE", False, -0.0361, "LOG 2026-02-17: .2602 to .2241"),
    ("a curated mixture of texts", "% time", True, -27.0, "LOG 2026-03-04: 2 h 46 to 2 h 01"),
    ("no MLP in the first block", "% time", True, -0.5, "modded-nanogpt, record 30: 2.731 to 2.717 min"),
)


def finished() -> tuple[str, list[dict], list[dict], str]:
    """(name, metrics, the package's metrics, samples) of your newest finished laptop run, else of the recorded one."""
    theirs = read_metrics(in_clone(RESULTS / "2026-11-29_laptop-curve"))
    folders = sorted(home().glob("runs/jan29-d4-mine-*/summary.json"), key=lambda path: path.stat().st_mtime)
    if not folders:
        return "recorded: the course's answers", read_metrics(RESULTS / "2026-11-29_laptop-mine"), theirs, ""
    run, found = folders[-1].parent, read_json(folders[-1], "summary").get("samples")
    return (
        run.name,
        read_metrics(run),
        theirs,
        found if isinstance(found, str) else json.dumps(found, ensure_ascii=False),
    )


def certificate(name: str, pieces: dict[str, bool], facts: list[str]) -> str:
    """A page in HTML: the pieces that are yours, those that are not, and facts. It takes the colours of the notebook."""
    need(pieces, "no piece")
    yours, others = ([html.escape(n) for n, own in pieces.items() if own is mine] for mine in (True, False))
    lines = [f"<b>{len(yours)} of {len(pieces)} pieces are yours</b>: {', '.join(yours) or 'none yet'}"]
    lines += [f"from the package: {', '.join(others)}"] * bool(others) + [html.escape(fact) for fact in facts]
    box = "border: 3px double currentColor; padding: 1.2em 2em; max-width: 42em; text-align: center"
    return f'<div style="{box}"><h3>{html.escape(name)}</h3>{"".join(f"<p>{line}</p>" for line in lines)}</div>'


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
    marks, parts = {}, []
    for name, some in floors.items():
        for kind, h in some:
            style = marks.setdefault(kind, ((VERMILION, "-"), (GREEN, "--"), (BLACK, ":"))[len(marks) % 3])
            row = names.index(name)
            ax.plot([h, h], [row - 0.42, row + 0.42], color=style[0], linestyle=style[1], linewidth=3)
            parts.append(f"{name} needs {h:.2f} h {kind}")
    for kind, (colour, style) in marks.items():
        ax.plot([], [], color=colour, linestyle=style, linewidth=3, label=kind)
    name_rows(ax, names)
    ax.set_xlim(0, max(hours.values()) * 1.15)
    name_axes(ax, "hours of training on 8 H100")
    legend(fig, ax) if marks else None
    fig.alt = f"Hours of the records: {', '.join(f'{n} {h:.2f}' for n, h in hours.items())}. {'; '.join(parts)}."
    return fig


def changes(forecast: list[tuple[float, float]], skill: float, luck: float) -> Figure:
    """Ten changes: the chance that a forecast [(p, size)] gave each, whether it was kept, and the two sizes."""
    if len(forecast) != len(CHANGES):
        raise UserError(f"{len(forecast)} forecasts for {len(CHANGES)} changes")
    fig, (ax,) = figure(5.2, grid="x")
    for row, ((p, size), (_, unit, kept, found, _)) in enumerate(zip(forecast, CHANGES)):
        ax.plot([p, float(kept)], [row, row], color=GREY, linewidth=1.2)
        ax.plot(p, row, "o", color=BLUE, markersize=8, label="forecast" if row == 0 else None, **DOTS)
        ax.plot(float(kept), row, color=VERMILION, markersize=11, linestyle="none",
                label="what happened" if row == 0 else None, **HOLLOW)  # fmt: skip
        text = "no size published" if found is None else f"{found:+g} {unit}, you {size:+g}"
        note(ax, text, (1.0, row), (14, 0), va="center", fontsize=FONT)
    name_rows(ax, [c[0] for c in CHANGES])
    ax.set_xlim(-0.06, 2.1)
    ax.set_xticks([0, 0.5, 1], ["0: rejected", "0.5", "1: kept"])
    name_axes(ax, "chance that it is kept")
    legend(fig, ax)
    kept = ", ".join(c[0] for c in CHANGES if c[2])
    fig.alt = f"Ten changes and a forecast: skill {skill:.2f} against a coin, as good by luck {luck:.0%}. Kept: {kept}."
    return fig
