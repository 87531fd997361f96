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
# # Exercises 07: Lambdas
#
# Four uses of what the lesson built: an experiment that tells two curves apart, a model freed from its residual lambdas,
# how many seeds an effect needs, and what two scalars a layer cost. Replace each `raise NotImplementedError` by your answer
# and run the check below it. The lesson is [07 Lambdas](../lessons/07_lambdas.ipynb).
#
# Only answers in work/ are graded: `make start EX=07` puts your copy of this notebook there, `make grade EX=07` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import math
import statistics

from gpt2course.course.checks import pictures
from gpt2course.course.figures import lambdas as figures

# %% [markdown] tags=["ex-7.1"]
# ## 7.1 Which curve is x0?
#
# Someone gives you two curves without labels, `a` and `b`: a number for each of the L layers, L at least 3. One of them has the
# residual lambdas of a trained model, the other its x0 lambdas. You do not see the model, but you may run it: `loss(a, b)` takes two lists
# of L numbers in the same places and returns the validation loss with these scalars. It is exact: equal models give equal losses.
# Return "a" if `a` has the x0 lambdas, and "b" if `b` has them. Values near 1 or near 0.1 prove nothing here.
#
# A tiny example of the kind of thought: in layer 0 the state *is* x0, so its two scalars only add up. Exchanging a[0] and b[0]
# changes nothing.
#
# <details><summary>Help: which scalar do I set to zero?</summary>
#
# resid[i] = 0 erases all that the layers before i have done. Then nothing of what they did can change the loss. skip[i] = 0 erases
# nothing but the token's addition at this layer.
# </details>
# <details><summary>Help: the larger loss is not always the residual one</summary>
#
# How much worse the loss becomes depends on the model. Look for something that must be *exactly* equal.
# </details>

# %% tags=["answer", "ex-7.1"]
def which_is_x0(loss, a, b):
    """loss(a, b) -> a number; a, b lists of L numbers -> "a" or "b"."""
    ### BEGIN SOLUTION
    cut = a[:-1] + [0.0]  # if a is the residual curve, the last layer has no past
    other = [x + 1.0 for x in b[:-1]] + b[-1:]  # then this cannot matter
    return "b" if loss(cut, b) == loss(cut, other) else "a"
    ### END SOLUTION


# %% tags=["check", "ex-7.1"]
from gpt2course.course.checks import check

check("7.1", which_is_x0)

# %% [markdown] tags=["ex-7.2"]
# ## 7.2 Remove the residual lambdas
#
# In a layer, x becomes resid · x + skip · x0. Then attention and MLP read norm(x), and each adds the output of its last matrix
# to x. The head reads norm(x) too. So a factor on the whole state changes nothing that is read, and can be moved into the last matrices.
#
# You get the scalars of a trained model, lists of L numbers, all residual ones above 0. Return (`factors`, `new_skip`), lists of L
# numbers each. If the last matrices of layer i (of attention and MLP) are multiplied by factors[i], all residual lambdas are set to 1 and the
# x0 lambdas to `new_skip`, the model must give the same output as before.
#
# A tiny example: one layer with resid 2 and skip 3. The state 2 x + 3 x0 is twice x + 1.5 x0, so new_skip is [1.5]. What the layer adds must
# become half as large: factors is [0.5].
#
# <details><summary>Help: where to begin</summary>
#
# Call the new state after i layers X, with x = P · X. Each resid multiplies P. What must X gain where x gains an output of layer i?
# </details>
# <details><summary>Help: the last factor is 1, or they come in the wrong order</summary>
#
# The lesson's weights count the lambdas *after* a layer's output; these are the weights in x. Here the state is divided by
# the lambdas met so far, those of this layer included.
# </details>

# %% tags=["answer", "ex-7.2"]
def without_residual_lambdas(resid, skip):
    """Lists of L numbers -> (factors, new_skip), lists of L numbers."""
    ### BEGIN SOLUTION
    P, factors, new_skip = 1.0, [], []
    for r, s in zip(resid, skip):
        P *= r
        factors.append(1 / P)
        new_skip.append(s / P)
    return factors, new_skip
    ### END SOLUTION


# %% tags=["check", "ex-7.2"]
from gpt2course.course.checks import check

check("7.2", without_residual_lambdas)

# %% [markdown] tags=["ex-7.3"]
# ## 7.3 How many seeds?
#
# You have run both arms with a few seeds. `before` and `after` give the bits per byte by seed, {seed: bpb}; some seeds may be in one of
# them only. The differences after - before, of the seeds in both, have a standard deviation s (divide by one less than their number; there are at
# least two). Suppose that s stays as it is. What is the smallest number of seeds n, from 2 on, for which half the width of the
# interval, t s / √n, is smaller than `effect`? Take t from the list `t95`: t95[0] belongs to n = 2, t95[1] to n = 3, and so on.
# If the list is too short, return None.
#
# A tiny example: the differences 0.01 and 0.03 have s = 0.01414. With t95 = [12.71, 4.30, 3.18] and effect 0.03, n = 2 gives 0.127,
# n = 3 gives 0.035 and n = 4 gives 0.0225: the answer is 4. (Plan for more: at that n a measured effect lies below the true one in half
# of all experiments, and then the interval holds 0.)
#
# Then try it on `lab.recorded("ladder-seeds")` with the effect that nanochat published for depth 8, 0.0103.
#
# <details><summary>Help: why pairs?</summary>
#
# Runs of one seed share weights and data, so a hard seed is hard for both. The difference does not contain what they share. Its
# standard deviation is often smaller than that of either arm. It need not be: rounding alone can drive two runs of one seed apart.
# </details>
#
# The picture shows your answer for effects from 0.002 to 0.02, beside the reference's.

# %% tags=["answer", "ex-7.3"]
def seeds_needed(before, after, effect, t95):
    """{seed: bpb} twice, a number, a list of t for n = 2, 3, ... -> a number of seeds, or None."""
    ### BEGIN SOLUTION
    s = statistics.stdev(after[seed] - before[seed] for seed in before.keys() & after.keys())
    for n, t in enumerate(t95, start=2):
        if t * s / math.sqrt(n) < effect:
            return n
    return None
    ### END SOLUTION


# %% tags=["check", "ex-7.3"]
from gpt2course.course.checks import check

check("7.3", seeds_needed)

# %% tags=["picture", "ex-7.3"]
def draw(f):
    before, after = {1: 2.01, 2: 2.03, 3: 2.02}, {1: 2.003, 2: 2.027, 3: 2.011, 4: 2.0}
    t95 = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13]
    return figures.seeds({e / 1000: f(before, after, e / 1000, t95) for e in range(2, 21)})


pictures("7.3", draw, seeds_needed)

# %% [markdown] tags=["ex-7.4"]
# ## 7.4 What two scalars cost
#
# Count what the mixes of all `layers` layers cost in one training step on one GPU, where each of `tokens` tokens has a state of `width`
# numbers of `number_bytes` bytes. Forward, a mix does two multiplications and one addition for each number; it reads x and x0 and writes
# the result. Backward, count twice the FLOPs, and twice the bytes, of forward. Nothing is fused with its neighbours. Return
#
# 1. the number of parameters,
# 2. the FLOPs, forward and backward,
# 3. the seconds, forward and backward, if the memory moves `bandwidth` bytes a second and that is all that counts.
#
# A tiny example: 1 layer, width 2, 5 tokens of 4-byte numbers, bandwidth 1,000. There are 10 numbers, so 30 FLOPs forward and 90 in
# all; 3 · 10 · 4 bytes forward and 360 in all; 0.36 seconds.
#
# Then take depth 24: width 1,536, 65,536 tokens, 2 bytes, 3.35e12 bytes a second. A step took about 0.66 s. Which share is yours, and which share of the
# model's 1.4 billion parameters?
#
# <details><summary>Help: which counts, FLOPs or bytes?</summary>
#
# In the time in which it moves one byte an H100 does about 300 operations of matrix products, or about 20 of other kinds
# (67 TFLOP/s in float32, its data sheet). A mix does
# 3 for every 6 bytes. So it waits for
# memory, and fusing it with its neighbours, as torch.compile does, saves most of the time.
# </details>

# %% tags=["answer", "ex-7.4"]
def mix_cost(layers, width, tokens, number_bytes, bandwidth):
    """Sizes as numbers -> (parameters, FLOPs, seconds)."""
    ### BEGIN SOLUTION
    numbers = layers * tokens * width
    return 2 * layers, 9 * numbers, 9 * numbers * number_bytes / bandwidth
    ### END SOLUTION


# %% tags=["check", "ex-7.4"]
from gpt2course.course.checks import check

check("7.4", mix_cost)
