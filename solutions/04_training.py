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
# Five pieces of the loop: the schedule, gradient accumulation, bits per byte, AdamW's update, and what checkpoints cost.
# Replace each `raise NotImplementedError` by your answer and run the check below it. The lesson is [04
# Training](../lessons/04_training.ipynb).
#
# `make start EX=04` puts a copy of this notebook in work/, where your answers survive an update of the course.
# `make grade EX=04` grades that copy.

# %% tags=["setup"]
import math

import torch

from gpt2course.course import plots
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
# ## 4.2 Gradient accumulation
#
# A batch of n rows does not fit into memory, but `size` rows do. Give every parameter p of the model in `p.grad` the gradient
# of the *mean* loss over all n rows, and return that mean loss as a number. Pass at most `size` rows to the model at a time.
# The last piece may be smaller than the others. Gradients of an earlier step may still be there; clear them. Make no
# optimizer step.
#
# rows is (n, T + 1): `model(rows[:, :-1], rows[:, 1:])` gives the mean loss of the rows in it, a tensor with a graph behind it.
#
# A tiny example: three rows, size 2, losses 1, 2 and 6. The pieces have the mean losses 1.5 and 6, and the mean of all is 3:
# (2 · 1.5 + 1 · 6) / 3. The gradient is made of the same parts.
#
# <details><summary>Help: my gradients are too large by the number of pieces</summary>
#
# Each piece gives a mean over its own rows. Adding the means up is not the mean.
# </details>
# <details><summary>Help: right when size divides n, wrong when it does not</summary>
#
# A piece counts by its rows: weight its loss by len(piece) / n.
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
    total = 0.0
    for piece in rows.split(size):
        loss = model(piece[:, :-1], piece[:, 1:]) * (len(piece) / len(rows))
        loss.backward()
        total += loss.item()
    return total
    ### END SOLUTION


# %% tags=["check", "ex-4.2"]
from gpt2course.course.checks import check

check("4.2", accumulate)

# %% [markdown] tags=["ex-4.3"]
# ## 4.3 Bits per byte
#
# Measure a model on documents (a list of strings, none empty): how many bits does it need for each byte of their UTF-8?
# Give every document a row of its own: the token BOS (`tokenizer.bos`), then its tokens (`tokenizer.encode(text)`). Every
# token of the text is predicted once, from BOS and the tokens before it. BOS itself is not predicted and is no text. Every
# document is shorter than the model's T.
#
# `model(idx, targets, reduction="none")` gives the loss of each target in nats, with idx and targets as (B, T). Return one
# number for all documents together.
#
# A tiny example: two documents, of 4 and 12 bytes, which the model needs 8 and 12 bits for. That is 20 bits for 16 bytes,
# 1.25 bits per byte.
#
# <details><summary>Help: I got 1.5 in the example</summary>
#
# That is the mean of 2 and 1. A long document counts more than a short one: add up all bits and all bytes, and divide once.
# </details>
# <details><summary>Help: which bytes?</summary>
#
# `len(text)` counts characters. `len(text.encode())` counts bytes, and "é" has two.
# </details>
# <details><summary>Help: which bits?</summary>
#
# The loss is in nats. One bit is ln 2 = 0.693 nats, so bits = nats / ln 2.
# </details>

# %% tags=["answer", "ex-4.3"]
def bits_per_byte(model, documents, tokenizer):
    """Bits per byte of the model on the documents, each in a row of its own -> a number."""
    ### BEGIN SOLUTION
    nats, size = 0.0, 0
    for text in documents:
        row = torch.tensor([[tokenizer.bos, *tokenizer.encode(text)]])  # (1, n + 1)
        nats += model(row[:, :-1], row[:, 1:], reduction="none").double().sum().item()
        size += len(text.encode())
    return nats / math.log(2) / size
    ### END SOLUTION


# %% tags=["check", "ex-4.3"]
from gpt2course.course.checks import check

check("4.3", bits_per_byte)

# %% [markdown] tags=["ex-4.4"]
# ## 4.4 One step of AdamW
#
# p is a parameter, g its gradient, m and v the running means of g and of g², all of one shape. `step` counts from 1. In order:
#
#     m  <-  beta1 m + (1 - beta1) g
#     v  <-  beta2 v + (1 - beta2) g²
#     m' =   m / (1 - beta1^step)            v' = v / (1 - beta2^step)
#     p  <-  (1 - lr · weight_decay) p
#     p  <-  p - lr m' / (√v' + eps)
#
# Return the new p, m and v. (m' and v' are not kept: the next step begins with m and v.)
#
# A tiny example, the first step, with p = 1, g = 2, m = v = 0, lr = 0.1, no decay and eps = 0: m' = 2 and v' = 4, so p = 0.9.
# With g = 2000 p would be 0.9 too.
#
# <details><summary>Help: my first steps are too long or too short</summary>
#
# m and v begin at 0, so at first both are too small, and not by the same factor. Dividing by 1 - beta^step corrects that.
# </details>
# <details><summary>Help: weight decay through the gradient</summary>
#
# Adding weight_decay · p to g is L2 regularisation: the decay would be divided by √v' like everything else in m. The W in AdamW
# stands for taking it out of the gradient and pulling p itself.
# </details>
#
# The picture shows the first 30 steps for three gradients of very different size. The three lines should be almost the same.

# %% tags=["answer", "ex-4.4"]
def adamw(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """One AdamW step on tensors p, g, m, v of one shape; step counts from 1 -> the new (p, m, v)."""
    ### BEGIN SOLUTION
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    p = (1 - lr * weight_decay) * p - lr * m_hat / (v_hat.sqrt() + eps)
    return p, m, v
    ### END SOLUTION


# %% tags=["check", "ex-4.4"]
from gpt2course.course.checks import check

check("4.4", adamw)

# %% tags=["picture", "ex-4.4"]
size = torch.tensor([0.001, 1.0, 1000.0])  # of the gradients
noise = torch.randn(30, 1, generator=torch.Generator().manual_seed(4))


def draw(f):
    p, m, v, path = torch.zeros(3), torch.zeros(3), torch.zeros(3), [[0.0] * 3]
    for step in range(1, 31):
        p, m, v = f(p, size * (1 + noise[step - 1]), m, v, step, 0.01, 0.9, 0.95, 1e-10, 0.0)
        path.append(p.tolist())
    return figures.paths({f"gradients of about {s:g}": [row[i] for row in path] for i, s in enumerate(size.tolist())})


pictures("4.4", draw, adamw)

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
save_seconds, train = 20, 3 * 3600
saving = [save_seconds * train / (60 * x) / 60 for x in minutes]  # minutes of the run
again = [x / 2 for x in minutes]
plots.show(figures.checkpoint_interval(minutes, saving, again))
