"""Lesson 05: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math
import statistics

import numpy as np
import torch
from lesson_cases import answers, change, lesson_tests

from gpt2course import optim
from gpt2course.course.figures import muon as figures

NAMES = {
    "5.1": ("best_step",),
    "5.2": ("orthogonal",),
    "5.3": ("one_step",),
    "5.4": ("gap_in_spreads",),
    "5.5": ("iteration_flops",),
}


# ---- 5.1, other limits


def limited(G, limit, **instead):
    """The right answer, with another function for some of the limits."""
    return instead[limit](G) if limit in instead else SOLVED["best_step"](G, limit)


def by_numpy(G, limit):
    g = G.numpy().astype(np.float64)
    if limit == "stretch":
        u, s, vt = np.linalg.svd(g, full_matrices=False)
        return u @ vt
    size = {"norm": lambda: np.sqrt((g**2).sum()), "number": lambda: np.abs(g), "rows": lambda: np.linalg.norm(g, axis=1, keepdims=True)}[limit]()
    return g / np.where(size == 0, 1, size)


def by_eigenvalues(G, limit):
    if limit != "stretch":
        return {"norm": lambda: torch.nn.functional.normalize(G.flatten(), dim=0).view(G.shape), "number": lambda: torch.where(G > 0, 1.0, -1.0),
                "rows": lambda: torch.nn.functional.normalize(G, dim=1)}[limit]()  # fmt: skip
    X = (G.T if G.size(0) > G.size(1) else G).double()
    values, vectors = torch.linalg.eigh(X @ X.T)
    Y = vectors @ torch.diag(values.rsqrt()) @ vectors.T @ X
    return Y.T if G.size(0) > G.size(1) else Y


def svd_of(G):
    return torch.linalg.svd(G, full_matrices=False)


# ---- 5.2, orthogonalise


def iterate(G, coefficients, safety, norm="frobenius", order=1, small=True, square=True, numbers=False, back=True,
            own=None, eps=1e-6, swap=False, first=None, gram=lambda X: X @ X.T):  # fmt: skip
    """The iteration with one thing wrong."""
    size = {
        "frobenius": lambda: G.norm(),
        "none": lambda: 1 / safety,
        "spectral": lambda: torch.linalg.matrix_norm(G, 2),
        "rows": lambda: G.norm(dim=1, keepdim=True),
        "square": lambda: G.square().sum(),
        "sum": lambda: G.abs().sum(),
        "no safety": lambda: G.norm() / safety,
        "fixed safety": lambda: G.norm() / safety * 1.02,
    }[norm]()
    X = G / (safety * size + eps)
    tall = small and G.size(0) > G.size(1)
    X = X.T if tall else X
    coefficients = (own or coefficients)[::order]
    for a, b, c in coefficients[:1] * len(coefficients) if first else coefficients:
        if swap:
            b, c = c, b
        if numbers:
            X = a * X + b * X**3 + c * X**5
        else:
            A = gram(X)
            X = a * X + (b * A + c * (A @ A if square else A)) @ X
    return X.T if tall and back else X


def normalise_late(G, coefficients, safety):
    X = iterate(G, coefficients, safety, norm="none")
    return X / X.norm()


def by_svd(G, coefficients, safety):
    U, _, V = torch.linalg.svd(G, full_matrices=False)
    return U @ V


def in_place_on_G(G, coefficients, safety):
    G /= safety * G.norm() + 1e-6
    return iterate(G, coefficients, 1.0, norm="none")


def large_gram_of_wide(G, coefficients, safety):
    return iterate(G.T, coefficients, safety, small=False).T


def scaled_for_tall(G, coefficients, safety):
    return iterate(G, coefficients, safety) * max(1.0, G.size(0) / G.size(1)) ** 0.5


def with_einsum(G, coefficients, safety):
    X = G.double() / (safety * G.double().square().sum().sqrt() + 1e-6)
    tall = X.shape[0] > X.shape[1]
    for a, b, c in coefficients:
        A = torch.einsum("ki,kj->ij", X, X) if tall else torch.einsum("ik,jk->ij", X, X)
        B = b * A + c * torch.einsum("ij,jk->ik", A, A)
        X = a * X + (torch.einsum("ij,jk->ik", X, B) if tall else torch.einsum("ij,jk->ik", B, X))
    return X


def with_more_products(G, coefficients, safety):
    X = G.clone()
    X.div_(safety * torch.linalg.matrix_norm(X) + 1e-6)
    for a, b, c in coefficients:
        if X.size(0) <= X.size(1):
            third = (X @ X.T) @ X
            X = a * X + b * third + c * ((X @ X.T) @ third)
        else:
            third = X @ (X.T @ X)
            X = a * X + b * third + c * (third @ (X.T @ X))
    return X


def in_numpy(G, coefficients, safety):
    x = G.numpy().astype(np.float64)
    x = x / (safety * np.linalg.norm(x) + 1e-6)
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x.T if flip else x


def each(f):
    """An answer for one matrix, for a stack as well."""
    as_tensor = lambda x: torch.as_tensor(x)
    return lambda G, c, s: f(G, c, s) if G.dim() == 2 else torch.stack([as_tensor(f(g, c, s)) for g in G])


# ---- 5.3, one step for every shape


def stepped(params, grads, lr, coefficients, safety, key=lambda g: (min(g.shape), max(g.shape)), factor=lambda m, n: max(1, m / n) ** 0.5, sign=1,
            back=True, whole=False, mutate=False, only=False, rate=True, update=None):  # fmt: skip
    """The grouped step with one thing wrong."""
    groups, new = {}, [None] * len(params)
    for i, g in enumerate(grads):
        groups.setdefault(key(g), []).append(i)
    for positions in groups.values():
        tall = [grads[i].size(0) > grads[i].size(1) for i in positions]
        stack = torch.stack([grads[i].T if t else grads[i] for i, t in zip(positions, tall)])
        if whole:
            stack = stack / stack.norm() * 100
            U = plain(stack / (safety * stack.norm() + 1e-6), coefficients)
        else:
            U = (update or SOLVED["orthogonal"])(stack, coefficients, safety)
        for i, t, u in zip(positions, tall, U):
            m, n = params[i].shape
            u = u.T if t and back else u.reshape(m, n)
            step = (lr if rate else 1.0) * factor(m, n) * u
            new[i] = step if only else (params[i].sub_(step) if mutate else params[i] - sign * step)
    return new


def plain(X, coefficients):
    for a, b, c in coefficients:
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X


def one_by_one(params, grads, lr, coefficients, safety):
    return [p - lr * max(1, p.size(0) / p.size(1)) ** 0.5 * SOLVED["orthogonal"](g, coefficients, safety) for p, g in zip(params, grads)]


def four_products(params, grads, lr, coefficients, safety):
    def update(X, coefficients, safety):
        X = X / (safety * X.norm(dim=(-2, -1), keepdim=True) + 1e-6)
        for a, b, c in coefficients:
            A = X @ X.mT
            X = a * X + b * A @ X + c * A @ (A @ X)
        return X

    return tuple(stepped(params, grads, lr, coefficients, safety, update=update))


def with_padding(params, grads, lr, coefficients, safety):
    """One stack for all: every matrix lying down and filled with zeros, which stay zeros."""
    short, long = max(min(g.shape) for g in grads), max(max(g.shape) for g in grads)
    stack = torch.zeros(len(grads), short, long)
    for row, g in zip(stack, grads):
        w = g.T if g.size(0) > g.size(1) else g
        row[: w.size(0), : w.size(1)] = w
    new = []
    for p, u in zip(params, SOLVED["orthogonal"](stack, coefficients, safety)):
        m, n = p.shape
        new.append(p - lr * max(1, m / n) ** 0.5 * (u.T if m > n else u)[:m, :n])
    return new


# ---- 5.4, is the gap real?


def cell(run):
    return run["rate"], run["decay"]


def best_rate(runs):
    return cell(min((r for r in runs if r["seed"] == 1), key=lambda r: r["val_bpb"]))


def worst_rate(runs):
    return cell(max((r for r in runs if r["seed"] == 1), key=lambda r: r["val_bpb"]))


def compared(rows, a, b, choose=best_rate, value=statistics.mean, spread=statistics.variance,
             join=lambda x, y: math.sqrt((x + y) / 2), shared=None, sign=1, take=lambda r: True, part=cell):  # fmt: skip
    """The comparison with one thing wrong."""
    found = []
    rates = [choose([r for r in rows if r["arm"] == name]) for name in (a, b)]
    if shared is not None:
        rates = [rates[shared]] * 2
    for name, rate in zip((a, b), rates):
        bpb = [r["val_bpb"] for r in rows if r["arm"] == name and rate in (None, part(r)) and take(r)]
        found.append((value(bpb), spread(bpb)))
    (x, p), (y, q) = found
    return sign * (x - y) / join(p, q)


def best_runs(rows, arm):
    """The bits per byte of an arm's runs in its best cell."""
    runs = [r for r in rows if r["arm"] == arm]
    return [r["val_bpb"] for r in runs if cell(r) == best_rate(runs)]


def all_together(rows, a, b):
    x, y = best_runs(rows, a), best_runs(rows, b)
    return (statistics.mean(x) - statistics.mean(y)) / statistics.stdev(x + y)


def pooled(rows, a, b):
    x, y = best_runs(rows, a), best_runs(rows, b)
    common = sum((v - statistics.mean(g)) ** 2 for g in (x, y) for v in g) / (len(x) + len(y) - 2)
    return (statistics.mean(x) - statistics.mean(y)) / math.sqrt(common)


def sorts_the_rows(rows, a, b):
    rows.sort(key=lambda r: r["val_bpb"])
    return compared(rows, a, b)


def with_torch(rows, a, b):
    sides = [torch.tensor(best_runs(rows, name), dtype=torch.float64) for name in (a, b)]
    return (sides[0].mean() - sides[1].mean()) / torch.stack([s.var() for s in sides]).mean().sqrt()


def with_loops(rows, a, b):
    out = {}
    for name in (a, b):
        least, rate = None, None
        for r in rows:
            if r["arm"] == name and r["seed"] == 1 and (least is None or r["val_bpb"] < least):
                least, rate = r["val_bpb"], cell(r)
        values = np.array([r["val_bpb"] for r in rows if (r["arm"], cell(r)) == (name, rate)])
        out[name] = values.mean(), values.std(ddof=1)
    return np.float64((out[a][0] - out[b][0]) / np.sqrt((out[a][1] ** 2 + out[b][1] ** 2) / 2))


# ---- 5.5, cost


def flops(shapes, steps=5, short=min, long=max, two=2, square=1, products=2,
          takes=lambda name: name.startswith("blocks."), once=False):  # fmt: skip
    """The cost with one thing wrong."""
    total, seen = 0, set()
    for name, shape in shapes.items():
        if len(shape) == 2 and takes(name) and not (once and shape in seen):
            seen.add(shape)
            k, l = short(shape), long(shape)
            total += steps * two * (products * k * k * l + square * k**3)
    return total


def no_tables(name):
    return "head" not in name and "wte" not in name


def first(shape):
    return shape[0]


def second(shape):
    return shape[1]


def flops_in_numpy(shapes, steps=5):
    sizes = np.array([sorted(s) for n, s in shapes.items() if n.split(".")[0] == "blocks"], dtype=float)
    k, l = sizes.T
    return np.sum(2 * steps * k**2 * (2 * l + k))


def flops_by_torch(shapes, steps=5):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        for name, shape in shapes.items():
            if "blocks" in name:
                for _ in range(steps):
                    optim.polar_express(torch.empty(shape, device="meta"), 1)
    return counter.get_total_flops()


WRONG = {
    ("5.1", "the gradient"): (lambda G, limit: G, "X is parallel to G"),
    ("5.1", "always the norm"): (lambda G, limit: G / G.norm(), "answer for `norm`"),
    ("5.1", "always signs"): (lambda G, limit: G.sign(), "answer for `number`"),
    ("5.1", "sum of squares"): (lambda G, limit: limited(G, limit, norm=lambda G: G / G.square().sum()), "root of the sum"),
    ("5.1", "sum of numbers"): (lambda G, limit: limited(G, limit, norm=lambda G: G / G.abs().sum()), "root of a sum"),
    ("5.1", "clamped"): (lambda G, limit: limited(G, limit, number=lambda G: G.clamp(-1, 1)), "in every number"),
    ("5.1", "over the largest"): (lambda G, limit: limited(G, limit, number=lambda G: G / G.abs().max()), "in every number"),
    ("5.1", "columns"): (lambda G, limit: limited(G, limit, rows=lambda G: G / G.norm(dim=0)), "columns"),
    ("5.1", "one limit for all rows"): (lambda G, limit: limited(G, limit, rows=lambda G: G / G.norm(dim=1).max()), "shorter one can grow"),
    ("5.1", "rows by sums"): (lambda G, limit: limited(G, limit, rows=lambda G: G / G.abs().sum(1, keepdim=True)), "length of a row"),
    ("5.1", "rows of zeros"): (lambda G, limit: limited(G, limit, rows=lambda G: G / G.norm(dim=1, keepdim=True)), "NaN came out"),
    ("5.1", "over the spectral norm"): (lambda G, limit: limited(G, limit, stretch=lambda G: G / torch.linalg.matrix_norm(G, 2)), "others may grow"),
    ("5.1", "V for its transpose"): (lambda G, limit: limited(G, limit, stretch=lambda G: svd_of(G)[0] @ svd_of(G)[2].T), "Vᵀ, not V"),
    ("5.1", "nothing set to 1"): (lambda G, limit: limited(G, limit, stretch=lambda G: G.clone()), "set the singular values"),
    ("5.1", "five rounds"): (lambda G, limit: limited(G, limit, stretch=lambda G: iterate(G, optim.POLAR_EXPRESS, 1.02)), "exactly 1"),
    ("5.1", "full matrices"): (lambda G, limit: limited(G, limit, stretch=lambda G: torch.linalg.svd(G)[0] @ torch.linalg.svd(G)[2]), "your code stopped"),
    ("5.1", "against the gradient"): (lambda G, limit: -SOLVED["best_step"](G, limit), "X goes with G"),
    ("5.1", "in place"): (lambda G, limit: G.div_(G.norm()), "changed G in place"),
    ("5.1", "nothing"): (lambda *a: None, "return missing"),
    ("5.2", "one norm for a stack"): (lambda G, c, s: plain(G / (s * G.norm() + 1e-6), c) if G.dim() == 3 else SOLVED["orthogonal"](G, c, s), "a norm for each matrix"),
    ("5.2", "the first of a stack"): (lambda G, c, s: iterate(G[0] if G.dim() == 3 else G, c, s), "shape"),
    ("5.2", "a stack from one matrix"): (lambda G, c, s: torch.stack([iterate(G[0], c, s)] * len(G)) if G.dim() == 3 else iterate(G, c, s), "though each alone is right"),
    ("5.3", "adds the step"): (change(stepped, sign=-1), "wrong way"),
    ("5.3", "no factor"): (change(stepped, factor=lambda m, n: 1.0), "is missing"),
    ("5.3", "no root"): (change(stepped, factor=lambda m, n: max(1, m / n)), "square root"),
    ("5.3", "factor below 1"): (change(stepped, factor=lambda m, n: (m / n) ** 0.5), "never below 1"),
    ("5.3", "columns over rows"): (change(stepped, factor=lambda m, n: (n / m) ** 0.5), "rows / columns|never below 1"),
    ("5.3", "the step alone"): (change(stepped, only=True), "not its step"),
    ("5.3", "no lr"): (change(stepped, rate=False), "lr is ignored"),
    ("5.3", "raw gradients"): (lambda params, grads, lr, c, s: [p - lr * max(1, p.size(0) / p.size(1)) ** 0.5 * g for p, g in zip(params, grads)], "not made orthogonal"),
    ("5.3", "not turned back"): (change(stepped, back=False), "is off"),
    ("5.3", "one after the other"): (one_by_one, "as one stack"),
    ("5.3", "a stack for each shape"): (change(stepped, key=lambda g: tuple(g.shape)), "as one stack, transposed"),
    ("5.3", "two exchanged"): (lambda *a: (lambda new: [new[3], *new[1:3], new[0], *new[4:]] if len(new) > 3 else new)(stepped(*a)), "in its own place"),
    ("5.3", "sorted by size"): (lambda params, grads, *a: [x for _, x in sorted(zip([p.numel() for p in params], stepped(params, grads, *a)), key=lambda x: x[0])], "new matrix|own place"),
    ("5.3", "one norm for a stack"): (change(stepped, whole=True), "its own norm"),
    ("5.3", "in place"): (change(stepped, mutate=True), "changed in place"),
    ("5.3", "one matrix"): (lambda params, *a: stepped(params, *a)[0], "in a list"),
    ("5.3", "grouped by the longer side"): (change(stepped, key=lambda g: max(g.shape)), "your code stopped"),
    ("5.3", "nothing"): (lambda *a: None, "return missing"),
    ("5.4", "decays mixed"): (change(compared, choose=lambda runs: best_rate(runs)[0], part=lambda r: r["rate"]), "decays were mixed"),
    ("5.2", "no normalisation"): (change(iterate, norm="none"), "not normalised first"),
    ("5.2", "spectral norm"): (change(iterate, norm="spectral"), "spectral norm"),
    ("5.2", "norm of each row"): (change(iterate, norm="rows"), "not each row"),
    ("5.2", "sum of squares"): (change(iterate, norm="square"), "take the root"),
    ("5.2", "sum of numbers"): (change(iterate, norm="sum"), "sum of its numbers"),
    ("5.2", "normalised at the end"): (normalise_late, "not after"),
    ("5.2", "safety ignored"): (change(iterate, norm="no safety"), "safety is ignored"),
    ("5.2", "a safety of its own"): (change(iterate, norm="fixed safety"), "safety of 1.02"),
    ("5.2", "no transpose of a tall matrix"): (change(iterate, small=False), "transpose"),
    ("5.2", "larger Gram of a wide one"): (large_gram_of_wide, "smaller Gram"),
    ("5.2", "not transposed back"): (change(iterate, back=False), "shape (2, 5), expected (5, 2)"),
    ("5.2", "reverse order"): (change(iterate, order=-1), "reverse order"),
    ("5.2", "the first coefficients always"): (change(iterate, first=True), "first were used twice"),
    ("5.2", "coefficients of its own"): (change(iterate, own=optim.POLAR_EXPRESS), "not a list of your own"),
    ("5.2", "b and c exchanged"): (change(iterate, swap=True), "exchanged"),
    ("5.2", "no square of the Gram matrix"): (change(iterate, square=False), "c belongs to the square"),
    ("5.2", "no third term"): (lambda G, c, s: iterate(G, [(a, b, 0.0) for a, b, _ in c], s), "third term"),
    ("5.2", "the wrong side of a square matrix"): (change(iterate, gram=lambda X: X.T @ X if X.size(0) == X.size(1) else X @ X.T), "a product from the left"),
    ("5.2", "powers of numbers"): (change(iterate, numbers=True), "matrix products"),
    ("5.2", "exact"): (by_svd, "use the polynomial"),
    ("5.2", "in place"): (in_place_on_G, "changed G in place"),
    ("5.2", "no 1e-6"): (change(iterate, eps=0.0), "1e-6"),
    ("5.2", "scaled as the rate is"): (scaled_for_tall, "rows of a tall matrix"),
    ("5.4", "one rate, a's"): (change(compared, shared=0), "own best rate and decay"),
    ("5.4", "one rate, b's"): (change(compared, shared=1), "own best rate and decay"),
    ("5.4", "all rates"): (change(compared, choose=lambda runs: None), "over all cells"),
    ("5.4", "best runs"): (change(compared, value=min), "means over seeds"),
    ("5.4", "divide by n"): (change(compared, spread=statistics.pvariance), "n - 1"),
    ("5.4", "standard error"): (change(compared, spread=lambda x: statistics.variance(x) / len(x)), "standard error"),
    ("5.4", "range"): (change(compared, spread=lambda x: max(x) - min(x), join=max), "range"),
    ("5.4", "spread of a"): (change(compared, join=lambda x, y: x**0.5), "one recipe"),
    ("5.4", "spread of b"): (change(compared, join=lambda x, y: y**0.5), "one recipe"),
    ("5.4", "spreads added up"): (change(compared, join=lambda x, y: x**0.5 + y**0.5), "added up"),
    ("5.4", "spreads averaged"): (change(compared, join=lambda x, y: (x**0.5 + y**0.5) / 2), "average the variances"),
    ("5.4", "spreads as of a difference"): (change(compared, join=lambda x, y: (x + y) ** 0.5), "by 2 before the root"),
    ("5.4", "no root"): (change(compared, join=lambda x, y: (x + y) / 2), "root of the variance"),
    ("5.4", "plain difference"): (change(compared, join=lambda x, y: 1), "divide by the common spread"),
    ("5.4", "all runs together"): (all_together, "includes the gap itself"),
    ("5.4", "wrong sign"): (change(compared, sign=-1), "the sign"),
    ("5.4", "no sign"): (lambda *a: abs(compared(*a)), "sign is lost"),
    ("5.4", "worst rate"): (change(compared, choose=worst_rate), "worst cells"),
    ("5.4", "seeds that swept left out"): (change(compared, take=lambda r: r["seed"] != 1), "seed 1 is missing"),
    ("5.4", "pooled by numbers"): (pooled, "count alike"),
    ("5.4", "sorts the rows"): (sorts_the_rows, "changed rows in place"),
    ("5.5", "larger Gram"): (change(flops, short=max, long=min), "larger Gram"),
    ("5.5", "Gram of the columns"): (change(flops, short=second, long=first), "shorter side"),
    ("5.5", "no factor 2"): (change(flops, two=1), "a multiplication and an addition"),
    ("5.5", "no square"): (change(flops, square=0), "square of the Gram"),
    ("5.5", "one long product"): (change(flops, products=1), "two products"),
    ("5.5", "steps ignored"): (lambda shapes, steps=5: flops(shapes, 5), "`steps` iterations"),
    ("5.5", "another default"): (lambda shapes, steps=1: flops(shapes, steps), "5 unless"),
    ("5.5", "applied to everything"): (change(flops, takes=lambda name: True), "embeddings and head"),
    ("5.5", "applied to the head"): (change(flops, takes=lambda n: "blocks" in n or "head" in n), "the embedding or the head"),
    ("5.5", "applied to value embeddings"): (change(flops, takes=no_tables), "value embeddings are in it"),
    ("5.5", "no gates"): (change(flops, takes=lambda name: "blocks" in name and "gate" not in name), "all matrices"),
    ("5.5", "one of each shape"): (change(flops, once=True), "each shape"),
}  # fmt: skip


SOLVED = answers("05", math=math, statistics=statistics, torch=torch)


WRONG |= {  # with the eye of a reviewer: state, sizes, text, types, rounding
    ("5.2", "bf16"): (lambda G, c, s: iterate(G.bfloat16(), c, s).float(), "X = G / 5, then"),
    ("5.2", "five iterations always"): (lambda G, c, s: iterate(G, (list(c) * 5)[:5], s), "use the polynomial that is given, and divide the"),
    ("5.2", "views"): (lambda G, c, s: iterate(G.view(-1).view(G.shape), c, s), "view needs contiguous tensors; use the methods of matrices"),
    ("5.2", "coefficients popped"): (lambda G, c, s: iterate(G, [c.pop(0) for _ in range(len(c))], s), "work on a copy"),
    ("5.2", "clamped"): (lambda G, c, s: iterate(G, c, s).clamp(-1, 1), "a x + b x³ + c x⁵ for each singular value"),
    ("5.2", "square as tall"): (lambda G, c, s: iterate(G, c, s) if G.size(0) != G.size(1) else iterate(G.T, c, s), "came out transposed"),
    ("5.4", "three seeds"): (lambda r, a, b: SOLVED["gap_in_spreads"]([x for x in r if x["seed"] <= 3], a, b), "your code stopped"),
    ("5.4", "kept from the first call, by names"): ((lambda k: lambda r, a, b: k.setdefault((a, b), SOLVED["gap_in_spreads"](r, a, b)))({}), "is each arm at the cell where its seed 1 did"),
    ("5.4", "first rate seen with seed 1"): (lambda r, a, b: compared(r, a, b, choose=lambda runs: cell(next(x for x in runs if x["seed"] == 1))), "both were taken at one cell|is each arm at the cell"),
    ("5.4", "median"): (lambda r, a, b: compared(r, a, b, value=statistics.median), "these are medians; take the means"),
    ("5.4", "lowest of all seeds"): (lambda r, a, b: compared(r, a, b, choose=lambda runs: cell(min(runs, key=lambda x: x["val_bpb"]))), "the cell was chosen with all seeds; seed 1 alone chooses it"),
    ("5.5", "ints of 32"): (lambda s, steps=5: int(np.array([flops(s, steps)]).astype(np.int32)[0]), "the matrices whose names begin with blocks., each by itself"),
    ("5.5", "pops shapes"): (lambda s, steps=5: (flops(s, steps), s.clear())[0], "changed shapes in place"),
    ("5.5", "at least 2 steps"): (lambda s, steps=5: flops(s, max(2, steps)), "2 k l k + 2 k k k + 2 k k l with k = 2, l = 4"),
}  # fmt: skip
RIGHT = {
    ("5.1", "in numpy"): by_numpy,
    ("5.1", "by eigenvalues"): by_eigenvalues,
    ("5.2", "with einsum, in float64"): each(with_einsum),
    ("5.2", "more products"): each(with_more_products),
    ("5.2", "in numpy"): each(in_numpy),
    ("5.3", "four products, a tuple"): four_products,
    ("5.3", "one stack for all, with zeros"): with_padding,
    ("5.4", "with torch"): with_torch,
    ("5.4", "with loops"): with_loops,
    ("5.5", "in numpy"): flops_in_numpy,
    ("5.5", "counted by torch"): flops_by_torch,
}  # fmt: skip


CURVES = {"cubic": ([0.1, 1.0], [0.15, 1.0]), "other": ([0.01, 2.0], [0.08, 1.2])}
STATES = [[0.5, 0.01], [0.9, 0.2], [1.0, 0.95]]
SWEEPS = {"AdamW": {(0.001, 0): [2.2], (0.002, 0): [2.1, 2.12], (0.002, 0.1): [2.3]}, "Muon": {(0.02, 0.1): [2.0], (0.01, 0.1): [2.05]}}
STEPS = {"AdamW": ("rate 0.002, decay 0", [2.1, 2.12]), "+ more": ("rate 0.1, decay 0", [2.0])}
FIGURES = {
    "circles": (lambda: figures.circles({"G": [[3, 0], [4, 5]], "turned": [[0, -1], [1, 0]]}), ["G: lengths from 2.24 to 6.71", "turned: lengths from 1.00 to 1.00"]),
    "spectra": (lambda: figures.spectra({"a": [4.0, 2.0, 1.0], "b": [5.0, 0.0]}), ["a: half-way down 0.5 of the largest, the last 0.2", "b:"]),
    "maps": (lambda: figures.maps(CURVES, band=0.25), ["cubic gives 0.15 at 0.1, 1 at 1", "at most 1.2", "0.750 to 1.250 is shaded"]),
    "maps, logarithmic": (lambda: figures.maps(CURVES, log=True), ["other gives 0.08 at 0.01"]),
    "iterations": (lambda: figures.iterations({"a": STATES, "b": STATES[:2]}, band=0.1), ["a: 0.01 to 0.5 before, 0.95 to 1 after 2, 2 of 2 within 0.100", "b:"]),
    "sweeps": (lambda: figures.sweeps(SWEEPS), ["AdamW: best at rate 0.002 and decay 0, 2 seeds there from 2.1000 to 2.1200; 3 cells, the worst 2.300", "Muon: best at rate 0.02"]),
    "steps": (lambda: figures.steps(STEPS), ["AdamW (rate 0.002, decay 0): mean 2.1100 of 2, 2.1000 to 2.1200", "+ more (rate 0.1"]),
    "curves": (lambda: figures.curves({"a": [3.0, 2.0], "b": [3.0, 2.1]}), ["a from 3.00 to 2.00", "b from 3.00 to 2.10"]),
}  # fmt: skip
REFUSED = {
    "no matrix": lambda: figures.circles({}),
    "a matrix of 2 x 3": lambda: figures.circles({"a": [[1, 2, 3], [4, 5, 6]]}),
    "four matrices": lambda: figures.circles({k: [[1, 0], [0, 1]] for k in "abcd"}),
    "no spectrum": lambda: figures.spectra({}),
    "one value": lambda: figures.spectra({"a": [1.0]}),
    "zeros": lambda: figures.spectra({"a": [0.0, 0.0]}),
    "no map": lambda: figures.maps({}),
    "a map too short": lambda: figures.maps({"a": ([1.0, 2.0], [1.0])}),
    "no iteration": lambda: figures.iterations({}),
    "one state": lambda: figures.iterations({"a": STATES[:1]}),
    "a zero": lambda: figures.iterations({"a": [[1.0], [0.0]]}),
    "an optimizer without runs": lambda: figures.sweeps({"AdamW": {}}),
    "three optimizers": lambda: figures.sweeps({k: SWEEPS["Muon"] for k in "abc"}),
    "seven decays": lambda: figures.sweeps({"a": {(0.1, d): [2.0] for d in range(7)}}),
    "a step without a run": lambda: figures.steps({"a": ("", [])}),
    "no step": lambda: figures.steps({}),
    "a curve of one step": lambda: figures.curves({"a": [3.0]}),
}

globals().update(lesson_tests("05", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
