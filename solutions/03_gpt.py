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
# # Exercises 03: GPT
#
# One piece of the model, two uses of what you know about heads and pairs, a measurement and a bill. Replace each `raise NotImplementedError` by your answer and run the check below it.
# The lesson is [03 GPT](../lessons/03_gpt.ipynb).
#
# Only answers in work/ are graded: `make start EX=03` puts your copy of this notebook there, `make grade EX=03` grades it.
# Until you run a check, it shows the line that a right answer prints.
#
# Letters in shapes: B batch, T time, H heads, D head size, C width, V vocabulary.

# %% tags=["setup"]
import math

import torch
import torch.nn.functional as F

from gpt2course.course.checks import pictures
from gpt2course.course.figures import gpt as figures
from gpt2course.model import GPTConfig

# %% [markdown] tags=["ex-3.1"]
# ## 3.1 Causal attention
#
# Write attention without calling torch's own. Queries, keys and values come as (B, T, H, D). For every row of the batch and every
# head by itself, the score of query i and key j is their dot product divided by √D; a query sees the keys j ≤ i, itself included;
# a softmax over the keys turns scores into weights; the output is the weighted mean of the values, as (B, T, H, D) in their dtype.
#
# A tiny example, one head with T = 2 and D = 1: with q = [0, 0], all scores are 0. The first position sees itself alone and
# gives v[0]; the second gives the mean of v[0] and v[1].
#
# <details><summary>Help: which axes?</summary>
#
# The scores have the shape (B, H, T, T), query before key. Bring q and k to (B, H, T, D) with `transpose(1, 2)`. A `view` to that
# shape runs without complaint and mixes heads with positions.
# </details>
# <details><summary>Help: my first output is NaN</summary>
#
# A row of the mask hides everything. Position i sees itself: the visible triangle includes the diagonal (`torch.tril`).
# </details>
# <details><summary>Help: my weights do not sum to 1</summary>
#
# Hide before the softmax, by a score of minus infinity. Hiding after it leaves the future's share missing.
# </details>
#
# The picture below the check shows the weights of your answer: a lower triangle, nothing above the diagonal, the first row 1.

# %% tags=["answer", "ex-3.1"]
def causal_attention(q, k, v):
    """Causal attention: q, k and v (B, T, H, D) -> (B, T, H, D)."""
    ### BEGIN SOLUTION
    T, D = q.size(1), q.size(3)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
    scores = q @ k.transpose(2, 3) / math.sqrt(D)  # (B, H, T, T): query before key
    visible = torch.ones(T, T, dtype=torch.bool).tril()
    weights = scores.masked_fill(~visible, -math.inf).softmax(dim=-1)
    return (weights @ v).transpose(1, 2)  # (B, T, H, D)
    ### END SOLUTION


# %% tags=["check", "ex-3.1"]
from gpt2course.course.checks import check

check("3.1", causal_attention)

# %% tags=["picture", "ex-3.1"]
q, k = torch.randn(2, 1, 5, 1, 5, generator=torch.Generator().manual_seed(3)) * 1.5
units = torch.eye(5).view(1, 5, 1, 5)  # with the unit vectors as values, the output is the weights


def draw(f):
    return figures.attention_maps({"weights of one head": f(q, k, units)[0, :, 0].tolist()}, [str(t) for t in range(5)])


pictures("3.1", draw, causal_attention)

# %% [markdown] tags=["ex-3.2"]
# ## 3.2 Heads in another order
#
# No head knows its number. So there are many sets of weights that compute the same function, and two trained models can be
# compared only after their heads are lined up. Write the change of order.
#
# An attention layer has `c_q`, `c_k` and `c_v`, each (H·D, C), and `c_proj`, (C, H·D). All are stored as (out, in). (Here H·D
# need not be C.) Head h owns the channels h·D to (h + 1)·D. `order` is a list of the H heads: the new head j is the old head
# order[j]. Return the four new matrices. For every input the layer must give what it gave before. Do not change the old ones.
#
# A tiny example, H = 2, D = 1, order [1, 0]: the two rows of c_q, c_k and c_v change places, and something happens to c_proj.
#
# <details><summary>Help: what does c_proj see?</summary>
#
# The outputs of the heads, laid next to each other. It reads them as its input, and the input is the second axis.
# </details>
# <details><summary>Help: which way round?</summary>
#
# With three heads an order and its inverse differ. order = [2, 0, 1]: the first head is now the old last one.
# </details>

# %% tags=["answer", "ex-3.2"]
def reordered(c_q, c_k, c_v, c_proj, order):
    """Four matrices whose head j is the old head order[j]; the layer computes the same."""
    ### BEGIN SOLUTION
    D = c_q.size(0) // len(order)
    channels = torch.cat([torch.arange(h * D, (h + 1) * D) for h in order])
    return c_q[channels], c_k[channels], c_v[channels], c_proj[:, channels]
    ### END SOLUTION


# %% tags=["check", "ex-3.2"]
from gpt2course.course.checks import check

check("3.2", reordered)

# %% [markdown] tags=["ex-3.3"]
# ## 3.3 A model with other pairs
#
# Our RoPE turns the channels i and i + D/2 of a head together: halves. Other models turn 2i and 2i + 1 together: neighbours.
# Load the weights of such a model into ours, and it runs without complaint and writes nonsense. (Llama's weights were
# published for neighbours, and converted for a library that uses halves.)
#
# `W` (H·D, C) is the matrix `c_q` or `c_k` of a model with neighbours. Return the matrix of the same shape with which our model,
# with halves, computes the same scores. Pair i must turn as fast as before.
#
# A tiny example, one head with D = 4: the old pairs are the rows (0, 1) and (2, 3).
#
# <details><summary>Help: what may move?</summary>
#
# A row of W makes one channel. The score of a head is a sum over its channels, so their order is free, as long as q and k agree.
# </details>
# <details><summary>Help: which rows go where?</summary>
#
# Pair i was the rows 2i and 2i + 1, and becomes the rows i and i + D/2. Every head has its own halves.
# </details>
# <details><summary>Help: and c_v?</summary>
#
# RoPE does not turn values, so c_v and c_proj stay as they are.
# </details>

# %% tags=["answer", "ex-3.3"]
def halves(W, H):
    """c_q or c_k (H D, C) of a model whose pairs are neighbours, for a model whose pairs are halves."""
    ### BEGIN SOLUTION
    pairs = W.unflatten(0, (H, -1, 2))  # (H, D/2, 2, C)
    return pairs.transpose(1, 2).flatten(0, 2)  # (H, 2, D/2, C): the first of each pair, then the second
    ### END SOLUTION


# %% tags=["check", "ex-3.3"]
from gpt2course.course.checks import check

check("3.3", halves)

# %% [markdown] tags=["ex-3.4"]
# ## 3.4 Measuring: the loss
#
# How good is a prediction? `tokens` (B, T) are rows of text, and `logits` (B, T, V) is what a model said after reading each of
# them, before the softcap. So logits[:, t] is judged by tokens[:, t + 1], and what was said after the last token is not judged.
#
# Some tokens are filler, marked -1. A filler is never a target. Squash the logits with cap · tanh(z / cap) (cap = 0 means:
# leave them), take the softmax, and return the mean of -ln(probability of the target) over all targets that count, in nats.
#
# A tiny example: V = 2, one row of tokens [0, 1, -1], all logits 0. Only the 1 is a target; its probability is 1/2; the loss is
# ln 2 = 0.693.
#
# <details><summary>Help: my loss is far too high, or close to 0</summary>
#
# Is each prediction judged by the *next* token? Judged by the token it has just read, a model is judged on copying.
# </details>
# <details><summary>Help: the mean over what?</summary>
#
# Over the targets that count, of all rows together. Not over B · T, and not the mean of each row's mean.
# </details>
# <details><summary>Help: infinity or NaN</summary>
#
# exp(1000) is infinite. `F.log_softmax` subtracts the largest logit first.
# </details>

# %% tags=["answer", "ex-3.4"]
def next_token_loss(logits, tokens, cap=15.0):
    """Mean loss in nats of the targets that count: logits (B, T, V), tokens (B, T) with -1 for filler -> a number."""
    ### BEGIN SOLUTION
    z = cap * torch.tanh(logits / cap) if cap else logits
    log_p = F.log_softmax(z[:, :-1], dim=-1)  # (B, T - 1, V)
    targets = tokens[:, 1:]
    counts = targets >= 0
    nats = -log_p.gather(2, targets.clamp(min=0)[..., None])[..., 0]  # (B, T - 1)
    return nats[counts].mean()
    ### END SOLUTION


# %% tags=["check", "ex-3.4"]
from gpt2course.course.checks import check

check("3.4", next_token_loss)

# %% [markdown] tags=["ex-3.5"]
# ## 3.5 Cost: parameters and FLOPs
#
# Before you train a model you want to know how large it is and what a token costs. `config` is a `GPTConfig` of the rung
# `modern`, of which you need `n_layer`, `n_embd` (C), `vocab_size` (V) and `sequence_len` (T). Count, without building the
# model.
#
# Return a dict with whole numbers: `wte` and `lm_head` (two tables: the head is untied), `attention` (q, k, v and the output
# projection of all layers), `mlp` (two matrices of each layer, the inner width is 4C), `total`, and `flops` for each token of
# training: 6 for each weight of a matrix product, and 12 · C · T for the scores and weighted means of each layer. There are no
# biases, and norms have no weights.
#
# A tiny example: C = 2, V = 10, one layer, T = 3. wte and lm_head 20 each, attention 4 · 2² = 16, mlp 2 · (2 · 8) = 32, total 88,
# flops 6 · (16 + 32 + 20) + 12 · 2 · 3 = 480.
#
# <details><summary>Help: which weights multiply?</summary>
#
# Looking up a row of wte is no matrix product and costs no FLOPs. The head is one.
# </details>
# <details><summary>Help: why 6?</summary>
#
# One multiplication and one addition forward, and twice that backward: once for the gradient of the input, once for that of the
# weight.
# </details>
#
# The picture shows shares: the deeper the model, the smaller the two tables.

# %% tags=["answer", "ex-3.5"]
def budget(config):
    """Parameters by part and training FLOPs a token: {"wte", "attention", "mlp", "lm_head", "total", "flops"}."""
    ### BEGIN SOLUTION
    L, C, V, T = config.n_layer, config.n_embd, config.vocab_size, config.sequence_len
    count = {"wte": V * C, "attention": L * 4 * C * C, "mlp": L * 2 * C * 4 * C, "lm_head": C * V}
    multiplied = count["attention"] + count["mlp"] + count["lm_head"]
    return count | {"total": sum(count.values()), "flops": 6 * multiplied + L * 12 * C * T}
    ### END SOLUTION


# %% tags=["check", "ex-3.5"]
from gpt2course.course.checks import check

check("3.5", budget)

# %% tags=["picture", "ex-3.5"]
def draw(f):
    bars = {}
    for depth in (4, 12, 24):
        count = f(GPTConfig(n_layer=depth, n_embd=64 * depth, n_head=depth // 2, n_kv_head=depth // 2))
        bars[f"depth {depth}"] = {part: count[part] for part in ("wte", "attention", "mlp", "lm_head")}
    return figures.parameter_budget(bars)


pictures("3.5", draw, budget)
