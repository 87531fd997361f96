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
# # 03 GPT: the model of 2019, and what has changed since
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gpt2course/gpt2course/blob/main/lessons/03_gpt.ipynb)
#
# You write a whole GPT as a few short functions, and show that they compute what the package computes.
#
# 45 minutes; any CPU will do. It explains [model.py](../gpt2course/model.py), [gpt2.py](../gpt2course/gpt2.py) and the main
# part of [attention.py](../gpt2course/attention.py). You should know what a token and a row are: [02 Data](02_data.ipynb). Next
# comes [04 Training](04_training.ipynb). Exercises: [03](../exercises/03_gpt.ipynb).

# %% tags=["setup"]
import importlib.util

if importlib.util.find_spec("gpt2course") is None:  # a hosted notebook: fetch and install the course first
    # !git clone -q https://github.com/gpt2course/gpt2course course && pip install -q -e "course[course]"
    import sys; sys.path.insert(0, "course")  # not gpt2course: Python would take that folder for the package

# %% [markdown]
# ## Where we are
#
# The data are rows of tokens. This lesson is about the function that reads a row and says, at every position, how likely each
# token is to come next. The first two rungs of the ladder are two such functions, trained in two ways.

# %%
import inspect
import math

import torch
import torch.nn.functional as F

from gpt2course.course import lab, plots
from gpt2course.attention import attention
from gpt2course.course.figures import gpt as figures
from gpt2course.gpt2 import GPT2, GPT2Config
from gpt2course.model import GPT, Attention, GPTConfig, norm, rope, rope_tables
from gpt2course.recipes import LADDER, resolve

torch.manual_seed(0)
torch.set_printoptions(precision=3, sci_mode=False)
plots.show(plots.strip(3))
plots.show(plots.ladder(lab.ladder(upto="modern"), list(LADDER)))

# %% [markdown]
# The code names sizes by letters: B rows in a batch, T tokens in a row (time), C channels (width), H heads of D channels each,
# V tokens in the vocabulary. Come back to this list when a word is new.

# %%
lab.words("03")

# %% [markdown]
# ## Before you run anything
#
# A model with 1,024 tokens in its vocabulary has just been filled with random numbers and has learned nothing. What will its
# loss be, in nats per token: about 0, about 7, or about 1,024? Would you need to know anything of the model to say so? Write
# your answer down; it is checked below.

# %% [markdown]
# ## The idea: attention is a weighted mean
#
# A model has one vector of C numbers for each position. Most of its parts treat each position by itself. Attention is the only
# one that carries anything from one position to another. Each position asks with a *query*, offers a *key* to be found by, and
# hands over a *value*.
#
# Take four tokens and vectors of four numbers. The score of a query and a key is their dot product. Row: who asks. Column: who
# is asked.

# %%
tokens = ["the", "cat", "sat", "on"]
q, k, v = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))  # (T, D) each
scores = q @ k.T  # (T, T)
toy = (q, k, v)
print(scores)

# %% [markdown]
# Nobody may look ahead: when the model predicts what follows "cat", it must not see "sat". The *causal mask* sets the scores
# above the diagonal to minus infinity, and the *softmax* turns each row into positive weights that sum to 1. The division by √D
# is explained next.

# %%
visible = torch.ones(4, 4, dtype=torch.bool).tril()  # True on and below the diagonal
weights = (scores / math.sqrt(4)).masked_fill(~visible, -math.inf).softmax(dim=-1)
plots.show(figures.attention_maps({"weights": weights.tolist()}, tokens))

# %% [markdown]
# The first row is 1, 0, 0, 0: "the" sees only itself. What a position takes in is the mean of the values, with its row as
# weights. Check the second row yourself:

# %%
taken_in = weights @ v  # (T, D)
print(taken_in[1], "by the matrix product")
print(weights[1, 0] * v[0] + weights[1, 1] * v[1], "by hand")

# %% [markdown]
# ### Why divide by √D
#
# Say the D numbers of a query and a key are independent, with mean 0 and variance 1. A product of two of them has variance 1
# too. The dot product adds up D of these, so its variance is D, and it is typically √D in size. Look at the last two columns:
# the largest of 8 weights, on average.

# %%
print("   D   variance of q·k   largest weight undivided   divided by √D")
for D in (4, 64, 1024):
    a, b = torch.randn(1000, D), torch.randn(1000, 8, D)
    dots = (b @ a[:, :, None])[..., 0]  # (1000, 8): a query against 8 keys
    raw, scaled = (s.softmax(-1).amax(-1).mean() for s in (dots, dots / math.sqrt(D)))
    print(f"{D:4}   {dots.var():15.1f}   {raw:24.2f}   {scaled:13.2f}")

# %% [markdown]
# Undivided, wide heads begin with nearly all weight on one key, picked by chance. There the softmax is flat and passes on
# almost no gradient, so the head could hardly learn to look elsewhere. Divided, every width begins alike.
#
# ## From 2019 to today
#
# Read both from the bottom up. The thick line is the *residual stream*: C numbers a position, to which every part adds. Orange
# is new.

# %%
old = dict(
    start=["wte + wpe"],
    attention=["LayerNorm", "q, k, v", "softmax(q·k / √D) v", "c_proj"],
    mlp=["LayerNorm", "c_fc, to 4C", "GELU", "c_proj"],
    end=["LayerNorm", "head = wte"],
)
new = dict(
    start=["wte", "RMSNorm of the embedding"],
    attention=["RMSNorm", "q, k, v", "RoPE on q and k", "QK-norm", "softmax(q·k / √D) v", "c_proj, starts at 0"],
    mlp=["RMSNorm", "c_fc, to 4C", "ReLU²", "c_proj, starts at 0"],
    end=["RMSNorm", "lm_head, its own table", "softcap"],
)
plots.show(figures.block_diagram({"2019": old, "modern": new}))

# %% [markdown]
# Two changes are not in the picture: all biases are gone, and norms have no weights. We now build the right-hand side, box by
# box.
#
# ## Build it by hand
#
# ### Positions: RoPE
#
# Without positions, you could shuffle the earlier tokens and the last one's attention would give the same. GPT-2 adds a learned
# vector to each position's embedding (`wpe`). RoPE adds nothing. It *turns* queries and keys, pair of channels by pair of
# channels, by an angle that grows with the position. The first pair turns fast, the last one slowly, like the hands of a clock.
# Here with D = 8, so four pairs:

# %%
D, base = 8, 10_000
speeds = [base ** (-2 * i / D) for i in range(D // 2)]  # radians a position
plots.show(figures.rope_clocks([[t * speed for t in range(9)] for speed in speeds]))

# %% [markdown]
# Why turn? Turning two vectors by the same angle leaves their dot product alone. Turn the query by an angle t·s and the key by
# u·s: that equals turning both by u·s, and then the query alone by (t - u)·s. So the score depends on the distance t - u, and
# not on where the two stand. As in the package, pair i is made of channels i and i + D/2.

# %%
def turn(x, start=0):
    """RoPE by hand: x (..., T, D), its first row at position `start`."""
    T, D = x.shape[-2:]
    angles = torch.arange(start, start + T)[:, None] * 10_000 ** (-torch.arange(0, D, 2) / D)  # (T, D/2)
    a, b = x[..., : D // 2], x[..., D // 2 :]  # the two halves
    return torch.cat([a * angles.cos() + b * angles.sin(), b * angles.cos() - a * angles.sin()], dim=-1)


print(turn(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])))  # the same vector at positions 0, 1, 2

# %% [markdown]
# Now one query and one key, put at many places. If the argument is right, three lines lie on top of each other.

# %%
g = torch.Generator().manual_seed(2)
one_q, one_k = (torch.randn(32, generator=g).expand(161, 32) for _ in range(2))  # the same at 161 positions
lines = {f"key at {u}": (turn(one_q)[u : u + 60] @ turn(one_k)[u]).tolist() for u in (0, 50, 100)}
plots.show(figures.score_by_distance(lines))
print("they differ by at most", f"{max(max(p) - min(p) for p in zip(*lines.values())):.1g}")

# %% [markdown]
# They do: what is left is rounding. The values need no positions. A position decides *whom* you listen to, not what they say.
#
# ### RMSNorm
#
# LayerNorm subtracts the mean, divides by the standard deviation, multiplies by a learned vector and adds another. RMSNorm
# divides by the root mean square, and that is all. A learned scale can be left out, since the matrix that comes next can scale
# its columns itself.

# %%
def rms(x):
    """RMSNorm by hand, over the last dimension; the epsilon keeps a vector of zeros from becoming NaN."""
    return x / (x.square().mean(dim=-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()


x = torch.tensor([[3.0, 4.0, 0.0, 0.0], [300.0, 400.0, 0.0, 0.0]])
print(rms(x))

# %% [markdown]
# Both rows come out alike: the size is forgotten, the direction stays. The modern model does this right after the embedding
# too, so every token enters at one size, however far training has stretched its row of the table.
#
# ### QK-norm: a bound for the scores
#
# Scores are products of two learned things, so they can grow fast. Let training make both matrices 10 times larger, and every
# score is 100 times larger. QK-norm is RMSNorm of queries and keys. Then each has length √D, and by the inequality of Cauchy
# and Schwarz no dot product exceeds D, so no divided score exceeds √D. Watch the largest score while the matrices grow:

# %%
x, W_q, W_k = torch.randn(64, 128), torch.randn(128, 128) / 128**0.5, torch.randn(128, 128) / 128**0.5
print("weights times   largest |score|   with QK-norm   bound √D")
for scale in (1, 3, 10, 30):
    q, k = x @ W_q * scale, x @ W_k * scale
    plain, normed = ((a @ b.T / 128**0.5).abs().max() for a, b in ((q, k), (rms(q), rms(k))))
    print(f"{scale:13}   {plain:15.1f}   {normed:12.1f}   {128**0.5:8.1f}")

# %% [markdown]
# Without the norm, the scores grow with the square of the scale. With it, they do not grow at all.
#
# ### One head, then all heads
#
# Now everything above as a function. A layer's weights come as a dict. A matrix is stored as (out, in), so a layer
# computes x Wᵀ; head h owns the rows h·D to (h + 1)·D.

# %%
def head_weights(x, w, h, D):
    """The attention weights (B, T, T) of head h; x (B, T, C) is already normalised."""
    rows = slice(h * D, (h + 1) * D)
    q, k = (rms(turn(x @ w[name][rows].T)) for name in ("c_q", "c_k"))  # (B, T, D): turned, then QK-norm
    scores = q @ k.transpose(1, 2) / math.sqrt(D)  # (B, T, T)
    hidden = ~torch.ones(x.size(1), x.size(1), dtype=torch.bool).tril()
    return scores.masked_fill(hidden, -math.inf).softmax(dim=-1)

# %% [markdown]
# Heads work side by side: each makes its own weighted mean of D channels. They are laid next to each other, and the output
# projection `c_proj` mixes them. (With fewer key and value heads than query heads, some share theirs. That is called
# grouped-query attention; the package can do it, our recipes do not.)

# %%
def attention_by_hand(x, w, H):
    """Causal attention, head by head: x (B, T, C) -> (B, T, C)."""
    D = x.size(-1) // H
    means = [head_weights(x, w, h, D) @ (x @ w["c_v"][h * D : (h + 1) * D].T) for h in range(H)]  # H times (B, T, D)
    return torch.cat(means, dim=-1) @ w["c_proj"].T

# %% [markdown]
# ### The MLP and ReLU²
#
# The MLP treats each position by itself: up to 4C channels, a nonlinearity, back to C. In 2019 this was GELU; now it is ReLU²,
# max(0, x)². It is exactly 0 for all negative inputs, has no corner at 0, and is cheap.

# %%
def mlp_by_hand(x, w):
    return torch.relu(x @ w["c_fc"].T).square() @ w["mlp_proj"].T


x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
print("GELU ", F.gelu(x, approximate="tanh"))
print("ReLU²", torch.relu(x).square())

# %% [markdown]
# ### A layer, and the whole model
#
# A layer reads a normalised copy of the stream and adds its result. The head gives each token a score, its *logit*, from the
# last state. The logits are softcapped: 15 tanh(z / 15) leaves small ones as they are and lets none beyond ±15, so no single
# token can get a loss without bound.

# %%
def layer_by_hand(x, w, H):
    x = x + attention_by_hand(rms(x), w, H)
    return x + mlp_by_hand(rms(x), w)


z = torch.tensor([0.5, 5.0, 15.0, 100.0])
print(15 * torch.tanh(z / 15))

# %% [markdown]
# That is all. The whole modern GPT, from token numbers to logits, on the weights of a package model (its `state_dict`):

# %%
def layer_weights(w, i):
    names = dict(c_q="attn.c_q", c_k="attn.c_k", c_v="attn.c_v", c_proj="attn.c_proj", c_fc="mlp.c_fc", mlp_proj="mlp.c_proj")
    return {ours: w[f"blocks.{i}.{theirs}.weight"] for ours, theirs in names.items()}


def gpt_by_hand(idx, w, n_layer, H):
    """idx (B, T) -> logits (B, T, V)."""
    x = rms(w["wte.weight"][idx])  # (B, T, C)
    for i in range(n_layer):
        x = layer_by_hand(x, layer_weights(w, i), H)
    return 15 * torch.tanh(rms(x) @ w["lm_head.weight"].T / 15)

# %% [markdown]
# ### And 2019
#
# The older model differs in its parts, not in its plan. Its attention has neither RoPE nor QK-norm, one matrix `c_attn` makes
# q, k and v together, and each product has a bias.

# %%
def gpt2_by_hand(idx, w, n_layer, H):
    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def layer_norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    T = idx.size(1)
    x = w["wte.weight"][idx] + w["wpe.weight"][:T]
    hidden = ~torch.ones(T, T, dtype=torch.bool).tril()
    for b in (f"blocks.{i}." for i in range(n_layer)):
        parts = linear(layer_norm(x, b + "ln_1"), b + "attn.c_attn").chunk(3, dim=-1)  # q, k, v of all heads
        q, k, v = (torch.stack(part.chunk(H, dim=-1), dim=1) for part in parts)  # (B, H, T, D) each
        scores = q @ k.transpose(2, 3) / math.sqrt(q.size(-1))
        y = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        x = x + linear(torch.cat(y.unbind(1), dim=-1), b + "attn.c_proj")
        x = x + linear(F.gelu(linear(layer_norm(x, b + "ln_2"), b + "mlp.c_fc"), approximate="tanh"), b + "mlp.c_proj")
    return layer_norm(x, "ln_f") @ w["wte.weight"].T  # the head is the embedding

# %% [markdown]
# ## The package's version
#
# Small parts first: the four tokens from above, then RoPE and the norm on random inputs. The package keeps its tensors as (B,
# T, H, D).

# %%
print(inspect.getsource(rope))
lab.compare(taken_in, attention(*(t.view(1, 4, 1, 4) for t in toy))[0, :, 0])
x = torch.randn(2, 50, 3, 16)  # (B, T, H, D)
lab.compare(turn(x.transpose(1, 2)).transpose(1, 2), rope(x, *rope_tables(50, 16, 10_000)))
lab.compare(rms(x), norm(x))

# %% [markdown]
# In the package's attention module, find the order: turn first, then norm. (The lines about `ve` wait for lesson 08.)

# %%
print(inspect.getsource(Attention.forward))

# %% [markdown]
# Now the modules and the whole model. Its output projections start at zero, with which every layer would add nothing and a
# comparison would prove nothing, so we fill them first.

# %%
config = GPTConfig(vocab_size=300, sequence_len=64, n_layer=3, n_embd=96, n_head=3, n_kv_head=3)
model = GPT(config).init_weights(seed=1)
with torch.no_grad():
    for p in model.parameters():
        p.normal_(0, 1 / math.sqrt(p.size(1)))
w, x = model.state_dict(), torch.randn(2, 50, 96)
tables, block = model.rope(50, "cpu"), model.blocks[0]
lab.compare(attention_by_hand(x, layer_weights(w, 0), 3), block.attn(x, None, *tables))
lab.compare(mlp_by_hand(x, layer_weights(w, 0)), block.mlp(x))
lab.compare(layer_by_hand(x, layer_weights(w, 0), 3), block(x, None, *tables))

# %%
for T in (1, 20, 64):
    idx = torch.randint(300, (2, T))
    lab.compare(gpt_by_hand(idx, w, 3, 3), model(idx))

# %% [markdown]
# The whole modern GPT is the few functions above. The same for 2019:

# %%
model_2019 = GPT2(GPT2Config(vocab_size=300, sequence_len=64, n_layer=3, n_head=3, n_embd=96)).init_weights(seed=1)
with torch.no_grad():
    for p in model_2019.parameters():
        p.add_(0.05 * torch.randn(p.shape))  # so that no bias is 0 and no scale is 1
idx = torch.randint(300, (2, 40))
lab.compare(gpt2_by_hand(idx, model_2019.state_dict(), 3, 3), model_2019(idx))

# %% [markdown]
# A last check needs no reference: change a token, and nothing before it may change.

# %%
changed = idx.clone()
changed[:, 25] = (changed[:, 25] + 1) % 300
apart = (model(changed) - model(idx)).abs().amax(dim=(0, 2))  # (T,)
print("largest change before position 25:", apart[:25].max().item(), "| from 25 on:", round(apart[25:].max().item(), 2))

# %% [markdown]
# ## The first loss, and why projections start at zero
#
# Back to the question. A fresh model knows nothing, so each of the V tokens gets about 1/V, and the cross-entropy is -ln(1/V) =
# ln V:

# %%
targets = torch.randint(1024, (8, 64))
fresh = GPT(GPTConfig(vocab_size=1024, sequence_len=64, n_layer=4, n_embd=128, n_head=2, n_kv_head=2)).init_weights()
fresh_2019 = GPT2(GPT2Config(vocab_size=1024, sequence_len=64, n_layer=4, n_head=2, n_embd=128)).init_weights()
idx = torch.randint(1024, (8, 64))
print(f"ln V {math.log(1024):.4f} | modern {fresh(idx, targets).item():.4f} | 2019 {fresh_2019(idx, targets).item():.4f}")

# %% [markdown]
# About 7, from V alone. A first loss well above ln V means a mistake, before a single step. The modern model hits it almost
# exactly, since its head is a table of its own that starts tiny (standard deviation 0.001). In 2019 the head was the embedding,
# and one table could not be both large, as today's embedding is (standard deviation 1), and tiny. Untied, each has its own size
# and its own learning rate.
#
# The output projections start at exactly 0. So every layer adds 0 and a fresh model of any depth is a model of depth 0:

# %%
x = torch.randn(1, 64, 128)
after = x
for layer in fresh.blocks:
    after = layer(after, None, *fresh.rope(64, "cpu"))
lab.compare(after, x)
fresh(idx, targets).backward()
gradient = {name: p.grad.norm().item() for name, p in fresh.blocks[0].named_parameters()}
print({name: f"{g:.1g}" for name, g in gradient.items()})

# %% [markdown]
# In a layer, the gradient first reaches the two projections alone; it is 0 for whatever stands behind a matrix of zeros. After
# one step the projections are not 0 any more and everything learns. Each layer enters when it has something to add, and deep
# models start as calmly as shallow ones.
#
# ## What attention looks like after some seconds of training
#
# A toy of two layers with two heads each. Look for columns (many look at one token), the diagonal (looking at oneself) and the
# stripe below it (looking at the token before).

# %%
toy_run = lab.train("modern", steps=120, seed=1)
tok, w = lab.tokenizer(), {name: p.detach() for name, p in toy_run["model"].state_dict().items()}
idx = torch.tensor([tok.encode("The king of the land and the queen of the land.")])
x, maps = rms(w["wte.weight"][idx]), {}
for i in range(2):
    for h in range(2):
        maps[f"layer {i}, head {h}"] = head_weights(rms(x), layer_weights(w, i), h, 32)[0]
    x = layer_by_hand(x, layer_weights(w, i), 2)
plots.show(figures.attention_maps({name: m.tolist() for name, m in maps.items()}, [tok.decode([t]) for t in idx[0].tolist()]))

# %% [markdown]
# Above the diagonal everything is white: the mask. The first row is 1, since there is nothing else to see.
# In numbers, over the last ten positions:

# %%
print("                   itself   the one before   the first")
for name, m in maps.items():
    print(f"{name:16} {m.diagonal()[-10:].mean():8.2f} {m.diagonal(-1)[-10:].mean():16.2f} {m[-10:, 0].mean():11.2f}")

# %% [markdown]
# A head that looks at all alike would show about 0.08 in each column. What you see is a random beginning and 120 steps of
# learning; another seed gives other heads.
#
# ## Where the parameters are
#
# Width grows with depth here, so all layers together grow like its cube, and the two tables only in proportion to it. The third
# bar is for later: value embeddings (lesson 08) are tables too.

# %%
def parts_of(plan):
    p, layer = plan.params, plan.model.n_embd**2
    count = {"wte": p["wte"], "attention": plan.model.n_layer * 4 * layer, "MLP": plan.model.n_layer * 8 * layer}
    return count | {"lm_head": p["lm_head"], "value embeddings": p["value_embeds"]}


plans = {"d4": resolve("modern", depth=4), "d24": resolve("modern", depth=24), "d24, jan29": resolve("jan29", depth=24)}
plots.show(figures.parameter_budget({name: parts_of(plan) for name, plan in plans.items()}))

# %% [markdown]
# At d4 most of the model is tables; at d24 most of it is layers. A toy is therefore a poor witness for changes to layers. Keep
# that in mind for what follows.
#
# ## The experiment: 2019 against modern
#
# Same tokens, same seeds, same FLOPs to the last digit (biases and norms are not counted). Besides the two recipes: `modern`
# with the one rate that 2019 uses for everything, and `modern` without RoPE.

# %%
variants = {
    "2019": dict(recipe="gpt2"),
    "modern": dict(),
    "modern, 2019's rate": dict(matrix_adamw_lr=6e-4, wte_lr=6e-4, head_lr=6e-4),
    "modern, no RoPE": dict(rope_base=0.0),
}
results = lab.experiment(variants, seeds=(1, 2), steps=50)
print("training FLOPs a token:", {name: runs[0]["plan"].flops_per_token for name, runs in results.items()})
lab.table(results)

# %% [markdown]
# The gap between the first two rows is large and says little about architecture. The recipes differ in rates and schedule too:
# the 2019 recipe has one small rate, swept by this course at another toy size, with warm-up, cosine and gradient clipping; the
# modern one gives its embedding a rate hundreds of times larger. Take those rates away (third row) and compare with the first:
# most of the gap is gone. In 50 steps a model learns which tokens are frequent and which follow which, and for that the two
# tables are almost enough. For RoPE, compare the difference with the seed spread before you believe in any. What this does
# show: a claim about architecture means nothing unless both sides have their own best rate.
#
# ## At full size
#
# So here is a recorded comparison in which each side has its own best rate for the matrices: depth 4, width 128, 450 steps,
# every rate tried with one seed, and the best (ringed) repeated with two more.

# %%
rows = [r for r in lab.recorded("ladder-laptop") if r["recipe"] in ("gpt2", "modern")]
swept = [r for r in rows if r["role"] == "sweep"]
curves = {name: [(r["rate"], r["val_bpb"]) for r in swept if r["recipe"] == name] for name in ("gpt2", "modern")}
plots.show(figures.rate_sweep(curves))

# %%
found = lab.ladder(upto="modern")
for name, bpb in found.items():
    print(f"{name:7} {sum(bpb) / len(bpb):.3f} bits per byte, seeds from {min(bpb):.3f} to {max(bpb):.3f}")
means = [sum(bpb) / len(bpb) for bpb in found.values()]
spread = max(max(bpb) - min(bpb) for bpb in found.values())
print(f"gpt2 minus modern {means[0] - means[1]:.3f}; the wider seed spread is {spread:.3f}")
print(lab.provenance(swept + [r for r in rows if r["role"] == "ladder" and r["seed"] != 1]))

# %% [markdown]
# This is still a laptop's size, and `gpt2` has only its one rate swept, `modern` only that of its matrices.
#
# At full size nobody we know of has published this rung by itself. The log of nanochat (karpathy/nanochat, dev/LOG.md), from
# which our recipes come, records many attempts to do better at these very points. Most failed: SwiGLU for ReLU², RoPE on half
# of the channels, an asymmetric rescaling of the logits, attention gates, gradient clipping. A softcap of 20 was worth 0.001 on
# 2 March 2026, and went back to 15 a week later in a search over many settings. The search also moved RoPE's base from 10,000
# to 100,000 and multiplied normalised queries and keys by 1.15, later 1.2. What each gave by itself was never published; all
# together took the record from 2.02 to 1.80 hours. Nor is everything settled: an unmerged claim of 82 minutes (nanochat pull
# request 830) gives some norms their learned scales back.
#
# ## Napkin arithmetic: d24 by part
#
# A weight of a matrix product costs 6 FLOPs a token: a multiplication and an addition forward, twice that backward. Scores and
# means cost 12·C·T a layer in the published count, or less in a window. Looking up a row of a table costs nothing. Eight H100
# do 8 × 989 TFLOP/s at their peak, and the record of January 2026 used half of that.

# %%
plan = resolve("jan29", depth=24)
parts = parts_of(plan)
flops = {name: 6 * parts[name] for name in ("attention", "MLP", "lm_head")}
flops["scores"] = plan.flops_per_token - 6 * plan.params["scaling"]
per_hour = 8 * 989e12 * 0.5 * 3600
print("            parameters   GFLOP a token   share   hours")
for name, n in flops.items():
    size, hours = parts.get(name, 0) / 1e6, n * plan.tokens / per_hour
    print(f"{name:9} {size:11.1f}M {n / 1e9:15.2f} {n / plan.flops_per_token:7.0%} {hours:7.2f}")
print(f"sum       {plan.params['scaling'] / 1e6:11.1f}M {plan.flops_per_token / 1e9:15.2f} {1:7.0%} {plan.flops / per_hour:7.2f}")
looked_up = (parts["wte"] + parts["value embeddings"]) / plan.params["total"]
print(f"and tables that are only looked up: {looked_up:.0%} of all {plan.params['total'] / 1e6:,.0f}M parameters")

# %% [markdown]
# More than half of the bill is the MLP. The head, a third of our toy's FLOPs, hardly shows. The tables for tokens and values,
# nearly half of all parameters, are not on it at all. The published run took 3.04 hours.
#
# ## Questions
#
# 1. A model without a mask gets a much better training loss. Why is that no good news?
#
# <details><summary>Answer</summary>
# Each position can look at the very token it must predict. In use that token does not exist yet.
# </details>
#
# 2. Is there the same reason to normalise the values as well?
#
# <details><summary>Answer</summary>
# No. Values are averaged, not exponentiated, so a large one does not crowd out the others. And their size says how much a
# position has to tell.
# </details>
#
# 3. With all keys alike, what does attention give?
#
# <details><summary>Answer</summary>
# Equal scores, so equal weights: the plain mean of the values so far.
# </details>
#
# 4. Without RoPE our modern model has no positions at all, and still learns. How can it know anything of order?
#
# <details><summary>Answer</summary>
# Through the causal mask. The first position averages one value, the tenth averages ten, so later states differ from earlier
# ones.
# </details>
#
# 5. Your own model starts at a loss of 9.5 with V = 1,024. What do you look at?
#
# <details><summary>Answer</summary>
# At the size of the first logits. ln 1,024 is 6.93; more means confident and wrong, so the head's weights (or a missing norm
# before it) are too large.
# </details>

# %% [markdown]
# > **Takeaway.** A GPT is a stream of vectors to which layers add. Attention carries things between positions as a weighted
# > mean of the past; the MLP works on each position. Since 2019 the plan has stayed, and the parts have become simpler: turns
# > for positions, norms without weights, no biases, bounded scores and logits, layers that start as nothing. And rates matter as
# > much as parts.
#
# ## Exercises
#
# [exercises/03_gpt.ipynb](../exercises/03_gpt.ipynb): causal attention, RoPE, RMSNorm, the loss, and what a model costs. `make
# start EX=03` gives you a copy to work on.
#
# ## Further reading
#
# - Attention: [arXiv 1706.03762](https://arxiv.org/abs/1706.03762). GPT-2: "Language Models are Unsupervised Multitask
#   Learners" (Radford et al., 2019).
# - RoPE: [2104.09864](https://arxiv.org/abs/2104.09864). RMSNorm: [1910.07467](https://arxiv.org/abs/1910.07467).
#   QK-norm: [2010.04245](https://arxiv.org/abs/2010.04245). ReLU²: [2109.08668](https://arxiv.org/abs/2109.08668).
#   Softcap: [2408.00118](https://arxiv.org/abs/2408.00118). Grouped queries: [2305.13245](https://arxiv.org/abs/2305.13245).
#
# Before: [02 Data](02_data.ipynb). Next: [04 Training](04_training.ipynb).
