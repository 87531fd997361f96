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
# # Exercises 04: training
#
# The schedule, accumulation where rows are padded, how much of a gradient is noise, a wrong number that you find by experiment, and
# what checkpoints cost.
# Replace each `raise NotImplementedError` by your answer and run the check below it. The lesson is [04
# Training](../lessons/04_training.ipynb).
#
# Only answers in work/ are graded: `make start EX=04` puts your copy of this notebook there, `make grade EX=04` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import math

import torch

from gpt2course.course.checks import pictures
from gpt2course.course.figures import training as figures

# %% [markdown] tags=["ex-4.1"]
# ## 4.1 The learning-rate schedule
#
# Return the number by which all rates are multiplied at `step`. Steps are numbered from 0 to steps - 1. There are three parts:
#
# - In the first `warmup` steps the multiplier grows by equal amounts from 1/warmup at step 0 to 1 at step warmup - 1.
# - Then it is 1.
# - In the last `warmdown` steps it falls on a straight line, which leaves 1 at step steps - warmdown and would be at `final` at
#   step number `steps`, the one after the last.
#
# `warmup` and `warmdown` may be 0 (then that part does not exist), and together they are at most `steps`.
#
# A tiny example: steps = 10, warmup = 2, warmdown = 4, final = 0 gives 0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25.
#
# <details><summary>Help: the first step does nothing</summary>
#
# A multiplier of 0 wastes a step. At step 0 the warm-up has made its first advance already: (step + 1) / warmup.
# </details>
# <details><summary>Help: where does the warm-down begin?</summary>
#
# At step steps - warmdown the multiplier is still 1, at the next step it is a little less. `steps - step` is the number of
# steps still to be made, this one included.
# </details>
# <details><summary>Help: final is not 0</summary>
#
# The line then leads from 1 to final, not from 1 to 0. With `left` going from 1 to 0, left + (1 - left) · final does.
# </details>
#
# The picture shows three schedules of 100 steps: a plateau and a fall to 0, a warm-up and a fall to 0.2, and a constant rate.

# %% tags=["answer", "ex-4.1"]
def rate(step, steps, warmup, warmdown, final):
    """The multiplier of the learning rates at step (0 to steps - 1); warmup and warmdown in steps -> a number."""
    ### BEGIN SOLUTION
    if step < warmup:
        return (step + 1) / warmup
    if step <= steps - warmdown:
        return 1.0
    left = (steps - step) / warmdown  # from 1 down to 1 / warmdown
    return left + (1 - left) * final
    ### END SOLUTION


# %% tags=["check", "ex-4.1"]
from gpt2course.course.checks import check

check("4.1", rate)

# %% tags=["picture", "ex-4.1"]
shapes = {"no warm-up, warm-down 50": (0, 50, 0.0), "warm-up 10, warm-down 65, final 0.2": (10, 65, 0.2), "constant": (0, 0, 0.0)}


def draw(f):
    return figures.schedules({name: [f(step, 100, *shape) for step in range(100)] for name, shape in shapes.items()})


pictures("4.1", draw, rate)

# %% [markdown] tags=["ex-4.2"]
# ## 4.2 Gradient accumulation with padding
#
# The lesson's rows are full. Here rows end in padding, the number -1, and a target of -1 does not count.
#
# A batch of n rows does not fit into memory, but `size` rows do. Give every parameter p of the model in `p.grad` the gradient
# of the *mean* loss over all targets of the n rows that count, and return that mean loss as a number. Pass at most `size` rows
# to the model at a time. The last piece may be smaller than the others. Gradients of an earlier step may still be there; clear
# them. Make no optimizer step.
#
# rows is (n, T + 1): `model(rows[:, :-1], rows[:, 1:])` gives the mean loss over those targets in it that are not -1, a tensor
# with a graph behind it. (The model reads -1 among its inputs as any token; nothing that counts comes after it.) Every row has
# targets that count.
#
# A tiny example: three rows with 4, 4 and 1 targets, size 2, and mean losses 1, 2 and 6 in the rows. The pieces have the mean
# losses 1.5 and 6. The mean over all nine targets is (8 · 1.5 + 1 · 6) / 9 = 2.
#
# <details><summary>Help: my gradients are too large by the number of pieces</summary>
#
# Each piece gives a mean over its own rows. Adding the means up is not the mean.
# </details>
# <details><summary>Help: right without padding, wrong with it</summary>
#
# A piece counts by its targets, not by its rows: weight its loss by their share of all targets that count.
# </details>
# <details><summary>Help: only the last piece is in p.grad</summary>
#
# `backward` adds to p.grad. Clear it once, before the first piece, and not within the loop.
# </details>
# <details><summary>Help: "no backward pass ran between the pieces"</summary>
#
# If you add up losses and call `backward` at the end, everything that the forward passes keep is in memory together, which is
# what accumulation should avoid. Call `backward` for each piece.
# </details>

# %% tags=["answer", "ex-4.2"]
def accumulate(model, rows, size):
    """The gradient of the mean loss over rows (n, T + 1) in every p.grad, at most size rows at a time -> the mean loss."""
    ### BEGIN SOLUTION
    model.zero_grad()
    total, all_targets = 0.0, (rows[:, 1:] >= 0).sum()
    for piece in rows.split(size):
        share = (piece[:, 1:] >= 0).sum() / all_targets
        loss = model(piece[:, :-1], piece[:, 1:]) * share
        loss.backward()
        total += loss.item()
    return total
    ### END SOLUTION


# %% tags=["check", "ex-4.2"]
from gpt2course.course.checks import check

check("4.2", accumulate)

# %% [markdown] tags=["ex-4.3"]
# ## 4.3 The gradient noise scale
#
# How large should a batch be? The gradient g of a batch is the true gradient G, that of endless data, plus noise. The larger
# the batch, the smaller the noise: over many batches of B rows the squared length |g|² is on average
#
# |G|² + tr(S) / B
#
# Here tr(S) is the noise of a single row: the variance of its gradient, added up over all parameters. The *gradient noise
# scale* is B_noise = tr(S) / |G|² ([arXiv 1812.06162](https://arxiv.org/abs/1812.06162), appendix A.1, where it is B_simple). In a batch of B_noise
# rows the noise is as strong as the gradient. In a much smaller batch nearly all is noise, and twice the rows save nearly half
# of the steps. In a much larger one they save next to nothing. (The paper derives this for plain gradient descent.)
#
# Nobody can measure G. But accumulation makes gradients of two batch sizes in every step: those of the pieces, and their mean.
# `small` is a list of lengths |g|, each of a batch of `B_small` rows; `big` is a list of lengths for `B_big` rows, B_big >
# B_small, at the same weights. The lists need not be equally long. Return your estimate of B_noise, a number of rows.
#
# One length says little. Average over all of them before you take the ratio: a ratio of means, and not a mean of ratios.
#
# A tiny example: the lengths are 1 and 7 with 1 row, 4 and 2 with 4 rows. Their mean squares are 25 and 10. So
# |G|² + tr(S) = 25 and |G|² + tr(S) / 4 = 10, which gives tr(S) = 20 and |G|² = 5: B_noise = 4.
#
# <details><summary>Help: two equations</summary>
#
# Subtract one from the other and |G|² is gone: the difference of the mean squares is tr(S) · (1 / B_small - 1 / B_big). With
# tr(S) known, either equation gives |G|². Or multiply each by its B and subtract: that leaves (B_big - B_small) · |G|².
# </details>
# <details><summary>Help: negative estimates</summary>
#
# The first pair of the example, 1 and 4, gives |G|² = 21 and tr(S) = -20. The second, 7 and 2, gives -11 and 60. Neither can
# be true, but the means, 5 and 20, can. An estimate of |G|² that is below 0 by chance makes up for one that is too large, so
# drop none. The two ratios, -0.95 and -5.45, have a mean that says nothing.
# </details>
# <details><summary>Help: is the large batch not G?</summary>
#
# In the example its mean square is 10, and |G|² is 5. The other half is noise, tr(S) / 4.
# </details>
#
# The cell below measures two small models, after runs of 8 and of 48 steps, with batches of 1, 2, 8 and 32 rows. The picture
# shows the noise of the second by your estimate, which is made from 1 and 32 rows. The points of 2 and 8 rows test it: they
# should lie on the line too. The line meets the gradient at B_noise.
#
# <details><summary>After the picture: what it says</summary>
#
# These runs have 4 rows in a batch, fewer than B_noise: most of every gradient is noise. After the longer run G is smaller and
# the noise is not, so B_noise is larger. It grew in the runs of the paper too, which speaks for small batches first and larger
# ones later.
# </details>

# %% tags=["setup"]
from gpt2course.batches import Batches
from gpt2course.course import lab
from gpt2course.data import from_list, load_corpus

tiny = dict(depth=1, width=32, head_dim=16, vocab_size=512, sequence_len=64)

texts = load_corpus("embedded").train
few = from_list([texts[i] for i in range(100)])
rows = torch.from_numpy(Batches(few, lab.tokenizer(512), 64).next_rows(128))


def lengths(steps):
    """Train for some steps, then measure gradients on 128 rows: {rows in a batch: the length of each batch's gradient}."""
    model = lab.train("modern", seed=4, batch_tokens=256, steps=steps, **tiny)["model"]
    ones = []
    for row in rows.split(1):
        model.zero_grad()
        model(row[:, :-1], row[:, 1:].contiguous()).backward()
        ones.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    ones = torch.stack(ones)  # (128, parameters): the gradient of each row
    return {n: torch.stack([x.mean(0) for x in ones.split(n)]).norm(dim=1).tolist() for n in (1, 2, 8, 32)}


measured = {steps: lengths(steps) for steps in (8, 48)}
print(f"{len(measured[48][1])} lengths with 1 row, {len(measured[48][32])} with 32")

# %% tags=["answer", "ex-4.3"]
def noise_scale(small, big, B_small, B_big):
    """B_noise from lengths |g| of gradients of B_small rows (a list) and of B_big rows (a list) -> a number."""
    ### BEGIN SOLUTION
    few = sum(x**2 for x in small) / len(small)  # |G|² + tr(S) / B_small
    many = sum(x**2 for x in big) / len(big)  # |G|² + tr(S) / B_big
    noise = (few - many) / (1 / B_small - 1 / B_big)
    gradient = (B_big * many - B_small * few) / (B_big - B_small)
    return noise / gradient
    ### END SOLUTION


# %% tags=["check", "ex-4.3"]
from gpt2course.course.checks import check

check("4.3", noise_scale)

# %% tags=["picture", "ex-4.3"]
def draw(f):
    for steps, found in measured.items():
        print(f"after {steps} steps: B_noise = {f(found[1], found[32], 1, 32):.1f} rows")
    mean = {n: sum(x**2 for x in found[n]) / len(found[n]) for n in found}  # of |g|²
    G2 = mean[1] / (1 + f(found[1], found[32], 1, 32))  # |G|², because mean[1] = |G|² + tr(S)
    return figures.noise_by_batch(list(mean), [math.sqrt(mean[n] - G2) for n in mean], math.sqrt(G2))


pictures("4.3", draw, noise_scale)

# %% [markdown] tags=["ex-4.4"]
# ## 4.4 One wrong number
#
# `target` is the log of a small run: its loss at each of 48 steps. You are given its settings too, but one of the seven numbers
# in `config` was copied wrongly. Which one, and what should it be?
#
# `losses(**changes)` trains with `config` and your changes, on the same batches and from the same first weights, and
# returns the 48 losses. A run takes a few seconds. If your settings are those of the log, the losses are its losses, up to
# rounding. Run experiments in cells of your own, as many as you like. Return the name of the wrong number and its right value.
#
# <details><summary>Help: the curves look alike</summary>
#
# They have the same batches, so they share their noise. Subtract one from the other. At which step does the difference leave 0?
# </details>
# <details><summary>Help: which of the seven?</summary>
#
# Change one at a time, and see at which step the curve of `config` changes. A rate acts from the first update on. What acts
# as late as the difference that you look for? There is more than one such number.
# </details>
# <details><summary>Help: how exact must the value be?</summary>
#
# As exact as the curve can tell: the largest difference from `target` should be below 0.001. Try a value on each side of the
# right one. The step at which the curves part tells more than the size of the difference.
# </details>
#
# The picture shows how far the run of `config`, and the run with your correction, are from the log. The second line should
# be at 0 throughout.

# %% tags=["setup"]
import functools

from gpt2course.course import lab

size = dict(depth=1, width=32, head_dim=16, vocab_size=512, sequence_len=64)
config = dict(
    matrix_adamw_lr=0.003, wte_lr=0.3, head_lr=0.004,  # rates: matrices, embedding, head
    weight_decay=0.2, warmup_steps=4, warmdown_ratio=0.5, final_lr=0.1,
)  # fmt: skip
target = [
    6.2386, 6.2300, 6.1494, 5.9325, 5.6514, 5.2786, 5.4165, 5.2622, 5.5316, 4.9323, 5.0840, 5.4901,
    5.1146, 5.0860, 5.0286, 5.0287, 5.3749, 4.6032, 4.9574, 4.9443, 5.0997, 4.6249, 4.7389, 4.8205,
    4.9156, 4.7545, 4.7582, 4.7550, 4.6856, 4.4846, 4.3743, 4.5769, 4.6821, 4.5998, 4.5660, 4.2327,
    4.6101, 4.9123, 5.0814, 4.5748, 4.4599, 4.6820, 4.4453, 4.4885, 4.3877, 4.5060, 4.4450, 4.3926,
]  # fmt: skip


@functools.cache
def losses(**changes):
    """The loss at each step with the settings of config, some of them changed: losses(wte_lr=0.2)."""
    return lab.train("modern", seed=4, batch_tokens=256, steps=48, **(size | config | changes))["loss"]


def apart(curve):
    """How far a curve is above the log, step by step."""
    return [a - b for a, b in zip(curve, target)]


before = apart(losses())
print("largest difference", round(max(map(abs, before)), 4))

# %% tags=["answer", "ex-4.4"]
def wrong_number():
    """The name of the wrong number in config, and its right value -> (name, value)."""
    ### BEGIN SOLUTION
    # The curves agree up to step 25 of 48, counted from 0. The loss of step 26 is the first that knows the rate of step 25.
    # That is the first step of config's warm-down, so the wrong number is warmdown_ratio or final_lr. A larger final_lr helps,
    # but no value of it brings the difference to 0. Smaller warm-downs part from the log later. With 0.2 it is the log that
    # falls earlier, at step 37, the first step of a warm-down of 12: 12 / 48.
    return "warmdown_ratio", 0.25
    ### END SOLUTION


# %% tags=["check", "ex-4.4"]
from gpt2course.course.checks import check

check("4.4", wrong_number)

# %% tags=["picture", "ex-4.4"]
def draw(f):
    name, value = f()
    return figures.apart({"config": before, f"{name} = {value:g}": apart(losses(**{name: value}))})


pictures("4.4", draw, wrong_number)

# %% [markdown] tags=["ex-4.5"]
# ## 4.5 What checkpoints cost
#
# A run makes `steps` steps of `seconds_a_step` each. A checkpoint is saved after every `every_minutes` of training, and one
# after the last step (if the two fall together, only one). Each save stops training for `save_seconds`. The machine crashes
# `crashes` times. Each crash costs `restart_minutes`, and the training since the last checkpoint has to be done again: half
# an interval on average.
#
# `paid_hours` returns the hours you pay for, all of it included (the training done again brings no further saves).
# `best_minutes` returns the interval in minutes at which saving and doing again cost least together; for that, take the
# number of saves as training time / interval, without rounding.
#
# A tiny example: 3,600 steps of one second, a save every 25 minutes that takes 12 seconds: saves at 25, 50 and 60 minutes, 36
# seconds, so 1.01 hours. With two crashes and 5 minutes for a restart, 2 · (12.5 + 5) = 35 minutes more: 1.593 hours.
#
# <details><summary>Help: the number of saves</summary>
#
# In 60 minutes an interval of 20 gives 3 saves, the last one at the end; an interval of 25 gives 3 as well. That is
# `math.ceil(minutes / every_minutes)`.
# </details>
# <details><summary>Help: the best interval</summary>
#
# With an interval of x seconds, saving costs save_seconds · train / x, doing again costs crashes · x / 2. The sum of a / x
# and b x is least where both are equal, at x = √(a / b). Mind the units: x is in seconds here, the answer in minutes.
# </details>
#
# The picture shows both costs against the interval, for a run of three hours with one crash. They cross where their sum is
# least.

# %% tags=["answer", "ex-4.5"]
def paid_hours(steps, seconds_a_step, every_minutes, save_seconds, crashes, restart_minutes):
    """Hours that a run takes with its checkpoints and crashes -> a number."""
    ### BEGIN SOLUTION
    train = steps * seconds_a_step / 60  # minutes, as everything below
    saving = math.ceil(train / every_minutes) * save_seconds / 60
    crashing = crashes * (every_minutes / 2 + restart_minutes)
    return (train + saving + crashing) / 60
    ### END SOLUTION


def best_minutes(train_hours, save_seconds, crashes):
    """The minutes between checkpoints at which saving and doing again cost least together -> a number."""
    ### BEGIN SOLUTION
    return math.sqrt(2 * save_seconds * train_hours * 3600 / crashes) / 60
    ### END SOLUTION


# %% tags=["check", "ex-4.5"]
from gpt2course.course.checks import check

check("4.5", paid_hours, best_minutes)

# %% tags=["picture", "ex-4.5"]
minutes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 60]


def draw(f, g):
    train = f(3 * 3600, 1.0, 1, 0, 0, 0)  # hours
    saving = [60 * (f(3 * 3600, 1.0, x, 20, 0, 0) - train) for x in minutes]
    again = [60 * (f(3 * 3600, 1.0, x, 0, 1, 0) - train) for x in minutes]
    return figures.checkpoint_interval(minutes, saving, again, g(3, 20, 1))


pictures("4.5", draw, paid_hours, best_minutes)
