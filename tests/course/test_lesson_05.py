"""Lesson 05: wrong answers to its exercises get their hint, right ones pass; its figures draw."""

import math
import statistics

import numpy as np
import torch
from lesson_cases import answers, change, lesson_tests

from gpt2course import optim
from gpt2course.course.figures import muon as figures

NAMES = {
    "5.1": ("nesterov",),
    "5.2": ("orthogonal",),
    "5.3": ("finish",),
    "5.4": ("gap_in_spreads",),
    "5.5": ("iteration_flops",),
}


# ---- 5.1, momentum


def ahead(
    grad,
    buffer,
    momentum,
    share=True,
    swap=False,
    old=False,
    order=False,
    plain=False,
    mutate=False,
    fixed=None,
    keep=False,
):
    """Nesterov momentum with one thing wrong."""
    momentum = fixed or (1 - momentum if swap else momentum)
    mine = 1 - momentum if share else 1.0
    new = momentum * buffer + mine * grad
    G = momentum * (buffer if old else new) + mine * grad
    if plain:
        G = new
    if mutate:
        grad.mul_(2)
    if keep:
        new = buffer
    return (new, G) if order else (G, new)


def ahead_in_place(grad, buffer, momentum):
    buffer.lerp_(grad, 1 - momentum)
    return grad.lerp(buffer, momentum), buffer


def ahead_in_numpy(grad, buffer, momentum):
    g, b = grad.numpy(), buffer.numpy()
    b = b + (g - b) * (1 - momentum)
    return [b + (g - b) * (1 - momentum), b]


def full_gradient_ahead(grad, buffer, momentum):
    new = momentum * buffer + (1 - momentum) * grad
    return momentum * new + grad, new


# ---- 5.2, orthogonalise


def iterate(
    G,
    coefficients,
    safety,
    norm="frobenius",
    order=1,
    small=True,
    square=True,
    side="left",
    back=True,
    own=None,
    late=False,
    eps=1e-6,
    swap=False,
    first=None,
):
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
        A = X @ X.T if side == "left" else X.T @ X if side == "right, from the left" else X * X
        X = (
            a * X + (b * A + c * (A @ A if square else A)) @ X
            if side != "numbers"
            else a * X + b * A * X + c * A * A * X
        )
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


def largest_gram(G, coefficients, safety):
    if G.size(0) < G.size(1):
        return large_gram_of_wide(G, coefficients, safety)
    return iterate(G, coefficients, safety, small=False)


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


def as_the_package(G, coefficients, safety):  # as a stack of one
    X = G[None] / (G.norm() * safety + 1e-6)
    for a, b, c in coefficients:
        tall = X.size(-2) > X.size(-1)
        A = X.mT @ X if tall else X @ X.mT
        B = b * A + c * (A @ A)
        X = a * X + (X @ B if tall else B @ X)
    return X[0]


# ---- 5.3, the end of the step


def end(
    p,
    U,
    lr,
    wd,
    mask=lambda p, U: U * p >= 0,
    factor=lambda m, n: math.sqrt(max(1, m / n)),
    decay_rate=None,
    both=False,
    sign=1,
    away=1,
    constant=False,
    mutate=False,
):
    """The end of the step with one thing wrong."""
    rate, keep = lr * factor(*p.shape), mask(p, U).to(p.dtype)
    dr = {None: rate, "lr": lr, "one": 1.0}[decay_rate]
    out = p - sign * rate * U * (keep if both else 1) - away * dr * wd * (1 if constant else p) * keep
    if mutate:
        U.mul_(0)
    return out


def end_in_loops(p, U, lr, wd):
    (m, n), out = p.shape, p.clone()
    rate = lr * (m / n) ** 0.5 if m > n else lr
    for i in range(m):
        for j in range(n):
            agree = U[i, j] * p[i, j] >= 0
            out[i, j] = p[i, j] * (1 - rate * wd if agree else 1) - rate * U[i, j]
    return out


def end_in_place(p, U, lr, wd):
    rate = lr * max(1.0, p.size(0) / p.size(1)) ** 0.5
    decay = torch.where((U * p).lt(0), torch.zeros_like(p), p)
    p.sub_(decay, alpha=rate * wd).sub_(U, alpha=rate)
    return p


def end_in_numpy(p, U, lr, wd):
    p, u = p.numpy(), U.numpy()
    rate = lr * np.sqrt(np.maximum(1, p.shape[0] / p.shape[1]))
    return p - rate * (u + wd * p * (np.sign(u) * np.sign(p) >= 0))


# ---- 5.4, is the gap real?


def best_rate(runs):
    return min((r for r in runs if r["seed"] == 1), key=lambda r: r["val_bpb"])["rate"]


def worst_rate(runs):
    return max((r for r in runs if r["seed"] == 1), key=lambda r: r["val_bpb"])["rate"]


def compared(
    rows,
    a,
    b,
    choose=best_rate,
    value=statistics.mean,
    spread=statistics.variance,
    join=lambda x, y: math.sqrt((x + y) / 2),
    shared=None,
    sign=1,
    take=lambda r: True,
):
    """The comparison with one thing wrong."""
    found = []
    rates = [choose([r for r in rows if r["recipe"] == name]) for name in (a, b)]
    if shared is not None:
        rates = [rates[shared]] * 2
    for name, rate in zip((a, b), rates):
        bpb = [r["val_bpb"] for r in rows if r["recipe"] == name and rate in (None, r["rate"]) and take(r)]
        found.append((value(bpb), spread(bpb)))
    (x, p), (y, q) = found
    return sign * (x - y) / join(p, q)


def all_together(rows, a, b):
    x, y = (
        [
            r["val_bpb"]
            for r in rows
            if r["recipe"] == n and r["rate"] == best_rate([s for s in rows if s["recipe"] == n])
        ]
        for n in (a, b)
    )
    return (statistics.mean(x) - statistics.mean(y)) / statistics.stdev(x + y)


def by_all_seeds(runs):
    return min(
        {r["rate"] for r in runs}, key=lambda rate: statistics.mean(r["val_bpb"] for r in runs if r["rate"] == rate)
    )


def pooled(rows, a, b):
    x, y = (
        [
            r["val_bpb"]
            for r in rows
            if r["recipe"] == n and r["rate"] == best_rate([s for s in rows if s["recipe"] == n])
        ]
        for n in (a, b)
    )
    common = sum((v - statistics.mean(g)) ** 2 for g in (x, y) for v in g) / (len(x) + len(y) - 2)
    return (statistics.mean(x) - statistics.mean(y)) / math.sqrt(common)


def sorts_the_rows(rows, a, b):
    rows.sort(key=lambda r: r["val_bpb"])
    return compared(rows, a, b)


def with_torch(rows, a, b):
    sides = []
    for name in (a, b):
        rate = best_rate([r for r in rows if r["recipe"] == name])
        sides.append(
            torch.tensor([r["val_bpb"] for r in rows if r["recipe"] == name and r["rate"] == rate], dtype=torch.float64)
        )
    return (sides[0].mean() - sides[1].mean()) / torch.stack([s.var() for s in sides]).mean().sqrt()


def with_loops(rows, a, b):
    out = {}
    for name in (a, b):
        least, rate = None, None
        for r in rows:
            if r["recipe"] == name and r["seed"] == 1 and (least is None or r["val_bpb"] < least):
                least, rate = r["val_bpb"], r["rate"]
        values = np.array([r["val_bpb"] for r in rows if (r["recipe"], r["rate"]) == (name, rate)])
        out[name] = values.mean(), values.std(ddof=1)
    return np.float64((out[a][0] - out[b][0]) / np.sqrt((out[a][1] ** 2 + out[b][1] ** 2) / 2))


# ---- 5.5, cost


def flops(
    shapes,
    steps=5,
    short=min,
    long=max,
    two=2,
    square=1,
    products=2,
    takes=lambda name: name.startswith("blocks."),
    once=False,
):
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
    ("5.1", "no lerp back"): (change(ahead, plain=True), "new buffer itself"),
    ("5.1", "with the old buffer"): (change(ahead, old=True), "new buffer itself"),
    ("5.1", "gradient in full"): (change(ahead, share=False), "added in full"),
    ("5.1", "gradient in full ahead"): (full_gradient_ahead, "added in full"),
    ("5.1", "shares exchanged"): (change(ahead, swap=True), "belongs to the old buffer"),
    ("5.1", "wrong order"): (change(ahead, order=True), "wrong order"),
    ("5.1", "changes the gradient"): (change(ahead, mutate=True), "changed in place"),
    ("5.1", "keeps the old buffer"): (change(ahead, keep=True), "old buffer came back"),
    ("5.1", "a fixed momentum"): (change(ahead, fixed=0.9), "fixed number"),
    ("5.1", "one result"): (lambda *a: ahead(*a)[0], "two results"),
    ("5.1", "nothing"): (lambda *a: None, "return missing"),
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
    ("5.2", "larger Gram of both"): (largest_gram, "transpose"),
    ("5.2", "not transposed back"): (change(iterate, back=False), "shape (2, 5), expected (5, 2)"),
    ("5.2", "reverse order"): (change(iterate, order=-1), "reverse order"),
    ("5.2", "the first coefficients always"): (change(iterate, first=True), "first were used twice"),
    ("5.2", "coefficients of its own"): (change(iterate, own=optim.POLAR_EXPRESS), "expected [0.792, 0.944]"),
    ("5.2", "b and c exchanged"): (change(iterate, swap=True), "exchanged"),
    ("5.2", "no square of the Gram matrix"): (change(iterate, square=False), "c belongs to the square"),
    ("5.2", "powers of numbers"): (change(iterate, side="numbers"), "matrix products"),
    ("5.2", "exact"): (by_svd, "use the polynomial"),
    ("5.2", "in place"): (in_place_on_G, "changed G in place"),
    ("5.2", "no 1e-6"): (change(iterate, eps=0.0), "1e-6"),
    ("5.2", "scaled as the rate is"): (scaled_for_tall, "rows of a tall matrix"),
    ("5.3", "decay everywhere"): (change(end, mask=lambda p, U: U * p > -99), "everywhere"),
    ("5.3", "mask flipped"): (change(end, mask=lambda p, U: U * p < 0), "wrong sign"),
    ("5.3", "mask of p"): (change(end, mask=lambda p, U: p >= 0), "p alone"),
    ("5.3", "mask of U"): (change(end, mask=lambda p, U: U >= 0), "U alone"),
    ("5.3", "mask above 0"): (change(end, mask=lambda p, U: U * p > 0), "where U is 0"),
    ("5.3", "update masked too"): (change(end, both=True), "only the decay"),
    ("5.3", "no decay"): (change(end, mask=lambda p, U: U * p > 99), "no decay"),
    ("5.3", "decay without the rate"): (change(end, decay_rate="one"), "multiplied by the rate"),
    ("5.3", "decay without the factor"): (change(end, decay_rate="lr"), "with its factor"),
    ("5.3", "adds U"): (change(end, sign=-1), "subtract U"),
    ("5.3", "decay away from zero"): (change(end, away=-1), "away from zero"),
    ("5.3", "decay by a constant"): (change(end, constant=True), "weight_decay alone"),
    ("5.3", "no factor"): (change(end, factor=lambda m, n: 1.0), "is missing"),
    ("5.3", "factor below 1"): (change(end, factor=lambda m, n: (m / n) ** 0.5), "never below 1"),
    ("5.3", "no root"): (change(end, factor=lambda m, n: max(1, m / n)), "square root"),
    ("5.3", "columns over rows"): (change(end, factor=lambda m, n: max(1, n / m) ** 0.5), "is missing"),
    ("5.3", "columns over rows, below 1"): (change(end, factor=lambda m, n: (n / m) ** 0.5), "rows over columns"),
    ("5.3", "changes U"): (change(end, mutate=True), "changed in place"),
    ("5.4", "one rate, a's"): (change(compared, shared=0), "each has its own best"),
    ("5.4", "one rate, b's"): (change(compared, shared=1), "each has its own best"),
    ("5.4", "all rates"): (change(compared, choose=lambda runs: None), "over all rates"),
    ("5.4", "best runs"): (change(compared, value=min), "means over seeds|√((spread_a"),
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
    ("5.4", "worst rate"): (change(compared, choose=worst_rate), "worst rates"),
    ("5.4", "rate chosen with all seeds"): (change(compared, choose=by_all_seeds), "seed 1 alone"),
    ("5.4", "seeds that swept left out"): (change(compared, take=lambda r: r["seed"] != 1), "expected"),
    ("5.4", "pooled by numbers"): (pooled, "count alike"),
    ("5.4", "sorts the rows"): (sorts_the_rows, "changed rows in place"),
    ("5.5", "larger Gram"): (change(flops, short=max, long=min), "larger Gram"),
    ("5.5", "Gram of the rows"): (change(flops, short=first, long=second), "larger Gram"),
    ("5.5", "Gram of the columns"): (change(flops, short=second, long=first), "shorter side"),
    ("5.5", "no factor 2"): (change(flops, two=1), "a multiplication and an addition"),
    ("5.5", "no square"): (change(flops, square=0), "square of the Gram"),
    ("5.5", "one long product"): (change(flops, products=1), "two products"),
    ("5.5", "steps ignored"): (lambda shapes, steps=5: flops(shapes, 5), "`steps` iterations"),
    ("5.5", "another default"): (lambda shapes, steps=1: flops(shapes, steps), "5 unless"),
    ("5.5", "applied to everything"): (change(flops, takes=lambda name: True), "embeddings and head"),
    ("5.5", "applied to the head"): (change(flops, takes=lambda n: "blocks" in n or "head" in n), "the embedding or the head"),
    ("5.5", "applied to the embedding"): (change(flops, takes=lambda n: "blocks" in n or "wte" in n), "embedding or the head"),
    ("5.5", "applied to value embeddings"): (change(flops, takes=no_tables), "value embeddings are in it"),
    ("5.5", "no gates"): (change(flops, takes=lambda name: "blocks" in name and "gate" not in name), "all matrices"),
    ("5.5", "one of each shape"): (change(flops, once=True), "each shape"),
}  # fmt: skip


SOLVED = answers("05", math=math, statistics=statistics, torch=torch)


WRONG |= {  # with the eye of a reviewer: state, sizes, text, types, rounding
    ("5.1", "a buffer of its own"): ((lambda st: lambda g, b, m: (lambda n: (st.update(b=n), (m * n + (1 - m) * g, n))[1])(m * st.get("b", b) + (1 - m) * g if st.get("b", b).shape == g.shape else m * b + (1 - m) * g))({}), "use the buffer that is given"),
    ("5.1", "same tensor"): (lambda g, b, m: (b.lerp_(g, 1 - m), b.lerp_(g, 1 - m)), "G came back as the buffer; keep the plain running mean"),
    ("5.1", "bf16"): (lambda g, b, m: tuple(x.bfloat16() for x in SOLVED["nesterov"](g, b, m)), "momentum · buffer + (1 - momentum) · grad"),
    ("5.1", "numpy ints"): (lambda g, b, m: tuple(x.round(decimals=2) for x in SOLVED["nesterov"](g, b, m)), "the buffer is off; is the momentum a fixed number?"),
    ("5.1", "dict"): (lambda g, b, m: dict(zip("Gb", SOLVED["nesterov"](g, b, m))), "came out"),
    ("5.1", "momentum at least .9"): (lambda g, b, m: SOLVED["nesterov"](g, b, max(m, 0.9)), "the buffer is off; is the momentum a fixed number?"),
    ("5.2", "bf16"): (lambda G, c, s: iterate(G.bfloat16(), c, s).float(), "came out"),
    ("5.2", "five iterations always"): (lambda G, c, s: iterate(G, (list(c) * 5)[:5], s), "use the polynomial that is given, and divide the"),
    ("5.2", "eps in each"): (lambda G, c, s: iterate(G, c, s, eps=1e-2), "came out"),
    ("5.2", "views"): (lambda G, c, s: iterate(G.view(-1).view(G.shape), c, s), "view needs contiguous tensors; use the methods of matrices"),
    ("5.2", "coefficients popped"): (lambda G, c, s: iterate(G, [c.pop(0) for _ in range(len(c))], s), "work on a copy"),
    ("5.2", "clamped"): (lambda G, c, s: iterate(G, c, s).clamp(-1, 1), "a x + b x³ + c x⁵ for each singular value"),
    ("5.2", "kept from the first call"): ((lambda k: lambda G, c, s: k.setdefault(G.shape, iterate(G, c, s)))({}), "safety is ignored; divide by safety times the norm"),
    ("5.2", "square as tall"): (lambda G, c, s: iterate(G, c, s) if G.size(0) != G.size(1) else iterate(G.T, c, s), "came out"),
    ("5.3", "views"): (lambda p, U, lr, w: SOLVED["finish"](p.view(-1).view(p.shape), U, lr, w), "your code stopped"),
    ("5.3", "m // n"): (lambda p, U, lr, w: SOLVED["finish"](p, U, lr / math.sqrt(max(1, p.size(0) / p.size(1))) * math.sqrt(max(1, p.size(0) // p.size(1))), w), "rate and cautious decay - a random matrix (12, 5)"),
    ("5.3", "ratio of sides"): (lambda p, U, lr, w: SOLVED["finish"](p, U, lr * (math.sqrt(max(p.shape) / min(p.shape)) if p.size(0) < p.size(1) else 1), w), "√max(1, m/n)"),
    ("5.3", "mask after step"): (lambda p, U, lr, w: (lambda r, q: q - r * w * p * (U * q >= 0))(lr * math.sqrt(max(1, p.size(0) / p.size(1))), p - lr * math.sqrt(max(1, p.size(0) / p.size(1))) * U), "rate and cautious decay - a random matrix (5, 12)"),
    ("5.3", "decay after step"): (lambda p, U, lr, w: (lambda r: (p - r * U) * (1 - r * w * (U * p >= 0)))(lr * math.sqrt(max(1, p.size(0) / p.size(1)))), "p - rate · U - rate · weight_decay · p where U · p ≥ 0"),
    ("5.3", "bf16 out"): (lambda p, U, lr, w: SOLVED["finish"](p, U, lr, w).bfloat16(), "p - rate · U - rate · weight_decay · p where U · p ≥ 0"),
    ("5.3", "mask of the sum"): (lambda p, U, lr, w: (lambda r: p - r * U - r * w * p * ((U * p).sum() >= 0))(lr * math.sqrt(max(1, p.size(0) / p.size(1)))), "the decay acts everywhere; let it act only where U · p ≥ 0"),
    ("5.3", "mask by row"): (lambda p, U, lr, w: (lambda r: p - r * U - r * w * p * ((U * p).sum(1, keepdim=True) >= 0))(lr * math.sqrt(max(1, p.size(0) / p.size(1)))), "the decay acts everywhere; let it act only where U · p ≥ 0"),
    ("5.4", "three seeds"): (lambda r, a, b: SOLVED["gap_in_spreads"]([x for x in r if x["seed"] <= 3], a, b), "your code stopped"),
    ("5.4", "kept from the first call, by names"): ((lambda k: lambda r, a, b: k.setdefault((a, b), SOLVED["gap_in_spreads"](r, a, b)))({}), "is each recipe at the rate where its seed 1 did"),
    ("5.4", "sorted names"): (lambda r, a, b: SOLVED["gap_in_spreads"](r, *sorted((a, b))), "the sign is lost"),
    ("5.4", "first rate seen with seed 1"): (lambda r, a, b: compared(r, a, b, choose=lambda runs: next(x for x in runs if x["seed"] == 1)["rate"]), "both recipes were taken at one rate; each has its own best"),
    ("5.4", "median"): (lambda r, a, b: compared(r, a, b, value=statistics.median), "these are medians; take the means"),
    ("5.4", "lowest of all seeds"): (lambda r, a, b: compared(r, a, b, choose=lambda runs: min(runs, key=lambda x: x["val_bpb"])["rate"]), "the rate was chosen with all seeds; seed 1 alone chooses it"),
    ("5.5", "rank by shape[0]"): (lambda s, steps=5: flops({k: tuple(sorted(v)) for k, v in s.items() if "attn" in k}, steps), "2 k l k + 2 k k k + 2 k k l with k = 2, l = 4"),
    ("5.5", "ints of 32"): (lambda s, steps=5: int(np.array([flops(s, steps)]).astype(np.int32)[0]), "the matrices whose names begin with blocks., each by itself"),
    ("5.5", "pops shapes"): (lambda s, steps=5: (flops(s, steps), s.clear())[0], "your code stopped"),
    ("5.5", "blocks anywhere in value"): (lambda s, steps=5: flops(s, steps, takes=lambda n: "block" in n or n.startswith("value")), "the value embeddings are in it; they are tables,"),
    ("5.5", "at least 2 steps"): (lambda s, steps=5: flops(s, max(2, steps)), "2 k l k + 2 k k k + 2 k k l with k = 2, l = 4"),
    ("5.5", "no side above 2000"): (lambda s, steps=5: flops({k: v for k, v in s.items() if max(v) < 2000}, steps), "the matrices whose names begin with blocks., each by itself"),
}  # fmt: skip
RIGHT = {
    ("5.1", "in place"): ahead_in_place,
    ("5.1", "in numpy, as differences"): ahead_in_numpy,
    ("5.2", "with einsum, in float64"): with_einsum,
    ("5.2", "more products"): with_more_products,
    ("5.2", "in numpy"): in_numpy,
    ("5.2", "as the package"): as_the_package,
    ("5.3", "in loops"): end_in_loops,
    ("5.3", "in place"): end_in_place,
    ("5.3", "in numpy"): end_in_numpy,
    ("5.4", "with torch"): with_torch,
    ("5.4", "with loops"): with_loops,
    ("5.5", "in numpy"): flops_in_numpy,
    ("5.5", "counted by torch"): flops_by_torch,
}  # fmt: skip


CURVES = {"cubic": ([0.1, 1.0], [0.15, 1.0]), "other": ([0.01, 2.0], [0.08, 1.2])}
STATES = [[0.5, 0.01], [0.9, 0.2], [1.0, 0.95]]
SWEEPS = {"AdamW": [(0.001, 2.2), (0.002, 2.1)], "Muon": [(0.02, 2.0), (0.01, 2.05)]}
FIGURES = {
    "circles": (lambda: figures.circles({"G": [[3, 0], [4, 5]], "turned": [[0, -1], [1, 0]]}), ["G: lengths from 2.24 to 6.71", "turned: lengths from 1.00 to 1.00"]),
    "spectra": (lambda: figures.spectra({"a": [4.0, 2.0, 1.0], "b": [5.0, 0.0]}), ["a: half-way down 0.5 of the largest, the last 0.2", "b:"]),
    "maps": (lambda: figures.maps(CURVES, band=0.25), ["cubic gives 0.15 at 0.1, 1 at 1", "at most 1.2", "0.750 to 1.250 is shaded"]),
    "maps, logarithmic": (lambda: figures.maps(CURVES, log=True), ["other gives 0.08 at 0.01"]),
    "iterations": (lambda: figures.iterations({"a": STATES, "b": STATES[:2]}, band=0.1), ["a: 0.01 to 0.5 before, 0.95 to 1 after 2, 2 of 2 within 0.100", "b:"]),
    "rates": (lambda: figures.rates(SWEEPS, {"AdamW": [2.1, 2.12], "Muon": [2.0]}), ["AdamW: best rate 0.002, 2 seeds there from 2.100 to 2.120", "Muon: best rate 0.02"]),
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
    "an optimizer without seeds": lambda: figures.rates(SWEEPS, {"AdamW": [2.1]}),
    "one rate": lambda: figures.rates({"AdamW": [(0.1, 2.0)]}, {"AdamW": [2.0]}),
}

globals().update(lesson_tests("05", NAMES, WRONG, RIGHT, FIGURES, REFUSED))
