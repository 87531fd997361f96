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
# # 06 Windows
#
# **Goal:** write attention that never computes what a mask would hide, and train a model with it.
#
# 35 minutes, and 75 for the exercises; any CPU will do.
#
# The model is that of lesson 03 and the optimizer that of lesson 05. New is how far a layer looks back, and what that
# saves. The lesson explains [attention.py](../gpt2course/attention.py), `GPTConfig.window` in
# [model.py](../gpt2course/model.py), and the first half of [fast/kernels.py](../gpt2course/fast/kernels.py).

# %%
import math
import torch

T, W = 2048, 256
query, key = torch.arange(T)[:, None], torch.arange(T)
seen = (key <= query) & (key >= query - W)  # itself and the W tokens before it
print(f"of {T * T:,} scores, {seen.float().mean():.0%} count")

# %% [markdown]
# A *window* lets each query see itself and the 256 tokens before it. A mask computes all four million scores, then
# throws nearly nine of ten away. Is that at least cheaper than the whole past? (`lab.clock` takes the fewest seconds of
# three calls, after one that does not count.)

# %%
def masked(q, k, v, seen):
    """Attention as in lesson 03: all scores, then the mask. q, k, v (H, T, D)."""
    scores = q @ k.mT / math.sqrt(q.size(-1))
    return scores.masked_fill(~seen, -math.inf).softmax(dim=-1) @ v

# %%
from gpt2course.course import lab, plots
q, k, v = torch.randn(3, 4, T, 64, generator=torch.Generator().manual_seed(6))
whole_past = lab.clock(masked, q, k, v, key <= query)
window = lab.clock(masked, q, k, v, seen)
print(f"the window takes {window / whole_past:.2f} of the time")

# %% [markdown]
# It saves nothing. To gain time, we must not compute the hidden scores at all.
#
# **The question of this lesson: how does attention skip work without changing the answer?** The difficulty is the softmax.
# It divides each weight by a sum over *all* keys of the row, and to be safe it first subtracts the row's largest score.
# How can you begin before you have seen the whole row?
#
# And how many times faster than `masked` will skipping be, in this window? Write your guess down.

# %%
lab.predict("06.speedup", 8.0)

# %% [markdown]
# ## What a query sees
#
# FlashAttention's convention for a window is a pair (left, right): query i sees the keys from i - left to i + right. A
# causal model has right = 0, and left = -1 stands for the whole past. So left = 2 must show *three* keys. A first try:

# %%
t = torch.arange(6)
print(((t <= t[:, None]) & (t > t[:, None] - 2)).int())

# %% [markdown]
# Two ones a row: off by one. Nothing crashes, and the model trains with a shorter memory than you think. Write it
# right. The function gets positions, so it also serves for a part of the mask.

# %% tags=["hole"]
def sees(query, key, left):
    """Positions (R,) and (N,) -> (R, N), True where visible; left < 0: all the past."""
    ### BEGIN SOLUTION
    distance = query[:, None] - key  # (R, N)
    return (distance >= 0) & ((distance <= left) | (left < 0))
    ### END SOLUTION

# %%
sees = lab.hole("06", sees, (t, t, 2), (t, t, -1), (t, t, 0), (t[4:], t[1:], 2))
print(sees(t, t, 2).int())

# %% [markdown]
# The package's version makes the same mask. The queries may also be the last `T_q` of more positions, as lesson 13 needs.

# %%
import inspect
from gpt2course.attention import attention, window_mask

print(inspect.getsource(window_mask))
lab.compare(sees(t, t, 2), window_mask(6, 6, 2, "cpu"))

# %% [markdown]
# A recipe names its windows by a pattern of letters that repeats over the layers: S short, L long. The last layer is
# always long.

# %%
from gpt2course.model import GPTConfig

print(inspect.getsource(GPTConfig.window))

# %%
from gpt2course.course.figures import windows as figures

tiny = GPTConfig(n_layer=4, window_pattern="SSSL", short_window=6)
u = torch.arange(24)
reach = [tiny.window(i)[0] for i in range(4)]  # 6, 6, 6, 2048
names = [f"layer {i}, {c}" for i, c in enumerate("SSSL")]
layers = {name: sees(u, u, reach[i]).tolist() for i, name in enumerate(names)}
plots.show(figures.masks(layers))

# %% [markdown]
# A short layer is not blind beyond its window. What layer 0 carried six tokens forward, layer 1 can carry six tokens
# further. Three short layers reach 18 tokens back, and the long layer reaches all.
#
# ## A softmax in pieces
#
# Take one query with six scores, and cut the keys into two *tiles* of three. What must come out:

# %%
s, values = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 0.0]), torch.arange(1.0, 7.0)
print(s.softmax(0) @ values)

# %% [markdown]
# First try: a softmax in each tile, then the mean of the two.

# %%
print((s[:3].softmax(0) @ values[:3] + s[3:].softmax(0) @ values[3:]) / 2)

# %% [markdown]
# Wrong. Each tile has made its weights sum to 1, as if the other did not exist. Second try: keep numerator and
# denominator apart, add both up over the tiles, and divide once, at the end.

# %%
def in_tiles(s, values):
    top = bottom = 0.0
    for part, x in zip(s.split(3), values.split(3)):
        w = part.exp()
        top, bottom = top + w @ x, bottom + w.sum()
    return top / bottom

print(in_tiles(s, values), in_tiles(100 * s, values))

# %% [markdown]
# The first number is right. But scores of 500 overflow: exp(89) is already too large for float32, and infinity divided
# by infinity is NaN. A softmax subtracts the largest score first. We do not know it yet; only the largest of each
# tile. Third try, with that:

# %%
def own_maximum(s, values):
    top = bottom = 0.0
    for part, x in zip(s.split(3), values.split(3)):
        w = (part - part.max()).exp()
        top, bottom = top + w @ x, bottom + w.sum()
    return top / bottom

print(own_maximum(s, values))

# %% [markdown]
# Wrong again: one tile was divided by e³, the other by e⁵, and then they were added. What was added before must be
# brought to the new maximum first. One factor does it, since
#
# exp(s - new) = exp(s - old) · exp(old - new).
#
# That is the *online softmax*: a running maximum m, a running sum l, a running output. Each new tile may raise m. Then
# l and the output shrink by exp(old - new), and the tile is added. Write that step, for R queries at once.

# %% tags=["hole"]
def add_tile(m, l, out, s, v):
    """m, l (R, 1), out (R, D) so far; scores s (R, N), values v (N, D) of a new tile.

    Returns the new m, l and out. In the beginning m is -inf, and l and out are 0.
    """
    ### BEGIN SOLUTION
    new = torch.maximum(m, s.amax(dim=-1, keepdim=True))
    w, shrink = (s - new).exp(), (m - new).exp()
    return new, l * shrink + w.sum(dim=-1, keepdim=True), out * shrink + w @ v
    ### END SOLUTION

# %%
zero, s2 = torch.zeros(2, 1), torch.tensor([[1.0, 3, 2], [5, 4, 0]])
start, v2 = (zero - math.inf, zero, torch.zeros(2, 2)), torch.arange(6.0).view(3, 2)
some = (zero + 1, zero + 2, torch.ones(2, 2))
cases = [(*start, s2, v2), (*some, s2, v2), (*some, -4 * s2, v2)]
add_tile = lab.hole("06", add_tile, *cases)

# %%
for scale in (1, 100):
    m, l, out = torch.full((1, 1), -math.inf), torch.zeros(1, 1), torch.zeros(1, 1)
    for part, x in zip(s.split(3), values.split(3)):
        m, l, out = add_tile(m, l, out, scale * part[None], x[:, None])
    lab.compare((out / l)[0, 0], (scale * s).softmax(0) @ values)

# %% [markdown]
# ## Which tiles
#
# Now the queries come in tiles too, and a tile of keys matters only if some query of the tile sees some key of it. The
# causal mask rules out tiles to the right of the diagonal, the window those too far left. List the rest, *beginning at the diagonal*.
# There each query sees itself, so m is a number from the first tile on. Otherwise a row may still have m = -inf, and -inf
# minus -inf is NaN.

# %% tags=["hole"]
def needed(i, left, block):
    """The key tiles that query tile i needs, from the diagonal down."""
    ### BEGIN SOLUTION
    first = 0 if left < 0 else max(0, i * block - left) // block  # for the first query
    return list(range(i, first - 1, -1))
    ### END SOLUTION

# %%
cases = [(0, -1, 64), (3, -1, 64), (5, 100, 64), (7, 128, 64), (7, 127, 64)]
cases += [(4, 0, 16), (2, 500, 64)]
needed = lab.hole("06", needed, *cases)
print(needed(5, 100, 64))

# %%
kinds = [[2 * (j in needed(i, W, 128)) for j in range(16)] for i in range(16)]
for i, row in enumerate(kinds):
    for j in needed(i, W, 128):
        rows, columns = (torch.arange(128 * n, 128 * (n + 1)) for n in (i, j))
        row[j] -= not sees(rows, columns, W).all()  # 1: some of its scores are hidden
plots.show(figures.tiles(kinds))

# %% [markdown]
# Only tiles on an edge need a mask. The smaller the tiles, the less is computed in vain; the larger, the fewer calls.
#
# ## All together

# %%
def tiled(q, k, v, left=-1, block=64):
    """q, k, v (..., T, D) -> y (..., T, D), and the rows' log-sum-exp (..., T, 1)."""
    t, ys, lses = torch.arange(q.size(-2), device=q.device), [], []
    for i, q_i in enumerate((q / math.sqrt(q.size(-1))).split(block, dim=-2)):
        rows = t[i * block : (i + 1) * block]
        m = torch.full_like(q_i[..., :1], -math.inf)
        l, out = torch.zeros_like(m), torch.zeros_like(q_i)
        for j in needed(i, left, block):
            columns = slice(j * block, (j + 1) * block)
            visible = sees(rows, t[columns], left)
            s = (q_i @ k[..., columns, :].mT).masked_fill(~visible, -math.inf)
            m, l, out = add_tile(m, l, out, s, v[..., columns, :])
        ys.append(out / l)
        lses.append(m + l.log())
    return torch.cat(ys, dim=-2), torch.cat(lses, dim=-2)

# %% [markdown]
# Is it attention? The package keeps its tensors as (B, T, H, D), so we turn ours. Then two block sizes, one of which
# does not divide T; scores of ten thousand; and the window (0, 0), where each token sees only itself:

# %%
turned = [x.transpose(0, 1)[None] for x in (q, k, v)]  # (1, T, H, D)
package = attention(*turned, window=(W, 0))[0].transpose(0, 1)
lab.compare(tiled(q, k, v, W)[0], package)
lab.compare(tiled(q, k, v, W, 50)[0], tiled(q, k, v, W, 128)[0])
lab.compare(tiled(1e4 * q, k, v, W)[0], masked(1e4 * q, k, v, seen), atol=1e-3)
lab.compare(tiled(q, k, v, 0)[0], v)

# %% [markdown]
# And does it truly skip? A poison test: the first 1,024 keys and values become NaN. A masked value is still multiplied,
# by 0, and 0 times NaN is NaN.

# %%
bad_k, bad_v = k.clone(), v.clone()
bad_k[:, :1024] = bad_v[:, :1024] = math.nan
found = {"masked": masked(q, bad_k, bad_v, seen), "tiled": tiled(q, bad_k, bad_v, W)[0]}
for name, y in found.items():
    print(f"{name}: NaN in the rows from 1,280 on: {y[:, 1280:].isnan().any().item()}")

# %% [markdown]
# ## Time shows it

# %%
from torch.nn.functional import scaled_dot_product_attention as sdpa

full = [len(needed(i, -1, 64)) for i in range(32)]
visited = [len(needed(i, W, 64)) for i in range(32)]
print(f"tiles: all {32 * 32}, causal {sum(full)}, window {sum(visited)}")
batch = q[None], k[None], v[None]  # torch's fast path wants four dimensions
ours = lab.clock(tiled, q, k, v, W)
torchs = lab.clock(lambda: sdpa(*batch, attn_mask=seen))
lab.result("06.speedup", round(lab.clock(masked, q, k, v, seen) / ours, 1))
print(f"torch's attention with this mask: {torchs / ours:.1f} times your tiles' time")

# %% [markdown]
# Your Python loop beats torch's compiled attention, which gets the same window as a mask, because it does less. The
# ratios depend on the machine, the number of tiles does not. Against the length of the text:

# %%
times = {"whole past": [], "window as a mask": [], "window, tiles skipped": []}
for n in (256, 512, 1024, 2048):
    x, past = [y[:, :n] for y in (q, k, v)], (key <= query)[:n, :n]
    taken = [lab.clock(masked, *x, past), lab.clock(masked, *x, seen[:n, :n])]
    taken.append(lab.clock(tiled, *x, W))
    for points, seconds in zip(times.values(), taken):
        points.append((n, 1000 * seconds))
plots.show(figures.cost(times))

# %% [markdown]
# From 256 to 2,048 tokens the text grows eightfold. The scores grow by a factor of 64. Their time grows by more,
# presumably because they outgrow the processor's cache. The visited tiles grow by a factor of 15, from 10 to 150, and
# their time grows about as much.
#
# ## What the backward needs
#
# The weights themselves are gone; only one tile existed at a time. But m + log l, the *log-sum-exp* of each row, brings
# any of them back: the weight of a score s is exp(s - lse).

# %%
y, lse = tiled(q, k, v)
scores = (q @ k.mT / 8).masked_fill(key > query, -math.inf)
lab.compare((scores - lse).exp(), scores.softmax(-1))
lab.compare((scores - lse).exp().sum(-1), torch.ones(4, T))
print(f"depth 24, batch 16: {16 * 12 * T * T * 4 / 2**30:.1f} GiB of scores a layer, "
      f"{16 * 12 * T * 4 / 2**20:.1f} MiB of log-sum-exps")  # fmt: skip

# %% [markdown]
# So FlashAttention keeps q, k, v, the output and one number a row, and computes each tile of weights again in the
# backward pass. Exercise 6.2 writes it. Below, autograd keeps your tiles instead: right, but it saves no memory.
#
# ## Yours trains

# %%
def causal_attention(q, k, v, window=(-1, 0)):
    """q, k, v (B, T, H, D) -> (B, T, H, D), with your tiles."""
    heads_first = [x.transpose(1, 2).float() for x in (q, k, v)]
    y, _ = tiled(*heads_first, window[0], block=32)
    return y.transpose(1, 2).to(q.dtype)

lab.keep("attention", causal_attention)

# %%
size = dict(short_window_divisor=16, steps=40)  # T 128, windows of 8
mine = lab.train_with("attention", recipe="windows", **size)
theirs = lab.train("windows", **size)
plots.show(figures.losses({"package": theirs["loss"], "yours": mine["loss"]}))
print(f"bits per byte: package {theirs['val_bpb']:.4f}, yours {mine['val_bpb']:.4f}")

# %% [markdown]
# The curves lie on each other. Later lessons find your attention with `lab.mine("attention")`.
#
# ## The experiment
#
# What do windows do to the *model*? Four layers, T 128, windows of 8; equal tokens, equal data, two seeds. L sees the
# whole past in all layers, SSSL in the last one. The recipe never makes the last layer short, so for SSSS your attention
# overrules it. Will SSSL be better than L, worse, or will they overlap?

# %%
from gpt2course.course import mine as pieces

def all_short(q, k, v, window):
    return causal_attention(q, k, v, (8, 0))  # whatever the layer asks for

lab.predict("06.SSSL", "overlap")
size |= dict(recipe="windows", depth=4)
runs = lab.experiment({p: dict(window_pattern=p) for p in ("L", "SSSL")}, **size)
with pieces.installed({"attention": all_short}):
    runs |= lab.experiment({"SSSS": dict(window_pattern="SSSL")}, **size)

# %%
lab.table(runs)
flops = {p: runs[p][0]["plan"].flops_per_token / 1e6 for p in ("L", "SSSL")}
flops["SSSS"] = flops["SSSL"] - (flops["L"] - flops["SSSL"]) / 3  # one more short layer
for p, f in flops.items():
    print(f"{p}: {f:.2f} million FLOPs a token, {f / flops['L'] - 1:+.0%}; "
          f"{sum(r['seconds'] for r in runs[p]):.0f} s in all")  # fmt: skip

# %%
bpb = {p: [r["val_bpb"] for r in found] for p, found in runs.items()}
lab.verdict(bpb["L"], bpb["SSSL"])
lab.verdict(bpb["SSSL"], bpb["SSSS"])
apart = max(bpb["SSSL"]) < min(bpb["L"]) or min(bpb["SSSL"]) > max(bpb["L"])
better = sum(bpb["SSSL"]) < sum(bpb["L"])
lab.result("06.SSSL", ("better" if better else "worse") if apart else "overlap")

# %% [markdown]
# The verdicts: overlap, twice. At this size no pattern is shown to be better. Paired by seed (equal first weights, equal
# batches) SSSL ends lower than L both times, by about a third of the spread; two pairs are too few to build on. Rates and
# weight decay are the recipe's on all sides, and were swept for none. And 40 steps are too short to learn much from distant
# words, so this experiment hardly tests a long memory. Do not compare the seconds: SSSS ran in your tiles, SSSL as a
# mask.
#
# ## The package's kernels
#
# On a CPU the package cuts the queries into blocks of 64, and gives each block and the keys near it to torch. It needs no
# running maximum: the few keys of a window fit into one softmax.

# %%
from gpt2course.fast import kernels

print(inspect.getsource(kernels.blocked))

# %%
lab.compare(kernels.blocked(*turned, W)[0].transpose(0, 1), tiled(q, k, v, W)[0])

# %% [markdown]
# On a GPU your loop becomes one *kernel*, a program that the GPU runs in one go. FlashAttention's tiles live in memory on
# the chip, and the scores never leave it. It has its own backward, from the log-sum-exp. FlashAttention 3, for GPUs such
# as the H100, also loads the next tile while
# it multiplies this one. It takes the window as two numbers, `window_size=(left, 0)`, and skips tiles as you do. An
# arbitrary mask tells a kernel nothing about what to skip: with `attn_mask`, torch's
# `scaled_dot_product_attention` does not use its FlashAttention at all.
#
# ## At full size

# %%
from gpt2course.recipes import LADDER, resolve

full = resolve("jan29", depth=24, window_pattern="L").flops_per_token
for divisor in (2, 4):
    plan = resolve("jan29", depth=24, short_window_divisor=divisor)
    f, S = plan.flops_per_token, plan.model.short_window
    print(f"S {S}: {f / 1e9:.3f} GFLOP a token, {1 - f / full:.1%} less", end=" ")
    print(f"than {full / 1e9:.3f} with L")

# %%
known = {name: b for name, b in lab.ladder().items() if name in list(LADDER)[:4]}
plots.show(plots.ladder(known, list(LADDER)))

# %%
by_seed = {}
for r in lab.recorded("ladder-seeds"):
    by_seed.setdefault(r["arm"], {})[r["seed"]] = r["val_bpb"]
apart, half = lab.paired(by_seed["muon"], by_seed["windows"])
print("windows - muon, seed by seed:", *(f"{x:+.4f}" for x in apart), end="; ")
print(f"mean {sum(apart) / len(apart):+.4f} ± {half:.4f}")

# %% [markdown]
# At this size (T 256, windows of 128) windows gain 0.007 bits per byte, in each of eight pairs. [Two larger
# pairs](../results/2026-11-29_ladder-larger) gain 0.031 and 0.004, with windows of 64 0.044 and 0.008; the one at T 1,024 loses 0.012.
# From `windows` on, a rung takes the rate and the weight decay that were best for `muon`; they are not swept again. Published runs
# found:
#
# - **A mask costs.** On 8xA100, nanochat made 309K tokens/s with L, and 226K with SSSL given to torch as a mask: 27 %
# *slower* with fewer FLOPs. With FlashAttention 3 windows ran at 315K (nanochat pull request 540).
# - **The kernel**: FlashAttention 3 gave +9 % tokens/s (nanochat's dev/LOG.md, 11 January 2026). On an H100 its forward does
# 560 TFLOP/s at T 2,048 and 685 at 8,192 (derived from the times in tritonbench pull request 1267).
# - **Records** of modded-nanogpt, a race at 124 million parameters (its README): a window, with other changes, took
# 7.2 to 5.03 minutes (record 12); one that grows during training, 4.66 (13); FlashAttention 3, with two other changes,
# 2.812 to 2.731 (29).
# - **The last layer** is always long in nanochat. It gives no reason, and we know of no published run with all layers short.
#
# None of these isolates what SSSL does to bits per byte at equal tokens.
#
# ## The answer
#
# Attention skips work by never asking for the tiles that nobody sees: 150 of 1,024 at T 2,048 with a window of 256. The
# answer stays the same because a softmax can be built tile by tile: a maximum, a sum and an output that are rescaled when
# the maximum grows. What differs is rounding, 4e-07. A mask alone saves no time. On the machine that made this page the
# tiles took a fifth to a sixth of its time.

# %% [markdown]
# ## Questions
#
# 1. A window of 256, tiles of 64. How many tiles of keys does a query tile visit, far from the start?
#
# <details><summary>Answer</summary>
#
# Five: its own and four before it. Its first query, at the tile's start, sees back exactly 256 = 4 · 64 tokens.
# </details>
#
# 2. Someone runs `add_tile` from the left instead of from the diagonal. Where does NaN come from?
#
# <details><summary>Answer</summary>
#
# In the leftmost tile, the last queries of the block see nothing. Their new maximum is still -inf, and exp(-inf - -inf) is
# exp(NaN).
# </details>
#
# 3. SSSL saves 6.4 % of the FLOPs of depth 24. Why so little, if three of four layers halve their window?
#
# <details><summary>Answer</summary>
#
# The scores are a small part at T 2,048: about 17 % of all FLOPs with L. Most are matrix products with weights. At T 32,768 it would be
# the other way round.
# </details>
#
# 4. The window is one key too long in training. Would you see it in the loss?
#
# <details><summary>Answer</summary>
#
# Hardly. You would see it beside a reference, on a mask small enough to print, or when a cache in sampling keeps another
# number of keys.
# </details>

# %% [markdown]
# > **Takeaway.** A mask hides scores after they are paid for. Tiles that nobody sees need not be computed, and a
# > running maximum and sum make the softmax exact without the whole row. Count tiles first, then measure time; and a
# > window changes the model, so measure bits per byte too.

# %% [markdown]
# ## Exercises
#
# [Exercises 06](../exercises/06_windows.ipynb): tiles of any shape, FlashAttention's backward, two halves of a softmax
# joined, the window of a function you cannot see into, and the memory of a cache. `make start EX=06`, `make grade EX=06`.

# %% [markdown]
# ## Further reading
#
# - M. Milakov and N. Gimelshein, *Online normalizer calculation for softmax*, [arXiv 1805.02867](https://arxiv.org/abs/1805.02867).
# - T. Dao and others, *FlashAttention*, [arXiv 2205.14135](https://arxiv.org/abs/2205.14135); its second version,
# [arXiv 2307.08691](https://arxiv.org/abs/2307.08691); its third, [arXiv 2407.08608](https://arxiv.org/abs/2407.08608).
