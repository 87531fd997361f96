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
# # 05 Muon: an optimizer for matrices
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gpt2course/gpt2course/blob/main/lessons/05_muon.ipynb)
#
# **Goal:** build Muon piece by piece, know why its update is orthogonal, and measure what it gives against a tuned AdamW.
#
# 45 minutes; any CPU will do. It explains [optim.py](../gpt2course/optim.py). Before: [04 Training](04_training.ipynb). Next:
# [06 Windows](06_windows.ipynb). Exercises: [05](../exercises/05_muon.ipynb).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("gpt2course") is None:  # a hosted notebook: fetch and install the course first
    # !git clone -q https://github.com/gpt2course/gpt2course course && pip install -q -e "course[course]"
    import sys; sys.path.insert(0, "course")  # not gpt2course: Python would take that folder for the package

# %% [markdown]
# ## Where we are
#
# The loop of lesson 04 works, with AdamW for every weight. The next rung changes one thing: the matrices inside the layers get
# another optimizer.

# %%
import inspect
import math
import statistics

import torch

from gpt2course import cost, optim
from gpt2course.course import lab, plots
from gpt2course.batches import Batches
from gpt2course.data import load_corpus
from gpt2course.course.figures import muon as figures
from gpt2course.optim import POLAR_EXPRESS
from gpt2course.recipes import LADDER, build, group_of, make_model, make_optimizer, resolve

# %%
torch.manual_seed(0)
torch.set_printoptions(precision=4, sci_mode=False)
plots.show(plots.strip(5))
plots.show(plots.ladder(lab.ladder(upto="muon"), list(LADDER)))

# %%
lab.words("05")

# %% [markdown]
# ## Before you run anything
#
# 1. A gradient pulls hard in one direction of a matrix and a hundred times less in fifty others. You may choose another step.
# Would you follow it as it is, or move equally far in all of them?
# 2. AdamW divides every number by its usual size. Does that not do the same already?
#
# ## A matrix turns and stretches
#
# A matrix sends the circle of all inputs of length 1 to an ellipse. The half-axes of the ellipse are its **singular values**,
# here 3√5 and √5. The largest, by which any input can grow at most, is the **spectral norm**.

# %%
G = torch.tensor([[3.0, 0.0], [4.0, 5.0]])
U, S, Vt = torch.linalg.svd(G)  # G = U · diag(S) · Vt, U and Vt only turn (or mirror)
print("singular values:", S, "  3√5 and √5:", 3 * math.sqrt(5), math.sqrt(5))
Q = U @ Vt  # the same with both singular values set to 1
print(Q)

# %% [markdown]
# Q is what is left without the stretching: (2, -1; 1, 2) / √5, a turn by 27°. All its singular values are one, and in this
# lesson we call such a matrix **orthogonal**, also when it is not square. Follow three inputs:

# %%
plots.show(figures.circles({"through G": G.tolist(), "through Q": Q.tolist()}))

# %% [markdown]
# ## Why an orthogonal update?
#
# You want a step that lowers the loss as much as possible without upsetting the layer. To first order, the step W - η·X lowers
# the loss by η·⟨G, X⟩: multiply G and X number by number and add up. And an input of length 1 finds its output moved by at most
# η times the spectral norm of X. So set that norm to 1 and ask: which X has the largest ⟨G, X⟩?
#
# With G = Σ sᵢ uᵢ vᵢᵀ, ⟨G, X⟩ = Σ sᵢ (uᵢᵀ X vᵢ). X can make nothing longer, so no bracket exceeds 1, and the sum is at most Σ
# sᵢ. X = Σ uᵢ vᵢᵀ makes every bracket 1. That is Q. Compare it with the gradient itself, with its signs (what Adam would take
# in its first step), and with random matrices, all at spectral norm 1:

# %%
def gain(X):
    return (G * X / torch.linalg.matrix_norm(X, 2)).sum().item()


print(f"gradient {gain(G):.3f} | signs {gain(G.sign()):.3f} | Q {gain(Q):.3f} | sum of singular values {S.sum():.3f}")
print(f"best of 10,000 random matrices {max(gain(X) for X in torch.randn(10_000, 2, 2)):.3f}")

# %% [markdown]
# Another limit gives another winner: limit the root of the sum of all squares (the **Frobenius norm**), and it is the gradient,
# scaled; limit the largest single number, and it is the signs. Muon takes the limit that fits a matrix whose job is to send
# vectors to vectors.
#
# ### Real gradients
#
# Does it matter? It would not if all singular values were about equal. Train a toy model for 20 steps, and look at three
# gradients of its second layer.

# %%
run = lab.train("muon", seed=1, steps=20)
model, tok = run["model"], lab.tokenizer()
stream = Batches(load_corpus("embedded").train, tok, 128)


def gradients(model):
    rows = torch.from_numpy(stream.next_rows(8))
    model.zero_grad()
    model(rows[:, :-1], rows[:, 1:].contiguous()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


grads = gradients(model)

# %%
names = ("attn.c_q", "attn.c_v", "mlp.c_fc")
spectra = {name: torch.linalg.svdvals(grads[f"blocks.1.{name}.weight"]) for name in names}
plots.show(figures.spectra({name: s.tolist() for name, s in spectra.items()}))
for name, s in spectra.items():
    print(f"{name}: 4 of {len(s)} singular values hold {s[:4].square().sum() / s.square().sum():.0%} of the squares")

# %% [markdown]
# Mind the logarithm: a few directions carry most of a gradient, and the lower half is ten to thousands of times smaller. A
# step along such a gradient changes a matrix mostly in a few directions. The orthogonal update moves equally far in all of
# them. Some of the small ones are noise, so whether this is good has to be measured.
#
# ## Build it by hand
#
# ### A polynomial instead of an SVD
#
# `torch.linalg.svd` gives Q, but an SVD is a long chain of small steps, slow on a GPU, and does not exist in bfloat16. Here
# is a way with matrix products alone. Look at what G Gᵀ G does to the singular values:

# %%
print(torch.linalg.svdvals(G), torch.linalg.svdvals(G @ G.T @ G), S**3)

# %% [markdown]
# It cubes them and leaves their directions alone: G Gᵀ G = U S Vᵀ · V S Uᵀ · U S Vᵀ = U S³ Vᵀ. So every odd polynomial of a
# matrix acts on each singular value by itself, and we only need one for *numbers* that moves everything towards 1.
#
# **Newton-Schulz** is the classic: x ← 1.5x - 0.5x³. At x = 1 it gives 1; below, it gives more than x.

# %%
x = [0.9, 0.5, 0.1, 0.01, 2.5]
for i in range(6):
    print(f"after {i}:", [float(f"{v:.4g}") for v in x])
    x = [1.5 * v - 0.5 * v**3 for v in x]

# %% [markdown]
# 0.9 and 0.5 arrive. 0.01 grows by a factor of 1.5 a round, too slowly. And 2.5 runs away: the map is only safe up to √3. So
# first divide the matrix by its Frobenius norm, the root of the sum of all squared singular values, which none of them can
# exceed.
#
# ### Polar Express
#
# Add a fifth power, a x + b x³ + c x⁵, and the slope at 0 can be much larger. **Polar Express** ([arXiv
# 2505.16932](https://arxiv.org/abs/2505.16932)) takes five different polynomials, each made for the interval in which the one
# before it leaves the numbers. Look at the slopes (a):

# %%
for a, b, c in POLAR_EXPRESS:
    print(f"a {a:7.4f}   b {b:8.4f}   c {c:8.4f}")

# %%
def curve(polynomials, low, high, n=400):
    x = torch.linspace(low, high, n, dtype=torch.float64)
    y = x
    for a, b, c in polynomials:
        y = a * y + b * y**3 + c * y**5
    return x.tolist(), y.tolist()


cubic = [(1.5, -0.5, 0.0)]
one = {"Newton-Schulz": curve(cubic, 0, 1.73), "Polar Express 1": curve(POLAR_EXPRESS[:1], 0, 1)}
one |= {f"Polar Express {i}": curve(POLAR_EXPRESS[i - 1 : i], 0, end) for i, end in ((2, 1.99), (5, 1.58))}
plots.show(figures.maps(one))

# %% [markdown]
# Each is drawn as far as its inputs reach. The first polynomial lifts small values eightfold, at the price of a wave
# between 0 and 2. The last one draws what has become large enough close to 1. Now all five in a row, against five rounds of
# Newton-Schulz. The axis is logarithmic, so small values are seen too.

# %%
BAND = 0.14113
n = 4000
five = {"Newton-Schulz, 5 rounds": curve(cubic * 5, 0.001, 1, n), "Polar Express, 5 rounds": curve(POLAR_EXPRESS, 0.001, 1, n)}
plots.show(figures.maps(five, band=BAND, log=True))

# %%
v, rounds = 0.001, 0
while v < 1 - BAND:
    v, rounds = 1.5 * v - 0.5 * v**3, rounds + 1
print(f"Polar Express takes 0.001 into the band in 5 rounds, Newton-Schulz in {rounds}")

# %% [markdown]
# Whatever starts in [0.001, 1] ends within 0.141 of 1. Not exactly at 1, and Muon does not need that. The waves are the price
# for speed: the five are chosen to make the largest error as small as five rounds can.
#
# ### On matrices
#
# One round costs three products. The **Gram matrix** X Xᵀ of an (m, n) matrix is (m, m). If the matrix is tall, transpose it
# first, and the Gram matrix is (n, n) instead: the same result with less work.

# %%
def one_round(X, a, b, c):
    A = X @ X.T  # Gram matrix
    return a * X + (b * A + c * A @ A) @ X


def orthogonalise(G, polynomials=POLAR_EXPRESS, safety=1.02):
    X = G / (safety * G.norm() + 1e-6)  # safety: rounding must not lift a value above 1
    tall = G.size(0) > G.size(1)
    X = X.T if tall else X  # (shorter, longer)
    for a, b, c in polynomials:
        X = one_round(X, a, b, c)
    return X.T if tall else X

# %%
print("exact:\n", Q, "\nfive rounds:\n", orthogonalise(G))
for seed, shape in enumerate(((64, 64), (96, 32), (32, 96))):
    R = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    lab.compare(orthogonalise(R), optim.polar_express(R))

# %% [markdown]
# ### The picture: a real gradient, round by round
#
# The gradient of `attn.c_v` from above. On the left Newton-Schulz, on the right Polar Express; the black dashes are the
# singular values after the division, before the first round.

# %%
real = grads["blocks.1.attn.c_v.weight"]
methods = {"Newton-Schulz": cubic * 5, "Polar Express": POLAR_EXPRESS}
states = {
    name: [torch.linalg.svdvals(orthogonalise(real, p[:k])).tolist() for k in range(6)] for name, p in methods.items()
}
plots.show(figures.iterations(states, BAND))

# %%
start, end = (torch.tensor(states["Polar Express"][k]) for k in (0, 5))
print(f"{(start < 0.001).sum()} of 64 start below 0.001; {((end - 1).abs() > BAND + 0.001).sum()} end outside the band")

# %% [markdown]
# The right panel becomes flat; only values below a thousandth of the norm are still on their way. They hold almost nothing of
# the gradient.
#
# ### Momentum, with a look ahead
#
# A single gradient is noisy, so Muon orthogonalises a running mean, its **momentum**. **Nesterov** momentum mixes the newest
# gradient in once more. Follow one number whose gradient is 1, 1, 1 and then -1:

# %%
def look_ahead(grad, buffer, momentum):
    """The running mean, updated in place, and one step further."""
    buffer.copy_(momentum * buffer + (1 - momentum) * grad)
    return momentum * buffer + (1 - momentum) * grad


buffer = torch.zeros(1)
for g in (1.0, 1.0, 1.0, -1.0):
    ahead = look_ahead(torch.tensor([g]), buffer, 0.9)
    print(f"gradient {g:4.0f}   mean {buffer.item():.3f}   ahead {ahead.item():.3f}")

# %% [markdown]
# The look ahead is quicker to follow, upwards and down again. That the mean starts near 0 does not matter here: the division by
# the norm takes any common factor out.
#
# ### Even rows: NorMuon
#
# All directions of an orthogonal matrix count the same, but its rows (its *neurons*) need not. Here is how long the rows of the
# orthogonalised gradient of `mlp.c_fc` (256 neurons, 64 inputs) are:

# %%
O = orthogonalise(grads["blocks.1.mlp.c_fc.weight"])  # (256, 64)
lengths = O.norm(dim=1)
print(f"shortest {lengths.min():.3f}, median {lengths.median():.3f}, longest {lengths.max():.3f}")

# %% [markdown]
# **NorMuon** ([arXiv 2510.05491](https://arxiv.org/abs/2510.05491)) keeps one second moment a row, as Adam does for each
# number, divides by its root, and then restores the Frobenius norm, so that the size of the step stays. (For a wide matrix it
# is one a column, in our recipes.)

# %%
def even_out(U, second, beta2):
    """second: running mean of squares, (m, 1) of a tall or square matrix, (1, n) of a wide one; updated in place."""
    dim = 1 if U.size(0) >= U.size(1) else 0
    second.copy_(beta2 * second + (1 - beta2) * U.square().mean(dim, keepdim=True))
    V = U / second.clamp_min(1e-10).sqrt()
    return V * (U.norm() / V.norm().clamp_min(1e-10))  # clamped: a gradient may be all zeros

# %%
toy, second = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 1.0]]), torch.zeros(3, 1)
for step in (1, 2):
    toy_even = even_out(toy, second, 0.95)
    print(f"step {step}: rows of length {toy.norm(dim=1)} become {toy_even.norm(dim=1)}")
    print(f"        norm {toy.norm():.3f} becomes {toy_even.norm():.3f}")
    toy = toy * torch.tensor([[1.0], [2.0], [1.0]])  # the second row doubles

# %% [markdown]
# In the first step all rows become equally long. In the second, the row that doubled stands out for a while: it is measured
# against its own past.
#
# ### Cautious weight decay
#
# Weight decay pulls a weight towards zero. Where the update pushes it away from zero, the two work against each other.
# **Cautious weight decay** ([arXiv 2411.16085](https://arxiv.org/abs/2411.16085) has the idea) acts only where the update
# pulls the same way. Four weights, rate 0.1, decay 0.5:

# %%
def finish(p, U, rate, decay):
    agree = (U * p >= 0).float()  # U is subtracted: with equal signs both shrink p
    return p - rate * U - rate * decay * p * agree


p, U = torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([1.0, -1.0, -1.0, 1.0])
print(finish(p, U, 0.1, 0.5), "without decay:", finish(p, U, 0.1, 0.0))

# %% [markdown]
# ### The rate of a tall matrix
#
# Send random inputs whose numbers have size 1 (root mean square) through orthogonal matrices of three shapes. How large are the
# outputs?

# %%
for m, n in ((256, 256), (64, 256), (256, 64)):
    R = torch.linalg.svd(torch.randn(m, n), full_matrices=False)
    out = (R[0] @ R[2]) @ torch.randn(n, 1000)  # 1,000 inputs
    rms = out.square().mean().sqrt().item()
    print(f"({m}, {n}): outputs of size {rms:.2f}, times √max(1, m/n) {rms * max(1, m / n) ** 0.5:.2f}")

# %% [markdown]
# A tall matrix spreads the length of n numbers over m numbers, so each is smaller by √(n/m). Raising the rate by **√max(1,
# rows / columns)** makes an update worth as much in every shape. In GPT this concerns `c_fc`, four times as tall as wide: its
# rate is doubled.
#
# ### Which parameters?
#
# The argument needs a matrix that meets *any* vector. An embedding is a table, from which a token takes one row, so the
# limit that led to Q does not fit it. Scalars have no directions at all. They keep AdamW, and so does the head. That last
# choice was made by experience, not derived.

# %%
for name, p in model.named_parameters():
    if not name.startswith("blocks.1"):
        print(f"{name:28} {str(tuple(p.shape)):12} {run['plan'].groups[group_of(name)]['kind']}")

# %% [markdown]
# ### One whole step
#
# Everything together, with the settings of recipe `jan29`, on a tall, a wide and a square matrix. Five steps of yours against
# five of the package's `muon_update`, momentum and decay by the schedules of the recipe:

# %%
def muon_by_hand(p, grad, buffer, second, rate, momentum, beta2, decay):
    G = look_ahead(grad, buffer, momentum)
    U = even_out(orthogonalise(G), second, beta2)
    p.copy_(finish(p, U, rate, decay))


jan29 = resolve("jan29", **lab.TOY)
s = jan29.groups["matrices"]
print(s, "momentum of the first steps", [round(jan29.muon_momentum(t), 4) for t in range(3)])

# %%
for m, n in ((96, 32), (32, 96), (64, 64)):
    g = torch.Generator().manual_seed(m)
    mine, longer = torch.randn(m, n, generator=g), ((m, 1) if m >= n else (1, n))
    theirs, rate = mine.clone()[None], s["lr"] * max(1, m / n) ** 0.5  # the package takes stacks (K, m, n)
    mine_state, their_state = (torch.zeros(m, n), torch.zeros(longer)), (torch.zeros(1, m, n), torch.zeros(1, *longer))
    for t in range(5):
        grad, momentum = torch.randn(m, n, generator=g), jan29.muon_momentum(t)
        decay = s["weight_decay"] * jan29.weight_decay(t)
        muon_by_hand(mine, grad, *mine_state, rate, momentum, s["beta2"], decay)
        settings = (s["beta2"], decay, s["ns_steps"], s["safety"], s["row_norm"], s["renorm"], torch.float32)
        optim.muon_update(theirs, grad[None], *their_state, rate, momentum, *settings)
    lab.compare(mine, theirs[0])

# %% [markdown]
# And a whole optimizer for a whole model: Muon for what belongs to the layers, AdamW (lesson 04) for the rest. Two copies of
# one model, five batches; yours moves copy a, the package's `MuonAdamW` copy b. Both get the gradients of a, since AdamW's
# first steps follow the sign of even the smallest gradient, and rounding in the model might flip one.

# %%
def optimizer_by_hand(model, state, plan, t):
    for name, p in model.named_parameters():
        s, zeros = plan.groups[group_of(name)], torch.zeros_like(p)
        if s["kind"] == "adamw":
            m, v = state.setdefault(name, (zeros, zeros.clone()))
            optim.adamw_update(p, p.grad, m, v, t + 1, s["lr"] * plan.lr(t), s["beta1"], s["beta2"], s["eps"], s["weight_decay"])
            continue
        (m, n), decay = p.shape, s["weight_decay"] * plan.weight_decay(t)
        buffer, second = state.setdefault(name, (zeros, torch.zeros((m, 1) if m >= n else (1, n))))
        rate = s["lr"] * plan.lr(t) * max(1, m / n) ** 0.5
        muon_by_hand(p, p.grad, buffer, second, rate, plan.muon_momentum(t), s["beta2"], decay)

# %%
a, b, state = make_model(jan29).init_weights(1), make_model(jan29).init_weights(1), {}
package = make_optimizer(b, jan29)
for t in range(5):
    rows = torch.from_numpy(stream.next_rows(4))
    a.zero_grad()
    a(rows[:, :-1], rows[:, 1:].contiguous()).backward()
    for mine, theirs in zip(a.parameters(), b.parameters()):
        theirs.grad = mine.grad.clone()
    with torch.no_grad():
        optimizer_by_hand(a, state, jan29, t)
    package.step(jan29.lr(t), jan29.muon_momentum(t), jan29.weight_decay(t))
yours, ours = (torch.cat([p.flatten() for p in copy.parameters()]) for copy in (a, b))
lab.compare(yours, ours)

# %% [markdown]
# ## The package's version
#
# It does the same for K matrices of one shape at once, in one stack. `row_norm` and `renorm` belong to lesson 14.

# %%
print(inspect.getsource(optim.polar_express))
print(inspect.getsource(optim.muon_update))

# %% [markdown]
# ## AdamW's step and Muon's, side by side
#
# Now question 2. Give five gradients of `attn.c_v` to both optimizers and look at the fifth step of each: not at single
# numbers, but at its singular values.

# %%
p, w = torch.zeros(1, 64, 64), torch.zeros(64, 64)
muon_state, adam_state = (torch.zeros(1, 64, 64), torch.zeros(1, 64, 1)), (torch.zeros(64, 64), torch.zeros(64, 64))
for t in range(5):
    grad = gradients(model)["blocks.1.attn.c_v.weight"]
    p.zero_(), w.zero_()
    optim.muon_update(p, grad[None], *muon_state, 1.0, 0.95, 0.95, 0.0, 5, 1.02, False, False, torch.float32)
    optim.adamw_update(w, grad, *adam_state, t + 1, 1.0, 0.9, 0.95, 1e-10, 0.0)
steps = {"gradient": grad, "AdamW's step": w, "Muon's step": p[0]}
plots.show(figures.spectra({name: torch.linalg.svdvals(x).tolist() for name, x in steps.items()}))

# %% [markdown]
# AdamW evens out numbers, and that lifts the small directions somewhat. But the step still stretches some directions far
# more than others. Muon's line is nearly flat, but for the last few values, which began below 0.001. Making the rows even
# afterwards tilts it a little.
#
# ## The experiment: Muon against tuned AdamW
#
# An optimizer must be compared with a competitor that has its own best rate. Live there is time for two rates of AdamW, at toy
# size, 50 steps, two seeds:

# %%
variants = {f"AdamW, rate {rate}": dict(recipe="modern", matrix_adamw_lr=rate) for rate in (0.0015, 0.003)}
variants["Muon, rate 0.02"] = dict(recipe="muon", matrix_lr=0.02)
lab.table(lab.experiment(variants, seeds=(1, 2), steps=50))

# %% [markdown]
# Compare the gap between the means with the width of "over seeds". Even where it is wider, do not build on it: the gap is a
# fraction of a per cent, two seeds say little about a spread, and in 50 steps a toy mostly learns its tables, which have
# AdamW in all three rows. With 150 steps (try it) gap and width come closer together.
#
# ## At full size
#
# So the course recorded longer runs of a larger model: depth 4, width 128, 450 steps. Every rate was tried with seed 1, and the
# best of each optimizer repeated with two more seeds (black marks).

# %%
runs = [r for r in lab.recorded("ladder-laptop") if r["recipe"] in ("modern", "muon")]
title = {"modern": "AdamW", "muon": "Muon"}
swept = {title[k]: [(r["rate"], r["val_bpb"]) for r in runs if r["recipe"] == k and r["role"] == "sweep"] for k in title}
seeds = {title[k]: bpb for k, bpb in lab.ladder(upto="muon").items() if k in title}
plots.show(figures.rates(swept, seeds))
distinct = [r for r in runs if r["role"] == "sweep" or r["seed"] != 1]  # seed 1 at the best rate stands in both
print(lab.provenance(distinct))

# %% [markdown]
# How large is the gap, in units of the spread between seeds (their sample standard deviation, common to both)?

# %%
means = {name: statistics.mean(bpb) for name, bpb in seeds.items()}
spread = math.sqrt(statistics.mean(statistics.variance(bpb) for bpb in seeds.values()))
gap = means["AdamW"] - means["Muon"]
print({name: round(m, 4) for name, m in means.items()}, f"gap {gap:.4f}, spread {spread:.4f}: {gap / spread:.0f} spreads")
speed = {k: statistics.median(r["tok_per_sec"] for r in distinct if r["recipe"] == k) for k in title}
print({title[k]: f"{v:,.0f} tokens/s" for k, v in speed.items()})

# %% [markdown]
# That is well above chance: the worst seed of Muon is better than the best of AdamW. But it holds for equal *tokens*, at this
# size, with the rates of embedding and head left alone, and the speed of a small CPU model says nothing about a GPU.
#
# What published runs found (nanochat's [log](https://github.com/karpathy/nanochat/blob/master/dev/LOG.md) and code, unless
# another source is named):
#
# - **Adopted on 10 January 2026**: Polar Express (its effect was within the noise), NorMuon's variance reduction (a very
# small gain), cautious weight decay that falls to zero (a solid one).
# - **Momentum** rose from 0.85 to 0.95 over 300 steps in January; since March 2026 from 0.85 to 0.97 over 400, and down to
# 0.90 in the warm-down. **beta2** went from 0.95 to 0.9. They came together with many other changes, so nobody knows what
# they gave alone.
# - **Muon+ and MuonEq**, a norm after and one before the iteration, brought "very slight improvements at both d12 and d24".
# - **A kernel for symmetric products** (a Gram matrix is symmetric, half of it is enough) was about 20 % faster by itself,
# and the gain was washed out in a whole run.
# - **torch.optim.Muon** of PyTorch 2.13 makes a good first test. It has no Polar Express, no NorMuon and no cautious decay,
# takes matrices one at a time in a Python loop, and cannot divide them among GPUs.
# - **A trap**: gradient clipping placed *after* the iteration cuts the orthogonal update itself
# ([DeepSpeed #8439](https://github.com/deepspeedai/DeepSpeed/issues/8439): to between a 4th and an 86th). Clip before, or not at all.
#
# We know of no published run at full size in which Muon alone is exchanged for an AdamW tuned as well.
#
# ## Napkin arithmetic
#
# What does the iteration cost at depth 24? Three products a round, five rounds, with k the shorter side and l the longer one.

# %%
plan = resolve("jan29", depth=24)
shapes = {name: tuple(p.shape) for name, p in build(plan.model).named_parameters() if group_of(name) == "matrices"}
flops = sum(5 * (2 * k * k * l + 2 * k**3 + 2 * k * k * l) for k, l in map(sorted, shapes.values()))
step = plan.flops_per_token * plan.batch_tokens
print(f"Muon {flops:.2e} FLOPs of a step's {step:.2e}: {flops / step:.1%}")
print(f"divided among 8 H100 at half their peak: {1000 * flops / 8 / (cost.peak_flops('H100') / 2):.1f} ms")
untransposed = sum(5 * (4 * m * m * n + 2 * m**3) for m, n in shapes.values())
print(f"with X Xᵀ for tall matrices too: {untransposed:.2e}, {untransposed / flops:.1f} times as much")

# %% [markdown]
# One per cent, since the iteration does not depend on the batch, and half a million tokens pay for it. Memory: AdamW keeps two
# numbers a weight, Muon one, and one more a row or column.

# %%
adam = sum(2 * m * n for m, n in shapes.values()) * 4
muon = sum(m * n + max(m, n) for m, n in shapes.values()) * 4
print(f"state of the matrices: AdamW {adam / 1e9:.2f} GB, Muon {muon / 1e9:.2f} GB (float32, before it is divided among GPUs)")
sizes = dict(B=16, T=2048, n_layer=24, n_embd=1536, vocab_size=32768)
estimate = {o: cost.memory_estimate(plan.params, matrix_optimizer=o, **sizes).optimizer for o in ("adamw", "muon")}
lab.compare(torch.tensor((adam - muon) / 1e9), torch.tensor((estimate["adamw"] - estimate["muon"]) / 1e9))

# %% [markdown]
# ## Checkpoint questions
#
# 1. All gradients are multiplied by 100. What changes under Muon?
#
# <details><summary>Answer</summary>
#
# Nothing but the part of the 1e-6 in the division, as G is divided by its norm. The same holds for AdamW, number by number.
#
# </details>
#
# 2. Why only odd powers?
#
# <details><summary>Answer</summary>
#
# X Xᵀ X has the shape of X and keeps its directions, U S³ Vᵀ. An even power such as X Xᵀ = U S² Uᵀ has another shape and has
# lost V.
# </details>
#
# 3. A gradient has rank 1: one singular value, all others are 0. What is Muon's update?
#
# <details><summary>Answer</summary>
#
# It has rank 1 too, with a singular value near 1. Zero stays zero under an odd polynomial. Only what is there is lifted.
#
# </details>
#
# 4. Why can one rate serve matrices of all sizes?
#
# <details><summary>Answer</summary>
#
# An update of spectral norm near 1 moves any output by at most about the rate times the length of the input, whatever the size.
# The factor √max(1, rows / columns) takes care of the shape. AdamW's rate needs (width / 768)^-0.5 in our recipes.
#
# </details>
#
# 5. You divide by the spectral norm in place of the Frobenius norm. What is better, and what does it cost?
#
# <details><summary>Answer</summary>
#
# All values start higher, so fewer fall below 0.001. But the spectral norm is itself a singular value, which has to be found
# first, and an estimate from below would let values above 1 in.
# </details>

# %% [markdown]
# > **Takeaway.** The gradient of a matrix has a few strong directions. Muon moves equally far in all of them: the best step
# > under a limit on how far any output may move. Five rounds of matrix products find it, for one per cent of the FLOPs and
# > half of AdamW's memory. It is for the matrices in the layers alone. And a gap between optimizers counts only if both had
# > their best rate, and in units of the seed spread.

# %% [markdown]
# ## Exercises
#
# [Exercises 05](../exercises/05_muon.ipynb): Nesterov momentum, the orthogonal update, rate and cautious decay, whether a gap
# is real, and the cost. `make start EX=05` begins, `make grade EX=05` grades.

# %% [markdown]
# ## Further reading
#
# - K. Jordan, *Muon: An optimizer for hidden layers in neural networks*,
# [kellerjordan.github.io/posts/muon](https://kellerjordan.github.io/posts/muon/).
# - J. Bernstein and L. Newhouse, *Old Optimizer, New Norm*, [arXiv 2409.20325](https://arxiv.org/abs/2409.20325): optimizers as
# steepest descent under a norm.
# - *Polar Express*, [arXiv 2505.16932](https://arxiv.org/abs/2505.16932); *NorMuon*, [arXiv
# 2510.05491](https://arxiv.org/abs/2510.05491); *Muon+*, [arXiv 2602.21545](https://arxiv.org/abs/2602.21545); *MuonEq*, [arXiv
# 2603.28254](https://arxiv.org/abs/2603.28254).
#
# Before: [04 Training](04_training.ipynb). Next: [06 Windows](06_windows.ipynb)
