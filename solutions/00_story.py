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
# # Exercises 00: the 600x story
#
# Four pieces of arithmetic and measurement that every lesson uses. Replace each `raise NotImplementedError` by your answer and
# run the check below it. The lesson is [00 The 600x story](../lessons/00_story.ipynb).
#
# Only answers in work/ are graded: `make start EX=00` puts your copy of this notebook there, `make grade EX=00` grades it.
# Until you run a check, it shows the line that a right answer prints.
#
# Plain Python is enough everywhere.

# %% tags=["setup"]
import math
import statistics

from gpt2course.course.checks import pictures
from gpt2course.course.figures import story as figures

# %% [markdown] tags=["ex-0.1"]
# ## 0.1 MFU from a log
#
# A training log gives you a dict with these entries:
#
# | entry | what |
# |---|---|
# | `forward_flops_per_token` | FLOPs of one token in the forward pass alone |
# | `batch_tokens` | tokens of one step |
# | `steps` | steps of the run |
# | `hours` | hours of training |
# | `devices` | number of devices |
# | `peak` | peak FLOP/s of one device |
#
# Return the MFU of the run as a share: the FLOPs that training needed, divided by what all the devices could have done in that
# time.
#
# A tiny example: 1e9 FLOPs forward, 10 steps of 1000 tokens, one hour on 2 devices of 1e10 FLOP/s. Training needed 3 · 1e9 ·
# 10,000 = 3e13 FLOPs, the devices could have done 2 · 1e10 · 3600 = 7.2e13. The MFU is 0.417.
#
# <details><summary>Help: mine is a third of what is expected</summary>
#
# The log gives the forward pass. The backward pass costs twice as much again.
# </details>
# <details><summary>Help: mine is far above 1</summary>
#
# No machine is faster than its peak. Look for hours that should be seconds, and for one device where there are several.
# </details>


# %% tags=["answer", "ex-0.1"]
def utilisation(log):
    """MFU of a training run, a share from 0 to 1. log: the dict described above."""
    ### BEGIN SOLUTION
    used = 3 * log["forward_flops_per_token"] * log["batch_tokens"] * log["steps"]
    possible = log["devices"] * log["peak"] * log["hours"] * 3600
    return used / possible
    ### END SOLUTION


# %% tags=["check", "ex-0.1"]
from gpt2course.course.checks import check

check("0.1", utilisation)

# %% [markdown] tags=["ex-0.2"]
# ## 0.2 What freezing saves
#
# People adapt a finished model by training some of its parts and *freezing* the others. Does freezing half of a model save half
# of the work? `parts` lists the parts of a model from the input to the output. Each is a triple: its number of parameters,
# whether it multiplies (a table that is looked up does not), and whether it is trained.
#
# Return the FLOPs of one token in training, as the lesson counts them for a matrix: 2 a parameter forward, 2 for the gradient of
# its parameters, 2 for the gradient of its input. Frozen parts need no gradient of their parameters. The gradient of an input is
# needed only if a trained part, matrix or table, lies before it. Attention is left out, and the table's own update too.
#
# A tiny example: `[(12, True, False), (20, True, True)]`, a frozen matrix and then a trained one. Forward 2 · 32 = 64. The
# trained one needs its own gradient, 2 · 20 = 40. Nothing trained lies before either, so no input needs a gradient: 104 in all,
# where 6ND says 192.
#
# <details><summary>Help: a frozen part in the middle</summary>
#
# It learns nothing, but the gradient must pass through it to reach the trained part before it. Forward and passing on: 4 a
# parameter.
# </details>
# <details><summary>Help: the first matrix of a model</summary>
#
# If nothing trained lies before it, nobody asks for the gradient of its input. If a trained table lies before it, the table asks.
# </details>
#
# The picture shows a model of 24 equal layers: all trained, the lower half frozen, the upper half frozen. By which half do you
# save more?


# %% tags=["answer", "ex-0.2"]
def training_flops(parts):
    """Training FLOPs of one token: a number. parts: a list of (parameters, multiplies, trained), input first."""
    ### BEGIN SOLUTION
    total, trained_before = 0, False
    for parameters, multiplies, trained in parts:
        if multiplies:
            products = 1  # forward
            products += 1 if trained else 0  # the gradient of its parameters
            products += 1 if trained_before else 0  # the gradient of its input
            total += 2 * parameters * products
        trained_before = trained_before or trained
    return total
    ### END SOLUTION


# %% tags=["check", "ex-0.2"]
from gpt2course.course.checks import check

check("0.2", training_flops)

# %% tags=["picture", "ex-0.2"]
def draw(f):
    models = {"all trained": (0, 24), "lower half frozen": (12, 24), "upper half frozen": (0, 12)}
    shown = {}
    for name, (first, last) in models.items():
        parts = [(50e6, False, first == 0)] + [(28e6, True, first <= i < last) for i in range(24)]
        forward = f([(n, multiplies, False) for n, multiplies, _ in parts])
        shown[name] = {"forward": forward / 1e9, "backward": (f(parts) - forward) / 1e9}
    return figures.flops_shares(shown)


pictures("0.2", draw, training_flops)

# %% [markdown] tags=["ex-0.3"]
# ## 0.3 Which is faster?
#
# You have changed a program. Is the new one faster, or was the machine? `f` and `g` are two functions without arguments.
# `clock()` gives the time in seconds, as `time.perf_counter` does; use the clock you are given.
#
# First call both `warmup` times without keeping the times. Then time `repeats` calls of each, **in turns**: f, g, f, g, and so
# on. `repeats` is odd. Return two values:
#
# - the ratio: the median time of f divided by the median time of g;
# - whether a difference is shown: True if every timed call of one took longer than every timed call of the other.
#
# A tiny example without warm-up: f takes 1, 3 and 2 seconds, g takes 2.5, 2.7 and 2.6. The ratio is 2 / 2.6 = 0.77. But one call
# of f took longer than all of g, so nothing is shown: `(0.77, False)`.
#
# <details><summary>Help: why in turns?</summary>
#
# A machine becomes slower when another program starts or the processor gets hot. If all calls of g come last, the machine's
# change is taken for a change of the program.
# </details>
# <details><summary>Help: both directions</summary>
#
# f may be the slower one or the faster one. Compare the fastest call of one with the slowest call of the other, both ways.
# </details>


# %% tags=["answer", "ex-0.3"]
def faster(f, g, clock, warmup, repeats):
    """(median time of f / median time of g, whether a difference is shown)."""
    ### BEGIN SOLUTION
    for _ in range(warmup):
        f()
        g()
    times_f, times_g = [], []
    for _ in range(repeats):
        for program, times in ((f, times_f), (g, times_g)):
            began = clock()
            program()
            times.append(clock() - began)
    ratio = statistics.median(times_f) / statistics.median(times_g)
    return ratio, min(times_f) > max(times_g) or min(times_g) > max(times_f)
    ### END SOLUTION


# %% tags=["check", "ex-0.3"]
from gpt2course.course.checks import check

check("0.3", faster)

# %% [markdown] tags=["ex-0.4"]
# ## 0.4 Which machine to rent
#
# A run needs `flops` FLOPs and must end within `hours_left` hours. `offers` has machines by name, each a tuple: the number of
# devices, the peak FLOP/s of one device, the MFU that the run reaches on it (0 to 1), and the price of one device for an hour.
# Every started hour is billed for all devices. Return the name of the offer with the least bill among those that end in time.
# Of equal bills take the faster; if none ends in time, return None.
#
# A tiny example: 7e16 FLOPs. `"one": (1, 1e13, 0.5, 2.0)` needs 3.9 hours, pays 4 and costs 8 dollars. `"four": (4, 1e13, 0.4,
# 2.0)` needs 1.2 hours, pays 2 and costs 16. With 5 hours left the answer is `"one"`, with 2 hours left `"four"`, with 1 hour
# left None.
#
# <details><summary>Help: four devices for a quarter of the time should cost the same</summary>
#
# They would, at the same MFU and without rounding up. Here the MFU is lower, and 1.2 hours are billed as 2.
# </details>
# <details><summary>Help: what must be in time?</summary>
#
# The run itself. A run of 1.25 hours ends within 1.5 hours, even though 2 hours are billed.
# </details>


# %% tags=["answer", "ex-0.4"]
def cheapest(flops, hours_left, offers):
    """The name of the cheapest offer that ends in time, or None. offers: name -> (devices, peak, mfu, price)."""
    ### BEGIN SOLUTION
    in_time = []
    for name, (devices, peak, mfu, price) in offers.items():
        hours = flops / (devices * peak * mfu) / 3600
        if hours <= hours_left:
            in_time.append((math.ceil(hours) * devices * price, hours, name))
    return min(in_time)[2] if in_time else None
    ### END SOLUTION


# %% tags=["check", "ex-0.4"]
from gpt2course.course.checks import check

check("0.4", cheapest)
