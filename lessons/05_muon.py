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
# **Goal:** build Muon from matrix products, train a model with yours, and find out what it gains over an AdamW that is tuned with the
# same care.
#
# 40 minutes, and 75 for the exercises; any CPU will do.
#
# Lesson 04 trained every weight with AdamW: the mean of recent gradients over the root mean of their squares, and a little
# decay. The next rung of the ladder gives the matrices inside the layers another optimizer.
#
# First a puzzle. A layer W of four numbers has to learn the easiest task there is, to give its input back. It sees two inputs:
# a long one along (1, 1) and a short one along (-1, 1).

# %%
import torch

torch.manual_seed(0)
torch.set_printoptions(precision=3, sci_mode=False)
X = torch.tensor([[1.0, -0.03], [1.0, 0.03]]) / 2**0.5  # the two inputs, as columns
W = torch.zeros(2, 2)
for t in range(100):
    G = (W @ X - X) @ X.T  # the gradient of the squared error
    W -= (1 - t / 100) * G
print(W)

# %% [markdown]
# After 100 steps W should be (1, 0; 0, 1). It sends (1, 1) to (1, 1), as it should, and it sends (-1, 1) almost to
# zero. The second direction was hardly learned, because the gradient in it is about a thousand times smaller.
#
# **The question of this lesson:** should a step follow the gradient, or should it move equally far in every direction? And how
# many bits per byte is that worth in a language model?
#
# The model at the end has about 2 bits per byte with a tuned AdamW. Write down how much lower you expect Muon to be.

# %%
from gpt2course.course import lab

lab.predict("05.gain", 0.04)

# %% [markdown]
# ## AdamW solves half of it
#
# AdamW divides every number by its usual size, so small gradients get large steps. Is the puzzle not solved, then? Try
# it (without weight decay, so it is plain Adam), each rate in turn. The worst error is 1 for a layer that has learned nothing.

# %%
def worst_error(X, step_of, rate):
    W, state = torch.zeros(2, 2), {}
    for t in range(100):
        G = (W @ X - X) @ X.T
        W -= rate * (1 - t / 100) * step_of(G, state)
    return torch.linalg.matrix_norm(W - torch.eye(2), 2).item()


def best(X, step_of):
    return min(worst_error(X, step_of, rate) for rate in (0.01, 0.03, 0.1, 0.3, 1.0))

# %%
def adam(G, state):
    t = state["t"] = state.get("t", 0) + 1
    m, v = (state.setdefault(name, torch.zeros(2, 2)) for name in "mv")
    m.lerp_(G, 0.1), v.lerp_(G.square(), 0.05)
    return m / (1 - 0.9**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-10)


straight = torch.diag(torch.tensor([1.0, 0.03]))  # the same inputs, along the axes
for name, inputs in {"along the axes": straight, "turned by 45°": X}.items():
    plain = best(inputs, lambda G, state: G)
    print(f"{name}: gradient {plain:.3f}, Adam {best(inputs, adam):.3f}")

# %% [markdown]
# Along the axes Adam solves it. Turned by 45° it fails at every rate: the weak direction is spread over all four numbers, and
# the strong one rules each of them. In a network the strong directions need not lie along the axes. We need a step that looks at the
# matrix, not at its numbers one by one.
#
# ## The directions of a matrix
#
# A matrix sends the circle of all inputs of length 1 to an ellipse. The half-axes of the ellipse are its **singular
# values**. Every matrix is U · diag(S) · Vᵀ, where U and Vᵀ only turn (or mirror) and S has the singular values. This is its SVD
# (singular value decomposition). Set all singular values to 1, and what is left is U Vᵀ.

# %%
G = torch.tensor([[3.0, 0.0], [4.0, 5.0]])
U, S, Vt = torch.linalg.svd(G)
Q = U @ Vt
print("singular values", S)
print(Q)

# %%
from gpt2course.course import plots
from gpt2course.course.figures import muon as figures

plots.show(figures.circles({"through G": G.tolist(), "through Q": Q.tolist()}))

# %% [markdown]
# In this lesson we call a matrix **orthogonal** if all its singular values are 1, also when it is not square. Q stretches
# nothing. Take it as the step, and the puzzle is solved in both positions:

# %%
def orthogonal_step(G, state):
    m = state.setdefault("m", torch.zeros(2, 2)).lerp_(G, 0.1)  # a running mean
    U, S, Vt = torch.linalg.svd(m)
    return U @ Vt


for name, inputs in {"along the axes": straight, "turned by 45°": X}.items():
    print(f"{name}: orthogonal {best(inputs, orthogonal_step):.3f}")

# %% [markdown]
# It is also the best step in an exact sense. To first order, the step W - η·X lowers the loss by η·⟨G, X⟩ (multiply number by
# number and add up). An input of length 1 finds its output moved by at most η times the largest singular value of X. Allow every
# candidate the same largest move, 1, and compare:

# %%
def gain(X):
    return (G * X / torch.linalg.matrix_norm(X, 2)).sum().item()


print(f"gradient {gain(G):.3f} | its signs {gain(G.sign()):.3f} | Q {gain(Q):.3f}")
random = max(gain(X) for X in torch.randn(10_000, 2, 2))
print(f"best of 10,000 random {random:.3f} | sum of singular values {S.sum():.3f}")

# %% [markdown]
# Q reaches the sum of the singular values, and nothing can exceed it: with G = Σ sᵢ uᵢ vᵢᵀ the gain is Σ sᵢ (uᵢᵀ X vᵢ),
# and no bracket is larger than 1. Another limit has another winner (exercise 5.1).
#
# Are the gradients of a language model as uneven as the puzzle's? Train a toy model for 20 steps and look.

# %%
from gpt2course.batches import Batches
from gpt2course.data import load_corpus

run = lab.train("muon", seed=1, steps=20)
model = run["model"]
stream = Batches(load_corpus("embedded").train, lab.tokenizer(), 128)
rows = torch.from_numpy(stream.next_rows(8))
model(rows[:, :-1], rows[:, 1:].contiguous()).backward()

# %%
names = ("attn.c_q", "attn.c_v", "mlp.c_fc")
grads = {n: model.get_parameter(f"blocks.1.{n}.weight").grad.clone() for n in names}
spectra = {n: torch.linalg.svdvals(g) for n, g in grads.items()}
plots.show(figures.spectra({n: s.tolist() for n, s in spectra.items()}))
for n, s in spectra.items():
    share = s[:4].square().sum() / s.square().sum()
    print(f"{n}: 4 of {len(s)} have {share:.0%} of the squares")

# %% [markdown]
# They are (mind the logarithm). But some of the small directions are noise, and noise is lifted too. So we have to measure.
#
# ## Without the SVD
#
# An SVD is a long chain of small steps, slow on a GPU. There is a way with matrix products alone. Look at what G Gᵀ G does to
# the singular values:

# %%
print(torch.linalg.svdvals(G @ G.T @ G), S**3)

# %% [markdown]
# It cubes them and keeps U and V. So an odd polynomial of a matrix acts on each singular value by itself, and we only need one
# that moves *numbers* to 1. **Newton-Schulz** is the classic, x ← 1.5x - 0.5x³:

# %%
x = [0.9, 0.5, 0.1, 0.01, 2.5]
for i in range(6):
    print(f"after {i}:", *(f"{v:.4g}" for v in x))
    x = [1.5 * v - 0.5 * v**3 for v in x]

# %% [markdown]
# 0.9 and 0.5 arrive. 0.01 grows by half in each round, too slowly. 2.5 runs away. Now write a round for matrices, with a fifth
# power as well: a X + b (X Xᵀ) X + c (X Xᵀ)² X.

# %% tags=["hole"]
def one_round(X, a, b, c):
    """X (m, n) -> a X + b (X Xᵀ) X + c (X Xᵀ)² X, in three matrix products or four."""
    ### BEGIN SOLUTION
    A = X @ X.T
    return a * X + (b * A + c * A @ A) @ X
    ### END SOLUTION

# %%
inputs = (torch.arange(6.0).reshape(2, 3) / 9, 1.5, -0.5, 0.25)
one_round = lab.hole("05", one_round, (G, 1.0, 2.0, 3.0), inputs)

# %% [markdown]
# Five rounds on G itself, whose singular values are 6.7 and 2.2:

# %%
X = G
for i in range(5):
    X = one_round(X, 1.5, -0.5, 0.0)
    print(f"largest number after {i + 1}: {X.abs().max():.3g}")

# %% [markdown]
# It explodes, as 2.5 did. So divide first by the root of the sum of all squares, which no singular value can exceed. And take
# faster polynomials. Muon's author tuned one quintic with a slope of 3.4 at zero. **Polar Express**
# ([arXiv 2505.16932](https://arxiv.org/abs/2505.16932)) has five of them, each made for the interval in which the one before leaves the
# numbers.

# %%
from gpt2course.optim import POLAR_EXPRESS


def orthogonal(G, polynomials=POLAR_EXPRESS, safety=1.02):
    if G.size(0) > G.size(1):  # tall: transposed, X Xᵀ is smaller
        return orthogonal(G.T, polynomials, safety).T
    X = G / (safety * G.norm() + 1e-6)  # safety: no value above 1 after rounding
    for a, b, c in polynomials:
        X = one_round(X, a, b, c)
    return X


print(orthogonal(G), "the exact one:", Q, sep="\n")

# %%
methods = {
    "Newton-Schulz": [(1.5, -0.5, 0.0)] * 5,
    "Muon's quintic": [(3.4445, -4.7750, 2.0315)] * 5,
    "Polar Express": POLAR_EXPRESS,
}


def through(x, polynomials):
    for a, b, c in polynomials:
        x = a * x + b * x**3 + c * x**5
    return x

# %%
x = torch.logspace(-3, 0, 3000, dtype=torch.float64)
lines = {name: (x.tolist(), through(x, p).tolist()) for name, p in methods.items()}
plots.show(figures.maps(lines, band=0.1412, log=True))
print({name: round(y[0], 4) for name, (_, y) in lines.items()}, "from 0.001")

# %% [markdown]
# After five rounds of Polar Express everything from 0.001 to 1 lies within 0.141 of 1. That is near the best possible: five
# polynomials of this degree can reach 0.113 (we computed them with Remez's algorithm), and the published coefficients give some
# of it away for safety. The quintic brings 0.001 only to 0.47, and all above 0.002 to between 0.68 and 1.20. That is hardly a different
# step: nanochat saw no noticeable difference in training (dev/LOG.md, 10 January 2026).
#
# Now a real gradient, round by round. The black dashes are the singular values before the first.

# %%
real = grads["attn.c_v"]
some = {n: methods[n] for n in ("Newton-Schulz", "Polar Express")}
states = {
    n: [torch.linalg.svdvals(orthogonal(real, p[:k])).tolist() for k in range(6)]
    for n, p in some.items()
}
plots.show(figures.iterations(states, 0.1412))

# %% [markdown]
# The right panel becomes flat. Only what began below 0.001 is still on its way. Is yours the package's?
# Rounding differs a little, because the package multiplies in another order.

# %%
from gpt2course import optim

for m, n in ((64, 64), (96, 32), (1, 7)):
    R = torch.randn(m, n, generator=torch.Generator().manual_seed(m))
    lab.compare(orthogonal(R), optim.polar_express(R), atol=1e-4)

# %% [markdown]
# ## The rest of the step
#
# **Momentum.** One gradient is noisy, so Muon orthogonalises a running mean, its **momentum**. Nesterov's version mixes the newest
# gradient in once more, with the new mean, and so reacts faster.

# %% tags=["hole"]
def nesterov(grad, buffer, momentum):
    """-> (G, new buffer): new = momentum * buffer + (1 - momentum) * grad, and G is
    the same mixture once more, of the new buffer and grad. Change neither argument."""
    ### BEGIN SOLUTION
    new = momentum * buffer + (1 - momentum) * grad
    return momentum * new + (1 - momentum) * grad, new
    ### END SOLUTION

# %%
one, two = torch.tensor([1.0]), torch.tensor([2.0])
nesterov = lab.hole("05", nesterov, (one, two, 0.9), (two, -one, 0.5))

# %% [markdown]
# **Rows of even size.** In an orthogonal matrix all directions count the same. Its rows, the neurons of a layer, do not:

# %%
O = orthogonal(grads["mlp.c_fc"])  # 256 neurons, 64 inputs
rows = O.norm(dim=1)
low, middle, high = rows.min(), rows.median(), rows.max()
print(f"shortest {low:.2f}, median {middle:.2f}, longest {high:.2f}")

# %% [markdown]
# NorMuon ([arXiv 2510.05491](https://arxiv.org/abs/2510.05491)) keeps a running mean of squares for each row, as Adam does
# for each number, divides by its root, and restores the size of the whole. (Our recipes take the columns of a wide matrix.)

# %%
def even_out(U, second, beta2):
    dim = 1 if U.size(0) >= U.size(1) else 0
    second.lerp_(U.square().mean(dim, keepdim=True), 1 - beta2)  # in place
    V = U / second.clamp_min(1e-10).sqrt()
    return V * (U.norm() / V.norm().clamp_min(1e-10))


rows = even_out(O, torch.zeros(256, 1), 0.95).norm(dim=1)
print(f"shortest {rows.min():.2f}, longest {rows.max():.2f}")

# %% [markdown]
# **Cautious weight decay** ([arXiv 2510.12402](https://arxiv.org/abs/2510.12402)). Decay pulls a weight towards zero. Where the
# update pushes it away from zero, the two work against each other. So decay acts only where the update shrinks the weight too.

# %% tags=["hole"]
def cautious(p, U, rate, decay):
    """-> p - rate * U, less rate * decay * p where U * p >= 0 (U shrinks p there)."""
    ### BEGIN SOLUTION
    agree = (U * p >= 0).float()
    return p - rate * U - rate * decay * p * agree
    ### END SOLUTION

# %%
p, u = torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([1.0, -1.0, -1.0, 0.0])
cautious = lab.hole("05", cautious, (p, u, 0.1, 0.5), (p, u, 0.1, 0.0))
print(cautious(p, u, 0.1, 0.5), "without decay", cautious(p, u, 0.1, 0.0))

# %% [markdown]
# **The rate of a tall matrix.** Send inputs of size 1 (root mean square) through orthogonal matrices of three shapes:

# %%
for m, n in ((256, 256), (64, 256), (256, 64)):
    size = (orthogonal(torch.randn(m, n)) @ torch.randn(n, 1000)).square().mean().sqrt()
    factor = max(1, m / n) ** 0.5
    print(f"({m}, {n}): outputs of size {size:.2f},", end=" ")
    print(f"times √max(1, m/n) {size * factor:.2f}")

# %% [markdown]
# A tall matrix spreads the length of n numbers over m. So its rate is multiplied by √max(1, rows / columns); in a GPT this
# doubles that of `c_fc`. All together, on one matrix:

# %%
def finish(p, U, lr, weight_decay):
    return cautious(p, U, lr * max(1, p.size(0) / p.size(1)) ** 0.5, weight_decay)


def muon(p, grad, buffer, second, rate, momentum, beta2, decay):
    G, new = nesterov(grad, buffer, momentum)
    buffer.copy_(new)
    U = even_out(orthogonal(G), second, beta2)
    p.copy_(cautious(p, U, rate, decay))  # rate: with the factor of its shape


lab.keep("nesterov", nesterov)
lab.keep("finish", finish)
lab.keep("muon", muon)

# %% [markdown]
# Here is the package's step. It moves K matrices of one shape at once; `row_norm` and `renorm` belong to the recipe `record`.

# %%
import inspect

print(inspect.getsource(optim.muon_update))

# %% [markdown]
# Which parameters get it? An embedding is a table: a token takes one row, and no vector is multiplied by it, so our argument does not
# apply. Scalars have no directions. Both keep AdamW. So does the head, by experience alone.

# %%
from gpt2course.recipes import LADDER, build, group_of, resolve

for name, parameter in model.named_parameters():
    if not name.startswith("blocks.1"):
        print(f"{name:28} {run['plan'].groups[group_of(name)]['kind']}")

# %% [markdown]
# ## Yours trains a model
#
# The same model, data and seed, once with the package's Muon and once with yours:

# %%
ours = lab.train("muon", seed=1, steps=50)
yours = lab.train_with("muon", recipe="muon", seed=1, steps=50)
plots.show(figures.curves({"the package's Muon": ours["loss"], "yours": yours["loss"]}))
print(f"bits per byte: {ours['val_bpb']:.4f}, yours {yours['val_bpb']:.4f}")

# %% [markdown]
# ## Is it better than AdamW?
#
# An optimizer must be compared with a competitor at its own best settings. First live, at toy size: two rates each, 40 steps,
# two seeds, no weight decay.

# %%
variants = {
    "AdamW, rate 0.0001": dict(recipe="modern", matrix_adamw_lr=0.0001),
    "AdamW, rate 0.003": dict(recipe="modern", matrix_adamw_lr=0.003),
    "Muon, rate 0.002": dict(recipe="muon", matrix_lr=0.002),
    "Muon, rate 0.02": dict(recipe="muon", matrix_lr=0.02),
}
results = lab.experiment(variants, seeds=(1, 2), steps=40, weight_decay=0.0)
lab.table(results)

# %%
bpb = {name: [r["val_bpb"] for r in runs] for name, runs in results.items()}
a = min((v for name, v in bpb.items() if "AdamW" in name), key=sum)
b = min((v for name, v in bpb.items() if "Muon" in name), key=sum)
lab.verdict(a, b)

# %% [markdown]
# At the recipes' rates (0.003 and 0.02) Muon would have won. At the better rates there is no difference, and the better rates are the
# smallest that we tried: in 40 steps a toy mainly learns its embedding and head, which have AdamW in all four.
#
# We recorded longer runs of a larger model (depth 4, width 128, 450 steps), every rate with every weight decay, on both sides. Lines
# are seed 1; black marks are all seeds of the best cell.

# %%
def cells(arm):
    """{(rate, decay): bits per byte of its seeds, seed 1 first}"""
    found = {}
    for r in sorted(lab.recorded("rate-and-decay"), key=lambda r: r["seed"]):
        if r["arm"] == arm:
            found.setdefault((r["rate"], r["decay"]), []).append(r["val_bpb"])
    return found


plots.show(figures.sweeps({"AdamW": cells("modern"), "Muon": cells("muon")}))

# %% [markdown]
# Both best rates lie inside the grid, and so does Muon's best decay. AdamW's is 0, the natural end of that axis. The first version of
# this lesson had only the lines of decay 0.2, the recipe's own, and called the best point on the left "tuned AdamW". A third of the
# gap it showed was that decay.
#
# Muon differs from AdamW in three ideas. Each step at its own best rate and decay:

# %%
sweep = {"AdamW": cells("modern"), "orthogonal momentum": cells("orthogonal")}
still = {cell: seeds for cell, seeds in cells("muon").items() if cell[1] == 0}
sweep["+ NorMuon"] = cells("normuon") | still  # without decay, caution changes nothing
sweep["+ cautious decay"] = cells("muon")
steps = {}
for name, found in sweep.items():  # the best cell by seed 1
    (rate, decay), seeds = min(found.items(), key=lambda cell: cell[1][0])
    steps[name] = f"rate {rate:g}, decay {decay:g}", seeds
plots.show(figures.steps(steps))

# %%
seeds = [seeds for _, seeds in steps.values()]
for (before, after), name in zip(zip(seeds, seeds[1:]), list(steps)[1:]):
    apart, half = lab.paired(dict(enumerate(before)), dict(enumerate(after)))
    print(f"{name}:", *(f"{x:+.4f}" for x in apart), end="")
    print(f"; mean {sum(apart) / len(apart):+.4f} ± {half:.4f}")
lab.verdict(seeds[0], seeds[-1])  # all three

# %%
gap = sum(seeds[0]) / len(seeds[0]) - sum(seeds[-1]) / len(seeds[-1])
lab.result("05.gain", round(gap, 4))

# %% [markdown]
# The whole gap is larger than the spread between seeds. For its parts use that runs of one seed share their first weights and their data:
# `lab.paired` subtracts seed by seed; ± is half the 95 % interval of the mean. Only cautious decay's includes 0.
#
# What this does not show: the rates of embedding and head, the momentum and the schedules were the recipe's on all sides and were not swept. And it
# is one small size. Wen and others tuned ten optimizers with equal care ([arXiv 2509.02046](https://arxiv.org/abs/2509.02046)).
# The fastest, Muon among them, were 1.4 times as fast as AdamW at 0.1 billion parameters, and only 1.1 times at 1.2 billion.

# %%
plots.show(plots.ladder(lab.ladder(upto="muon"), list(LADDER)))

# %% [markdown]
# ## What it costs
#
# A round needs three products. With k the shorter side and l the longer, at depth 24:

# %%
plan = resolve("jan29", depth=24)
parameters = build(plan.model).named_parameters()
shapes = [p.shape for n, p in parameters if group_of(n) == "matrices"]
flops = sum(5 * 2 * (2 * k * k * l + k**3) for k, l in map(sorted, shapes))
print(f"{flops / plan.flops_per_token / plan.batch_tokens:.1%} of a step's FLOPs")
state = 4 * sum(m * n for m, n in shapes) / 1e9
print(f"state of the matrices: AdamW {2 * state:.1f} GB, Muon {state:.1f} GB")

# %% [markdown]
# About one per cent, because the iteration does not depend on the batch, and half a million tokens share it.
#
# A trap: gradient clipping *after* the iteration cuts the orthogonal step itself ([DeepSpeed
# 8439](https://github.com/deepspeedai/DeepSpeed/issues/8439): to between a 4th and an 86th). Clip before it, or not at all.
#
# ## The answer

# %%
means = {name: sum(bpb) / len(bpb) for name, (_, bpb) in steps.items()}
print(*(f"{name}: {mean:.4f} bits per byte" for name, mean in means.items()), sep="\n")
print(f"Muon is {gap:.4f} lower than AdamW, {gap / means['AdamW']:.1%} of its bits")

# %% [markdown]
# Move equally far in every direction. In the puzzle that took the worst error from almost 1 to 0.006. In a language model of laptop size
# it was worth about a hundredth of a bit per byte by itself, and about 0.025 with Muon's two other ideas, for one per cent of the
# FLOPs and half of AdamW's memory for the matrices.
#
# ## Questions
#
# 1. All gradients are multiplied by 100. What changes under Muon?
#
# <details><summary>Answer</summary>
#
# Nothing but the part of the 1e-6 in the division, as G is divided by its norm. The same is true of Adam, number by number.
#
# </details>
#
# 2. Why only odd powers?
#
# <details><summary>Answer</summary>
#
# X Xᵀ X has the shape of X and keeps its directions, U S³ Vᵀ. An even power such as X Xᵀ = U S² Uᵀ has another shape and has lost V.
#
# </details>
#
# 3. A gradient has rank 1: one singular value, all others are 0. What is Muon's update?
#
# <details><summary>Answer</summary>
#
# It has rank 1 too, with a singular value near 1. Zero stays zero under an odd polynomial.
#
# </details>
#
# 4. A paper reports that its optimizer beats AdamW by 0.04 bits per byte. What do you look for first?
#
# <details><summary>Answer</summary>
#
# Which settings of AdamW were swept, and whether its best ones lie inside what was tried: the rate, the weight decay, the schedule. Then the
# number of seeds.
#
# </details>

# %% [markdown]
# > **Takeaway.** The gradient of a matrix has a few strong directions and many weak ones. Muon moves equally far in all, by five
# > rounds of matrix products. Its gain is real at this size, and a third smaller than it seemed before AdamW's weight decay was tuned as well.
#
# [Exercises 05](../exercises/05_muon.ipynb): the best step under other limits, the iteration for any shape, many matrices in one
# stack, whether a gap is real, and the cost.
#
# ## Further reading
#
# - K. Jordan, *Muon: An optimizer for hidden layers in neural networks*,
# [kellerjordan.github.io/posts/muon](https://kellerjordan.github.io/posts/muon/).
# - J. Bernstein and L. Newhouse, *Old Optimizer, New Norm*, [arXiv 2409.20325](https://arxiv.org/abs/2409.20325).
# - K. Wen and others, *Fantastic Pretraining Optimizers and Where to Find Them*, [arXiv 2509.02046](https://arxiv.org/abs/2509.02046).
