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
# # Exercises 13: Talking to it
#
# Four uses of what the lesson built: a draw that needs no probabilities, the bytes of a step, the settings of a service that you see
# only from outside, and a small model that guesses for a large one. Replace each `raise NotImplementedError` by your answer and run
# the check below it. The lesson is [13 Talking to it](../lessons/13_talking.ipynb).
#
# Only answers in work/ are graded: `make start EX=13` puts your copy of this notebook there, `make grade EX=13` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import math

import torch

from gpt2course.course.checks import pictures
from gpt2course.course.figures import talking as figures
from gpt2course.recipes import resolve


def counted(params, shape, context, batch, bandwidth):
    """The benchmark of 13.2, as it stands: it counts too many bytes."""
    cache = sum(min(context, W) for W in shape["windows"]) * 2 * shape["kv_width"]
    size = 2 * (params["total"] + batch * cache)
    return size, batch * bandwidth / size


def of_depth(depth):
    """(params, shape) of `jan29` at a depth, for 13.2."""
    plan = resolve("jan29", depth=depth)
    m = plan.model
    tables = sum(m.has_value_embed(i) for i in range(m.n_layer))
    windows = [m.window(i)[0] for i in range(m.n_layer)]
    shape = dict(n_embd=m.n_embd, kv_width=m.n_kv_head * m.head_dim, value_tables=tables, windows=windows)
    return plan.params, shape

# %% [markdown] tags=["ex-13.1"]
# ## 13.1 Draw by a maximum
#
# There is a way to draw a token with its probability that never computes a probability. Add noise to each logit and take the
# largest sum. With u uniform between 0 and 1, a new one for each token, the noise is -log(-log u) (Gumbel's). Then the token i has
# the largest z_i / t - log(-log u_i) with exactly the probability that softmax(z / t) gives it. No sum over the vocabulary is needed.
#
# Write `pick(logits, temperature, top_k, generator)`: one token id. Only the top_k largest logits take part; of equal ones any, but
# never more than top_k. None or 0: all. Temperature 0: the largest logit. All randomness comes from `generator`, as in
# `torch.rand(n, generator=generator)`. A logit may be -inf: that token is never drawn.
#
# torch.multinomial is not allowed. Your answer is kept as the piece `sampling`. From then on your own run
# (`make speedrun MINE=1`) writes with it.
#
# A tiny example: logits (0, 5) at temperature 0 give 1; at temperature 5 they give 1 in 73 % of the draws.
#
# <details><summary>Help: rare tokens never come</summary>
#
# torch.rand in float32 has steps of 6e-8, so its noise ends at 16.6. Ask for dtype=torch.float64.
# </details>
# <details><summary>Help: more than top_k tokens come</summary>
#
# `logits < kth largest` keeps every logit that equals the k-th. Work with the positions that `topk` or a sort returns.
# </details>

# %% tags=["answer", "ex-13.1"]
def pick(logits, temperature, top_k, generator):
    """logits (V,), a temperature, top_k or None, a torch.Generator -> a token id."""
    ### BEGIN SOLUTION
    best, tokens = logits.double().topk(min(top_k or len(logits), len(logits)))
    if temperature == 0:
        return int(tokens[0])
    u = torch.rand(len(best), generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(u))
    return int(tokens[((best - best[0]) / temperature + noise).argmax()])
    ### END SOLUTION


# %% tags=["check", "ex-13.1"]
from gpt2course.course.checks import check

check("13.1", pick)

# %% [markdown] tags=["ex-13.2"]
# ## 13.2 A benchmark that counts too many bytes
#
# A public benchmark of inference (nanochat's scripts/infer_bench.py) divides the bytes that a step of decoding must read by the bandwidth
# of the GPU. It counts every parameter as read at each step. For a model whose embeddings and value embeddings are only looked up, that is too much:
# 2.77 GB at depth 24, in two bytes a number, and 1.46 GB in truth. So it promises too few tokens a second. `counted` in the
# first cell is what it does. Correct it.
#
# `params` has the numbers of parameters by group: matrices, lm_head, scalars, wte, value_embeds, total. `shape` has n_embd; kv_width, the
# numbers in a key (and in a value) of one token and layer; value_tables, the number of value embeddings, whose rows have kv_width
# numbers; and windows, the W of each layer. Every number has 2 bytes. A step of decoding
#
# - reads matrices, head and scalars once, for all texts of the batch,
# - looks up, for each text, one row of wte (n_embd numbers) and one row of each value embedding,
# - reads, for each text and layer, keys and values of the last W tokens of the `context` tokens there are.
#
# Return the bytes, and the tokens a second that the bandwidth (bytes a second) allows.
#
# A tiny example: 10 numbers in matrices, head and scalars, n_embd 2, no value embedding, no context, a batch of 3: 2 · (10 + 3 · 2) = 32 bytes.
#
# <details><summary>Help: right for one text, wrong for a batch</summary>
#
# The weights are read once for all texts. Rows of tables and the cache belong to each text, so they count `batch` times. The tokens of a
# step are one for each text.
# </details>
#
# The picture shows the bound for depth 24 on an H100: where does a larger batch stop to help?

# %% tags=["answer", "ex-13.2"]
def corrected(params, shape, context, batch, bandwidth):
    """-> (bytes that one step reads, tokens a second)."""
    ### BEGIN SOLUTION
    weights = params["matrices"] + params["lm_head"] + params["scalars"]
    rows = shape["n_embd"] + shape["value_tables"] * shape["kv_width"]
    cache = sum(min(context, W) for W in shape["windows"]) * 2 * shape["kv_width"]
    size = 2 * (weights + batch * (rows + cache))
    return size, batch * bandwidth / size
    ### END SOLUTION


# %% tags=["check", "ex-13.2"]
from gpt2course.course.checks import check

check("13.2", corrected)

# %% tags=["picture", "ex-13.2"]
def draw(f):
    sizes = of_depth(24)
    batches = (1, 4, 16, 64, 256)
    lines = {}
    for context in (0, 256, 2048):
        lines[f"after {context:,} tokens"] = [(B, f(*sizes, context, B, 3.35e12)[1]) for B in batches]
    return figures.speed(lines, "texts at once")


pictures("13.2", draw, corrected)

# %% [markdown] tags=["ex-13.3"]
# ## 13.3 How does this service draw?
#
# A service hides its temperature and its top-k. You may choose the logits and see which tokens come: `ask(logits, n)` returns n ids, drawn
# for the logits that you pass, a list or a tensor of any length. You can pay for 20,000 tokens in all. Return (temperature, top_k), with top_k
# None where all tokens take part. top_k is between 2 and 100; the temperature may be off by a tenth.
#
# A tiny example: with equal logits for four tokens only ids 0 and 1 ever come. So top_k is 2.
#
# <details><summary>Help: how do I see a temperature?</summary>
#
# Two tokens whose logits differ by d come in the proportion exp(d / temperature). Count them.
# </details>
# <details><summary>Help: some values are off by more than a tenth</summary>
#
# A token that comes five times of ten thousand tells little: its count may as well have been three or eight. Choose logits
# such that both tokens come often, and draw many.
# </details>

# %% tags=["answer", "ex-13.3"]
def find_settings(ask):
    """ask(logits, n) -> n ids. -> (temperature, top_k or None)."""
    ### BEGIN SOLUTION
    offered = 200
    k = len(set(ask(torch.zeros(offered), 5000)))
    drawn = ask(torch.tensor([1.0, 0.0]), 10_000)
    share = sum(drawn) / len(drawn)
    return 1 / math.log((1 - share) / share), None if k == offered else k
    ### END SOLUTION


# %% tags=["check", "ex-13.3"]
from gpt2course.course.checks import check

check("13.3", find_settings)

# %% [markdown] tags=["ex-13.4"]
# ## 13.4 A small model guesses for a large one
#
# A step of a large model costs as much for five positions as for one, since it reads all its weights anyway. So a small
# model guesses the next tokens, and the large one reads all guesses in one step. Then each guess is accepted or not, such that the text is
# distributed *exactly* as if the large model had written it alone (speculative decoding).
#
# At one position the large model has probabilities p, the small one q, both (V,). The small one drew a token x from q. Accept it
# with the probability min(1, p(x) / q(x)). Else draw another token from what the guesses leave out: p - q where that is
# positive, divided by its sum.
#
# Return (accept, rest): accept (V,) has the probability to accept each token, 1 where q is 0; rest (V,) has the probabilities of the
# other draw. Where p and q are equal every guess is accepted and rest is never used; return p then.
#
# A tiny example: p (.2, .8) and q (.6, .4). accept is (1/3, 1), rest is (0, 1). Token 0 then comes in .6 · 1/3 = .2 of all cases, as it should.
#
# <details><summary>Help: why not draw again from p?</summary>
#
# Accepted tokens have used up a part of p already. Drawing from p again gives the small model's favourites twice.
# </details>

# %% tags=["answer", "ex-13.4"]
def judge(p, q):
    """Probabilities p of the large and q of the small model, (V,) -> accept (V,), rest (V,)."""
    ### BEGIN SOLUTION
    accept = torch.where(q > 0, p / q, torch.ones_like(p)).clamp(max=1)
    rest = (p - q).clamp(min=0)
    return accept, rest / rest.sum() if rest.sum() > 0 else p
    ### END SOLUTION


# %% tags=["check", "ex-13.4"]
from gpt2course.course.checks import check

check("13.4", judge)
