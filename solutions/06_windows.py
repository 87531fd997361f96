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
# # Exercises 06: Windows
#
# Five uses of what the lesson built: tiles of any shape, the backward pass of FlashAttention, two halves of a softmax
# joined, the window of a function that you cannot see into, and the memory of a cache. Replace each
# `raise NotImplementedError` by your answer and run the check below it. The lesson is [06 Windows](../lessons/06_windows.ipynb).
#
# Only answers in work/ are graded: `make start EX=06` puts your copy of this notebook there, `make grade EX=06` grades it.
# Until you run a check, it shows the line that a right answer prints.

# %% tags=["setup"]
import math

import torch

from gpt2course.course.checks import pictures
from gpt2course.course.figures import windows as figures

# %% [markdown] tags=["ex-6.1"]
# ## 6.1 Which tiles are worth computing?
#
# A kernel for GPUs takes tiles of `rows` queries by `columns` keys, which need not be equal, and a window (left, right):
# query i sees the keys from i - left to i + right. -1 stands for all tokens of that side. Positions are 0 to T - 1; the
# last tile of queries or keys may be smaller.
#
# Return a list for each tile of queries, which has for each tile of keys 0 if none of its scores is visible, 1 if some
# are, 2 if all are. A kernel skips the 0s, and needs no mask in the 2s.
#
# A tiny example: T 4, window (1, 0) and tiles of 2 x 2 give [[1, 0], [1, 1]].
#
# <details><summary>Help: how do I know without looking at every score?</summary>
#
# You may look at every score. Or look at distances: in a tile with queries a to b and keys c to d, the distance query - key
# goes from a - d to b - c, and takes every value between them.
# </details>
# <details><summary>Help: only the last rows are wrong</summary>
#
# The last tile ends at T, not at a multiple of its size.
# </details>
#
# The picture shows the tiles of a window of 40 back and 8 ahead. Dark tiles need no mask.

# %% tags=["answer", "ex-6.1"]
def tile_kinds(T, window, rows, columns):
    """T tokens, window (left, right), tiles of rows queries x columns keys -> list of lists of 0, 1, 2."""
    ### BEGIN SOLUTION
    left, right = (T if side < 0 else side for side in window)
    kinds = []
    for a in range(0, T, rows):
        b, kinds = min(a + rows, T) - 1, [*kinds, []]
        for c in range(0, T, columns):
            d = min(c + columns, T) - 1
            low, high = a - d, b - c  # distances query - key in this tile
            some = low <= left and high >= -right
            every = high <= left and low >= -right
            kinds[-1].append(2 if every else 1 if some else 0)
    return kinds
    ### END SOLUTION


# %% tags=["check", "ex-6.1"]
from gpt2course.course.checks import check

check("6.1", tile_kinds)

# %% tags=["picture", "ex-6.1"]
def draw(f):
    return figures.tiles([list(map(int, row)) for row in f(128, (40, 8), 8, 4)])


pictures("6.1", draw, tile_kinds)

# %% [markdown] tags=["ex-6.2"]
# ## 6.2 FlashAttention's backward
#
# One head: q, k, v (T, D), the output y (T, D), the log-sum-exp `lse` (T,) of each row of scores, and dy (T, D), the gradient
# of the loss by y. Return the gradients dq, dk and dv, without autograd. The window is (left, 0); left < 0 is the whole past.
#
# 1. The weights come back: w = exp(s - lse) with the scores s = q kᵀ / √D, and 0 where the mask hides.
# 2. y = w v gives dv = wᵀ dy, and the gradient by the weights is dw = dy vᵀ.
# 3. A softmax turns dw into the gradient by the scores, w · (dw - delta). Here delta (T, 1) is the sum of w · dw over a row.
#    It equals the sum of dy · y over the channels, so the kernel needs no second pass over the row.
# 4. s = q kᵀ / √D passes it on to q and k.
#
# You may compute whole T x T matrices. A kernel does the same tile by tile, since every line is a sum over tiles.
#
# A tiny example: with T = 1 the only weight is 1 whatever q and k are. So dq = dk = 0 and dv = dy.
#
# <details><summary>Help: dv is right, dq and dk are not</summary>
#
# Raising one weight lowers the others of its row, since they sum to 1. That is what delta subtracts.
# </details>
# <details><summary>Help: NaN or infinity with large scores</summary>
#
# exp(s) overflows, exp(s - lse) cannot: no weight is above 1. Set hidden places to 0 after that, or s to -inf before.
# </details>

# %% tags=["answer", "ex-6.2"]
def flash_backward(q, k, v, y, lse, dy, left):
    """q, k, v, y, dy (T, D), lse (T,), left a number -> dq, dk, dv (T, D)."""
    ### BEGIN SOLUTION
    T, D = q.shape
    distance = torch.arange(T)[:, None] - torch.arange(T)
    hidden = (distance < 0) | ((distance > left) & (left >= 0))
    s = (q @ k.T / math.sqrt(D)).masked_fill(hidden, -math.inf)  # (T, T)
    w = (s - lse[:, None]).exp()
    delta = (dy * y).sum(-1, keepdim=True)  # (T, 1)
    ds = w * (dy @ v.T - delta) / math.sqrt(D)
    return ds @ k, ds.T @ q, w.T @ dy
    ### END SOLUTION


# %% tags=["check", "ex-6.2"]
from gpt2course.course.checks import check

check("6.2", flash_backward)

# %% [markdown] tags=["ex-6.3"]
# ## 6.3 Two halves of a softmax
#
# With one query and a long text, a GPU would leave most of its cores idle. So one core computes attention over the first half
# of the keys, another over the second half, and the results are joined. Each half gives y (T, D), normalised by its own
# sum, and its log-sum-exp lse (T,). Return y and lse of both halves together.
#
# A half in which a query sees no key has lse -inf and y 0 there. At least one half sees something.
#
# A tiny example: y 1 with lse log 1, and y 5 with lse log 3. The sums are 1 and 3, so the joined y is
# (1 · 1 + 3 · 5) / 4 = 4, and the joined lse is log 4.
#
# <details><summary>Help: NaN or infinity</summary>
#
# exp(lse) overflows from 89 on. Subtract the larger of the two first, as the running maximum does. An lse of -inf then becomes
# exp(-inf) = 0, as it should.
# </details>

# %% tags=["answer", "ex-6.3"]
def join(y1, lse1, y2, lse2):
    """y1, y2 (T, D) and lse1, lse2 (T,) -> y (T, D), lse (T,)."""
    ### BEGIN SOLUTION
    top = torch.maximum(lse1, lse2)
    sum1, sum2 = (lse1 - top).exp()[:, None], (lse2 - top).exp()[:, None]  # (T, 1)
    total = sum1 + sum2
    return (sum1 * y1 + sum2 * y2) / total, top + total[:, 0].log()
    ### END SOLUTION


# %% tags=["check", "ex-6.3"]
from gpt2course.course.checks import check

check("6.3", join)

# %% [markdown] tags=["ex-6.4"]
# ## 6.4 Measure a window from outside
#
# You are given an attention function f(q, k, v) of tensors (B, T, H, D), and nothing else. Its documentation may be wrong: a
# window that is off by one raises no error. Measure it. Call f on inputs of your choice, with T tokens, and return (left,
# right): every query i sees exactly the keys from i - left to i + right. Return -1 for a side of which all tokens are seen.
#
# A tiny example: a function that returns v itself has the window (0, 0).
#
# <details><summary>Help: which inputs?</summary>
#
# Change one value v_j and see which outputs change. Or choose q, k and v such that the output *is* the matrix of
# weights: equal scores make every visible key count alike.
# </details>
# <details><summary>Help: left is right, right comes out as 0</summary>
#
# The last query has no later tokens. Take the largest distance over all queries.
# </details>

# %% tags=["answer", "ex-6.4"]
def find_window(f, T):
    """f(q, k, v) -> (B, T, H, D), T a number -> (left, right)."""
    ### BEGIN SOLUTION
    zero, eye = torch.zeros(1, T, 1, T), torch.eye(T)[None, :, None]
    weights = f(zero, zero, eye)[0, :, 0]  # (T, T)
    i, j = weights.nonzero(as_tuple=True)
    sides = (i - j).max().item(), (j - i).max().item()
    return tuple(-1 if side == T - 1 else side for side in sides)
    ### END SOLUTION


# %% tags=["check", "ex-6.4"]
from gpt2course.course.checks import check

check("6.4", find_window)

# %% [markdown] tags=["ex-6.5"]
# ## 6.5 The memory of a cache
#
# A model that writes keeps the keys and values of the T tokens so far, in every layer (lesson 13). Each is a vector of
# `head_dim` numbers for each of `n_kv_head` heads. A long layer keeps all T tokens; a short layer keeps its last `short`
# ones. `pattern` gives the layers' letters, S or L, and repeats; the last layer is long whatever the pattern says. Return the
# bytes of the cache for one text.
#
# A tiny example: 2 layers with the pattern "S", short 4, 10 tokens, 1 head of 8 numbers in 2 bytes. The layers keep 4 and
# 10 tokens, so 14 · 2 · 1 · 8 · 2 = 448 bytes.
#
# Then look at depth 24 with 12 heads of 128 at 2,048 tokens: "L" against "SSSL" with `short` 1,024.
#
# <details><summary>Help: half of what is expected</summary>
#
# Keys and values.
# </details>

# %% tags=["answer", "ex-6.5"]
def cache_bytes(T, n_layer, pattern, short, n_kv_head, head_dim, number_bytes=2):
    """Sizes as numbers, pattern a text such as "SSSL" -> bytes, a number."""
    ### BEGIN SOLUTION
    tokens = 0
    for layer in range(n_layer):
        long = layer == n_layer - 1 or pattern[layer % len(pattern)] == "L"
        tokens += T if long else min(T, short)
    return tokens * 2 * n_kv_head * head_dim * number_bytes
    ### END SOLUTION


# %% tags=["check", "ex-6.5"]
from gpt2course.course.checks import check

check("6.5", cache_bytes)
