"""How large and how long at a budget of FLOPs: parabolas, power laws with intervals, a forecast. Lesson 09.

    python -m gpt2course.scaling results/2026-11-23_isoflop-laptop/runs.jsonl
    python -m gpt2course.scaling published

Approaches 2 and 3 of Hoffmann et al. (arXiv 2203.15556), with bits per byte in place of the loss. N are scaling parameters (matrices and head),
D training tokens, C FLOPs. A run is a dict with "n", "tokens", "flops", "val_bpb" and "budget", as campaign.py writes them.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from gpt2course.files import UserError, command, write_json

DRAWS, SEED = 1000, 0  # of the bootstrap
SIZES = 4  # different models that a parabola needs at least
# karpathy/nanochat, discussion #420 (January 2026): the minimum of each IsoFLOP curve, N and D in its own count of parameters
PUBLISHED = ({"budget": 1e18, "n": 137e6, "tokens": 1.12e9, "val_bpb": 0.978}, {"budget": 3e18, "n": 240e6, "tokens": 1.88e9, "val_bpb": 0.920},
             {"budget": 6e18, "n": 330e6, "tokens": 2.71e9, "val_bpb": 0.887})  # fmt: skip
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
    budget, sizes = rows[0]["budget"], sorted({r["n"] for r in rows})
    refuse = lambda why: {"budget": budget, "sizes": len(sizes), "left_out": why}  # noqa: E731
    if len(sizes) < SIZES:
        return refuse(f"{len(sizes)} sizes; a parabola and a look at its fit need {SIZES}")
    a, x, bpb = parabola([r["n"] for r in rows], [r["val_bpb"] for r in rows])
    if not a > 0:
        return refuse("the curve does not open upwards")
    if not math.log(sizes[0]) < x < math.log(sizes[-1]):
        return refuse(f"only one arm: the minimum, N = {math.exp(min(x, 99)):.3g}, is not between the sizes that were trained, {sizes[0]:.3g} and {sizes[-1]:.3g}")
    order = sorted(rows, key=lambda r: r["n"])
    tokens = math.exp(np.interp(x, np.log([r["n"] for r in order]), np.log([r["tokens"] for r in order])))
    return {"budget": budget, "sizes": len(sizes), "n": math.exp(x), "tokens": tokens, "val_bpb": bpb}


def by_budget(rows: list[dict]) -> dict[float, list[dict]]:
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
    """{"alpha", "beta", "gamma": (exponent, factor)}. The last has no irreducible part: a handful of budgets cannot tell it from a smaller exponent."""
    return {name: power([m["budget"] for m in minima], [m[what] for m in minima]) for name, what in LAWS.items()}


def bootstrap(rows: list[dict], draws: int = DRAWS, seed: int = SEED) -> dict[str, list[float]]:
    """95 % intervals of the exponents: the residuals of all parabolas, made larger for the parameters that were fitted, are dealt out anew.

    A draw in which a curve loses an arm leaves that budget out, and counts if at least three remain.
    """
    groups = [g for g in by_budget(rows).values() if "left_out" not in minimum(g)]
    if len(groups) < 3:
        return {}
    fitted, residuals = [], []
    for g in groups:
        a, x, y = parabola([r["n"] for r in g], [r["val_bpb"] for r in g])
        fit = np.array([y + a * (math.log(r["n"]) - x) ** 2 for r in g])
        fitted.append(fit)
        residuals += list((np.array([r["val_bpb"] for r in g]) - fit) * math.sqrt(len(g) / (len(g) - 3)))
    random, found = np.random.default_rng(seed), {name: [] for name in LAWS}
    for _ in range(draws):
        drawn = [[r | {"val_bpb": v} for r, v in zip(g, fit + random.choice(residuals, len(g)))] for g, fit in zip(groups, fitted)]
        minima = [m for m in map(minimum, drawn) if "left_out" not in m]
        if len(minima) >= 3:
            for name, (exponent, _) in laws(minima).items():
                found[name].append(exponent)
    return {name: [float(q) for q in np.quantile(values, (0.025, 0.975))] for name, values in found.items() if len(values) >= draws / 2}


# ---- all runs at once: the parametric law


def parametric(rows: list[dict]) -> dict | None:
    """L(N, D) = E + A / N^a + B / D^b, Huber loss on the logarithms (approach 3), from eight starts. None with fewer than ten runs, or without an optimum.

    {"E", "A", "a", "B", "b", "alpha": b / (a + b), "error": root mean square of the logarithms}.
    """
    if len(rows) < 10:
        return None
    fits = [_descend(rows, a, b, e) for a, b, e in itertools.product((0.2, 0.5), (0.2, 0.5), (-1.0, 0.0))]
    _, error, (e, A, a, B, b) = min(fit for fit in fits if math.isfinite(fit[0]))
    return {"E": math.exp(e), "A": math.exp(A), "a": a, "B": math.exp(B), "b": b, "alpha": b / (a + b), "error": error} if a > 0 and b > 0 else None


def _descend(rows, a: float, b: float, e: float) -> tuple[float, float, list[float]]:
    """(loss, root mean square error, [log E, log A, a, log B, b]) after L-BFGS from a start."""
    import torch

    n, d, y = (torch.tensor([math.log(r[key]) for r in rows], dtype=torch.float64) for key in ("n", "tokens", "val_bpb"))
    p = torch.tensor([e, a * n.mean().item(), a, b * d.mean().item(), b], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([p], max_iter=400, line_search_fn="strong_wolfe", tolerance_grad=1e-10, tolerance_change=1e-14)
    predict = lambda: torch.logsumexp(torch.stack([p[0].expand_as(n), p[1] - p[2] * n, p[3] - p[4] * d]), 0)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.huber_loss(predict(), y, delta=1e-3, reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    return loss().item(), ((predict() - y) ** 2).mean().sqrt().item(), p.tolist()


# ---- the forecast


# CORE of the miniseries of discussion #420: the recipe of early January 2026, which is `muon` here, at 8 tokens for each scaling parameter
MINISERIES = {10: 0.071, 11: 0.0918, 12: 0.1059, 20: 0.171}
SAID, HAPPENED = 38, 24  # the depth that #420 forecast for GPT-2 grade, and that of the record of 29 January, by a better recipe


def forecast(scores: dict[int, float] = MINISERIES, target: float | None = None, recipe: str = "muon", ratio: float = 8.0) -> dict:
    """Where a line through (log FLOPs, CORE) of published depths meets the bar: an EXTRAPOLATION of one recipe.

    {"flops", "interval" of them, "depth", "depths" of the interval, "tokens"}: the interval is that of a new run on the line (95 %, t distribution).
    """
    from gpt2course.leaderboard import GPT2_CORE
    from gpt2course.recipes import resolve

    target = GPT2_CORE if target is None else target
    plans = {d: resolve(recipe, depth=d, ratio=ratio) for d in sorted({*range(4, 81, 2), *scores})}
    x, y = np.log([plans[d].flops for d in scores]), np.array(list(scores.values()))
    b, a = np.polyfit(x, y, 1)
    n = len(x)
    spread = math.sqrt(((y - a - b * x) ** 2).sum() / (n - 2))
    t = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}.get(n - 2, 2.0)  # 97.5 % quantiles of Student's t
    grid = np.linspace(x.min(), math.log(1e24), 4000)
    half = t * spread * np.sqrt(1 + 1 / n + (grid - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    depth_of = lambda flops: float(np.interp(math.log(flops), np.log([p.flops for p in plans.values()]), list(plans)))  # noqa: E731
    flops = math.exp((target - a) / b)
    inside = grid[np.abs(a + b * grid - target) <= half]
    interval = [float(math.exp(inside.min())), float(math.exp(inside.max())) if inside.max() < grid[-1] else None] if len(inside) else None
    best = resolve(recipe, depth=round(depth_of(flops)), ratio=ratio)
    return {"target": target, "recipe": recipe, "flops": flops, "interval": interval, "depth": depth_of(flops), "tokens": best.tokens,
            "depths": interval and [depth_of(v) if v else None for v in interval], "points": {str(d): s for d, s in scores.items()}}  # fmt: skip


# ---- all of it


def read(path) -> list[dict]:
    """The finished runs of an IsoFLOP grid in a runs.jsonl."""
    from gpt2course import campaign

    rows = campaign.read(path)
    good = [r for r in rows if r.get("status") == "done" and r.get("budget")]
    for number, row in enumerate(good, 1):
        for key in ("n", "tokens", "flops", "val_bpb", "budget"):
            if not isinstance(row.get(key), (int, float)) or not row[key] > 0:
                raise UserError(f"{path}: run {row.get('id', number)} has {key} = {row.get(key)!r}; it must be a number above 0")
    if not good:
        raise UserError(f"{path} has no finished run of an IsoFLOP grid; make one: python -m gpt2course.campaign isoflop --size laptop")
    return good


def summary(rows: list[dict]) -> dict:
    """Minima, exponents with their intervals, the parametric law, the published exponents, the forecast; JSON-able. Rows without a budget are passed over."""
    rows = [r for r in rows if r.get("status", "done") == "done" and r.get("budget")]
    found = [minimum(g) for g in by_budget(rows).values()]
    minima = [m for m in found if "left_out" not in m]
    fitted = {name: {"exponent": e, "factor": f} for name, (e, f) in laws(minima).items()} if len(minima) >= 2 else {}
    for name, interval in bootstrap(rows).items():
        fitted[name]["interval"] = interval
    return {"runs": len(rows), "budgets": found, "laws": fitted, "parametric": parametric(rows), "published": published(), "forecast": forecast(),
            "bootstrap": {"draws": DRAWS, "seed": SEED, "of": "the residuals of the parabolas"}}  # fmt: skip


def published() -> dict:
    """The exponents of the published points, by the same code, and those that Hoffmann et al. give."""
    return {"nanochat": {name: e for name, (e, _) in laws(list(PUBLISHED)).items()}, "hoffmann": dict(HOFFMANN)}


NAMES = {"alpha": "N* ~ C^alpha", "beta": "D* ~ C^beta", "gamma": "bpb* ~ C^gamma"}


def table(s: dict) -> str:
    """A summary as text."""
    lines = [f"{'FLOPs':>9} {'sizes':>5} {'best N':>11} {'its tokens':>12} {'ratio':>6} {'val bpb':>8}"] if s["budgets"] else []
    for m in s["budgets"]:
        lines.append(f"{m['budget']:9.2e} {m['sizes']:5} " + (f"left out: {m['left_out']}" if "left_out" in m else
                     f"{m['n']:11,.0f} {m['tokens']:12,.0f} {m['tokens'] / m['n']:6.1f} {m['val_bpb']:8.4f}"))  # fmt: skip
    for name, law in s["laws"].items():
        if not s.get("runs"):  # the published points themselves
            lines.append(f"{NAMES[name]:16} {law['exponent']:6.3f}" + (f"; Hoffmann et al. {HOFFMANN[name]:.2f}" if name in HOFFMANN else ""))
            continue
        p, h = s["published"]["nanochat"][name], s["published"]["hoffmann"].get(name)
        low, high = law.get("interval", (None, None))
        said = f"{low:.2f} to {high:.2f}" if low is not None else "no interval: it needs three budgets with both arms"
        agrees = "" if low is None else " (inside)" if low <= p <= high else " (outside)"
        others = f"published points of nanochat {p:.3f}{agrees}" + (f", Hoffmann et al. {h:.2f}" if h else "")
        lines.append(f"{NAMES[name]:16} {law['exponent']:6.3f}, 95 %: {said}; {others}")
    if q := s["parametric"]:
        law = f"bpb = {q['E']:.3f} + {q['A']:.3g} / N^{q['a']:.3f} + {q['B']:.3g} / D^{q['b']:.3f}"
        lines.append(f"parametric: {law}, so N* ~ C^{q['alpha']:.3f}; off by {q['error']:.2%} (root mean square)")
    f = s["forecast"]
    low, high = f["depths"] or (None, None)
    lines.append(f"forecast, an extrapolation from published depths {', '.join(f['points'])} of `{f['recipe']}`: CORE {f['target']} at depth {f['depth']:.0f}, {f['flops']:.2g} FLOPs, "
                 f"{f['tokens']:.3g} tokens; 95 %: depth {'?' if low is None else format(low, '.0f')} to {'more than 80' if high is None else format(high, '.0f')}")
    lines.append(f"what happened: the authors' own forecast was depth {SAID}; three weeks later depth {HAPPENED} did it, with a better recipe, which no line through an old one sees")
    return "\n".join(lines)


def figures(rows: list[dict], s: dict, folder) -> list[Path]:
    """Write isoflop.png and laws.png; returns their paths."""
    from gpt2course import plots
    from gpt2course.files import atomic_file

    rows, folder, out = [r for r in rows if r.get("status", "done") == "done" and r.get("budget")], Path(folder), []
    groups = by_budget(rows)
    colours = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.VERMILION, plots.PURPLE, plots.SKY, plots.BLACK)
    fig, (ax,) = plots.figure(4.6)
    for (budget, group), m, colour in zip(groups.items(), s["budgets"], colours * 9):
        n = np.array([r["n"] for r in group])
        ax.plot(n, [r["val_bpb"] for r in group], "o", color=colour, markersize=5, label=f"{budget:.1e} FLOPs")
        if "left_out" not in m:
            a, x, y = parabola(n, [r["val_bpb"] for r in group])
            line = np.linspace(math.log(n.min()), math.log(n.max()), 100)
            ax.plot(np.exp(line), y + a * (line - x) ** 2, color=colour, linewidth=1.2)
            ax.plot(m["n"], m["val_bpb"], "*", color=colour, markersize=13, markeredgecolor="black")
    ax.set_xscale("log")
    plots.name_axes(ax, "scaling parameters N", "validation bits per byte")
    ax.legend(fontsize=plots.FONT, frameon=False)
    whole = [m for m in s["budgets"] if "left_out" not in m]
    fig.alt = "Bits per byte against model size, a curve for each budget of FLOPs. " + " ".join(f"At {m['budget']:.1e} FLOPs the best size is {m['n']:,.0f} parameters." for m in whole)
    figs = [("isoflop", fig)]
    if s["laws"]:
        fig, axes = plots.figure(7.5, rows=2)
        for ax, name, what, text in zip(axes, ("alpha", "beta"), ("n", "tokens"), ("best N", "its tokens D")):
            c = np.array([m["budget"] for m in whole])
            law, low_high = s["laws"][name], s["laws"][name].get("interval")
            xs, middle = np.geomspace(c.min() / 1.5, c.max() * 1.5, 50), math.exp(np.log(c).mean())
            ax.plot(c, [m[what] for m in whole], "o", color=plots.BLUE, markersize=7, label="minima of the parabolas")
            at = law["factor"] * middle ** law["exponent"]
            ax.plot(xs, at * (xs / middle) ** law["exponent"], color=plots.BLUE, linewidth=1.4, label=f"C^{law['exponent']:.2f}")
            if low_high:
                ax.fill_between(xs, *[at * (xs / middle) ** e for e in low_high], color=plots.BLUE, alpha=0.15, linewidth=0, label=f"95 %: C^{low_high[0]:.2f} to C^{low_high[1]:.2f}")
            for key, colour, who in (("nanochat", plots.VERMILION, "published by nanochat"), ("hoffmann", plots.GREEN, "Hoffmann et al.")):
                e = s["published"][key][name]
                ax.plot(xs, at * (xs / middle) ** e, "--", color=colour, linewidth=1.2, label=f"{who}: C^{e:.2f}")
            ax.set_xscale("log"), ax.set_yscale("log")
            ax.set_xticks(c, [f"{v:.0e}".replace("+", "") for v in c])
            ax.set_xticks([], minor=True)
            plots.name_axes(ax, "budget C, FLOPs", text)
            ax.legend(fontsize=plots.FONT, frameon=False)
        exponents = " and ".join(f"{name} {s['laws'][name]['exponent']:.2f}" for name in ("alpha", "beta"))
        theirs = " and ".join(f"{s['published']['nanochat'][name]:.2f}" for name in ("alpha", "beta"))
        fig.alt = f"Best size and its tokens against the budget, with their power laws: {exponents}; published {theirs}."
        figs.append(("laws", fig))
    for name, fig in figs:
        with atomic_file(folder / f"{name}.png", "wb") as f:
            fig.savefig(f, format="png", dpi=110)
        out.append(folder / f"{name}.png")
    return out


@dataclass
class Scaling:
    """Fit the scaling laws of an IsoFLOP grid, beside the published ones.

    Example: python -m gpt2course.scaling published
    """

    runs: tyro.conf.Positional[str]  # a runs.jsonl of `gpt2course.campaign isoflop`, or: published
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
