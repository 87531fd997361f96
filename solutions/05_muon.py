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
# Five pieces: Nesterov momentum, the orthogonal update, the end of the step with its rate and cautious decay, whether a
# measured gap is real, and what the iteration costs. Replace each `raise NotImplementedError` by your answer and run the check
# below it. The lesson is [05 Muon](../lessons/05_muon.ipynb).
#
# `make start EX=05` puts a copy of this notebook in work/, where your answers survive an update of the course.
# `make grade EX=05` grades that copy.

# %% tags=["setup"]
import math
import statistics

import torch

from gpt2course.course.checks import pictures
from gpt2course.course.figures import muon as figures
from gpt2course.optim import POLAR_EXPRESS

# %% [markdown] tags=["ex-5.1"]
# ## 5.1 Nesterov momentum
#
# `buffer` is the running mean of the gradients of a matrix, and `grad` is its newest gradient, of the same shape. First move
# the running mean, then look one step further ahead:
#
#     buffer  <-  momentum · buffer + (1 - momentum) · grad
#     G       =   momentum · buffer + (1 - momentum) · grad        (with the new buffer)
#
# Return G and the new buffer, in this order. You may change `buffer` in place, but not `grad`.
#
# A tiny example: buffer 2, grad 1 and momentum 0.9 give the new buffer 0.9 · 2 + 0.1 · 1 = 1.9, and then
# G = 0.9 · 1.9 + 0.1 · 1 = 1.81.
#
# <details><summary>Help: G came out as 1.9</summary>
#
# Then G is the new buffer itself, or was computed with the old one. Mix the gradient in once more, with the *new* buffer.
# </details>
# <details><summary>Help: G came out larger than both</summary>
#
# Some optimizers add the gradient in full (buffer <- momentum · buffer + grad). Here both lines are means, so the numbers stay
# between those that go in.
# </details>

# %% tags=["answer", "ex-5.1"]
def nesterov(grad, buffer, momentum):
    """grad and buffer of one shape, momentum a number -> (G, the new buffer)."""
    ### BEGIN SOLUTION
    buffer = momentum * buffer + (1 - momentum) * grad
    G = momentum * buffer + (1 - momentum) * grad
    return G, buffer
    ### END SOLUTION


# %% tags=["check", "ex-5.1"]
from gpt2course.course.checks import check

check("5.1", nesterov)

# %% [markdown] tags=["ex-5.2"]
# ## 5.2 Orthogonalise
#
# G is a matrix (m, n). Push its singular values towards 1:
#
# 1. Divide G by `safety` times its Frobenius norm (plus 1e-6, so that a gradient of zeros stays zeros).
# 2. For each (a, b, c) of `coefficients`, in order: X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X.
#
# X Xᵀ is the Gram matrix (m, m). For a tall matrix (m > n) use the other one, Xᵀ X (n, n), and multiply from the right: the
# result is the same and the work is less. Return X (m, n), and leave G as it is. G is float32: compute in float32 or better, since
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
# <details><summary>Help: which powers?</summary>
#
# With A = X Xᵀ, the iteration is a X + (b A + c A²) X. A² is the product of A with itself, not the square of each number.
# </details>
#
# The picture shows the singular values of a matrix before and after each iteration of Polar Express. The five polynomials lift
# the small ones round by round, until nearly all are in the shaded band.

# %% tags=["answer", "ex-5.2"]
def orthogonal(G, coefficients, safety):
    """G (m, n), coefficients a list of (a, b, c), safety a number -> (m, n), singular values near 1."""
    ### BEGIN SOLUTION
    X = G / (safety * G.norm() + 1e-6)
    tall = G.size(0) > G.size(1)
    X = X.T if tall else X  # (short, long)
    for a, b, c in coefficients:
        A = X @ X.T  # (short, short)
        X = a * X + (b * A + c * A @ A) @ X
    return X.T if tall else X
    ### END SOLUTION


# %% tags=["check", "ex-5.2"]
from gpt2course.course.checks import check

check("5.2", orthogonal)

# %% tags=["picture", "ex-5.2"]
noise = torch.Generator().manual_seed(5)
G = torch.randn(48, 48, generator=noise) * torch.logspace(0, -1.5, 48)


def draw(f):
    states = [torch.linalg.svdvals(f(G, POLAR_EXPRESS[:k], 1.02)).tolist() for k in range(6)]
    return figures.iterations({"Polar Express": states}, band=0.14113)


pictures("5.2", draw, orthogonal)

# %% [markdown] tags=["ex-5.3"]
# ## 5.3 The end of the step: rate and cautious decay
#
# p is a matrix (m, n), U (m, n) its finished update. The rate is lr · √max(1, m/n), so a tall matrix gets a higher one. A step
# subtracts rate · U. It also pulls p towards zero by rate · weight_decay · p, but only those numbers of p that U moves
# towards zero as well (or leaves alone): where U · p ≥ 0. Everywhere else there is no decay.
#
# Return the new p. Leave U as it is.
#
# A tiny example, on a square matrix with lr 0.1 and weight_decay 0.5. Where p = 2 and U = 1, the new p is
# 2 - 0.1 · 1 - 0.1 · 0.5 · 2 = 1.8. Where p = 2 and U = -1, it is 2 + 0.1 = 2.1, without decay.
#
# <details><summary>Help: the sign of the mask</summary>
#
# The update is *subtracted*. If p and U are both positive, the update makes p smaller, and so does decay: they agree.
# </details>
# <details><summary>Help: what is masked?</summary>
#
# Only the decay. The update itself is subtracted everywhere.
# </details>
# <details><summary>Help: wide matrices come out wrong</summary>
#
# For a wide matrix m/n is below 1, and the rate is lr itself.
# </details>

# %% tags=["answer", "ex-5.3"]
def finish(p, U, lr, weight_decay):
    """p and U (m, n), lr and weight_decay numbers -> the new p (m, n)."""
    ### BEGIN SOLUTION
    m, n = p.shape
    rate = lr * math.sqrt(max(1, m / n))
    agree = (U * p >= 0).to(p.dtype)
    return p - rate * U - rate * weight_decay * p * agree
    ### END SOLUTION


# %% tags=["check", "ex-5.3"]
from gpt2course.course.checks import check

check("5.3", finish)

# %% [markdown] tags=["ex-5.4"]
# ## 5.4 Is the gap real?
#
# `rows` is a list of runs, each a dict with `recipe`, `rate`, `seed` and `val_bpb` (lower is better). How far apart are recipes
# a and b, each at its own best rate, measured in spreads of the seeds?
#
# 1. The best rate of a recipe is the one at which its run with seed 1 has the lowest `val_bpb`. (Only seed 1 was run at every
#    rate.)
# 2. Take all runs of that recipe at that rate, whatever their seed (there are at least two). Their mean is the recipe's result,
#    and their sample standard deviation (divide by one less than their number) is its spread.
# 3. The common spread is √((spread_a² + spread_b²) / 2).
#
# Return (mean of a - mean of b) / common spread: positive if b is better.
#
# A tiny example: a has 2.0 and 2.2 at its best rate, b has 1.7 and 1.9. The means are 2.1 and 1.8, both spreads are 0.1414, and
# the answer is 0.3 / 0.1414 = 2.12.
#
# <details><summary>Help: my gap is too large or too small by a constant factor</summary>
#
# With two runs, dividing by n gives a standard deviation smaller by √2 than dividing by n - 1. `statistics.stdev` and
# `torch.std` divide by n - 1, `statistics.pstdev` and `numpy.std` by n. The standard error (divided by √n) is something else:
# the spread of a mean.
# </details>
# <details><summary>Help: which rate?</summary>
#
# Each recipe has its own. Comparing two optimizers at one and the same rate says nothing. And a mean over all rates mixes
# in the runs at bad rates.
# </details>
# <details><summary>Help: why not the best run of each?</summary>
#
# With more seeds the best of them gets better by luck alone. The mean does not.
# </details>

# %% tags=["answer", "ex-5.4"]
def gap_in_spreads(rows, a, b):
    """rows: dicts with recipe, rate, seed, val_bpb; a and b names of recipes -> a number, positive if b is better."""
    ### BEGIN SOLUTION
    means, variances = [], []
    for recipe in (a, b):
        runs = [r for r in rows if r["recipe"] == recipe]
        rate = min((r for r in runs if r["seed"] == 1), key=lambda r: r["val_bpb"])["rate"]
        bpb = [r["val_bpb"] for r in runs if r["rate"] == rate]
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
