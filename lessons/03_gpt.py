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
# # 03 GPT
#
# **Goal:** write a whole GPT as a few short functions, train it, and find out what the changes since 2019 are worth.
#
# 40 minutes, and 75 for the exercises; any CPU will do.
#
# The data are rows of tokens. This lesson is the function that reads a row and says, at every position, which token comes next.

# %% [markdown]
# Here are two such functions, the model of 2019 and today's. Both train on the same 51,200 tokens with the same learning rate.
# The numbers are bits per byte on other text, and lower is better.

# %%
from gpt2course.course import lab

rate = 6e-4
old = lab.train("gpt2", steps=50, matrix_adamw_lr=rate)
one_rate = dict(matrix_adamw_lr=rate, head_lr=rate, wte_lr=rate)  # 2019 has one rate
new = lab.train("modern", steps=50, **one_rate)
print(f"2019 {old['val_bpb']:.2f}   modern {new['val_bpb']:.2f}")

# %% [markdown]
# **The question.** Ten changes in seven years, and almost no difference. Are the changes worth nothing, or does this comparison
# hide what they are worth? Write down your guess: how much better is the modern model when each has its best rate?

# %%
lab.predict("03.gap", 0.05)

# %% [markdown]
# # Part 1: build it
#
# ## A weighted mean of the past
#
# The model keeps one vector of C numbers for each of T positions. Most parts treat each position by itself. **Attention** is
# the only one that moves information between positions. Each position asks with a query, is found by a key, and gives a value.
# The score of a query and a key is their dot product. The softmax makes each row of scores into positive weights with sum 1.

# %%
import torch

torch.set_printoptions(precision=2, sci_mode=False)
q, k, v = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))  # (T, D)
naive = (q @ k.T).softmax(dim=-1) @ v  # each row: a weighted mean of the values

# %% [markdown]
# This breaks. Change the last token, and look at what comes out for the first one:

# %%
k2, v2 = k.clone(), v.clone()
k2[3], v2[3] = 3.0, 3.0
print("before", naive[0])
print("after ", ((q @ k2.T).softmax(dim=-1) @ v2)[0])

# %% [markdown]
# The first position saw the future. In training the next token is part of the row, so this model would copy it and learn
# nothing. The **causal mask** sets the scores of all later keys to minus infinity, before the softmax.
#
# A second fault is in the size of the scores. A product of two independent numbers of variance 1 has variance 1. A dot product
# adds D of them, so its variance is D:

# %%
from math import inf, sqrt

for D in (4, 64, 1024):
    a, b = torch.randn(2, 2000, 8, D, generator=torch.Generator().manual_seed(2))
    dots = (a[:, :1] * b).sum(-1)  # a query against 8 keys
    raw, scaled = (s.softmax(-1).amax(-1).mean() for s in (dots, dots / sqrt(D)))
    both = f"largest weight {raw:.2f}, or {scaled:.2f}"
    print(f"D {D:4}: variance {dots.var():6.0f}, {both}")

# %% [markdown]
# A wide head would start with all its weight on one random key. There the softmax is saturated: almost no gradient passes. So
# scores are divided by √D. Your first piece has both fixes. Position i sees the keys 0 to i, itself included.

# %% tags=["hole"]
def causal_weights(q, k):
    """The weights (..., T, T) of queries and keys (..., T, D).

    A row for each that asks, a column for each that is asked.
    """
    ### BEGIN SOLUTION
    scores = q @ k.mT / sqrt(q.size(-1))
    visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~visible, -inf).softmax(dim=-1)
    ### END SOLUTION


# %%
g = torch.Generator().manual_seed(3)
several = torch.randn(2, 2, 3, 5, 6, generator=g)
causal_weights = lab.hole("03", causal_weights, (q, k), tuple(several))

# %%
from gpt2course.course import plots
from gpt2course.course.figures import gpt as figures

weights = {"weights": causal_weights(q, k).tolist()}
plots.show(figures.attention_maps(weights, ["the", "cat", "sat", "on"]))

# %% [markdown]
# The first token sees itself alone. Real attention has H **heads** side by side, each with D of the C channels. The package
# keeps them as (B, T, H, D), where B counts the rows of a batch.

# %%
from gpt2course.attention import attention


def causal_attention(q, k, v):
    """(B, T, H, D) three times -> (B, T, H, D): every head of every row by itself."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    return (causal_weights(q, k) @ v).transpose(1, 2)


x = torch.randn(3, 2, 50, 3, 16, generator=g)
lab.compare(causal_attention(*x), attention(*x))
lab.keep("attention", causal_attention)

# %% [markdown]
# "Up to rounding" means: the same sum in another order. A float32 has seven digits, and the last one depends on the order.
#
# ## Positions
#
# An attention layer does not see the order of earlier tokens. Put the first three tokens in another order, and the last one receives the same:

# %%
mixed = [2, 0, 1, 3]
out = (causal_weights(q, k) @ v)[3], (causal_weights(q[mixed], k[mixed]) @ v[mixed])[3]
lab.compare(*out)

# %% [markdown]
# The model of 2019 adds a learned vector for each position, and has none beyond its longest row. **RoPE** adds nothing. It turns
# queries and keys, pair of channels by pair of channels, by an angle that grows with the position. Pair i is made of the channels
# i and i + D/2. At position t it turns by t · base^(-2i/D):

# %%
D, base = 8, 10_000
speeds = [base ** (-2 * i / D) for i in range(D // 2)]
plots.show(figures.rope_clocks([[t * s for t in range(9)] for s in speeds]))

# %% [markdown]
# Why turn? Turning two vectors by one angle leaves their dot product as it is. So a score depends on the difference of the two
# angles, which is the distance of the two tokens. For a pair (a, b), the turn is (a cos + b sin, b cos - a sin).

# %% tags=["hole"]
def spin(x, start, base):
    """x (B, T, H, D) turned for positions start, start + 1, ...; pairs are halves."""
    ### BEGIN SOLUTION
    T, D = x.size(1), x.size(3)
    speeds = base ** (-torch.arange(0, D, 2) / D)
    angles = (torch.arange(start, start + T)[:, None] * speeds)[:, None]  # (T, 1, D/2)
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)
    ### END SOLUTION


# %%
spin = lab.hole("03", spin, (x[0], 0, 10_000.0), (x[1], 7, 100.0))

# %%
from gpt2course.model import norm, rope, rope_tables


def turn(q, k, v, start=0, base=10_000.0):
    """RoPE: queries and keys are turned, values are not."""
    return spin(q, start, base), spin(k, start, base), v


lab.compare(turn(*x)[0], rope(x[0], *rope_tables(50, 16, 10_000)))
lab.keep("rope", turn)

# %% [markdown]
# Put one query and one key at many places. If the argument is right, three lines lie on each other:

# %%
one_q, one_k = torch.randn(2, 1, 1, 1, 32, generator=g).expand(2, 1, 161, 1, 32)
a, b = (spin(t, 0, 10_000.0)[0, :, 0] for t in (one_q, one_k))
lines = {f"key at {u}": (a[u : u + 60] @ b[u]).tolist() for u in (0, 50, 100)}
plots.show(figures.score_by_distance(lines))

# %% [markdown]
# ## Sizes
#
# Every layer adds to the same vectors, the **residual stream**. So they grow, and a layer would have to cope with inputs of any
# size. A norm removes the size before each layer. The one of 2019, LayerNorm, subtracts the mean, divides by the standard
# deviation, and has a learned scale and shift. **RMSNorm** only divides by the root of the mean of squares.

# %% tags=["hole"]
def rms_norm(x, eps=1e-6):
    """x (..., C) divided by the root of (mean of its squares + eps)."""
    ### BEGIN SOLUTION
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    ### END SOLUTION


# %%
small = torch.tensor([[3.0, 4.0], [300.0, 400.0], [0.0, 0.0]])
rms_norm = lab.hole("03", rms_norm, (small, 0.1), (x[0], 1e-6))
print(rms_norm(small))
lab.compare(rms_norm(x), norm(x))
lab.keep("norm", rms_norm)

# %% [markdown]
# ## The whole model
#
# The *embedding* is a table with each token's first vector, the *head* a matrix that turns its last vector into scores. A layer's
# weights come as a dict `w`. A matrix is stored as (out, in), so a layer computes x Wᵀ. After attention comes the
# MLP, which treats each position by itself: up to 4C channels, a nonlinearity, back to C.

# %%
def attention_by_hand(x, w, H):
    q, k, v = ((x @ w[f"attn.c_{n}"].T).unflatten(-1, (H, -1)) for n in "qkv")
    q, k, v = turn(q, k, v)
    mean = causal_attention(rms_norm(q), rms_norm(k), v)  # the norms: see part 2
    return mean.flatten(2) @ w["attn.c_proj"].T


def mlp_by_hand(x, w):
    return torch.relu(x @ w["mlp.c_fc"].T).square() @ w["mlp.c_proj"].T


# %%
def gpt_by_hand(idx, state, layers, H):
    """Tokens idx (B, T) -> a score for every next token, (B, T, V)."""
    x = rms_norm(state["wte.weight"][idx])  # (B, T, C)
    for i in range(layers):
        start = f"blocks.{i}."
        w = {n[len(start) : -7]: p for n, p in state.items() if n.startswith(start)}
        x = x + attention_by_hand(rms_norm(x), w, H)
        x = x + mlp_by_hand(rms_norm(x), w)
    return 15 * torch.tanh(rms_norm(x) @ state["lm_head.weight"].T / 15)


# %% [markdown]
# This is all of a modern GPT. The package's version is longer, because each later lesson has a switch in it. All switches are
# off here. Find the lines that you know:

# %%
import inspect

from gpt2course.model import GPT, GPTConfig

print(inspect.getsource(GPT.hidden))

# %%
sizes = dict(vocab_size=300, sequence_len=64, n_layer=3, n_embd=96, n_head=3)
model = GPT(GPTConfig(**sizes, n_kv_head=3)).init_weights(seed=1)
for p in model.parameters():  # so that no matrix is 0
    p.data += 0.1 * torch.randn(p.shape, generator=g)
idx = torch.randint(300, (2, 64), generator=g)
lab.compare(gpt_by_hand(idx, model.state_dict(), 3, 3), model(idx))

# %% [markdown]
# The model of 2019 has the same plan and other parts. One line is worth a look: LayerNorm is RMSNorm of a centred vector, with
# scale and shift.

# %%
import torch.nn.functional as F


def gpt2_by_hand(idx, w, layers, H):
    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def layer_norm(x, name):
        centred = x - x.mean(dim=-1, keepdim=True)
        return rms_norm(centred, 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][idx] + w["wpe.weight"][: idx.size(1)]
    for b in (f"blocks.{i}." for i in range(layers)):
        parts = linear(layer_norm(x, b + "ln_1"), b + "attn.c_attn").chunk(3, dim=-1)
        mean = causal_attention(*(p.unflatten(-1, (H, -1)) for p in parts))
        x = x + linear(mean.flatten(2), b + "attn.c_proj")
        h = linear(layer_norm(x, b + "ln_2"), b + "mlp.c_fc")
        x = x + linear(F.gelu(h, approximate="tanh"), b + "mlp.c_proj")
    return layer_norm(x, "ln_f") @ w["wte.weight"].T  # the head is the table of tokens


# %%
from gpt2course.gpt2 import GPT2, GPT2Config

old_model = GPT2(GPT2Config(**sizes)).init_weights(seed=1)
for p in old_model.parameters():  # so that no bias is 0
    p.data += 0.05 * torch.randn(p.shape, generator=g)
lab.compare(gpt2_by_hand(idx, old_model.state_dict(), 3, 3), old_model(idx))

# %% [markdown]
# ## Yours trains a model
#
# The modern recipe twice, with the package's attention, RoPE and norm, and with yours:

# %%
package = lab.train("modern", steps=120)
yours = lab.train_with("attention", "rope", "norm", recipe="modern", steps=120)
plots.show(figures.losses({"package": package["loss"], "yours": yours["loss"]}))

# %%
from gpt2course.sample import generate

tok = lab.tokenizer()
how = dict(max_tokens=30, temperature=0.4)
print("The United" + generate(yours["model"], tok, ["The United"], **how)[0])

# %% [markdown]
# What have your heads learned? This toy has two layers with two heads each.

# %%
text = tok.encode("The king of the land and the queen of the land.")
maps = figures.maps_of(yours["model"], torch.tensor([text]), causal_weights)
plots.show(figures.attention_maps(maps, [tok.decode([t]) for t in text]))

# %% [markdown]
# Above the diagonal all is white: the mask. A column is a token at which many look. After 120 steps most of the pattern is
# still chance.
#
# # Part 2: what changed since 2019, and why
#
# Both models from the bottom up. The thick line is the residual stream. Orange is new. The ten changes: RoPE, RMSNorm without weights
# or biases, QK-norm, ReLU², a head of its own, outputs that start at 0, inputs that start at 1/√C, softcap, a norm after the embedding, and
# the schedule (lesson 04).

# %%
plots.show(figures.two_models())

# %% [markdown]
# **How it starts.** A model that knows nothing gives each of V tokens the probability 1/V. Its loss is ln V, here 5.70 nats. In
# 2019 one table of standard deviation 0.02 was embedding and head. Today there are two tables: one starts at 1, and the head at
# 0.001. The output matrices of all layers start at zero, so every layer begins as "add nothing", at any depth.

# %%
print(inspect.getsource(GPT.init_weights))

# %%
model.init_weights(seed=1)
loss = model(idx[:, :-1], idx[:, 1:].contiguous())
loss.backward()
grads = {n: p.grad.norm() for n, p in model.blocks[0].named_parameters()}
print(f"loss {loss:.3f};", ", ".join(f"{n[:-7]} {g:.1g}" for n, g in grads.items()))

# %% [markdown]
# Inside the layers only the output matrices receive a gradient at first; then everything learns.
#
# **QK-norm.** A score is a product of two learned things. Ten times larger matrices give scores that are a hundred times larger,
# and one wrong look has all the weight. RMSNorm of queries and keys gives each the length √D, so no score exceeds √D. That is
# also its price: a head cannot be as sharp as it likes. Here is the largest weight that one key among T can have, with the other
# scores at 0, and with queries and keys times a gain:

# %%
for D, T in ((32, 128), (128, 2048)):
    top = {g: torch.tensor(sqrt(D) * g * g).exp() for g in (1, 1.15, 1.2)}
    shares = ", ".join(f"gain {g}: {e / (e + T - 1):.4f}" for g, e in top.items())
    print(f"D {D:3}, T {T:4}: {shares}")

# %% [markdown]
# The recipe of January 2026 has no gain. Later ones multiply by 1.15, then 1.2, and buy sharpness back (nanochat's
# code, March 2026).
#
# **ReLU².** GELU became max(0, x)². Nobody derived it: a search over programs found it (Primer, arXiv 2109.08668). It is cheap,
# and exactly 0 for negative inputs. **Softcap.** 15 tanh(z / 15) bounds the score of a token, so no single token can get an
# arbitrarily large loss.
#
# ## What are they worth?
#
# Now the first comparison, done fairly. A rate that suits one model need not suit another. So the course trained both at many
# rates: one rate for all weights of a model, 50 steps, the mean of two seeds, the recipe's weight decay.

# %%
from statistics import mean

rows = lab.recorded("toy-2019")
bpb = {}
for r in rows:
    cell = bpb.setdefault((r["arm"], r["decay"]), {}).setdefault(r["rate"], [])
    cell.append(r["val_bpb"])
curves = {
    arm: [(rate, mean(found[:2])) for rate, found in bpb[arm, None].items()]
    for arm in ("2019", "modern")
}
what = "learning rate of all weights (setting, log scale)"
plots.show(figures.rate_sweep(curves, what))

# %% [markdown]
# Both lines have their lowest point inside the grid. At 0.0006, on the left, they meet: this is the first screen. The rate was
# near the best of 2019 and far too low for the other, whose best rate is 8 times as large. Repeat the two best points live:

# %%
fast = dict(matrix_adamw_lr=0.0096, head_lr=0.0096, wte_lr=0.0096)
variants = {"2019": dict(recipe="gpt2", matrix_adamw_lr=0.0012), "modern": fast}
results = lab.experiment(variants, seeds=(1, 2), steps=50)
lab.table(results)

# %%
a, b = ([r["val_bpb"] for r in results[name]] for name in ("modern", "2019"))
lab.verdict(a, b)
lab.result("03.gap", mean(b) - mean(a))

# %% [markdown]
# Which change does it? The same sweep for each step of the way, each with its own best rate and without weight decay; dots are
# seeds:

# %%
plots.show(figures.changes(figures.best_arms(rows)))

# %% [markdown]
# Most of the gap closes with the head of its own. The embedding then starts at 1, not at 0.02, and the best rate is four times as
# large. But the order of the steps matters. [Recorded too](../results/2026-11-29_toy-2019/README.md): taken out of the modern model alone,
# this change costs nothing, nor does the embedding's norm. Together they cost 0.27: either of the two brings the embedding to a size beside which a large
# step is small. (The reason is our reading.) ReLU² gains 0.15 here, and taken out of the modern
# model it costs nothing. RoPE, RMSNorm, QK-norm and softcap show no gain larger than the spread.
#
# **The answer.** At one small rate the models are 0.01 apart. Each at its own best rate they are nearly half a bit apart: 0.49 in
# three recorded seeds (3.49 and 3.00), less in the live ones. The gain needs a
# higher rate, from which the model of 2019 gains nothing. With its own three rates modern reaches 2.90.
#
# ## On the ladder
#
# The course's *ladder* is its recipes from `gpt2` to `record`, each with an idea more. It is recorded with a larger model:
# depth 4, width 128, 450 steps. The rate of the matrices and the weight decay are swept on both
# sides, three seeds or more at the best. The rates of table and head are not swept.

# %%
from gpt2course.recipes import LADDER, resolve

ladder = lab.ladder(upto="modern")
plots.show(plots.ladder(ladder, list(LADDER)))
lab.verdict(ladder["modern"], ladder["gpt2"])

# %% [markdown]
# At depth 24 nobody has published this rung. Failed: SwiGLU for ReLU², RoPE on half of the
# channels, attention gates (nanochat's dev/LOG.md).
#
# ## The bill
#
# Each weight of a matrix product costs 6 FLOPs a token in training (lesson 00). A layer has 12C² such weights. Attention also works without weights: q · k costs 2C FLOPs for each of T keys, the
# weighted mean 2C more, and backward twice that again. So a layer adds **12CT**. (This is the published count. A causal
# query sees half of the keys on average.) A table that is looked up costs nothing.

# %%
plan = resolve("modern", depth=24)
C, T, L = plan.model.n_embd, plan.model.sequence_len, plan.model.n_layer
flops = {"attention matrices": 24 * C * C * L, "MLP": 48 * C * C * L}
flops |= {"scores and means": 12 * C * T * L, "head": 6 * C * plan.model.vocab_size}
total = sum(flops.values())
print(f"{total / 1e9:.2f} GFLOP a token, package", plan.flops_per_token / 1e9)
plots.show(figures.parameter_budget({"d24": flops}, "FLOPs a token"))

# %% [markdown]
# Scores grow with T, matrices do not: 12CT equals 72C² at T = 6C, which is 9,216 tokens here. Lesson 06 cuts this part down.
#
# ## Questions
#
# 1. A model without a mask gets a far better training loss. Why is that no good news?
#
# <details><summary>Answer</summary>
# Each position can look at the very token that it must predict. In use that token does not exist yet.
# </details>
#
# 2. Why are the values not turned by RoPE?
#
# <details><summary>Answer</summary>
# A position decides whom a query looks at, so it belongs in the scores. The values are what is read there.
# </details>
#
# 3. Your own model starts at a loss of 9.5 with V = 1,024. What do you look at?
#
# <details><summary>Answer</summary>
# At the size of the first scores of tokens. ln 1,024 is 6.93. More means confident and wrong: the head's weights are too large,
# or the norm before it is missing.
# </details>
#
# 4. Somebody shows that a new part is worth 0.02 bpb at the old model's learning rate. What do you ask for?
#
# <details><summary>Answer</summary>
# A sweep of the rate on both sides, with both best values inside the grid, and the spread over seeds.
# </details>

# %% [markdown]
# > **Takeaway.** A GPT is a stream of vectors to which layers add. Attention moves information as a weighted mean of the past;
# > the MLP works on each position. A part that lets you train with a larger rate looks useless until you raise the rate.
#
# ## Exercises
#
# [exercises/03_gpt.ipynb](../exercises/03_gpt.ipynb): attention, heads in another order, a model with other pairs, the loss,
# and the cost of a model. `make start EX=03` gives you a copy to work on.
#
# ## Further reading
#
# - Attention: [arXiv 1706.03762](https://arxiv.org/abs/1706.03762). RoPE: [2104.09864](https://arxiv.org/abs/2104.09864).
# - ReLU² and how it was found: [Primer, 2109.08668](https://arxiv.org/abs/2109.08668).
# - QK-norm: [2010.04245](https://arxiv.org/abs/2010.04245). Softcap: [2408.00118](https://arxiv.org/abs/2408.00118).
# - The sweep of this lesson: [results/2026-11-29_toy-2019](../results/2026-11-29_toy-2019/README.md).
