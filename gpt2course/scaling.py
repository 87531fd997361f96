"""Lesson 09. Scaling laws: how large a model to train, and on how many tokens, with a budget of FLOPs.

Approaches 2 and 3 of Hoffmann et al. (arXiv 2203.15556), with bits per byte in place of the loss. N are scaling
parameters (matrices and head), D training tokens, C FLOPs. A run is a dict with "budget", "n", "tokens" and "val_bpb":
a line of the runs.jsonl that runbooks/scaling_laws makes.
"""

import itertools
import math

import numpy as np
import torch

DRAWS, SEED = 1000, 0  # of the bootstrap
SIZES = 4  # a parabola has three numbers; a fourth size tests the fit
LAWS = {"alpha": "n", "beta": "tokens", "gamma": "val_bpb"}  # N* ~ C^alpha, D* ~ C^beta, bpb* ~ C^gamma
# karpathy/nanochat, discussion #420 (January 2026): the minimum of each IsoFLOP curve, N and D counted as here
PUBLISHED = (
    {"budget": 1e18, "n": 137e6, "tokens": 1.12e9, "val_bpb": 0.978},
    {"budget": 3e18, "n": 240e6, "tokens": 1.88e9, "val_bpb": 0.920},
    {"budget": 6e18, "n": 330e6, "tokens": 2.71e9, "val_bpb": 0.887},
)
HOFFMANN = {"alpha": 0.49, "beta": 0.51}  # approach 2 (arXiv 2203.15556, table 2)


# ---- one budget: a parabola


def parabola(n, bpb) -> tuple[float, float, float]:
    """(curvature, log N at the minimum, bpb there) of the parabola in log N that fits best."""
    x = np.log(np.asarray(n, float))
    middle = x.mean()
    a, b, c = np.polyfit(x - middle, np.asarray(bpb, float), 2)
    return float(a), float(middle - b / (2 * a)), float(c - b * b / (4 * a))


def minimum(rows: list[dict]) -> dict:
    """The best size at one budget: {"budget", "sizes", "n", "tokens", "val_bpb"}, or {"budget", "sizes", "left_out"}.

    left_out says why there is no minimum. Sizes on both sides of it must have been trained: the minimum of a parabola
    through one arm is an extrapolation.
    """
    sizes = sorted({r["n"] for r in rows})
    found = {"budget": rows[0]["budget"], "sizes": len(sizes)}
    if len(sizes) < SIZES:
        return found | {"left_out": f"{len(sizes)} sizes, but a parabola needs {SIZES}"}
    a, x, bpb = parabola([r["n"] for r in rows], [r["val_bpb"] for r in rows])
    if not a > 0:
        return found | {"left_out": "the curve does not open upwards"}
    if not math.log(sizes[0]) < x < math.log(sizes[-1]):
        best = f"the minimum, N = {math.exp(min(x, 99)):.3g}, is not between {sizes[0]:.3g} and {sizes[-1]:.3g}"
        return found | {"left_out": f"only one arm: {best}"}
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


def laws(minima) -> dict[str, tuple[float, float]]:
    """{"alpha", "beta", "gamma": (exponent, factor)} through the minima of the budgets.

    gamma has no irreducible part: a handful of budgets cannot tell one from a smaller exponent.
    """
    budgets = [m["budget"] for m in minima]
    return {name: power(budgets, [m[what] for m in minima]) for name, what in LAWS.items()}


def bootstrap(rows: list[dict], draws: int = DRAWS, seed: int = SEED) -> dict[str, list[float]]:
    """95 % intervals of the exponents; {} where fewer than three budgets have a minimum.

    Each draw adds residuals of all parabolas, drawn with replacement, to the fitted values. The residuals are scaled up
    for the three numbers that each parabola fitted. A draw counts if at least three budgets have a minimum in it.
    """
    groups = [g for g in by_budget(rows).values() if "left_out" not in minimum(g)]
    fitted, residuals = [], []
    for g in groups:
        bpb = [r["val_bpb"] for r in g]
        a, x, y = parabola([r["n"] for r in g], bpb)
        fitted.append(np.array([y + a * (math.log(r["n"]) - x) ** 2 for r in g]))
        residuals += list((np.array(bpb) - fitted[-1]) * math.sqrt(len(g) / (len(g) - 3)))
    random, found = np.random.default_rng(seed), {name: [] for name in LAWS}
    for _ in range(draws if len(groups) >= 3 else 0):
        drawn = [fit + random.choice(residuals, len(fit)) for fit in fitted]
        minima = [minimum([r | {"val_bpb": v} for r, v in zip(g, values)]) for g, values in zip(groups, drawn)]
        minima = [m for m in minima if "left_out" not in m]
        if len(minima) >= 3:
            for name, (exponent, _) in laws(minima).items():
                found[name].append(exponent)
    if len(found["alpha"]) < max(1, draws / 2):  # all three laws have as many
        return {}
    return {name: [float(q) for q in np.quantile(values, (0.025, 0.975))] for name, values in found.items()}


# ---- all runs at once: the parametric law


def parametric(rows: list[dict]) -> dict | None:
    """bpb(N, D) = E + A / N^a + B / D^b, by the Huber loss on the logarithms (approach 3), from eight starts.

    {"E", "A", "a", "B", "b", "alpha": b / (a + b), "error": root mean square of the logarithms}; None with fewer than
    ten runs, or without an optimum.
    """
    if len(rows) < 10:
        return None
    fits = [_descend(rows, a, b, e) for a, b, e in itertools.product((0.2, 0.5), (0.2, 0.5), (-1.0, 0.0))]
    _, error, (e, A, a, B, b) = min(fit for fit in fits if math.isfinite(fit[0]))
    if not (a > 0 and b > 0):
        return None
    return {
        "E": math.exp(e), "A": math.exp(A), "a": a, "B": math.exp(B), "b": b, "alpha": b / (a + b), "error": error,
    }  # fmt: skip


def _descend(rows, a: float, b: float, e: float) -> tuple[float, float, list[float]]:
    """(loss, root mean square error, [log E, log A, a, log B, b]) after L-BFGS from a start."""
    log = lambda key: torch.tensor([math.log(r[key]) for r in rows], dtype=torch.float64)
    n, d, y = log("n"), log("tokens"), log("val_bpb")
    start = [e, a * n.mean().item(), a, b * d.mean().item(), b]
    p = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    exact = dict(tolerance_grad=1e-10, tolerance_change=1e-14)
    optimizer = torch.optim.LBFGS([p], max_iter=400, line_search_fn="strong_wolfe", **exact)

    def predict():
        return torch.logsumexp(torch.stack([p[0].expand_as(n), p[1] - p[2] * n, p[3] - p[4] * d]), 0)

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.huber_loss(predict(), y, delta=1e-3, reduction="sum")
        value.backward()
        return value

    optimizer.step(loss)
    return loss().item(), ((predict() - y) ** 2).mean().sqrt().item(), p.tolist()


def summary(rows: list[dict]) -> dict:
    """All of it, as a dict that JSON can hold: {"budgets": minima, "laws": {name: exponent, factor, interval}, ...}.

    "published": the exponents of nanochat's published points, by the same code. Runs without a budget are left out.
    """
    rows = [r for r in rows if r.get("budget")]
    budgets = [minimum(g) for g in by_budget(rows).values()]
    minima = [m for m in budgets if "left_out" not in m]
    fitted = {name: {"exponent": e, "factor": f} for name, (e, f) in laws(minima).items()} if len(minima) > 1 else {}
    for name, interval in bootstrap(rows).items():
        fitted[name]["interval"] = interval
    published = {name: e for name, (e, _) in laws(PUBLISHED).items()}
    return {"budgets": budgets, "laws": fitted, "parametric": parametric(rows), "published": published}
