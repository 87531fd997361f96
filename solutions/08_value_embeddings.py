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
# # Exercises 08: Value embeddings
#
# Five uses of tables that are looked up: a layer folded into a table, tables for pairs of tokens, their gradient by hand, the
# gate measured token by token, and what tables cost on eight GPUs. Replace each `raise NotImplementedError` by your answer
# and run the check below it. The lesson is [08 Value embeddings](../lessons/08_value_embeddings.ipynb).
#
# Only answers in work/ are graded: `make start EX=08` puts your copy of this notebook there, `make grade EX=08` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import torch

from gpt2course.course.checks import pictures
from gpt2course.course.figures import value_embeddings as figures

# %% [markdown] tags=["ex-8.1"]
# ## 8.1 A matrix folded into a table
#
# In the first layer x is still the normalised embedding of the token: x = norm(wte[token]), where norm divides a vector by its root
# mean square (√ of the mean of squares; leave out the epsilon). So the values v = W x depend on the token alone, and a table
# can hold them. With a value embedding `ve` that is added in full (no gate), v = W x + ve[token].
#
# Return one table (V, K) whose row of a token is its v. After training, this layer then needs neither W nor two tables for
# its values: a lookup gives the same numbers.
#
# A tiny example: wte has the row (3, 4). Its root mean square is √12.5 = 3.536, so x = (0.849, 1.131). With W = ((1, 0), (0, 2)) and
# ve = (1, 1) the row is (1.849, 3.263).
#
# <details><summary>Help: W x, for a whole table at once</summary>
#
# W (K, C) is stored as torch's Linear stores it. For rows x (V, C) the product is x Wᵀ.
# </details>
# <details><summary>Help: why not in the second layer?</summary>
#
# There x has been mixed with other tokens by attention, and the row would have to know them.
# </details>

# %% tags=["answer", "ex-8.1"]
def fold(wte, W, ve):
    """wte (V, C), W (K, C), ve (V, K) -> table (V, K)."""
    ### BEGIN SOLUTION
    x = wte / wte.square().mean(dim=-1, keepdim=True).sqrt()
    return x @ W.T + ve
    ### END SOLUTION


# %% tags=["check", "ex-8.1"]
from gpt2course.course.checks import check

check("8.1", fold)

# %% [markdown] tags=["ex-8.2"]
# ## 8.2 A table for pairs
#
# A row for each *pair* of tokens would need V² rows, at nanochat's vocabulary a thousand million. nanochat tried a smaller table of
# `size` rows and let pairs share them (27 January 2026): the row of a pair is
#
# (36,313 · token XOR 27,191 · previous token) mod (size - 1)
#
# where XOR is Python's `^`. The first token of a row of text has no previous one: it gets the last row, size - 1, which no pair
# reaches. Return the rows of idx (B, T).
#
# The line that prints this in the project's log is `h = (36313 * idx[:, 1:]) ^ (27191 * idx[:, :-1]) % (table_size - 1)`. Try it first: some rows
# come out beyond the table.
#
# A tiny example: with size 100, idx = [[3, 5]]: 181,565 XOR 81,573 is 261,016, and mod 99 that is 52. So the rows are [[99, 52]].
#
# <details><summary>Help: rows beyond the table</summary>
#
# In Python % binds more tightly than ^. Brackets.
# </details>

# %% tags=["answer", "ex-8.2"]
def pair_rows(idx, size):
    """idx (B, T) of token ids, size of the table -> rows (B, T)."""
    ### BEGIN SOLUTION
    rows = torch.full_like(idx, size - 1)
    rows[:, 1:] = ((36313 * idx[:, 1:]) ^ (27191 * idx[:, :-1])) % (size - 1)
    return rows
    ### END SOLUTION


# %% tags=["check", "ex-8.2"]
from gpt2course.course.checks import check

check("8.2", pair_rows)

# %% [markdown] tags=["ex-8.3"]
# ## 8.3 The gradient of a table
#
# In the forward pass the values gain g · table[token], with g one number for each place and head:
#
# v[b, t, h] += g[b, t, h] · table[idx[b, t]] (of head h)
#
# You get dv (B, T, H, D), the gradient of the loss by the new v. Return the gradient by the table, (V, H · D), and by g,
# (B, T, H), without autograd. A row of the table holds its H heads one after the other, D numbers each. Tokens that stand in several
# places collect from all of them; a token that does not occur gets zeros.
#
# A tiny example: one head, D = 1, two places, both with token 1 of 3; g = 0.5 and 2, dv = 10 and 1, and the row is 7. The gradient by
# the table is (0, 0.5 · 10 + 2 · 1, 0) = (0, 7, 0), and by g it is 10 · 7 and 1 · 7.
#
# <details><summary>Help: a token that comes twice gets only one part</summary>
#
# `grad[idx] += part` keeps the last one. `index_add_` adds them all up; so does a product with one-hot rows.
# </details>

# %% tags=["answer", "ex-8.3"]
def table_gradient(idx, table, g, dv):
    """idx (B, T), table (V, H * D), g (B, T, H), dv (B, T, H, D) -> (V, H * D), (B, T, H)."""
    ### BEGIN SOLUTION
    part = (g[..., None] * dv).flatten(2)  # (B, T, H * D)
    dtable = torch.zeros_like(table).index_add_(0, idx.flatten(), part.flatten(0, 1))
    dg = (table[idx].view(dv.shape) * dv).sum(-1)
    return dtable, dg
    ### END SOLUTION


# %% tags=["check", "ex-8.3"]
from gpt2course.course.checks import check

check("8.3", table_gradient)

# %% [markdown] tags=["ex-8.4"]
# ## 8.4 Which tokens open the gate?
#
# `model` is a GPT of the course with value embeddings, idx (B, T) are token ids. Measure the gate of one layer and head at every
# place, and average it for each token. Return a dict: token -> mean gate, for the tokens that occur in idx.
#
# The gate is `model.config.ve_gate_scale` times the sigmoid of what the module `model.blocks[layer].attn.ve_gate` returns, a
# tensor (B, T, H). Its input is deep inside the model, so do not compute it again: register a forward hook on this module, run the
# model, and remove the hook. The lesson does it.
#
# A tiny example: all weights of the gates are 0 in a new model. Then every token has sigmoid(0) times the scale, 1.
#
# <details><summary>Help: the wrong number of places</summary>
#
# The hook gets the output of the whole batch, (B, T, H). Take one head, and flatten it as you flatten idx.
# </details>
# <details><summary>Help: the check says that a hook is left</summary>
#
# `hook = module.register_forward_hook(f)` returns a handle. Call `hook.remove()`, also if the model stops with an error: use `try` and
# `finally`.
# </details>
#
# The picture shows sixteen common tokens in the last layer of a toy model after 40 steps, first head.

# %% tags=["answer", "ex-8.4"]
def gate_by_token(model, idx, layer, head):
    """A GPT, idx (B, T), numbers of a layer with a table and a head -> {token: mean gate}."""
    ### BEGIN SOLUTION
    found = []
    hook = model.blocks[layer].attn.ve_gate.register_forward_hook(lambda m, i, out: found.append(out))
    try:
        with torch.no_grad():
            model(idx)
    finally:
        hook.remove()
    gates, tokens = model.config.ve_gate_scale * found[0][..., head].flatten().sigmoid(), idx.flatten()
    return {t.item(): gates[tokens == t].mean().item() for t in tokens.unique()}
    ### END SOLUTION


# %% tags=["check", "ex-8.4"]
from gpt2course.course.checks import check

check("8.4", gate_by_token)

# %% tags=["picture", "ex-8.4"]
from gpt2course.batches import Batches
from gpt2course.course import lab
from gpt2course.data import load_corpus

tok, toy = lab.tokenizer(), lab.train("jan29", steps=40)["model"]
text = torch.from_numpy(Batches(load_corpus("embedded").val, tok, 128).next_rows(20))[:, :-1]
common = text.flatten().bincount(minlength=tok.vocab_size).topk(16).indices.tolist()


def draw(f):
    gate = f(toy, text, 1, 0)
    return figures.gates({repr(tok.decode([t])): (gate[t],) * 3 for t in sorted(common, key=gate.get)})


pictures("8.4", draw, gate_by_token)

# %% [markdown] tags=["ex-8.5"]
# ## 8.5 Tables on several GPUs
#
# A model has `n_layer` layers with a table in every second one, counted back from the last; each table is `vocab` x `width` numbers
# of `size` bytes. `ranks` GPUs train it. Each keeps the whole tables and the whole gradient. Adam's two running means are
# divided: each GPU keeps them for its part, 1 / ranks of the numbers, in the same `size`.
#
# Return three numbers of bytes for one GPU:
#
# 1. what it keeps: tables, gradient, and its part of the two means;
# 2. what Adam moves in its memory in one step, for its part: it reads the number, its gradient and two means, and writes
#    the number and two means;
# 3. what it sends to the others in one step. Gradients are summed and divided around a ring (reduce-scatter), then the new
#    numbers are collected around it (all-gather). In each of the two a GPU sends (ranks - 1) / ranks of all the bytes.
#
# A tiny example: 2 layers (one table), vocab 10, width 4, 2 bytes, 2 ranks: the table has 80 bytes. It keeps 80 + 80 + 2 · 40 = 240,
# moves 7 · 40 = 280, and sends 2 · 40 = 80.
#
# Then take depth 24 of `jan29`: vocab 32,768, width 1,536, 2 bytes, 8 ranks. How much more would it be in float32?
#
# <details><summary>Help: an odd number of layers</summary>
#
# The last layer always has a table. Five layers have three.
# </details>

# %% tags=["answer", "ex-8.5"]
def tables_cost(n_layer, vocab, width, ranks, size=2):
    """-> bytes kept, bytes that Adam moves in a step, bytes sent in a step, of one GPU."""
    ### BEGIN SOLUTION
    tables = (n_layer + 1) // 2
    whole = tables * vocab * width * size
    return 2 * whole + 2 * whole / ranks, 7 * whole / ranks, 2 * whole * (ranks - 1) / ranks
    ### END SOLUTION


# %% tags=["check", "ex-8.5"]
from gpt2course.course.checks import check

check("8.5", tables_cost)
