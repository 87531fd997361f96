# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: gpt2course
#     language: python
#     name: gpt2course
# ---

# %% [markdown]
# # Exercises 05: Muon
#
# Five exercises: the best step under another limit, the iteration for any matrix, one step for matrices of every shape, whether a
# measured gap is real, and what the iteration costs. Replace each `raise NotImplementedError` by your answer and run the check
# below it. The lesson is [05 Muon](../lessons/05_muon.ipynb).
#
# Only answers in work/ are graded: `make start EX=05` puts your copy of this notebook there, `make grade EX=05` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import math
import statistics

import torch

from gpt2course.course.checks import pictures
from gpt2course.course.figures import muon as figures
from gpt2course.optim import POLAR_EXPRESS

# %% [markdown] tags=["ex-5.1"]
# ## 5.1 The best step under another limit
#
# A step W - η · X lowers the loss, to first order, by η times the sum of all numbers of G · X (number by number). The lesson found
# the X with the largest sum if X may stretch no input beyond 1. Another limit has another winner. Return it for each:
#
# | `limit` | what X may be |
# |---|---|
# | `"norm"` | the root of the sum of the squares of all numbers of X is at most 1 |
# | `"number"` | no number of X is larger than 1 or less than -1 |
# | `"rows"` | no row of X is longer than 1 (a row's length is the root of its sum of squares) |
# | `"stretch"` | no singular value of X is larger than 1, as in the lesson; use the SVD |
#
# G is (m, n), of any shape and size; leave it as it is. Its numbers are not 0, but a whole row of G may be: for `"rows"` it stays zeros.
#
# One of them is the first step of Adam, and one fits an embedding, of which each token takes one row.
#
# <details><summary>Help: rows</summary>
#
# Each row has its own limit, so each row is a small problem of its own: the best vector of length 1 for a given vector.
# </details>
# <details><summary>Help: the shapes of the SVD</summary>
#
# `torch.linalg.svd(G, full_matrices=False)` returns U, S and Vᵀ (not V) with shapes that fit for any G.
# </details>

# %% tags=["answer", "ex-5.1"]
def best_step(G, limit):
    """G (m, n), limit "norm", "number", "rows" or "stretch" -> X (m, n) with the largest sum of G * X."""
    ### BEGIN SOLUTION
    if limit == "norm":
        return G / G.norm()
    if limit == "number":
        return G.sign()
    if limit == "rows":
        return G / G.norm(dim=1, keepdim=True).clamp_min(1e-12)
    U, S, Vt = torch.linalg.svd(G, full_matrices=False)
    return U @ Vt
    ### END SOLUTION


# %% tags=["check", "ex-5.1"]
from gpt2course.course.checks import check

check("5.1", best_step)

# %% [markdown] tags=["ex-5.2"]
# ## 5.2 Orthogonalise any matrix, or a stack
#
# G is a matrix (m, n), or a stack of matrices of one shape (K, m, n), as the optimizer has them on a GPU. Push the singular values of
# each matrix towards 1:
#
# 1. Divide each matrix by `safety` times its Frobenius norm (plus 1e-6, so that a gradient of zeros stays zeros).
# 2. For each (a, b, c) of `coefficients`, in order: X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X.
#
# X Xᵀ is the Gram matrix (m, m). For a tall matrix (m > n) use the other one, Xᵀ X (n, n), and multiply from the right: the
# result is the same and the work is less. Return X, of the shape of G, and leave G as it is. G is float32: compute in float32 or better, since
# bfloat16 would be off by more than the check allows.
#
# A tiny example: G is diagonal with 3 and 4, coefficients [(1.5, -0.5, 0)], safety 1. The Frobenius norm is 5, so X begins with
# 0.6 and 0.8. After one iteration they are 1.5 · 0.6 - 0.5 · 0.6³ = 0.792 and 1.5 · 0.8 - 0.5 · 0.8³ = 0.944.
#
# <details><summary>Help: very large numbers, or nan</summary>
#
# The polynomials only work for singular values up to 1. Divide before the first iteration. The Frobenius norm is the root of
# the sum of all squares, which is never less than the largest singular value.
# </details>
# <details><summary>Help: "a tall matrix made a product of 96 x 96 on the way"</summary>
#
# For a tall X, X Xᵀ is the larger Gram matrix. Transpose G if it is tall and transpose the result back, or write the iteration
# with A = Xᵀ X and the product from the right.
# </details>
# <details><summary>Help: stacks</summary>
#
# `X.mT` transposes each matrix of a stack, `X @ Y` multiplies them one by one, and `G.norm(dim=(-2, -1), keepdim=True)` is a norm for
# each. All three do the same for a single matrix.
# </details>
# <details><summary>Help: which powers?</summary>
#
# With A = X Xᵀ, the iteration is a X + (b A + c A²) X. A² is the product of A with itself, not the square of each number.
# </details>
#
# The picture shows the singular values of a matrix before and after each iteration of Polar Express. The five polynomials lift
# the small ones round by round, until nearly all are in the shaded band.

# %% tags=["answer", "ex-5.2"]
def orthogonal(G, coefficients, safety):
    """G (m, n) or (K, m, n), coefficients a list of (a, b, c), safety a number -> the same shape, singular values near 1."""
    ### BEGIN SOLUTION
    X = G / (safety * G.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    tall = X.size(-2) > X.size(-1)
    X = X.mT if tall else X  # (short, long)
    for a, b, c in coefficients:
        A = X @ X.mT  # (short, short)
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X
    ### END SOLUTION


# %% tags=["check", "ex-5.2"]
from gpt2course.course.checks import check

check("5.2", orthogonal)

# %% tags=["picture", "ex-5.2"]
noise = torch.Generator().manual_seed(5)
G = torch.randn(48, 48, generator=noise) * torch.logspace(0, -1.5, 48)


def draw(f):
    states = [torch.linalg.svdvals(torch.as_tensor(f(G, POLAR_EXPRESS[:k], 1.02))).tolist() for k in range(6)]
    return figures.iterations({"Polar Express": states}, band=0.14113)


pictures("5.2", draw, orthogonal)

# %% [markdown] tags=["ex-5.3"]
# ## 5.3 One step for every shape
#
# `params` is a list of matrices and `grads` has the gradient of each, of the same shape. Shapes differ: square, tall, wide, a single row,
# a single column. Return the list of the new matrices, in the same order:
#
#     p  <-  p - lr · √max(1, rows / columns) · orthogonal(grad)
#
# with the iteration of 5.2 (you may call your `orthogonal`). Change neither list nor any matrix in it.
#
# One path for all of them: a GPU is fast if it gets few and large pieces of work. So matrices with the same two sides go through the iteration as
# **one stack**, also if one is the other lying down. (64, 256) and (256, 64) are one stack of two. The check counts the
# matrix products: three in each round for each pair of sides are enough, four are allowed.
#
# A tiny example: six matrices, three of (4, 8), two of (8, 4) and one of (1, 5), and two rounds. There are two pairs of sides, so at
# most 2 · 2 · 4 = 16 products. One matrix after the other would need at least 6 · 2 · 3 = 36.
#
# <details><summary>Help: how do I group them?</summary>
#
# A dict from (short side, long side) to the list of positions. Turn each tall gradient (`g.T`) before `torch.stack`, and turn its
# update back afterwards. Lists of positions keep the order.
# </details>
# <details><summary>Help: a matrix of one row</summary>
#
# It needs nothing special. Its only singular value is its length.
# </details>
# <details><summary>Help: the factor</summary>
#
# It belongs to the shape of p, before it is turned.
# </details>

# %% tags=["answer", "ex-5.3"]
def one_step(params, grads, lr, coefficients, safety):
    """params, grads: lists of matrices; lr a number; coefficients and safety as in 5.2 -> list of the new matrices."""
    ### BEGIN SOLUTION
    groups, new = {}, [None] * len(params)
    for i, g in enumerate(grads):
        groups.setdefault((min(g.shape), max(g.shape)), []).append(i)
    for positions in groups.values():
        wide = [grads[i].T if grads[i].size(0) > grads[i].size(1) else grads[i] for i in positions]
        for i, U in zip(positions, orthogonal(torch.stack(wide), coefficients, safety)):
            m, n = params[i].shape
            new[i] = params[i] - lr * math.sqrt(max(1, m / n)) * (U.T if m > n else U)
    return new
    ### END SOLUTION


# %% tags=["check", "ex-5.3"]
from gpt2course.course.checks import check

check("5.3", one_step)

# %% [markdown] tags=["ex-5.4"]
# ## 5.4 Is the gap real?
#
# `rows` is a list of runs, each a dict with `arm` (the optimizer), `rate`, `decay`, `seed` and `val_bpb` (lower is better). How far apart are
# arms a and b, each at its own best rate and decay, measured in spreads of the seeds?
#
# 1. A cell is a rate and a decay. The best cell of an arm is the one in which its run with seed 1 has the lowest `val_bpb`. (Only
#    seed 1 was run in every cell.)
# 2. Take all runs of that arm in that cell, whatever their seed (there are at least two). Their mean is the arm's result, and their
#    sample standard deviation (divide by one less than their number) is its spread.
# 3. The common spread is √((spread_a² + spread_b²) / 2).
#
# Return (mean of a - mean of b) / common spread: positive if b is better. Try it on `lab.recorded("rate-and-decay")`, with a =
# `"modern"` (AdamW) and b = `"muon"`.
#
# A tiny example: a has 2.0 and 2.2 in its best cell, b has 1.7 and 1.9. The means are 2.1 and 1.8, both spreads are 0.1414, and
# the answer is 0.3 / 0.1414 = 2.12.
#
# <details><summary>Help: my gap is too large or too small by a constant factor</summary>
#
# With two runs, dividing by n gives a standard deviation smaller by √2 than dividing by n - 1. `statistics.stdev` and
# `torch.std` divide by n - 1, `statistics.pstdev` and `numpy.std` by n. The standard error (divided by √n) is something else:
# the spread of a mean.
# </details>
# <details><summary>Help: which cell?</summary>
#
# Each arm has its own. Two optimizers at one and the same rate say nothing, and one rate has several decays. A mean over all
# cells mixes in the bad ones.
# </details>
# <details><summary>Help: why not the best run of each?</summary>
#
# With more seeds the best of them gets better by luck alone. The mean does not.
# </details>

# %% tags=["answer", "ex-5.4"]
def gap_in_spreads(rows, a, b):
    """rows: dicts with arm, rate, decay, seed, val_bpb; a and b names of arms -> a number, positive if b is better."""
    ### BEGIN SOLUTION
    means, variances = [], []
    for arm in (a, b):
        runs = [r for r in rows if r["arm"] == arm]
        best = min((r for r in runs if r["seed"] == 1), key=lambda r: r["val_bpb"])
        bpb = [r["val_bpb"] for r in runs if (r["rate"], r["decay"]) == (best["rate"], best["decay"])]
        means.append(statistics.mean(bpb))
        variances.append(statistics.variance(bpb))
    return (means[0] - means[1]) / math.sqrt(sum(variances) / 2)
    ### END SOLUTION


# %% tags=["check", "ex-5.4"]
from gpt2course.course.checks import check

check("5.4", gap_in_spreads)

# %% [markdown] tags=["ex-5.5"]
# ## 5.5 What the iteration costs
#
# `shapes` gives the shape of every parameter of a model by name, for example `{"wte.weight": (1024, 64),
# "blocks.0.attn.c_q.weight": (64, 64), "x0_lambdas": (2,)}`. Muon takes the matrices inside the layers, whose names begin with
# `blocks.`; AdamW takes all the rest. Return the FLOPs that the orthogonalisation costs in one optimizer step.
#
# Count the matrix products alone. A product of (p, q) with (q, r) costs 2 · p · q · r FLOPs. A matrix with the shorter side k and
# the longer side l needs three products in each iteration: the Gram matrix (k, l) · (l, k), its square (k, k) · (k, k), and
# the product of the result with X, (k, k) · (k, l). There are `steps` iterations.
#
# A tiny example: one matrix of 4 x 2 and one iteration cost 2 · 2 · 4 · 2 + 2 · 2 · 2 · 2 + 2 · 2 · 2 · 4, which is
# 32 + 16 + 32 = 80 FLOPs.
#
# <details><summary>Help: far too large for a model with a large vocabulary</summary>
#
# The embedding and the head are matrices too, but they do not get Muon.
# </details>
# <details><summary>Help: right for square matrices only</summary>
#
# The Gram matrix has the *shorter* side, whether the matrix is tall or wide.
# </details>

# %% tags=["answer", "ex-5.5"]
def iteration_flops(shapes, steps=5):
    """shapes: name -> shape of every parameter of a model; steps: iterations -> FLOPs of one optimizer step, a number."""
    ### BEGIN SOLUTION
    total = 0
    for name, shape in shapes.items():
        if name.startswith("blocks."):
            k, l = min(shape), max(shape)
            total += steps * (2 * k * l * k + 2 * k * k * k + 2 * k * k * l)
    return total
    ### END SOLUTION


# %% tags=["check", "ex-5.5"]
from gpt2course.course.checks import check

check("5.5", iteration_flops)
