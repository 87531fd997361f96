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
# Five pieces of arithmetic that you will use in every lesson. Replace each `raise NotImplementedError` by your answer and run
# the check below it. The lesson is [00 The 600x story](../lessons/00_story.ipynb).
#
# `make start EX=00` puts a copy of this notebook in work/, where your answers survive an update of the course. `make grade
# EX=00` grades that copy.
#
# Plain Python numbers are enough everywhere.

# %% tags=["setup"]
import time

import torch

from gpt2course import cost
from gpt2course.course import lab
from gpt2course.course.checks import pictures
from gpt2course.course.figures import story as figures
from gpt2course.recipes import resolve

# %% [markdown] tags=["ex-0.1"]
# ## 0.1 The bill
#
# Two functions. `bill` takes the hours of a run, the number of devices and the price of one device for an hour, and returns
# dollars. `bill_of_flops` takes the FLOPs of a run instead of its hours: the devices have `peak` FLOP/s each and use the share
# `mfu` of it (0 to 1).
#
# A tiny example: 2 hours on 3 devices at 5 dollars an hour each cost 30 dollars. A run of 3.6e15 FLOPs on one device of 1e12
# FLOP/s, all of which it uses (mfu 1.0), takes 3600 seconds; at 2 dollars an hour it costs 2 dollars.
#
# <details><summary>Help: my answer is 3600 times too large</summary>
#
# FLOPs divided by FLOP/s are seconds. The price is for an hour.
# </details>
# <details><summary>Help: a lower MFU makes my run cheaper</summary>
#
# A machine that uses half of its peak needs twice as long. The MFU stands below the fraction line, beside the peak.
# </details>
# <details><summary>Help: what do more devices change?</summary>
#
# The hours fall and the price of an hour rises, by the same factor. Both must be in your answer, and they cancel.
# </details>
#
# The picture shows what your function makes of the published runs: 2019 far above the rest.


# %% tags=["answer", "ex-0.1"]
def bill(hours, devices, price):
    """Dollars for `hours` on `devices` devices, of which one costs `price` dollars an hour."""
    ### BEGIN SOLUTION
    return hours * devices * price
    ### END SOLUTION


def bill_of_flops(flops, devices, peak, mfu, price):
    """Dollars for a run of `flops` on devices of `peak` FLOP/s each, used to the share `mfu`, at `price` dollars an hour each."""
    ### BEGIN SOLUTION
    hours = flops / (devices * peak * mfu) / 3600
    return bill(hours, devices, price)
    ### END SOLUTION


# %% tags=["check", "ex-0.1"]
from gpt2course.course.checks import check

check("0.1", bill, bill_of_flops)

# %% tags=["picture", "ex-0.1"]
entries = [e for e in lab.published() if e["who"] == "published"]


def draw(bill, bill_of_flops):
    machine = {"gpt2-2019": (32, 8)}  # devices and the price of one; all later runs: 8 H100
    costs = [bill(e["hours"], *machine.get(e["id"], (8, 3))) for e in entries]
    return figures.cost_by_year([(e["date"], cost, e["name"]) for e, cost in zip(entries, costs)])


pictures("0.1", draw, bill, bill_of_flops)

# %% [markdown] tags=["ex-0.2"]
# ## 0.2 FLOPs from a shape
#
# Training FLOPs of one token, forward and backward, from the shape of a model alone. The model has one layer for each entry of
# `windows`, the number of keys that a query of this layer meets. A layer holds 12 · width² weights (4 in attention, 8 in the
# MLP), the head width · vocabulary. Each weight costs 6 FLOPs a token, and attention costs 12 · width · keys in each layer.
#
# A tiny example: width 4, a vocabulary of 10, one layer that meets 7 keys. It has 192 weights and a head of 40: 6 · 232 = 1392
# FLOPs. Attention adds 12 · 4 · 7 = 336, together 1728.
#
# <details><summary>Help: where do the 6 and the 12 come from?</summary>
#
# A weight takes part in one multiplication and one addition: 2 FLOPs. The backward pass computes two such products, so training
# costs 3 times the forward pass: 6. In attention a query meets each key twice, once for the score and once for the weighted
# sum: 4 · width · keys forward, 12 in training.
# </details>
# <details><summary>Help: are the embeddings in it?</summary>
#
# No. An embedding is looked up, not multiplied. The head has the same size and is multiplied.
# </details>
# <details><summary>Help: mine is right for one layer and wrong for two</summary>
#
# Each layer has its own window, and there is one head for the whole model.
# </details>
#
# The picture splits a token's FLOPs by your function. Attention's share should shrink from the top to the bottom.


# %% tags=["answer", "ex-0.2"]
def flops_per_token(width, vocab_size, windows):
    """Training FLOPs of one token: a number. windows: keys that a query of each layer meets, a list with one entry a layer."""
    ### BEGIN SOLUTION
    weights = 12 * width**2 * len(windows) + width * vocab_size
    attention = 12 * width * sum(windows)
    return 6 * weights + attention
    ### END SOLUTION


# %% tags=["check", "ex-0.2"]
from gpt2course.course.checks import check

check("0.2", flops_per_token)

# %% tags=["picture", "ex-0.2"]
def draw(f):
    parts = {}
    for depth in (8, 12, 16, 20, 24):
        C, V, windows = 64 * depth, 32768, ([1024, 1024, 1024, 2048] * depth)[: depth - 1] + [2048]
        head = f(C, V, []) / 1e9
        attention = (f(C, V, windows) - f(C, V, [0] * depth)) / 1e9
        layers = f(C, V, windows) / 1e9 - head - attention
        parts[f"depth {depth}"] = {"layers": layers, "attention": attention, "head": head}
    return figures.flops_shares(parts)


pictures("0.2", draw, flops_per_token)

# %% [markdown] tags=["ex-0.3"]
# ## 0.3 MFU from a log
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


# %% tags=["answer", "ex-0.3"]
def utilisation(log):
    """MFU of a training run, a share from 0 to 1. log: the dict described above."""
    ### BEGIN SOLUTION
    used = 3 * log["forward_flops_per_token"] * log["batch_tokens"] * log["steps"]
    possible = log["devices"] * log["peak"] * log["hours"] * 3600
    return used / possible
    ### END SOLUTION


# %% tags=["check", "ex-0.3"]
from gpt2course.course.checks import check

check("0.3", utilisation)

# %% [markdown] tags=["ex-0.4"]
# ## 0.4 Measuring time
#
# The first calls of a function are often slow: memory is fetched, kernels are chosen, caches are cold. And now and then another
# program takes the machine. So call `f` `warmup` times without keeping the times, then `repeats` times, each timed by itself.
# Return the median of the timed calls, and their spread: the slowest minus the fastest.
#
# `clock()` gives the time in seconds, as `time.perf_counter` does. Use the clock you are given. `repeats` is an odd number, so
# that one time stands in the middle.
#
# A tiny example: calls take 9, 5, 1, 3 and 2 seconds, the first two of them warm-up. The median is 2, the spread 2.
#
# <details><summary>Help: why not the mean?</summary>
#
# One call in which the machine was busy elsewhere moves the mean, and hardly moves the median.
# </details>
# <details><summary>Help: which calls are the warm-up?</summary>
#
# The first ones, whether they were slow or not. They come before the timed calls: `warmup + repeats` calls in all.
# </details>
# <details><summary>Help: the middle of what?</summary>
#
# Of the times sorted by size, not of the order in which they came.
# </details>
#
# The picture shows the calls of a small matrix product on your machine, with the median of your answer as a line. The first
# call is often the slowest.


# %% tags=["answer", "ex-0.4"]
def measure(f, clock, warmup, repeats):
    """Time f(): (median, spread) in seconds over `repeats` calls, after `warmup` calls that are not kept."""
    ### BEGIN SOLUTION
    for _ in range(warmup):
        f()
    times = []
    for _ in range(repeats):
        began = clock()
        f()
        times.append(clock() - began)
    times.sort()
    return times[repeats // 2], times[-1] - times[0]
    ### END SOLUTION


# %% tags=["check", "ex-0.4"]
from gpt2course.course.checks import check

check("0.4", measure)

# %% tags=["picture", "ex-0.4"]
def draw(f):
    calls, a = [], torch.randn(256, 256)

    def product():
        began = time.perf_counter()
        a @ a
        calls.append(time.perf_counter() - began)

    median, spread = f(product, time.perf_counter, 3, 15)
    return figures.calls(calls, warmup=3, median=median)


pictures("0.4", draw, measure)

# %% [markdown] tags=["ex-0.5"]
# ## 0.5 The physical limit
#
# The fewest hours in which a run can end on given hardware. A run consists of parts, one after the other, and each part is a
# pair: its FLOPs, and the peak FLOP/s of one device for this kind of work. The devices share each part equally and never wait.
#
# Why parts? An H100 does 989e12 FLOP/s in bfloat16 and twice as many in fp8. A run whose matrices are in fp8 still computes its
# attention in bfloat16.
#
# A tiny example on one device: a part of 3.6e15 FLOPs at 1e12 takes one hour, a part of 1.44e16 FLOPs at 2e12 two hours.
# Together three hours. On eight devices it would be three eighths.
#
# <details><summary>Help: can I use the mean of the peaks?</summary>
#
# No. The device spends more time in the slow parts. Add up times, not rates.
# </details>
# <details><summary>Help: can parts run at the same time?</summary>
#
# Not here. Every part keeps all the devices busy.
# </details>
#
# The picture shows the limit of the 3.04-hour run as you compute it, with fp8 and without, beside what the run took.


# %% tags=["answer", "ex-0.5"]
def least_hours(parts, devices):
    """The fewest hours for a run: a number. parts: a list of (FLOPs, peak FLOP/s of one device), one after the other."""
    ### BEGIN SOLUTION
    seconds = sum(flops / (devices * peak) for flops, peak in parts)
    return seconds / 3600
    ### END SOLUTION


# %% tags=["check", "ex-0.5"]
from gpt2course.course.checks import check

check("0.5", least_hours)

# %% tags=["picture", "ex-0.5"]
plan, H100 = resolve("jan29", depth=24), cost.peak_flops("H100")
matrices = 6 * plan.params["scaling"] * plan.tokens
attention = plan.flops - matrices
took = next(e["hours"] for e in lab.published() if e["id"] == "nanochat-1")


def draw(f):
    limits = {"limit, bfloat16": [(plan.flops, H100)], "limit, fp8": [(matrices, 2 * H100), (attention, H100)]}
    return figures.hours_bars({"the run": took} | {name: f(parts, 8) for name, parts in limits.items()})


pictures("0.5", draw, least_hours)
