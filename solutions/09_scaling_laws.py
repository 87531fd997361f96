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
# # Exercises 09: Scaling laws
#
# Four uses of what the lesson built: the bill for a target, a grid in which one run is broken, the price of a model that is smaller
# than best, and the game on clusters that nobody has seen. Replace each `raise NotImplementedError` by your answer and run the
# check below it. The lesson is [09 Scaling laws](../lessons/09_scaling_laws.ipynb).
#
# Only answers in work/ are graded: `make start EX=09` puts your copy of this notebook there, `make grade EX=09` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import math

import numpy as np

from gpt2course.course.checks import pictures
from gpt2course.course.figures import scaling_laws as figures

# %% [markdown] tags=["ex-9.1"]
# ## 9.1 The bill for a target
#
# `points` are minima of IsoFLOP curves, each (C, N, D, bits per byte). C, N and D follow power laws, and so do bits per byte. Which budget
# reaches `target` bits per byte, with which N and D? And what does the run cost: hours and dollars on `gpus` GPUs that reach
# the share `mfu` of `peak` FLOP/s each, at `price` dollars for one GPU and hour? Fit N and D by their own laws in C.
#
# A tiny example: points (1e16, ..., 4.0) and (1e18, ..., 2.0). A hundredfold budget halves the bits per byte. So a target of 1.0
# needs 1e20 FLOPs.
#
# Then take nanochat's three points of January (`scaling.PUBLISHED` in the lesson) and its 3.04-hour run: 0.748 bits per byte, 8 GPUs of
# 989e12 FLOP/s, mfu 0.5, 3 dollars. The old law asks for about three times the hours. (If both were scored on the same text,
# which we do not know.)
#
# <details><summary>Help: the budget comes out negative, or far too small</summary>
#
# Fit straight lines to logarithms. Then log bpb = log f + g log C gives C = (target / f)^(1 / g), and g is negative.
# </details>

# %% tags=["answer", "ex-9.1"]
def bill(points, target, gpus, peak, mfu, price):
    """points [(C, N, D, bpb), ...] and numbers -> C, N, D, hours, dollars."""
    ### BEGIN SOLUTION
    c, n, d, bpb = np.log(np.array(points, float)).T
    laws = [np.polyfit(c, y, 1) for y in (n, d, bpb)]
    g, f = laws[2]
    flops = (math.log(target) - f) / g  # its logarithm
    size, tokens = (math.exp(np.polyval(law, flops)) for law in laws[:2])
    hours = math.exp(flops) / (gpus * peak * mfu) / 3600
    return math.exp(flops), size, tokens, hours, hours * gpus * price
    ### END SOLUTION


# %% tags=["check", "ex-9.1"]
from gpt2course.course.checks import check

check("9.1", bill)

# %% [markdown] tags=["ex-9.2"]
# ## 9.2 One run is broken
#
# In a grid of one budget, one run is broken: it stopped early, or it read the validation text, so it has too many bits per byte or
# too few. Measure which: `n` and `bpb` of the runs, in any order; return the run's place in the list.
#
# The run that lies farthest from the parabola is often not it. A parabola bends towards a broken run at its end, and then a good run
# lies off. The test: without the broken run, the others lie on a parabola (in log N) best, by the sum of squares.
#
# A tiny example: four runs lie exactly on a parabola and a fifth does not. Leave out the fifth and the sum of squares is 0;
# leave out any other and it is not.
#
# <details><summary>Help: broken runs at the ends come out wrong</summary>
#
# Do not ask how far the left-out run lies from the fit; beyond its points a parabola is unsure. Ask how well the *others* fit.
# </details>
#
# The picture shows a grid with the parabola through the runs that are left.

# %% tags=["answer", "ex-9.2"]
def suspect(n, bpb):
    """Sizes and bits per byte, two lists -> the place of the broken run, from 0."""
    ### BEGIN SOLUTION
    x, y = np.log(n), np.array(bpb)
    x = x - x.mean()

    def left_over(i):
        others, values = np.delete(x, i), np.delete(y, i)
        return ((np.polyval(np.polyfit(others, values, 2), others) - values) ** 2).sum()

    return min(range(len(x)), key=left_over)
    ### END SOLUTION


# %% tags=["check", "ex-9.2"]
from gpt2course.course.checks import check

check("9.2", suspect)

# %% tags=["picture", "ex-9.2"]
def draw(f):
    n = [20_000, 40_000, 80_000, 160_000, 320_000, 640_000]
    bpb = [2.702, 2.651, 2.630, 2.634, 2.663, 2.626]
    i = f(n, bpb)
    x = np.log(np.delete(n, i))
    a, b, c = np.polyfit(x - x.mean(), np.delete(bpb, i), 2)
    fit = a, x.mean() - b / (2 * a), c - b * b / (4 * a)
    return figures.curves({1.2e11: list(zip(n, bpb))}, {1.2e11: fit})


pictures("9.2", draw, suspect)

# %% [markdown] tags=["ex-9.3"]
# ## 9.3 Smaller than best
#
# A model is trained once and used for years, and each use costs FLOPs in proportion to N. So models are often trained smaller
# than best, on more tokens. What does that cost?
#
# `law` is (E, A, a, B, b) with bits per byte E + A / N^a + B / D^b, and FLOPs are 6 N D. Take the best model at `C` FLOPs.
# A model with 1 / `times` of its parameters must reach the same bits per byte. Return its training FLOPs divided by C; `math.inf` if no
# number of tokens gets it there.
#
# A tiny example: `times` 1 is the best model itself, so the answer is 1. With Chinchilla's law, half the size costs about a fifth more.
#
# <details><summary>Help: the best N</summary>
#
# Put D = C / (6 N) into the law and set the derivative by N to zero: a A / N^a = b B / D^b. Or search over N.
# </details>
# <details><summary>Help: when is it never?</summary>
#
# With endless tokens B / D^b is 0. If E + A / N^a alone is as large as the target, nothing is left for the tokens.
# </details>

# %% tags=["answer", "ex-9.3"]
def overhead(law, C, times):
    """law (E, A, a, B, b), numbers -> FLOPs of the smaller model / C, or math.inf."""
    ### BEGIN SOLUTION
    E, A, a, B, b = law
    n = (a * A / (b * B) * (C / 6) ** b) ** (1 / (a + b))
    goal = E + A / n**a + B / (C / 6 / n) ** b
    small = n / times
    left = goal - E - A / small**a  # what the tokens may leave
    if left <= 0:
        return math.inf
    tokens = (B / left) ** (1 / b)
    return 6 * small * tokens / C
    ### END SOLUTION


# %% tags=["check", "ex-9.3"]
from gpt2course.course.checks import check

check("9.3", overhead)

# %% [markdown] tags=["ex-9.4"]
# ## 9.4 The game on unknown clusters
#
# The lesson's game, but you write the player, and the check lets it play on eight clusters. Each has its own law
# (a surface E + A / N^a + B / D^b) and noise of 0.003 bits per byte. `cluster` is like the lesson's:
#
# - `cluster.offers()`: {budget: [sizes]}; the largest budget, `cluster.target`, is not for sale;
# - `cluster.submit(budget, n)`: bits per byte of a run, which is billed; a second run of a size has another seed;
# - `cluster.flops`, `cluster.bill`: what you may spend, and what you have spent;
# - `cluster.rows()`: all your runs, as dicts with budget, n, tokens and val_bpb.
#
# Return a size for the target, its bits per byte, and the ends of an interval that holds the truth in 95 of 100 games. To pass:
# mean regret at most 0.006, the truth in at least 6 of 8 intervals, and a mean score (width, plus 40 times the distance of each
# miss) of at most 0.1. You may use anything from the lesson and from the package.
#
# A tiny example of the score: the interval 2.10 to 2.14 has a width of 0.04. If the truth is 2.15, the score is 0.04 + 40 · 0.01 = 0.44.
#
# <details><summary>Help: which runs?</summary>
#
# Several budgets, each with sizes on both sides of its best. Cheap budgets tell you how things move, dear ones are closer to the target.
# </details>
# <details><summary>Help: the size is right, the bits per byte are too low</summary>
#
# A power law of bits per byte in C goes to zero. These worlds have a floor E. Fit the surface, as the lesson does.
# </details>
# <details><summary>Help: how wide?</summary>
#
# Draw runs with replacement, fit again, and look at the spread of the forecasts. Twice their standard deviation, and a little for
# what the bootstrap does not see.
# </details>

# %% tags=["answer", "ex-9.4"]
def surface(rows, exponents):
    """(E, A, B, a, b) of least squares, with N in units of 1e5 and D in units of 1e6."""
    ### BEGIN SOLUTION
    n, d, y = (np.array([r[key] for r in rows]) for key in ("n", "tokens", "val_bpb"))
    fits = []
    for a in exponents:
        for b in exponents:
            columns = np.stack([np.ones(len(y)), (n / 1e5) ** -a, (d / 1e6) ** -b], 1)
            factors = np.linalg.lstsq(columns, y, rcond=None)[0]
            if (factors > 0).all():
                fits.append((((columns @ factors - y) ** 2).sum(), (*factors, a, b)))
    return min(fits)[1]
    ### END SOLUTION


def play(cluster):
    """A cluster -> size, bits per byte, low, high for cluster.target."""
    ### BEGIN SOLUTION
    offers, exponents = cluster.offers(), np.linspace(0.2, 0.8, 13)
    for budget in sorted(offers)[:4]:
        for n in offers[budget][1:6]:
            cluster.submit(budget, n)
    rows, target = cluster.rows(), cluster.target
    sizes = np.geomspace(offers[target][0], offers[target][-1], 300)

    def curve(fit, n):
        E, A, B, a, b = fit
        return E + A * (n / 1e5) ** -a + B * (target / 6 / n / 1e6) ** -b

    found = curve(surface(rows, exponents), sizes)
    best, rng = found.argmin(), np.random.default_rng(0)
    draws = []
    for _ in range(8):
        some = [rows[i] for i in rng.integers(len(rows), size=len(rows))]
        draws.append(curve(surface(some, exponents), sizes[best]))
    half = 2 * np.std(draws) + 0.006
    return sizes[best], found[best], found[best] - half, found[best] + half
    ### END SOLUTION


# %% tags=["check", "ex-9.4"]
from gpt2course.course.checks import check

check("9.4", play)
