"""How large and how long at a budget of FLOPs: parabolas, power laws with intervals, a forecast. Lesson 09.

    python -m gpt2course.scaling results/2026-11-23_isoflop-laptop/runs.jsonl
    python -m gpt2course.scaling published

Approaches 2 and 3 of Hoffmann et al. (arXiv 2203.15556), with bits per byte in place of the loss. N are scaling
parameters (matrices and head), D training tokens, C FLOPs. A run is a dict with "n", "tokens", "flops", "val_bpb" and
"budget", as campaign.py writes them.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from gpt2course.files import UserError, command, write_json

DRAWS, SEED = 1000, 0  # of the bootstrap
SIZES = 4  # different models that a parabola needs at least
# karpathy/nanochat, discussion #420 (January 2026): the minimum of each IsoFLOP curve, N and D in its own count
PUBLISHED = (
    {"budget": 1e18, "n": 137e6, "tokens": 1.12e9, "val_bpb": 0.978},
    {"budget": 3e18, "n": 240e6, "tokens": 1.88e9, "val_bpb": 0.920},
    {"budget": 6e18, "n": 330e6, "tokens": 2.71e9, "val_bpb": 0.887},
)
HOFFMANN = {"alpha": 0.49, "beta": 0.51}  # N* ~ C^0.49, D* ~ C^0.51, approach 2 (arXiv 2203.15556, table 2)


# ---- one budget: a parabola


def parabola(n, bpb) -> tuple[float, float, float]:
    """(curvature, log N at the minimum, bpb there) of the parabola in log N that fits best."""
    x = np.log(np.asarray(n, float))
    middle = x.mean()
    a, b, c = np.polyfit(x - middle, np.asarray(bpb, float), 2)
    return float(a), float(middle - b / (2 * a)), float(c - b * b / (4 * a))


def minimum(rows: list[dict]) -> dict:
    """The best size at one budget: {"budget", "n", "tokens", "val_bpb", "sizes"}, or {"budget", "left_out": why}.

    Both arms must be there: a parabola through one arm has its minimum where nobody looked.
    """
    sizes = sorted({r["n"] for r in rows})
    found = {"budget": rows[0]["budget"], "sizes": len(sizes)}
    if len(sizes) < SIZES:
        return found | {"left_out": f"{len(sizes)} sizes; a parabola and a look at its fit need {SIZES}"}
    a, x, bpb = parabola([r["n"] for r in rows], [r["val_bpb"] for r in rows])
    if not a > 0:
        return found | {"left_out": "the curve does not open upwards"}
    if not math.log(sizes[0]) < x < math.log(sizes[-1]):
        why = (
            f"only one arm: the minimum, N = {math.exp(min(x, 99)):.3g}, is not between the sizes that were trained, "
            f"{sizes[0]:.3g} and {sizes[-1]:.3g}"
        )
        return found | {"left_out": why}
    order = sorted(rows, key=lambda r: r["n"])
    tokens = math.exp(np.interp(x, np.log([r["n"] for r in order]), np.log([r["tokens"] for r in order])))
    return found | {"n": math.exp(x), "tokens": tokens, "val_bpb": bpb}


def by_budget(rows: list[dict]) -> dict[float, list[dict]]:
    """The runs of each budget, the smallest budget first."""
    groups = {}
    for row in sorted(rows, key=lambda r: r["budget"]):
        groups.setdefault(row["budget"], []).append(row)
    return groups


# ---- over the budgets: power laws


def power(x, y) -> tuple[float, float]:
    """(exponent, factor) of y = factor * x^exponent, by least squares on the logarithms."""
    slope, intercept = np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)
    return float(slope), float(math.exp(intercept))


LAWS = {"alpha": "n", "beta": "tokens", "gamma": "val_bpb"}  # N* = . C^alpha, D* = . C^beta, bpb* = . C^gamma


def laws(minima: list[dict]) -> dict[str, tuple[float, float]]:
    """{"alpha", "beta", "gamma": (exponent, factor)}.

    gamma has no irreducible part: a handful of budgets cannot tell it from a smaller exponent.
    """
    budgets = [m["budget"] for m in minima]
    return {name: power(budgets, [m[what] for m in minima]) for name, what in LAWS.items()}


def bootstrap(rows: list[dict], draws: int = DRAWS, seed: int = SEED) -> dict[str, list[float]]:
    """95 % intervals of the exponents: the residuals of all parabolas are dealt out anew.

    The residuals are made larger for the parameters that were fitted. A draw in which a curve loses an arm leaves that
    budget out, and counts if at least three remain.
    """
    groups = [g for g in by_budget(rows).values() if "left_out" not in minimum(g)]
    if len(groups) < 3:
        return {}
    fitted, residuals = [], []
    for g in groups:
        bpb = [r["val_bpb"] for r in g]
        a, x, y = parabola([r["n"] for r in g], bpb)
        fit = np.array([y + a * (math.log(r["n"]) - x) ** 2 for r in g])
        fitted.append(fit)
        residuals += list((np.array(bpb) - fit) * math.sqrt(len(g) / (len(g) - 3)))
    random, found = np.random.default_rng(seed), {name: [] for name in LAWS}
    for _ in range(draws):
        minima = []
        for g, fit in zip(groups, fitted):
            drawn = fit + random.choice(residuals, len(g))
            m = minimum([r | {"val_bpb": v} for r, v in zip(g, drawn)])
            if "left_out" not in m:
                minima.append(m)
        if len(minima) >= 3:
            for name, (exponent, _) in laws(minima).items():
                found[name].append(exponent)
    if len(found["alpha"]) < draws / 2:  # all three have as many
        return {}
    return {name: [float(q) for q in np.quantile(values, (0.025, 0.975))] for name, values in found.items()}


# ---- all runs at once: the parametric law


def parametric(rows: list[dict]) -> dict | None:
    """L(N, D) = E + A / N^a + B / D^b, Huber loss on the logarithms (approach 3), from eight starts.

    {"E", "A", "a", "B", "b", "alpha": b / (a + b), "error": root mean square of the logarithms}. None with fewer than
    ten runs, or without an optimum.
    """
    if len(rows) < 10:
        return None
    fits = [_descend(rows, a, b, e) for a, b, e in itertools.product((0.2, 0.5), (0.2, 0.5), (-1.0, 0.0))]
    _, error, (e, A, a, B, b) = min(fit for fit in fits if math.isfinite(fit[0]))
    if not (a > 0 and b > 0):
        return None
    E, A, B = math.exp(e), math.exp(A), math.exp(B)
    return {"E": E, "A": A, "a": a, "B": B, "b": b, "alpha": b / (a + b), "error": error}


def _descend(rows, a: float, b: float, e: float) -> tuple[float, float, list[float]]:
    """(loss, root mean square error, [log E, log A, a, log B, b]) after L-BFGS from a start."""
    import torch

    n, d, y = (
        torch.tensor([math.log(r[key]) for r in rows], dtype=torch.float64) for key in ("n", "tokens", "val_bpb")
    )
    p = torch.tensor([e, a * n.mean().item(), a, b * d.mean().item(), b], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [p], max_iter=400, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=1e-14
    )

    def predict():
        return torch.logsumexp(torch.stack([p[0].expand_as(n), p[1] - p[2] * n, p[3] - p[4] * d]), 0)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.huber_loss(predict(), y, delta=1e-3, reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    return loss().item(), ((predict() - y) ** 2).mean().sqrt().item(), p.tolist()


# ---- the forecast


# CORE by depth, the miniseries of discussion #420: the recipe of early January 2026, which is `muon` here, at 8 tokens
# for each scaling parameter
MINISERIES = {10: 0.071, 11: 0.0918, 12: 0.1059, 20: 0.171}
SAID = 38  # the depth that #420 forecast for GPT-2 grade
HAPPENED = 24  # that of the record of 29 January, by a better recipe


@functools.cache
def _plan(recipe: str, depth: int, ratio: float):
    """The Plan of a depth, worked out once: a forecast asks for forty."""
    from gpt2course.recipes import resolve

    return resolve(recipe, depth=depth, ratio=ratio)


def forecast(
    scores: dict[int, float] = MINISERIES, target: float | None = None, recipe: str = "muon", ratio: float = 8.0
) -> dict:
    """Where a line through (log FLOPs, CORE) of published depths meets the bar: an EXTRAPOLATION of one recipe.

    {"flops", "interval" of them, "depth", "depths" of the interval, "tokens"}: the interval is that of a new run on the
    line (95 %, t distribution).
    """
    from gpt2course.ops.leaderboard import GPT2_CORE

    target = GPT2_CORE if target is None else target
    depths = sorted({*range(4, 81, 2), *scores})
    log_flops = np.log([_plan(recipe, d, ratio).flops for d in depths])

    def depth_of(flops: float) -> float:
        return float(np.interp(math.log(flops), log_flops, depths))

    x, y = np.array([log_flops[depths.index(d)] for d in scores]), np.array(list(scores.values()))
    b, a = np.polyfit(x, y, 1)
    n = len(x)
    spread = math.sqrt(((y - a - b * x) ** 2).sum() / (n - 2))
    t = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}.get(n - 2, 2.0)  # 97.5 % quantiles of Student's t
    grid = np.linspace(x.min(), math.log(1e24), 4000)
    half = t * spread * np.sqrt(1 + 1 / n + (grid - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    flops = math.exp((target - a) / b)
    inside = grid[np.abs(a + b * grid - target) <= half]
    interval = None
    if len(inside):
        open_ended = inside.max() == grid[-1]
        interval = [float(math.exp(inside.min())), None if open_ended else float(math.exp(inside.max()))]
    depth = depth_of(flops)
    return {
        "target": target, "recipe": recipe, "flops": flops, "interval": interval, "depth": depth,
        "tokens": _plan(recipe, round(depth), ratio).tokens,
        "depths": interval and [depth_of(v) if v else None for v in interval],
        "points": {str(d): s for d, s in scores.items()},
    }  # fmt: skip


# ---- all of it


def read(path) -> list[dict]:
    """The finished runs of an IsoFLOP grid in a runs.jsonl."""
    from gpt2course.ops import sweep as campaign

    good = [r for r in campaign.read(path) if r.get("status") == "done" and r.get("budget")]
    for number, row in enumerate(good, 1):
        for key in ("n", "tokens", "flops", "val_bpb", "budget"):
            if not isinstance(row.get(key), (int, float)) or not row[key] > 0:
                what = f"run {row.get('id', number)} has {key} = {row.get(key)!r}"
                raise UserError(f"{path}: {what}; it must be a number above 0")
    if not good:
        raise UserError(
            f"{path} has no finished run of an IsoFLOP grid; "
            "make one: python -m gpt2course.ops.sweep isoflop --size laptop"
        )
    return good


def usable(rows: list[dict]) -> list[dict]:
    """The rows that are done and have a budget."""
    return [r for r in rows if r.get("status", "done") == "done" and r.get("budget")]


def summary(rows: list[dict]) -> dict:
    """Minima, exponents with their intervals, the parametric law, the published exponents, the forecast; JSON-able.

    Rows without a budget are passed over.
    """
    rows = usable(rows)
    found = [minimum(g) for g in by_budget(rows).values()]
    minima = [m for m in found if "left_out" not in m]
    fitted = {}
    if len(minima) >= 2:
        fitted = {name: {"exponent": e, "factor": f} for name, (e, f) in laws(minima).items()}
    for name, interval in bootstrap(rows).items():
        fitted[name]["interval"] = interval
    return {
        "runs": len(rows), "budgets": found, "laws": fitted, "parametric": parametric(rows),
        "published": published(), "forecast": forecast(),
        "bootstrap": {"draws": DRAWS, "seed": SEED, "of": "the residuals of the parabolas"},
    }  # fmt: skip


def published() -> dict:
    """The exponents of the published points, by the same code, and those that Hoffmann et al. give."""
    return {"nanochat": {name: e for name, (e, _) in laws(list(PUBLISHED)).items()}, "hoffmann": dict(HOFFMANN)}


NAMES = {"alpha": "N* ~ C^alpha", "beta": "D* ~ C^beta", "gamma": "bpb* ~ C^gamma"}


def table(s: dict) -> str:
    """A summary as text."""
    lines = []
    if s["budgets"]:
        lines.append(f"{'FLOPs':>9} {'sizes':>5} {'best N':>11} {'its tokens':>12} {'ratio':>6} {'val bpb':>8}")
    for m in s["budgets"]:
        if "left_out" in m:
            found = f"left out: {m['left_out']}"
        else:
            found = f"{m['n']:11,.0f} {m['tokens']:12,.0f} {m['tokens'] / m['n']:6.1f} {m['val_bpb']:8.4f}"
        lines.append(f"{m['budget']:9.2e} {m['sizes']:5} {found}")
    for name, law in s["laws"].items():
        line = f"{NAMES[name]:16} {law['exponent']:6.3f}"
        theirs = f"Hoffmann et al. {HOFFMANN[name]:.2f}" if name in HOFFMANN else ""
        if not s.get("runs"):  # the published points themselves
            lines.append(f"{line}; {theirs}" if theirs else line)
            continue
        p = s["published"]["nanochat"][name]
        said, agrees = "no interval: it needs three budgets with both arms", ""
        if "interval" in law:
            low, high = law["interval"]
            said, agrees = f"{low:.2f} to {high:.2f}", " (inside)" if low <= p <= high else " (outside)"
        others = f"published points of nanochat {p:.3f}{agrees}" + (f", {theirs}" if theirs else "")
        lines.append(f"{line}, 95 %: {said}; {others}")
    if q := s["parametric"]:
        law = f"bpb = {q['E']:.3f} + {q['A']:.3g} / N^{q['a']:.3f} + {q['B']:.3g} / D^{q['b']:.3f}"
        lines.append(f"parametric: {law}, so N* ~ C^{q['alpha']:.3f}; off by {q['error']:.2%} (root mean square)")
    f = s["forecast"]
    low, high = f["depths"] or (None, None)
    lowest = "?" if low is None else f"{low:.0f}"
    highest = "more than 80" if high is None else f"{high:.0f}"
    lines.append(
        f"forecast, an extrapolation from published depths {', '.join(f['points'])} of `{f['recipe']}`: "
        f"CORE {f['target']} at depth {f['depth']:.0f}, {f['flops']:.2g} FLOPs, {f['tokens']:.3g} tokens; "
        f"95 %: depth {lowest} to {highest}"
    )
    lines.append(
        f"what happened: the authors' own forecast was depth {SAID}; "
        f"three weeks later depth {HAPPENED} did it, with a better recipe, which no line through an old one sees"
    )
    return "\n".join(lines)


def figures(rows: list[dict], s: dict, folder) -> list[Path]:
    """Write isoflop.png and, where there are laws, laws.png; returns their paths."""
    from gpt2course.files import atomic_file

    figs = {"isoflop": _isoflop_figure(usable(rows), s)}
    if s["laws"]:
        figs["laws"] = _laws_figure(s)
    paths = []
    for name, fig in figs.items():
        paths.append(Path(folder) / f"{name}.png")
        with atomic_file(paths[-1], "wb") as f:
            fig.savefig(f, format="png", dpi=110)
    return paths


def _isoflop_figure(rows: list[dict], s: dict):
    """The runs of each budget, their parabola and its minimum."""
    from gpt2course.course import plots

    colours = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.VERMILION, plots.PURPLE, plots.SKY, plots.BLACK)
    fig, (ax,) = plots.figure(4.6)
    for (budget, group), m, colour in zip(by_budget(rows).items(), s["budgets"], colours * 9):
        n, bpb = np.array([r["n"] for r in group]), [r["val_bpb"] for r in group]
        ax.plot(n, bpb, "o", color=colour, markersize=5, label=f"{budget:.1e} FLOPs")
        if "left_out" not in m:
            a, x, y = parabola(n, bpb)
            line = np.linspace(math.log(n.min()), math.log(n.max()), 100)
            ax.plot(np.exp(line), y + a * (line - x) ** 2, color=colour, linewidth=1.2)
            ax.plot(m["n"], m["val_bpb"], "*", color=colour, markersize=13, markeredgecolor="black")
    ax.set_xscale("log")
    plots.name_axes(ax, "scaling parameters N", "validation bits per byte")
    ax.legend(fontsize=plots.FONT, frameon=False)
    best = [m for m in s["budgets"] if "left_out" not in m]
    said = [f"At {m['budget']:.1e} FLOPs the best size is {m['n']:,.0f} parameters." for m in best]
    fig.alt = "Bits per byte against model size, a curve for each budget of FLOPs. " + " ".join(said)
    return fig


def _laws_figure(s: dict):
    """The minima against the budget, with their power law, its interval, and the published laws through its middle."""
    from gpt2course.course import plots

    best = [m for m in s["budgets"] if "left_out" not in m]
    c = np.array([m["budget"] for m in best])
    xs, middle = np.geomspace(c.min() / 1.5, c.max() * 1.5, 50), math.exp(np.log(c).mean())
    others = (("nanochat", plots.VERMILION, "published by nanochat"), ("hoffmann", plots.GREEN, "Hoffmann et al."))
    fig, axes = plots.figure(7.5, rows=2)
    for ax, name, label in zip(axes, ("alpha", "beta"), ("best N", "its tokens D")):
        law = s["laws"][name]
        e = law["exponent"]
        at = law["factor"] * middle**e
        ax.plot(c, [m[LAWS[name]] for m in best], "o", color=plots.BLUE, markersize=7, label="minima of the parabolas")
        ax.plot(xs, at * (xs / middle) ** e, color=plots.BLUE, linewidth=1.4, label=f"C^{e:.2f}")
        if "interval" in law:
            low, high = law["interval"]
            edges = at * (xs / middle) ** low, at * (xs / middle) ** high
            said = f"95 %: C^{low:.2f} to C^{high:.2f}"
            ax.fill_between(xs, *edges, color=plots.BLUE, alpha=0.15, linewidth=0, label=said)
        for key, colour, who in others:
            e = s["published"][key][name]
            ax.plot(xs, at * (xs / middle) ** e, "--", color=colour, linewidth=1.2, label=f"{who}: C^{e:.2f}")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(c, [f"{v:.0e}".replace("+", "") for v in c])
        ax.set_xticks([], minor=True)
        plots.name_axes(ax, "budget C, FLOPs", label)
        ax.legend(fontsize=plots.FONT, frameon=False)
    exponents = " and ".join(f"{name} {s['laws'][name]['exponent']:.2f}" for name in ("alpha", "beta"))
    theirs = " and ".join(f"{s['published']['nanochat'][name]:.2f}" for name in ("alpha", "beta"))
    fig.alt = f"Best size and its tokens against the budget, with their power laws: {exponents}; published {theirs}."
    return fig


@dataclass
class Scaling:
    """Fit the scaling laws of an IsoFLOP grid, beside the published ones.

    Example: python -m gpt2course.scaling published
    """

    runs: tyro.conf.Positional[str]  # a runs.jsonl of `gpt2course.ops.sweep isoflop`, or: published
    out: str | None = None  # folder for scaling.json and the figures


def main(args: Scaling) -> None:
    if args.runs == "published":
        minima = [m | {"sizes": 0} for m in PUBLISHED]
        found = {name: {"exponent": e, "factor": f} for name, (e, f) in laws(minima).items()}
        s = {"budgets": minima, "laws": found, "published": published(), "parametric": None, "forecast": forecast()}
        rows = []
    else:
        rows = read(args.runs)
        s = summary(rows)
    print(table(s))
    if args.out and rows:
        write_json(Path(args.out) / "scaling.json", s)
        for path in figures(rows, s, args.out):
            print(path)


if __name__ == "__main__":
    command(main)
