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
# # 04 Training: the loop
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gpt2course/gpt2course/blob/main/lessons/04_training.ipynb)
#
# **Goal:** write a whole training loop in some fifteen lines, know why each line is as it is, and stop and resume a run so
# exactly that no bit differs.
#
# 45 minutes; any CPU will do. It explains [train.py](../gpt2course/train.py), [evaluate.py](../gpt2course/evaluate.py), the
# schedules in [recipes.py](../gpt2course/recipes.py) and AdamW in [optim.py](../gpt2course/optim.py), with a glance at
# [checkpoint.py](../gpt2course/checkpoint.py). The model comes from [03 GPT](03_gpt.ipynb), next comes [05
# Muon](05_muon.ipynb). Exercises: [04](../exercises/04_training.ipynb).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("gpt2course") is None:  # a hosted notebook: fetch and install the course first
    # !git clone -q https://github.com/gpt2course/gpt2course course && pip install -q -e "course[course]"
    import sys; sys.path.insert(0, "course")  # not gpt2course: Python would take that folder for the package

# %% [markdown]
# ## Where we are
#
# You have rows of tokens and a model that reads them. What is missing is the loop that trains. In this lesson the optimizer
# is AdamW, that of the first two rungs of the ladder.

# %%
import inspect
import json
import math
import random
import tempfile
import time
from pathlib import Path

import torch

from gpt2course import checkpoint, cost, evaluate, optim, train
from gpt2course.course import lab, plots
from gpt2course.batches import Batches
from gpt2course.data import from_list, load_corpus
from gpt2course.course.figures import training as figures
from gpt2course.recipes import LADDER, Plan, group_of, make_model, make_optimizer, resolve

# %%
torch.manual_seed(0)
torch.set_printoptions(precision=4, sci_mode=False)
plots.show(plots.strip(4))
plots.show(plots.ladder(lab.ladder(upto="modern"), list(LADDER)))

# %%
lab.words("04")

# %% [markdown]
# ## Before you run anything
#
# 1. You make the batch four times larger and read the same number of tokens, so you make four times fewer steps. Will the
# model be better, worse, or the same?
# 2. Halfway through a run you begin to lower the learning rate. What does the loss on unseen text do: rise, stall, or fall
# faster?

# %% [markdown]
# ## A noisy bowl
#
# The smallest training there is: one weight w, a loss of w² / 2, so a gradient of w. A batch shows this gradient only with
# noise, here of size 1. Each step goes against the noisy gradient, times the learning rate. We follow 1,000 such weights at
# once and look at how far from the bottom they are (their root mean square).

# %%
def descend(rates, copies=1000):
    """One rate a step -> the distance from the bottom before and after every step."""
    g, w, path = torch.Generator().manual_seed(0), torch.full((copies,), 3.0), [3.0]
    for rate in rates:
        w = w - rate * (w + torch.randn(copies, generator=g))  # the gradient, and noise
        path.append(w.square().mean().sqrt().item())
    return path

# %%
high, low = [0.2] * 120, [0.02] * 120
falling = [0.2] * 60 + [0.2 * (60 - t) / 60 for t in range(60)]
bowls = {"0.2": descend(high), "0.02": descend(low), "0.2, then falling": descend(falling)}
plots.show(figures.distances(bowls))

# %% [markdown]
# The high rate arrives soon and then gets no nearer: every step throws it about. The low rate is slow. High first and falling
# later is fast *and* ends lower. That is the idea of a **schedule**. The plateau can be worked out: with a rate r, each step
# turns the variance into (1 - r)² · variance + r², which stands still at r / (2 - r).

# %%
for rate, name in ((0.2, "0.2"), (0.02, "0.02")):
    print(f"rate {rate}: plateau by formula {math.sqrt(rate / (2 - rate)):.3f}, after 120 steps {bowls[name][-1]:.3f}")

# %% [markdown]
# (The low rate has not reached its plateau yet.)
#
# ### A batch averages noise
#
# The other way to less noise is a larger batch. In a mean of B independent numbers noise shrinks by 1/√B: four times the
# numbers, half the noise. Is that so for a model's gradient? Train a small model for 20 steps, then take the gradient of each
# of 64 rows by itself.

# %%
run = lab.train("modern", seed=1, steps=20)
model, plan = run["model"], run["plan"]
corpus, tok, T = load_corpus("embedded"), lab.tokenizer(), plan.model.sequence_len
rows = torch.from_numpy(Batches(corpus.train, tok, T).next_rows(64))  # (64, T + 1)

# %%
weights = list(model.blocks.parameters())


def gradient(rows):
    found = torch.autograd.grad(model(rows[:, :-1], rows[:, 1:]), weights)
    return torch.cat([g.flatten() for g in found])


each = torch.stack([gradient(rows[i : i + 1]) for i in range(64)])  # (64, numbers)
print("one gradient a row:", tuple(each.shape))

# %% [markdown]
# Cut the 64 into batches of B and ask how far the batches' means lie from the mean of all.

# %%
sizes, whole, noise = [1, 2, 4, 8, 16, 32], each.mean(0), []
for B in sizes:
    means = each.view(64 // B, B, -1).mean(1)  # (batches, numbers)
    noise.append((means - whole).square().sum(1).mean().mul(64 / (64 - B)).sqrt().item())  # corrected: `whole` is made of them
length = (whole.square().sum() - noise[0] ** 2 / 64).clamp_min(0).sqrt().item()
plots.show(figures.noise_by_batch(sizes, noise, length))

# %% [markdown]
# The points follow 1/√B. The red line is what all rows agree on. Left of where the two cross, a step is more noise than
# direction, and a larger batch helps almost in full. To the right, more rows sharpen what was sharp already. As training goes
# on, the crossing moves to the right ([arXiv 1812.06162](https://arxiv.org/abs/1812.06162), which calls it the noise scale).

# %% [markdown]
# ## Build it by hand
#
# ### Bits per byte
#
# First the exam. The model gives each token that came a probability p, and a good code needs -log₂ p bits for it. Divide by
# the bytes of the text, and the tokenizer drops out.

# %%
text, p = "the cat sat", [1 / 2, 1 / 8, 1 / 16]  # the probabilities given to "the", " cat" and " sat"
bits = [-math.log2(x) for x in p]
print("bits:", bits, "| bytes:", len(text.encode()), "| bits per byte:", round(sum(bits) / len(text.encode()), 3))

# %% [markdown]
# A loss is in nats, so divide it by ln 2. For several texts add up all bits and all bytes and divide once: a mean of means
# would count a short text as much as a long one.

# %%
@torch.no_grad()
def bpb_by_hand(model, documents):
    """Every token of every document predicted once, each document in a row of its own."""
    nats, size = 0.0, 0
    for text in documents:
        row = torch.tensor([[tok.bos, *tok.encode(text)]])
        nats += model(row[:, :-1], row[:, 1:], reduction="none").double().sum().item()
        size += len(text.encode())
    return nats / math.log(2) / size

# %%
short = [corpus.val[i][:200] for i in range(6)]
print(f"{bpb_by_hand(model, short):.4f} bits per byte")

# %% [markdown]
# ### AdamW on one number
#
# AdamW keeps two running means for each number: m of the gradient and v of its square. The step is m / √v times the learning
# rate. Both begin at 0 and are too small at first, so they are divided by 1 - βᵗ. Watch the first three steps, for a small
# gradient and for one a thousand times larger:

# %%
def three_steps(gradients, lr=0.1, beta1=0.8, beta2=0.95):
    w, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        w -= lr * (m / (1 - beta1**t)) / math.sqrt(v / (1 - beta2**t))
        print(f"step {t}: gradient {g:7g}  m {m:8.4g}  v {v:9.4g}  weight {w:.4f}")

# %%
three_steps([2, 2, -2])
three_steps([2000, 2000, -2000])

# %% [markdown]
# The weights are the same: the size of the gradient drops out, and a step is never much longer than the rate. When the sign
# turns, m hesitates and the step is small.
#
# On tensors two more things come in. A tiny eps keeps the division safe. **Weight decay** pulls every weight a little towards
# zero, directly and not through m and v, which is the W of AdamW.

# %%
def adamw_by_hand(w, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    """One step, in place, on tensors of one shape; t counts from 1."""
    m.copy_(beta1 * m + (1 - beta1) * g)
    v.copy_(beta2 * v + (1 - beta2) * g**2)
    w.mul_(1 - lr * weight_decay)
    w.sub_(lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps))

# %% [markdown]
# ### Why rates grow with the square root of the batch
#
# Now put the two together. Take one weight with a small true gradient g, and rows with noise σ. In a batch of B rows the
# noise is σ/√B, and if that is much larger than g, then √v is about σ/√B too. A step of AdamW is then
#
#     lr · (g + noise) / (σ/√B)  =  lr · √B · g/σ  (drift)  +  a random part of size lr, whatever B is
#
# Make the batch k times larger and read the same tokens: k times fewer steps. With the same rate, the drift of the whole run
# is multiplied by √k / k, and the variance of the random part by 1 / k. Multiply the rate by √k, and both factors become 1:
# √k · √k / k for the drift, (√k)² / k for the variance. ([arXiv 2205.10287](https://arxiv.org/abs/2205.10287) derives the
# rule with care, and changes the betas too.) Try it on 2,000 weights, with g = 0.05 and σ = 1:

# %%
def drift(B, lr, rows=4096, copies=2000):
    """How far the weights get on `rows` rows in batches of B: mean and spread."""
    g, (w, m, v) = torch.Generator().manual_seed(0), torch.zeros(3, copies)
    for t in range(1, rows // B + 1):
        noisy = -0.05 + torch.randn(copies, generator=g) / B**0.5
        adamw_by_hand(w, noisy, m, v, t, lr, 0.8, 0.95, 1e-10, 0.0)
    return w.mean().item(), w.std().item()


for B in (1, 4, 16):
    (a, b), (c, d) = drift(B, 0.001), drift(B, 0.001 * B**0.5)
    print(f"B {B:2}: same rate {a:.3f} ± {b:.3f}   rate times √B {c:.3f} ± {d:.3f}")

# %% [markdown]
# With the rule, both numbers stay about where they were. Without it, the larger batch gets less far. Mind the condition:
# noise much larger than the gradient.
#
# ### The schedule
#
# Two shapes: flat and then a linear warm-down; or a warm-up and half a cosine. Both give a number that multiplies every rate.

# %%
def linear(step, steps, warmup=0, warmdown=0, final=0.0):
    if step < warmup:
        return (step + 1) / warmup  # the first step already moves
    left = min(1.0, (steps - step) / warmdown) if warmdown else 1.0
    return left + (1 - left) * final

# %%
def cosine(step, steps, warmup=0, final=0.0):
    if step < warmup:
        return (step + 1) / warmup
    return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


print("10 steps, warm-up 2, warm-down 4:", [round(linear(t, 10, 2, 4), 2) for t in range(10)])

# %% [markdown]
# Three recipes of the ladder at depth 12:

# %%
plans = {name: resolve(name, depth=12) for name in ("modern", "record", "gpt2")}
plots.show(figures.schedules({name: [p.lr(t) for t in range(p.steps)] for name, p in plans.items()}))

# %% [markdown]
# The linear shape is practical: until the warm-down begins, nothing depends on how long the run will be. A cosine has to know
# the last step from the beginning.
#
# ### Gradient accumulation
#
# A batch of 524,288 tokens does not fit into one GPU. But the gradient of a mean is the mean of gradients, so the batch can
# go through in micro-batches, and `backward` adds to what is there. A piece counts by its share of the rows:

# %%
losses = torch.tensor([1.0, 2.0, 6.0])  # of three rows
pieces = losses.split(2)
print("mean of all", losses.mean().item(), "| mean of means", sum(p.mean() for p in pieces).item() / 2)
print("weighted   ", sum(p.mean() * len(p) / 3 for p in pieces).item())

# %%
def accumulate(model, rows, size):
    """The gradient of the mean loss in every p.grad, at most size rows at a time; returns that loss."""
    total = 0.0
    for piece in rows.split(size):
        loss = model(piece[:, :-1], piece[:, 1:].contiguous()) * (len(piece) / len(rows))
        loss.backward()  # adds to p.grad, and frees what the forward pass kept
        total += loss.item()
    return total

# %%
model.zero_grad()
accumulate(model, rows[:10], 4)  # pieces of 4, 4 and 2
lab.compare(torch.cat([p.grad.flatten() for p in weights]), gradient(rows[:10]))

# %% [markdown]
# The same gradient, up to the rounding of sums in another order.
#
# ### Precision
#
# GPUs multiply **bfloat16** much faster than float32. It has float32's range in half the bits, and pays with precision: above
# 1 the numbers are 1/128 apart. A product of matrices can live with that. A weight that gets a thousand updates of 0.0001
# cannot:

# %%
a, b = torch.randn(256, 256), torch.randn(256, 256)
error = ((a.bfloat16() @ b.bfloat16()).float() - a @ b).norm() / (a @ b).norm()
print(f"a product in bfloat16 is off by {error:.2%}")
for dtype in (torch.float32, torch.bfloat16):
    w = torch.tensor(1.0, dtype=dtype)
    for _ in range(1000):
        w += 1e-4
    print(f"1 + 1000 times 0.0001 in {str(dtype)[6:]}: {w.item():.4f}")

# %% [markdown]
# Each update is less than half the distance to the next number and is rounded away. Therefore the *master* weights stay in
# float32 and are cast for the product. On GPUs the recipe makes one exception, the embeddings, stored in bfloat16: their rate
# is so high that a typical update survives until near the end of the warm-down.
#
# ### The loop
#
# All the parts are there. `plan` holds the numbers of a run, `state` the two means of every weight.

# %%
def train_by_hand(model, state, batches, plan, first, last):
    """Steps first to last - 1; returns the losses."""
    T, losses = plan.model.sequence_len, []
    for step in range(first, last):
        rows = torch.from_numpy(batches.next_rows(plan.batch_tokens // T))
        losses.append(accumulate(model, rows, 8))
        rate = linear(step, plan.steps, warmdown=round(plan.recipe.warmdown_ratio * plan.steps))
        with torch.no_grad():
            for name, w in model.named_parameters():
                s = plan.groups[group_of(name)]  # peak rate, betas, eps and decay of this kind of weight
                adamw_by_hand(w, w.grad, state[f"m.{name}"], state[f"v.{name}"], step + 1,
                              s["lr"] * rate, s["beta1"], s["beta2"], s["eps"], s["weight_decay"])  # fmt: skip
                w.grad = None
    return losses

# %% [markdown]
# Model, state and data for it. `begin` chooses the documents as `lab.train` does, so that both see the same batches.

# %%
def begin(plan, seed=1):
    model = make_model(plan).init_weights(seed)
    state = {f"{kind}.{name}": torch.zeros_like(w) for kind in "mv" for name, w in model.named_parameters()}
    chosen = random.Random(seed).sample(range(len(corpus.train)), lab.DOCUMENTS)
    return model, state, Batches(from_list([corpus.train[i] for i in chosen]), tok, plan.model.sequence_len)

# %%
plan = resolve("modern", **lab.TOY | {"steps": 64})
model, state, batches = begin(plan)
by_hand = train_by_hand(model, state, batches, plan, 0, 32)
print("loss at step 1, 8, 16, 32:", [round(by_hand[i], 3) for i in (0, 7, 15, 31)])

# %% [markdown]
# ### Stop and go on
#
# A **checkpoint** holds all that the next step depends on: weights, the optimizer's means, the place in the data, and the
# step. If one of them is missing, the run goes on too, but as another run.

# %%
from safetensors.torch import load_file, save_file


def save(folder, model, state, batches):
    save_file({f"model.{k}": v for k, v in model.state_dict().items()} | state, folder / "tensors.safetensors")
    (folder / "loader.json").write_text(json.dumps(batches.state_dict()))

# %%
def resume(folder, plan, forget=""):
    model, state, batches = begin(plan)
    tensors = load_file(folder / "tensors.safetensors")
    model.load_state_dict({k: tensors[f"model.{k}"] for k in model.state_dict()})
    if forget != "optimizer":
        state = {k: tensors[k].clone() for k in state}
    if forget != "loader":
        batches.load_state_dict(json.loads((folder / "loader.json").read_text()))
    return model, state, batches

# %% [markdown]
# A checkpoint now, at step 32. The run goes on for 8 steps; then the same 8 steps again, from the file:

# %%
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
save(folder, model, state, batches)
by_hand += train_by_hand(model, state, batches, plan, 32, 40)
for forget in ("", "optimizer", "loader"):
    again = resume(folder, plan, forget)
    train_by_hand(*again, plan, 32, 40)
    apart = max((a - b).abs().max().item() for a, b in zip(again[0].parameters(), model.parameters()))
    print(f"forgotten: {forget or 'nothing':9}  largest difference of a weight at step 40: {apart:.4g}")

# %% [markdown]
# With nothing forgotten, the difference is 0: not small, zero. Test for exactly that before you begin a long run.

# %% [markdown]
# ## The package's version
#
# The update, the same arithmetic in the order that needs least memory, and the schedule:

# %%
print(inspect.getsource(optim.adamw_update))
print(inspect.getsource(Plan.lr))

# %% [markdown]
# Yours against the package's and against PyTorch's, seven steps on random tensors of three shapes:

# %%
def seven_steps(shape, update, seed):
    g = torch.Generator().manual_seed(seed)
    w, m, v = torch.randn(shape, generator=g), torch.zeros(shape), torch.zeros(shape)
    for t in range(1, 8):
        update(w, torch.randn(shape, generator=g), m, v, t, 0.01, 0.8, 0.95, 1e-10, 0.1)
    return w


for seed, shape in enumerate(((5,), (16, 8), (2, 3, 4))):
    g = torch.Generator().manual_seed(seed)
    w = torch.nn.Parameter(torch.randn(shape, generator=g))
    torchs = torch.optim.AdamW([w], lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1)
    for _ in range(7):
        w.grad = torch.randn(shape, generator=g)
        torchs.step()
    yours = seven_steps(shape, adamw_by_hand, seed)
    lab.compare(yours, seven_steps(shape, optim.adamw_update, seed))
    lab.compare(yours, w)

# %% [markdown]
# The schedules, at every step of three recipes and two depths, and bits per byte, on six documents, one by one:

# %%
for depth in (12, 24):
    for name in ("modern", "record", "gpt2"):
        p, n = resolve(name, depth=depth), resolve(name, depth=depth).steps
        warmup = p.recipe.warmup_steps or round(p.recipe.warmup_ratio * n)
        end = dict(warmup=warmup, final=p.recipe.final_lr)
        if p.recipe.lr_schedule == "linear":
            yours = [linear(t, n, warmdown=round(p.recipe.warmdown_ratio * n), **end) for t in range(n)]
        else:
            yours = [cosine(t, n, **end) for t in range(n)]
        lab.compare(torch.tensor(yours), torch.tensor([p.lr(t) for t in range(n)]))
yours = torch.tensor([bpb_by_hand(model, [text]) for text in short])
lab.compare(yours, torch.tensor([evaluate.bits_per_byte(model, [text], tok, T)[0] for text in short]))

# %% [markdown]
# And the loop. `lab.train` makes the same steps with the package's optimizer and schedule. Where the two round differently,
# the difference grows with each step, so expect close agreement and not equality.

# %%
ours = lab.train("modern", seed=1, steps=64)
lab.compare(torch.tensor(by_hand), torch.tensor(ours["loss"][:40]), atol=2e-3)

# %% [markdown]
# The loop of a long run, in [train.py](../gpt2course/train.py), has the same heart, with a stop for numbers that are no
# longer finite. (`team` is for several GPUs, lesson 11; `eight` saves time on a GPU, lesson 12.)

# %%
print(inspect.getsource(train.take_step))
print(inspect.getsource(train.forward_backward))

# %% [markdown]
# Checkpoints of the package are written under a temporary name first and carry checksums. If the newest is damaged, the one
# before it is used:

# %%
optimizer = make_optimizer(model, plan)
with tempfile.TemporaryDirectory() as run_folder:
    for step in (32, 40):
        newest = checkpoint.save(run_folder, step, model, optimizer.state_dict(), {"loader": batches.state_dict()})
    file = newest / checkpoint.OPTIMIZER
    file.write_bytes(file.read_bytes()[:-1] + b"!")  # one byte changes
    found, _ = checkpoint.newest(run_folder, say=lambda line: print("warning: a checkpoint is damaged"))
    print("goes on from", found.name)

# %% [markdown]
# ## Two pictures
#
# ### Loss and learning rate
#
# The bowl told you what to expect. Now the model. One branch goes on from step 40 with its warm-down, the other from the
# checkpoint of step 32 with the full rate. Every 8 steps both are measured on the same unseen text, since the losses of
# single batches jump too much.

# %%
unseen = evaluate.first_bytes(corpus.val, 12_000)


def bpb(model):
    return evaluate.bits_per_byte(model, unseen, tok, T)[0]


flat = resolve("modern", **lab.TOY | {"steps": 64, "warmdown_ratio": 0.0})
other = resume(folder, flat)
points = {"warm-down": [(32, bpb(other[0])), (40, bpb(model))], "constant": [(32, bpb(other[0]))]}

# %%
for first in (32, 40, 48, 56):
    train_by_hand(*other, flat, first, first + 8)
    points["constant"].append((first + 8, bpb(other[0])))
    if first > 32:
        train_by_hand(model, state, batches, plan, first, first + 8)
        points["warm-down"].append((first + 8, bpb(model)))
rates = {"warm-down": [plan.lr(t) for t in range(64)], "constant": [1.0] * 64}
temporary.cleanup()
plots.show(figures.loss_and_rate({name: (points[name], rates[name]) for name in points}))

# %% [markdown]
# Look at where the curves part. One seed and a short text prove little, so the same comparison comes again below with two
# seeds.
#
# ### Where the milliseconds go
#
# One step has four parts. Measure each, on 2 rows and on 8, and take medians.

# %%
def measure_step(rows, repeats=9):
    optimizer, seconds = make_optimizer(model, plan), {"data": [], "forward": [], "backward": [], "optimizer": []}
    for _ in range(repeats):
        marks = [time.perf_counter()]
        batch = torch.from_numpy(batches.next_rows(rows))
        marks.append(time.perf_counter())
        loss = model(batch[:, :-1], batch[:, 1:].contiguous())
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step(0.0)
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        for part, a, b in zip(seconds, marks, marks[1:]):
            seconds[part].append(b - a)
    return {part: sorted(s)[repeats // 2] for part, s in seconds.items()}


parts = {f"{n} rows": measure_step(n) for n in (2, 8)}
plots.show(figures.step_parts(parts))

# %% [markdown]
# The optimizer's work does not depend on the batch, so its share falls as the batch grows. Lesson 00 counted twice as many
# FLOPs backward as forward. Here the forward pass does more than its share: to save memory, the package computes the head's
# gradients in it already (lesson 12), and in a toy model the head is a large part.
#
# MFU (lesson 00) says how well the time was used. The peak here is what your machine reaches on one large product.

# %%
def peak_here(n=1024):
    a, times = torch.randn(n, n), []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * n**3 / sorted(times)[2]


peak, speed = peak_here(), 8 * T / sum(parts["8 rows"].values())
by_hand_mfu = plan.flops_per_token * speed / peak
print(f"{speed:,.0f} tokens/s, {plan.flops_per_token * speed / 1e9:.1f} of {peak / 1e9:.0f} GFLOP/s: MFU {by_hand_mfu:.0%}")
lab.compare(torch.tensor(by_hand_mfu), torch.tensor(cost.mfu(plan.flops_per_token, speed, 1, peak)))

# %% [markdown]
# ## The experiment: schedule and batch
#
# Both questions, on 65,536 tokens: 64 steps of 1,024, at a constant rate and with a warm-down; or 16 steps of 4,096 with a
# warm-down, with the same rates and with rates doubled, as the square-root rule asks for a batch four times larger.

# %%
big = dict(batch_tokens=4096, steps=16)
variants = {
    "1,024 tokens, constant rate": dict(warmdown_ratio=0.0),
    "1,024 tokens, warm-down": {},
    "4,096 tokens, warm-down": big,
    "4,096 tokens, warm-down, rates times 2": big | dict(tiny_batch_lr=2.0),
}
lab.table(lab.experiment(variants, seeds=(1, 2), recipe="modern", steps=64))

# %% [markdown]
# The last three rows answer question 1, the first two question 2. Compare them with their spread over the seeds. This is the
# very beginning of training: in the picture of the noise, a batch of 32 rows of 128 tokens stands near the crossing, so the
# rule's condition does not hold. The table does not tell which batch is best for a long run. Nor is the speed of one CPU any
# guide to eight GPUs, which only a large batch keeps busy.

# %% [markdown]
# ## At full size
#
# First the square-root rule, far below full size. The published rates are tuned for batches of 524,288 tokens; at 2,048 the
# rule asks for √(2048 / 524288), one sixteenth of them. The course trained small models at several shares.

# %%
rows = [r for r in lab.recorded("small-batch-rates") if r["weight_decay"] == 0.2]
shares = {}
for r in rows:
    shares.setdefault(r["tiny_batch_lr"], []).append(r["val_bpb"])
rule = math.sqrt(2048 / 2**19)
plots.show(figures.rate_shares(shares, rule))
best = min(shares, key=lambda s: sum(shares[s]))
print(f"by the rule {sum(shares[rule]) / 2:.3f} bits per byte, at share {best:g} {sum(shares[best]) / 2:.3f}")
print(lab.provenance(rows))

# %% [markdown]
# The script is [sweep.py](../results/2026-11-23_small-batch-rates/sweep.py), the recipe `jan29` (with Muon for the matrices,
# lesson 05). The rule is far off here: what follows it is worse by much more than the seeds differ. So for batches of up to
# 32,768 tokens our recipes take the full rates (`tiny_batch`). Why it fails was not measured. A likely reason is that 250
# steps are the beginning of training, where the rule's condition does not hold. Trust a scaling rule near where it was
# tested.
#
# What published runs on eight H100 found (nanochat's
# [leaderboard](https://github.com/karpathy/nanochat/blob/master/dev/LEADERBOARD.md),
# [log](https://github.com/karpathy/nanochat/blob/master/dev/LOG.md) and pull requests):
#
# - **Warm-down.** Its share of the run grew from 0.4 to 0.5 in January 2026 and to 0.65 in March.
# - **Warm-up.** None in January, 40 steps in March, with an end at 5 % of the peak in place of 0. All this came in one change
# with others, so the effect of each is unknown.
# - **Batch.** 2¹⁹ tokens at first. Then a rule by which the batch grows with the training tokens to the power 0.383 ([arXiv
# 2505.13738](https://arxiv.org/abs/2505.13738)), 2²⁰ at depth 24; the time fell from 2.91 to 2.76 hours. But unmerged runs
# with 0.5 to 0.8 million tokens were faster ([#516](https://github.com/karpathy/nanochat/pull/516),
# [#733](https://github.com/karpathy/nanochat/pull/733), [#747](https://github.com/karpathy/nanochat/pull/747)), with other
# changes too. The question is open.
# - **Gradient clipping**, which scales all gradients down where their common norm is too large, was tried and rejected. Our
# `gpt2` has it, as GPT-3 had.
#
# The time of one step, from the table of records:

# %%
published = {e["id"]: e for e in lab.published()}
for id, batch in (("nanochat-1", 2**19), ("nanochat-2", 2**19), ("nanochat-3", 2**20), ("nanochat-6", 2**20)):
    e = published[id]
    print(f"{e['name'][:44]:44} {1000 * e['hours'] * 3600 * batch / e['tokens']:6.0f} ms a step of {batch:,} tokens")

# %% [markdown]
# ## Napkin arithmetic
#
# How long should a step of depth 24 take on eight H100, at an MFU of 50 %? And what must one GPU hold to train the `modern`
# model with AdamW, 16 rows of 2,048 tokens at a time? Weights, gradients and two means are four tensors of one shape.

# %%
jan29, modern = resolve("jan29", depth=24), resolve("modern", depth=24)
print(f"{1000 * jan29.flops_per_token * jan29.batch_tokens / (8 * cost.peak_flops('H100') * 0.5):.0f} ms a step")
n, shape = modern.params, modern.model
values = 16 * 2048 * shape.n_embd
kept, rest = cost.SAVED[True, False]  # tensors of B * T * C that torch.compile keeps: for each layer, and besides
numbers = 4 * (n["matrices"] + n["lm_head"]) + 2 * n["wte"]  # bytes: float32, and bfloat16 for the embedding
yours = {"weights": numbers, "gradients": numbers, "optimizer": 2 * numbers, "activations": (kept * 24 + rest) * values * 2}
sizes = dict(B=16, T=2048, n_layer=24, n_embd=1536, vocab_size=32768, matrix_optimizer="adamw", compiled=True)
estimate = cost.memory_estimate(n, **sizes)
for part, size in yours.items():
    print(f"{part:12} {size / 1e9:6.1f} GB")
print(f"logits, in chunks {estimate.logits / 1e9:.1f} GB (all at once {16 * 2048 * 32768 * 6 / 1e9:.1f} GB)")
print(f"in all {estimate.total / 1e9:.1f} of 80 GB")
lab.compare(torch.tensor(list(yours.values())) / 1e9, torch.tensor([getattr(estimate, part) for part in yours]) / 1e9)

# %% [markdown]
# The activations (about 19 tensors of B · T · C a layer, counted in a rehearsal without a GPU) are more than all the rest, so
# the micro-batch decides what fits. A checkpoint holds weights and means, three of the four:

# %%
size = yours["weights"] + yours["optimizer"]
print(f"{size / 1e9:.1f} GB; at 2 GB/s {size / 2e9:.0f} s, every 10 minutes {size / 2e9 / 600:.1%} of the time")

# %% [markdown]
# ## Checkpoint questions
#
# 1. A model A with 1,000 tokens in its vocabulary has a loss of 3.0 nats per token, B with 50,000 has 4.0. Which is better?
#
# <details><summary>Answer</summary>
#
# Nobody can tell. B's tokens are longer, so it makes fewer predictions for the same text. Bits per byte would tell.
# </details>
#
# 2. All losses are multiplied by 100. What changes under AdamW?
#
# <details><summary>Answer</summary>
#
# Almost nothing: m grows by 100 and √v too. Only eps is smaller in comparison. (Gradient clipping would notice.)
# </details>
#
# 3. For plain gradient descent (step = lr · gradient), by which factor would you raise the rate for a batch k times as large,
# to keep the drift of the whole run?
#
# <details><summary>Answer</summary>
#
# By k. There are k times fewer steps and nothing is divided by √v. The variance of the random part is then k² / (k · k) = 1
# too: the linear rule.
# </details>
#
# 4. A run of 100 steps with a warm-down of 50 is resumed at step 80 with the step counter at 0. What happens?
#
# <details><summary>Answer</summary>
#
# The rate jumps back to its peak, and the bias correction enlarges m and v, which are not too small any more.
# </details>

# %% [markdown]
# > **Takeaway.** A step is: rows, forward, backward, update. High rates learn fast and cannot settle, so the rate falls at the
# > end. Noise falls with the square root of the batch, and from that comes the rule for rates, which holds where noise is what
# > limits. Weights stay in float32, every piece counts by its rows, and a checkpoint is complete if the resumed run is the same
# > to the last bit.

# %% [markdown]
# ## Exercises
#
# [Exercises 04](../exercises/04_training.ipynb): the schedule, gradient accumulation, bits per byte, AdamW, and the cost of
# checkpoints. `make start EX=04` begins, `make grade EX=04` grades.

# %% [markdown]
# ## Further reading
#
# - D. Kingma and J. Ba, *Adam*, [arXiv 1412.6980](https://arxiv.org/abs/1412.6980), and I. Loshchilov and F. Hutter,
# *Decoupled Weight Decay Regularization*, [arXiv 1711.05101](https://arxiv.org/abs/1711.05101): AdamW.
# - S. McCandlish and others, *An Empirical Model of Large-Batch Training*, [arXiv
# 1812.06162](https://arxiv.org/abs/1812.06162).
# - S. Malladi and others, *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*, [arXiv
# 2205.10287](https://arxiv.org/abs/2205.10287).
# - T. Brown and others, *Language Models are Few-Shot Learners*, [arXiv 2005.14165](https://arxiv.org/abs/2005.14165),
# appendix B: the settings that `gpt2` takes over.
#
# Before: [03 GPT](03_gpt.ipynb). Next: [05 Muon](05_muon.ipynb)
